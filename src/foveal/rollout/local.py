"""The local sampler: a prompt and its pictures are prefilled once for the completions of its group."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from foveal.keys import Key, generator
from foveal.policy.decode import DecodeCache
from foveal.policy.linears import FixedLinear
from foveal.policy.model import Policy
from foveal.policy.processing import Encoded
from foveal.ranges import DECODE, DRAW, HEAD, PREFILL, SAMPLING, TEXT, span, spanned
from foveal.spec import FovealError
from foveal.types import CLEAN, Completion, Problem, Sampling, ViewName

PREFILL_TOKENS = 16384
"""Prompt tokens of one packed prefill, visual ones counted: dense attention over a row needs memory with its
square."""

HELD_ROW_TOKENS = 512
"""The same of prompts that are held for the update: a row is left out of the backward where the update needs
none of its prompts, and shorter rows would only cost calls."""

COMPACT_SHARE = 0.9
"""Finished completions leave the batch once what must stay is at most this share of it. It stays a rectangle:
groups with a running completion, by as many completions as run in the fullest of them."""


class LocalEngine:
    """Draws completions from the policy itself: its recorded log-probabilities are the policy's, to rounding.

    Logits of picture placeholders are banned when drawing, since such a token would break the next forward;
    recorded log-probabilities are those of the policy without the ban and without nucleus truncation, at the
    sampling temperature.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
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
        states, captured = _prefill(policy, encoded, hold=hold)
        cache = DecodeCache.of(captured, prompt_lengths, group_size=g, length=sampling.max_new_tokens)
        decoder = policy.family.decoder(policy.model, policy.linears)
        draw = _Draw(policy, sampling, self._noise(problems, sampling, key))
        rows = len(problems) * g
        device = states.device
        position = torch.tensor(
            [item.prompt.next_position for item in encoded], device=device
        ).repeat_interleave(g)
        ids = torch.zeros(rows, sampling.max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(rows, sampling.max_new_tokens, device=device)
        entropies = torch.zeros_like(logprobs) if sampling.entropies else None
        lengths = torch.full((rows,), sampling.max_new_tokens, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        active = torch.arange(rows, device=device)
        states = states.repeat_interleave(g, 0)
        for step in range(sampling.max_new_tokens):
            token, logprob, entropy = draw(states, active, step)
            ids[active, step], logprobs[active, step] = token, logprob
            if entropies is not None and entropy is not None:
                entropies[active, step] = entropy
            over = draw.is_end(token) & ~ended[active]
            lengths[active[over]] = step + 1
            ended[active[over]] = True
            if step + 1 == sampling.max_new_tokens:
                break
            if bool(over.any()):
                running = (~ended[active]).view(cache.groups, cache.group_size)
                if not bool(running.any()):
                    break
                kept = _still_needed(running)
                if kept is not None:
                    groups, members = kept
                    places = (groups[:, None] * cache.group_size + members).view(-1)
                    token, active = token[places], active[places]
                    cache = cache.keep(groups, members)
            cache.step = step
            with span(DECODE, TEXT):
                embeddings = policy.family.embed(policy.model, token)
                states = decoder(embeddings, position[active] + step, cache)
        return self._completions(
            ids, logprobs, entropies, lengths, ended, problems=len(problems), group_size=g, view=view
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
        self,
        ids: Tensor,
        logprobs: Tensor,
        entropies: Tensor | None,
        lengths: Tensor,
        ended: Tensor,
        *,
        problems: int,
        group_size: int,
        view: ViewName,
    ) -> list[tuple[Completion, ...]]:
        all_ids, all_logprobs = ids.tolist(), logprobs.tolist()
        all_entropies = None if entropies is None else entropies.tolist()
        found = []
        for row, (length, stopped) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True)):
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


class _Draw:
    """Tokens, their log-probabilities and, where wanted, the entropies of their distributions."""

    def __init__(self, policy: Policy, sampling: Sampling, noise: Tensor | None) -> None:
        self.head = FixedLinear(*policy.family.head(policy.model), policy.linears)
        self.sampling = sampling
        self.noise = noise
        device = policy.device
        self.banned = torch.tensor(policy.family.banned_token_ids(), device=device, dtype=torch.long)
        self.end = torch.tensor(policy.processor.end_ids, device=device, dtype=torch.long)

    @spanned(DRAW)
    def __call__(self, states: Tensor, active: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        with span(HEAD):
            logits = self.head(states).float()
        if self.sampling.temperature > 0:
            logits = logits / self.sampling.temperature
        logprobs = torch.log_softmax(logits, dim=-1)
        allowed = logprobs.index_fill(-1, self.banned, -torch.inf)
        if step < self.sampling.min_new_tokens:
            allowed = allowed.index_fill(-1, self.end, -torch.inf)
        if self.noise is None:
            token = allowed.argmax(-1)
        else:
            # Softmax, not exp: what is allowed may be too unlikely beside a banned token to have a weight of
            # its own.
            weights = torch.softmax(allowed, dim=-1)
            token = _inverse_cdf(weights, self.noise[active, step], top_p=self.sampling.top_p)
            if bool((token >= logits.shape[-1]).any()):
                raise FovealError(
                    "nothing can be sampled: the model's logits are not finite, so training has broken it, "
                    "or it was so from the start; start a new run from a sound model and with a lower "
                    "optimizer.lr or coefficient of the objective"
                )
        entropy = -logprobs.exp().mul_(logprobs).sum(-1) if self.sampling.entropies else None
        return token, logprobs.gather(-1, token[:, None])[:, 0], entropy

    def is_end(self, token: Tensor) -> Tensor:
        """Whether a token ends its completion."""
        return torch.isin(token, self.end)


def _inverse_cdf(weights: Tensor, uniform: Tensor, *, top_p: float) -> Tensor:
    """The token at which the cumulated weights [B, V] pass `uniform` [B] of their total.

    `top_p` below 1 keeps the likeliest tokens whose weights before them add up to less than top_p.
    """
    if top_p < 1:
        ordered, order = weights.sort(dim=-1, descending=True)
        ordered = ordered / ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        weights = torch.zeros_like(weights).scatter(-1, order, ordered * (before < top_p))
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    # Strictly below the total even after rounding, so that a token without weight is never reached.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, target, right=True)[:, 0]


def _still_needed(running: Tensor) -> tuple[Tensor, Tensor] | None:
    """Groups (Int [n]) and, of each, as many members (Int [n, g]) as run (Bool [N, G]) in the fullest, the
    running ones among them; None while that is most of the batch."""
    counts = running.sum(1)
    groups, fullest = counts.nonzero()[:, 0], int(counts.max())
    if len(groups) * fullest > COMPACT_SHARE * running.numel():
        return None
    first = running[groups].int().argsort(dim=1, descending=True, stable=True)
    return groups, first[:, :fullest].sort(dim=1).values


@spanned(PREFILL)
def _prefill(
    policy: Policy, encoded: Sequence[Encoded], *, hold: bool
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """States [N, H] that predict first tokens, and each layer's keys and values [1, kv_heads, S, d] of all
    prompts."""
    lengths = [len(item.prompt.token_ids) for item in encoded]
    parts = [
        policy.prefill(encoded[part], hold=hold)
        for part in _parts(lengths, most=HELD_ROW_TOKENS if hold else PREFILL_TOKENS)
    ]
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
