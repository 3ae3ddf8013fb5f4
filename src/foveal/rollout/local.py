"""The local sampler: a prompt and its pictures are prefilled once for the completions of its group."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foveal.keys import Key, generator
from foveal.policy.decode import DecodeCache, FixedCache
from foveal.policy.held import HeldProducts
from foveal.policy.model import Policy
from foveal.policy.processing import Encoded
from foveal.policy.products import ProductRecord
from foveal.ranges import PREFILL, SAMPLING, spanned
from foveal.rollout.draw import Draw
from foveal.rollout.fixed import decode_fixed
from foveal.rollout.graphs import CudaGraphs, decode_way
from foveal.rollout.rows import Batch, Feed, Record, decode, feeding
from foveal.types import CLEAN, Completion, Finished, Problem, Sampling, ViewName

HELD_ROW_TOKENS = 512
"""Prompt tokens of a row that is held for the update: it is left out of the backward where the update needs
none of its prompts, and shorter rows would only cost calls."""

KEYS_PER_ROW_TOKEN = 8
"""Tokens of keys and values that are held at once for each token of a micro-batch's row: in the graph of a
row a token takes some ten times what its keys take, and more without gradient checkpointing. So what sampling
holds is bounded as the update is, and not by the prompts of a step."""


class LocalEngine:
    """Draws completions from the policy itself: its recorded log-probabilities are the policy's, to rounding.

    Logits of picture placeholders are banned when drawing, since such a token would break the next forward;
    recorded log-probabilities are those of the policy without the ban and without nucleus truncation, at the
    sampling temperature.
    """

    def __init__(self, policy: Policy, *, decode: str = "auto") -> None:
        """`decode`: "auto" or a way that `decode_way` takes.

        Raises: FovealError, when the named way cannot run here.
        """
        self.policy = policy
        self.decode = decode_way(decode, policy)
        self.version = 0

    @spanned(SAMPLING)
    def generate(
        self,
        problems: Sequence[Problem],
        *,
        sampling: Sampling,
        key: Key,
        view: ViewName = CLEAN,
        finished: Finished | None = None,
    ) -> list[tuple[Completion, ...]]:
        """`group_size` completions of each problem; noise is keyed by (*key, problem id, completion,
        position). `finished` is called for groups that have ended whenever the batch is compacted, and at the
        end of each part."""
        if not problems:
            return []
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad():
                return self._generate(problems, sampling, key, view, finished)
        except BaseException:
            self.policy.held.clear()  # no update will use what is half made
            raise
        finally:
            self.policy.train(was_training)

    def load_weights(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """The weights are shared with the trainer; only the version is new. Nothing is held of older ones."""
        self.version = version
        self.policy.held.clear()

    def health(self) -> str:
        """One line on the engine's state."""
        return f"local sampler, policy version {self.version}"

    def _generate(
        self,
        problems: Sequence[Problem],
        sampling: Sampling,
        key: Key,
        view: ViewName,
        finished: Finished | None,
    ) -> list[tuple[Completion, ...]]:
        policy, longest = self.policy, sampling.group_size * sampling.max_new_tokens
        encoded = [policy.processor.encode(problem) for problem in problems]
        prompts = [len(item.prompt.token_ids) for item in encoded]
        reserved = policy.held.reserved + sum(prompts) + len(problems) * longest
        hold = view == CLEAN and reserved <= sampling.hold_tokens
        keep = view == CLEAN and reserved <= sampling.product_tokens and policy.takes_products
        g = sampling.group_size
        record = Record(
            len(problems) * g,
            sampling.max_new_tokens,
            entropies=sampling.entropies,
            device=policy.device,
        )
        found = _Finished(record, group_size=g, make=partial(self._completions, record, view=view))
        if finished is not None:
            record.looked = partial(found.tell_ended, finished)
        draw = Draw(policy, sampling)
        if sampling.product_tokens and not keep:
            # A packed row takes products of all its completions or of none.
            policy.held.products.clear()
        decoder = policy.family.decoder(policy.model, policy.linears)
        products = None
        if keep:
            fixed = self.decode == "graph"
            products = decoder.record(len(problems) * g, sampling.max_new_tokens - 1, fixed=fixed)
        feed = feeding(policy, decoder)
        for part in _batches(prompts, behind=longest, most=KEYS_PER_ROW_TOKEN * sampling.row_tokens):
            # Not bound to a name: no part's keys are to stand beside the next one's.
            self._decode(
                record,
                *self._batch(
                    problems[part], encoded[part], sampling, key, products, first=part.start * g, hold=hold
                ),
                draw=draw,
                feed=feed,
            )
            if finished is not None:
                found.tell(finished, range(*part.indices(len(problems))))
        if products is not None:
            policy.held.add_products(_held(products, encoded, record, group_size=g))
        if hold or products is not None:
            policy.held.reserved = reserved
        return found.all()

    def _batch(
        self,
        problems: Sequence[Problem],
        encoded: Sequence[Encoded],
        sampling: Sampling,
        key: Key,
        products: ProductRecord | None,
        *,
        first: int,
        hold: bool,
    ) -> tuple[Batch, Tensor]:
        """The completions of problems whose keys are held at once, in rows of the record from `first` on, and
        the states [B, H] that predict their first tokens."""
        policy, g = self.policy, sampling.group_size
        prompt_lengths = tuple(len(item.prompt.token_ids) for item in encoded)
        most = min(HELD_ROW_TOKENS, sampling.row_tokens) if hold else sampling.row_tokens
        parts = [encoded[part] for part in _parts(prompt_lengths, most=most)]
        states, captured = _prefill(policy, parts, hold=hold)
        kind = FixedCache if self.decode == "graph" else DecodeCache
        cache = kind.of(
            captured,
            prompt_lengths,
            group_size=g,
            length=sampling.max_new_tokens,
            windows=policy.family.windows,
        )
        cache.products = products
        position = torch.tensor([item.prompt.next_position for item in encoded], device=states.device)
        rows = torch.arange(first, first + len(problems) * g, device=states.device)
        batch = Batch(
            cache=cache,
            rows=rows,
            position=position.repeat_interleave(g),
            noise=self._noise(problems, sampling, key),
            running=torch.ones_like(rows, dtype=torch.bool),
        )
        return batch, states.repeat_interleave(g, 0)

    def _decode(self, record: Record, batch: Batch, states: Tensor, *, draw: Draw, feed: Feed) -> None:
        if self.decode != "graph":
            decode(record, batch, states, draw=draw, feed=feed)
            return
        graphs = CudaGraphs(states.device)
        decode_fixed(record, batch, states, draw=draw, feed=feed, graphs=graphs)
        if graphs.fault is not None:
            self._go_on_eagerly(graphs.fault)

    def _go_on_eagerly(self, fault: str) -> None:
        self.decode = "eager"
        warnings.warn(
            f"decoding goes on without CUDA graphs, slower and with the same results: {fault}; "
            f"[sampling] decode = 'eager' asks for that",
            RuntimeWarning,
            stacklevel=2,
        )

    def _noise(self, problems: Sequence[Problem], sampling: Sampling, key: Key) -> Tensor | None:
        """Uniform numbers [B, T] in [0, 1), each a function of its key and place alone."""
        if sampling.temperature == 0:
            return None
        drawn = [
            generator(*key, problem.id, completion).random(sampling.max_new_tokens)
            for problem in problems
            for completion in range(sampling.group_size)
        ]
        return torch.from_numpy(np.stack(drawn)).to(self.policy.device)

    def _completions(self, record: Record, rows: slice, *, view: ViewName) -> tuple[Completion, ...]:
        """The completions in some rows of the record."""
        ids, logprobs = record.ids[rows].tolist(), record.logprobs[rows].tolist()
        entropies = None if record.entropies is None else record.entropies[rows].tolist()
        found = []
        ends = zip(record.lengths[rows].tolist(), record.ended[rows].tolist(), strict=True)
        for row, (length, stopped) in enumerate(ends):
            tokens = ids[row][:length]
            found.append(
                Completion(
                    token_ids=tuple(tokens),
                    sampled_logprobs=tuple(logprobs[row][:length]),
                    sampled_entropies=None if entropies is None else tuple(entropies[row][:length]),
                    text=self.policy.processor.decode(tokens),
                    finish="stop" if stopped else "length",
                    policy_version=self.version,
                    view=view,
                )
            )
        return tuple(found)


class _Finished:
    """The groups of a record, each built once: when it is reported, or at the end."""

    def __init__(
        self, record: Record, *, group_size: int, make: Callable[[slice], tuple[Completion, ...]]
    ) -> None:
        self.record, self.group_size, self.make = record, group_size, make
        self._made: dict[int, tuple[Completion, ...]] = {}

    def tell_ended(self, finished: Finished) -> None:
        """Tell of the groups all of whose completions have ended by themselves since the last time."""
        self.tell(finished, self.record.ended.view(-1, self.group_size).all(1).nonzero()[:, 0].tolist())

    def tell(self, finished: Finished, places: Iterable[int]) -> None:
        """Report these groups, except those that were reported before."""
        for place in places:
            if place not in self._made:
                finished(place, self._group(place))

    def all(self) -> list[tuple[Completion, ...]]:
        """All groups, in order."""
        return [self._group(place) for place in range(len(self.record.ended) // self.group_size)]

    def _group(self, place: int) -> tuple[Completion, ...]:
        if place not in self._made:
            first = place * self.group_size
            self._made[place] = self.make(slice(first, first + self.group_size))
        return self._made[place]


@spanned(PREFILL)
def _prefill(
    policy: Policy, rows: Sequence[Sequence[Encoded]], *, hold: bool
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """States [N, H] that predict first tokens, and each layer's keys and values [1, kv_heads, S, d] of all
    prompts, run in these rows."""
    parts = [policy.prefill(row, hold=hold) for row in rows]
    if len(parts) == 1:
        return parts[0]
    joined = {
        layer: (
            torch.cat([captured[layer][0] for _, captured in parts], dim=2),
            torch.cat([captured[layer][1] for _, captured in parts], dim=2),
        )
        for layer in parts[0][1]
    }
    return torch.cat([states for states, _ in parts]), joined


def _held(
    products: ProductRecord, encoded: Sequence[Encoded], record: Record, *, group_size: int
) -> HeldProducts:
    """The products of completions that have been drawn."""
    each = [item for item in encoded for _ in range(group_size)]
    drawn = zip(record.ids.tolist(), record.lengths.tolist(), strict=True)
    return HeldProducts(
        products,
        [item.prompt for item in each],
        [item.pixels for item in each],
        [ids[:length] for ids, length in drawn],
    )


def _batches(prompts: Sequence[int], *, behind: int, most: int) -> list[slice]:
    """Neighbouring prompts, each padded to the longest of its part and with so many tokens of completions
    `behind` it, that hold at most `most` tokens together; one that holds more is a part of its own."""
    found, start, longest = list[slice](), 0, 0
    for index, length in enumerate(prompts):
        padded = max(longest, length)
        if index > start and (index + 1 - start) * (padded + behind) > most:
            found.append(slice(start, index))
            start, padded = index, length
        longest = padded
    return [*found, slice(start, len(prompts))]


def _parts(lengths: Sequence[int], *, most: int) -> list[slice]:
    """Neighbouring prompts that hold at most `most` tokens together; a longer one is a part of its own."""
    found, start, size = list[slice](), 0, 0
    for index, length in enumerate(lengths):
        if index > start and size + length > most:
            found.append(slice(start, index))
            start, size = index, 0
        size += length
    return [*found, slice(start, len(lengths))]
