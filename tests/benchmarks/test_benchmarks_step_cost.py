"""The step benchmark does the work that it says, and counts what it does."""

import json
from pathlib import Path
from typing import Any

import pytest
import step_cost
import workload
from flops import GroupShape, Widths, floor, gradient_pass, no_gradient_pass

SMALL = (
    *("--visual-tokens", "4", "--prompts", "2", "--group", "8", "--steps", "1", "--warmup", "0"),
    *("--flops", "--prompts-again", "--products-again"),
)


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def line(folder: Path, *words: str) -> dict[str, Any]:
    args = step_cost.arguments(["--checkpoint", str(folder), *SMALL, *words])
    return step_cost.measure(args)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> dict[str, Any]:
    """A GRPO step in which every completion has an advantage."""
    return line(tiny_folder, "--response", "5")


def test_a_grpo_step_is_at_the_floor_and_reads_pictures_and_prompts_once(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "line.json"
    words = (
        "--checkpoint",
        str(tiny_folder),
        *SMALL,
        "--response",
        "5",
        "--json",
        str(out),
    )
    step_cost.main(list(words))
    found = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == found
    read = 2 * (found["prompt_tokens"] + 8 * 4)
    assert found["counts"] == {
        "images/sample": 2,
        "images/update": 2,
        "lm_positions/sample": read,
        "lm_positions/update": read,
    }
    assert found["trained_share"] == 1
    assert found["floor_flops"] <= found["flops"] <= 1.02 * found["floor_flops"]
    assert sum(found["flops_phases"].values()) == found["flops"]
    for phase, needed in found["floor_phases"].items():
        assert needed <= found["flops_phases"][phase] <= 1.02 * needed
    assert sum(found["phases"].values()) == pytest.approx(found["cpu_seconds_per_step"], rel=0.02)
    assert {name for name, seconds in found["phases"].items() if seconds > 0} >= {
        "sample",
        "collate",
        "update",
        "backward",
        "optimizer",
    }
    assert found["tokens_per_cpu_s"] == pytest.approx(2 * 8 * 5 / found["cpu_seconds_per_step"], rel=0.01)


def test_held_prompts_are_run_and_counted_once(tiny_folder: Path, plain: dict[str, Any]) -> None:
    words = [word for word in SMALL if word != "--prompts-again"]
    found = step_cost.measure(
        step_cost.arguments(["--checkpoint", str(tiny_folder), *words, "--response", "5"])
    )
    prompts = 2 * found["prompt_tokens"]
    assert found["counts"] == {
        "images/sample": 2,
        "lm_positions/sample": plain["counts"]["lm_positions/sample"],
        "lm_positions/update": plain["counts"]["lm_positions/update"] - prompts,
    }
    assert found["floor_flops"] == plain["floor_flops"]
    assert found["flops_phases"]["sample"] == plain["flops_phases"]["sample"]
    assert found["flops_phases"]["backward"] == plain["flops_phases"]["backward"]
    assert plain["held_flops"] == 0 < found["held_flops"]
    assert found["flops"] == plain["flops"] - found["held_flops"] < found["floor_flops"]


def test_products_are_made_and_counted_once(tiny_folder: Path, plain: dict[str, Any]) -> None:
    words = [word for word in SMALL if word != "--products-again"]
    found = step_cost.measure(
        step_cost.arguments(["--checkpoint", str(tiny_folder), *words, "--response", "5"])
    )
    assert found["counts"] == plain["counts"]
    assert found["floor_flops"] == plain["floor_flops"]
    assert plain["recorded_flops"] == 0 < found["recorded_flops"]
    assert plain["flops"] - found["flops"] == found["recorded_flops"]
    for phase, spent in plain["flops_phases"].items():
        saved = found["recorded_flops"] if phase == "update" else 0
        assert found["flops_phases"][phase] == spent - saved


def test_papo_adds_one_pass_without_gradient(tiny_folder: Path, plain: dict[str, Any]) -> None:
    found = line(tiny_folder, "--response", "5", "--objective", "papo")
    assert found["counts"]["images/score"] == 2
    assert found["counts"]["lm_positions/score"] == found["counts"]["lm_positions/update"]
    added = found["floor_flops"] - plain["floor_flops"]
    assert found["flops"] - plain["flops"] == added
    assert added == found["flops_phases"]["score"]


@pytest.mark.parametrize(("asked", "completions"), [("0.125", 1), ("0.5", 4), ("1", 8)])
def test_cppo_runs_its_views_over_exactly_the_gated_completions(
    tiny_folder: Path, asked: str, completions: int
) -> None:
    found = line(tiny_folder, "--response", "5", "--objective", "cppo", "--gated", asked)
    assert found["gated_share"] == float(asked)
    prompt = found["prompt_tokens"]
    assert found["counts"]["lm_positions/update"] == 2 * (prompt + 8 * 4) + 2 * 2 * (prompt + completions * 4)
    assert found["counts"]["images/update"] == 3 * 2
    gated = [GroupShape(prompt=prompt, grids=((1, 4, 4),), completions=(5,) * completions)] * 2
    every = [GroupShape(prompt=prompt, grids=((1, 4, 4),), completions=(5,) * 8)] * 2
    from transformers import AutoConfig

    widths = Widths.of(AutoConfig.from_pretrained(tiny_folder))
    looking = 2 * gradient_pass(widths, gated) + no_gradient_pass(widths, gated)
    assert found["floor_flops"] == floor(widths, every) + looking


def test_a_range_of_lengths_is_fixed_by_the_seed_and_sampled_as_drawn(tiny_folder: Path) -> None:
    words = ("--response", "2..9")
    found, again, other = (line(tiny_folder, *words, "--seed", seed) for seed in ("3", "3", "4"))
    assert found["counts"] == again["counts"] != other["counts"]
    assert found["floor_flops"] == again["floor_flops"]
    wanted = workload.lengths((2, 9), rows=16, seed=3, step=0)
    assert found["mean_length"] == round(sum(wanted) / 16, 2)
    assert found["counts"]["lm_positions/update"] == 2 * found["prompt_tokens"] + sum(wanted) - 16
    assert min(wanted) >= 2
    assert max(wanted) <= 9
    assert len(set(wanted)) > 4
    assert found["trained_share"] == 1


def test_checkpointing_makes_one_more_forward_of_the_layers_alone(
    tiny_folder: Path, plain: dict[str, Any]
) -> None:
    found = line(tiny_folder, "--response", "5", "--checkpointing")
    assert found["checkpointing"]
    assert found["counts"] == plain["counts"]
    more = found["flops"] - plain["flops"]
    assert 0.5 * plain["flops_phases"]["update"] < more < plain["flops_phases"]["update"]
    assert found["floor_flops"] == plain["floor_flops"]
    onednn = line(tiny_folder, "--response", "5", "--checkpointing", "--linears", "onednn")
    assert onednn["flops"] == found["flops"]


def test_small_micro_batches_cost_prompts_again(tiny_folder: Path, plain: dict[str, Any]) -> None:
    found = line(tiny_folder, "--response", "5", "--micro-batch-tokens", "60")
    assert found["counts"]["images/update"] > plain["counts"]["images/update"]
    assert found["flops_over_floor"] > 1.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--visual-tokens", "5"), "--visual-tokens is 5; expected a square number"),
        (("--response", "9..8"), "--response is '9..8'; expected a length of at least 1, or LOW..HIGH"),
        (("--response", "many"), "--response is 'many'; expected a length of at least 1, or LOW..HIGH"),
        (("--prompts", "0"), "argument --prompts: 0; expected a whole number above 0"),
        (("--response", "0"), "--response is '0'; expected a length of at least 1, or LOW..HIGH"),
        (("--gated", "0.05"), "--gated 0.05 is 0.4 of a group of 8; expected at least 1 completion"),
        (("--warmup", "6"), "--warmup is 6; expected fewer than --steps, 6"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        step_cost.arguments(["--checkpoint", "nowhere", *words])
    assert said in capsys.readouterr().err


def test_a_missing_checkpoint_is_named_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--checkpoint: no such model: .*gone"):
        step_cost.main(["--checkpoint", str(tmp_path / "gone")])


@pytest.mark.parametrize("setting", ["torch", "onednn", "auto"])
def test_the_products_that_were_used_are_told_and_cost_no_more(tiny_folder: Path, setting: str) -> None:
    found = line(tiny_folder, "--response", "5", "--linears", setting)
    # A model of the tests is too small for "auto" to leave torch's.
    wanted = "onednn" if setting == "onednn" else "torch"
    assert found["linears"] == dict.fromkeys(("forward", "input_grad", "weight_grad", "decode"), wanted)
    assert found["floor_flops"] <= found["flops"] <= 1.02 * found["floor_flops"]
