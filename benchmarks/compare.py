"""Alternate two benchmark commands, A B A B ..., and print the ratio of their CPU seconds, with its spread.

    python benchmarks/compare.py --runs 5 --bar 0.42 --json ratio.json -- CMD_A ... --- CMD_B ...

Each command prints a JSON line with `cpu_seconds_per_step` (or `--key`) as its last one. A ratio is that of
two neighbouring runs: alternating is what makes it hold on a machine whose speed drifts. The median of the
ratios is printed with an interval of order statistics (for 5 runs the least and the largest, which hold the
true median in 94 of 100 cases), and with `--bar` whether it is met: at most the bar, or within 10 % above it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import lines
from spread import spread, verdict


def last_line(command: list[str]) -> dict[str, Any]:
    """Run a command and read its last line of JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode} and no JSON line\n{said}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def cost(command: list[str], key: str) -> float:
    """A number of a command's line."""
    line = last_line(command)
    if not isinstance(line.get(key), int | float) or line[key] <= 0:
        raise SystemExit(f"{' '.join(command)} printed {key} = {line.get(key)!r}; expected a number above 0")
    return float(line[key])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--key", default="cpu_seconds_per_step")
    parser.add_argument("--bar", type=float, help="largest share of B that A may cost")
    parser.add_argument("--json", help="append the result to this file")
    parser.add_argument("commands", nargs=argparse.REMAINDER)
    found = parser.parse_args(words)
    if found.runs < 1:
        parser.error(f"--runs is {found.runs}; expected at least 1")
    commands = found.commands[1:] if found.commands[:1] == ["--"] else found.commands
    if "---" not in commands:
        parser.error("two commands are needed, separated by ---")
    cut = commands.index("---")
    found.first, found.second = commands[:cut], commands[cut + 1 :]
    return found


def result(pairs: list[tuple[float, float]], args: argparse.Namespace) -> dict[str, Any]:
    """The ratio of the pairs, its interval and what it says of the bar."""
    found = spread([a / b for a, b in pairs])
    line: dict[str, Any] = {
        "key": args.key,
        "a": args.first,
        "b": args.second,
        "a_median": statistics.median(a for a, _ in pairs),
        "b_median": statistics.median(b for _, b in pairs),
        "ratio_median": round(found.median, 4),
        "ratio_low": round(found.low, 4),
        "ratio_high": round(found.high, 4),
        "interval": f"order statistics; holds the true median with a chance of {found.chance:.3f}",
        "runs": found.runs,
    }
    if args.bar is not None:
        line |= {"bar": args.bar, "verdict": verdict(found, args.bar)}
    return line


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    pairs = []
    for run in range(args.runs):
        a, b = cost(args.first, args.key), cost(args.second, args.key)
        pairs.append((a, b))
        print(f"run {run + 1}: A {a:.4f}  B {b:.4f}  A/B {a / b:.3f}", file=sys.stderr, flush=True)
    lines.end(result(pairs, args), args.json)


if __name__ == "__main__":
    main()
