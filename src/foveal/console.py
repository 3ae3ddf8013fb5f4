"""The terminal: consoles whose text comes from data, configs and models, and can do nothing but be read."""

from collections.abc import Iterable
from typing import IO

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from foveal.text import bare_stream, printable


class Console(rich.console.Console):
    """A rich console that shows control characters, and takes no text for markup, emoji or something to
    colour.

    Only what rich itself makes (colours, the cursor of a progress bar) reaches the terminal as control codes.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        width: int | None = None,
        file: IO[str] | None = None,
        quiet: bool = False,
    ) -> None:
        """`stderr`: write there, or to `file`; `width`: columns, by default those of the terminal."""
        super().__init__(
            stderr=stderr, width=width, file=file, quiet=quiet, markup=False, emoji=False, highlight=False
        )

    @property
    def file(self) -> IO[str]:
        """The stream without the guard of `PrintableStream`, which would show rich's own codes too."""
        found: IO[str] = bare_stream(super().file)
        return found

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments whose text is printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def say(self, text: str) -> None:
        """A line of plain text, wrapped by the terminal alone."""
        self.print(text, soft_wrap=True)
