"""PAPO: a base objective that also earns from depending on the picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from foveal.objectives.extension import Extension, join_views
from foveal.objectives.terms import exact_kl, kl_estimate, scatter_tokens, zero_outside
from foveal.spec import FovealError
from foveal.types import CLEAN, REMOVED, Batch, Term, TokenStats, ViewName

KL_PRCP = "kl_prcp"
ENTROPY = "entropy"
REMOVED_ENTROPY = "removed_entropy"


@dataclass(frozen=True, kw_only=True)
class _Removed:
    """The removed view on the completion tokens, 0 elsewhere."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]


class PAPO(Extension):
    """Perception-aware policy optimisation: pay the policy for tokens that the picture makes likelier.

    L = L_base - kl_prcp_coef * KL(policy on clean || policy on removed)
        + entropy_coef * H[clean] + removed_entropy_coef * H[removed],
    on every completion token, averaged as the base is. kl_prcp and both entropies are in nats.

    Gradient flows into the clean branch; into the removed branch only with `removed_gradient`. Without it the
    removed log-probabilities are those of the policy at the start of the step, and `removed_entropy` adds a
    constant: it is shown in the loss but trains nothing (as in the official code by default).
    With `kl_prcp_coef`, `entropy_coef` and `removed_entropy_coef` at 0 this is the base bit for bit.

    Source: arXiv:2507.06448v5 section 3, Eq. of PAPO-G and PAPO-D; code MikeWangWZHL/PAPO.
    Differs from its code: entropy terms are averaged as the base is (there: the token mean of each
    micro-batch), and no mean depends on how the batch was split.
    """

    type: str = "papo"
    kl_prcp_coef: float = Field(default=0.01, ge=0)
    """gamma. The paper's value for 7B without entropy terms, for 2B, and without reference KL (there with
    entropy terms); 0.02 for 3B, and for 7B with entropy terms; 0.04 collapsed at 3B. Tables 4 and 6."""
    estimator: Literal["k1", "k2", "k3", "exact"] = "k3"
    """KL of one sampled token (k3: all official configs), or "exact" over the vocabulary (needs
    removed_gradient)."""
    removed_view: ViewName = REMOVED
    """Name of the view whose pictures have lost information."""
    removed_gradient: bool = False
    """Run the removed view in the update, with gradient. Official default False."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """eta_1 on the clean branch. The paper: 0.05 at 7B with gamma 0.02, 0.03 without reference KL, else
    off."""
    removed_entropy_coef: float = Field(default=0.0, ge=0)
    """eta_2 on the removed branch; trains only with removed_gradient. Values as entropy_coef."""
    entropy_kind: Literal["sampled", "full"] = "sampled"
    """Either "sampled": negative log-likelihood of the sampled token (the paper's), or "full": entropy over
    the vocabulary."""

    @model_validator(mode="after")
    def _exact_needs_gradient(self) -> "PAPO":
        if self.estimator == "exact" and not self.removed_gradient:
            raise ValueError(
                "estimator 'exact' needs full distributions of the removed view, which scoring drops; "
                "set removed_gradient = true, or estimator = 'k3'"
            )
        return self

    @property
    def _uses_removed(self) -> bool:
        return self.kl_prcp_coef > 0 or self.removed_entropy_coef > 0

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

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        """All completions, right or wrong, in the views that the added terms use; as the base in others."""
        rows = super().rows(view, batch)
        clean = view == CLEAN and (self._uses_removed or self.entropy_coef > 0)
        removed = view == self.removed_view and self._uses_removed
        return rows | batch.inputs.completion_mask.any(-1) if clean or removed else rows

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """All completion tokens for each added term."""
        coefs = {
            KL_PRCP: self.kl_prcp_coef,
            ENTROPY: self.entropy_coef,
            REMOVED_ENTROPY: self.removed_entropy_coef,
        }
        own = {name: batch.inputs.completion_mask for name, coef in coefs.items() if coef > 0}
        return {**super().masks(batch), **own}

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, then `kl_prcp` (coefficient -gamma), `entropy` and `removed_entropy`, those that are
        on."""
        terms = super().terms(batch, now)
        mask = batch.inputs.completion_mask
        if self.kl_prcp_coef > 0:
            kl = self._kl_prcp(batch, now)
            terms.append(Term(name=KL_PRCP, coef=-self.kl_prcp_coef, per_token=kl, mask=mask))
        if self.entropy_coef > 0:
            clean = now[CLEAN].entropy if self.entropy_kind == "full" else -now[CLEAN].logprobs
            terms.append(
                Term(name=ENTROPY, coef=self.entropy_coef, per_token=zero_outside(clean, mask), mask=mask)
            )
        if self.removed_entropy_coef > 0:
            stats = self._removed(batch, now)
            removed = stats.entropy if self.entropy_kind == "full" else -stats.logprobs
            terms.append(
                Term(name=REMOVED_ENTROPY, coef=self.removed_entropy_coef, per_token=removed, mask=mask)
            )
        return terms

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, then sampled kl_prcp where it is no term, information gain and entropy shift."""
        measures = super().measures(batch, now)
        if not self._uses_removed:
            return measures
        with torch.no_grad():
            mask = batch.inputs.completion_mask
            removed = self._removed(batch, now)
            values = {
                "perception/information_gain": zero_outside(now[CLEAN].logprobs, mask) - removed.logprobs,
                "perception/entropy_shift": removed.entropy - zero_outside(now[CLEAN].entropy, mask),
            }
            if self.kl_prcp_coef == 0:
                values[KL_PRCP] = self._sampled_kl_prcp(batch, now)
        return measures + [
            Term(name=name, coef=0.0, per_token=value.detach(), mask=mask) for name, value in values.items()
        ]

    def _removed(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> _Removed:
        """The removed view as configured: of the running forward, or of scoring."""
        mask = batch.inputs.completion_mask
        stats = (now if self.removed_gradient else batch.scores.views).get(self.removed_view)
        if stats is None:
            where = "run in the update" if self.removed_gradient else "scored"
            raise FovealError(
                f"papo needs the view {self.removed_view!r}, but the batch was not {where} under it; "
                f'add [perturbations.{self.removed_view}] type = "patch_mask"'
            )
        return _Removed(
            logprobs=zero_outside(stats.logprobs, mask), entropy=zero_outside(stats.entropy, mask)
        )

    def _kl_prcp(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> Float[Tensor, "B T"]:
        if self.estimator != "exact":
            return self._sampled_kl_prcp(batch, now)
        mask = batch.inputs.completion_mask
        clean, removed = now[CLEAN].log_probs_at(mask), now[self.removed_view].log_probs_at(mask)
        return scatter_tokens(exact_kl(clean, removed), mask)

    def _sampled_kl_prcp(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> Float[Tensor, "B T"]:
        """From the sampled tokens alone; k3 stands in for "exact", which costs another pass over the
        vocabulary."""
        clean = zero_outside(now[CLEAN].logprobs, batch.inputs.completion_mask)
        estimator = "k3" if self.estimator == "exact" else self.estimator
        return kl_estimate(clean, self._removed(batch, now).logprobs, estimator=estimator)
