"""The boundary: what libraries and the system say about something a user brought becomes one message of ours.

Inside, errors of transformers, safetensors, tokenizers, jinja, Pillow, pyarrow, json, tomllib and the system
fly as they are. A `door` stands around the few calls that open what a user brought (a config, data, a model
folder, a run folder) and says what it was and where to change it. A mistake in this library's own code passes
through every door as it is, and ends at `ending`: with a traceback in a file, and status 1.
"""

import contextlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foveal import __version__
from foveal.spec import FovealError, plugin_failure
from foveal.text import printable, shortened

STATUS_BUG = 1
STATUS_STOPPED = 130

SHOW_TRACEBACK = "FOVEAL_TRACEBACK"
"""Environment variable: with "1" a mistake of this library's is raised as it is, not written to a file."""

NAME_BYTES = 255
PATH_BYTES = 4095
"""Longest name and path that Linux and macOS take."""

REASON_LENGTH = 300
"""Characters of a library's words in a message."""

_OWN = str(Path(__file__).parent) + os.sep

_OUTSIDE = (OSError, ValueError, OverflowError, RecursionError, EOFError, MemoryError)
"""What the system and builtins raise in the very line that calls them: of these one raised in our own code is
told of, too."""

_PANIC = "PanicException"
"""What safetensors and tokenizers raise where their own code fails; no Exception by class."""


class OtherRank(FovealError):
    """The first of several processes says what is wrong; the others end without a word."""


@contextmanager
def door(wrong: str, way: str, *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what libraries raise inside into `WRONG: REASON; WAY`.

    Errors of this library's own code, and of plug-ins, pass as they are, but for those of the types `also`:
    what compiled code, which leaves no line of its own in a traceback, raises for what it was given.
    Raises: FovealError.
    """
    try:
        yield
    except BaseException as error:
        if not is_foreign(error) and not (type(error) in also and plugin_failure(error) is None):
            raise
        raise FovealError(f"{wrong}: {reason(error)}; {way}") from error


def is_foreign(error: BaseException) -> bool:
    """Whether an error comes from a library or the system, and so from what they were given."""
    if isinstance(error, FovealError) or plugin_failure(error) is not None:
        return False
    if not isinstance(error, Exception):
        return type(error).__name__ == _PANIC
    if isinstance(error, _OUTSIDE) or type(error).__module__.partition(".")[0] not in ("builtins", "foveal"):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return not (frames and frames[-1].filename.startswith(_OWN))


def reason(error: BaseException) -> str:
    """An error of a library's in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename is not None else ""
        return shortened(f"{error.strerror}{where}", REASON_LENGTH)
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    named = isinstance(error, KeyError | IndexError | AttributeError | TypeError | ZeroDivisionError)
    if named or len(words) < 4:
        words = f"{type(error).__name__}: {words}".removesuffix(": ")
    return shortened(words, REASON_LENGTH)


def require_name(name: str | Path, *, where: str) -> None:
    """`where` is the option or the key that gave a file's name.

    Raises: FovealError for a name that no file can have.
    """
    text = str(name)
    shown = shortened(repr(text), 80)
    if "\0" in text:
        raise FovealError(f"{where} {shown}: a file's name cannot hold a NUL character; change {where}")
    longest = max((len(os.fsencode(part)) for part in _encodable(text).split("/")), default=0)
    size = len(os.fsencode(_encodable(text)))
    if longest > NAME_BYTES or size > PATH_BYTES:
        raise FovealError(
            f"{where} {shown}: the name is {size} bytes long, its longest part {longest}; the system takes "
            f"{PATH_BYTES} and {NAME_BYTES}; change {where}"
        )


def _encodable(text: str) -> str:
    """The text, each surrogate that stands for no byte of a file's name as a question mark."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def require_one_process(environment: Mapping[str, str] | None = None) -> None:
    """Raises: FovealError under torchrun and its like with more than one process: each would be a run of its
    own, all of them in one folder."""
    found = os.environ if environment is None else environment
    world, rank = found.get("WORLD_SIZE", ""), found.get("RANK", "")
    if not world.isdecimal() or not rank.isdecimal() or int(world) < 2:
        return
    if int(rank) > 0:
        raise OtherRank(f"process {rank} of {world}: the first one says what is wrong")
    raise FovealError(
        f"started as one of {world} processes (WORLD_SIZE = {world}, as torchrun sets it), but a run is one "
        f"process so far: {world} of them would write to one folder; start it by `foveal train` without "
        f"torchrun, or with --nproc-per-node 1"
    )


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command that raised ends. `message` is None where nothing is to be said."""

    message: str | None
    status: int


def ending(error: BaseException) -> Ending | None:
    """What to say of an error that ends a command; None where it has to be raised as it is.

    A mistake of this library's own is written to a file with all that a report of it needs.
    """
    if isinstance(error, FovealError):
        return Ending(message=None if isinstance(error, OtherRank) else str(error), status=error.status)
    if isinstance(error, KeyboardInterrupt):
        return Ending(
            message="stopped at once; a run goes on from its last checkpoint with --resume",
            status=STATUS_STOPPED,
        )
    told = plugin_failure(error)
    if told is not None:
        message = f"{told}; mend it there; a run that has saved goes on with --resume"
        return Ending(message=message, status=FovealError.status)
    told = _surroundings(error)
    if told is not None:
        return Ending(message=told, status=FovealError.status)
    if not isinstance(error, Exception) or os.environ.get(SHOW_TRACEBACK) == "1":
        return None
    return _bug(error)


def _surroundings(error: BaseException) -> str | None:
    """What to say of a disk or a memory that is full, or a file that cannot be had."""
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            f"out of memory: {reason(error)}; lower optimizer.micro_batch_tokens, "
            f"sampling.prompts_per_step, sampling.group_size or sampling.max_new_tokens, or use a smaller "
            f"model"
        )
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror}; check the path, its permissions and the room on its disk; "
            f"a run that has saved goes on with --resume"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def _bug(error: Exception) -> Ending:
    words = shortened(printable(f"{type(error).__name__}: {error}".removesuffix(": ")), REASON_LENGTH)
    report = "\n".join(
        [
            f"foveal {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"command: {sys.argv!r}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    file = None
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="foveal-crash-", suffix=".txt", text=True)
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(printable(report))
        file = name
    where = f"the traceback is in {file}" if file else f"the traceback:\n{report}"
    return Ending(
        message=(
            f"{words}: this is a mistake in foveal, not in what you gave it; please report it with the "
            f"command and the traceback; {where}"
        ),
        status=STATUS_BUG,
    )
