"""Dynamic sampling: rounds are drawn until enough groups are kept."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from foveal.objectives.grpo import GRPO
from foveal.spec import FovealError
from foveal.train.loop import Run
from foveal.train.sampling import gather_groups
from foveal.train.watcher import Silent
from run_cases import world_config


def even(group: int) -> bool:
    return group % 2 == 0


def rounds(*sizes: int) -> Iterator[list[int]]:
    """Rounds of numbers counted up; asking for one more is an error."""
    place = 0
    for size in sizes:
        yield list(range(place, place + size))
        place += size
    raise AssertionError("a round was drawn that nobody needed")


def test_rounds_are_drawn_until_enough_is_kept_and_the_rest_is_cut():
    found = gather_groups(rounds(3, 3, 3), keeps=even, wanted=4, limit=None)
    assert (found.groups, found.rounds, found.drawn) == ([0, 2, 4, 6], 3, 9)


def test_last_round_is_cut_at_what_is_wanted():
    found = gather_groups(rounds(7), keeps=even, wanted=2, limit=5)
    assert (found.groups, found.rounds, found.drawn) == ([0, 2], 1, 7)


def test_too_few_go_on_or_stop():
    found = gather_groups(rounds(3, 3), keeps=even, wanted=9, limit=2)
    assert (found.groups, found.rounds, found.drawn) == ([0, 2, 4], 2, 6)
    with pytest.raises(FovealError, match=r"2 rounds of sampling gave 3 of 9 groups.*max_refills"):
        gather_groups(rounds(3, 3), keeps=even, wanted=9, limit=2, when_short="stop")


def test_round_that_keeps_nothing_is_drawn_again_or_kept_whole():
    def high(group: int) -> bool:
        return group >= 4

    found = gather_groups(rounds(3, 3), keeps=high, wanted=2, limit=9)
    assert found.groups == [4, 5]
    found = gather_groups(rounds(3), keeps=high, wanted=2, limit=9, when_none_kept="keep_all")
    assert found.groups == [0, 1]


def test_nothing_kept_up_to_the_limit_leaves_the_last_round():
    found = gather_groups(rounds(3, 3), keeps=lambda group: False, wanted=2, limit=2)
    assert (found.groups, found.rounds, found.drawn) == ([3, 4], 2, 6)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from(["draw_more", "keep_all"]),
)
def test_equals_a_loop_over_all_rounds(kept, wanted, limit, when_none_kept):
    found = gather_groups(
        ([(r, g, keep) for g, keep in enumerate(row)] for r, row in enumerate(kept)),
        keeps=lambda group: group[2],
        wanted=wanted,
        limit=limit,
        when_none_kept=when_none_kept,
    )
    chosen, last, used = [], [], 0
    for r, row in enumerate(kept[:limit]):
        last = [(r, g, keep) for g, keep in enumerate(row)]
        mine = [group for group in last if group[2]]
        if not mine and when_none_kept == "keep_all":
            mine = last
        chosen, used = chosen + mine, r + 1
        if len(chosen) >= wanted:
            break
    assert found.groups == (chosen or last)[:wanted]
    assert (found.rounds, found.drawn) == (used, sum(len(row) for row in kept[:used]))


def test_settings_of_a_run_reach_the_sampler(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPO, "keeps", lambda self, group: False)
    table = {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 2, "max_refills": 3}
    drawn = {}
    for setting in ({}, {"when_none_kept": "keep_all"}, {"when_short": "stop"}):
        config = world_config(tiny_folder, objective={"type": "grpo"}, sampling=table | setting)
        run = Run.prepare(config, watcher=Silent())
        try:
            groups, drawn[tuple(setting)] = run._sample(0)
            assert len(groups) == 2
        except FovealError as error:
            drawn[tuple(setting)] = str(error)
        finally:
            run.close()
    assert drawn[()] == 6 and drawn[("when_none_kept",)] == 2
    assert "3 rounds of sampling gave 0 of 2 groups" in str(drawn[("when_short",)])
