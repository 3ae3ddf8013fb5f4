import pytest
import torch

from foveal.compat.lengths import verl_overlong_penalty
from foveal.objectives.dapo import overlong_penalty


def test_up_to_the_limit_the_official_penalty_is_the_papers() -> None:
    lengths, how = torch.arange(21), {"max_length": 20, "buffer": 5, "factor": 0.5}
    found = verl_overlong_penalty(lengths, **how)
    assert torch.equal(found, overlong_penalty(lengths, **how))
    assert found[15:].tolist() == pytest.approx([0.0, -0.1, -0.2, -0.3, -0.4, -0.5])


def test_beyond_the_limit_it_goes_on_falling_where_the_papers_stops() -> None:
    lengths, how = torch.tensor([20, 22, 30]), {"max_length": 20, "buffer": 5, "factor": 1.0}
    assert verl_overlong_penalty(lengths, **how).tolist() == pytest.approx([-1.0, -1.4, -3.0])
    assert overlong_penalty(lengths, **how).tolist() == [-1.0, -1.0, -1.0]
