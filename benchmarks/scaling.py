"""How a step's cost grows: one setting of `step_cost.py` varied, and a straight line through what it cost.

    python benchmarks/scaling.py --vary prompts --values 1 2 4 8 -- --checkpoint DIR --response 64
    python benchmarks/scaling.py --vary response --values 16 64 256 -- --checkpoint DIR --prompts 1
    python benchmarks/scaling.py --vary micro-batch-tokens --values 500 1000 -- --checkpoint DIR --prompts 8

Each run is a process of its own, so that its peak of memory is its own. Runs go up and down through the
values (`--rounds`), and a value's numbers are medians over its runs. Cost is fitted as a + b x by least
squares; R^2 is the share of its variance that the line explains. With `--vary response` and with
`micro-batch-tokens`, memory is what grows.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import given
import lines
from compare import last_line

COLUMNS = {
    "cpu_seconds_per_step": "CPU s a step",
    "peak_rss_mib": "peak RSS, MiB",
    "lm_positions": "LM positions a step",
}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vary",
        required=True,
        choices=("prompts", "response", "visual-tokens", "group", "micro-batch-tokens"),
    )
    parser.add_argument("--values", type=given.count, nargs="+", required=True)
    parser.add_argument("--rounds", type=given.count, default=1)
    parser.add_argument("--json", type=given.file, help="append the result to this file")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="arguments of step_cost.py")
    found = parser.parse_args(words)
    found.rest = found.rest[1:] if found.rest[:1] == ["--"] else found.rest
    if len(set(found.values)) < 2:
        parser.error(f"--values are {found.values}; expected at least two different ones")
    return found


def line_through(x: list[float], y: list[float]) -> dict[str, float]:
    """Least squares y = a + b x, and the share of the variance that it explains (1 where y is constant)."""
    slope, start = statistics.linear_regression(x, y)
    middle = statistics.fmean(y)
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    whole = sum((b - middle) ** 2 for b in y)
    return {"a": start, "b": slope, "r2": 1 - left / whole if whole else 1.0}


def run(value: int, args: argparse.Namespace) -> dict[str, float]:
    """One process of step_cost.py."""
    script = str(Path(__file__).with_name("step_cost.py"))
    line: dict[str, Any] = last_line([sys.executable, script, f"--{args.vary}", str(value), *args.rest])
    line["lm_positions"] = sum(n for name, n in line["counts"].items() if name.startswith("lm_positions/"))
    return {name: float(line[name]) for name in COLUMNS}


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    found: dict[int, list[dict[str, float]]] = {value: [] for value in args.values}
    for turn in range(args.rounds):
        for value in args.values if turn % 2 == 0 else args.values[::-1]:
            found[value].append(run(value, args))
    values = sorted(found)
    rows = {v: {name: statistics.median(r[name] for r in found[v]) for name in COLUMNS} for v in values}
    print(f"| {args.vary} | " + " | ".join(COLUMNS.values()) + " |", file=sys.stderr)
    print("|---|" + "---|" * len(COLUMNS), file=sys.stderr)
    for value in values:
        print(f"| {value} | " + " | ".join(f"{rows[value][n]:.4g}" for n in COLUMNS) + " |", file=sys.stderr)
    fits = {n: line_through([float(v) for v in values], [rows[v][n] for v in values]) for n in COLUMNS}
    result = {"vary": args.vary, "rows": rows, "fits": fits, "rounds": args.rounds, "arguments": args.rest}
    lines.end(result, args.json)


if __name__ == "__main__":
    main()
