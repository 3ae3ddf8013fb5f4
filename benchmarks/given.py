"""What a benchmark's arguments may be: a wrong one is said before the work, not after it."""

import argparse
import os
from pathlib import Path


def count(text: str) -> int:
    """A whole number above 0."""
    return _whole(text, least=1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, least=0)


def file(text: str) -> str:
    """A file that can be written, or appended to."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text} cannot be written; expected a file in a folder that is there"
        )
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: no permission")
    return text


def _whole(text: str, *, least: int) -> int:
    wanted = "a whole number above 0" if least else "a whole number of at least 0"
    try:
        found = int(text)
    except ValueError:
        found = least - 1
    if found < least:
        raise argparse.ArgumentTypeError(f"{text}; expected {wanted}")
    return found
