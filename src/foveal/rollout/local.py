"""The local sampler: a prompt and its pictures are prefilled once for the completions of its group."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from foveal.keys import Key, generator
from foveal.policy.decode import DecodeCache, FixedCache
from foveal.policy.model import Policy
from foveal.policy.processing import Encoded
from foveal.ranges import PREFILL, SAMPLING, spanned
from foveal.rollout.draw import Draw
from foveal.rollout.fixed import decode_fixed
from foveal.rollout.graphs import CudaGraphs, decode_way
from foveal.rollout.rows import Batch, Record, decode, feeding
from foveal.types import CLEAN, Completion, Problem, Sampling, ViewName

HELD_ROW_TOKENS = 512
"""Prompt tokens of a row that is held for the update: it is left out of the backward where the update needs
none of its prompts, and shorter rows would only cost calls."""


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
        self, problems: Sequence[Problem], *, sampling: Sampling, key: Key, view: ViewName = CLEAN
    ) -> list[tuple[Completion, ...]]:
        """`group_size` completions a problem; noise is keyed by (*key, problem id, completion, position)."""
        if not problems:
            return []
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad():
                return self._generate(problems, sampling, key, view)
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
        self, problems: Sequence[Problem], sampling: Sampling, key: Key, view: ViewName
    ) -> list[tuple[Completion, ...]]:
        policy, g = self.policy, sampling.group_size
        encoded = [policy.processor.encode(problem) for problem in problems]
        prompt_lengths = tuple(len(item.prompt.token_ids) for item in encoded)
        whole = policy.held.tokens + sum(prompt_lengths) + len(problems) * g * sampling.max_new_tokens
        hold = view == CLEAN and whole <= sampling.hold_tokens
        most = min(HELD_ROW_TOKENS, sampling.row_tokens) if hold else sampling.row_tokens
        parts = _parts(prompt_lengths, most=most)
        states, captured = _prefill(policy, [encoded[part] for part in parts], hold=hold)
        kind = FixedCache if self.decode == "graph" else DecodeCache
        cache = kind.of(
            captured,
            prompt_lengths,
            group_size=g,
            length=sampling.max_new_tokens,
            windows=policy.family.windows,
        )
        device, rows = states.device, len(problems) * g
        first = torch.tensor([item.prompt.next_position for item in encoded], device=device)
        record = Record(rows, sampling.max_new_tokens, entropies=sampling.entropies, device=device)
        batch = Batch(
            cache=cache,
            rows=torch.arange(rows, device=device),
            position=first.repeat_interleave(g),
            noise=self._noise(problems, sampling, key),
            running=~record.ended,
        )
        draw = Draw(policy, sampling)
        feed = feeding(policy, policy.family.decoder(policy.model, policy.linears))
        states = states.repeat_interleave(g, 0)
        if self.decode == "graph":
            graphs = CudaGraphs(device)
            decode_fixed(record, batch, states, draw=draw, feed=feed, graphs=graphs)
            if graphs.fault is not None:
                self._go_on_eagerly(graphs.fault)
        else:
            decode(record, batch, states, draw=draw, feed=feed)
        return self._completions(record, problems=len(problems), group_size=g, view=view)

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

    def _completions(
        self, record: Record, *, problems: int, group_size: int, view: ViewName
    ) -> list[tuple[Completion, ...]]:
        all_ids, all_logprobs = record.ids.tolist(), record.logprobs.tolist()
        all_entropies = None if record.entropies is None else record.entropies.tolist()
        found = []
        ends = zip(record.lengths.tolist(), record.ended.tolist(), strict=True)
        for row, (length, stopped) in enumerate(ends):
            tokens = all_ids[row][:length]
            found.append(
                Completion(
                    token_ids=tuple(tokens),
                    sampled_logprobs=tuple(all_logprobs[row][:length]),
                    sampled_entropies=None if all_entropies is None else tuple(all_entropies[row][:length]),
                    text=self.policy.processor.decode(tokens),
                    finish="stop" if stopped else "length",
                    policy_version=self.version,
                    view=view,
                )
            )
        return [tuple(found[n * group_size : (n + 1) * group_size]) for n in range(problems)]


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


def _parts(lengths: Sequence[int], *, most: int) -> list[slice]:
    """Neighbouring prompts that hold at most `most` tokens together; a longer one is a part of its own."""
    found, start, size = list[slice](), 0, 0
    for index, length in enumerate(lengths):
        if index > start and size + length > most:
            found.append(slice(start, index))
            start, size = index, 0
        size += length
    return [*found, slice(start, len(lengths))]
