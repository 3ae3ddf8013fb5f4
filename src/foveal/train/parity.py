"""What happens when the sampler and the trainer are not the same model: nothing recorded is used any more."""

from collections.abc import Mapping
from typing import Any, Protocol

from foveal.config import RunConfig

USUAL: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.5}
"""Limits in nats by the type of the weights: about 100 and 3 times the largest difference that the local
sampler showed over 8,000 tokens of the shipped tiny model (1.1e-5 and 0.18)."""


PRODUCT_GAPS: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.2}
"""Limits of `ProductPart.gaps` by the type of the weights: some 700 and 8 times the largest that three steps
of the shipped tiny model showed (1.5e-6 and 0.024). One token that attends to nothing is at 1."""


def parity_limit(config: RunConfig) -> float:
    """Nats that a recorded value may be off: as configured, or the usual limit of the type."""
    return config.optimizer.parity_limit or USUAL[config.model.dtype]


class Limits(Protocol):
    """What is allowed: `StepSettings`."""

    @property
    def parity_limit(self) -> float: ...  # noqa: D102

    @property
    def product_gap_limit(self) -> float: ...  # noqa: D102


def parity_event(metrics: Mapping[str, float], *, step: int, limits: Limits) -> dict[str, Any]:
    """What is written of the step that found it."""
    names = ("sampler/parity_max", "sampler/entropy_parity_max", "sampler/product_gap_max")
    found = {name.partition("/")[2]: metrics[name] for name in names if name in metrics}
    return {
        "step": step,
        **found,
        "limit": limits.parity_limit,
        "product_limit": limits.product_gap_limit,
    }


def parity_in_words(event: Mapping[str, Any]) -> str:
    """The event as it is told, with what to change."""
    said, remedy = [], []
    if event["parity_max"] > event["limit"] or event.get("entropy_parity_max", 0.0) > event["limit"]:
        found = f"log-probabilities recorded in sampling are up to {event['parity_max']:.3g} nats"
        if "entropy_parity_max" in event:
            found += f", entropies up to {event['entropy_parity_max']:.3g} nats,"
        said.append(
            f"{found} from the policy's; expected at most {event['limit']:g} (optimizer.parity_limit)"
        )
        remedy.append(
            'raise optimizer.parity_limit where so much is normal, or set optimizer.old_logprobs = "sampled"'
        )
    gap = event.get("product_gap_max", 0.0)
    if not gap <= event["product_limit"]:
        said.append(
            f"what layers made of completions in sampling is off by {gap:.3g} of its norm; expected at most "
            f"{event['product_limit']:g}"
        )
        remedy.append('do without it by optimizer.hold_products = "never"')
    return (
        f"step {event['step']}: {'; '.join(said)}. The sampler is not the same model as the trainer. This "
        f"step's update and all later ones use scored values, one more pass a step; find out why, or "
        f"{', or '.join(remedy)}"
    )
