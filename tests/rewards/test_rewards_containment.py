"""What a grading worker can and cannot touch, and that its replies can do nothing to the run."""

import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from foveal.rewards import containment
from foveal.rewards.containment import Needs, environment_for, needs_of
from foveal.rewards.messages import BadReply, decode, encode_outcome, encode_ready, encode_unloadable
from foveal.rewards.pool import GradingError, Pool
from foveal.rewards.rules import Boxed
from foveal.rewards.tasks import Outcome, Task
from foveal.types import Problem, Reward

PROBE = """
import gc, os, pickle, resource, socket, subprocess, sys
from multiprocessing.connection import Connection

def variable(name): return float(name in os.environ)
def variables(): return len(os.environ)
def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return 0.0
    return 1.0
def interfaces(): return len([name for _, name in socket.if_nameindex() if name != "lo"])
def starts():
    try:
        return float(subprocess.run(["true"]).returncode == 0)
    except PermissionError:
        return 0.0
def limit(name): return resource.getrlimit(getattr(resource, name))[0]
def works_in(folder): return float(os.path.realpath(os.getcwd()) == os.path.realpath(folder))
def home_in(prefix): return float(os.environ["HOME"].startswith(prefix))
def scratch_is(text):
    with open(os.path.join(os.environ["TMPDIR"], "note"), "w") as file:
        return file.write(text)
def grows():
    return len(bytearray(8 << 30))
class Bad:
    def __reduce__(self): return (os.system, (f"touch {CANARY}",))
def forges(kind):
    pipe = next(thing for thing in gc.get_objects() if isinstance(thing, Connection))
    bad = {"pickle": pickle.dumps(Bad()), "long": b"x" * (2 << 20), "list": b"[1]", "deep": b"[" * 100000}
    pipe.send_bytes(bad[kind])
    os._exit(0)
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of functions that look around in a worker; its folder is the current one."""
    (tmp_path / "probe.py").write_text(PROBE.replace("{CANARY}", str(tmp_path / "canary")))
    monkeypatch.syspath_prepend(tmp_path)  # type: ignore[no-untyped-call]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_KEY", "1")
    return tmp_path


def run(target: str, *arguments: object, needs: Needs | None = None) -> Outcome:
    pool = Pool(workers=1, cpu_limit_s=20.0, wall_limit_s=60.0, needs=needs)
    try:
        return pool.run([Task(target=f"probe:{target}", arguments=arguments)])[0]
    finally:
        pool.close()


OWN = Needs(own_code=True)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_worker_starts_without_the_variables_of_the_run(probe: Path) -> None:
    assert run("variable", "SECRET_KEY").value == 0.0
    assert run("variable", "PATH").value == 0.0
    assert int(run("variables").value) <= len(containment._KEPT) + 5
    assert run("variable", "SECRET_KEY", needs=Needs(environment=("SECRET_KEY",))).value == 1.0
    assert run("variable", "SECRET_KEY", needs=Needs(environment=("*",))).value == 1.0


def test_a_worker_has_no_network_unless_a_reward_asks(probe: Path, port: int) -> None:
    pool = Pool(workers=1, cpu_limit_s=20.0, wall_limit_s=60.0, needs=OWN)
    try:
        pool.start()
        pool.wait()
        said = pool._idle[0].status["network"]
        found = pool.run([Task(target="probe:connects", arguments=(port,)), Task(target="probe:interfaces")])
    finally:
        pool.close()
    if said == "none":
        assert [outcome.value for outcome in found] == [0.0, 0]
    else:
        assert said.startswith("open: ")  # and says why
    assert run("connects", port, needs=Needs(own_code=True, network=True)).value == 1.0


def test_a_worker_of_rules_starts_no_program_and_opens_no_socket(probe: Path, port: int) -> None:
    assert run("starts").value == 0.0
    refused = run("connects", port)
    assert refused.value == 0.0 or "does not do socket.connect" in refused.message
    assert run("starts", needs=Needs(own_code=True, environment=("PATH",))).value == 1.0


def test_a_worker_leaves_no_cores_and_writes_small_files(probe: Path) -> None:
    assert run("limit", "RLIMIT_CORE").value == 0
    assert run("limit", "RLIMIT_FSIZE").value == containment.FILE_LIMIT
    assert run("limit", "RLIMIT_NOFILE").value == containment.OPEN_FILES
    assert run("limit", "RLIMIT_FSIZE", needs=OWN).value == resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def test_a_task_that_fills_memory_fails_alone(probe: Path) -> None:
    assert run("grows").message.startswith("MemoryError")


def test_the_scratch_folder_goes_with_the_worker(probe: Path) -> None:
    pool = Pool(workers=1, cpu_limit_s=20.0, wall_limit_s=60.0)
    tasks = [
        Task(target="probe:scratch_is", arguments=("abc",)),
        Task(target="foveal.rewards.equality:equal", arguments=("x+1", "1+x")),
        Task(target="probe:works_in", arguments=(str(probe),)),
    ]
    try:
        assert [outcome.value for outcome in pool.run(tasks)] == [3, 1.0, 1.0]
        scratch = Path(pool._idle[0]._scratch.name)
        assert (scratch / "note").read_text() == "abc"
        assert Path(f"/proc/{pool._idle[0].process.pid}/cwd").exists()
    finally:
        pool.close()
    assert not scratch.exists()


def test_rules_work_in_the_scratch_folder() -> None:
    pool = Pool(workers=1, cpu_limit_s=20.0, wall_limit_s=60.0)
    try:
        pool.run([Task(target="foveal.rewards.equality:equal", arguments=("x+1", "1+x"))])
        worker = pool._idle[0]
        assert os.readlink(f"/proc/{worker.process.pid}/cwd") == os.path.realpath(worker._scratch.name)
        given = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
    finally:
        pool.close()
    allowed = {*containment._KEPT, "HOME", "TMPDIR", "OMP_NUM_THREADS", "PYTHONHASHSEED"}
    assert {line.split(b"=")[0].decode() for line in given if line} <= allowed


@pytest.mark.parametrize("kind", ["pickle", "long", "list", "deep"])
def test_a_forged_reply_costs_the_worker_and_does_nothing(probe: Path, kind: str) -> None:
    found = run("forges", kind, needs=OWN)
    assert found.kind == "failure" and ("died" in found.message or "was ended" in found.message)
    assert not (probe / "canary").exists()


def test_replies_travel_as_json_and_nothing_else_is_read() -> None:
    for outcome in (
        Outcome(kind="value", value=0.5),
        Outcome(kind="value", value=None),
        Outcome(kind="value", value=[1.0, None, 0]),
        Outcome(kind="value", value=True),
        Outcome(kind="failure", message="ValueError: \x1b[2J 是"),
    ):
        assert decode(encode_outcome(outcome)) == outcome
    assert decode(encode_unloadable("no module")) == "no module"
    assert decode(encode_ready({"network": "none"})) == {"network": "none"}
    for value in ({"a"}, object(), 10**5000):
        travelled = decode(encode_outcome(Outcome(kind="value", value=value)))
        assert isinstance(travelled, Outcome) and travelled.kind == "failure"
    bad = [
        pickle.dumps(Outcome(kind="value", value=1.0)),
        b"",
        b"null",
        b"[]",
        b'"ready"',
        b"{",
        b"[" * 100_000,
    ]
    bad += [json.dumps({"kind": kind, "value": value, "message": ""}).encode() for kind, value in BAD_FIELDS]
    bad += [b'{"kind": "value", "value": 1.0}', b'{"ready": {"network": 1}}', b'{"unloadable": 1}']
    for reply in bad:
        with pytest.raises(BadReply):
            decode(reply)


BAD_FIELDS = (
    ("value", "1.0"),
    ("value", {}),
    ("value", [[1]]),
    ("value", ["x"]),
    ("other", 1.0),
    (None, 1.0),
)


class Asks(Reward):
    needs_network: ClassVar[bool] = True
    environment: ClassVar[tuple[str, ...]] = ("API_KEY", "API_URL")

    def __call__(self, problem: Problem, text: str) -> float:
        return 0.0


class Plain(Reward):
    def __call__(self, problem: Problem, text: str) -> float:
        return 0.0


class Configured(Reward):
    network: bool = False
    variables: tuple[str, ...] = ()

    def __call__(self, problem: Problem, text: str) -> float:
        return 0.0


def test_workers_get_what_their_rewards_ask_for_together() -> None:
    assert needs_of([Configured()]) == Needs(own_code=True)
    asking = Configured(network=True, variables=("KEY",))
    assert needs_of([asking]) == Needs(own_code=True, network=True, environment=("KEY",))
    assert needs_of([Boxed()]) == Needs()
    assert needs_of([Boxed(), Plain()]) == Needs(own_code=True)
    both = needs_of([Boxed(), Asks()])
    assert both == Needs(own_code=True, network=True, environment=("API_KEY", "API_URL"))
    given = {"API_KEY": "1", "OTHER": "2", "LANG": "C", "HOME": "/home/me"}
    assert environment_for(both, "/scratch", given) == {
        "API_KEY": "1",
        "LANG": "C",
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }


def test_a_worker_that_cannot_start_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    pool = Pool(workers=1, cpu_limit_s=1.0, wall_limit_s=5.0)
    with pytest.raises(GradingError, match="could not start.*can import foveal"):
        pool.run([Task(target="foveal.rewards.equality:equal", arguments=("x", "y"))])


def test_the_scratch_folder_goes_when_the_run_is_killed() -> None:
    code = (
        "import time; from foveal.rewards.pool import Pool\n"
        "pool = Pool(workers=1, cpu_limit_s=9.0, wall_limit_s=9.0); pool.start(); pool.wait()\n"
        "print(pool._idle[0]._scratch.name, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    scratch = Path(process.stdout.readline().strip())
    assert scratch.is_dir() and scratch.name.startswith("foveal-grading-")
    process.kill()
    process.communicate()
    end = time.monotonic() + 30.0
    while scratch.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not scratch.exists()


def test_the_command_says_how_a_worker_is_contained_here() -> None:
    line = [sys.executable, "-m", "foveal.rewards.containment"]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [text.split(": ")[0] for text in said] == ["network", "privileges", "processes"]
    assert said[0] == "network: none" or said[0].startswith("network: open: ")
    assert said[2] == "processes: refused"
