"""DVRP: depend on what a mask takes away, not on what noise adds."""

from collections.abc import Mapping

from jaxtyping import Bool
from pydantic import Field, model_validator
from torch import Tensor

from foveal.objectives.extension import Extension, OtherView, require_two_views
from foveal.objectives.looking import EntropyKind, looking_measures, seen
from foveal.objectives.terms import Estimator, kl_estimate
from foveal.types import CLEAN, REMOVED, Batch, Objective, Term, TokenStats, ViewName


class DVRP(Extension):
    """Differential visual reasoning policy: a base objective over a triplet of views.

    L = L_base - sensitivity_coef * KL(clean || removed) + robustness_coef * KL(clean || noised)
        + views_entropy_coef * (H[removed] + H[noised]), in nats,
    each a mean over all completion tokens in the base's way. Gradient flows into all three views; without
    `views_gradient` into the clean one alone, against the scores of the step's start, and the entropies train
    nothing. With all three coefficients 0 this is the base bit for bit.

    Source: arXiv:2601.06801 Eq. 4 as told, with its coefficients, by a re-implementation (zsxm1998/
    awesome-perception-aware-rlvr); there is no official code. Differs from the paper: KLs of the sampled
    token (there: over the vocabulary). Differs from the re-implementation: the views carry gradient.
    """

    type: str = "dvrp"
    sensitivity_coef: float = Field(default=0.01, ge=0)
    """Weight of the divergence from the removed view, which is paid for and has no bound."""
    robustness_coef: float = Field(default=0.01, ge=0)
    """Weight of the divergence from the noised view, which costs."""
    views_entropy_coef: float = Field(default=0.05, ge=0)
    """Weight of either view's entropy, which costs, so that no divergence is bought by confusion."""
    estimator: Estimator = "k3"
    entropy_kind: EntropyKind = "sampled"
    views_gradient: bool = True
    """Run both views in the update, with gradient."""
    removed_view: OtherView = REMOVED
    """View that has lost information: patches of 14 pixels masked with probability 0.6."""
    noised_view: OtherView = "noised"
    """View under fading noise: "diffusion_noise" from strength 500 with steepness 10."""

    @model_validator(mode="after")
    def _compares_two_views(self) -> "DVRP":
        require_two_views(self.removed_view, self.noised_view, fields="removed_view and noised_view")
        return self

    @property
    def _added(self) -> Mapping[str, tuple[float, ViewName]]:
        every = {
            "kl_prcp": (-self.sensitivity_coef, self.removed_view),
            "noised_kl": (self.robustness_coef, self.noised_view),
            "removed_entropy": (self.views_entropy_coef, self.removed_view),
            "noised_entropy": (self.views_entropy_coef, self.noised_view),
        }
        return {name: added for name, added in every.items() if added[0] != 0}

    @property
    def _compared(self) -> tuple[ViewName, ...]:
        return tuple(dict.fromkeys(view for _, view in self._added.values()))

    def scaled(self, factor: float) -> Objective:
        """With the sensitivity times `factor`; what holds it in check stays."""
        base = self.base.scaled(factor)
        return self.model_copy(update={"base": base, "sensitivity_coef": self.sensitivity_coef * factor})

    @property
    def own_score_views(self) -> tuple[ViewName, ...]:
        """Both views, when they carry no gradient."""
        return () if self.views_gradient else self._compared

    @property
    def own_update_views(self) -> tuple[ViewName, ...]:
        """The clean view, and both others when they carry gradient."""
        return (CLEAN, *self._compared)[: None if self.views_gradient else 1] if self._added else ()

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """All completion tokens for each added term."""
        return {**super().masks(batch), **dict.fromkeys(self._added, batch.inputs.completion_mask)}

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, then the four added ones that are on; `kl_prcp` counts negative."""
        terms, mask = super().terms(batch, now), batch.inputs.completion_mask
        clean = seen(CLEAN, batch, now, method=self.type)
        for name, (coef, view) in self._added.items():
            other = seen(view, batch, now if self.views_gradient else None, method=self.type)
            if name.endswith("entropy"):
                value = other.uncertainty(self.entropy_kind)
            else:
                value = kl_estimate(clean.logprobs, other.logprobs, estimator=self.estimator)
            terms.append(Term(name=name, coef=coef, per_token=value, mask=mask))
        return terms

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The removed view's effect, then the base's, which may see fewer completions."""
        measures = super().measures(batch, now)
        if self.removed_view not in self._compared:
            return measures
        clean = seen(CLEAN, batch, now, method=self.type)
        removed = seen(self.removed_view, batch, now if self.views_gradient else None, method=self.type)
        return [*looking_measures(clean, removed, batch.inputs.completion_mask), *measures]
