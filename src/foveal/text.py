"""Text on its way out: what would steer a terminal is shown instead of obeyed."""

import re
from collections.abc import Iterable
from typing import Any, TextIO

STEERING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, overrides and isolates of writing direction
    "\u2028\u2029"  # separators of lines and paragraphs
    "\ud800-\udfff"  # lone surrogates: no encoding takes them
    "]"
)
"""Characters that move the cursor, change the order or the colour of other text, or cannot be encoded."""

_CURSOR = re.compile(r"(?:\x1b\[A)+")
"""What a nested progress bar writes to go back to the line of the outer one, in a call of its own."""


def printable(text: str) -> str:
    r"""The text with each steering character as \uXXXX; tabs and newlines stay.

    The form is that of JSON and of TOML's strings, so that printed tables of either can be read again.

    >>> print(printable("red\x1b[2J"))
    red\u001b[2J
    """
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def shortened(text: str, limit: int) -> str:
    """The text, its middle left out where it is longer than `limit` characters.

    >>> shortened("x" * 50 + "end", 40)
    'xxxxxxxxxxxxxxxxxxxxxxxx ... (24 more) ... xxend'
    """
    if len(text) <= limit:
        return text
    head = max(1, limit * 3 // 5)
    tail = max(1, limit // 8)
    return f"{text[:head]} ... ({len(text) - head - tail} more) ... {text[len(text) - tail :]}"


class PrintableStream:
    """A text stream that writes `printable` text, and in the stream's encoding what that cannot hold.

    Progress bars of libraries may return to the start of their line: a carriage return in front of a write
    stays.
    """

    def __init__(self, stream: TextIO) -> None:
        """`stream`: what is written to."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text; returns its length as it was given."""
        if _CURSOR.fullmatch(text) is None:
            bare = text.removeprefix("\r")
            shown = "\r" * (len(bare) < len(text)) + printable(bare)
        else:
            shown = text
        try:
            self.stream.write(shown)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.stream, name)


def bare_stream(stream: Any) -> Any:  # noqa: ANN401
    """The stream below a `PrintableStream`; any other as it is."""
    return stream.stream if isinstance(stream, PrintableStream) else stream
