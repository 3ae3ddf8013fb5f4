"""The page of a sweep: where arms stand, what is claimed, and how it reads with one seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal.evaluation import stats
from foveal.report.axes import axis_of
from foveal.report.sweep_figures import arm_colors, cut, sweep_figure
from foveal.report.sweep_page import write_sweep_report
from foveal.spec import FovealError
from foveal.sweep.grid import SweepTable, arms_of, axes_of
from foveal.sweep.results import collect
from sweep_cases import sweep_folder

GAMMA = "objective.kl_prcp_coef=0,0.01,0.02,0.1"


def folder(out: Path, *sets: str, seeds: int = 3, table: dict[str, Any] | None = None) -> Path:
    found = SweepTable.model_validate(table or {})
    axes = axes_of(found, sets)
    sweep_folder(out, arms_of(found, axes), axes, seeds=seeds)
    collect(out)
    return out


def arms(*sets: str, **table: Any) -> list[dict[str, Any]]:
    found = SweepTable.model_validate(table)
    return [{"name": arm.name, "point": arm.point} for arm in arms_of(found, axes_of(found, sets))]


def test_a_zero_stands_left_of_a_logarithmic_axis_behind_a_break() -> None:
    axis = axis_of(arms(GAMMA))
    places = {place.arm: place.x for place in axis.places}
    assert places["kl_prcp_coef-0.01"] == pytest.approx(-2)
    assert places["kl_prcp_coef-0.1"] == pytest.approx(-1)
    assert axis.broken_at is not None
    assert places["kl_prcp_coef-0"] < axis.broken_at < places["kl_prcp_coef-0.01"]
    assert [text for _, text in axis.ticks] == ["0", "0.01", "0.02", "0.1"]


def test_close_values_stand_on_a_plain_axis() -> None:
    axis = axis_of(arms("p.ratio=0.4,0.6,0.8,1.0"))
    assert [place.x for place in axis.places] == [0.4, 0.6, 0.8, 1.0]
    assert axis.broken_at is None and axis.numeric


def test_negative_values_stand_on_a_plain_axis() -> None:
    assert [place.x for place in axis_of(arms("a.b=-1,0,100")).places] == [-1, 0, 100]


def test_names_stand_side_by_side_and_are_not_joined() -> None:
    axis = axis_of(arms(arms={"random": {"a.b": 1}, "salient": {"a.b": 2}}))
    assert [(place.arm, place.x) for place in axis.places] == [("random", 0), ("salient", 1)]
    assert not axis.numeric and list(axis.lines) == [""]


def test_of_a_grid_the_longest_key_of_numbers_runs_along_the_axis_and_the_others_are_lines() -> None:
    axis = axis_of(arms("a.kind=x,y", "a.n=1,2,3"))
    assert axis.label == "a.n" and list(axis.lines) == ["kind x", "kind y"]
    assert [place.x for place in axis.lines["kind y"]] == [1, 2, 3]


def test_true_and_false_are_names_not_numbers() -> None:
    axis = axis_of(arms("a.b=true,false"))
    assert not axis.numeric and [text for _, text in axis.ticks] == ["true", "false"]


def test_a_ramp_of_colours_has_one_for_each_number() -> None:
    tints = arm_colors(axis_of(arms("a.n=1,2,3,4,5,6,7,8,9")))
    assert len(set(tints.values())) == 9


def test_the_bar_of_a_figure_is_the_t_interval_and_every_seed_is_a_dot() -> None:
    axis = axis_of(arms("a.n=1,2"))
    seeds = [0.2, 0.3, 0.7]
    figure = sweep_figure({"n-1": seeds, "n-2": [0.5]}, axis, caption="x", percent=False)
    assert figure is not None
    drawn = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines]
    wanted = stats.over_seeds(seeds)
    assert seeds in drawn and [0.5] in drawn
    assert [wanted.low, wanted.high] in drawn
    assert sum(len(values) == 2 for values in drawn) == 2, "one interval, one line of means"


def test_an_axis_is_cut_around_its_values_where_intervals_are_far_wider() -> None:
    assert cut((-10.0, 10.0), [1.0, 2.0]) == pytest.approx((0.4, 2.6))
    assert cut((0.9, 2.1), [1.0, 2.0]) == (0.9, 2.1)
    assert cut((0.9, 1.1), [1.0, 1.0]) == (0.9, 1.1)


def test_the_page_tells_the_differences_that_intervals_carry(tmp_path: Path) -> None:
    text = write_sweep_report(folder(tmp_path, GAMMA)).read_text()
    assert "Accuracy differs from kl_prcp_coef = 0, in points: kl_prcp_coef = 0.01 +" in text
    assert "logarithmic; 0 stands apart" in text and "t-interval over seeds" in text
    assert "<script" not in text


def test_one_seed_is_said_to_carry_no_interval(tmp_path: Path) -> None:
    text = write_sweep_report(folder(tmp_path, GAMMA, seeds=1)).read_text()
    assert "With one seed there is no interval over seeds" in text
    assert "a bar its" not in text and "in each of these runs" in text


def test_metrics_that_are_nought_everywhere_have_no_panel(tmp_path: Path) -> None:
    out = folder(tmp_path, GAMMA)
    before = write_sweep_report(out).read_text().count("<svg")
    for file in out.glob("runs/*/metrics.jsonl"):
        file.write_text(file.read_text().replace('"policy/clip_high_fraction": 0.0', '"policy/entropy": 0.1'))
    collect(out)
    assert write_sweep_report(out).read_text().count("<svg") == before + 2


def test_unfinished_and_guarded_runs_are_named(tmp_path: Path) -> None:
    out = folder(tmp_path, GAMMA)
    (out / "jobs" / "kl_prcp_coef-0.1-seed2.done.json").unlink()
    with (out / "runs" / "kl_prcp_coef-0.1-seed0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "guard", "step": 9, "act": "lower <gamma>"}) + "\n")
    found = collect(out)
    assert [run["name"] for run in found["runs"] if not run["finished"]] == ["kl_prcp_coef-0.1-seed2"]
    text = write_sweep_report(out).read_text()
    assert "Not finished, so left out: kl_prcp_coef-0.1-seed2" in text
    assert "step 9, act lower &lt;gamma&gt;" in text


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="no sweep in"):
        collect(tmp_path)
    with pytest.raises(FovealError, match="has no arms"):
        write_sweep_report(tmp_path)
