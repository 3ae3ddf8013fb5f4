"""Drawing tokens from states: the head, what is banned, the inverse of the cumulated weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveal.policy.linears import FixedLinear
from foveal.policy.model import Policy
from foveal.ranges import DRAW, HEAD, span, spanned
from foveal.spec import FovealError
from foveal.types import Sampling

BLOCK = 128
"""Words of a large vocabulary whose weights are added up first: to cumulate 150,000 in a row in float64 takes
longer than all else in drawing."""

LARGE = 4096
"""Words from which on that is faster."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A token of each row, its log-probability and, where wanted, the entropy of its distribution."""

    token: Int[Tensor, "B"]
    logprob: Float[Tensor, "B"]
    entropy: Float[Tensor, "B"] | None
    sound: Bool[Tensor, "B"] | None
    """False where no token has a weight, since the logits are not finite; the token then means nothing. None
    for greedy drawing."""


class Draw:
    """Draws tokens from the last hidden states. Shapes do not depend on values, and nothing waits for the
    device."""

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        weight, bias = policy.family.head(policy.model)
        self.head = FixedLinear(weight, bias, policy.linears)
        self.sampling = sampling
        banned, ends = policy.family.banned_token_ids(), policy.processor.end_ids
        self.banned = torch.tensor(banned, device=policy.device, dtype=torch.long)
        self.banned_early = torch.tensor((*banned, *ends), device=policy.device, dtype=torch.long)
        self.ends = torch.zeros(len(weight), dtype=torch.bool)
        self.ends[list(ends)] = True
        self.ends = self.ends.to(policy.device)

    @spanned(DRAW)
    def __call__(self, states: Tensor, uniform: Tensor | None, *, early: bool) -> Drawn:
        """From states [B, H] and, unless the likeliest is taken, numbers [B] in [0, 1).

        `early`: the completion must not end yet.
        """
        with span(HEAD):
            logits = self.head(states).float()
        if self.sampling.temperature not in (0.0, 1.0):
            logits = logits / self.sampling.temperature
        logprobs = torch.log_softmax(logits, dim=-1)
        entropy = -logprobs.exp().mul_(logprobs).sum(-1) if self.sampling.entropies else None
        allowed = logprobs.index_fill_(-1, self.banned_early if early else self.banned, -torch.inf)
        sound = None
        if uniform is None:
            token = allowed.argmax(-1)
        else:
            # Softmax, not exp: what is allowed may be too unlikely beside a banned token to have a weight of
            # its own.
            weights = torch.softmax(allowed, dim=-1)
            token, sound = inverse_cdf(weights, uniform, top_p=self.sampling.top_p)
        return Drawn(
            token=token, logprob=allowed.gather(-1, token[:, None])[:, 0], entropy=entropy, sound=sound
        )

    def is_end(self, token: Tensor, rows: Tensor, step: int | Tensor) -> Tensor:
        """Whether tokens, the `step`-th of these rows from 0, end their completions."""
        return self.ends[token]


def nothing_can_be_sampled() -> FovealError:
    """What is told where logits are not finite."""
    return FovealError(
        "nothing can be sampled: the model's logits are not finite, so training has broken it, or it was so "
        "from the start; start a new run from a sound model and with a lower optimizer.lr or coefficient of "
        "the objective"
    )


def inverse_cdf(weights: Tensor, uniform: Tensor, *, top_p: float) -> tuple[Tensor, Tensor]:
    """The token at which the cumulated weights [B, V] pass `uniform` [B] of their total; and whether there is
    one: where weights are NaN or all 0 it is some token.

    `top_p` below 1 keeps the likeliest tokens whose weights before them add up to less than top_p. A token
    without weight is never taken.
    """
    if top_p < 1:
        ordered, order = weights.sort(dim=-1, descending=True)
        ordered = ordered / ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        weights = torch.zeros_like(weights).scatter(-1, order, ordered * (before < top_p))
    size = weights.shape[-1]
    if size < LARGE:
        place, cumulated, _ = _passed(weights, uniform)
        return place[:, 0], cumulated[:, -1] > 0
    blocks = F.pad(weights, (0, -size % BLOCK)).view(len(weights), -1, BLOCK)
    sums = blocks.sum(-1)
    block, cumulated, target = _passed(sums, uniform)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0]
    left = (cumulated.gather(-1, block) - target) / sums.gather(-1, block)
    token = block * BLOCK + _passed(inside, (1 - left[:, 0]).clamp_(0, 1))[0]
    return token[:, 0].clamp_(max=size - 1), cumulated[:, -1] > 0


def _passed(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where cumulated weights pass a share [B] of their total (Int [B, 1]), the cumulated weights [B, K], and
    what is passed [B, 1]."""
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    # Strictly below the total even after rounding, so that a place without weight is never reached.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulated, target, right=True).clamp_(max=weights.shape[-1] - 1)
    return place, cumulated, target
