"""What the sampler recorded stands for a scoring pass over the clean pictures, where it may."""

from dataclasses import replace

import pytest
import torch

from foveal.objectives.cppo import CPPO
from foveal.objectives.vppo import VPPO
from foveal.policy import Policy
from foveal.rollout.local import LocalEngine
from foveal.train.step import prepare, score
from foveal.types import CLEAN, Group, Inputs, Sampling, ViewName
from train_cases import PROBLEMS, TEMPERATURE, inputs_of, settings

OBJECTIVE = CPPO(cpl_coef=0.5)


@pytest.fixture(scope="module")
def inputs(policy: Policy) -> Inputs:
    sampling = Sampling(group_size=4, max_new_tokens=6, temperature=TEMPERATURE, entropies=True)
    drawn = LocalEngine(policy).generate(PROBLEMS[:3], sampling=sampling, key=(7,))
    rewards = (1.0, 0.0, 0.5, 0.25)
    groups = [
        Group(problem=of, completions=found, rewards=rewards, correct=(True, False, False, False))
        for of, found in zip(PROBLEMS, drawn, strict=False)
    ]
    return inputs_of(policy, groups)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ViewName, int]]:
    """View and completions of every forward."""
    found: list[tuple[ViewName, int]] = []
    run = Policy.forward

    def forward(self: Policy, given: Inputs, view: ViewName, **options: object) -> object:
        found.append((view, len(given.lengths)))
        return run(self, given, view, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "forward", forward)
    return found


SAMPLED = replace(settings(), score_old=False)


def test_recorded_values_are_scored_ones_and_need_no_forward(
    policy: Policy, inputs: Inputs, calls: list[tuple[ViewName, int]]
) -> None:
    found = score(inputs, policy, None, OBJECTIVE, SAMPLED).views[CLEAN]
    assert [view for view, _ in calls] == ["removed"]
    bare = replace(inputs, sampled_entropies=None)
    wanted = score(bare, policy, None, OBJECTIVE, SAMPLED).views[CLEAN]
    assert (CLEAN, int(wanted.rows.sum())) in calls
    assert found.rows.equal(wanted.rows) and 0 < int(found.rows.sum()) < len(found.rows)
    mask = inputs.completion_mask & found.rows[:, None]
    for name in ("logprobs", "entropy"):
        gap = (getattr(found, name) - getattr(wanted, name))[mask].abs().max()
        assert float(gap) <= 5e-6
    assert found.logprobs[~found.rows].isnan().all() and found.entropy[~found.rows].isnan().all()


def test_completions_of_another_view_or_without_entropies_are_scored(
    policy: Policy, inputs: Inputs, calls: list[tuple[ViewName, int]]
) -> None:
    gated = OBJECTIVE.score_rows(CLEAN, inputs).nonzero()[:, 0]
    assert inputs.sampled_entropies is not None and len(gated) > 2
    holed = inputs.sampled_entropies.clone()
    holed[gated[0], 0] = torch.nan
    elsewhere = torch.zeros_like(inputs.correct)
    elsewhere[gated[1]] = True
    mixed = replace(inputs, sampled_entropies=holed, sampled_elsewhere=elsewhere)
    found = score(mixed, policy, None, OBJECTIVE, SAMPLED)
    assert sum(rows for view, rows in calls if view == CLEAN) == 2
    assert found.views[CLEAN].entropy[gated].isfinite().any(-1).all()


def test_where_the_old_policy_is_scored_nothing_recorded_is_taken(
    policy: Policy, inputs: Inputs, calls: list[tuple[ViewName, int]]
) -> None:
    score(inputs, policy, None, OBJECTIVE, settings())
    assert sum(rows for view, rows in calls if view == CLEAN) == len(inputs.lengths)


@pytest.mark.parametrize("entropies", [False, True])
def test_without_a_picture_a_view_that_is_scored_alone_is_what_was_recorded(
    policy: Policy, inputs: Inputs, calls: list[tuple[ViewName, int]], entropies: bool
) -> None:
    objective = VPPO()
    assert CLEAN not in objective.score_views
    given = inputs if entropies else replace(inputs, sampled_entropies=None)
    scores = score(given, policy, None, objective, SAMPLED)
    blind = torch.tensor([not len(inputs.prompts[p].grids) for p in inputs.prompt_index.tolist()])
    assert 0 < int(blind.sum()) < len(blind)
    removed = scores.views["removed"]
    assert removed.logprobs[blind].equal(scores.old_logprobs[blind].to(removed.logprobs))
    assert removed.entropy[blind].isfinite().all()
    assert calls == [("removed", int((~blind).sum() if entropies else len(blind)))]
    # All tokens depend on the picture alike, so all are kept; differences of rounding would be ranked.
    kept = prepare(given, scores, objective).selections["visual_tokens"]
    assert kept[blind].equal(inputs.completion_mask[blind])
