"""The local sampler against the policy's own forward and against transformers' generate."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.data.collate import collate
from foveal.policy import Policy, load_policy
from foveal.policy.decode import DecodeCache
from foveal.policy.processing import Encoded
from foveal.rollout import draw as draws
from foveal.rollout import local, rows
from foveal.rollout.draw import inverse_cdf
from foveal.rollout.local import LocalEngine
from foveal.types import CLEAN, Completion, Group, Inputs, Problem, Sampling
from policy_cases import NONE, ONE, TALL, TWO, greedy, problem

ALL = (ONE, TWO, NONE, TALL)


@pytest.fixture
def head(policy: Policy) -> Iterator[torch.Tensor]:
    """The head's weight, put back afterwards."""
    weight = policy.model.lm_head.weight.data  # type: ignore[union-attr]
    before = weight.clone()
    yield weight
    weight.copy_(before)


def draw(
    policy: Policy,
    problems: Sequence[Problem] = ALL,
    *,
    key: tuple[int | str, ...] = (0, 1),
    **sampling: float,
) -> list[tuple[Completion, ...]]:
    chosen = Sampling(**{"group_size": 3, "max_new_tokens": 16} | sampling)  # type: ignore[arg-type]
    return LocalEngine(policy).generate(problems, sampling=chosen, key=key)


def collated(policy: Policy, problems: Sequence[Problem], found: list[tuple[Completion, ...]]) -> Inputs:
    groups = [
        Group(problem=of, completions=cs, rewards=(0.0,) * len(cs), correct=(False,) * len(cs))
        for of, cs in zip(problems, found, strict=True)
    ]
    return collate(groups, processor=policy.processor, views=(CLEAN,), perturbations={}, key=(0,))


def tokens(found: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in found]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_recorded_log_probs_equal_those_of_the_forward(
    policy: Policy, temperature: float, top_p: float
) -> None:
    found = draw(policy, temperature=temperature, top_p=top_p)
    inputs = collated(policy, ALL, found)
    assert int(inputs.completion_mask.sum()) > 100
    for path in ("split", "tiled", "dense"):
        policy.attention_path = path
        logprobs = policy(inputs, CLEAN, temperature=temperature).logprobs
        assert ((logprobs - inputs.sampled_logprobs) * inputs.completion_mask).abs().max() <= 5e-6
    policy.attention_path = "split"


def test_greedy_equals_generate_of_transformers_token_by_token(policy: Policy) -> None:
    found = draw(policy, group_size=1, max_new_tokens=24, temperature=0.0)
    assert tokens(found) == [[ids] for ids in greedy(policy, ALL, length=24)]


def test_greedy_completions_of_a_group_are_alike(policy: Policy) -> None:
    for group in tokens(draw(policy, temperature=0.0)):
        assert len(set(group)) == 1


def test_tokens_do_not_depend_on_what_else_is_in_the_batch_or_its_order(policy: Policy) -> None:
    wanted = dict(zip((of.id for of in ALL), tokens(draw(policy)), strict=True))
    for problems in ((TALL, ONE, NONE, TWO), (NONE, TWO), (TWO,)):
        found = tokens(draw(policy, problems))
        assert found == [wanted[of.id] for of in problems]
    larger = tokens(draw(policy, (NONE, TALL), group_size=5))
    assert [group[:3] for group in larger] == [wanted[NONE.id], wanted[TALL.id]]
    longer = tokens(draw(policy, (NONE, TALL), max_new_tokens=20))
    assert [[ids[:16] for ids in group] for group in longer] == [wanted[NONE.id], wanted[TALL.id]]


def test_another_key_draws_other_tokens(policy: Policy) -> None:
    assert tokens(draw(policy)) == tokens(draw(policy))
    for one, other in zip(tokens(draw(policy)), tokens(draw(policy, key=(0, 2))), strict=True):
        assert set(one).isdisjoint(other)
    assert all(len(set(group)) == 3 for group in tokens(draw(policy)))


@pytest.mark.parametrize(("love", "temperature"), [(1.0, 1.0), (200.0, 1.0), (200.0, 0.0)])
def test_banned_tokens_never_appear_however_likely(
    policy: Policy, head: torch.Tensor, love: float, temperature: float
) -> None:
    """At love 200 everything else has less than e^-1000 beside the placeholder."""
    encoded = [policy.processor.encode(of) for of in ALL]
    policy.eval()
    with torch.no_grad():
        states, _ = policy.prefill(encoded)
    policy.train()
    head[policy.family.image_token_id] = states.mean(0) * love
    banned = set(policy.family.banned_token_ids())
    with torch.no_grad():
        first = torch.log_softmax(states @ head.T, dim=-1)
    assert (first.argmax(-1) == policy.family.image_token_id).all()
    found = draw(policy, temperature=temperature, max_new_tokens=6)
    drawn = [token for group in tokens(found) for ids in group for token in ids]
    assert banned.isdisjoint(drawn)
    if temperature:
        assert len(set(drawn)) > 20


@pytest.fixture
def ends(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Let 30 of the 303 words end a completion, so that lengths differ."""
    monkeypatch.setattr(policy.processor, "end_ids", tuple(range(60, 90)))
    return set(range(60, 90))


def test_a_completion_stops_at_its_first_end_token(policy: Policy, ends: set[int]) -> None:
    found = draw(policy, group_size=16, max_new_tokens=20)
    finishes = {"stop": 0, "length": 0}
    for completion in (c for group in found for c in group):
        finishes[completion.finish] += 1
        assert ends.isdisjoint(completion.token_ids[:-1])
        assert (completion.token_ids[-1] in ends) == (completion.finish == "stop")
        assert completion.finish == "stop" or len(completion.token_ids) == 20
        assert len(completion.token_ids) == len(completion.sampled_logprobs)
    assert min(finishes.values()) > 3


@pytest.mark.usefixtures("ends")
def test_finished_completions_that_leave_do_not_change_the_others(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [
        problem(f"p{i}", "<image>How many?" if i % 2 else "How many?", *[(56, 56)] * (i % 2))
        for i in range(9)
    ]
    kept: list[tuple[int, int]] = []
    keep = DecodeCache.keep

    def counted(cache: DecodeCache, groups: torch.Tensor, members: torch.Tensor) -> DecodeCache:
        kept.append(tuple(members.shape))
        return keep(cache, groups, members)

    monkeypatch.setattr(DecodeCache, "keep", counted)
    found = draw(policy, problems, group_size=4, max_new_tokens=60)
    assert len(kept) >= 3 and all(n * g <= 27 for n, g in kept)
    assert len({n for n, _ in kept}) > 1 and len({g for _, g in kept}) > 1
    monkeypatch.setattr(rows, "COMPACT_SHARE", -1.0)
    wanted = draw(policy, problems, group_size=4, max_new_tokens=60)
    assert tokens(found) == tokens(wanted)
    inputs = collated(policy, problems, found)
    gap = (policy(inputs, CLEAN).logprobs - inputs.sampled_logprobs) * inputs.completion_mask
    assert gap.abs().max() <= 5e-6


@pytest.mark.parametrize("least", [1, 7, 16])
def test_no_end_token_comes_before_the_least_length(policy: Policy, ends: set[int], least: int) -> None:
    """`min_new_tokens` tokens come before an end token may, as in transformers."""
    drawn = [
        c.token_ids for c in draw(policy, [ONE], group_size=60, max_new_tokens=16, min_new_tokens=least)[0]
    ]
    assert all(ends.isdisjoint(ids[:least]) for ids in drawn)
    assert min(map(len, drawn)) == min(least + 1, 16)


def first_distribution(policy: Policy, of: Problem) -> np.ndarray:
    """Probabilities of the first token, the banned ones left out."""
    inputs = collated(policy, [of], draw(policy, [of], group_size=1, max_new_tokens=1))
    mask = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        log_p = policy(inputs, CLEAN).log_probs_at(mask)[0]
    p: np.ndarray = (
        log_p.double().exp().index_fill(0, torch.tensor(policy.family.banned_token_ids()), 0).numpy()
    )
    return p / p.sum()


def test_frequencies_follow_the_distribution(policy: Policy) -> None:
    size = 6000
    counts = np.bincount(
        [c.token_ids[0] for c in draw(policy, [ONE], group_size=size, max_new_tokens=1)[0]],
        minlength=303,
    )
    expected = first_distribution(policy, ONE) * size
    assert counts[expected == 0].sum() == 0
    common, rare = expected >= 5, (expected > 0) & (expected < 5)
    kept = slice(None) if rare.any() else slice(-1)
    seen = np.append(counts[common], counts[rare].sum())[kept]
    wanted = np.append(expected[common], expected[rare].sum())[kept]
    freedom = len(seen) - 1
    chi_square = float(((seen - wanted) ** 2 / wanted).sum())
    assert freedom > 50
    assert abs(chi_square - freedom) < 3.5 * (2 * freedom) ** 0.5
    shifted = np.roll(wanted, 1)
    assert float(((seen - shifted) ** 2 / shifted).sum()) > 5 * freedom


def test_top_p_keeps_the_smallest_set_that_reaches_it(policy: Policy) -> None:
    p = first_distribution(policy, ONE)
    order = np.argsort(-p)
    size = int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1
    found = draw(policy, [ONE], group_size=3000, max_new_tokens=1, top_p=0.5)[0]
    drawn = {c.token_ids[0] for c in found}
    assert drawn == set(order[:size].tolist())


def test_inverse_cdf_never_reaches_a_token_without_weight() -> None:
    weights = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]], dtype=torch.float64).expand(4, -1)
    uniform = torch.tensor([0.0, 0.29, 0.31, 1 - 2**-53], dtype=torch.float64)
    for top_p in (1.0, 0.9):
        found = inverse_cdf(weights, uniform, top_p=top_p)[0]
        assert found.tolist() == [1, 1, 3, 3]
    assert inverse_cdf(weights, uniform, top_p=0.6)[0].tolist() == [3, 3, 3, 3]
    tiny = torch.tensor([[0.1] * 3 + [0.0]], dtype=torch.float64)
    assert inverse_cdf(tiny, uniform[3:], top_p=1.0)[0].tolist() == [2]


@pytest.mark.parametrize("size", [4096, 5000, 9001])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_large_vocabulary_is_drawn_from_as_a_small_one(
    size: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are summed by blocks first; a third of them are 0, in runs longer than a block too."""
    noise = np.random.default_rng(3)
    weights = torch.from_numpy(noise.random((64, size)) ** 20).float()
    weights[:, ::3], weights[:, 700:1400], weights[:, -200:] = 0, 0, 0
    uniform = torch.from_numpy(np.append(noise.random(60), [0.0, 1 - 2**-53, 0.5, 2**-60]))
    found, sound = inverse_cdf(weights, uniform, top_p=top_p)
    monkeypatch.setattr(draws, "LARGE", 10**6)
    wanted, _ = inverse_cdf(weights, uniform, top_p=top_p)
    assert bool(sound.all()) and len(set(found.tolist())) > 50
    assert bool((weights.gather(1, found[:, None]) > 0).all())
    # Sums in another order: the edge between two neighbours may lie elsewhere by rounding.
    assert int((found != wanted).sum()) <= 1


def test_completions_carry_text_version_and_view(policy: Policy) -> None:
    engine = LocalEngine(policy)
    engine.load_weights({}, version=7)
    found = engine.generate(
        [NONE], sampling=Sampling(group_size=2, max_new_tokens=4), key=(0,), view="noised"
    )
    for completion in found[0]:
        assert completion.text == policy.processor.decode(completion.token_ids)
        assert (completion.policy_version, completion.view) == (7, "noised")
    assert "version 7" in engine.health()


def test_sampling_leaves_the_mode_and_the_gradients_alone(policy: Policy) -> None:
    for training in (True, False):
        policy.train(training)
        draw(policy, [NONE], max_new_tokens=2)
        assert policy.training == training
        assert policy.model.training == training
    policy.train()
    assert all(weight.grad is None for weight in policy.parameters())


def test_sampling_under_gradient_checkpointing_changes_nothing(tiny_folder: Path, policy: Policy) -> None:
    other = load_policy(str(tiny_folder))
    other.model.gradient_checkpointing_enable()  # type: ignore[operator]
    assert tokens(draw(other)) == tokens(draw(policy))


def test_no_problem_gives_no_completion(policy: Policy) -> None:
    assert draw(policy, []) == []


@pytest.mark.parametrize("path", ["split", "tiled", "dense"])
@pytest.mark.parametrize("limit", [1, 150])
def test_prefill_in_parts_gives_the_completions_of_one_part(
    policy: Policy, limit: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [len(policy.processor.encode(of).prompt.token_ids) for of in ALL]
    sizes: list[int] = []
    run = Policy.prefill

    def prefill(self: Policy, row: Sequence[Encoded], **options: bool) -> object:
        sizes.append(sum(len(item.prompt.token_ids) for item in row))
        return run(self, row, **options)

    monkeypatch.setattr(Policy, "prefill", prefill)
    policy.attention_path = path  # type: ignore[assignment]
    try:
        wanted = draw(policy)
        assert sizes == [sum(lengths)]
        sizes.clear()
        found = draw(policy, row_tokens=limit)
        assert len(sizes) > 1 and sum(sizes) == sum(lengths)
        assert max(sizes) <= max(limit, *lengths)
    finally:
        policy.attention_path = "split"
    assert tokens(found) == tokens(wanted)
    for ours, theirs in zip(sum(found, ()), sum(wanted, ()), strict=True):
        assert ours.sampled_logprobs == pytest.approx(theirs.sampled_logprobs, abs=5e-6)


def test_parts_of_a_prefill_are_whole_prompts_up_to_the_limit() -> None:
    assert local._parts([4, 6, 1, 12, 3], most=10) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_entropies_equal_those_of_the_forward(policy: Policy, temperature: float) -> None:
    plain = draw(policy, temperature=temperature, top_p=0.7)
    assert all(c.sampled_entropies is None for group in plain for c in group)
    found = draw(policy, temperature=temperature, top_p=0.7, entropies=True)
    assert tokens(found) == tokens(plain)
    inputs = collated(policy, ALL, found)
    assert inputs.sampled_entropies is not None
    wanted = policy(inputs, CLEAN, temperature=temperature).entropy
    assert ((wanted - inputs.sampled_entropies) * inputs.completion_mask).abs().max() <= 5e-6
    assert float(wanted.max()) > 1


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of the keys of each cache."""
    found: list[int] = []
    of = DecodeCache.of.__func__  # type: ignore[attr-defined]

    def made(cls: type, *args: Any, **given: Any) -> DecodeCache:
        cache: DecodeCache = of(cls, *args, **given)
        keys, own = cache.prefix[0][0], cache.own[0][0]
        found.append(cache.groups * (keys.shape[2] + own.shape[2] * own.shape[3]))
        return cache

    monkeypatch.setattr(DecodeCache, "of", classmethod(made))
    return found


@pytest.mark.parametrize(("row_tokens", "parts"), [(1, 4), (28, 2), (60, 1), (1000, 1)])
def test_keys_held_at_once_are_bounded_and_change_no_token(
    policy: Policy, caches: list[int], row_tokens: int, parts: int
) -> None:
    wanted = draw(policy, entropies=True)
    caches.clear()
    found = draw(policy, entropies=True, row_tokens=row_tokens)
    assert tokens(found) == tokens(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.sampled_logprobs == pytest.approx(other.sampled_logprobs, abs=1e-5)
            assert one.sampled_entropies == pytest.approx(other.sampled_entropies, abs=1e-5)
    assert len(caches) == parts
    single = max(len(policy.processor.encode(of).prompt.token_ids) for of in ALL) + 3 * 16
    assert max(caches) <= max(local.KEYS_PER_ROW_TOKEN * row_tokens, single)


def test_prompts_are_held_for_a_step_that_fits_over_all_its_calls(policy: Policy) -> None:
    size = sum(len(policy.processor.encode(of).prompt.token_ids) + 3 * 16 for of in ALL)
    draw(policy, ALL[:2], hold_tokens=size)
    assert policy.held.tokens > 0
    draw(policy, ALL[2:], hold_tokens=size)
    assert [p.problem_id for row in policy.held.rows for p in row.prompts] == [of.id for of in ALL]
    before = policy.held.tokens
    draw(policy, ALL[:1], hold_tokens=size)
    assert policy.held.tokens == before
    policy.held.clear()
    draw(policy, ALL[:2], hold_tokens=size)
    assert policy.held.tokens > 0
    policy.held.clear()


def test_a_problem_that_is_twice_in_a_step_keeps_the_prompt_of_each(policy: Policy) -> None:
    twice = (ONE, replace(ONE))
    first = [policy.processor.encode(of) for of in twice]
    assert first[0] is not first[1]
    assert all(policy.processor.encode(of) is found for of, found in zip(twice, first, strict=True))


def test_only_running_rows_stay_and_their_keys_as_a_rectangle(policy: Policy) -> None:
    keys = torch.randn(1, 2, 9, 4)
    cache = DecodeCache.of({0: (keys, keys)}, (4, 3, 2), group_size=4, length=5)
    every = torch.arange(12)
    running = torch.zeros(12, dtype=torch.bool)
    running[[0, 1, 3, 9]] = True
    batch = rows.Batch(cache=cache, rows=every, position=10 * every, noise=None, running=running)
    assert batch.left(0.3) is None
    found = batch.left(0.9)
    assert found is not None
    places, left = found
    assert places.tolist() == left.rows.tolist() == [0, 1, 3, 9]
    assert left.position.tolist() == [0, 10, 30, 90] and left.running.all()
    # Two groups by the three that run in the fuller; the other one's second is where its running one went.
    assert (left.cache.groups, left.cache.group_size) == (2, 3)
    assert left.cache.slots is not None
    owners = (left.cache.slots // 3).tolist()
    assert owners == [0, 0, 0, 1]
    last = replace(left, running=torch.tensor([False, False, False, True])).left(0.9)
    assert last is not None
    assert last[0].tolist() == [3] and last[1].rows.tolist() == [9]
    assert (last[1].cache.groups, last[1].cache.group_size, last[1].cache.slots) == (1, 1, None)
