"""The head's maths against loops over words, plain and compiled, and when it is compiled."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.policy import Policy, head, head_paths, load_policy, vocabulary
from foveal.policy.head import token_stats
from foveal.policy.vocabulary import HeadPath
from foveal.spec import FovealError
from foveal.train.measure import chosen_head
from policy_cases import MIXED, batch, close, plain, shared

PATHS: tuple[HeadPath, ...] = ("plain", "compiled")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiled code is traced and its graph run by torch: without the seconds of a real compiler."""
    yield from with_backend(monkeypatch, "aot_eager")


def with_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> Iterator[None]:  # noqa: ANN401
    monkeypatch.setattr(vocabulary, "BACKEND", backend)
    forget()
    yield
    forget()


def forget() -> None:
    vocabulary._compiled.cache_clear()
    head_paths.compile_fault.cache_clear()
    torch._dynamo.reset()


def case(
    rows: int = 7, words: int = 11, *, dtype: torch.dtype = torch.float64, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    hidden, weight, shift = (
        torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, 5), (words, 5), (words,))
    )
    targets = torch.randint(words, (rows,), generator=draw)
    return hidden, weight, shift if bias else None, targets


def loop(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Word by word."""
    logprobs, entropies = [], []
    for state, target in zip(hidden, targets.tolist(), strict=True):
        scores = [
            (state @ row + (0 if bias is None else bias[word])) / temperature
            for word, row in enumerate(weight)
        ]
        total = torch.stack([score.exp() for score in scores]).sum()
        logs = [score - total.log() for score in scores]
        logprobs.append(logs[target])
        entropies.append(torch.stack([-log.exp() * log for log in logs]).sum())
    return torch.stack(logprobs), torch.stack(entropies)


def gradients(
    made: tuple[Tensor, Tensor], leaves: list[Tensor], kind: str, *, retain: bool = False
) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(made[0].shape, generator=draw, dtype=torch.float64) for _ in made]
    used = {"both": (0, 1), "logprob": (0,), "entropy": (1,)}[kind]
    loss = torch.stack([(made[n] * weights[n]).sum() for n in used]).sum()
    return torch.autograd.grad(loss, leaves, retain_graph=retain)


def check(
    path: HeadPath, dtype: torch.dtype, bounds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients against the loop in float64, for whole and ragged chunks."""
    kinds, temperatures = ("both", "logprob", "entropy"), (1.0, 0.7)
    for rows, bias, kind, temperature in product((100, 3), (True, False), kinds, temperatures):
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", rows * 11)
        given = case(dtype=dtype, bias=bias)
        exact = [x.detach().double().requires_grad_() if x is not None else None for x in given[:3]]
        wanted = loop(*exact, given[3], temperature)  # type: ignore[arg-type]
        found = token_stats(*given, temperature=temperature, path=path)
        of = [
            gradients(made, [x for x in leaves if x is not None], kind)
            for made, leaves in ((found, given[:3]), (wanted, exact))
        ]
        where = (path, rows, bias, kind, temperature)
        for one, other in zip(found, wanted, strict=True):
            assert (one - other).abs().max() <= bounds[0], where
        for one, other in zip(*of, strict=True):
            assert one.dtype == dtype
            assert (one - other).norm() <= bounds[1] * other.norm(), where


@pytest.mark.parametrize("path", PATHS)
def test_three_words_by_hand(path: HeadPath) -> None:
    """Probabilities 1/8, 1/4 and 5/8; at temperature 1/2 they are 1/30, 4/30 and 25/30."""
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    for temperature, chances in ((1.0, (0.125, 0.25, 0.625)), (0.5, (1 / 30, 4 / 30, 25 / 30))):
        logprobs, entropy = token_stats(
            logits, torch.eye(3), None, torch.tensor([1]), temperature=temperature, path=path
        )
        assert float(logprobs) == pytest.approx(math.log(chances[1]), rel=1e-6)
        assert float(entropy) == pytest.approx(-sum(p * math.log(p) for p in chances), rel=1e-6)


@pytest.mark.parametrize(
    ("path", "dtype", "bounds"),
    [
        ("plain", torch.float64, (1e-12, 1e-12)),
        ("plain", torch.float32, (2e-6, 2e-6)),
        ("plain", torch.bfloat16, (0.04, 0.02)),
        ("compiled", torch.float64, (1e-12, 1e-12)),
        ("compiled", torch.bfloat16, (0.04, 0.02)),
    ],
)
def test_values_and_gradients_equal_a_loop_over_words(
    path: HeadPath, dtype: torch.dtype, bounds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(path, dtype, bounds, monkeypatch)


@pytest.mark.parametrize("path", PATHS)
def test_gradients_equal_finite_differences(path: HeadPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 2 * 6)
    *leaves, targets = case(5, 6)
    assert torch.autograd.gradcheck(lambda *x: token_stats(*x, targets, temperature=0.8, path=path), leaves)


@pytest.mark.parametrize("path", PATHS)
def test_kept_logits_serve_more_than_one_backward(path: HeadPath) -> None:
    *leaves, targets = case()
    made = token_stats(*leaves, targets, temperature=0.8, path=path)  # type: ignore[misc, arg-type]
    first, second = (gradients(made, leaves, "both", retain=True) for _ in range(2))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_slope_of_a_nearly_certain_target_keeps_its_digits(path: HeadPath, dtype: torch.dtype) -> None:
    """1 - p is 4.5e-5 here: of p and 1, each in eight bits, nothing would be left."""
    logits = torch.tensor([[0.0, -10.0]]).to(dtype).requires_grad_()
    logprobs, _ = token_stats(
        logits, torch.eye(2).to(dtype), None, torch.tensor([0]), temperature=1.0, path=path
    )
    logprobs.sum().backward()
    chance = math.exp(-10) / (1 + math.exp(-10))
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([chance, -chance], rel=2**-8)


def test_one_graph_serves_every_number_of_rows_and_every_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    for _ in with_backend(monkeypatch, counting):
        for rows, temperature in product(range(2, 40, 3), (1.0, 0.7, 1.3)):
            for kind in ("both", "logprob"):
                given = case(rows, bias=False)
                made = token_stats(*given, temperature=temperature, path="compiled")
                gradients(made, [given[0], given[1]], kind)
        # The sums, and the slopes with entropy and without.
        assert len(graphs) == 3
        for graph in graphs:
            given_to = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
            rows, words = next(x.shape for x in given_to if isinstance(x, Tensor) and x.shape[-1:] == (11,))
            assert type(words) is int and type(rows) is torch.SymInt
        token_stats(*case(1, bias=False), temperature=1.0, path="compiled")
        assert len(graphs) == 4


def test_nothing_of_the_compiled_functions_is_left_to_python() -> None:
    logits, column = torch.randn(7, 11), torch.randn(7, 1)
    number = torch.tensor(0.7)
    sums = torch.compile(vocabulary.row_sums, fullgraph=True, dynamic=True, backend="eager")
    slopes = torch.compile(vocabulary.slopes, fullgraph=True, dynamic=True, backend="eager")
    found, wanted = (run(logits, number, spare=False) for run in (sums, vocabulary.row_sums))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    for curve, dtype in product((None, column), (torch.float32, torch.bfloat16)):
        one, other = (
            run(logits.to(dtype), number, column, curve, column, dtype=dtype, spare=False)
            for run in (slopes, vocabulary.slopes)
        )
        assert torch.equal(one, other) and one.dtype == dtype


def test_the_compiled_head_is_taken_on_cuda_when_it_agrees_and_left_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gaps = head_paths.compiled_gaps
    # The trial runs on the CPU; what is asked for is CUDA.
    monkeypatch.setattr(head_paths, "compiled_gaps", lambda device, dtype, words: gaps(CPU, dtype, words))
    for dtype in (torch.float32, torch.bfloat16):
        found = head_paths.head_choice("auto", device=CUDA, dtype=dtype, words=50)
        assert found == head_paths.HeadChoice(path="compiled")
    honest = vocabulary.slopes

    def steeper(*given: Any, **more: Any) -> Tensor:  # noqa: ANN401
        return honest(*given, **more) * (1 if more["spare"] or given[2] is None else 1.1)

    monkeypatch.setattr(vocabulary, "slopes", steeper)
    head_paths.compile_fault.cache_clear()
    found = head_paths.head_choice("auto", device=CUDA, dtype=torch.bfloat16, words=50)
    assert found.path == "plain"
    assert re.search(r"gradients are off by 0\.\d+ of the norm; expected at most 0.01", str(found.fault))
    with pytest.raises(FovealError, match=r"'compiled' cannot run here: compiled gradients .* or 'plain'"):
        head_paths.head_choice("compiled", device=CUDA, dtype=torch.bfloat16, words=50)


def test_values_that_are_no_numbers_are_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = vocabulary.row_sums

    def spoiled(*given: Any, spare: bool) -> vocabulary.RowSums:  # noqa: ANN401
        found = honest(*given, spare=spare)
        return found if spare else found._replace(total=found.total * float("nan"))

    monkeypatch.setattr(vocabulary, "row_sums", spoiled)
    assert "values are off by nan" in str(head_paths.compile_fault(CPU, torch.float32, 50))


def test_a_compiler_that_is_missing_is_told_by_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: object, inputs: object) -> None:
        raise OSError("no C++ compiler\nsee the manual")

    for _ in with_backend(monkeypatch, missing):
        found = head_paths.head_choice("auto", device=CPU, dtype=torch.float32, words=50)
        assert found == head_paths.HeadChoice(path="plain")
        fault = head_paths.compile_fault(CPU, torch.float32, 50)
        assert fault is not None and "\n" not in fault
        assert fault.startswith("it cannot be compiled: ") and "no C++ compiler" in fault


@pytest.mark.parametrize(("name", "device"), [("auto", CPU), ("auto", torch.device("meta")), ("plain", CUDA)])
def test_nothing_is_compiled_off_cuda_or_when_plain_is_asked_for(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_paths, "compiled_gaps", lambda *given: (0.0, 0.0))
    found = head_paths.head_choice(name, device=device, dtype=torch.float32, words=50)
    assert found == head_paths.HeadChoice(path="plain")


def test_an_unknown_head_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(FovealError, match=r"head = 'quick'; expected 'auto', 'plain' or 'compiled'; change"):
        load_policy(str(tiny_folder), head="quick")


def test_the_whole_policy_with_a_compiled_head_equals_plain_forward(tiny_folder: Path) -> None:
    policy: Policy = load_policy(str(tiny_folder), head="compiled")
    inputs = batch(policy, MIXED[0], MIXED[1])
    assert policy.head.path == "compiled"
    assert close(shared(policy, inputs, temperature=1.3), plain(policy, inputs, temperature=1.3))


def test_a_head_that_gave_way_is_told_and_recorded(tiny_folder: Path) -> None:
    policy, said = load_policy(str(tiny_folder)), list[str]()
    assert chosen_head(policy, message=said.append) == {"head": "plain"}
    policy.head = head_paths.HeadChoice(path="plain", fault="no compiler")
    found = chosen_head(policy, message=said.append)
    assert found == {"head": "plain", "head_fault": "no compiler"}
    assert said == ["the head runs plain: no compiler"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "bounds"),
    [(torch.float64, (1e-12, 1e-12)), (torch.float32, (2e-6, 2e-6)), (torch.bfloat16, (0.04, 0.02))],
)
def test_really_compiled_values_and_gradients_equal_a_loop_over_words(
    dtype: torch.dtype, bounds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in with_backend(monkeypatch, "inductor"):
        check("compiled", dtype, bounds, monkeypatch)
        assert head_paths.compile_fault(CPU, dtype, 1000) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_code_makes_nothing_as_large_as_the_logits_but_the_slopes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.utils import run_and_get_code

    def large(run: Callable[[], object]) -> list[str]:
        _, code = run_and_get_code(run)
        assert "cpp_fused" in code[0]
        return re.findall(r"empty_strided_cpu\(\(\w+, 2000\), \(2000, 1\), torch\.(\w+)\)", code[0])

    logits, column = torch.randn(37, 2000).to(dtype), torch.randn(37, 1)
    targets = torch.zeros(37, 1, dtype=torch.long)
    for _ in with_backend(monkeypatch, "inductor"):
        assert large(lambda: vocabulary.summed(logits, targets[:, 0], scale=0.9, path="compiled")) == []
        for curve in (None, column):
            given = vocabulary.Line(curve, column, None)

            def run(given: vocabulary.Line = given) -> Tensor:
                return vocabulary.sloped(
                    *(logits, targets[:, 0], column, given),
                    scale=0.9,
                    kept=False,
                    dtype=dtype,
                    path="compiled",
                )

            assert large(run) == [str(dtype).removeprefix("torch.")]
