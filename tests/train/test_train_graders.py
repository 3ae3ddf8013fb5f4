"""Graders that fail: whom it costs what, and how a run stops and goes on."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.config import load
from foveal.data.collate import collate
from foveal.objectives.cppo import CPPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.dr_grpo import DrGRPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.papo import PAPO
from foveal.objectives.perception_reward import PerceptionReward
from foveal.objectives.reinforce_pp import ReinforcePP
from foveal.objectives.rloo import RLOO
from foveal.policy import Policy
from foveal.rewards.grading import Grader
from foveal.rewards.rules import Boxed, Format
from foveal.rewards.settings import GradingConfig
from foveal.rewards.verdicts import comparable, excluded
from foveal.rollout.local import LocalEngine
from foveal.spec import FovealError
from foveal.train import loop
from foveal.train.grade import GradersFailed, keeps
from foveal.train.setup import open_problems, policy_of
from foveal.types import Completion, Group, Objective, Problem, Sampling
from judge_server import Reply, serving
from run_cases import lines, world_table
from train_cases import gradients, inputs_of, record

OBJECTIVES: Mapping[str, Objective] = {
    "grpo": GRPO(),
    "dr_grpo": DrGRPO(),
    "rloo": RLOO(),
    "gspo": GSPO(),
    "dapo": DAPO(overlong_buffer=3, max_length=9),
    "reinforce_pp": ReinforcePP(),
    "reinforce_pp_group": ReinforcePP(baseline="group"),
    "papo": PAPO(kl_prcp_coef=0.1),
    "cppo": CPPO(cpl_coef=0.2),
    "perception_reward": PerceptionReward(on="all_tokens"),
}


def marked(groups: Sequence[Group], bad: Mapping[int, Sequence[int]]) -> list[Group]:
    """The groups with some completions excluded, as a grader marks them."""
    found = []
    for n, group in enumerate(groups):
        facts = tuple(0.25 * (g + n) for g in range(len(group.completions)))
        lost = {g: "reward 'judge' failed: no answer" for g in bad.get(n, ())}
        rewards = tuple(float("nan") if g in lost else r for g, r in enumerate(group.rewards))
        found.append(replace(group, rewards=rewards, breakdown={"facts": facts}, excluded=lost))
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_excluded_leaves_statistics_and_loss_as_if_it_had_not_been_drawn(
    name: str, policy: Policy
) -> None:
    """Advantages, counts and gradients of the others are bit for bit those of a batch without it."""
    groups = record(policy)
    bad = {0: (1,), 2: (0, 3), 3: (0, 1, 2)}
    left = [comparable(group) for group in marked(groups, bad)]
    alone = []
    for n, group in enumerate(marked(groups, {})):
        kept = [g for g in range(len(group.completions)) if g not in bad.get(n, ())]
        alone.append(
            Group(
                problem=group.problem,
                completions=tuple(group.completions[g] for g in kept),
                rewards=tuple(group.rewards[g] for g in kept),
                correct=tuple(group.correct[g] for g in kept),
                breakdown={"facts": tuple(group.breakdown["facts"][g] for g in kept)},
            )
        )
    objective = OBJECTIVES[name]
    found, wanted = inputs_of(policy, left), inputs_of(policy, alone)
    assert found.prompt_index.tolist() == [0] * 3 + [1] * 4 + [2] * 2 + [3] + [4] * 4
    assert torch.equal(objective.advantages(found), objective.advantages(wanted))
    assert bool(objective.advantages(found).isfinite().all())
    pairs = zip(
        gradients(policy, found, objective, tokens=100_000),
        gradients(policy, wanted, objective, tokens=100_000),
        strict=True,
    )
    assert all(torch.equal(one, two) for one, two in pairs)


def test_four_equal_right_completions_stay_equal_when_one_could_not_be_graded(policy: Policy) -> None:
    """A value of None counted 0, and pushed the completion down by 1.5 standard deviations."""
    values = [[1.0, 1.0, 1.0, None], [1.0, 1.0, 1.0, 1.0]]
    found = excluded(4, values, {}, names=("judge", "format"), counting=(0, 1), on_failure="drop_completion")
    assert found == {3: "reward 'judge' gives it no value, and others one"}
    group = record(policy)[0]
    graded = replace(group, rewards=(1.0, 1.0, 1.0, 0.5), excluded=found)
    inputs = inputs_of(policy, [comparable(graded)])
    assert torch.equal(GRPO().advantages(inputs), torch.zeros_like(inputs.sampled_logprobs))


@pytest.mark.parametrize(
    ("values", "failures", "on_failure", "wanted"),
    [
        ([[1.0, None, 0.0]], {}, "drop_completion", [1]),
        ([[None, None, None], [1.0, 0.0, 1.0]], {}, "drop_completion", []),  # applies to nobody here
        ([[None, None, 1.0]], {(0, 0): "x", (0, 1): "x"}, "drop_completion", [0, 1]),
        ([[None, None, 1.0]], {(0, 0): "x"}, "drop_group", [0, 1, 2]),
        ([[None, None, None]], {(0, 0): "x"}, "drop_completion", [0]),
        ([[1.0, 1.0, 1.0], [None, 1.0, 1.0]], {}, "drop_completion", []),  # the second does not count
        ([[1.0, 1.0, 1.0], [None, 1.0, 1.0]], {(1, 0): "x"}, "drop_group", []),
    ],
)
def test_who_is_excluded(values: Any, failures: Any, on_failure: Any, wanted: list[int]) -> None:
    names, counting = (
        ("a", "b")[: len(values)],
        (0,) if len(values) == 2 and None in values[1] else range(len(values)),
    )
    found = excluded(3, values, failures, names=names, counting=counting, on_failure=on_failure)
    assert list(found) == wanted


def test_dynamic_sampling_looks_at_what_is_left() -> None:
    """Of two right and two failed completions nothing can be learnt; of one right and one wrong something."""

    def group(correct: tuple[bool, ...], lost: tuple[int, ...]) -> Group:
        texts = [
            Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=str(n), finish="stop") for n in range(4)
        ]
        return Group(
            problem=Problem(id="p", question="q", images=(), answer="1"),
            completions=tuple(texts),
            rewards=tuple(float(c) for c in correct),
            correct=correct,
            excluded=dict.fromkeys(lost, "failed"),
        )

    assert not keeps(DAPO(), group((True, True, False, False), (2, 3)))
    assert keeps(DAPO(), group((True, False, False, False), (2, 3)))
    assert keeps(DAPO(), group((True, False, False, False), (0, 1, 2, 3)))  # nothing left: not drawn again


def config(url: str, model: Path, **changes: Any) -> Any:
    judge = {"type": "judge", "base_url": url, "model": "m", "timeout_s": 5, "accuracy": True, "cache": "off"}
    table = world_table(model, validation=None, rewards=[judge, {"type": "format", "weight": 0.1}])
    table["objective"] = {"type": "grpo"}
    table["perturbations"] = {}
    table["sampling"] = {"group_size": 4, "prompts_per_step": 2, "max_new_tokens": 5}
    return load(table | {"steps": 3, "grading": {"retries": 0, "backoff_s": 0}} | changes)


def test_a_judge_that_fails_on_every_fourth_call_pushes_nobody_down(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        return Reply(status=500) if number % 4 == 0 else Reply("Verdict: yes")

    with serving(answer) as server, pytest.warns(RuntimeWarning, match="status 500"):
        loop.start(config(server.url, tiny_folder, record={"groups": 9}), tmp_path / "run")
    steps = [line for line in lines(tmp_path / "run") if line["kind"] == "step"]
    written = lines(tmp_path / "run", "completions.jsonl")
    lost = [line for line in written if "excluded" in line]
    assert sum(line["reward/judge_failure_count"] for line in steps) == len(lost) > 0
    assert sum(line["reward/excluded_count"] for line in steps) == len(lost)
    assert all(line["reward"] is None and "status 500" in line["excluded"] for line in lost)
    # All that were graded are right: no advantage, though the others failed.
    assert [line["reward/zero_advantage_fraction"] for line in steps] == [1.0] * 3
    assert [line["reward/judge"] for line in steps] == [1.0] * 3
    assert {line["completion"] for line in written} == {0, 1, 2, 3}


def test_a_judge_that_is_tried_again_costs_nobody_anything(tiny_folder: Path, tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        return Reply(status=500) if number % 4 == 0 else Reply("Verdict: yes")

    settings = {"retries": 5, "backoff_s": 0.001}
    with serving(answer) as server:
        loop.start(config(server.url, tiny_folder, steps=2, grading=settings), tmp_path / "run")
    steps = [line for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert all(line["reward/failure_count"] == line["reward/excluded_count"] == 0 for line in steps)
    assert sum(line["reward/judge_retry_count"] for line in steps) > 0


def test_a_judge_that_dies_stops_the_run_saved_and_the_resumed_run_is_the_whole_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The step that failed is repeated with the same problems and completions."""
    alive = True

    def answer(number: int, request: dict[str, Any]) -> Reply:
        even = len(request["messages"][0]["content"]) % 2 == 0
        return Reply(f"Verdict: {'yes' if even else 'no'}") if alive else Reply(status=503)

    with serving(answer) as server:
        settings = config(server.url, tiny_folder, steps=4, checkpoint={"every": 4})
        loop.start(settings, tmp_path / "whole")

        def dying(number: int, request: dict[str, Any]) -> Reply:
            return answer(number, request) if number <= 8 * 2 else Reply(status=503)

        server.answer, server.requests = dying, []
        with pytest.raises(GradersFailed) as seen, pytest.warns(RuntimeWarning, match="status 503"):
            loop.start(settings, tmp_path / "run")
        said = str(seen.value)
        for words in (
            "stopped in step 3: 8 of 8 values of reward 'judge' failed, more than grading.stop_above = 0.5",
            "judge: status 503",
            "everything up to step 2 is saved; once the grader works again, go on with: foveal train "
            f"--resume {tmp_path / 'run'}",
        ):
            assert words in said
        assert (tmp_path / "run" / "checkpoints" / "step-000002" / "state.json").is_file()
        events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
        assert {"kind": "stopped", "step": 2, "by": "graders"}.items() <= events[-1].items()
        server.answer = answer
        loop.resume(tmp_path / "run", config=settings)
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert lines(tmp_path / "run", name) == lines(tmp_path / "whole", name)


@pytest.mark.parametrize(
    ("grading", "message"),
    [
        ({"on_failure": "stop", "stop_above": 1}, 'failed, and grading.on_failure is "stop"'),
        ({"on_failure": "drop_group", "stop_above": 1}, "no group has a completion that could be graded"),
    ],
)
def test_a_run_stops_in_its_first_step_where_it_is_told_to(
    grading: dict[str, Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        return Reply(status=400) if number in (2, 6) else Reply("no")

    settings = {"retries": 0, **grading}
    with serving(answer) as server, pytest.raises(FovealError, match=message) as seen:
        with pytest.warns(RuntimeWarning, match="status 400"):
            loop.start(config(server.url, tiny_folder, grading=settings, threads=1), tmp_path / "run")
    assert "everything up to step 0 is saved" in str(seen.value)


def test_a_judge_that_is_down_in_the_first_validation_stops_the_run_and_validation_is_repeated(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        return Reply("Verdict: yes")

    validation = {
        "every": 1,
        "problems": 3,
        "other_picture": False,
        "data": {"type": "world", "families": ["counting"], "split": "heldout"},
    }
    with serving(lambda number, request: Reply(status=500)) as server:
        settings = config(server.url, tiny_folder, steps=1, validation=validation)
        with pytest.raises(GradersFailed, match="stopped in the validation after step 0: 3 of 3 values"):
            with pytest.warns(RuntimeWarning, match="status 500"):
                loop.start(settings, tmp_path / "run")
        server.answer = answer
        loop.resume(tmp_path / "run", config=settings)
    found = [line for line in lines(tmp_path / "run") if line["kind"] == "validation"]
    assert [
        (line["step"], line["validation/accuracy"], line["validation/failed_count"]) for line in found
    ] == [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
    ]


def test_the_budget_of_a_step_bounds_it(tiny_folder: Path, tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        time.sleep(1.0 if number % 4 == 0 else 0.0)
        return Reply("Verdict: yes")

    settings = {"retries": 0, "step_budget_s": 0.3}
    with serving(answer) as server:
        loop.start(config(server.url, tiny_folder, steps=1, grading=settings), tmp_path / "run")
    (line,) = [line for line in lines(tmp_path / "run") if line["kind"] == "step"]
    assert line["reward/judge_timeout_count"] == line["reward/excluded_count"] == 2


def test_groups_are_graded_while_others_are_drawn(tiny_folder: Path) -> None:
    """The engine tells of groups as they end, and what it tells of is what it gives in the end."""
    settings = config("http://127.0.0.1:9/v1", tiny_folder)
    policy = policy_of(settings)
    problems = list(open_problems(settings.data))[:6]
    engine, told = LocalEngine(policy), dict[int, tuple[Completion, ...]]()
    ended = []

    def finished(place: int, completions: tuple[Completion, ...]) -> None:
        assert place not in told
        told[place] = completions
        ended.append(max(len(c.token_ids) for c in completions))

    sampling = Sampling(group_size=2, max_new_tokens=40, temperature=1.0)
    drawn = engine.generate(problems, sampling=sampling, key=(1,), finished=finished)
    plain = engine.generate(problems, sampling=sampling, key=(1,))
    assert [told[place] for place in range(6)] == drawn == plain
    assert ended == sorted(ended)


def test_a_timing_changes_no_result(tiny_folder: Path, tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        time.sleep(delays[-1] * (number * 7 % 5))
        even = len(request["messages"][0]["content"]) % 2 == 0
        return Reply(f"Verdict: {'yes' if even else 'no'}")

    delays = []
    for delay, name in ((0.0, "quick"), (0.002, "slow")):
        delays.append(delay)
        with serving(answer) as server:
            loop.start(config(server.url, tiny_folder, steps=2), tmp_path / name)
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert lines(tmp_path / "quick", name) == lines(tmp_path / "slow", name)


def test_collate_takes_groups_of_unequal_size(policy: Policy) -> None:
    groups = [comparable(group) for group in marked(record(policy), {0: (0, 1, 2)})]
    found = collate(groups, processor=policy.processor, views=("clean",), perturbations={}, key=(1,))
    assert len(found.rewards) == sum(len(group.completions) for group in groups)


def test_a_grader_without_failures_marks_nobody() -> None:
    problem = Problem(id="p", question="q", images=(), answer="7")
    completion = Completion(token_ids=(1,), sampled_logprobs=(0.0,), text="\\boxed{7}", finish="stop")
    with Grader([Boxed(), Format()], GradingConfig()) as grader:
        group = grader.grade(problem, [completion])
    assert group.excluded == {} and comparable(group) is group
