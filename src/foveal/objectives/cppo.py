"""CPPO: a base objective with a contrastive loss on the tokens where perception happens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import softplus

from foveal.objectives.extension import Extension, OtherView, join_views, require_two_views
from foveal.objectives.looking import looking_measures, seen
from foveal.objectives.terms import (
    KL_VALUE_LIMIT,
    Estimator,
    Rounding,
    bounded,
    exact_kl,
    kl_estimate,
    scatter_tokens,
    select_top,
    spread_weights,
    zero_outside,
)
from foveal.spec import FovealError
from foveal.types import (
    CLEAN,
    PRESERVED,
    REMOVED,
    Batch,
    Inputs,
    Objective,
    Term,
    TokenStats,
    ViewName,
    ViewScores,
)

CONTRASTIVE_PERCEPTION = "contrastive_perception"

RELATIVE_EPSILON = 1e-6
"""Added to the removed view's entropy before dividing by it, as in the official code: it may be 0."""


def perception_tokens(
    entropy: Float[Tensor, "B T"],
    removed_entropy: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    fraction: float,
    score: Literal["absolute", "relative"],
    rounding: Rounding = "floor",
) -> Bool[Tensor, "B T"]:
    """Tokens of each completion whose entropy rises most when the picture loses information. No gradient.

    Of the mask's tokens with H_removed - H > 0, the `fraction` with the largest rise (`absolute`) or the
    largest (H_removed - H) / (H_removed + 1e-6) (`relative`); at least one where any rises, ties all taken.
    Raises: FovealError for tensors of different shapes.
    """
    shapes = [tuple(part.shape) for part in (entropy, removed_entropy, mask)]
    if len(set(shapes)) > 1:
        raise FovealError(
            f"perception_tokens: entropy, removed_entropy and mask have the shapes "
            f"{', '.join(map(str, shapes))}; expected one shape, [B T]"
        )
    mask = mask.bool()
    shift = zero_outside((removed_entropy - entropy).detach(), mask)
    rises = ~(shift <= 0)
    ranked = shift if score == "absolute" else shift / (removed_entropy.detach() + RELATIVE_EPSILON)
    return select_top(ranked, rises, fraction=fraction, rounding=rounding)


def contrastive_loss(
    preserved_kl: Float[Tensor, "*shape"], removed_kl: Float[Tensor, "*shape"], *, tau: float
) -> Float[Tensor, "*shape"]:
    """InfoNCE with one positive and one negative, from two divergences in nats.

    softplus((KL+ - KL-) / tau) = -log(e^{-KL+/tau} / (e^{-KL+/tau} + e^{-KL-/tau})).
    Near 0 once the removed view is further away than the preserved one by several tau (nats), log 2 when both
    are equal.
    """
    return softplus((preserved_kl - removed_kl) / tau)


class CPPO(Extension):
    """Contrastive perception policy optimisation.

    L = L_base + cpl_coef * mean over perception tokens of softplus((KL+ - KL-) / tau),
    KL+ = KL(clean || preserved), KL- = KL(clean || removed).
    Perception tokens: see `perception_tokens`; with `gate`, only where the advantage is positive.
    Gradient flows into all three branches (with k1 into the preserved and removed ones alone: the clean
    log-probability cancels). A completion without a perception token needs no perturbed forward (`rows`), one
    that cannot get any because of the gate needs no scoring (`score_rows`).

    The tokens are chosen once a step from the scores (`select_in = "scoring"`), so that the number averaged
    over is known for the whole mini-batch and no result depends on the micro-batch split.
    `select_in = "update"` chooses from the entropies of the running policy in each micro-batch, as the
    official codes do. What is chosen is then unknown before the backward, so the term is counted over all
    completion tokens and each micro-batch gives the mean over its own chosen tokens with the weight of its
    share of completion tokens (as in the AReaL variant; with one micro-batch also the verl variant's value).
    With `cpl_coef` 0 this is the base bit for bit.

    Source: arXiv:2601.00501; code vbdi/cppo, variants `verl` and `AReaL`. Differs from its code by default:
    tokens are ranked by the absolute rise in entropy, as the paper says, and among completion tokens only.
    """

    nests: ClassVar[bool] = False
    type: str = "cppo"
    cpl_coef: float = Field(default=0.01, ge=0)
    """lambda; official scripts."""
    tau: float = Field(default=0.1, gt=0)
    """Temperature of the contrast, nats; official scripts."""
    selection: Literal["entropy", "all"] = "entropy"
    """Perception tokens by the rise in entropy, or all tokens of a completion (an ablation of the official
    code)."""
    perception_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the tokens with rising entropy that are chosen in each completion; official scripts."""
    score: Literal["absolute", "relative"] = "absolute"
    """Rank by the rise in entropy (the paper's description) or by its share of the removed entropy (official
    code)."""
    rounding: Rounding = "floor"
    """Of the number chosen: "floor" (verl variant) or "ceil" (AReaL variant)."""
    candidates: Literal["completion", "all_places"] = "completion"
    """Where tokens are ranked and chosen: among completion tokens, or at padded places too, as the verl
    variant does. Entropies of this library's forward are 0 on padding, so there it changes nothing in
    training: it is for values made elsewhere."""
    gate: bool = True
    """Only tokens with positive advantage."""
    divergence: Estimator | Literal["exact"] = "k3"
    """k3 of the sampled token (verl variant; it takes any estimator), k1 (AReaL variant), or "exact" over the
    vocabulary, as the paper describes: dearer, [K V] a view."""
    k1_limit: float = Field(default=KL_VALUE_LIMIT, gt=0, allow_inf_nan=True)
    """k1 values are clamped to +- this, nats (AReaL variant); inf, that is none, in the verl variant."""
    select_in: Literal["scoring", "update"] = "scoring"
    """Choose the tokens once a step, or in each micro-batch of the update (compatibility)."""
    removed_view: OtherView = REMOVED
    """Name of the view whose pictures have lost information."""
    preserved_view: OtherView = PRESERVED
    """Name of the view whose pictures look different but say the same."""

    @model_validator(mode="after")
    def _compares_two_views(self) -> "CPPO":
        require_two_views(self.removed_view, self.preserved_view, fields="removed_view and preserved_view")
        return self

    def scaled(self, factor: float) -> Objective:
        """With lambda times `factor`."""
        base = self.base.scaled(factor)
        return self.model_copy(update={"base": base, "cpl_coef": self.cpl_coef * factor})

    @property
    def _ranks_scores(self) -> bool:
        return self.cpl_coef > 0 and self.select_in == "scoring" and self.selection == "entropy"

    @property
    def score_views(self) -> tuple[ViewName, ...]:
        """The base's, and clean and removed when tokens are chosen from the scores."""
        own = (CLEAN, self.removed_view) if self._ranks_scores else ()
        return join_views(*self.base.score_views, *own)

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        """The base's, and both perturbed views."""
        own = (CLEAN, self.preserved_view, self.removed_view) if self.cpl_coef > 0 else ()
        return join_views(*self.base.update_views, *own)

    @property
    def uses_distributions(self) -> bool:
        """With the exact divergence, or as the base."""
        return super().uses_distributions or (self.cpl_coef > 0 and self.divergence == "exact")

    @property
    def chooses_in_update(self) -> bool:
        """When tokens are chosen there by their entropies, or as the base."""
        own = self.cpl_coef > 0 and self.select_in == "update" and self.selection == "entropy"
        return super().chooses_in_update or own

    def score_rows(self, view: ViewName, inputs: Inputs) -> Bool[Tensor, "B"]:
        """Completions that may get a perception token: with the gate, those of positive advantage."""
        rows = super().score_rows(view, inputs)
        if not self._ranks_scores or view not in (CLEAN, self.removed_view):
            return rows
        used = self.advantages(inputs) > 0 if self.gate else inputs.completion_mask
        return rows | used.any(-1)

    def prepare(self, batch: Batch) -> Batch:
        """Choose the perception tokens of the step into `selections["contrastive_perception"]`."""
        batch = super().prepare(batch)
        if self.cpl_coef == 0 or self.select_in == "update":
            return batch
        if self.selection == "all":
            selected = self.candidate_tokens(batch)
        else:
            selected = self._select(batch, self._scored(batch, CLEAN), self._scored(batch, self.removed_view))
        return replace(batch, selections={**batch.selections, CONTRASTIVE_PERCEPTION: selected})

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        """Completions with a perception token; those that may get one when tokens are chosen in the
        update. Never those of zero advantage while the gate is on."""
        rows = super().rows(view, batch)
        if self.cpl_coef == 0 or view not in (CLEAN, self.preserved_view, self.removed_view):
            return rows
        used = self.candidate_tokens(batch) if self.select_in == "update" else self._selected(batch)
        return rows | used.any(-1)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """The perception tokens; all completion tokens when they are chosen in the update."""
        masks = super().masks(batch)
        if self.cpl_coef == 0:
            return masks
        own = batch.inputs.completion_mask if self.select_in == "update" else self._selected(batch)
        return {**masks, CONTRASTIVE_PERCEPTION: own}

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, then `contrastive_perception`."""
        terms = super().terms(batch, now)
        if self.cpl_coef == 0:
            return terms
        selected = self._chosen(batch, now)
        preserved_kl, removed_kl = self._divergences(now, selected)
        per_token = contrastive_loss(preserved_kl, removed_kl, tau=self.tau)
        mask = selected
        if self.select_in == "update":
            mask = batch.inputs.completion_mask
            per_token = per_token * spread_weights(selected, mask, aggregation=self.aggregation).to(per_token)
        return [*terms, Term(name=CONTRASTIVE_PERCEPTION, coef=self.cpl_coef, per_token=per_token, mask=mask)]

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's; share of perception tokens, plain k3 from either view on them, whatever the
        `divergence`; from the scores also the removed view's effect."""
        measures = super().measures(batch, now)
        if self.cpl_coef == 0:
            return measures
        mask = batch.inputs.completion_mask
        with torch.no_grad():
            selected = self._chosen(batch, now)
            preserved, removed = _sampled_kls(
                now, selected, (self.preserved_view, self.removed_view), estimator="k3"
            )
            measures = [
                *measures,
                Term(
                    name="perception/token_fraction",
                    coef=0.0,
                    per_token=selected.to(preserved.dtype),
                    mask=mask,
                ),
                Term(name="perception/preserved_kl", coef=0.0, per_token=preserved.detach(), mask=selected),
                Term(name="perception/removed_kl", coef=0.0, per_token=removed.detach(), mask=selected),
            ]
            return measures + (self._scored_measures(batch) if self._ranks_scores else [])

    def _scored_measures(self, batch: Batch) -> list[Term]:
        """What the scores tell of the removed view, on the completions that were scored under both."""
        mask = batch.inputs.completion_mask
        views = []
        for view in (CLEAN, self.removed_view):
            rows = self._scored(batch, view).rows
            mask = mask if rows is None else mask & rows.unsqueeze(-1)
            views.append(seen(view, batch, method=self.type))
        return looking_measures(views[0], views[1], mask)

    def candidate_tokens(self, batch: Batch) -> Bool[Tensor, "B T"]:
        """Tokens that may be chosen: all of a completion, or with the gate those of positive advantage."""
        mask = batch.inputs.completion_mask
        if self.candidates == "all_places" and self.selection == "entropy":
            mask = torch.ones_like(mask)
        return mask & (batch.advantages > 0) if self.gate else mask

    def _select(
        self, batch: Batch, clean: ViewScores | TokenStats, removed: ViewScores | TokenStats
    ) -> Bool[Tensor, "B T"]:
        mask = batch.inputs.completion_mask
        tokens = perception_tokens(
            clean.entropy,
            removed.entropy,
            torch.ones_like(mask) if self.candidates == "all_places" else mask,
            fraction=self.perception_fraction,
            score=self.score,
            rounding=self.rounding,
        )
        return tokens & self.candidate_tokens(batch)

    def _selected(self, batch: Batch) -> Bool[Tensor, "B T"]:
        if CONTRASTIVE_PERCEPTION not in batch.selections:
            raise FovealError(
                "cppo has no perception tokens for this batch, as they are chosen once a step; call "
                "objective.prepare(batch) after scoring and before the update"
            )
        return batch.selections[CONTRASTIVE_PERCEPTION]

    def _chosen(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> Bool[Tensor, "B T"]:
        if self.select_in == "scoring":
            return self._selected(batch)
        if self.selection == "all":
            return self.candidate_tokens(batch)
        return self._select(batch, now[CLEAN], now[self.removed_view])

    def _scored(self, batch: Batch, view: ViewName) -> ViewScores:
        if view not in batch.scores.views:
            raise FovealError(
                f"cppo chooses its tokens from the view {view!r}, but the batch was not scored under it; "
                f'add [perturbations.{view}] with a type such as "occlusion", or set select_in = "update"'
            )
        return batch.scores.views[view]

    def _divergences(
        self, now: Mapping[ViewName, TokenStats], selected: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """KL(clean || preserved) and KL(clean || removed) at the selected tokens, 0 elsewhere."""
        if self.divergence == "exact":
            clean, preserved, removed = now[CLEAN], now[self.preserved_view], now[self.removed_view]
            log_p = clean.log_probs_at(selected)
            preserved_kl = exact_kl(log_p, preserved.log_probs_at(selected))
            removed_kl = exact_kl(log_p, removed.log_probs_at(selected))
            return scatter_tokens(preserved_kl, selected), scatter_tokens(removed_kl, selected)
        views, limit = (self.preserved_view, self.removed_view), self.k1_limit
        near, far = _sampled_kls(now, selected, views, estimator=self.divergence)
        if self.divergence != "k1":
            return near, far
        return bounded(near, -limit, limit), bounded(far, -limit, limit)


def _sampled_kls(
    now: Mapping[ViewName, TokenStats],
    selected: Bool[Tensor, "B T"],
    views: tuple[ViewName, ViewName],
    *,
    estimator: Estimator,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """KL(clean || view) of the sampled token under both views, at the selected tokens, 0 elsewhere."""
    clean, first, second = (zero_outside(now[view].logprobs, selected) for view in (CLEAN, *views))
    return (
        kl_estimate(clean, first, estimator=estimator),
        kl_estimate(clean, second, estimator=estimator),
    )
