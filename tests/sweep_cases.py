"""A folder like that of a finished sweep, with simulated numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveal.evaluation.records import Evaluation, ProblemRecord
from foveal.keys import generator
from foveal.sweep.grid import Arm, Axis


def evaluation(name: str, method: str, seed: int | None, *, skill: float, problems: int = 200) -> Evaluation:
    """Problems of mixed hardness; an arm is right where its skill beats the hardness."""
    hardness = generator("hardness").random(problems)
    noise = 0.1 * generator("simulated", name).normal(size=problems)
    records = tuple(
        ProblemRecord(
            id=f"p{i}",
            answer="red",
            correct=(bool(right),),
            texts=("red",),
            lengths=(4,),
            truncated=(False,),
            kinds=("correct" if right else "perception",),
            format=(True,),
            correct_other_picture=(i % 5 == 0,),
        )
        for i, right in enumerate(skill + noise > hardness)
    )
    return Evaluation(
        records=records, k=1, greedy=True, max_new_tokens=8, name=name, method=method, seed=seed
    )


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def finish(out: Path, name: str, method: str, seed: int | None, *, skill: float) -> None:
    evaluation(name, method, seed, skill=skill).save(out / "evaluations" / name)
    write(out / "jobs" / f"{name}.done.json", {"name": name, "seconds": 31.0, "cpu_seconds": 20.0})


def sweep_folder(
    out: Path, arms: Sequence[Arm], axes: Sequence[Axis], *, seeds: int, steps: int = 12
) -> Path:
    """What a sweep leaves behind: plan, jobs, evaluations and metrics; the middle arm is best."""
    listed = [
        {
            "name": arm.name,
            "label": arm.label,
            "point": dict(arm.point),
            "overrides": list(arm.overrides),
            "steps": steps,
        }
        for arm in arms
    ]
    plan = {
        "schema_version": 1,
        "name": "simulated",
        "command": "foveal sweep simulated",
        "seeds": seeds,
        "problems": 200,
        "comparable": True,
        "base": {},
        "axes": [{"key": axis.key, "values": list(axis.values)} for axis in axes],
        "arms": listed,
    }
    write(out / "sweep_plan.json", plan)
    finish(out, "cold_start", "cold_start", None, skill=0.5)
    for number, arm in enumerate(arms):
        height = 0.1 - 0.05 * abs(number - len(arms) / 2)
        for seed in range(seeds):
            name = f"{arm.name}-seed{seed}"
            finish(out, name, arm.name, seed, skill=0.6 + height + 0.02 * seed)
            rise = 1 - np.exp(-np.arange(steps) / 4)
            rows = [
                {
                    "kind": "step",
                    "step": step + 1,
                    "reward/mean": 0.5 + (0.2 + height) * float(rise[step]) + 0.01 * seed,
                    "kl_prcp/mean": 0.1 + 0.02 * number,
                    "policy/clip_high_fraction": 0.0,
                    "time/step_s": 1.5,
                }
                for step in range(steps)
            ]
            file = out / "runs" / name / "metrics.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out
