"""RMSNorm in few passes: the library's numbers and gradients, and the derivatives of these."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from foveal.policy import load_policy
from foveal.policy.families.qwen2_5_vl_layer import LeanNorm
from foveal.policy.norms import FixedNorm, rms_norm


def given(*size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*of, generator=draw, dtype=torch.float64) for of in (size, size[-1:]))
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def test_by_hand() -> None:
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 10.0])
    # mean(x^2) = 12.5; with 3.5 more its root is 4.
    wanted = torch.tensor([[1.5, 10.0]])
    assert torch.equal(rms_norm(x, weight, 3.5), wanted)
    torch.testing.assert_close(FixedNorm(weight, 3.5)(x), wanted, rtol=3e-7, atol=0)


@pytest.mark.parametrize("size", [(5, 7), (2, 3, 4), (1, 1, 1)])
def test_gradients_of_first_and_second_order(size: tuple[int, ...]) -> None:
    x, weight = given(*size)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))


def test_it_is_the_librarys_in_float32() -> None:
    module = Qwen2_5_VLRMSNorm(96, eps=1e-6)
    x, weight = given(40, 96, dtype=torch.float32)
    module.weight.data.copy_(weight.detach())
    slope = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
    wanted, found = module(x), rms_norm(x, weight, 1e-6)
    grads = torch.autograd.grad(wanted, (x, module.weight), slope)
    for one, other in zip(
        (found, *torch.autograd.grad(found, (x, weight), slope)), (wanted, *grads), strict=True
    ):
        assert (one - other).norm() <= 3e-7 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_decodings_norm_is_torchs(dtype: torch.dtype, size: float) -> None:
    x, weight = (t.detach() for t in given(40, 96, dtype=dtype))
    x = x * size
    x[7] = 0
    found = FixedNorm(weight, 1e-6)(x)
    wanted = torch.nn.functional.rms_norm(x, (96,), weight, 1e-6)
    assert found.dtype == dtype and (found - wanted).norm() <= 2 * torch.finfo(dtype).eps * wanted.norm()
    assert torch.equal(found[7], torch.zeros(96, dtype=dtype))


def test_only_gradients_that_are_wanted_are_made() -> None:
    x, weight = given(3, 4)
    for trained, frozen in ((x, weight), (weight, x)):
        frozen.requires_grad_(False)
        rms_norm(x, weight, 1e-6).sum().backward()
        assert trained.grad is not None and frozen.grad is None
        frozen.requires_grad_()
        trained.grad = None


@pytest.mark.parametrize("autocast", [False, True])
def test_other_types_are_computed_by_the_library(autocast: bool) -> None:
    dtype = torch.float32 if autocast else torch.bfloat16
    lean, module = LeanNorm(16), Qwen2_5_VLRMSNorm(16)
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(lean.to(dtype)(x), module.to(dtype)(x))


def test_every_norm_of_a_policy_is_a_lean_one_with_its_name(tiny_folder: Path) -> None:
    model = load_policy(str(tiny_folder)).model
    norms = {name: module for name, module in model.named_modules() if isinstance(module, Qwen2_5_VLRMSNorm)}
    assert {"model.language_model.norm", "model.visual.merger.ln_q"} < norms.keys()
    assert all(type(module) is LeanNorm for module in norms.values())
    assert all(f"{name}.weight" in model.state_dict() for name in norms)
