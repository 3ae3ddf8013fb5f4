"""The group-shared forward against one row a completion through transformers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from foveal.policy import Policy, head, load_policy
from foveal.policy import forward as packing
from foveal.policy.attention import PackedLayout
from foveal.policy.families.qwen2_5_vl_layer import rotate
from foveal.policy.forward import micro_batches, pack
from foveal.spec import FovealError
from foveal.types import CLEAN
from policy_cases import (
    CASES,
    MIXED,
    batch,
    close,
    distance,
    plain,
    plain_logits,
    plain_model,
    restored,
    shared,
    weights,
)

PATHS = ("split", "tiled", "dense")


@pytest.fixture(autouse=True)
def restore(policy: Policy) -> Iterator[None]:
    with restored(policy):
        yield


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers computes in float32 whatever the model's type, let it keep float64."""

    def norm(module: Any, x: Tensor) -> Tensor:
        scale: Tensor = module.weight * torch.rsqrt(
            x.square().mean(-1, keepdim=True) + module.variance_epsilon
        )
        return scale * x

    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return tuple(x * cos + modeling.rotate_half(x) * sin for x in (q, k))

    monkeypatch.setattr(modeling.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb_vision", turn)


@pytest.mark.parametrize("case", CASES)
def test_shared_forward_equals_plain_forward(policy: Policy, case: str) -> None:
    inputs = batch(policy, *CASES[case])
    wanted = plain(policy, inputs)
    for path in PATHS:
        policy.attention_path = path
        found = shared(policy, inputs)
        assert close(found, wanted), path


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("path", PATHS)
def test_shared_forward_equals_plain_forward_to_ten_digits_in_float64(tiny_folder: Path, path: str) -> None:
    policy = load_policy(str(tiny_folder), attention=path)
    policy.double()
    inputs = batch(policy, *MIXED)
    assert close(shared(policy, inputs), plain(policy, inputs), logprobs=1e-10, grads=1e-10)


def test_pictures_and_their_order_change_the_log_probs(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    wrong = list(inputs.vision[CLEAN].pixels)
    wrong[1] = wrong[1].flip(0)
    changed = replace(inputs, vision={CLEAN: replace(inputs.vision[CLEAN], pixels=tuple(wrong))})
    gap = (shared(policy, changed).logprobs - shared(policy, inputs).logprobs).abs()
    assert gap[3:6].max() > 0.01
    assert gap[:3].max() == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_completion_given_another_prompt_is_noticed(
    policy: Policy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = batch(policy, *CASES["group_of_eight"])
    wanted = plain(policy, inputs)

    def misplaced(*args: object, **given: object) -> packing.PackedRow:
        row = pack(*args, **given)  # type: ignore[arg-type]
        owners = (0,) * 7 + (1,) * 9
        return replace(row, layout=replace(row.layout, completion_prompts=owners))

    policy.attention_path = path
    assert close(shared(policy, inputs), wanted)
    monkeypatch.setattr(packing, "pack", misplaced)
    found = shared(policy, inputs)
    assert not close(found, wanted)
    assert (found.logprobs - wanted.logprobs).abs().max() > 1e-3


def test_completions_out_of_the_order_of_their_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="order of their prompts"):
        PackedLayout(
            prompt_lengths=(2, 3),
            completion_lengths=(1, 1),
            completion_prompts=(1, 0),
            device=torch.device("cpu"),
        )


@pytest.mark.parametrize("path", PATHS)
def test_gradient_checkpointing_changes_nothing(tiny_folder: Path, path: str) -> None:
    policy = load_policy(str(tiny_folder), attention=path)
    inputs = batch(policy, *MIXED)
    wanted = plain(policy, inputs)
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    assert close(shared(policy, inputs), wanted)


@pytest.mark.parametrize("path", PATHS)
def test_chosen_rows_equal_plain_forward_and_others_hold_zeros(policy: Policy, path: str) -> None:
    inputs = batch(policy, *MIXED)
    rows = torch.zeros(12, dtype=torch.bool)
    rows[[1, 2, 6, 11]] = True
    policy.attention_path = path
    found = shared(policy, inputs, rows=rows)
    assert close(found, plain(policy, inputs, rows=rows))
    assert found.logprobs[~rows].abs().sum() == 0
    assert found.entropy[~rows].abs().sum() == 0


def test_no_chosen_row_gives_zeros_and_no_distributions(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    stats = policy(inputs, CLEAN, rows=torch.zeros(12, dtype=torch.bool))
    assert stats.logprobs.abs().sum() + stats.entropy.abs().sum() == 0
    with pytest.raises(FovealError, match=r"Objective\.rows"):
        stats.log_probs_at(inputs.completion_mask)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_temperature_divides_the_logits(policy: Policy, temperature: float) -> None:
    inputs = batch(policy, *MIXED)
    wanted = plain(policy, inputs, temperature=temperature)
    assert close(shared(policy, inputs, temperature=temperature), wanted)
    assert not close(shared(policy, inputs), wanted)


def test_head_in_small_chunks_equals_plain_forward(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = batch(policy, *MIXED)
    wanted = plain(policy, inputs, temperature=1.3)
    words = policy.processor.tokenizer.vocab_size + 100
    for rows in (1, 7):
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", rows * words)
        assert close(shared(policy, inputs, temperature=1.3), wanted)


def test_a_16_bit_heads_gradient_is_no_worse_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen bits have eight for the number: summed in them, what a chunk adds is lost in the sum."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2048, 32, generator=rng), torch.randn(97, 32, generator=rng) / 6
    targets = torch.randint(97, (2048,), generator=rng)

    def gradient(dtype: torch.dtype, rows: int) -> torch.Tensor:
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", rows * 97)
        leaf = weight.to(dtype).requires_grad_()
        logprobs, entropy = head.token_stats(hidden.to(dtype), leaf, None, targets, temperature=1.0)
        (logprobs.sum() + entropy.sum()).backward()
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        return leaf.grad.double()

    exact = gradient(torch.float64, 2048)
    whole, cut = (float((gradient(torch.bfloat16, rows) - exact).norm() / exact.norm()) for rows in (2048, 8))
    assert 0 < cut < 1.1 * whole < 0.02


@pytest.mark.parametrize("chunk", [1 << 24, 2000])
def test_tied_head_equals_plain_forward(
    tied_folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(str(tied_folder))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    inputs = batch(policy, *MIXED)
    wanted = plain(policy, inputs)
    assert "lm_head.weight" not in wanted.grads
    assert close(shared(policy, inputs), wanted)


def test_a_frozen_head_leaves_the_other_gradients_as_they_are(tiny_folder: Path) -> None:
    policy = load_policy(str(tiny_folder))
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    policy.model.lm_head.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    policy.model.lm_head.weight.grad = None  # type: ignore[union-attr]
    found = shared(policy, inputs)
    assert float(found.grads["lm_head.weight"].abs().sum()) == 0
    rest = {name: grad for name, grad in wanted.grads.items() if name != "lm_head.weight"}
    assert distance({name: found.grads[name] for name in rest}, rest) == 0


def test_log_probs_at_gives_full_distributions_in_row_major_order_with_gradient(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    mask = torch.rand(inputs.completion_mask.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    mask &= inputs.completion_mask
    model = plain_model(policy)
    places = mask.nonzero().tolist()
    weight = torch.randn(
        len(places), policy.model.lm_head.weight.shape[0], generator=torch.Generator().manual_seed(1)
    )  # type: ignore[union-attr, index]
    parts = [torch.log_softmax(plain_logits(model, policy, inputs, b)[t] / 0.8, dim=-1) for b, t in places]
    wanted = torch.stack(parts)
    (wanted * weight).sum().backward()
    found = policy(inputs, CLEAN, temperature=0.8).log_probs_at(mask)
    (found * weight).sum().backward()
    assert len(places) > 10
    assert (found - wanted).abs().max() <= 5e-6
    both = [{n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (policy.model, model)]
    assert distance(both[0], both[1]) <= 1e-5


def test_a_dropped_token_still_belongs_to_the_sequence(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    mask = inputs.completion_mask.clone()
    mask[0, 2] = False
    found = policy(replace(inputs, completion_mask=mask), CLEAN)
    assert torch.equal(found.logprobs, policy(inputs, CLEAN).logprobs)


def layout(
    *, prompts: tuple[int, ...], completions: tuple[int, ...], owners: tuple[int, ...]
) -> PackedLayout:
    return PackedLayout(
        prompt_lengths=prompts,
        completion_lengths=completions,
        completion_prompts=owners,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_split_attention_equals_dense_for_steep_scores_and_uneven_lengths(scale: float) -> None:
    """With steep scores the probabilities of padded queries would overflow, were they not kept at zero."""
    where = layout(prompts=(3, 9, 5), completions=(2, 0, 7, 4, 1), owners=(0, 0, 1, 1, 2))
    size = 17 + 14
    draw = torch.Generator().manual_seed(0)
    found = {}
    query, key, value, weight = (
        torch.randn(1, heads, size, 12, generator=draw, dtype=torch.float64) for heads in (4, 2, 2, 4)
    )
    for path in PATHS:
        leaves = [x.clone().requires_grad_() for x in (query * scale, key * scale, value)]
        output = replace(where, path=path).attend(0, *leaves, 0.3)  # type: ignore[arg-type]
        (output * weight).sum().backward()
        found[path] = [output.detach(), *(leaf.grad for leaf in leaves)]
    for one, other in zip(found["split"], found["dense"], strict=True):
        assert one is not None and other is not None
        assert torch.isfinite(one).all()
        assert (one - other).norm() <= 1e-10 * max(1.0, float(other.norm()))


@pytest.mark.parametrize("window", [None, 4, 11])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("completions", [(2, 0, 7, 4, 1), (0, 0, 0, 0, 0)])
def test_attention_of_the_tokens_that_are_read_is_that_of_the_whole_row(
    path: str, window: int | None, completions: tuple[int, ...]
) -> None:
    where = layout(prompts=(3, 9, 1, 5), completions=completions, owners=(0, 0, 1, 1, 3))
    where = replace(where, path=path, windows=(window,))  # type: ignore[arg-type]
    reads = torch.tensor([2, 11, 12, 17, *range(18, 18 + sum(completions))])
    assert where.reads is not None and torch.equal(where.reads, reads)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 18 + sum(completions), 12, generator=draw, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    weight = torch.randn(1, 4, len(reads), 12, generator=draw, dtype=torch.float64)
    found = []
    for read in (False, True):
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        asked = leaves[0][:, :, reads] if read else leaves[0]
        output = where.attend(0, asked, leaves[1], leaves[2], 0.3)
        output = output if read else output[:, :, reads]
        (output * weight).sum().backward()
        found.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() <= 1e-12 * max(1.0, float(one.norm()))


def test_of_the_last_layer_nothing_is_computed_that_is_not_read(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    runs: list[int] = []
    layers = policy.model.model.language_model.layers  # type: ignore[union-attr]
    hooks = [
        module.register_forward_pre_hook(lambda _, given: runs.append(given[0].shape[-2]))
        for layer in (layers[0], layers[-1])
        for module in (layer.self_attn.k_proj, layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp)
    ]
    shared(policy, inputs)
    for hook in hooks:
        hook.remove()
    fed = int((inputs.lengths - 1).clamp(min=0).sum())
    whole, read = fed + sum(len(prompt.token_ids) for prompt in inputs.prompts), fed + len(inputs.prompts)
    assert runs == [whole, whole, whole, whole, whole, read, read, read]


def test_a_rotation_is_the_librarys_and_its_gradient_the_rotation_back() -> None:
    draw = torch.Generator().manual_seed(0)
    x, angle = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((5, 3, 8), (5, 4)))
    cos, sin = (torch.cat([table, table], dim=-1) for table in (angle.cos(), angle.sin()))
    wanted, _ = modeling.apply_rotary_pos_emb(x, x, cos, sin)
    assert (rotate(x, cos[:, None], sin[:, None]) - wanted).abs().max() <= 1e-15
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos[:, None], sin[:, None]), (x,))
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos[:, None], sin[:, None]), (x,))


@pytest.mark.parametrize("tokens", [1, 60, 90, 150, 10_000])
def test_micro_batches_hold_every_row_once_within_the_bound(policy: Policy, tokens: int) -> None:
    inputs = batch(policy, *MIXED)
    parts = micro_batches(inputs, tokens=tokens)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(12))
    for part in parts:
        size = len(pack(inputs, part, path="split").token_ids)
        assert size <= tokens or len(part) == 1
    if tokens == 10_000:
        assert len(parts) == 1


def test_micro_batches_keep_groups_whole_when_they_fit(policy: Policy) -> None:
    inputs = batch(policy, *CASES["group_of_eight"])
    whole = max(
        len(prompt.token_ids) + int(inputs.lengths[inputs.prompt_index == n].sum())
        for n, prompt in enumerate(inputs.prompts)
    )
    assert [part.tolist() for part in micro_batches(inputs, tokens=whole)] == [[*range(8)], [*range(8, 16)]]


def test_micro_batches_take_a_choice_of_rows(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    parts = micro_batches(inputs, tokens=80, rows=torch.tensor([1, 5, 7, 8]))
    assert sorted(row for part in parts for row in part.tolist()) == [1, 5, 7, 8]


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_gradients_summed_over_micro_batches_equal_the_whole(
    tiny_folder: Path, dtype: torch.dtype, bound: float
) -> None:
    policy = load_policy(str(tiny_folder))
    policy.to(dtype)
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    policy.zero_grad()
    parts = micro_batches(inputs, tokens=60)
    assert len(parts) > 4
    weight = weights(inputs, dtype)
    for factor, near in ((1.0, True), (2.0, False)):
        policy.zero_grad()
        for part in parts:
            rows = torch.zeros(12, dtype=torch.bool).index_fill(0, part, True)
            stats = policy(inputs, CLEAN, rows=rows)
            (((stats.logprobs + 0.3 * stats.entropy) * weight)[rows].sum() * factor).backward()
        found = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
        assert (distance(found, {n: wanted.grads[n] for n in found}) <= bound) == near


def test_the_order_of_the_groups_does_not_change_the_gradient(policy: Policy) -> None:
    found = []
    for order in ((0, 1, 2, 3), (2, 3, 1, 0)):
        inputs = batch(policy, *(MIXED[n] for n in order))
        policy.zero_grad()
        policy(inputs, CLEAN).logprobs[inputs.completion_mask].sum().backward()
        found.append({n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None})
    assert distance(*found) <= 1e-5
