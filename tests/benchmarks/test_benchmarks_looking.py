"""What looking costs, against the passes that it needs."""

import json
from pathlib import Path
from typing import Any

import looking_cost
import pytest
from looking_cost import Method


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def test_what_looking_may_cost_by_hand() -> None:
    cost = {"grpo": 10.0, "papo": 14.4, "n": 4.0, "cppo": 39.0, "gradient": 12.0, "choose": 3.0}
    papo = Method(name="papo", needed=(("n", 1),))
    assert papo.share(cost) == pytest.approx(1.0)
    assert papo.added(cost) == pytest.approx(1.1)
    cppo = Method(name="cppo", needed=(("gradient", 2),), choosing="choose", gated=0.5)
    assert cppo.share(cost) == pytest.approx(39 / (10 + 1.1 * 24 + 3))
    assert cppo.added(cost) == pytest.approx(26 / 24)


def looked(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    words = "--visual-tokens 4 --prompts 1 --response 4 --rounds 1 --gated 0.125 1".split()
    looking_cost.main(["--checkpoint", str(folder), *words, *more])
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_looking_costs_in_multiplications_what_it_must(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = looked(tiny_folder, capsys, "--prompts-again")
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["papo", "cppo@0.125", "cppo@1"]
    assert rows["papo"]["added_flops"] == 1
    assert [row["gated_share"] for row in found["rows"]] == [None, 0.125, 1.0]
    spent = found["flops"]
    for share in ("0.125", "1"):
        # Beside GRPO's step: both perturbed views with gradient; in scoring the removed view of the same
        # completions. The clean one's entropies are known.
        views = spent[f"cppo@{share}"] - spent["grpo"] - 2 * spent[f"gradient@{share}"]
        assert views == spent[f"no_gradient@{share}"]


def test_prompts_are_held_for_grpo_and_papo_alone(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, again = looked(tiny_folder, capsys), looked(tiny_folder, capsys, "--prompts-again")
    assert held["rows"][0]["added_flops"] == 1
    spent, before = held["flops"], again["flops"]
    saved = {name: before[name] - spent[name] for name in spent}
    assert saved.pop("grpo") == saved.pop("papo") > 0
    assert set(saved.values()) == {0}
