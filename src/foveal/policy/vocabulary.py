"""What the logits of a row say of its distribution over the words, and how they slope.

One source of the maths, run in one of two ways: plain, pass by pass through memory, or compiled, where each
function is one or two passes over the logits as they are and makes nothing of their size but its result.
"""

from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

HeadPath = Literal["plain", "compiled"]
"""How the maths of this module runs."""

BACKEND = "inductor"
"""What `torch.compile` hands its graphs to."""


class RowSums(NamedTuple):
    """Of each row of u = scale * logits - top, [n, 1] each and at least float32.

    With them log p_v = u_v - log(total), and the entropy is log(total) - mean, a sum of two numbers that are
    not negative.
    """

    top: Tensor
    """The largest scaled logit."""
    total: Tensor
    """sum_v exp(u_v), from 1 to V."""
    mean: Tensor
    """sum_v p_v u_v, at most 0."""


class Line(NamedTuple):
    """The gradient by the logits as exp(u_v) (curve u_v + height), but at the target; [n, 1] each."""

    curve: Tensor | None
    """None is 0."""
    height: Tensor
    at_target: Tensor | None
    """The gradient there; None where it is like the others."""

    def of(self, part: slice) -> "Line":
        """That of some rows."""
        curve, at_target = (None if x is None else x[part] for x in (self.curve, self.at_target))
        return Line(curve, self.height[part], at_target)


def wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def row_sums(logits: Tensor, scale: Tensor | float, *, spare: bool) -> RowSums:
    """The sums of each row of logits [n, V].

    `spare`: u may be left in place of the logits, which have at least 32 bits then. Without fresh memory this
    takes a CPU two thirds of the time.
    """
    u = _scaled(logits, scale, spare)
    top = u.amax(-1, keepdim=True)
    u = u.sub_(top) if spare else u - top
    p = u.exp()
    total = p.sum(-1, keepdim=True)
    return RowSums(top, total, p.mul_(u).sum(-1, keepdim=True) / total)


def slopes(
    logits: Tensor,
    scale: Tensor | float,
    top: Tensor | None,
    curve: Tensor | None,
    height: Tensor,
    *,
    dtype: torch.dtype,
    spare: bool,
) -> Tensor:
    """exp(u_v) (curve u_v + height), [n, V] in `dtype`.

    Without `top` the logits are u already. `spare`: they may be overwritten.
    """
    u, own = logits, spare or top is not None
    if top is not None:
        u = _scaled(logits, scale, spare)
        u = u.sub_(top) if spare else u - top
    if curve is None:
        return (u.exp_() if own else u.exp()).mul_(height).to(dtype)
    p = u.exp()
    return p.mul_((u.mul_(curve) if own else u * curve).add_(height)).to(dtype)


def _scaled(logits: Tensor, scale: Tensor | float, spare: bool) -> Tensor:
    found = wide(logits)
    if isinstance(scale, float) and scale == 1:
        return found
    return found.mul_(scale) if spare else found * scale


def line(grad_logprobs: Tensor | None, grad_entropy: Tensor | None, sums: Tensor, *, scale: float) -> Line:
    """The gradient by the unscaled logits, from those by log-probability and entropy, [n] or None each.

    -scale p_v (dL/dl + dL/dH (u_v - mean)), and scale dL/dl more at the target; there the sum is taken as a
    whole, since the two nearly cancel where the target is nearly certain. `sums` is that of `summed`.
    """
    _, total, mean, drawn = sums
    lean = -scale / total
    curve = None if grad_entropy is None else lean * grad_entropy[:, None]
    height = torch.zeros_like(drawn) if curve is None else -curve * mean
    if grad_logprobs is None:
        return Line(curve, height, None)
    at_target = -scale * grad_logprobs[:, None] * torch.expm1(drawn - total.log())
    if curve is not None:
        at_target = at_target + curve * drawn.exp() * (drawn - mean)
    return Line(curve, height + lean * grad_logprobs[:, None], at_target)


def summed(logits: Tensor, targets: Tensor, *, scale: float, path: HeadPath) -> tuple[Tensor, Tensor]:
    """What `sloped` takes as kept, in place of the logits [n, V]; and [4, n, 1]: their `RowSums`, and the u
    of the targets [n]."""
    at = targets[:, None]
    if path == "plain":
        u = wide(logits)
        sums = row_sums(u, scale, spare=True)
        return u, torch.stack([*sums, u.gather(-1, at)])
    number = _number(scale, logits)
    sums = _compiled(row_sums)(_words_fixed(logits), number, spare=False)
    drawn = _scaled(logits.gather(-1, at), number, spare=False) - sums.top
    return logits, torch.stack([*sums, drawn])


def sloped(
    logits: Tensor,
    targets: Tensor,
    top: Tensor,
    given: Line,
    *,
    scale: float,
    kept: bool,
    dtype: torch.dtype,
    path: HeadPath,
) -> Tensor:
    """The gradient by logits [n, V], in `dtype`; `kept`: they are what `summed` kept."""
    if path == "compiled":
        number = _number(scale, logits)
        run = _compiled(slopes)
        found: Tensor = run(_words_fixed(logits), number, top, *given[:2], dtype=dtype, spare=False)
    elif kept:
        found = slopes(logits, scale, None, *given[:2], dtype=dtype, spare=False)
    else:
        found = slopes(wide(logits), scale, top, *given[:2], dtype=dtype, spare=True)
    if given.at_target is not None:
        found.scatter_(-1, targets[:, None], given.at_target.to(dtype))
    return found


@cache
def _compiled(function: Any) -> Any:  # noqa: ANN401
    # Not `fullgraph`, though there is one graph: with it, more vocabularies in one process than dynamo keeps
    # code for would be an error; without it, they run uncompiled.
    return torch.compile(function, dynamic=True, backend=BACKEND)


def _number(scale: float, logits: Tensor) -> Tensor:
    """As a tensor: for a number, each new value would be compiled anew."""
    return torch.tensor(scale, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _words_fixed(logits: Tensor) -> Tensor:
    """Rows come in any number, words do not: a width that is known is read in whole vectors."""
    torch._dynamo.mark_static(logits, 1)
    return logits
