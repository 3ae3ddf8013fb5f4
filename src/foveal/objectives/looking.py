"""What the policy says under another view of the pictures: shared by the methods that compare views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from foveal.objectives.terms import kl_estimate, zero_outside
from foveal.spec import FovealError
from foveal.types import Batch, Term, TokenStats, ViewName, ViewScores

USUAL: Mapping[ViewName, str] = {"noised": "diffusion_noise", "preserved": "rotation"}
"""Perturbations that hints name for a view; others lose information."""

EntropyKind = Literal["sampled", "full"]
"""Either "sampled": the negative log-likelihood of the sampled token, or "full": entropy over the
vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One view on the completion tokens, 0 elsewhere."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]

    def uncertainty(self, kind: EntropyKind) -> Float[Tensor, "B T"]:
        """The entropy of each token, of this kind, in nats."""
        return self.entropy if kind == "full" else -self.logprobs


def seen(
    view: ViewName,
    batch: Batch,
    now: Mapping[ViewName, TokenStats] | None = None,
    *,
    method: str,
) -> Seen:
    """A view of the running forward `now`, with gradient; without `now` that of the scores, without.

    Raises: FovealError, when the view is not there.
    """
    found: TokenStats | ViewScores | None = (batch.scores.views if now is None else now).get(view)
    if found is None:
        where = "scored" if now is None else "run in the update"
        raise FovealError(
            f"{method} needs the view {view!r}, but the batch was not {where} under it; "
            f'add [perturbations.{view}] type = "{USUAL.get(view, "patch_mask")}"'
        )
    mask = batch.inputs.completion_mask
    return Seen(logprobs=zero_outside(found.logprobs, mask), entropy=zero_outside(found.entropy, mask))


def looking_measures(clean: Seen, removed: Seen, mask: Bool[Tensor, "B T"]) -> list[Term]:
    """What the removed view takes away: `kl_prcp`, which is plain k3 of the sampled token whatever a term of
    that name pays for, information gain and entropy shift. No gradient."""
    values = {
        "kl_prcp": kl_estimate(clean.logprobs, removed.logprobs, estimator="k3"),
        "perception/information_gain": clean.logprobs - removed.logprobs,
        "perception/entropy_shift": removed.entropy - clean.entropy,
    }
    return [
        Term(name=name, coef=0.0, per_token=zero_outside(value, mask).detach(), mask=mask)
        for name, value in values.items()
    ]
