"""Decoding in shapes that stay: a token step that a graph of the device can hold, and when it is held."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from foveal.policy.decode import FixedCache
from foveal.ranges import DECODE, span
from foveal.rollout.draw import Draw, Drawn, nothing_can_be_sampled
from foveal.rollout.rows import Batch, Feed, Record

LOOK = 16
"""Tokens between two looks at which completions have ended: each waits for the device."""

SHARE = 0.5
"""Finished completions leave the batch once what must stay is at most this share of it: a smaller batch needs
a new graph, and is hardly faster where reading the weights takes the time."""

FIRST_ROOM = 64
"""Own keys that are read at first; then half as many more, or a third, at a time."""

WORTH = 4
"""Fewer tokens than these are not worth a graph."""

Step = Callable[[], None]


class Graphs(Protocol):
    """Runs a step that is the same each time, and keeps what it does to the device as a graph."""

    def run(self, step: Step) -> None:
        """Run it once, as it is."""
        ...

    def capture(self, step: Step) -> Step | None:
        """What replays the step, which is not run by this; None where it cannot be held."""
        ...

    def free(self) -> None:
        """Let go of the graph."""
        ...


class TokenStep:
    """Feeds a token of each row, draws the next one and notes it. Everything stays on the device."""

    def __init__(self, record: Record, batch: Batch, token: Tensor, *, draw: Draw, feed: Feed) -> None:
        if not isinstance(batch.cache, FixedCache):
            raise TypeError(f"a step of one shape needs a FixedCache, got {type(batch.cache).__name__}")
        self.record, self.batch, self.cache = record, batch, batch.cache
        self.draw, self.feed = draw, feed
        self.token, self.running = token.clone(), batch.running.clone()
        self.lengths = record.lengths[batch.rows]
        self.sound = torch.ones((), dtype=torch.bool, device=token.device)
        self.early = False
        """The tokens that are drawn must not end their completions."""

    def __call__(self) -> None:
        """One token of each row."""
        cache, batch = self.cache, self.batch
        cache.advance()
        batch.begin(cache.place)
        states = self.feed(self.token, batch.position + cache.place, cache)
        place = cache.place + 1
        uniform = None if batch.noise is None else batch.noise.index_select(1, place)[:, 0]
        self.note(self.draw(states, uniform, early=self.early), place)

    def note(self, drawn: Drawn, place: Tensor) -> None:
        """Put tokens of a place (Int [1]) into the record, and mark the rows that they end."""
        record, rows = self.record, self.batch.rows
        where = rows * record.ids.shape[1] + place
        record.ids.view(-1).index_copy_(0, where, drawn.token)
        record.logprobs.view(-1).index_copy_(0, where, drawn.logprob)
        if record.entropies is not None and drawn.entropy is not None:
            record.entropies.view(-1).index_copy_(0, where, drawn.entropy)
        over = self.draw.is_end(drawn.token, rows, place) & self.running
        self.lengths.copy_(torch.where(over, place + 1, self.lengths))
        self.running.logical_and_(~over)
        if drawn.sound is not None:
            self.sound.logical_and_(drawn.sound.all())
        self.token.copy_(drawn.token)

    def look(self) -> bool:
        """Whether any completion runs; waits for the device.

        Raises: FovealError, when a token could not be drawn.
        """
        sound, running = torch.stack([self.sound, self.running.any()]).tolist()
        if not sound:
            raise nothing_can_be_sampled()
        return bool(running)

    def flush(self) -> Batch:
        """Tell the record which rows have ended; the batch as it is now."""
        self.record.lengths[self.batch.rows] = self.lengths
        self.record.ended[self.batch.rows] = ~self.running
        return replace(self.batch, running=self.running)

    def compacted(self) -> "TokenStep | None":
        """The step of the rows that are still needed; None while these are most of the batch."""
        batch = self.flush()
        kept = batch.still_needed(SHARE)
        if kept is None:
            return None
        self.record.look()
        token = self.token[batch.places(*kept)]
        return TokenStep(self.record, batch.keep(*kept), token, draw=self.draw, feed=self.feed)


def decode_fixed(
    record: Record, batch: Batch, states: Tensor, *, draw: Draw, feed: Feed, graphs: Graphs
) -> None:
    """As `foveal.rollout.rows.decode`, by steps of one shape, which are replayed from graphs."""
    least, last = draw.sampling.min_new_tokens, record.ids.shape[1] - 1
    first = draw(states, batch.uniform(0), early=least > 0)
    step = TokenStep(record, batch, first.token, draw=draw, feed=feed)
    step.note(first, torch.zeros_like(step.cache.place))
    place, until, warm = 0, 0, False
    replay: Step | None = None
    try:
        while step.look() and place < last:
            step.cache.step = place - 1
            smaller = step.compacted()
            if smaller is not None or place == until:
                # Other shapes, or another rule of drawing: what was captured does not hold any more.
                step, replay, warm = smaller or step, None, False
                step.cache.size, step.early = room(place + 1, last), place + 1 < least
                until = min(step.cache.size, least - 1 if step.early else last, last)
            stop = min(until, place + LOOK)
            with span(DECODE):
                for _ in range(place, stop):
                    if replay is None and warm and until - place >= WORTH:
                        replay = graphs.capture(step)
                    (replay or partial(graphs.run, step))()
                    warm = True
            place = stop
    finally:
        replay = None
        graphs.free()
    step.flush()


def room(needed: int, most: int) -> int:
    """Places of own keys that are read: the next of 64, 96, 128, 192, 256, ..., at most `most`."""
    size = FIRST_ROOM
    while size < needed:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return min(size, most)
