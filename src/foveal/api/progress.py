"""What a person sees while a call from Python works: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from foveal.cli.screen import PLAIN_EVERY_S, Bar, Screen
from foveal.train.watcher import Silent


@contextmanager
def screen(progress: bool) -> Iterator[Screen | Silent]:
    """What draws a run; nothing without `progress`."""
    if not progress:
        yield Silent()
        return
    shown = Screen()
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def counter(progress: bool, title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Told how much is done; nothing without `progress`."""
    if not progress:
        yield None
        return
    console = Screen().console
    if console.is_terminal:
        with Bar(console, title) as tick:
            yield tick
        return
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PLAIN_EVERY_S:
            last = time.monotonic()
            console.print(f"{title}: {done} of {total}", highlight=False, markup=False, soft_wrap=True)

    yield tell
