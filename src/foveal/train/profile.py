"""`foveal train --profile`: where a step's time goes, by range and by operator.

After a warm-up step some are timed by range, without a trace: it would slow small operators more than large
ones. One more step is traced for its operators.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity
from torch.profiler import profile as trace

from foveal.ranges import MODEL_PARTS, listening
from foveal.spec import FovealError
from foveal.train.record import write_json, writing

PROFILE = "profile.json"
PICTURE = "profile.png"
SCHEMA_VERSION = 1
WARM_UP = 1
"""Steps left out: they allocate memory and fill caches."""
TRACED = 1
UNEVEN = 1.5
"""A longest step over the shortest from which on the mean says little."""
OPERATORS = 20
"""Operators that are written."""

OTHER, REST = "other", "rest"
"""What a range spends outside its parts; what a step spends outside all ranges."""

LABEL = "foveal: "
"""What our ranges begin with in a trace; torch has some of its own, such as the optimizer's."""

Range = tuple[str, ...]
"""A range by its name and those of the ranges around it, the outermost first."""


def require_steps(wanted: int | None, *, left: int) -> None:
    """Raises: FovealError, when so many steps cannot be profiled in a run with `left` steps."""
    if wanted is None:
        return
    if wanted < 1:
        raise FovealError(f"--profile is {wanted}; expected at least 1 step, or --profile alone for 2")
    needed = WARM_UP + wanted + TRACED
    if needed > left:
        raise FovealError(
            f"--profile {wanted} takes {needed} steps ({WARM_UP} to warm up, {wanted} timed, {TRACED} "
            f"traced), but the run has {left} left; lower --profile or raise steps"
        )


class Profiler:
    """Profiles the first steps that it sees, and writes what it found; with `steps` = 0 it does nothing."""

    def __init__(self, steps: int, *, device: torch.device, message: Callable[[str], None]) -> None:
        self.steps, self.device, self.message = steps, device, message
        self.timed: list[Seconds] = []
        self._seen = 0

    @contextmanager
    def step(self, number: int, folder: Path) -> Iterator[None]:
        """Around a step of the run."""
        place, self._seen = self._seen, self._seen + 1
        if place < WARM_UP or place >= WARM_UP + self.steps + TRACED or not self.steps:
            yield
        elif place < WARM_UP + self.steps:
            seconds = Seconds(self._wait)
            with listening(seconds):
                yield
            seconds.close()
            self.timed.append(seconds)
        else:
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            # Kineto would tell the terminal of each start and stop.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            with trace(activities=activities, acc_events=True) as traced, listening(Labels()):
                began = time.perf_counter()
                yield
                self._wait()
                wall = time.perf_counter() - began
            self._write(folder, number, wall, traced.events() or ())

    def _wait(self) -> None:
        """Until the device has done what it was given, so that time goes to the range that gave it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _write(self, folder: Path, number: int, wall: float, events: Sequence[FunctionEvent]) -> None:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        found = {
            "schema_version": SCHEMA_VERSION,
            "device": device,
            "threads": torch.get_num_threads(),
            "steps": self.steps,
            "first_step": number - self.steps,
            **by_phase(self.timed),
            "traced_step": {"step": number, "seconds": wall},
            "operators": operators(events, on_device=self.device.type == "cuda"),
        }
        write_json(folder / PROFILE, found)
        self.message(f"profile: {_in_words(found)}; {_draw(folder, found)}")


class Seconds:
    """Listens to ranges: the seconds that each spends outside the ranges within it."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[Range, float] = {(): 0.0}
        self.calls: dict[Range, int] = {(): 1}
        self._wait = wait
        self._open: list[tuple[Range, bool]] = [((), False)]
        wait()
        self._last = time.perf_counter()

    def enter(self, name: str) -> None:
        """See `Listener`; a range directly within its like is the same range."""
        self._charge()
        self._end_turn()
        around = self._open[-1][0]
        inside = around if around[-1:] == (name,) else (*around, name)
        self._open.append((inside, False))
        self.seconds.setdefault(inside, 0.0)
        self.calls[inside] = self.calls.get(inside, 0) + (inside is not around)

    def leave(self) -> None:
        """See `Listener`."""
        self._charge()
        self._end_turn()
        self._open.pop()

    def turn(self, name: str) -> None:
        """See `Listener`."""
        self._charge()
        self._end_turn()
        inside = (*self._open[-1][0], name)
        self._open.append((inside, True))
        self.calls[inside] = self.calls.get(inside, 0) + 1

    def close(self) -> None:
        """The step is over."""
        self._charge()

    def _end_turn(self) -> None:
        if self._open[-1][1]:
            self._open.pop()

    def _charge(self) -> None:
        self._wait()
        now = time.perf_counter()
        inside = self._open[-1][0]
        self.seconds[inside] = self.seconds.get(inside, 0.0) + now - self._last
        self._last = now


class Labels:
    """Listens to ranges and puts them into a trace of torch.profiler."""

    def __init__(self) -> None:
        self._open: list[tuple[Range, record_function]] = []

    def enter(self, name: str) -> None:
        """See `Listener`."""
        inside = (*(self._open[-1][0] if self._open else ()), name)
        label = record_function(LABEL + _name(_phase(inside)))
        label.__enter__()  # type: ignore[no-untyped-call]
        self._open.append((inside, label))

    def leave(self) -> None:
        """See `Listener`."""
        self._open.pop()[1].__exit__(None, None, None)

    def turn(self, name: str) -> None:
        """Nothing: the range around it says enough."""


def by_phase(timed: Sequence[Seconds]) -> dict[str, Any]:
    """Means over steps, in seconds: phases, which add up to the step, and parts of the model in all phases.

    What a range spends between its parts is told once for the outermost range, behind its parts.
    """
    ranges = list(dict.fromkeys(key for one in timed for key in one.seconds))
    phases = dict.fromkeys(map(_phase, ranges))
    parents = {phase[:depth] for phase in phases for depth in range(1, len(phase))}
    rows: dict[Range, dict[str, Any]] = {}
    for key in ranges:
        phase = _phase(key)
        name = (phase[0], OTHER) if phase in parents else phase or (REST,)
        empty = {"phase": _name(name), "by_step": [0.0] * len(timed), "calls": 0.0, "parts": {}}
        row = rows.setdefault(name, empty)
        steps = [one.seconds.get(key, 0.0) for one in timed]
        row["by_step"] = [before + more for before, more in zip(row["by_step"], steps, strict=True)]
        if key != phase:
            row["parts"][key[-1]] = row["parts"].get(key[-1], 0.0) + fmean(steps)
        elif len(key) < 2 or key not in parents:
            row["calls"] += fmean(one.calls.get(key, 0) for one in timed)
    whole = [sum(one.seconds.values()) for one in timed]
    mean = fmean(whole)
    found = [
        {"seconds": (own := fmean(row["by_step"])), "share": own / mean, **row}
        for _, row in sorted(rows.items(), key=_order(rows))
    ]
    return {
        "seconds_per_step": mean,
        "step_seconds": whole,
        "phases": found,
        "parts": [_part(name, found, mean) for name in MODEL_PARTS],
    }


def _part(name: str, phases: Iterable[Mapping[str, Any]], step: float) -> dict[str, Any]:
    spent = sum(row["parts"].get(name, 0.0) for row in phases)
    return {"part": name, "seconds": spent, "share": spent / step}


def _order(names: Iterable[Range]) -> Callable[[tuple[Range, Any]], tuple[int, bool]]:
    """In the order of the step: the parts of a range side by side, the rest of it behind them."""
    tops = list(dict.fromkeys(name[0] for name in names if name != (REST,)))
    return lambda row: (
        (len(tops), True) if row[0] == (REST,) else (tops.index(row[0][0]), row[0][-1] == OTHER)
    )


def _phase(key: Range) -> Range:
    """The range without the part of the model that runs in it."""
    return next((key[:n] for n, name in enumerate(key) if name in MODEL_PARTS), key)


def _name(key: Range) -> str:
    return " / ".join(key)


def operators(events: Sequence[FunctionEvent], *, on_device: bool) -> list[dict[str, Any]]:
    """The operators of a traced step with the most time of their own, and the phase that has most of it.

    On a GPU the time is that of the kernels that an operator starts.
    """
    spent: dict[str, dict[str, float]] = {}
    calls: dict[str, int] = {}
    for event, phase in _within(events):
        own = (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6
        by_phase = spent.setdefault(event.name, {})
        by_phase[phase] = by_phase.get(phase, 0.0) + own
        calls[event.name] = calls.get(event.name, 0) + 1
    total = sum(sum(one.values()) for one in spent.values()) or 1.0
    order = sorted(spent, key=lambda name: -sum(spent[name].values()))[:OPERATORS]
    return [
        {
            "operator": name,
            "self_seconds": sum(spent[name].values()),
            "share": sum(spent[name].values()) / total,
            "calls": calls[name],
            "mostly_in": max(spent[name], key=lambda phase: spent[name][phase]),
        }
        for name in order
    ]


def _within(events: Sequence[FunctionEvent]) -> Iterator[tuple[FunctionEvent, str]]:
    """Operators with the innermost range around them, by time: a backward may run in a thread of its own."""
    own = (event for event in events if event.device_type.name == "CPU")
    around: list[FunctionEvent] = []
    for event in sorted(own, key=lambda e: (e.time_range.start, -e.time_range.end)):
        while around and around[-1].time_range.end <= event.time_range.start:
            around.pop()
        if not event.is_user_annotation:
            yield event, around[-1].name.removeprefix(LABEL) if around else REST
        elif event.name.startswith(LABEL):
            around.append(event)


def _in_words(found: Mapping[str, Any]) -> str:
    slowest = max(found["phases"], key=lambda row: row["seconds"])
    words = f"a step takes {found['seconds_per_step']:.3g} s, {100 * slowest['share']:.0f} % of it in "
    shortest, longest = min(found["step_seconds"]), max(found["step_seconds"])
    if longest > UNEVEN * shortest:
        return f"{words}{slowest['phase']} (steps differ, {shortest:.3g} to {longest:.3g} s: profile more)"
    return words + str(slowest["phase"])


def _draw(folder: Path, found: Mapping[str, Any]) -> str:
    """Draw the picture; what to tell of it."""
    try:
        from foveal.report.profile import write_picture
    except ModuleNotFoundError as error:
        return (
            f"see {folder / PROFILE} ({PICTURE} needs the extra report, {error.name} is missing: "
            f"pip install 'foveal[report]')"
        )
    with writing(folder / PICTURE):
        return f"see {write_picture(found, folder / PICTURE)}"
