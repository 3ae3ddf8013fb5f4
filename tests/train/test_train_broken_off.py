"""A step that an exception breaks off leaves nothing that changes the next one; what a failed start made is
gone; the masks that a stranger's objective counts are held against those of its terms."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.cli import main
from foveal.config import load
from foveal.objectives.grpo import GRPO
from foveal.policy import Policy
from foveal.spec import FovealError
from foveal.train.loop import Run, start
from foveal.train.record import RunFolder
from foveal.train.watcher import Silent
from foveal.types import Batch, Term, TokenStats, ViewName
from run_cases import lines, world_config, world_table

HELD = {"hold_prompts": "always", "hold_products": "always", "micro_batch_tokens": 40, "lr": 1e-3}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def one_step(run: Run, folder: RunFolder, *, cursor: int) -> None:
    """A step on the problems that stand at a place of the data."""
    run.state.cursor = cursor
    run._one_step(folder)


def broken_off(error: type[BaseException], at: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let the so-manieth forward of the update raise; the list counts them."""
    calls: list[int] = []
    forward = Policy.forward

    def raises(self: Policy, *arguments: Any, **options: Any) -> TokenStats:
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == at:
                raise error("in the middle")
        return forward(self, *arguments, **options)

    patch.setattr(Policy, "forward", raises)
    return calls


@pytest.mark.parametrize(("error", "at"), [(MemoryError, 3), (KeyboardInterrupt, 4), (RuntimeError, 2)])
def test_the_step_after_one_that_broke_off_is_that_of_a_clean_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], at: int
) -> None:
    config = world_config(tiny_folder, optimizer=HELD, validation=None)
    runs: dict[str, Run] = {}
    for name in ("clean", "broken"):
        runs[name] = run = Run.prepare(config, watcher=Silent())
        with closing(run), closing(RunFolder.create(tmp_path / name, config)) as folder:
            if name == "broken":
                with monkeypatch.context() as patch:
                    calls = broken_off(error, at, patch)
                    with pytest.raises(error):
                        one_step(run, folder, cursor=0)
                    assert len(calls) == at
                held = run.policy.held
                assert not held.rows and not held.products and not held.gaps and held.uses == 1
            one_step(run, folder, cursor=0)
            one_step(run, folder, cursor=2)
    wanted, found = (lines(tmp_path / name) for name in ("clean", "broken"))
    assert len(wanted) == 2 and found == wanted
    for one, other in zip(runs["clean"].policy.parameters(), runs["broken"].policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sampling_that_broke_off_holds_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world_config(tiny_folder, optimizer=HELD, validation=None)
    with closing(Run.prepare(config, watcher=Silent())) as run:
        before = run.policy.training

        def fails(*_: object, **__: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr("foveal.rollout.local.decode", fails)
            with pytest.raises(MemoryError):
                run._sample(0)
        assert not run.policy.held.rows and run.policy.training == before
        with monkeypatch.context() as patch:
            patch.setattr(run.policy, "_prefill", fails)
            with pytest.raises(MemoryError):
                run._sample(0)
        assert run.policy.training == before


class Elsewhere(GRPO):
    """Its terms stand on other tokens than its masks count."""

    drop: int = 1

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        mask: Tensor = batch.inputs.completion_mask.clone()
        mask[:, : self.drop] = False
        found = super().terms(batch, now)
        return [Term(name=t.name, coef=t.coef, per_token=t.per_token, mask=mask) for t in found]


def test_a_term_on_other_tokens_than_its_mask_is_refused_in_the_first_step(
    tiny_folder: Path, tmp_path: Path
) -> None:
    table = world_table(tiny_folder, objective=Elsewhere())
    with pytest.raises(FovealError, match=r"the mask of its term 'surrogate' has \d+ tokens, that of its"):
        start(load({**table, "perturbations": {}, "validation": None}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fine = {**table, "objective": Elsewhere(drop=0), "perturbations": {}, "validation": None, "steps": 1}
    start(load(fine), tmp_path / "run")


def test_a_start_that_fails_leaves_what_was_there_and_no_more(tiny_folder: Path, tmp_path: Path) -> None:
    table = world_table(tiny_folder, objective=Elsewhere(), perturbations={}, validation=None)
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    with pytest.raises(FovealError, match="the mask of its term"):
        start(load(table), there)
    assert [path.name for path in there.iterdir()] == ["notes.txt"]
    with pytest.raises(FovealError, match="the mask of its term"):
        start(load(table), tmp_path / "a" / "b" / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_folder_that_cannot_be_made_leaves_none_of_its_parents(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "a" / ".." / "file" / "run"
    words = ["steps=1", "threads=1", "sampling.max_new_tokens=2", "sampling.group_size=2"]
    assert main(["train", "--model", str(tiny_folder), "--data", "world", "--out", str(out), *words]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) in (["file"], ["a", "file"])
