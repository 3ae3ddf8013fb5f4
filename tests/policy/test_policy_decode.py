"""Decoding: the cache against a loop, and merged weights against the model's own layers."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foveal.policy import Policy, load_policy
from foveal.policy.decode import DecodeCache, FixedCache, LayerDecoder
from foveal.policy.families.qwen2_5_vl import Qwen25VL
from foveal.policy.families.qwen2_5_vl_decode import MergedDecoder
from foveal.policy.linears import PLAIN, Linears
from foveal.rollout.local import LocalEngine
from foveal.types import Completion, Sampling
from policy_cases import NONE, ONE, TALL, TWO

HEADS, KV, WIDTH, STEPS = 4, 2, 8, 3


@pytest.fixture
def policy(tiny_folder: Path) -> Policy:
    torch.set_num_threads(1)
    return load_policy(str(tiny_folder))


def drawn(policy: Policy) -> list[Completion]:
    sampling = Sampling(group_size=3, max_new_tokens=16)
    return [
        c
        for group in LocalEngine(policy).generate((ONE, TWO, NONE, TALL), sampling=sampling, key=(5,))
        for c in group
    ]


def looped(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one row: query [heads, d] over keys and values [kv_heads, S, d]."""
    found = []
    for head in range(HEADS):
        own_keys, own_values = keys[head // (HEADS // KV)], values[head // (HEADS // KV)]
        found.append(torch.softmax(own_keys @ query[head], dim=0) @ own_values)
    return torch.stack(found)


@pytest.mark.parametrize("lengths", [(5,), (4, 4), (6, 1, 3)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", [DecodeCache, FixedCache])
@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
def test_the_cache_attends_as_a_loop_over_rows(
    kind: type[DecodeCache], lengths: tuple[int, ...], keep: bool, window: int | None
) -> None:
    torch.manual_seed(0)
    n, g = len(lengths), 3
    prefix = [torch.randn(1, KV, sum(lengths), WIDTH, dtype=torch.float64) for _ in range(2)]
    captured = {0: (prefix[0], prefix[1])}
    cache = kind.of(captured, lengths, group_size=g, length=STEPS, windows=(window,))
    assert (cache.prefix_bias is None) == (len(set(lengths)) == 1)
    rows = [(owner, member) for owner in range(n) for member in range(g)]
    parts = [[x[0].split(lengths, dim=1)[owner] for owner, _ in rows] for x in prefix]
    for step in range(STEPS):
        if keep and step == 2:
            groups, members = torch.tensor([n - 1]), torch.tensor([[0, 2]])
            kept = [rows.index((n - 1, 0)), rows.index((n - 1, 2))]
            cache, parts = cache.keep(groups, members), [[x[row] for row in kept] for x in parts]
        cache.step = step
        if isinstance(cache, FixedCache):
            cache.size = STEPS
            cache.advance()
        b = len(parts[0])
        query = torch.randn(b, HEADS, WIDTH, dtype=torch.float64)
        key, value = (torch.randn(b, KV, WIDTH, dtype=torch.float64) for _ in range(2))
        parts = [
            [torch.cat([old, new[row][:, None]], dim=1) for row, old in enumerate(olds)]
            for olds, new in zip(parts, (key, value), strict=True)
        ]
        found = cache.attend(0, query, key, value)
        first = -(window or 0)
        seen = [[x[:, first:] for x in part] for part in parts]
        wanted = torch.stack([looped(query[row], seen[0][row], seen[1][row]) for row in range(b)])
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_merged_weights_draw_what_the_models_own_layers_draw(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(policy.family.decoder(policy.model, PLAIN), MergedDecoder)
    merged = drawn(policy)

    def layers(family: Qwen25VL, model: nn.Module, linears: Linears) -> LayerDecoder:
        return LayerDecoder(hidden=partial(family.hidden, model), axes=3)

    monkeypatch.setattr(Qwen25VL, "decoder", layers)
    for ours, theirs in zip(merged, drawn(policy), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.sampled_logprobs == pytest.approx(theirs.sampled_logprobs, abs=5e-6)


def test_layers_that_are_not_plain_are_run_themselves(policy: Policy) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain = drawn(policy)
    policy.model.model.language_model.layers[0].mlp.up_proj.__class__ = Doubled  # type: ignore[union-attr]
    assert isinstance(policy.family.decoder(policy.model, PLAIN), LayerDecoder)
    assert drawn(policy) != plain


def test_weights_that_changed_are_those_of_the_next_completions(policy: Policy) -> None:
    before = drawn(policy)
    with torch.no_grad():
        policy.model.model.language_model.layers[0].self_attn.q_proj.weight.mul_(-3)  # type: ignore[union-attr]
    after = drawn(policy)
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
