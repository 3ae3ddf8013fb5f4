"""Decoding by steps of one shape: against the growing one, and replayed from a tape as a graph would be."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from foveal.policy import Policy, load_policy
from foveal.policy.decode import FixedCache
from foveal.rollout import fixed, local
from foveal.rollout.fixed import TokenStep, room
from foveal.rollout.graphs import CudaGraphs, decode_way, replay_fault
from foveal.rollout.local import LocalEngine
from foveal.spec import FovealError
from foveal.types import Completion, Problem, Sampling
from policy_cases import NONE, ONE, TALL, TWO, problem, windowed

ALL = (ONE, TWO, NONE, TALL)


class Tape(TorchDispatchMode):
    """Writes down every operation on tensors. Replayed as a graph of the device is: with the same numbers and
    at the same addresses, whatever Python would have done instead."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        new: dict[int, Tensor] = {}

        def now(x: Tensor) -> Tensor:
            return new.get(id(x), x)

        for func, args, kwargs, before in self.calls:
            after = func(*tree_map_only(Tensor, now, args), **tree_map_only(Tensor, now, kwargs))
            if isinstance(before, Tensor):
                before, after = (before,), (after,)
            for old, made in zip(before or (), after or (), strict=True):
                new[id(old)] = made

    @property
    def waits(self) -> list[str]:
        """Operations that bring a value to the host, or whose shape depends on one."""
        slow = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "_to_cpu")
        return [str(func) for func, *_ in self.calls if any(word in str(func) for word in slow)]


class Taped:
    """Graphs as they are captured and replayed on a device; what was done, in order."""

    made: list["Taped"] = []

    def __init__(self, device: torch.device) -> None:
        self.fault: str | None = None
        self.log: list[tuple[str, tuple[int, int, bool]]] = []
        self.waits: list[str] = []
        Taped.made.append(self)

    def run(self, step: TokenStep) -> None:
        self.log.append(("run", self.shape(step)))
        step()

    def capture(self, step: TokenStep) -> Callable[[], None]:
        shape = self.shape(step)
        self.log.append(("capture", shape))
        with Tape() as tape:
            step()
        self.waits += tape.waits
        done = True  # to write the step down was to run it

        def replay() -> None:
            nonlocal done
            self.log.append(("replay", shape))
            if not done:
                tape.replay()
            done = False

        return replay

    def free(self) -> None:
        self.log.append(("free", (0, 0, False)))

    @staticmethod
    def shape(step: TokenStep) -> tuple[int, int, bool]:
        return len(step.token), step.cache.size, step.early


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many shapes within few tokens."""
    monkeypatch.setattr(fixed, "FIRST_ROOM", 4)
    monkeypatch.setattr(fixed, "LOOK", 3)
    monkeypatch.setattr(fixed, "WORTH", 2)
    monkeypatch.setattr(local, "CudaGraphs", Taped)
    Taped.made.clear()
    yield


def engine(policy: Policy) -> LocalEngine:
    found = LocalEngine(policy)
    found.decode = "graph"
    return found


def both(
    policy: Policy, problems: Sequence[Problem] = ALL, **settings: Any
) -> tuple[list[Completion], list[Completion]]:
    """Completions by steps of one shape and by growing ones."""
    sampling = Sampling(**{"group_size": 3, "max_new_tokens": 16, "entropies": True} | settings)
    ways = (engine(policy), LocalEngine(policy))
    found, wanted = (
        [c for group in way.generate(problems, sampling=sampling, key=(3,)) for c in group] for way in ways
    )
    return found, wanted


def require_same(found: Sequence[Completion], wanted: Sequence[Completion]) -> None:
    assert [c.token_ids for c in found] == [c.token_ids for c in wanted]
    assert [c.finish for c in found] == [c.finish for c in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.sampled_logprobs == pytest.approx(theirs.sampled_logprobs, abs=1e-6, rel=1e-6)
        assert (ours.sampled_entropies is None) == (theirs.sampled_entropies is None)
        entropies = theirs.sampled_entropies or ()
        assert (ours.sampled_entropies or ()) == pytest.approx(entropies, abs=1e-6, rel=1e-6)


@pytest.fixture
def ends(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 30 of the 303 words end a completion."""
    monkeypatch.setattr(policy.processor, "end_ids", tuple(range(60, 90)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.6},
        {"top_p": 0.7},
        {"entropies": False},
        {"max_new_tokens": 40},
    ],
)
def test_replayed_steps_draw_what_growing_ones_draw(policy: Policy, settings: dict[str, Any]) -> None:
    require_same(*both(policy, **settings))
    (made,) = Taped.made
    assert sum(what == "replay" for what, _ in made.log) > 6


@pytest.mark.parametrize("window", [1, 5, 40])
def test_replayed_steps_of_layers_with_a_window_draw_the_same(
    tiny_folder: Path, tmp_path: Path, window: int
) -> None:
    policy = load_policy(str(windowed(tiny_folder, tmp_path / "model", window)))
    require_same(*both(policy, max_new_tokens=40))
    (made,) = Taped.made
    assert sum(what == "replay" for what, _ in made.log) > 6


@pytest.mark.parametrize("size", range(1, 9))
def test_any_group_size_is_drawn_the_same(policy: Policy, size: int) -> None:
    require_same(*both(policy, (TWO, NONE), group_size=size, max_new_tokens=9))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_a_single_short_row_is_drawn_the_same(policy: Policy, length: int) -> None:
    require_same(*both(policy, [ONE], group_size=1, max_new_tokens=length))


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("least", [0, 1, 5, 8, 24])
def test_no_end_before_the_least_length_in_replayed_steps(policy: Policy, least: int) -> None:
    require_same(*both(policy, group_size=5, max_new_tokens=24, min_new_tokens=least))
    early = {shape[2] for what, shape in Taped.made[0].log if what == "replay"}
    assert early == ({False} if least < 2 else {True} if least == 24 else {True, False})


@pytest.mark.usefixtures("ends")
def test_finished_rows_leave_and_the_others_go_on(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "FIRST_ROOM", 64)
    problems = [
        problem(f"p{i}", "<image>How many?" if i % 2 else "How many?", *[(56, 56)] * (i % 2))
        for i in range(9)
    ]
    found, wanted = both(policy, problems, group_size=4, max_new_tokens=60)
    require_same(found, wanted)
    assert len({len(c.token_ids) for c in found}) > 10
    rows = [shape[0] for what, shape in Taped.made[0].log if what == "capture"]
    assert rows == sorted(rows, reverse=True) and len(set(rows)) > 2 and rows[-1] < 10


def test_all_rows_may_end_at_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.processor, "end_ids", tuple(range(303)))
    found, wanted = both(policy)
    require_same(found, wanted)
    assert {len(c.token_ids) for c in found} == {1}
    assert Taped.made[0].log == [("free", (0, 0, False))]


def test_each_shape_is_run_once_captured_once_and_replayed_from_then_on(policy: Policy) -> None:
    both(policy, max_new_tokens=30)
    (made,) = Taped.made
    log = made.log[:-1]
    sizes = [4, 6, 8, 12, 16, 24, 29]
    assert [shape for what, shape in log if what == "capture"] == [(12, size, False) for size in sizes]
    assert [shape for what, shape in log if what == "run"] == [(12, size, False) for size in sizes]
    for size, before in zip(sizes, [0, *sizes], strict=False):
        own = [what for what, shape in log if shape == (12, size, False)]
        assert own == ["run", "capture", *["replay"] * (size - before - 1)]
    assert made.log[-1][0] == "free"


def test_a_captured_step_never_waits_for_the_device(policy: Policy) -> None:
    for settings in ({}, {"top_p": 0.7}, {"temperature": 0.0}):
        both(policy, **settings)
    assert [made.waits for made in Taped.made] == [[], [], []]


def test_a_step_that_is_not_worth_a_graph_gets_none(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "WORTH", 100)
    require_same(*both(policy))
    assert {what for what, _ in Taped.made[0].log} == {"run", "free"}


def test_rooms_grow_by_a_half_or_a_third_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "FIRST_ROOM", 64)
    found = [room(needed, 400) for needed in range(1, 401)]
    assert sorted(set(found)) == [64, 96, 128, 192, 256, 384, 400]
    assert all(size >= needed for needed, size in enumerate(found, start=1))


def test_memory_that_was_never_set_does_not_reach_a_token(policy: Policy) -> None:
    """torch fills what it has not set with NaN in this mode."""
    torch.use_deterministic_algorithms(True)
    try:
        require_same(*both(policy, max_new_tokens=9))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_step_needs_a_cache_of_one_shape(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "FixedCache", local.DecodeCache)
    with pytest.raises(TypeError, match="needs a FixedCache, got DecodeCache"):
        engine(policy).generate([NONE], sampling=Sampling(group_size=2, max_new_tokens=4), key=(0,))


def test_logits_that_are_not_finite_are_told_and_the_graph_is_freed(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = policy.model.lm_head.weight.data  # type: ignore[union-attr]
    before = head.clone()
    head[5] = torch.nan
    try:
        with pytest.raises(FovealError, match="the model's logits are not finite"):
            engine(policy).generate([ONE], sampling=Sampling(group_size=2, max_new_tokens=9), key=(0,))
    finally:
        head.copy_(before)
    assert Taped.made[0].log == [("free", (0, 0, False))]


def test_a_failed_capture_is_told_once_and_decoding_goes_on(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Taped):
        def capture(self, step: TokenStep) -> None:  # type: ignore[override]
            self.fault = "operation not permitted when stream is capturing"

    monkeypatch.setattr(local, "CudaGraphs", Failing)
    sampling = Sampling(group_size=3, max_new_tokens=16)
    way = engine(policy)
    with pytest.warns(RuntimeWarning, match="goes on without CUDA graphs.*operation not permitted") as told:
        found = way.generate(ALL, sampling=sampling, key=(3,))
        again = way.generate(ALL, sampling=sampling, key=(3,))
    wanted = LocalEngine(policy).generate(ALL, sampling=sampling, key=(3,))
    require_same(sum(found, ()), sum(wanted, ()))
    assert again == wanted and way.decode == "eager" and len(told) == 1 and len(Taped.made) == 1


def test_a_way_that_cannot_run_here_is_refused(policy: Policy) -> None:
    assert decode_way("auto", policy) == decode_way("eager", policy) == "eager"
    with pytest.raises(FovealError, match="decode = 'graph' cannot run here: .*the device is cpu; change"):
        LocalEngine(policy, decode="graph")
    with pytest.raises(FovealError, match="decode = 'fast'; expected 'auto', 'eager' or 'graph'; change"):
        decode_way("fast", policy)


def test_the_trial_finds_a_capture_that_fails_or_replays_something_else(policy: Policy) -> None:
    decoder = policy.family.decoder(policy.model, policy.linears)
    good = Taped(policy.device)
    assert replay_fault(policy, decoder, good) is None  # type: ignore[arg-type]
    assert sum(what == "replay" for what, _ in good.log) > 3

    class Forgetful(Taped):
        def capture(self, step: TokenStep) -> Callable[[], None]:
            once = super().capture(step)
            once()
            return lambda: None

    fault = replay_fault(policy, decoder, Forgetful(policy.device))  # type: ignore[arg-type]
    assert fault is not None and "what it replays is off by" in fault

    class Broken(Taped):
        def capture(self, step: TokenStep) -> None:  # type: ignore[override]
            self.fault = "out of memory"

    assert replay_fault(policy, decoder, Broken(policy.device)) == "the capture failed: out of memory"  # type: ignore[arg-type]


class Device:
    """The calls of `torch.cuda` that a capture makes, written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.fail = False
        log, graphs_made = self.log, iter("abcdef")

        class Stream:
            def __init__(self, name: object) -> None:
                self.name = "current" if name == "current" else "own"

            def wait_stream(self, other: "Stream") -> None:
                log.append(f"{self.name} waits for {other.name}")

            def __enter__(self) -> None:
                log.append(f"on {self.name}")

            def __exit__(self, *error: object) -> None:
                log.append(f"off {self.name}")

        class Graph:
            def __init__(self) -> None:
                self.name = next(graphs_made)

            def capture_begin(self, pool: object, *, capture_error_mode: str) -> None:
                log.append(f"{self.name} begins in {pool}, {capture_error_mode}")

            def capture_end(self) -> None:
                log.append(f"{self.name} ends")

            def pool(self) -> str:
                return f"pool of {self.name}"

            def replay(self) -> None:
                log.append(f"{self.name} replays")

            def reset(self) -> None:
                log.append(f"{self.name} is reset")

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("current"))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))

    def step(self) -> None:
        if self.fail:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        self.log.append("step")

    def take(self) -> list[str]:
        found, self.log[:] = self.log[:], []
        return found


def test_a_capture_warms_up_aside_shares_the_pool_and_drops_the_graph_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch)
    held = CudaGraphs(torch.device("cuda"))
    held.run(device.step)
    assert device.take() == [
        "own waits for current",
        "on own",
        "step",
        "off own",
        "current waits for own",
    ]
    first = held.capture(device.step)
    assert first is not None
    capture = ["synchronize", "on own", "{0} begins in {1}, thread_local", "step", "{0} ends", "off own"]
    assert device.take() == [line.format("a", None) for line in capture]
    first()
    second = held.capture(device.step)
    assert second is not None
    assert device.take() == ["a replays", *[x.format("b", "pool of a") for x in capture], "a is reset"]
    held.free()
    held.free()
    assert device.take() == ["b is reset"]


def test_a_capture_that_fails_ends_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    held = CudaGraphs(torch.device("cuda"))
    device.fail = True
    assert held.capture(device.step) is None
    assert device.take()[-2:] == ["a ends", "off own"]
    assert held.fault == "operation not permitted when stream is capturing"
    device.fail = False
    assert held.capture(device.step) is None and device.take() == []


def test_a_fixed_cache_reads_no_further_than_its_size() -> None:
    keys = torch.randn(1, 2, 5, 4)
    cache = FixedCache.of({0: (keys, keys)}, (3, 2), group_size=2, length=7)
    cache.size = 4
    cache.advance()
    cache.advance()
    assert cache.place.tolist() == [1]
    assert cache.own_bias is not None
    assert cache.own_bias.tolist() == [0, 0, *[-torch.inf] * 5]
    own = cache.own[0][0]
    cache._store(own, torch.ones(2, 2, 2, 4))
    assert cache.seen == 4 and own[:, :, :, 1].eq(1).all() and not own[:, :, :, [0, 2, 3]].any()
