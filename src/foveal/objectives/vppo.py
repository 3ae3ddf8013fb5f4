"""VPPO: the policy gradient goes to the tokens that depend on the picture, more so in completions that do."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from foveal.objectives.dependency import dependency_scale, most_dependent
from foveal.objectives.extension import Extension, OtherView
from foveal.objectives.looking import looking_measures, seen
from foveal.objectives.surrogate import SURROGATE
from foveal.objectives.terms import kl_estimate, zero_outside
from foveal.types import CLEAN, REMOVED, Batch, Term, TokenStats, ViewName

VISUAL_TOKENS = "visual_tokens"


class VPPO(Extension):
    """Visually-perceptive policy optimisation.

    d_t = k3(pi_old on clean || pi_old on removed) of each sampled token, nats, once a step and without
    gradient. The base's surrogate is kept on the ceil(token_fraction n) tokens of largest d of each
    completion and multiplied by `dependency_scale` over the step's batch: equal to scaling the advantage, and
    never turning its sign. Gradient flows into the clean view; from the surrogate on kept tokens alone, from
    other terms of the base on all. With token_fraction 1 and scale_min 1 this is the base bit for bit.

    Source: arXiv:2510.09285 section 3; code huaixuheqing/VPPO-RL. d is k3 of the sampled token as in the
    code (in the paper: KL over the vocabulary, which scoring does not keep). The entropy penalty of the
    paper, 0.06 in VPPO and in its DAPO baseline alike, is PAPO's entropy term without kl_prcp (preset "7b").
    Differs from the code: least, largest and mean d are those of the step's batch (there: of a device's
    mini-batch, the mean of a micro-batch, so that factors hang on the split); of tokens of equal d the
    earlier are kept (there: any), and all of them where the whole completion is equal, as without pictures.
    """

    type: str = "vppo"
    token_fraction: float = Field(default=0.4, gt=0, le=1)
    """Share of each completion's tokens that get the policy gradient."""
    scale_min: float = Field(default=0.9, gt=0, le=1)
    """Factor of the completion that depends least on the picture; the paper's beta_min."""
    scale_max: float | None = Field(default=None, ge=1)
    """Factor of the one that depends most; None makes the mean factor 1 (official code): a single outlier
    may then get far above 1."""
    denominator: Literal["all", "selected"] = "all"
    """Tokens that the surrogate is averaged over: all, dropped ones as 0 (official code), or those kept."""
    removed_view: OtherView = REMOVED
    """View whose pictures have lost information; in the paper patches masked with probability 0.5."""

    @property
    def _weighs(self) -> bool:
        return self.token_fraction < 1 or self.scale_min < 1 or (self.scale_max or 1) > 1

    @property
    def own_score_views(self) -> tuple[ViewName, ...]:
        """The removed view: each completion bears on the factors of all."""
        return (self.removed_view,) if self._weighs else ()

    def prepare(self, batch: Batch) -> Batch:
        """Put the kept tokens into `selections`, and their factors into `weights["surrogate"]`."""
        batch, mask = super().prepare(batch), batch.inputs.completion_mask
        if not self._weighs:
            return batch
        old = zero_outside(batch.scores.old_logprobs, mask)
        removed = seen(self.removed_view, batch, method=self.type).logprobs
        # In float32 k3 is 0 for log-ratios below 3e-4, so that nothing would tell such tokens apart.
        dependency = kl_estimate(old.double(), removed.double(), estimator="k3")
        kept = most_dependent(dependency, mask, fraction=self.token_fraction)
        scale = dependency_scale(dependency, mask, least=self.scale_min, most=self.scale_max)
        weight = (kept * scale.unsqueeze(-1)).to(old) * batch.weights.get(SURROGATE, torch.ones_like(old))
        selections = {**batch.selections, VISUAL_TOKENS: kept}
        if self.denominator == "selected":
            selections[SURROGATE] = kept & selections.get(SURROGATE, mask)
        return replace(batch, selections=selections, weights={**batch.weights, SURROGATE: weight})

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The removed view's effect; the base's, which may see fewer completions; share of kept tokens, and
        their mean factor."""
        measures, mask = super().measures(batch, now), batch.inputs.completion_mask
        if not self._weighs:
            return measures
        kept, weight = batch.selections[VISUAL_TOKENS], batch.weights[SURROGATE]
        share = kept.to(weight.dtype)
        clean = seen(CLEAN, batch, now, method=self.type)
        return [
            *looking_measures(clean, seen(self.removed_view, batch, method=self.type), mask),
            *measures,
            Term(name="perception/token_fraction", coef=0.0, per_token=share, mask=mask),
            Term(name="perception/advantage_scale", coef=0.0, per_token=weight, mask=kept),
        ]
