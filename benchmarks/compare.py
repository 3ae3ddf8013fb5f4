"""Alternate benchmark commands, A B A B ..., and print the ratio of their CPU seconds, with its spread.

    python benchmarks/compare.py --runs 5 --bar 0.42 --json ratio.json -- CMD ... --- PEER ...
    python benchmarks/compare.py --runs 5 --bar 0.42 0.33 -- CMD_1 ... --- CMD_2 ... --- PEER ...

Each command prints a JSON line with `cpu_seconds_per_step` (or `--key`) as its last one; each but the last is
held against the last, the peer. A ratio is that of runs of one round: alternating is what makes it hold on a
machine whose speed drifts. The median of the ratios is printed with an interval of order statistics (for 5
runs the least and the largest, which hold the true median in 94 of 100 cases), and with `--bar`, one a
command, whether it is met: at most the bar, or within 10 % above it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import given
import lines
from spread import spread, verdict


def last_line(command: list[str]) -> dict[str, Any]:
    """Run a command and read its last line of JSON."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{' '.join(command)} cannot be run: {error}") from error
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
    parser.add_argument("--runs", type=given.count, default=5)
    parser.add_argument("--key", default="cpu_seconds_per_step")
    parser.add_argument(
        "--bar",
        type=float,
        nargs="+",
        default=[],
        help="largest share of the peer that each command may cost",
    )
    parser.add_argument("--json", type=given.file, help="append the result to this file")
    parser.add_argument("commands", nargs=argparse.REMAINDER)
    found = parser.parse_args(words)
    if found.runs < 1:
        parser.error(f"--runs is {found.runs}; expected at least 1")
    *found.ours, found.peer = _split(found.commands[1:] if found.commands[:1] == ["--"] else found.commands)
    if not found.ours or not all(found.ours) or not found.peer:
        parser.error("two commands at least are needed, separated by ---")
    if found.bar and len(found.bar) != len(found.ours):
        parser.error(f"--bar has {len(found.bar)} numbers; expected {len(found.ours)}, one a command")
    return found


def _split(words: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "---":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def result(rounds: list[list[float]], args: argparse.Namespace) -> dict[str, Any]:
    """The ratio of each command to the peer, its interval and what it says of its bar; the peer is last in a
    round."""
    *ours, peer = zip(*rounds, strict=True)
    found = []
    for place, (command, costs) in enumerate(zip(args.ours, ours, strict=True)):
        ratios = spread([a / b for a, b in zip(costs, peer, strict=True)])
        row: dict[str, Any] = {
            "command": command,
            "median": statistics.median(costs),
            "ratio_median": round(ratios.median, 4),
            "ratio_low": round(ratios.low, 4),
            "ratio_high": round(ratios.high, 4),
        }
        if args.bar:
            row |= {"bar": args.bar[place], "verdict": verdict(ratios, args.bar[place])}
        found.append(row)
    return {
        "key": args.key,
        "commands": found,
        "peer": {"command": args.peer, "median": statistics.median(peer)},
        "interval": f"order statistics; holds the true median with a chance of {ratios.chance:.3f}",
        "runs": ratios.runs,
    }


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    rounds = []
    for run in range(args.runs):
        rounds.append([cost(command, args.key) for command in (*args.ours, args.peer)])
        *ours, peer = rounds[-1]
        told = "  ".join(f"{a:.4f} = {a / peer:.3f} x {peer:.4f}" for a in ours)
        print(f"run {run + 1}: {told}", file=sys.stderr, flush=True)
    lines.end(result(rounds, args), args.json)


if __name__ == "__main__":
    main()
