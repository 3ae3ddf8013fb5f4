"""The pages on Python: what they name exists, what exists is named, and their code runs."""

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import foveal
from foveal.objectives import REGISTRY
from foveal.objectives.grpo import GRPO
from objective_batches import gradients, make_case, measure, prepared, total_loss

DOCS = Path(__file__).parents[1] / "docs"
SMALL = {"threads": 1, "model__attention": "split", "progress": False}


def code(page: str, index: int = 0) -> str:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)[index]


def run_code(text: str, space: dict[str, Any]) -> dict[str, Any]:
    exec(compile(text, "page", "exec"), space)  # noqa: S102
    return space


def test_python_page_names_every_argument() -> None:
    page = (DOCS / "python.md").read_text()
    for function in (foveal.train, foveal.resume, foveal.evaluate):
        for name in inspect.signature(function).parameters:
            assert f"`{name}`" in page or f"{name}=" in page or f"`**{name}`" in page, name
    public = [name for name in vars(foveal.Run) if not name.startswith("_")]
    assert [name for name in public if f"run.{name}" not in page] == []
    assert [name for name in vars(foveal.Callback) if name.startswith("on_") and name not in page] == []


def test_losses_page_names_every_function() -> None:
    page = (DOCS / "losses.md").read_text()
    functions = [name for name in foveal.losses.__all__ if name[0].islower()]
    assert set(REGISTRY) <= set(functions)
    assert [name for name in functions if f"`{name}" not in page] == []
    arguments = {
        name for method in REGISTRY for name in inspect.signature(getattr(foveal.losses, method)).parameters
    }
    tensors = {name for name in arguments if name.endswith(("probs", "entropy", "mask", "tokens", "counts"))}
    assert [name for name in tensors if f"`{name}`" not in page] == []


def test_code_of_the_losses_page_runs_and_adds_up() -> None:
    space = run_code(code("losses.md"), {})
    whole = foveal.losses.grpo(space["logprobs"], space["old"], space["advantages"], space["mask"]).loss
    (wanted,) = torch.autograd.grad(whole, space["logprobs"])
    space["logprobs"].grad = None
    run_code(code("losses.md", 1), space)
    assert torch.allclose(space["logprobs"].grad, wanted, atol=1e-7)


def test_code_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        code("python.md").replace("steps=2,", "steps=1, **SMALL,").replace("(rows)", "(rows, progress=False)")
    )
    space = run_code(text, {"SMALL": SMALL, "__name__": "__main__"})
    assert space["run"].finished
    callback = run_code(code("python.md", 1), {"foveal": foveal})["Patience"](2)
    answers = [callback.on_step({"reward/mean": value}) for value in (0.5, 0.4, 0.3)]
    assert answers == [None, None, "stop"]


def test_the_method_of_the_page_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_method")
    monkeypatch.setitem(sys.modules, "my_method", module)
    space = run_code(code("own_method.md"), vars(module))
    weighted, case = space["Weighted"], make_case()
    for strength in (0.0, 2.0):
        objective = weighted(strength=strength)
        chosen = prepared(objective, case)
        gain = (case.batch.scores.old_logprobs - case.batch.scores.views["removed"].logprobs).clamp(min=0)
        factor = (1 + strength * gain.tanh()).unsqueeze(-1)
        plain, own = gradients(GRPO(), case)["clean"], gradients(objective, case)["clean"]
        inside = case.batch.inputs.completion_mask.unsqueeze(-1)
        assert torch.allclose(own, torch.where(inside, plain * factor, 0.0), atol=1e-12)
        share = (
            case.batch.inputs.completion_mask & (gain > 0)
        ).sum() / case.batch.inputs.completion_mask.sum()
        assert measure(objective, chosen, "perception/gaining_fraction") == pytest.approx(share.item())
    assert total_loss(weighted(strength=0.0), prepared(weighted(strength=0.0), case)) == total_loss(
        GRPO(), prepared(GRPO(), case)
    )
    assert weighted().views == ("clean", "removed")


def test_the_method_page_names_every_hook() -> None:
    page = (DOCS / "own_method.md").read_text()
    hooks = [name for name, value in vars(foveal.Objective).items() if not name.startswith(("_", "model_"))]
    known = {"type", "aggregation", "horizon", "required", "views", "within"}
    assert [name for name in hooks if name not in known and f"`{name}" not in page] == []
