"""Runs one case of the fuzz through the command's own entry point and says what is wrong with how it ends."""

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from foveal import tables
from foveal.cli import main
from foveal.text import STEERING
from run_cases import Command

SEED = int(os.environ.get("FOVEAL_FUZZ_SEED", "0"))
"""Another one tries other cases."""

ALARM_S = 60
"""Seconds after which a case hangs: a hundred times what the slowest takes on an idle machine."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of case: `prepare` fills a folder with damaged input and gives the command's words."""

    name: str
    prepare: Callable[[Path, Generator], Sequence[str]]


class Hang(BaseException):
    """The alarm of a case."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a case ended."""

    words: Sequence[str]
    status: int | None
    faults: Sequence[str]
    said: str


def run_case(kind: Kind, number: int, folder: Path, *, process: bool = False) -> Found:
    """Prepare and run a case in `folder`, which is emptied afterwards, and look at what it did and left."""
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(key=[SEED, hash_of(kind.name, number)]))
    words = kind.prepare(folder, rng)
    runs = {file.parent for file in folder.rglob("config.toml")}
    before = {path for path in folder.rglob("*")}
    children = _children()
    status, said, fault = (_in_process if process else _in_here)(words, folder)
    faults = [fault] if fault else []
    faults += _of_words(status, said)
    faults += [f"left behind: {path}" for path in _leftovers(folder, before, runs)]
    faults += [f"process left: {line}" for line in _grown(children)]
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.is_file() and not path.stat().st_mode & 0o400:
            path.chmod(0o600)
    shutil.rmtree(folder)
    return Found(words=words, status=status, faults=faults, said=said)


def hash_of(name: str, number: int) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(f"{name}/{number}".encode()[-8:], "little") ^ (number << 8)


def _in_here(words: Sequence[str], folder: Path) -> tuple[int | None, str, str]:
    def ring(number: int, frame: object) -> None:
        raise Hang

    output, fault = io.StringIO(), ""
    status: int | None = None
    paths, places = list(sys.path), list(tables.PLUGIN_FOLDERS)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, ALARM_S)
    with _inside(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Hang:
            fault = "hang:\n" + "".join(traceback.format_exc())
        except BaseException:
            fault = "traceback:\n" + traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            sys.path[:], tables.PLUGIN_FOLDERS[:] = paths, places
    return status, output.getvalue(), fault


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """The folder as working directory, and one in it for temporary files."""
    (folder / "tmp").mkdir()
    here, place = Path.cwd(), tempfile.tempdir
    os.chdir(folder)
    tempfile.tempdir = str(folder / "tmp")
    try:
        yield
    finally:
        os.chdir(here)
        tempfile.tempdir = place


def _in_process(words: Sequence[str], folder: Path) -> tuple[int | None, str, str]:
    (folder / "tmp").mkdir()
    started = Command(*words, folder=folder)
    try:
        status = started.wait(limit=ALARM_S)
    except TimeoutError:
        return None, started.text(), "hang"
    said = started.text()
    return status, said, "traceback" if "Traceback" in said else ""


def _of_words(status: int | None, said: str) -> list[str]:
    """What is wrong with an exit status and what was said."""
    faults = []
    if status is not None and status not in (0, 2):
        faults.append(f"ended with {status}")
    steering = STEERING.search(said)
    if steering:
        faults.append(f"control character {steering[0]!r} in what was said")
    if "out of memory" in said:
        faults.append("asked for more memory than there is")
    if status == 2:
        messages = [line for line in said.split("\n") if line.startswith("foveal: ") or ": error: " in line]
        if len(messages) != 1:
            faults.append(f"{len(messages)} messages")
        elif len(said) > 9000:
            faults.append(f"a message of {len(said)} characters")
    return faults


def _leftovers(folder: Path, before: set[Path], runs: set[Path]) -> list[Path]:
    """Half-written files, and run folders that hold nothing."""
    new = [path for path in folder.rglob("*") if path not in before]
    half = [p for p in new if p.name.endswith((".partial", ".part", ".former")) or p.parent.name == "tmp"]
    begun = [file.parent for file in folder.rglob("config.toml") if file.parent not in runs]
    empty = [run for run in begun if not (run / "metrics.jsonl").is_file()]
    return [
        *half,
        *empty,
        *(p for p in (folder / "run", folder / "runs") if p in new and not any(p.iterdir())),
    ]


def _children() -> set[str]:
    """Processes that this one has started and that are there, dead ones included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found |= set((task / "children").read_text().split())
    return found


def _grown(before: set[str]) -> list[str]:
    """New child processes that are still there after a second; the test's own fork server is none."""
    end = time.monotonic() + 1.0
    while True:
        new = []
        for pid in _children() - before:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if "forkserver" not in line and "resource_tracker" not in line:
                    new.append(f"{pid} {line[:200]}")
        if not new or time.monotonic() > end:
            return new
        time.sleep(0.05)


def run_chunk(kind: Kind, numbers: Sequence[int], folder: Path, *, process: bool = False) -> None:
    """Run cases; fails with all that is wrong, each with what makes it again."""
    print(f"fuzz: {kind.name}, cases {numbers[0]} to {numbers[-1]}, FOVEAL_FUZZ_SEED={SEED}")
    told, ends = [], {0: 0, 2: 0}
    for number in numbers:
        found = run_case(kind, number, folder / f"{kind.name}{number}", process=process)
        if found.status in ends:
            ends[found.status] += 1
        if found.faults:
            shown = "\n  ".join([f"words: {[word[:80] for word in found.words]}", *found.faults])
            told.append(
                f"{kind.name} {number} (FOVEAL_FUZZ_SEED={SEED}): {shown}\n  said: {found.said[-600:]!r}"
            )
    print(f"fuzz: {kind.name}: {ends[0]} harmless, {ends[2]} refused, {len(told)} at fault")
    assert not told, "\n\n".join([f"{len(told)} of {len(numbers)} cases", *told])
