"""What a grading worker may touch: no secrets, no network, little memory, no files but small ones.

Rules grade hostile text, so their worker starts with an emptied environment, works in a scratch folder that
goes when it ends, and gives up the network and what else the system lets it. A user's own reward is trusted
code; it gets its folder, and the network or environment variables where its class asks for them
(`needs_network`, `environment`). This is a second wall: no text is evaluated behind the first.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEMORY_LIMIT = 4 << 30
"""Bytes that a task may take beyond what the worker holds: a power tower is quick to fill memory."""
FILE_LIMIT = 64 << 20
"""Bytes of one file that a worker may write."""
OPEN_FILES = 256
"""Files that a worker may have open at once."""

_KEPT = tuple(
    "LANG LC_ALL LC_CTYPE LD_LIBRARY_PATH DYLD_LIBRARY_PATH TZ PYTHONHOME PYTHONPYCACHEPREFIX "
    "PYTHONUSERBASE".split()
)
"""Variables without which an interpreter may not start, miss packages, or read text otherwise."""
_NEW_USER, _NEW_NETWORK, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
_REFUSED_EVENTS = frozenset(
    "ctypes.dlopen ctypes.dlsym os.exec os.fork os.forkpty os.kill os.killpg os.posix_spawn os.spawn "
    "os.startfile os.system pty.spawn socket.bind socket.connect socket.getaddrinfo socket.gethostbyname "
    "socket.sendto subprocess.Popen urllib.Request".split()
)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the rewards of one pool of workers ask for."""

    network: bool = False
    environment: tuple[str, ...] = ()
    """Names of variables that are passed on; "*" passes all."""
    own_code: bool = False
    """Whether a reward of somebody's own runs there, which may start programs and write large files."""


def needs_of(rewards: Iterable[Any]) -> Needs:
    """The needs of rewards together: workers are shared, so what one gets all get.

    A class says them once and for all (`needs_network`, `environment`); one that stands for code it does not
    know may have them in its config, as the fields `network` and `variables`.
    """
    network, environment, own = False, dict[str, None](), False
    for reward in rewards:
        network = network or any(getattr(reward, name, False) for name in ("needs_network", "network"))
        for names in (getattr(reward, "environment", ()), getattr(reward, "variables", ())):
            environment.update(dict.fromkeys(names))
        foreign = not type(reward).__module__.startswith("foveal.")
        own = own or foreign or bool(getattr(reward, "own_code", False))
    return Needs(network=network, environment=tuple(environment), own_code=own)


def environment_for(needs: Needs, scratch: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: `given` is the parent's.

    >>> sorted(environment_for(Needs(environment=("KEY",)), "/s", {"KEY": "1", "SECRET": "2"}))
    ['HOME', 'KEY', 'OMP_NUM_THREADS', 'PYTHONHASHSEED', 'TMPDIR']
    """
    # A fixed seed: sympy's order of terms hangs on it, and verdicts shall not.
    own = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if "*" in needs.environment:
        return {**given, **own}
    kept = {name: given[name] for name in (*_KEPT, *needs.environment) if name in given}
    return {"HOME": scratch, "TMPDIR": scratch, **kept, **own}


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a worker is contained; a word on what the system did not allow."""

    network: str = "open"
    privileges: str = "as started"
    processes: str = "open"

    def as_dict(self) -> dict[str, str]:
        """The same as plain data."""
        return asdict(self)


def contain(needs: Needs) -> Status:
    """Give up what the rewards do not need, before anything of theirs is loaded; called in the worker."""
    _limit(resource.RLIMIT_CORE, 0)
    if not needs.own_code:
        _limit(resource.RLIMIT_FSIZE, FILE_LIMIT)
        _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    network = "open, as a reward asks for it" if needs.network else _leave_network()
    return Status(network=network, privileges=_keep_privileges_low())


def lock(status: Status, needs: Needs) -> Status:
    """What is left to give up once the rewards are loaded: new processes, sockets and libraries."""
    if needs.own_code or needs.network:
        return Status(
            network=status.network,
            privileges=status.privileges,
            processes="open, as a reward of somebody's own runs here",
        )
    if os.getuid() != 0:  # root is exempt, and others' processes count too
        _limit(resource.RLIMIT_NPROC, 0)
    sys.addaudithook(_refuse)
    return Status(network=status.network, privileges=status.privileges, processes="refused")


def limit_memory() -> None:
    """Let the next task take `MEMORY_LIMIT` beyond what the worker holds."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_LIMIT)


def _limit(kind: int, value: int) -> None:
    """Lower a limit; the hard one stays, so that the worker itself can move it again."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED_EVENTS:
        raise PermissionError(f"a grading worker does not do {event}")


def _leave_network() -> str:
    """Move to a network namespace without any interface, by a user namespace where that takes one."""
    if sys.platform != "linux":
        return f"open: {sys.platform} has no network namespaces"
    user, group = os.getuid(), os.getgid()
    error = _unshare(_NEW_NETWORK)
    if error is None:
        return "none"
    error = _unshare(_NEW_NETWORK | _NEW_USER)
    if error is not None:
        return f"open: the system refuses a namespace ({error})"
    lines = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, line in lines.items():
        with contextlib.suppress(OSError):
            Path(f"/proc/self/{name}").write_text(line)
    return "none"


def _unshare(flags: int) -> str | None:
    """None, or why the kernel refuses."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.unshare(flags) != 0
    except (OSError, AttributeError) as error:
        return str(error)
    return os.strerror(ctypes.get_errno()) if failed else None


def _keep_privileges_low() -> str:
    """No program that this process starts gets more rights than it has."""
    import ctypes

    try:
        failed = ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0
    except (OSError, AttributeError):
        failed = True
    return "as started: the system has no way to fix them" if failed else "fixed"


def main() -> None:
    """Print how a grading worker of the library's rules would be contained on this machine."""
    needs = Needs()
    for what, how in lock(contain(needs), needs).as_dict().items():
        print(f"{what}: {how}")


if __name__ == "__main__":
    main()
