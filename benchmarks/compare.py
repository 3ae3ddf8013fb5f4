"""Alternate two benchmark commands, A B A B ..., and print the ratio of their CPU seconds, with its spread.

    python benchmarks/compare.py --runs 5 --json ratio.json -- CMD_A ... --- CMD_B ...

Each command prints a JSON line with `cpu_seconds_per_step` as its last one. Alternating in one run is what
makes a ratio hold on a machine whose speed drifts.
"""

import argparse
import json
import statistics
import subprocess
import sys


def last_json(command: list[str]) -> dict[str, float]:
    """Run a command and read its last line of JSON."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{said}")
    found: dict[str, float] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--key", default="cpu_seconds_per_step")
    parser.add_argument("--json", help="append the result to this file")
    parser.add_argument("commands", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    words = args.commands[1:] if args.commands[:1] == ["--"] else args.commands
    if "---" not in words:
        parser.error("two commands are needed, separated by ---")
    cut = words.index("---")
    first, second = words[:cut], words[cut + 1 :]
    pairs = []
    for run in range(args.runs):
        a, b = last_json(first)[args.key], last_json(second)[args.key]
        pairs.append((a, b))
        print(f"run {run + 1}: A {a:.4f}  B {b:.4f}  A/B {a / b:.3f}", file=sys.stderr)
    ratios = [a / b for a, b in pairs]
    result = {
        "key": args.key,
        "a": first,
        "b": second,
        "a_median": statistics.median(a for a, _ in pairs),
        "b_median": statistics.median(b for _, b in pairs),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "runs": args.runs,
    }
    print(json.dumps(result))
    if args.json:
        with open(args.json, "a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
