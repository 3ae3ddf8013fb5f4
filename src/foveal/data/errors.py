"""The error of all data readers, and the nearest name to a mistyped one."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from foveal.spec import FovealError


class DataError(FovealError):
    """Data that cannot be used; the message names the file, the row or the field, and the way out."""

    def __init__(self, message: str, *, kind: str = "row") -> None:
        """`kind` is one of `foveal.data.bad_rows.KINDS`, by which rows that cannot be used are counted."""
        super().__init__(message)
        self.kind = kind


@contextmanager
def of_kind(kind: str) -> Iterator[None]:
    """Errors from inside are of this kind, unless they say another themselves."""
    try:
        yield
    except DataError as error:
        if error.kind == "row":
            error.kind = kind
        raise


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name most like `name`; empty when none is."""
    choices = {choice.casefold(): choice for choice in known}
    found = difflib.get_close_matches(name.casefold(), list(choices), n=1)
    return f"; did you mean {choices[found[0]]!r}?" if found else ""


def listing(names: Iterable[str], *, limit: int = 12) -> str:
    """Names for a message, the first few of many."""
    every = list(names)
    return ", ".join(every[:limit]) + (f", ... ({len(every)} in all)" if len(every) > limit else "")
