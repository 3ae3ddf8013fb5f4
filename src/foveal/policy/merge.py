"""Attention of a packed row from its two parts, merged by log-sum-exp."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.policy.segments import Kernel, Segments

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of some tokens in one layer."""


@dataclass(frozen=True, kw_only=True)
class RowParts:
    """A packed row `[p1 .. pn][c1 .. cB]` as two ragged calls: each prompt and each completion within itself,
    and the completion tokens of each prompt over that prompt. Without its prompts the row is `[c1 .. cB]`."""

    own: Segments
    prefix: Segments

    @staticmethod
    def of(
        prompt_lengths: tuple[int, ...],
        completion_lengths: tuple[int, ...],
        completion_prompts: tuple[int, ...],
        *,
        device: torch.device,
        with_prompts: bool = True,
    ) -> "RowParts":
        """From the lengths of prompts and completions, these in the order of their prompts."""
        tokens = [0] * len(prompt_lengths)
        for prompt, length in zip(completion_prompts, completion_lengths, strict=True):
            tokens[prompt] += length
        lengths = (*(prompt_lengths if with_prompts else ()), *filter(None, completion_lengths))
        return RowParts(
            own=Segments(query_lengths=lengths, key_lengths=lengths, causal=True, device=device),
            prefix=Segments(
                query_lengths=tuple(tokens), key_lengths=prompt_lengths, causal=False, device=device
            ),
        )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parts: RowParts,
    scale: float,
    *,
    kernel: Kernel,
    prompts: KeysValues | None = None,
) -> Tensor:
    """Attention [S, heads, d] of a packed row's queries [S, heads, d] over its keys, with gradient.

    `prompts`: keys and values [P, kv_heads, d] of the prompts, where the row is without them.
    """
    output: Tensor = _Merged.apply(query, key, value, *(prompts or (None, None)), parts, scale, kernel)  # type: ignore[no-untyped-call]
    return output


class _Merged(torch.autograd.Function):
    """Two parts with log-sum-exps s_1 and s_2, merged: s = log(e^{s_1} + e^{s_2}), o = sum_i e^{s_i - s} o_i.

    The backward of a part takes the merged o and s, so that its probabilities and its delta are those of the
    whole row: the gradient is exact.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor | None,
        prompt_value: Tensor | None,
        parts: RowParts,
        scale: float,
        kernel: Kernel,
    ) -> Tensor:
        output, lse = kernel.forward(query, key, value, parts.own, scale)
        first = len(query) - sum(parts.prefix.query_lengths)
        if first < len(query):
            seen = _seen(key, value, prompt_key, prompt_value, first)
            other, other_lse = kernel.forward(query[first:], *seen, parts.prefix, scale)
            merged = torch.logaddexp(lse[:, first:], other_lse)
            share = torch.exp(lse[:, first:] - merged).t().unsqueeze(-1)
            other_share = torch.exp(other_lse - merged).t().unsqueeze(-1)
            output[first:] = output[first:] * share + other * other_share
            lse[:, first:] = merged
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, output, lse)  # type: ignore[arg-type]
        ctx.given = parts, scale, kernel, first  # type: ignore[attr-defined]
        return output

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, output, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        parts, scale, kernel, first = ctx.given  # type: ignore[attr-defined]
        grad = grad.contiguous()
        found = kernel.backward(grad, query, key, value, output, lse, parts.own, scale)
        if first == len(query):
            return *found, None, None, None, None, None
        other_query, *other = kernel.backward(
            grad[first:],
            query[first:],
            *_seen(key, value, prompt_key, prompt_value, first),
            output[first:],
            lse[:, first:].contiguous(),
            parts.prefix,
            scale,
        )
        found[0][first:] += other_query
        if prompt_key is not None:
            return *found, *other, None, None, None
        found[1][:first] += other[0]
        found[2][:first] += other[1]
        return *found, None, None, None, None, None


def _seen(
    key: Tensor, value: Tensor, prompt_key: Tensor | None, prompt_value: Tensor | None, first: int
) -> KeysValues:
    """The prompts' keys and values: those handed in, or those of the row."""
    if prompt_key is None or prompt_value is None:
        return key[:first], value[:first]
    return prompt_key, prompt_value
