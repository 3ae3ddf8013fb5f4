"""What a step does, by name: ranges that a listener is told of. Without one they cost a look at a variable.

A range that is entered inside another is a part of it. Here stand all names; views add theirs.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

SAMPLING = "sampling"
PREFILL = "prefill"
DECODE = "decode"
DRAW = "draw"
GRADING = "grading"
COLLATE = "collate"
PICTURES = "pictures"
SCORING = "scoring"
REFERENCE = "reference"
UPDATE = "update"
FORWARD = "forward"
BACKWARD = "backward"
OPTIMIZER = "optimizer"

VISION = "vision tower"
TEXT = "text layers"
HEAD = "LM head"
MODEL_PARTS = (VISION, TEXT, HEAD)
"""Parts of the model: they run within several of the others."""

P = ParamSpec("P")
R = TypeVar("R")


class Listener(Protocol):
    """Told of ranges, in the order of time."""

    def enter(self, name: str) -> None:
        """A range begins."""
        ...

    def leave(self) -> None:
        """The innermost range that was entered ends."""
        ...

    def turn(self, name: str) -> None:
        """What follows is `name`, until the next range, the next turn or the end of the range around it."""
        ...


_listener: Listener | None = None
_NOTHING = nullcontext()


class _Thread(threading.local):
    """What holds for one thread alone."""

    unheard = False


_thread = _Thread()


class _Span:
    """Ranges around a block, each inside the one before."""

    def __init__(self, listener: Listener, names: tuple[str, ...]) -> None:
        self.listener, self.names = listener, names

    def __enter__(self) -> None:
        for name in self.names:
            self.listener.enter(name)

    def __exit__(self, *error: object) -> None:
        for _ in self.names:
            self.listener.leave()


def span(*names: str) -> AbstractContextManager[None]:
    """A range around a block; several names are ranges within one another."""
    return _NOTHING if _listener is None or _thread.unheard else _Span(_listener, names)


def spanned(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A range around each call of a function."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if _listener is None or _thread.unheard:
                return function(*args, **kwargs)
            with _Span(_listener, names):
                return function(*args, **kwargs)

        return call

    return decorate


def mark_backward(output: Any, name: str) -> None:  # noqa: ANN401
    """What the backward does once it has the gradient of this tensor is `name`; the gradient stays."""
    if _listener is not None and output.requires_grad:
        output.register_hook(lambda gradient: _turn(name))


def _turn(name: str) -> None:
    if _listener is not None:
        _listener.turn(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of all ranges of the block."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def unheard() -> Iterator[None]:
    """Ranges that this thread enters in the block are nobody's: what it does there is no part of the time
    line."""
    before, _thread.unheard = _thread.unheard, True
    try:
        yield
    finally:
        _thread.unheard = before
