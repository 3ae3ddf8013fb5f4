"""When does kl_prcp hacking set in, does the collapse guard see it in time, and what saves the run?

    python benchmarks/guard_study.py run --out runs/guard --seeds 3 [--jobs 1] [--small DIR] [--arms NAME ...]
    python benchmarks/guard_study.py read --out runs/guard [--table FILE.md] [--figure docs/images/guard.png]

`run` trains every arm with every seed, one thread a run, and goes on where it was stopped: a run that is done
is left alone, another is resumed. `read` needs no training: it takes the `metrics.jsonl` of whatever is
there, feeds the steps to the guard again (so thresholds can be changed with `--guard threshold=2.5`), and
writes `result.json`. `--small` is the folder that `foveal worlds coldstart --size small` wrote.

Accuracy lost: the best mean of three validations in a row so far, minus the mean of the last three. A run
fell when it lost 5 points; an alarm is in time when it comes no later than the validation at which that
shows. A run is healthy when it never lost 5 points and nothing was done against a collapse. The guard reads
the same validations (from 4 points on), so its other signs are also counted alone.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveal.collapse import GuardConfig, Memory, observe, observe_validation
from foveal.signs import VALIDATION

ROOT = Path(__file__).resolve().parents[1]
STEPS = 140
EVERY = 4
"""Steps between two validations."""
PROBLEMS = 192
"""Problems of a validation."""
SMOOTH = 3
LOST = 0.05
REMEDIES = ("lower", "rollback", "entropy")

COMMON = (
    f"steps={STEPS}",
    "threads=1",
    "optimizer.lr=1e-4",
    "optimizer.mini_batches=2",
    f"validation.every={EVERY}",
    f"validation.problems={PROBLEMS}",
    'validation.data={type = "world", split = "heldout", noise = 4.0, haze = 0.55, '
    "families = {counting = 1.0, relations = 2.0}}",
    "record.groups=1",
    "record.token_groups=0",
    "checkpoint.every=10",
)


@dataclass(frozen=True)
class Arm:
    """One setting: gamma, mask ratio, reference KL, model, gradient in the removed view, and the remedy."""

    gamma: float
    ratio: float = 0.6
    reference: bool = False
    model: str = "tiny"
    remedy: str = "none"
    scored: bool = False
    """The removed view is scored without gradient, as in the official runs."""

    @property
    def name(self) -> str:
        parts = [self.model, f"g{self.gamma:g}", f"m{self.ratio:g}", "kl" if self.reference else "nokl"]
        parts += [self.remedy] if self.remedy != "none" else []
        return "-".join([*parts, "scored"] if self.scored else parts)

    def overrides(self, small: Path | None) -> list[str]:
        found = [
            *COMMON,
            f"objective.kl_prcp_coef={self.gamma}",
            f"objective.removed_gradient={str(not self.scored).lower()}",
            f"perturbations.removed.ratio={self.ratio}",
            f"guard.action={self.remedy if self.remedy in ('lower', 'rollback') else 'warn'}",
        ]
        if self.reference:
            found.append("objective.base.kl_coef=0.01")
        if self.remedy == "entropy":
            found += ["objective.entropy_coef=0.03", "objective.removed_entropy_coef=0.03"]
        if self.model == "small":
            if small is None:
                raise SystemExit("--small: give the folder that `foveal worlds coldstart --size small` wrote")
            found.append(f"model.path={small.resolve()}")
        return found


def arms() -> list[Arm]:
    """gamma by size; mask ratio and reference KL at the gamma at which the tiny model collapses; remedies."""
    gammas = (0.0, 0.01, 0.02, 0.05, 0.1)
    found = [Arm(gamma, model=model) for model in ("tiny", "small") for gamma in gammas]
    found += [Arm(gamma, scored=True) for gamma in (0.01, 0.02, 0.05)]
    for model in ("tiny", "small"):
        found += [Arm(0.05, ratio=ratio, model=model) for ratio in (0.8, 1.0)]
        found += [Arm(0.05, ratio=ratio, reference=True, model=model) for ratio in (0.6, 0.8, 1.0)]
        found += [Arm(0.05, remedy=remedy, model=model) for remedy in REMEDIES]
    found += [Arm(0.1, remedy=remedy) for remedy in REMEDIES]
    return found


def train(arm: Arm, seed: int, out: Path, small: Path | None) -> None:
    """Start or resume one run; its log lies beside it."""
    folder = out / f"{arm.name}-s{seed}"
    if (folder / "summary.json").is_file():
        return
    start = [str(ROOT / "configs" / "quickstart_papo.toml"), "--out", str(folder), f"seed={seed}"]
    words = ["--resume", str(folder)] if (folder / "config.toml").is_file() else start + arm.overrides(small)
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{folder.name}.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "foveal.cli", "train", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(f"{folder.name}: {'done' if done.returncode == 0 else f'status {done.returncode}'}", flush=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().split(b"\n") if line]


def replay(
    lines: list[dict[str, Any]], config: GuardConfig, *, validations: bool = True
) -> list[dict[str, Any]]:
    """The alarms of a recorded run under these settings, with or without those of its validations."""
    memory, found = Memory(), []
    for line in lines:
        step = line["step"]
        if line["kind"] == "step":
            verdict = observe(memory, step, line, config)
        elif line["kind"] == "validation" and validations:
            accuracy = line[VALIDATION.metrics[0]]
            verdict = observe_validation(memory, step, accuracy, answers=PROBLEMS, config=config)
        else:
            continue
        if verdict.alarm:
            found.append({"step": step, "signs": list(verdict.signs), "onset": verdict.onset})
    return found


def losses(lines: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, accuracy lost so far), smoothed over the last three validations."""
    points = [(line["step"], line["validation/accuracy"]) for line in lines if line["kind"] == "validation"]
    found, best = [], 0.0
    for place in range(SMOOTH - 1, len(points)):
        mean = sum(value for _, value in points[place - SMOOTH + 1 : place + 1]) / SMOOTH
        best = max(best, mean)
        found.append((points[place][0], best - mean))
    return found


def study(folder: Path, config: GuardConfig) -> dict[str, Any]:
    """What one run did and when the guard spoke."""
    lines = rows(folder)
    lost, alarms = losses(lines), replay(lines, config)
    fell = next((step for step, loss in lost if loss >= LOST), None)
    accuracies = [line["validation/accuracy"] for line in lines if line["kind"] == "validation"]
    return {
        "steps": max((line["step"] for line in lines if line["kind"] == "step"), default=0),
        "fell_step": fell,
        "lost_at_worst": round(max((loss for _, loss in lost), default=0.0), 4),
        "lost_at_end": round(lost[-1][1], 4) if lost else None,
        "accuracy_at_end": accuracies[-1] if accuracies else None,
        "alarms": alarms,
        "delay": _delay(alarms, fell),
        "delay_of_signs": _delay(replay(lines, config, validations=False), fell),
        "acts": [line for line in lines if line["kind"] == "guard" and line["act"] != "warn"],
    }


def _delay(alarms: list[dict[str, Any]], fell: int | None) -> int | None:
    """Steps from the fall to the first alarm; None without one of the two."""
    return alarms[0]["step"] - fell if fell is not None and alarms else None


Runs = dict[str, dict[int, dict[str, Any]]]


def tables(found: Runs, chosen: list[Arm]) -> str:
    """Two Markdown tables: what was seen, and what remedies saved."""
    seen, saved = (
        {arm.name: list(found[arm.name].values()) for arm in chosen if arm.name in found and wanted(arm)}
        for wanted in (lambda arm: arm.remedy == "none", lambda arm: arm.remedy != "none")
    )
    lines = [
        "| run | seeds | lost 5 points | steps from there to the first alarm (below 0: before) | "
        "the same without validation | points lost at worst | alarms in healthy runs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in seen.items():
        fallen = [run for run in runs if run["fell_step"] is not None]
        healthy = [run for run in runs if run["fell_step"] is None]
        delays, alone = (
            ", ".join("no alarm" if run[key] is None else f"{run[key]:+d}" for run in fallen) or "–"
            for key in ("delay", "delay_of_signs")
        )
        wrong = sum(len(run["alarms"]) for run in healthy)
        counted = f"{wrong} in {sum(run['steps'] for run in healthy)} steps" if healthy else "–"
        worst = ", ".join(f"{100 * run['lost_at_worst']:.0f}" for run in runs)
        lines.append(
            f"| {name} | {len(runs)} | {len(fallen)} of {len(runs)} | {delays} | {alone} | {worst} "
            f"| {counted} |"
        )
    lines += [
        "",
        "| run | seeds | points lost at worst | points lost at the end | accuracy at the end | acts |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in saved.items():
        worst, end, right = (
            ", ".join(f"{100 * run[key]:.0f}" for run in runs)
            for key in ("lost_at_worst", "lost_at_end", "accuracy_at_end")
        )
        acts = ", ".join(str(len(run["acts"])) for run in runs)
        lines.append(f"| {name} | {len(runs)} | {worst} | {end} | {right} % | {acts} |")
    return "\n".join(lines) + "\n"


def draw(out: Path, found: Runs, file: Path) -> None:
    """Validation accuracy and kl_prcp of every arm with its first alarm, two arms a row."""
    from matplotlib.figure import Figure

    rows_drawn = -(-len(found) // 2)
    figure = Figure(figsize=(13, 1.45 * rows_drawn), layout="constrained")
    axes = figure.subplots(rows_drawn, 4, squeeze=False, sharex=True)
    for unused in axes.ravel()[2 * len(found) :]:
        unused.set_axis_off()
    for place, (name, runs) in enumerate(found.items()):
        pair = axes.ravel()[2 * place : 2 * place + 2]
        for seed, run in runs.items():
            lines = rows(out / f"{name}-s{seed}")
            for axis, metric in zip(pair, ("validation/accuracy", "kl_prcp/mean"), strict=True):
                points = [(x["step"], x[metric]) for x in lines if x.get(metric) is not None]
                if not points:
                    continue
                (curve,) = axis.plot(*zip(*points, strict=True), linewidth=1)
                for alarm in run["alarms"][:1]:
                    axis.axvline(alarm["step"], color=curve.get_color(), linewidth=1, linestyle="--")
        pair[0].set_ylim(0, 1)
        pair[0].set_title(f"{name}: accuracy", fontsize=8, loc="left")
        if pair[1].lines:
            pair[1].set_title("kl_prcp, nats", fontsize=8, loc="left")
        else:
            pair[1].set_axis_off()
        for axis in pair:
            axis.tick_params(labelsize=7, labelbottom=True)
    figure.supxlabel("step; dashed: the guard's first alarm", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("run", "read"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--small", type=Path, help="folder of the larger model")
    parser.add_argument("--arms", nargs="*", help="names of arms; default: all")
    parser.add_argument("--guard", nargs="*", default=[], metavar="field=value", help="settings to read with")
    parser.add_argument("--table", type=Path, help="write the Markdown tables here")
    parser.add_argument("--figure", type=Path, help="draw the curves here")
    args = parser.parse_args()
    chosen = [arm for arm in arms() if not args.arms or arm.name in args.arms]
    if not chosen:
        parser.error(f"--arms: known are {', '.join(arm.name for arm in arms())}")
    if args.part == "run":
        jobs = [(arm, seed) for seed in range(args.seeds) for arm in chosen]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: train(job[0], job[1], args.out, args.small), jobs))
    config = GuardConfig.model_validate(dict(word.split("=", 1) for word in args.guard))
    found: Runs = {}
    for arm in chosen:
        for seed in range(args.seeds):
            folder = args.out / f"{arm.name}-s{seed}"
            if (folder / "summary.json").is_file():
                found.setdefault(arm.name, {})[seed] = study(folder, config)
    result = {"guard": config.model_dump(), "arms": {a.name: asdict(a) for a in chosen}, "runs": found}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1))
    text = tables(found, chosen)
    print(text)
    if args.table:
        args.table.write_text(text)
    if args.figure and found:
        draw(args.out, found, args.figure)


if __name__ == "__main__":
    main()
