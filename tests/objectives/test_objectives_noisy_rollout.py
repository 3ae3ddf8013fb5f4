import pytest
import torch

from foveal.objectives.grpo import GRPO
from foveal.objectives.noisy_rollout import NoisyRollout
from foveal.objectives.papo import PAPO
from foveal.spec import ConfigError
from foveal.types import Objective
from objective_batches import is_bit_for_bit, make_case


def test_half_of_each_group_is_sampled_from_noised_pictures() -> None:
    assert NoisyRollout().sample_views(0, steps=10) == {"clean": 0.5, "noised": 0.5}
    assert NoisyRollout(noised_view="grainy").sample_views(9, steps=10) == {"clean": 0.5, "grainy": 0.5}
    assert NoisyRollout(fraction=1.0).sample_views(0, steps=10) == {"clean": 0.0, "noised": 1.0}


def test_nothing_is_sampled_from_noised_pictures_at_fraction_zero_or_late() -> None:
    assert NoisyRollout(fraction=0.0).sample_views(0, steps=10) == {"clean": 1.0}
    late = NoisyRollout(clean_after=0.75)
    assert late.sample_views(7, steps=10) == {"clean": 0.5, "noised": 0.5}
    assert late.sample_views(8, steps=10) == {"clean": 1.0}
    assert NoisyRollout(clean_after=0.0).sample_views(0, steps=10) == {"clean": 1.0}


def test_what_holds_it_samples_as_it_does() -> None:
    outer = PAPO(base=NoisyRollout(fraction=0.25))
    assert outer.sample_views(0, steps=4) == {"clean": 0.75, "noised": 0.25}
    nested = NoisyRollout(base=NoisyRollout(noised_view="grainy"), fraction=0.5)
    assert nested.sample_views(0, steps=4) == {"clean": 0.25, "grainy": 0.25, "noised": 0.5}


@pytest.mark.parametrize("base", [GRPO(), PAPO(kl_prcp_coef=0.1)])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_loss_and_its_views_are_those_of_the_base(base: Objective, fraction: float) -> None:
    objective, case = NoisyRollout(base=base, fraction=fraction), make_case(dtype=torch.float32)
    assert is_bit_for_bit(objective, base, case)


def test_the_view_of_the_update_is_no_other_view() -> None:
    with pytest.raises(ConfigError, match="name another view"):
        NoisyRollout(noised_view="clean")


def test_the_preset_has_the_official_bonus_and_mean() -> None:
    found = NoisyRollout(preset="7b")
    assert isinstance(found.base, GRPO) and found.fraction == 0.5
    assert (found.base.entropy_bonus_coef, found.aggregation, found.base.kl_coef) == (1e-3, "token_mean", 0.0)
