"""Does a method keep a policy from answering by a word instead of the picture?

    python benchmarks/shortcut_study.py run --out runs/shortcut_study [--stages haze weights final] [--jobs 2]
    python benchmarks/shortcut_study.py read --out runs/shortcut_study [--result FILE.json]

The world is that of the configs `shortcut_*`: counting and relations behind haze, from the checkpoint with a
text prior; in training a word of the question tells the answer in four problems of five. A run *fell* when it
is right in fewer than half of the held-out problems whose word is wrong.

Three stages, each with seeds of its own, so that nothing reported was also used to choose:

1. `haze`: the smallest haze, on a grid of 0.01, at which GRPO falls in at least 7 of 8 seeds. A haze is
   refused as soon as two seeds have not fallen, and accepted with the seventh that has.
2. `weights`: four weights of PAPO's and of CPPO's term, the published one and 3, 10 and 30 times it, three
   seeds each, and three more for weights that tie for the fewest falls. The best has the fewest falls, then
   the highest mean accuracy with the word wrong.
3. `final`: GRPO, PAPO and CPPO at their best and at their published weights, and two controls: a placebo
   (PAPO's best weight, but the "removed" view is a small rotation, which hides nothing), and GRPO with a KL
   to the start. Eight seeds each; the same seed has the same training problems in every arm.

A run that is done is left alone, another goes on where it was stopped.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from foveal.evaluation.stats import exact_share
from foveal.jobs.pool import run_jobs
from foveal.quickstart.job import StudyJob

STEPS = 60
FELL = 0.5
"""Accuracy with the word wrong below which a run fell."""

HAZES = tuple(round(0.54 + 0.01 * i, 2) for i in range(19))
START = 0.66
"""Where the search begins."""
HAZE_SEEDS = tuple(range(200, 208))
NEEDED = 7

WEIGHT_SEEDS = (100, 101, 102)
TIE_SEEDS = (103, 104, 105)
PUBLISHED = {"papo": 0.02, "cppo": 0.01}
"""arXiv:2507.06448 Table 4 and arXiv:2601.00501."""
FACTORS = (1, 3, 10, 30)
FIELDS = {"papo": "objective.kl_prcp_coef", "cppo": "objective.cpl_coef"}

FINAL_SEEDS = tuple(range(8))
KL_COEF = 0.2
PLACEBO = 'perturbations.removed={type = "rotation", fill = "background"}'

SEARCH_PROBLEMS = 200
FINAL_PROBLEMS = 400
MEASURES = (
    "accuracy_wrong",
    "accuracy_random",
    "accuracy_right",
    "follow",
    "describes",
    "accuracy_other_picture",
    "perception_error_fraction",
)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is trained: a method with its weight, or a control."""

    name: str
    method: str
    weight: float | None = None
    overrides: tuple[str, ...] = ()

    def job(self, out: Path, *, stage: str, haze: float, seed: int | None) -> StudyJob:
        """The job of one seed; without a seed the start itself is measured."""
        final = stage == "final"
        parts = [stage, self.name, f"h{haze:g}", *([f"s{seed}"] if seed is not None else [])]
        weight = () if self.weight is None else (f"{FIELDS[self.method]}={self.weight}",)
        saving = ("record.groups=0", "record.token_groups=0", f"checkpoint.every={STEPS}")
        return StudyJob(
            name="-".join(parts),
            method=self.name,
            seed=seed,
            config=f"shortcut_{self.method}",
            overrides=(f"data.haze={haze}", *weight, *self.overrides, *saving),
            steps=0 if seed is None else STEPS,
            problems=FINAL_PROBLEMS if final else SEARCH_PROBLEMS,
            folder=str(out),
            shortcut=True,
            modes=("wrong", "random", "right") if final else ("wrong",),
            looks=False,
        )


GRPO = Arm(name="grpo", method="grpo")


def weight_arms() -> list[Arm]:
    """The arms of the weight search."""
    pairs = [(method, round(PUBLISHED[method] * factor, 4)) for factor in FACTORS for method in PUBLISHED]
    return [Arm(name=f"{method}_{weight:g}", method=method, weight=weight) for method, weight in pairs]


def final_arms(best: Mapping[str, float]) -> list[Arm]:
    """The arms that are reported, those first that matter most."""
    papo = Arm(name="papo", method="papo", weight=best["papo"])
    arms = [GRPO, papo, Arm(name="cppo", method="cppo", weight=best["cppo"])]
    arms.append(Arm(name="placebo", method="papo", weight=best["papo"], overrides=(PLACEBO,)))
    arms.append(Arm(name="kl", method="grpo", overrides=(f"objective.kl_coef={KL_COEF}",)))
    for method in PUBLISHED:
        if best[method] != PUBLISHED[method]:
            arms.append(Arm(name=f"{method}_published", method=method, weight=PUBLISHED[method]))
    return arms


def rows_of(out: Path) -> list[Row]:
    """Every finished run below `out`."""
    rows = []
    for file in sorted((out / "jobs").glob("*.done.json")):
        done = json.loads(file.read_text())
        stage, name, haze = file.name.removesuffix(".done.json").split("-")[:3]
        seed = done["seed"]
        problems = FINAL_PROBLEMS if stage == "final" else SEARCH_PROBLEMS
        measured = {m: round(done[m], 4) for m in MEASURES if done.get(m) is not None}
        cost = {"cpu_seconds": done["cpu_seconds"], "steps": STEPS if seed is not None else 0}
        head = {"stage": stage, "arm": name, "haze": float(haze.removeprefix("h")), "seed": seed}
        rows.append({**head, **measured, **cost, "problems": problems})
    return rows


def fell(row: Mapping[str, Any]) -> bool:
    """Whether a run answers by the word."""
    return bool(row["accuracy_wrong"] < FELL)


def verdict(rows: Sequence[Row], haze: float) -> bool | None:
    """Whether GRPO falls in at least 7 of the 8 seeds; None while that is open."""
    own = [row for row in rows if row["stage"] == "haze" and row["haze"] == haze]
    down = sum(map(fell, own))
    if len(own) - down > len(HAZE_SEEDS) - NEEDED:
        return False
    return True if down >= NEEDED else None


def chosen_haze(rows: Sequence[Row]) -> float | None:
    """The smallest accepted haze whose lower neighbour is refused; None while the search is open."""
    for lower, haze in zip(HAZES, HAZES[1:], strict=False):
        if verdict(rows, lower) is False and verdict(rows, haze) is True:
            return haze
    return None


def tied(rows: Sequence[Row], method: str) -> list[Arm] | None:
    """The arms with the fewest falls over the first seeds; None while runs are missing."""
    falls = {}
    for arm in (arm for arm in weight_arms() if arm.method == method):
        own = [row for row in searched(rows, arm) if row["seed"] in WEIGHT_SEEDS]
        if len(own) < len(WEIGHT_SEEDS):
            return None
        falls[arm] = sum(map(fell, own))
    return [arm for arm, count in falls.items() if count == min(falls.values())]


def searched(rows: Sequence[Row], arm: Arm) -> list[Row]:
    """The runs of an arm in the search."""
    return [row for row in rows if row["stage"] == "weights" and row["arm"] == arm.name]


def best_weights(rows: Sequence[Row]) -> dict[str, float] | None:
    """By method, the weight with the fewest falls, then the best mean; None while runs are missing."""
    best = {}
    for method in PUBLISHED:
        arms = tied(rows, method)
        if arms is None:
            return None
        scores = []
        for arm in arms:
            own = searched(rows, arm)
            if len(arms) > 1 and len(own) < len(WEIGHT_SEEDS) + len(TIE_SEEDS):
                return None
            scores.append((-sum(map(fell, own)), fmean(row["accuracy_wrong"] for row in own), arm.weight))
        best[method] = float(max(scores)[2] or 0.0)
    return best


def search_weights(out: Path, *, haze: float, jobs: int, console: Console) -> None:
    """All weights with three seeds, then those that tie with three more."""
    plan = [arm.job(out, stage="weights", haze=haze, seed=s) for s in WEIGHT_SEEDS for arm in weight_arms()]
    run_jobs(plan, at_once=jobs, console=console)
    for method in PUBLISHED:
        arms = tied(rows_of(out), method) or []
        if len(arms) > 1:
            more = [arm.job(out, stage="weights", haze=haze, seed=s) for s in TIE_SEEDS for arm in arms]
            run_jobs(more, at_once=jobs, console=console)


def seeds_in_order(rows: Sequence[Row], haze: float) -> list[int]:
    """Seeds still open at a haze; those that saw at the nearest other haze first, which settles most soonest.

    The verdict does not depend on the order: 7 of all 8 decide.
    """
    own = [row for row in rows if row["stage"] == "haze"]
    done = {row["seed"] for row in own if row["haze"] == haze}
    saw = {row["seed"]: row["accuracy_wrong"] for row in sorted(own, key=lambda r: -abs(r["haze"] - haze))}
    return sorted(set(HAZE_SEEDS) - done, key=lambda seed: (-saw.get(seed, FELL), seed))


def search_haze(out: Path, *, jobs: int, console: Console) -> None:
    """Walk the grid from `START`, up from a refused haze and down from an accepted one."""
    place = HAZES.index(START)
    while chosen_haze(rows_of(out)) is None:
        if not 0 <= place < len(HAZES):
            raise SystemExit(f"no haze of {HAZES[0]} to {HAZES[-1]} is the smallest: widen HAZES")
        haze = HAZES[place]
        while (found := verdict(rows_of(out), haze)) is None:
            seeds = seeds_in_order(rows_of(out), haze)[:jobs]
            plan = [GRPO.job(out, stage="haze", haze=haze, seed=seed) for seed in seeds]
            run_jobs(plan, at_once=jobs, console=console)
        console.print(f"haze {haze}: GRPO {'falls' if found else 'does not fall'} in 7 of 8 seeds")
        place += -1 if found else 1


def run(out: Path, *, stages: Sequence[str], jobs: int) -> None:
    """Train and measure what is missing."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    if "haze" in stages:
        search_haze(out, jobs=jobs, console=console)
    haze = chosen_haze(rows_of(out))
    if haze is None:
        raise SystemExit("the haze is not chosen yet: run --stages haze first")
    if "weights" in stages:
        search_weights(out, haze=haze, jobs=jobs, console=console)
    best = best_weights(rows_of(out))
    if "final" in stages:
        if best is None:
            raise SystemExit("the weights are not chosen yet: run --stages weights first")
        plan = [Arm(name="cold_start", method="grpo").job(out, stage="final", haze=haze, seed=None)]
        arms = final_arms(best)
        for group in (arms[:3], *([arm] for arm in arms[3:])):
            plan += [arm.job(out, stage="final", haze=haze, seed=s) for s in FINAL_SEEDS for arm in group]
        run_jobs(plan, at_once=jobs, console=console)


def result(out: Path) -> dict[str, Any]:
    """What `docs/results/shortcut_study.json` holds."""
    rows = rows_of(out)
    haze, best = chosen_haze(rows), best_weights(rows)
    final = [row for row in rows if row["stage"] == "final" and row["seed"] is not None]
    arms = {arm.name: arm for arm in final_arms(best)} if best else {}
    shares = {}
    for name, arm in arms.items():
        own = [row for row in final if row["arm"] == name]
        if own:
            down = sum(map(fell, own))
            shares[name] = {
                "weight": arm.weight if arm.weight is not None else KL_COEF if name == "kl" else None,
                "fell": down,
                "runs": len(own),
                "share": exact_share(down, len(own)).to_json(),
                **{m: round(fmean(row[m] for row in own), 4) for m in MEASURES},
            }
    return {
        "schema_version": 1,
        "command": "python benchmarks/shortcut_study.py run --out runs/shortcut_study",
        "fell_below": FELL,
        "haze": haze,
        "haze_seeds": list(HAZE_SEEDS),
        "weight_seeds": list(WEIGHT_SEEDS),
        "tie_seeds": list(TIE_SEEDS),
        "published": PUBLISHED,
        "best": best,
        "arms": shares,
        "rows": rows,
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train and measure what is missing")
    running.add_argument(
        "--stages", nargs="+", choices=("haze", "weights", "final"), default=("haze", "weights", "final")
    )
    running.add_argument("--jobs", type=int, default=1)
    reading = commands.add_parser("read", help="write the results as one file")
    reading.add_argument("--result", type=Path, default=Path("docs/results/shortcut_study.json"))
    for command in (running, reading):
        command.add_argument("--out", type=Path, default=Path("runs/shortcut_study"))
    words = parser.parse_args()
    if words.command == "run":
        run(words.out, stages=words.stages, jobs=words.jobs)
    else:
        words.result.write_text(json.dumps(result(words.out), indent=1) + "\n")
        print(words.result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
