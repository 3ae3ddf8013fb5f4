"""The completions of a call while they are drawn: the batch of running ones, and what has been drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.policy.decode import DecodeCache, Decoder
from foveal.policy.model import Policy
from foveal.ranges import DECODE, TEXT, span
from foveal.rollout.draw import Draw, Drawn, nothing_can_be_sampled

COMPACT_SHARE = 0.9
"""Finished completions leave the batch once what must stay is at most this share of it. The keys stay a
rectangle, and leave by the same rule: groups with a running completion, by as many completions as run in the
fullest of them."""

Feed = Callable[[Tensor, Tensor, DecodeCache], Tensor]
"""Runs tokens [B] at positions [B] through the text layers; their last hidden states [B, H]."""


def feeding(policy: Policy, decoder: Decoder) -> Feed:
    """Feeds a policy's tokens to a decoder of its weights."""

    def feed(token: Tensor, position: Tensor, cache: DecodeCache) -> Tensor:
        with span(DECODE, TEXT):
            return decoder(policy.family.embed(policy.model, token), position, cache)

    return feed


class Record:
    """Everything that is drawn in a call, a row a completion."""

    def __init__(self, rows: int, length: int, *, entropies: bool, device: torch.device) -> None:
        self.ids = torch.zeros(rows, length, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, length, device=device)
        self.entropies = torch.zeros_like(self.logprobs) if entropies else None
        self.lengths = torch.full((rows,), length, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.looked: Callable[[], None] | None = None
        """Called when all tokens of rows that have ended are here, while others are still drawn."""

    def look(self) -> None:
        """Say that rows which have ended are whole."""
        if self.looked is not None:
            self.looked()

    def put(self, rows: Tensor, start: int, drawn: Sequence[Drawn]) -> None:
        """Tokens of some rows from the place `start` on."""
        stop = start + len(drawn)
        self.ids[rows, start:stop] = torch.stack([one.token for one in drawn], dim=1)
        self.logprobs[rows, start:stop] = torch.stack([one.logprob for one in drawn], dim=1)
        if self.entropies is not None:
            entropies = [one.entropy for one in drawn if one.entropy is not None]
            self.entropies[rows, start:stop] = torch.stack(entropies, dim=1)

    def end(self, rows: Tensor, length: int) -> None:
        """These rows have ended with so many tokens."""
        self.lengths[rows], self.ended[rows] = length, True


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The completions that are still fed: all of the cache, or its `slots`."""

    cache: DecodeCache
    rows: Int[Tensor, "B"]
    """Their places in the record."""
    position: Int[Tensor, "B"]
    """Positions of their first tokens."""
    noise: Float[Tensor, "B T"] | None
    """Uniform numbers of each place; None takes the likeliest token."""
    running: Bool[Tensor, "B"]

    def uniform(self, step: int) -> Tensor | None:
        """The numbers that the tokens of a place are drawn with."""
        return None if self.noise is None else self.noise[:, step]

    def begin(self, token: int | Tensor) -> None:
        """Products that are recorded from now on are of this token of each completion."""
        if self.cache.products is not None:
            self.cache.products.begin(self.rows, token)

    def still_needed(self, share: float) -> tuple[Tensor, Tensor] | None:
        """Groups (Int [n]) and, of each, as many members (Int [n, g]) as run in the fullest, the running ones
        among them; None while they are more than `share` of the batch."""
        running = self.running.view(self.cache.groups, self.cache.group_size)
        counts = running.sum(1)
        groups, fullest = counts.nonzero()[:, 0], int(counts.max())
        if len(groups) * fullest > share * running.numel():
            return None
        first = running[groups].int().argsort(dim=1, descending=True, stable=True)
        return groups, first[:, :fullest].sort(dim=1).values

    def left(self, share: float) -> tuple[Tensor, "Batch"] | None:
        """Places (Int [B]) of the running completions, and the batch of these; None while they are more than
        `share` of it."""
        alive = self.running.nonzero()[:, 0]
        if len(alive) > share * len(self.running):
            return None
        size = self.cache.groups * self.cache.group_size
        order = torch.arange(size, device=alive.device)
        slots = (order if self.cache.slots is None else self.cache.slots)[alive]
        whole = replace(self, running=torch.zeros_like(order, dtype=torch.bool).index_fill_(0, slots, True))
        kept, cache = whole.still_needed(share), self.cache
        if kept is not None:
            cache, places = cache.keep(*kept), whole.places(*kept)
            slots = torch.zeros_like(order).index_copy_(0, places, order[: len(places)])[slots]
        full = len(slots) == cache.groups * cache.group_size
        return alive, replace(
            self,
            cache=replace(cache, slots=None if full else slots),
            rows=self.rows[alive],
            position=self.position[alive],
            noise=None if self.noise is None else self.noise[alive],
            running=self.running[alive],
        )

    def places(self, groups: Tensor, members: Tensor) -> Tensor:
        """Where members (Int [n, g]) of groups (Int [n]) are."""
        return (groups[:, None] * self.cache.group_size + members).view(-1)

    def keep(self, groups: Tensor, members: Tensor) -> "Batch":
        """The batch of some completions: groups Int [n], and members Int [n, g] of each of them."""
        places = self.places(groups, members)
        return replace(
            self,
            cache=self.cache.keep(groups, members),
            rows=self.rows[places],
            position=self.position[places],
            noise=None if self.noise is None else self.noise[places],
            running=self.running[places],
        )


def decode(record: Record, batch: Batch, states: Tensor, *, draw: Draw, feed: Feed) -> None:
    """Draw from the prompts' states [B, H] and go on token by token, in shapes that grow, until all have
    ended or the record is full."""
    size, least = record.ids.shape[1], draw.sampling.min_new_tokens
    found: list[Drawn] = []
    since = 0
    for step in range(size):
        drawn = draw(states, batch.uniform(step), early=step < least)
        if drawn.sound is not None and not bool(drawn.sound.all()):
            raise nothing_can_be_sampled()
        found.append(drawn)
        token = drawn.token
        over = draw.is_end(token, batch.rows, step) & batch.running
        if bool(over.any()):
            record.end(batch.rows[over], step + 1)
            batch = replace(batch, running=batch.running & ~over)
            if not bool(batch.running.any()):
                break
            left = batch.left(COMPACT_SHARE)
            if left is not None and step + 1 < size:
                record.put(batch.rows, since, found)
                record.look()
                found, since = [], step + 1
                token, batch = token[left[0]], left[1]
        if step + 1 < size:
            batch.cache.step = step
            batch.begin(step)
            states = feed(token, batch.position + step, batch.cache)
    record.put(batch.rows, since, found)
