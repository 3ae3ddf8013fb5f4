"""`report.html` of a single run folder: its metrics, and completions to browse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveal.report import figures
from foveal.report.profile import in_words as profile_in_words
from foveal.report.profile import profile_figure, read_profile
from foveal.report.read import number, read_jsonl
from foveal.report.render import inline, render, write
from foveal.signs import in_words
from foveal.spec import FovealError

FIRST = (
    "reward/mean",
    "reward/accuracy",
    "validation/accuracy",
    "validation/accuracy_other_picture",
    "kl_prcp/mean",
    "kl_prcp/median",
    "policy/entropy",
    "guard/level",
    "completion/relatedness",
    "completion/length_mean",
    "completion/truncated_fraction",
    "policy/clip_high_fraction",
    "policy/grad_norm",
    "loss/total",
)
"""Metrics drawn first; what else a run has follows by name."""

FIGURES = 24
SAMPLES = 30
TEXT_LIMIT = 6000
"""Characters of a completion that are shown."""


def write_run_report(run_folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a run folder to `out` (default `run_folder/report.html`); returns its path.

    Reads `metrics.jsonl`, `completions.jsonl` and the resolved configuration; the last two may be missing.
    Raises: FovealError, where `metrics.jsonl` has no steps.
    """
    metrics = [row for row in read_jsonl(run_folder / "metrics.jsonl") if number(row.get("step")) is not None]
    if not metrics:
        raise FovealError(
            f"{run_folder / 'metrics.jsonl'} has no steps; give a run folder with at least one finished step"
        )
    series = [{name: v for name, value in row.items() if (v := number(value)) is not None} for row in metrics]
    alarms = [row for row in metrics if row.get("kind") == "guard"]
    profile = read_profile(run_folder)
    config = next((p for name in ("config.toml", "config.json") if (p := run_folder / name).is_file()), None)
    page = render(
        "run.html.j2",
        name=run_folder.name,
        steps=len({row["step"] for row in series if "reward/mean" in row}),
        last=_last(series),
        validation=_best(series),
        curves=_curves(series, [row["step"] for row in alarms]),
        alarms=[in_words(row) for row in alarms],
        profile=None if profile is None else inline(profile_figure(profile), name="profile"),
        profile_words="" if profile is None else profile_in_words(profile),
        completions=_completions(read_jsonl(run_folder / "completions.jsonl")),
        config="" if config is None else config.read_text(encoding="utf-8", errors="replace"),
        config_name="" if config is None else config.name,
    )
    return write(out if out is not None else run_folder / "report.html", page)


def _curves(series: list[dict[str, float]], alarms: Sequence[float]) -> list[Any]:
    known = dict.fromkeys(name for row in series for name in row if name != "step")
    names = [name for name in FIRST if name in known]
    names += sorted(name for name in known if name not in FIRST and "/" in name)
    drawn = []
    for place, name in enumerate(names[:FIGURES]):
        share = name.endswith(("_fraction", "accuracy", "accuracy_other_picture"))
        figure = figures.curve_figure(
            {"run": {"0": series}}, name, caption=figures.label(name), percent=share, marks=alarms
        )
        drawn.append(inline(figure, name=f"run{place}"))
    return [figure for figure in drawn if figure is not None]


def _last(series: Sequence[Mapping[str, float]]) -> list[str]:
    words = {"reward/mean": "reward", "reward/accuracy": "accuracy", "kl_prcp/mean": "kl_prcp"}
    last = next((row for row in reversed(series) if "reward/mean" in row), {})
    return [f"{word} {last[name]:.3f}" for name, word in words.items() if name in last]


def _best(series: Sequence[Mapping[str, float]]) -> str:
    name = "validation/accuracy"
    rows = [row for row in series if name in row]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row[name])
    return (
        f"Validation: {100 * best[name]:.1f} % at step {best['step']:.0f}, the highest of {len(rows)} "
        "measurements. The highest of several is too high on average: measure again on other problems."
    )


def _completions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    texts = [row for row in rows if isinstance(row.get("text"), str)]
    places = np.linspace(0, len(texts) - 1, min(SAMPLES, len(texts))).astype(int).tolist() if texts else []
    return [_completion(texts[place]) for place in dict.fromkeys(places)]


def _completion(row: Mapping[str, Any]) -> dict[str, str]:
    right = {True: "right", False: "wrong"}.get(row.get("correct"))  # type: ignore[arg-type]
    parts = [f"step {row['step']}" if "step" in row else "", str(row.get("problem_id", ""))]
    reward = number(row.get("reward"))
    parts += ["" if reward is None else f"reward {reward:.2f}", right or ""]
    return {
        "head": " · ".join(part for part in parts if part) or "completion",
        "question": str(row.get("question") or ""),
        "text": str(row["text"])[:TEXT_LIMIT],
    }
