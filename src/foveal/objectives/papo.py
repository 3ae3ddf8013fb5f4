"""PAPO: a base objective that also earns from depending on the picture."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from foveal.advantages import broadcast
from foveal.objectives.extension import Extension, OtherView, join_views
from foveal.objectives.looking import EntropyKind, Seen, looking_measures, seen
from foveal.objectives.schedules import linear_decay
from foveal.objectives.terms import (
    bounded,
    exact_kl,
    kl_estimate,
    scatter_tokens,
    select_above_quantile,
    zero_outside,
)
from foveal.types import CLEAN, REMOVED, Aggregation, Batch, Inputs, Objective, Term, TokenStats, ViewName

KL_PRCP = "kl_prcp"
ENTROPY = "entropy"
REMOVED_ENTROPY = "removed_entropy"
SFT = "sft"


class PAPO(Extension):
    """Perception-aware policy optimisation: pay the policy for tokens that the picture makes likelier.

    L = L_base - kl_prcp_coef * mean(v) + entropy_coef * H[clean] + removed_entropy_coef * H[removed]
        + sft_coef * mean over right completions of (-log pi),
    v = KL(policy on clean || policy on removed) of each completion token, in nats, then in this order:
    v * w_i (`weighting`), kept on the largest `token_fraction` of each completion, clamped to
    [0, `kl_prcp_clip`]. Tokens that are not kept count as 0; the mean is over all tokens, in the base's way.

    Gradient flows into the clean branch; into the removed branch only with `removed_gradient`. Without it the
    removed log-probabilities are those of the policy at the start of the step, and `removed_entropy` adds a
    constant: it is shown in the loss but trains nothing (as in the official code by default). The weight, the
    choice of tokens and what a clamp cuts off carry no gradient.
    With all coefficients at 0 this is the base bit for bit.

    Source: arXiv:2507.06448v5 section 3, Eq. of PAPO-G and PAPO-D; code MikeWangWZHL/PAPO (clipping, token
    choice, schedule, SFT term; weighting in its version of July 2025).
    Differs from its code by default: entropy and SFT terms are averaged as the base is (there: the token mean
    of each micro-batch; `likelihood_aggregation`), no mean depends on how the batch was split (there: it
    does; `[optimizer] average_over`), and a schedule starts at `kl_prcp_coef` (there: at a value of its own).
    """

    nests: ClassVar[bool] = False
    type: str = "papo"
    kl_prcp_coef: float = Field(default=0.01, ge=0)
    """gamma. 0.01 is the paper's value for 7B without entropy terms, for 2B, and without reference KL (there
    with entropy terms): no size collapsed at it. 0.02 for 3B, and for 7B with entropy terms; 0.04 collapsed
    at 3B. Tables 4 and 6."""
    estimator: Literal["k1", "abs", "k2", "k3", "exact"] = "k3"
    """KL of one sampled token (k3: all official configs), or "exact" over the vocabulary (needs
    removed_gradient)."""
    removed_view: OtherView = REMOVED
    """Name of the view whose pictures have lost information."""
    removed_gradient: bool = False
    """Run the removed view in the update, with gradient. Official default False."""
    weighting: Literal["all", "correct_only", "acc_weighted"] = "all"
    """Weight of a completion's kl_prcp: 1; 1 if right, else 0; 1 if right, else `wrong_weight`."""
    wrong_weight: float = Field(default=0.1, ge=0, le=1)
    """Weight of wrong completions under "acc_weighted"; official 0.1."""
    token_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each completion's tokens, those of largest kl_prcp, that the term is paid on; official 0.2
    where it is on, 1 (all) by default."""
    kl_prcp_clip: float | None = Field(default=None, gt=0)
    """Upper bound of a token's kl_prcp, nats; gradient 0 above. Official 0.2 where it is on."""
    schedule: Literal["fixed", "linear_decay"] = "fixed"
    """Whether gamma stays, or falls linearly from kl_prcp_coef to `final_coef`. Where it has reached 0 the
    removed view is neither run nor measured."""
    final_coef: float = Field(default=0.0, ge=0)
    """gamma at the end of the decay."""
    decay_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the training's steps over which gamma falls; official 0.5."""
    entropy_follows: bool = True
    """Whether both entropy terms fall in proportion with gamma, as in the official code."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """eta_1 on the clean branch. The paper: 0.05 at 7B with gamma 0.02, 0.03 without reference KL, else
    off."""
    removed_entropy_coef: float = Field(default=0.0, ge=0)
    """eta_2 on the removed branch; trains only with removed_gradient. Values as entropy_coef."""
    entropy_kind: EntropyKind = "sampled"
    """Either "sampled": negative log-likelihood of the sampled token (the paper's), or "full": entropy over
    the vocabulary."""
    sft_coef: float = Field(default=0.0, ge=0)
    """lambda of the negative log-likelihood of right completions; official 0.001 where it is on."""
    likelihood_aggregation: Literal["base", "token_mean"] = "base"
    """How the entropy and SFT terms are averaged: as the base, or over tokens whatever the base does
    (official)."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "PAPO":
        if self.estimator == "exact" and not self.removed_gradient:
            raise ValueError(
                "estimator 'exact' needs full distributions of the removed view, which scoring drops; "
                "set removed_gradient = true, or estimator = 'k3'"
            )
        if self.schedule == "linear_decay" and self.kl_prcp_coef == 0 < self.final_coef:
            raise ValueError(
                f"schedule 'linear_decay' scales kl_prcp_coef, which is 0, so final_coef {self.final_coef:g} "
                "is never reached; set kl_prcp_coef, or final_coef = 0"
            )
        return self

    @property
    def _uses_removed(self) -> bool:
        return self.kl_prcp_coef > 0 or self.removed_entropy_coef > 0

    def annealed(self, kl_prcp_coef: float) -> "PAPO":
        """The same objective with this gamma; both entropy terms in proportion where they follow."""
        factor = kl_prcp_coef / self.kl_prcp_coef if self.entropy_follows and self.kl_prcp_coef > 0 else 1.0
        return self.model_copy(
            update={
                "kl_prcp_coef": kl_prcp_coef,
                "entropy_coef": self.entropy_coef * factor,
                "removed_entropy_coef": self.removed_entropy_coef * factor,
            }
        )

    def at(self, step: int, *, steps: int) -> Objective:
        """With gamma as scheduled after `step` finished steps of `steps`; the first step has kl_prcp_coef."""
        held = self.model_copy(update={"base": self.base.at(step, steps=steps)})
        if self.schedule == "fixed" or self.kl_prcp_coef == 0:
            return held
        length = max(1, int(steps * self.decay_fraction))
        return held.annealed(linear_decay(step, start=self.kl_prcp_coef, end=self.final_coef, steps=length))

    def scaled(self, factor: float) -> Objective:
        """With gamma times `factor`; entropy terms stay, since they hold gamma in check."""
        base = self.base.scaled(factor)
        return self.model_copy(update={"base": base, "kl_prcp_coef": self.kl_prcp_coef * factor})

    @property
    def score_views(self) -> tuple[ViewName, ...]:
        """The base's, and the removed view when it carries no gradient."""
        own = (self.removed_view,) if self._uses_removed and not self.removed_gradient else ()
        return join_views(*self.base.score_views, *own)

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        """The base's, and the removed view when it carries gradient."""
        own = (self.removed_view,) if self._uses_removed and self.removed_gradient else ()
        return join_views(*self.base.update_views, *own)

    @property
    def uses_distributions(self) -> bool:
        """With the exact estimator, or as the base."""
        return super().uses_distributions or (self.kl_prcp_coef > 0 and self.estimator == "exact")

    @property
    def chooses_in_update(self) -> bool:
        """When kl_prcp is paid on the tokens where it is largest, or as the base."""
        return super().chooses_in_update or (self.kl_prcp_coef > 0 and self.token_fraction < 1)

    def score_rows(self, view: ViewName, inputs: Inputs) -> Bool[Tensor, "B"]:
        """All completions, right or wrong, under the removed view where it is scored; as the base in
        others."""
        if view == self.removed_view and self._uses_removed and not self.removed_gradient:
            return inputs.completion_mask.any(-1)
        return super().score_rows(view, inputs)

    def prepare(self, batch: Batch) -> Batch:
        """Put the weights of wrong and right completions into `weights["kl_prcp"]`."""
        batch = super().prepare(batch)
        if self.kl_prcp_coef == 0 or self.weighting == "all":
            return batch
        wrong = self.wrong_weight if self.weighting == "acc_weighted" else 0.0
        full = batch.advantages.new_ones(len(batch.inputs.correct))
        weight = torch.where(batch.inputs.correct, full, wrong * full)
        return replace(
            batch, weights={**batch.weights, KL_PRCP: broadcast(weight, batch.inputs.completion_mask)}
        )

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        """All completions, right or wrong, in the views that the added terms run; as the base in others."""
        rows, every = super().rows(view, batch), batch.inputs.completion_mask.any(-1)
        if view == CLEAN and (self._uses_removed or self.entropy_coef > 0):
            return rows | every
        if view == CLEAN and self.sft_coef > 0:
            return rows | (every & batch.inputs.correct)
        runs_removed = view == self.removed_view and self._uses_removed and self.removed_gradient
        return rows | every if runs_removed else rows

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """All completion tokens for each added term; those of right completions for `sft`."""
        coefs = {
            KL_PRCP: self.kl_prcp_coef,
            ENTROPY: self.entropy_coef,
            REMOVED_ENTROPY: self.removed_entropy_coef,
        }
        own = {name: batch.inputs.completion_mask for name, coef in coefs.items() if coef > 0}
        if self.sft_coef > 0:
            own[SFT] = batch.inputs.completion_mask & batch.inputs.correct.unsqueeze(-1)
        return {**super().masks(batch), **own}

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, then `kl_prcp` (coefficient -gamma), `entropy`, `removed_entropy` and `sft`, those that
        are on."""
        terms, masks = super().terms(batch, now), self.masks(batch)
        likelihood: Aggregation | None = "token_mean" if self.likelihood_aggregation == "token_mean" else None

        def add(name: str, coef: float, value: Float[Tensor, "B T"]) -> None:
            kind = None if name == KL_PRCP else likelihood
            kept = zero_outside(value, masks[name])
            terms.append(Term(name=name, coef=coef, per_token=kept, mask=masks[name], aggregation=kind))

        if self.kl_prcp_coef > 0:
            add(KL_PRCP, -self.kl_prcp_coef, self._paid(batch, self._kl_prcp(batch, now)))
        if self.entropy_coef > 0:
            clean = seen(CLEAN, batch, now, method=self.type)
            add(ENTROPY, self.entropy_coef, clean.uncertainty(self.entropy_kind))
        if self.removed_entropy_coef > 0:
            removed = self._removed(batch, now)
            add(REMOVED_ENTROPY, self.removed_entropy_coef, removed.uncertainty(self.entropy_kind))
        if self.sft_coef > 0:
            add(SFT, self.sft_coef, -now[CLEAN].logprobs)
        return terms

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """kl_prcp as plain k3, whatever is paid; information gain and entropy shift; then the base's, which
        may see fewer completions."""
        measures = super().measures(batch, now)
        if not self._uses_removed:
            return measures
        clean, removed = seen(CLEAN, batch, now, method=self.type), self._removed(batch, now)
        return [*looking_measures(clean, removed, batch.inputs.completion_mask), *measures]

    def _removed(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> Seen:
        """The removed view as configured: of the running forward, or of scoring."""
        return seen(self.removed_view, batch, now if self.removed_gradient else None, method=self.type)

    def _paid(self, batch: Batch, kl: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """What is paid for: weighted, on the chosen tokens, clamped; in the official order."""
        mask = batch.inputs.completion_mask
        if KL_PRCP in batch.weights:
            kl = kl * batch.weights[KL_PRCP]
        if self.token_fraction < 1:
            kl = zero_outside(kl, select_above_quantile(kl, mask, fraction=self.token_fraction))
        return kl if self.kl_prcp_clip is None else bounded(kl, 0.0, self.kl_prcp_clip)

    def _kl_prcp(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> Float[Tensor, "B T"]:
        mask = batch.inputs.completion_mask
        if self.estimator == "exact":
            clean, removed = now[CLEAN].log_probs_at(mask), now[self.removed_view].log_probs_at(mask)
            return scatter_tokens(exact_kl(clean, removed), mask)
        sampled = zero_outside(now[CLEAN].logprobs, mask)
        return kl_estimate(sampled, self._removed(batch, now).logprobs, estimator=self.estimator)
