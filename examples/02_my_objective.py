"""An objective of your own in one file: GRPO plus a penalty for being sure on a blanked picture.

Use it without touching the library:

    foveal train quickstart_grpo --out runs/humble perturbations.blanked.type=blank \\
        'objective={type="examples/02_my_objective.py:Humble", humble_coef=0.01, base={type="grpo"}}'
"""

from collections.abc import Mapping

from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from foveal.objectives.extension import Extension
from foveal.types import Batch, Term, TokenStats, ViewName


class Humble(Extension):
    """L = L_base - humble_coef * H[blanked]: without a picture the policy shall not pretend to know.

    Gradient flows into the clean branch through the base, and into the blanked branch through its entropy.
    """

    type: str = "humble"
    humble_coef: float = Field(default=0.01, ge=0)
    view: ViewName = "blanked"

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        return (*self.base.update_views, self.view)

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        return batch.inputs.completion_mask.any(-1) if view == self.view else self.base.rows(view, batch)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        return {**self.base.masks(batch), "humble": batch.inputs.completion_mask}

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        entropy = now[self.view].entropy
        own = Term(
            name="humble", coef=-self.humble_coef, per_token=entropy, mask=batch.inputs.completion_mask
        )
        return [*self.base.terms(batch, now), own]


if __name__ == "__main__":
    from foveal.config import load
    from foveal.tables import shipped

    config = load(
        shipped("quickstart_grpo"),
        overrides=[
            f"objective={{type = '{__file__}:Humble', base = {{type = 'grpo'}}}}",
            "perturbations.blanked={type = 'blank'}",
        ],
    )
    print("views of the run:", config.objective.views)
