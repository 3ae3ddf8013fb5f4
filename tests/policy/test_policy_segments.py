"""Ragged attention of a packed row against the dense mask and against a loop with the flash kernels' own
calling convention."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveal.policy import Policy, load_policy, paths, segments
from foveal.policy.attention import PackedLayout
from foveal.policy.merge import RowParts, attend
from foveal.policy.segments import Flash, Kernel, Padded, Tiled
from foveal.spec import FovealError
from policy_cases import MIXED, batch, close, plain, shared

ROWS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "ragged": ((3, 9, 5), (2, 0, 7, 4, 1), (0, 0, 1, 1, 2)),
    "a prompt without completions": ((4, 2, 6), (3, 5), (0, 2)),
    "prompts alone": ((3, 1, 4), (), ()),
    "one token each": ((1, 1), (1, 1), (0, 1)),
}


def flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    dropout: float,
    causal: bool,
    debug: bool,
    *,
    scale: float,
) -> tuple[Tensor, ...]:
    """aten::_flash_attention_forward on ragged segments, token by token and head by head."""
    output, lse = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query))
    for row, head, keys, theirs in _pairs(query, key, query_ends, key_ends, causal):
        scores = key[keys, theirs] @ query[row, head] * scale
        lse[head, row] = scores.logsumexp(0)
        output[row, head] = (scores - lse[head, row]).exp() @ value[keys, theirs]
    assert dropout == 0 and not debug
    assert longest_query >= max(2, int(query_ends.diff().max())) and longest_key == int(key_ends.diff().max())
    nothing = torch.empty(0)
    return output, lse, nothing, nothing, nothing


def flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    dropout: float,
    causal: bool,
    state: Tensor,
    unused: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """aten::_flash_attention_backward likewise: probabilities and delta from the given output and lse."""
    assert grad.is_contiguous() and lse.is_contiguous() and lse.shape == (query.shape[1], len(query))
    found = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for row, head, keys, theirs in _pairs(query, key, query_ends, key_ends, causal):
        weights = (key[keys, theirs] @ query[row, head] * scale - lse[head, row]).exp()
        slope = weights * (value[keys, theirs] @ grad[row, head] - grad[row, head] @ output[row, head])
        found[0][row, head] += slope @ key[keys, theirs] * scale
        found[1][keys, theirs] += slope[:, None] * query[row, head] * scale
        found[2][keys, theirs] += weights[:, None] * grad[row, head]
    return found


def _pairs(
    query: Tensor, key: Tensor, query_ends: Tensor, key_ends: Tensor, causal: bool
) -> list[tuple[int, int, slice, int]]:
    """Each query token and head with the keys that it sees and their head."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert int(query_ends[-1]) == len(query) and int(key_ends[-1]) == len(key)
    repeat = query.shape[1] // key.shape[1]
    spans = zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True)
    return [
        (row, head, slice(first, first + row - begin + 1 if causal else last), head // repeat)
        for (begin, end), (first, last) in spans
        for row in range(begin, end)
        for head in range(query.shape[1])
    ]


@pytest.fixture
def flash_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", flash_backward)


def drawn(size: int, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(size, heads, 8, generator=draw, dtype=dtype) for heads in (4, 2, 2, 4)]


def outcome(kernel: Kernel, row: str) -> list[Tensor]:
    parts = RowParts.of(*ROWS[row], device=torch.device("cpu"))
    query, key, value, grad = drawn(sum(parts.own.query_lengths))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    output = attend(*leaves, parts, 0.3, kernel=kernel)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def dense(row: str) -> list[Tensor]:
    prompts, completions, owners = ROWS[row]
    layout = PackedLayout(
        prompt_lengths=prompts,
        completion_lengths=completions,
        completion_prompts=owners,
        device=torch.device("cpu"),
        path="dense",
    )
    query, key, value, grad = drawn(sum(prompts) + sum(completions))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    output = layout.attend(0, *(x.transpose(0, 1)[None] for x in leaves), 0.3)[0].transpose(0, 1)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("tile", [1, 40, 1 << 20])
def test_tiles_of_any_size_equal_the_dense_mask_with_gradients(
    row: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "TILE_ELEMENTS", tile)
    for found, wanted in zip(outcome(Tiled(), row), dense(row), strict=True):
        assert (found - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.parametrize("row", [*ROWS, "alike"])
def test_padded_segments_give_the_dense_mask_with_gradients(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "alike", ((9, 8, 9, 9), (9, 8, 9, 8, 1, 8), (0, 0, 1, 2, 2, 3)))
    for found, wanted in zip(outcome(Padded(), row), dense(row), strict=True):
        assert (found - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.usefixtures("flash_on_cpu")
@pytest.mark.parametrize("row", ROWS)
def test_what_is_handed_to_the_flash_kernels_gives_the_dense_mask_with_gradients(row: str) -> None:
    for found, wanted in zip(outcome(Flash(), row), dense(row), strict=True):
        assert (found - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.parametrize("kernel", [Tiled(), Padded()], ids=["tiled", "padded"])
def test_the_gradient_is_that_of_finite_differences(kernel: Kernel) -> None:
    parts = RowParts.of((3, 1), (2, 1), (0, 1), device=torch.device("cpu"))
    leaves = [x[..., :2].clone().requires_grad_() for x in drawn(7)[:3]]
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, parts, 0.3, kernel=kernel), leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_flash_operators_take_these_arguments_and_give_these_shapes(dtype: torch.dtype) -> None:
    """On the meta device the real operators check their arguments without computing."""
    device = torch.device("meta")
    parts = RowParts.of(*ROWS["ragged"], device=device)
    leaves = [x.to(device, dtype).requires_grad_() for x in drawn(sum(parts.own.query_lengths))[:3]]
    output = attend(*leaves, parts, 0.3, kernel=Flash())
    grads = torch.autograd.grad(output, leaves, torch.empty_like(output))
    for found, leaf in zip((output, *grads), (leaves[0], *leaves), strict=True):
        assert found.shape == leaf.shape and found.dtype == dtype


def test_sixteen_bit_numbers_are_summed_in_float32() -> None:
    parts = RowParts.of(*ROWS["ragged"], device=torch.device("cpu"))
    rounded = [x.bfloat16() for x in drawn(sum(parts.own.query_lengths))[:3]]
    found = attend(*rounded, parts, 0.3, kernel=Tiled())
    wanted = attend(*(x.double() for x in rounded), parts, 0.3, kernel=Tiled())
    assert found.dtype == torch.bfloat16
    assert (found - wanted).norm() <= 2**-8 * wanted.norm()


@pytest.mark.usefixtures("flash_on_cpu")
def test_the_whole_policy_through_the_flash_path_equals_plain_forward_under_checkpointing(
    tiny_folder: Path,
) -> None:
    policy: Policy = load_policy(str(tiny_folder))
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    inputs = batch(policy, MIXED[0], MIXED[1])
    policy.attention_path = "flash"
    assert close(shared(policy, inputs), plain(policy, inputs))


@pytest.mark.parametrize(
    ("name", "device", "dtype", "wanted"),
    [
        ("auto", "cpu", torch.float32, "split"),
        ("auto", "meta", torch.float32, "dense"),
        ("auto", "cuda", torch.float32, "tiled"),
        ("tiled", "cpu", torch.float32, "tiled"),
        ("dense", "cuda", torch.float32, "dense"),
    ],
)
def test_the_path_follows_device_and_type(name: str, device: str, dtype: torch.dtype, wanted: str) -> None:
    found = paths.attention_path(name, device=torch.device(device), dtype=dtype, head_width=128)
    assert found == wanted


@pytest.mark.usefixtures("flash_on_cpu")
def test_flash_is_taken_when_it_agrees_and_left_when_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    gap = paths.kernel_gap
    # The emulation runs on the CPU; what is asked for is CUDA.
    monkeypatch.setattr(paths, "kernel_gap", lambda kernel, device, dtype, width: gap(kernel, cpu, dtype, 8))
    chosen = {"device": cuda, "dtype": torch.bfloat16, "head_width": 128}
    assert paths.attention_path("auto", **chosen) == "flash"  # type: ignore[arg-type]

    def unmerged(*given: Tensor, **more: float) -> tuple[Tensor, Tensor, Tensor]:
        return flash_backward(*given[:5], given[5] - 0.5, *given[6:], **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", unmerged)
    assert paths.attention_path("auto", **chosen) == "tiled"  # type: ignore[arg-type]
    with pytest.raises(FovealError, match=r"'flash' cannot run here: its kernels are off by .*'auto'"):
        paths.attention_path("flash", **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "device", "dtype", "width", "said"),
    [
        ("flash", "cpu", torch.bfloat16, 128, "kernels are CUDA's, and the device is cpu"),
        ("flash", "cuda", torch.float32, 128, "16-bit numbers, and the dtype is torch.float32"),
        ("flash", "cuda", torch.bfloat16, 100, "multiple of 8 up to 256, and these have 100"),
        ("split", "cuda", torch.float32, 128, "those of a CPU, and the device is cuda"),
        ("quick", "cpu", torch.float32, 128, "expected 'auto', 'split', 'flash', 'tiled' or 'dense'"),
    ],
)
def test_a_path_that_cannot_run_is_refused_with_the_reason(
    name: str, device: str, dtype: torch.dtype, width: int, said: str
) -> None:
    with pytest.raises(FovealError, match=said):
        paths.attention_path(name, device=torch.device(device), dtype=dtype, head_width=width)


def test_flash_kernels_that_fail_are_left_with_their_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: object) -> float:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(paths, "kernel_gap", missing)
    chosen = {"device": torch.device("cuda"), "dtype": torch.bfloat16, "head_width": 128}
    assert paths.attention_path("auto", **chosen) == "tiled"  # type: ignore[arg-type]
    with pytest.raises(FovealError, match="its kernels failed: no kernel image;"):
        paths.attention_path("flash", **chosen)  # type: ignore[arg-type]
