"""The loop around a step: which problems are drawn, when sampling is repeated, what is logged."""

import ctypes
import json
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.config import RunConfig, load
from foveal.policy import load_policy
from foveal.policy.checkpoint import load_checkpoint, save_checkpoint
from foveal.spec import FovealError
from foveal.train import loop, manifest, stop
from foveal.train.draw import Order
from foveal.train.loop import Run
from foveal.train.measure import MALLOC_OPTIONS, keep_freed_memory, measure
from foveal.train.record import RunFolder
from foveal.train.setup import largest_group, optimizer_of
from foveal.train.usable import check_problems
from foveal.train.watcher import Silent
from foveal.types import Group
from run_cases import lines, world_config, world_table


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


PREPARED: list[Run] = []


@pytest.fixture(autouse=True)
def close_what_was_prepared() -> Iterator[None]:
    yield
    while PREPARED:
        PREPARED.pop().close()


def prepared(config: RunConfig) -> Run:
    PREPARED.append(Run.prepare(config, watcher=Silent()))
    return PREPARED[-1]


def sampling(**changes: int) -> dict[str, int]:
    return {"group_size": 2, "prompts_per_step": 4, "max_new_tokens": 3} | changes


def test_each_epoch_gives_every_problem_once_in_an_order_of_its_own() -> None:
    order = Order(7, seed=3)
    places = [order.next(place, 3) for place in range(0, 21, 3)]
    drawn = [index for parts in places for _, found in parts for index in found]
    epochs = [drawn[n : n + 7] for n in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [parts[0][0] for parts in places] == [0, 0, 0, 1, 1, 2, 2]
    assert order.next(5, 16) == Order(7, seed=3).next(5, 16)
    assert Order(7, seed=4).next(0, 7) != order.next(0, 7)


def test_small_data_give_a_problem_other_completions_each_time(tiny_folder: Path) -> None:
    data = {"type": "world", "families": ["counting"], "size": 2}
    run = prepared(world_config(tiny_folder, data=data, sampling=sampling()))
    groups, drawn = run._sample(0)
    assert drawn == 4
    assert Counter(group.problem.id for group in groups).most_common()[0][1] == 2
    texts = [tuple(c.token_ids for c in group.completions) for group in groups]
    assert len(set(texts)) == 4


def objective_that_keeps(run: Run, pattern: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(pattern)

    def keeps(self: Any, group: Group) -> bool:
        return next(answers)

    monkeypatch.setattr(type(run.config.objective), "keeps", keeps)


@pytest.mark.parametrize(
    ("pattern", "drawn", "kept"),
    [
        ([True] * 4, 4, 4),
        ([False, True, False, False] + [True] * 4, 8, 4),
        ([False, True, False, False] * 3, 12, 3),
        ([False] * 12, 12, 4),
    ],
    ids=["enough", "cut", "too_few", "none"],
)
def test_dropped_groups_are_drawn_again_up_to_the_limit(
    pattern: list[bool], drawn: int, kept: int, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too few the step goes on with those; with none at all, with the last round's as they are."""
    run = prepared(world_config(tiny_folder, sampling=sampling(max_refills=3)))
    objective_that_keeps(run, pattern, monkeypatch)
    groups, count = run._sample(0)
    assert (count, len(groups)) == (drawn, kept)
    assert run.state.cursor == drawn


def test_values_given_up_at_a_limit_are_counted_step_by_step(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a resumed run, whose grader is new, logs the same."""
    begin = loop.Grader.begin

    def slow(self: Any, **of_golds: Any) -> Any:
        if not of_golds:
            self.counts.timeouts[0] += 2
        return begin(self, **of_golds)

    monkeypatch.setattr(loop.Grader, "begin", slow)
    loop.start(world_config(tiny_folder, steps=3, validation=None), tmp_path / "run")
    found = [line["reward/timeout_count"] for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert found == [2, 2, 2]
    assert [
        line["reward/boxed_timeout_count"] for line in lines(tmp_path / "run") if line["kind"] == "step"
    ] == found


def test_skipped_updates_are_counted_over_the_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, spoilt = loop.train_step, iter([True, True, False])

    def broken(policy: Any, *given: Any) -> Any:
        if not next(spoilt):
            return step(policy, *given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.utils, "get_total_norm", lambda *a, **k: torch.tensor(float("nan")))
            return step(policy, *given)

    monkeypatch.setattr(loop, "train_step", broken)
    summary = loop.start(world_config(tiny_folder, steps=3), tmp_path / "run")
    assert summary["skipped_count"] == 2
    rows = [line for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert [line["policy/skipped_count"] for line in rows] == [1, 1, 0]


def test_reference_policy_stays_where_it_was_and_is_a_model_of_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    config = world_config(tiny_folder, steps=3, objective={"type": "grpo", "kl_coef": 0.1})
    run = prepared(config)
    assert run.reference is not None and run.reference is not run.policy
    assert not any(p.requires_grad for p in run.reference.parameters())
    loop.start(config, tmp_path / "run")
    kl = [line["loss/reference_kl"] for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert abs(kl[0]) < 1e-6 < kl[2]


def test_gradient_checkpointing_changes_no_metric(tiny_folder: Path, tmp_path: Path) -> None:
    table = world_table(tiny_folder, steps=2)
    loop.start(load(table), tmp_path / "plain")
    overrides = ["model.gradient_checkpointing=true"]
    loop.start(load(table, overrides=overrides), tmp_path / "checkpointed")
    for found, wanted in zip(lines(tmp_path / "checkpointed"), lines(tmp_path / "plain"), strict=True):
        # With checkpointing nothing is kept of sampling.
        if wanted["kind"] == "step":
            assert wanted.pop("sampler/product_gap_max") < 1e-5
        assert "sampler/product_gap_max" not in found
        for name, value in wanted.items():
            assert found[name] == (pytest.approx(value, rel=1e-3, abs=1e-5) if name != "kind" else value), (
                name
            )


def test_prompt_longer_than_the_limit_is_found_before_the_first_step(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run = prepared(world_config(tiny_folder))
    told: list[str] = []
    processor, config = run.policy.processor, run.config
    longest = check_problems(run.problems, processor, config, config.data, message=told.append).longest
    assert told and f"the longest has {longest} tokens" in told[0]
    shorter = load(world_table(tiny_folder), overrides=[f"sampling.max_prompt_tokens={longest - 1}"])
    with pytest.raises(FovealError, match=rf"has {longest} tokens.*max_prompt_tokens = {longest - 1};"):
        check_problems(run.problems, processor, shorter, shorter.data, message=told.append)


def test_freed_memory_is_kept_where_the_allocator_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    asked: dict[int, int] = {}

    class Libc:
        def mallopt(self, option: int, value: int) -> int:
            asked[option] = value
            return int(option != -2)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    assert not keep_freed_memory() and asked.items() <= MALLOC_OPTIONS.items()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


def test_threads_are_measured_only_where_they_are_not_given() -> None:
    before = torch.get_num_threads()
    assert measure(threads=3) == {"threads": 3, "threads_chosen_by": "config"}
    found = measure(threads=0)
    assert str(found["threads"]) in found["probe_s"]
    assert found["probe_s"][str(found["threads"])] == min(found["probe_s"].values())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("stored", [None, True])
def test_a_run_steps_fused_whatever_its_checkpoint_did(
    tiny_folder: Path, tmp_path: Path, stored: bool | None
) -> None:
    config = world_config(tiny_folder)
    policy = load_policy(str(tiny_folder))
    weights = list(policy.parameters())
    former = torch.optim.AdamW(weights, lr=0.5, fused=stored)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    former.step()
    path = save_checkpoint(tmp_path, "step_1", policy=policy, optimizer=former, state={})
    optimizer = optimizer_of(config, policy)
    load_checkpoint(path, policy=policy, optimizer=optimizer)
    (group,) = optimizer.param_groups
    assert group["fused"] is True and group["lr"] == 0.5
    optimizer.step()
    assert all(float(optimizer.state[weight]["step"]) == 2 for weight in weights)


def step_with(norm: float, *, spoil: bool = False) -> Any:
    """A training step whose gradient has this norm; it may leave NaN among the weights."""
    step = loop.train_step

    def broken(policy: Any, *given: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.utils, "get_total_norm", lambda *a, **k: torch.tensor(norm))
            found = step(policy, *given)
        if spoil:
            next(policy.parameters()).data.view(-1)[0] = float("nan")
        return found

    return broken


def test_run_without_any_update_for_long_is_stopped(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", step_with(float("nan")))
    monkeypatch.setattr(stop, "IDLE_STEPS", 3)
    with pytest.raises(FovealError, match=r"stopped after step 3: .* last 3 steps was skipped"):
        loop.start(world_config(tiny_folder, steps=9), tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"policy/grad_norm": null' in text and "NaN" not in text
    assert json.loads((tmp_path / "run/checkpoints/step-000002/state.json").read_text())["idle"] == 2


def test_a_short_run_without_any_update_does_not_end_as_finished(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", step_with(float("nan")))
    with pytest.raises(FovealError, match="stopped after step 2: .* last 2 steps was skipped"):
        loop.start(world_config(tiny_folder, steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("norm", "step"), [(float("nan"), 1), (1.0, 2)], ids=["skipped", "at_checkpoint"])
def test_weights_that_are_not_finite_are_never_saved(
    norm: float, step: int, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skipped update has the weights looked at; otherwise the checkpoint does."""
    steps = iter([False] * (step - 1) + [True] * 9)
    good, bad = step_with(norm), step_with(norm, spoil=True)
    monkeypatch.setattr(loop, "train_step", lambda *given: (bad if next(steps) else good)(*given))
    config = world_config(tiny_folder, steps=9, validation=None)
    with pytest.raises(FovealError, match="weights are not finite, such as .* lower optimizer.lr"):
        loop.start(config, tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_last_good_checkpoint_is_named_and_stays(tiny_folder: Path, tmp_path: Path) -> None:
    policy = prepared(world_config(tiny_folder, validation=None)).policy
    saved = save_checkpoint(tmp_path, "step-000002", policy=policy, optimizer=None, state={})
    next(policy.parameters()).data.view(-1)[0] = float("inf")
    with pytest.raises(FovealError, match=r"step-000004 is not written: 1 of .*--model .*step-000002/model"):
        save_checkpoint(tmp_path, "step-000004", policy=policy, optimizer=None, state={})
    assert list(tmp_path.iterdir()) == [saved]


def test_numbers_that_json_does_not_know_are_written_as_null(tmp_path: Path) -> None:
    RunFolder(tmp_path).metrics({"step": 1, "a": math.nan, "b": [math.inf, 2.0], "c": {"d": -math.inf}})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "a": None, "b": [None, 2.0], "c": {"d": None}}


def test_commit_is_that_of_the_package_and_not_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = manifest._git()
    assert here is None or (Path(here["repository"]) / "src/foveal/train/manifest.py").is_file()
    foreign = tmp_path / "foveal" / "train" / "manifest.py"
    foreign.parent.mkdir(parents=True)
    subprocess.run(("git", "init", "-q", str(tmp_path)), check=True)
    monkeypatch.setattr(manifest, "__file__", str(foreign))
    assert manifest._git() is None


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (141, "its group has up to 141 tokens (101 + 4 x 10), which fit one row of the update"),
        (140, "its group has up to 141 tokens (101 + 4 x 10): 2 rows of the update"),
        (111, "its group has up to 141 tokens (101 + 4 x 10): 4 rows of the update"),
        (110, "and one completion of it 111, more than optimizer.micro_batch_tokens = 110"),
    ],
)
def test_the_largest_group_is_told_before_a_run_starts(tokens: int, told: str, tiny_folder: Path) -> None:
    config = world_config(
        tiny_folder,
        sampling={"group_size": 4, "prompts_per_step": 2, "max_new_tokens": 10},
        optimizer={"micro_batch_tokens": tokens},
    )
    assert told in largest_group(101, config)


def graders() -> set[str]:
    """Grading workers of this process."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if folder.name.isdigit() and parent[0] != "Z" and parent[1] == str(os.getpid()):
                if b"foveal.rewards.worker" in (folder / "cmdline").read_bytes():
                    found.add(folder.name)
        except OSError:
            continue
    return found


def test_a_start_that_fails_leaves_no_grading_worker(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = graders()
    seen: list[int] = []
    check = Run._check

    def checked(self: Run, measured: dict[str, Any] | None) -> None:
        seen.append(len(graders() - before))
        check(self, measured)

    monkeypatch.setattr(Run, "_check", checked)
    long = {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 3, "max_prompt_tokens": 5}
    with pytest.raises(FovealError, match=r"more than sampling\.max_prompt_tokens = 5"):
        loop.start(world_config(tiny_folder, sampling=long), tmp_path / "run")
    with pytest.raises(FovealError, match="cannot be found|no such|does not exist|not a folder"):
        loop.start(world_config(tmp_path / "no model"), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(FovealError, match="the run folder .* cannot be made"):
        loop.start(world_config(tiny_folder), tmp_path / "file" / "run")
    assert seen == [1, 1]  # it was there before the first step
    assert graders() == before
