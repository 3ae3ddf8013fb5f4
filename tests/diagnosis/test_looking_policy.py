"""Token heat on a real tiny model."""

import numpy as np
import pytest
from PIL.Image import Image

from foveal.diagnosis.looking import looking
from foveal.perturbations.replace import Blank
from foveal.policy import Policy
from foveal.types import REMOVED, Perturbation, PerturbationContext
from policy_cases import ONE, TWO, group


class Same(Perturbation):
    """Hides nothing."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        return image.copy()


def test_equal_views_owe_nothing_and_a_blank_picture_changes_something(policy: Policy) -> None:
    groups = [group(policy, ONE, [5, 9]), group(policy, TWO, [7])]
    same = looking(policy, groups, perturbations={REMOVED: Same(type="same")}, key=(0,))
    blank = looking(policy, groups, perturbations={REMOVED: Blank(type="blank")}, key=(0,))
    assert [(h.problem_id, h.index, len(h.kl_prcp)) for h in same] == [
        (ONE.id, 0, 5),
        (ONE.id, 1, 9),
        (TWO.id, 0, 7),
    ]
    assert all(value == 0 for heat in same for value in (*heat.kl_prcp, *heat.entropy_shift))
    assert all(max(heat.kl_prcp) > 0 for heat in blank)


def test_texts_join_to_the_completion_and_batches_change_nothing(policy: Policy) -> None:
    groups = [group(policy, ONE, [5, 9]), group(policy, TWO, [7])]
    settings = {REMOVED: Blank(type="blank")}
    whole = looking(policy, groups, perturbations=settings, key=(0,))
    single = looking(policy, groups, perturbations=settings, key=(0,), batch_size=1)
    for heat, other in zip(whole, single, strict=True):
        assert "".join(heat.texts) == policy.processor.decode(heat.token_ids)
        assert heat.texts == other.texts
        assert heat.kl_prcp == pytest.approx(other.kl_prcp, abs=1e-5)
