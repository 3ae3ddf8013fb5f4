"""Linear layers whose products oneDNN makes: equal to torch's within float32's rounding, in every shape."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from foveal.policy import Policy, linears, load_policy
from foveal.policy.linears import (
    ONEDNN,
    PLAIN,
    ROUNDING,
    FixedLinear,
    Linears,
    RoutedLinear,
    linear,
    linears_of,
    onednn_fault,
    route,
)
from foveal.rollout.local import LocalEngine
from foveal.spec import FovealError
from foveal.types import CLEAN, Completion, Sampling
from policy_cases import MIXED, NONE, ONE, TALL, TWO, batch, close, plain, shared

CPU = torch.device("cpu")
N, K = 24, 40
KINDS = tuple(PLAIN.names)
PRODUCTS = {"aten.mm", "aten.addmm", "aten.addmm_", "aten.matmul", "aten.linear"}
"""Torch's own products of matrices; attention's are batched (`bmm`)."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def policy(tiny_folder: Path) -> Policy:
    return load_policy(str(tiny_folder), linears="onednn")


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


INPUTS: dict[str, Callable[[], Tensor]] = {
    "1-D": lambda: draw(K),
    "2-D": lambda: draw(7, K),
    "3-D": lambda: draw(2, 3, K),
    "4-D": lambda: draw(2, 3, 2, K),
    "one_row": lambda: draw(1, K),
    "no_rows": lambda: draw(0, K),
    "no_rows_3-D": lambda: draw(2, 0, K),
    "transposed": lambda: draw(K, 7).t(),
    "columns_of_more": lambda: draw(7, 3 * K)[:, 5 : 5 + K],
    "every_other_row": lambda: draw(14, K)[::2],
    "every_other_column": lambda: draw(7, 2 * K)[:, ::2],
    "repeated_row": lambda: draw(1, K).expand(7, K),
    "one_number": lambda: draw(1, 1).expand(7, K),
    "permuted_3-D": lambda: draw(3, 2, K).permute(1, 0, 2),
    "unaligned": lambda: draw(7 * K + 1)[1:].view(7, K),
}

WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: draw(N, K, seed=1),
    "transposed": lambda: draw(K, N, seed=1).t(),
    "columns_of_more": lambda: draw(N, 2 * K, seed=1)[:, 3 : 3 + K],
}

BIASES: dict[str, Callable[[], Tensor | None]] = {
    "none": lambda: None,
    "contiguous": lambda: draw(N, seed=2),
    "every_other": lambda: draw(2 * N, seed=2)[::2],
}


def gap(found: Tensor, wanted: Tensor) -> float:
    """Relative L2 distance, of nothing the distance."""
    assert found.shape == wanted.shape
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / (wanted.norm() if wanted.any() else 1))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("x", INPUTS)
def test_output_and_gradients_are_as_near_to_float64_as_those_of_torch(
    x: str, weight: str, bias: str
) -> None:
    given = [INPUTS[x](), WEIGHTS[weight](), BIASES[bias]()]
    slope = draw(*given[0].shape[:-1], N, seed=3)  # type: ignore[union-attr]

    def outcome(function: Callable[..., Tensor], kind: torch.dtype) -> list[Tensor]:
        leaves = [None if t is None else t.to(kind).requires_grad_() for t in given]
        output = function(*leaves)
        grads = torch.autograd.grad(output, [t for t in leaves if t is not None], slope.to(kind))
        return [output, *grads]

    wanted = outcome(F.linear, torch.float64)
    ours = outcome(lambda *t: linear(*t, ONEDNN), torch.float32)
    theirs = outcome(F.linear, torch.float32)
    for found, plain_one, exact in zip(ours, theirs, wanted, strict=True):
        assert max(gap(found, exact), gap(plain_one, exact)) <= ROUNDING
    assert torch.equal(linear(*given, ONEDNN), ours[0])  # type: ignore[arg-type]


def test_a_gradient_of_ones_that_shares_one_number_is_right() -> None:
    x, weight = draw(2, 7, K).requires_grad_(), draw(N, K, seed=1).requires_grad_()
    linear(x, weight, None, ONEDNN).sum().backward()
    assert gap(x.grad, weight.detach().sum(0).expand(2, 7, K)) <= ROUNDING  # type: ignore[arg-type]
    assert gap(weight.grad, x.detach().sum((0, 1)).expand(N, K)) <= ROUNDING  # type: ignore[arg-type]


def test_a_width_of_nothing_gives_the_bias() -> None:
    x, weight, bias = torch.empty(3, 0), torch.empty(N, 0), draw(N)
    assert torch.equal(linear(x, weight, bias, ONEDNN), bias.expand(3, N))
    assert torch.equal(FixedLinear(weight, bias, ONEDNN)(x), bias.expand(3, N))


def test_infinities_and_nan_go_through() -> None:
    x, weight = draw(4, K), draw(N, K, seed=1)
    x[1, 3], x[2, 3] = torch.nan, torch.inf
    weight[0, 3] = 0
    found = linear(x, weight, None, ONEDNN)
    assert found[1].isnan().all()
    assert found[2, 0].isnan() and found[2, 1:].isinf().all()
    assert found[[0, 3]].isfinite().all()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_each_product_is_chosen_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    real = linears._onednn

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        made.append((len(x), len(weight)))
        return real(x, weight, bias)

    monkeypatch.setattr(linears, "_onednn", counted)
    x, weight = draw(7, K).requires_grad_(), draw(N, K, seed=1).requires_grad_()
    linear(x, weight, None, replace(PLAIN, **{kind: True})).square().sum().backward()
    assert made == [{"forward": (7, N), "input_grad": (7, K), "weight_grad": (N, K)}[kind]]


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_is_not_kept(frozen: str) -> None:
    given = {"x": draw(7, K), "weight": draw(N, K, seed=1), "bias": draw(N, seed=2)}
    for name, tensor in given.items():
        tensor.requires_grad_(name != frozen)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        output = linear(*given.values(), ONEDNN)
    output.sum().backward()
    assert {name for name, tensor in given.items() if tensor.grad is None} == {frozen}
    # The input is needed for the weight's gradient, the weight for the input's.
    needed = {"x": ["x"], "weight": ["weight"], "bias": ["x", "weight"]}[frozen]
    assert sorted(kept) == sorted(given[name].data_ptr() for name in needed)


def test_gradients_of_gradients_are_those_of_torch() -> None:
    given = [draw(5, K), draw(N, K, seed=1), draw(N, seed=2)]

    def second(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in given]
        first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    for found, wanted in zip(second(lambda *t: linear(*t, ONEDNN)), second(F.linear), strict=True):
        assert gap(found, wanted) <= 3 * ROUNDING


def test_a_weight_that_changed_is_seen_and_one_that_changes_before_its_backward_is_refused() -> None:
    layer = nn.Sequential(nn.Linear(K, N))
    route(layer, ONEDNN)
    x = draw(3, K).requires_grad_()
    before = layer(x)
    with torch.no_grad():
        layer[0].weight.mul_(2)
    assert gap(layer(x), F.linear(x, layer[0].weight, layer[0].bias)) <= ROUNDING
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        before.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = draw(3, K).to(dtype), draw(N, K, seed=1).to(dtype)
    assert torch.equal(linear(x, weight, None, ONEDNN), F.linear(x, weight))
    assert torch.equal(FixedLinear(weight, None, ONEDNN)(x), F.linear(x, weight))


def test_autocast_and_wrong_shapes_are_left_to_torch() -> None:
    x, weight = draw(3, K), draw(N, K, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(x, weight, None, ONEDNN), F.linear(x, weight))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(draw(3, K + 1), weight, None, ONEDNN)


@pytest.mark.parametrize("rows", [0, 1, 8, 33, 200])
@pytest.mark.parametrize("bias", BIASES)
def test_a_weight_laid_out_for_decoding_gives_the_same_for_any_number_of_rows(rows: int, bias: str) -> None:
    weight, offset, x, total = draw(N, K, seed=1), BIASES[bias](), draw(rows, K), draw(rows, N, seed=4)
    wanted = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
    layer = FixedLinear(weight, offset, ONEDNN)
    assert gap(layer(x), wanted) <= ROUNDING
    if offset is None:
        assert gap(layer.added(total, x), total + wanted) <= ROUNDING
        assert torch.equal(
            FixedLinear(weight, None, PLAIN).added(total, x), torch.addmm(total, x, weight.t())
        )


class Seen(TorchDispatchMode):
    """Names of the operators that were run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


def drawn(policy: Policy) -> list[Completion]:
    sampling = Sampling(group_size=3, max_new_tokens=8)
    found = LocalEngine(policy).generate((ONE, TWO, NONE, TALL), sampling=sampling, key=(5,))
    return [completion for group in found for completion in group]


def test_no_product_of_a_policy_is_left_to_torch(policy: Policy) -> None:
    """Text layers, vision tower, patch embedding, head, its chosen tokens, decoding; and their backward."""
    inputs = batch(policy, *MIXED)
    with Seen() as seen:
        stats = policy(inputs, CLEAN)
        chosen = stats.log_probs_at(inputs.completion_mask).square().sum()
        (stats.logprobs.sum() + stats.entropy.sum() + chosen).backward()
        drawn(policy)
    assert "mkldnn._linear_pointwise" in seen.names
    assert not seen.names & PRODUCTS


@pytest.mark.parametrize("kind", ["all", *KINDS[:3]])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_equals_the_plain_forward(policy: Policy, kind: str, checkpointing: bool) -> None:
    policy.use_linears(ONEDNN if kind == "all" else replace(PLAIN, **{kind: True}))
    if checkpointing:
        policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    inputs = batch(policy, *MIXED)
    assert close(shared(policy, inputs), plain(policy, inputs))


def test_completions_are_those_of_torchs_products(policy: Policy) -> None:
    found = drawn(policy)
    policy.use_linears(PLAIN)
    for ours, theirs in zip(found, drawn(policy), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.sampled_logprobs == pytest.approx(theirs.sampled_logprobs, abs=5e-6)


def test_weights_that_changed_are_laid_out_anew_for_the_next_completions(policy: Policy) -> None:
    drawn(policy)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(-2)  # type: ignore[union-attr, operator]
        policy.model.model.language_model.layers[0].mlp.down_proj.weight.mul_(-2)  # type: ignore[union-attr]
    found = drawn(policy)
    policy.use_linears(PLAIN)
    assert [c.token_ids for c in found] == [c.token_ids for c in drawn(policy)]


def test_names_files_and_copies_are_those_of_an_ordinary_model(policy: Policy, tmp_path: Path) -> None:
    source = load_policy(str(policy.processor.folder))
    assert list(policy.model.state_dict()) == list(source.model.state_dict())
    policy.save(tmp_path / "out")
    source.save(tmp_path / "plain")
    names = sorted(file.name for file in (tmp_path / "plain").iterdir())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    copied = copy.deepcopy(policy)
    inputs = batch(policy, *MIXED)
    before = policy(inputs, CLEAN).logprobs.detach()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    assert torch.equal(copied(inputs, CLEAN).logprobs, before)


def test_going_back_to_torch_leaves_ordinary_layers(policy: Policy) -> None:
    layers = [m for m in policy.model.modules() if isinstance(m, nn.Linear)]
    assert {type(layer) for layer in layers} == {RoutedLinear}
    policy.use_linears(PLAIN)
    assert {type(layer) for layer in layers} == {nn.Linear}
    assert not any("linears" in vars(layer) for layer in layers)


def test_layers_that_are_not_plain_are_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.Linear(K, K), Doubled(K, N))
    route(model, ONEDNN)
    assert [type(layer) for layer in model] == [RoutedLinear, Doubled]


def test_a_policy_in_float64_multiplies_as_torch(policy: Policy) -> None:
    policy.double()
    inputs = batch(policy, *MIXED)
    found = policy(inputs, CLEAN).logprobs.detach()
    policy.use_linears(PLAIN)
    assert torch.equal(policy(inputs, CLEAN).logprobs, found)


def test_a_setting_means_its_products() -> None:
    chosen = [linears_of(name, device=CPU, dtype=torch.float32) for name in ("torch", "auto", "onednn")]
    assert chosen == [PLAIN, PLAIN, ONEDNN]


@pytest.mark.parametrize(
    ("name", "device", "dtype", "said"),
    [
        ("mkl", "cpu", torch.float32, "linears = 'mkl'; expected 'auto', 'torch' or 'onednn'; change"),
        (
            "onednn",
            "cuda",
            torch.float32,
            "here: it is a library for CPUs, and the device is cuda",
        ),
        ("onednn", "cpu", torch.bfloat16, "products are those of float32, and the dtype is torch.bfloat16"),
    ],
)
def test_products_that_cannot_be_made_are_refused_with_the_reason(
    name: str, device: str, dtype: torch.dtype, said: str
) -> None:
    with pytest.raises(FovealError, match=said):
        linears_of(name, device=torch.device(device), dtype=dtype)


def test_a_policy_is_not_loaded_with_products_that_it_cannot_make(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FovealError, match=r"'onednn' cannot run here: .*bfloat16; change \[model\] linears"):
        load_policy(str(tiny_folder), dtype=torch.bfloat16, linears="onednn")
    # The setting is read before the weights are.
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FovealError, match="linears = 'fast'"):
        load_policy(str(folder), linears="fast")


def test_products_are_trusted_after_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onednn_fault(CPU, torch.float32) is None
    real = linears._onednn

    def short(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return real(x.bfloat16().float(), weight, bias)

    monkeypatch.setattr(linears, "_onednn", short)
    assert "products are off by 0.00" in str(onednn_fault(CPU, torch.float32))

    def missing(*given: Any) -> Tensor:
        raise NotImplementedError("no such operator\nanywhere")

    monkeypatch.setattr(linears, "_onednn", missing)
    assert onednn_fault(CPU, torch.float32) == "its product failed: no such operator"


def test_a_torch_without_onednn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        assert "no oneDNN, or it is turned off" in str(onednn_fault(CPU, torch.float32))
    assert onednn_fault(CPU, torch.float32) is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "no oneDNN, or it is turned off" in str(onednn_fault(CPU, torch.float32))


def test_what_is_recorded_is_read_again() -> None:
    for chosen in (PLAIN, ONEDNN, Linears(forward=True, decode=True)):
        assert Linears.of(chosen.names) == chosen
    assert Linears.of({"forward": "onednn", "decode": 3, "other": "onednn"}) == Linears(forward=True)
