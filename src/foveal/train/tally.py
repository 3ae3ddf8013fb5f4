"""What is logged of a step: sums over its micro-batches, and the metrics that they make."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveal.objectives.terms import zero_outside
from foveal.train.graphs import Micro, Ran
from foveal.train.loss import mean_of
from foveal.types import CLEAN, Batch, Inputs, Objective, Term, TokenStats

TAIL_NATS = 1.0
"""Tokens whose kl_prcp is above this many nats count into its tail share: k3 is heavy-tailed, a mean alone
misleads."""


@dataclass(kw_only=True)
class Tally:
    """Sums over micro-batches of what is logged."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    per_token: dict[str, Tensor] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    ratio_max: float = 0.0
    parity_max: float = 0.0
    entropy_parity_max: float | None = None
    product_gap_max: float | None = None
    skipped: int = 0

    @classmethod
    def of(cls, inputs: Inputs) -> "Tally":
        """An empty one for these completions."""
        return cls(per_token={"sampled_logprobs": inputs.sampled_logprobs})

    def add(self, measure: Term, rows: Tensor, size: torch.Size) -> None:
        """Count a measure's values on these rows, and keep them."""
        values = measure.per_token.detach()[measure.mask].double()
        self.sums[measure.name] = self.sums.get(measure.name, 0.0) + float(values.sum())
        self.tokens[measure.name] = self.tokens.get(measure.name, 0.0) + float(measure.mask.sum())
        self.keep(measure, rows, size)

    def keep(self, term: Term, rows: Tensor, size: torch.Size) -> None:
        """Keep a term's values on these rows."""
        values = term.per_token.detach()
        whole = self.per_token.setdefault(term.name, torch.full(size, math.nan))
        whole[rows] = torch.where(term.mask, values, math.nan).float().cpu()

    def watch(self, objective: Objective, micro: Micro, ran: Ran, *, places: Tensor) -> None:
        """Log what this micro-batch saw."""
        with torch.no_grad():
            size = self.per_token["sampled_logprobs"].shape
            measures = _first_of_each_name(objective.measures(micro.batch, ran.now))
            for measure in measures.values():
                self.add(measure, places, size)
            for name, term in _first_of_each_name(ran.terms).items():
                if name not in measures:
                    self.keep(term, places, size)
            for term in ran.terms:
                share = micro.share * term.coef * float(mean_of(term, micro.counts, objective))
                self.losses[term.name] = self.losses.get(term.name, 0.0) + share
            if CLEAN in ran.now:
                self._compare(ran.now[CLEAN], micro.batch, ran.rows[CLEAN])

    def _compare(self, clean: TokenStats, batch: Batch, rows: Tensor) -> None:
        """Hold the clean view, as it ran on these completions (Bool [B]), against what was known before."""
        inputs = batch.inputs
        mask = inputs.completion_mask & rows.unsqueeze(-1)
        drift = _largest(clean.logprobs - batch.scores.old_logprobs, mask)
        self.ratio_max = larger(self.ratio_max, float(drift.exp()))
        if self.norms:
            return
        if inputs.sampled_elsewhere is not None:
            mask = mask & ~inputs.sampled_elsewhere.unsqueeze(-1)
        gap = _largest(clean.logprobs - inputs.sampled_logprobs, mask)
        self.parity_max = larger(self.parity_max, float(gap))
        if inputs.sampled_entropies is not None:
            mask = mask & inputs.sampled_entropies.isfinite()
            gap = _largest(clean.entropy - inputs.sampled_entropies, mask)
            self.entropy_parity_max = larger(self.entropy_parity_max or 0.0, float(gap))

    def product_gap(self, found: float | None) -> None:
        """Log how far recorded products were off, if any were used."""
        if found is not None:
            self.product_gap_max = larger(self.product_gap_max or 0.0, found)

    @property
    def parity(self) -> float:
        """The most that anything recorded by the sampler is off, nats; NaN where the policy is not finite."""
        return larger(self.parity_max, self.entropy_parity_max or 0.0)

    def metrics(self, batch: Batch) -> dict[str, float]:
        """The step's numbers by name; docs/metrics.md says what each is."""
        inputs = batch.inputs
        found = {f"loss/{name}": value for name, value in self.losses.items()}
        found["loss/total"] = sum(self.losses.values())
        for name, total in self.sums.items():
            key = name if "/" in name else f"{name}/mean"
            found[key] = total / self.tokens[name] if self.tokens[name] else 0.0
        entropy = _entropy_before(batch)
        if entropy is not None:
            found["policy/entropy"] = entropy
        if "kl_prcp" in self.sums:
            kl_prcp = self.per_token["kl_prcp"]
            values = kl_prcp[kl_prcp.isfinite()]
            found["kl_prcp/mean"] = float(values.mean()) if len(values) else 0.0
            found["kl_prcp/median"] = float(values.median()) if len(values) else 0.0
            found["kl_prcp/variance"] = float(values.var(correction=0)) if len(values) else 0.0
            found["kl_prcp/tail_fraction"] = (
                float((values > TAIL_NATS).float().mean()) if len(values) else 0.0
            )
        if batch.scores.ref_logprobs is not None:
            scored = batch.scores.ref_logprobs[inputs.completion_mask]
            found["completion/reference_logprob"] = float(scored.mean()) if len(scored) else 0.0
        idle = (batch.advantages.abs().amax(-1) == 0).float().mean()
        found |= {
            "reward/mean": float(inputs.rewards.mean()),
            "reward/std": float(inputs.rewards.std()) if len(inputs.rewards) > 1 else 0.0,
            "reward/accuracy": float(inputs.correct.float().mean()),
            "reward/zero_advantage_fraction": float(idle),
            "completion/length_mean": float(inputs.lengths.float().mean()),
            "completion/truncated_fraction": float(inputs.truncated.float().mean()),
            "completion/nonfinite_count": float(inputs.nonfinite_count),
            "policy/ratio_max": self.ratio_max,
            "policy/grad_norm": sum(self.norms) / max(1, len(self.norms)),
            "policy/skipped_count": float(self.skipped),
            "sampler/parity_max": self.parity_max,
        }
        if self.entropy_parity_max is not None:
            found["sampler/entropy_parity_max"] = self.entropy_parity_max
        if self.product_gap_max is not None:
            found["sampler/product_gap_max"] = self.product_gap_max
        return found


def _entropy_before(batch: Batch) -> float | None:
    """Mean entropy per token on the clean pictures before the update, over all completions; None where it is
    not known for all of them.

    The update's own forward leaves out completions that cannot change it, and which these are depends on the
    objective: a mean over what was run would compare methods by what they skip.
    """
    inputs, mask = batch.inputs, batch.inputs.completion_mask
    known = torch.full(mask.shape, math.nan, dtype=torch.float64, device=mask.device)
    if inputs.sampled_entropies is not None:
        known = inputs.sampled_entropies.to(known)
        if inputs.sampled_elsewhere is not None:
            known = known.masked_fill(inputs.sampled_elsewhere.unsqueeze(-1), math.nan)
    if CLEAN in batch.scores.views:
        scored = batch.scores.views[CLEAN].entropy.to(known)
        known = torch.where(scored.isfinite(), scored, known)
    values = known[mask]
    return float(values.mean()) if len(values) and bool(values.isfinite().all()) else None


def _first_of_each_name(terms: Iterable[Term]) -> dict[str, Term]:
    """Methods that hold one another may log the same thing: it is counted once."""
    found: dict[str, Term] = {}
    for term in terms:
        found.setdefault(term.name, term)
    return found


def _largest(values: Tensor, mask: Tensor) -> Tensor:
    """The largest size of a value on the mask; a NaN stays one."""
    return zero_outside(values, mask).abs().max()


def larger(first: float, second: float) -> float:
    """The larger number, NaN where one of them is: `max` would keep or lose it by the order of the two."""
    return math.nan if math.isnan(first) or math.isnan(second) else max(first, second)
