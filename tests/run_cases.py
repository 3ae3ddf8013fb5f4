"""Small runs on the procedural worlds, and commands in processes of their own that can be killed."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from foveal.config import RunConfig, load
from foveal.objectives.grpo import GRPO
from foveal.types import Group, Problem, Reward

STEPS = 6


def world_table(model: Path, **changes: Any) -> dict[str, Any]:
    """A run of a few steps on small completions: checkpoints every 2 steps, greedy validation every 3."""
    table: dict[str, Any] = {
        "steps": STEPS,
        "threads": 1,
        # Set, not measured: runs are compared bit for bit.
        "model": {"path": str(model), "attention": "split"},
        "data": {"type": "world", "families": ["counting"], "size": 7},
        "sampling": {"group_size": 3, "prompts_per_step": 2, "max_new_tokens": 5},
        "objective": {"type": "papo", "kl_prcp_coef": 0.1},
        "perturbations": {"removed": {"type": "patch_mask"}},
        "rewards": [{"type": "boxed", "weight": 0.9}, {"type": "run_cases:Letters", "weight": 0.5}],
        "optimizer": {"lr": 1e-3, "warmup_steps": 3},
        "checkpoint": {"every": 2},
        "validation": {
            "every": 3,
            "problems": 3,
            "data": {"type": "world", "families": ["counting"], "split": "heldout"},
        },
    }
    return table | changes


def world_config(model: Path, **changes: Any) -> RunConfig:
    return load(world_table(model, **changes))


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """What must be equal between equal runs: all fields but times."""
    found = [json.loads(line) for line in (run / name).read_bytes().split(b"\n") if line]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in found]


def differences(found: Path, wanted: Path) -> list[str]:
    """In what two runs differ that should be equal; and what a killed process left behind."""
    told = [
        name for name in ("metrics.jsonl", "completions.jsonl") if lines(found, name) != lines(wanted, name)
    ]
    told += [f"left behind: {path}" for path in found.rglob(".*") if path.name.startswith(".")]
    names = [
        {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()} for run in (found, wanted)
    ]
    told += [f"only in one: {name}" for name in names[0] ^ names[1]]
    return told


def command(arguments: Sequence[str], log: str, folder: str) -> None:
    """Run the command line as a process would; what it says goes to a file."""
    os.chdir(folder)
    terminal = log.startswith("/dev/")
    if terminal:
        # The leader of a new session takes the terminal that it opens: Ctrl-C there then reaches it.
        os.setsid()
        os.environ["TERM"] = "xterm-256color"
    handle = os.open(log, os.O_RDWR if terminal else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from foveal.cli import main

    torch.set_num_threads(1)
    sys.exit(main(list(arguments)))


def server() -> Any:
    """A process that has imported everything and forks: imports are paid once, not once a command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["foveal.cli", "foveal.cli.train", "foveal.train.loop", "run_cases"])
    return context


class Command:
    """A command line in a process of its own."""

    def __init__(self, *arguments: str, folder: Path, terminal: str = "") -> None:
        self.log = Path(terminal) if terminal else folder / "log.txt"
        self.process: BaseProcess = server().Process(
            target=command, args=(arguments, str(self.log), str(folder))
        )
        self.process.start()

    def wait(self, *, limit: float = 120) -> int:
        """The exit status."""
        self.process.join(limit)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"the command is still running after {limit} s:\n{self.text()}")
        return code

    def send(self, number: int) -> None:
        """A signal, if the process is still there."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def text(self) -> str:
        """What was said so far, by all commands of the folder."""
        return self.log.read_text() if self.log.is_file() else ""

    def wait_for_step(self, run: Path, step: int, *, start: int = 1, limit: float = 60) -> None:
        """Until a step is written after the so-manieth start of the run, or the process ends."""
        end = time.monotonic() + limit
        while time.monotonic() < end and self.process.is_alive():
            events, steps = run / "events.jsonl", run / "metrics.jsonl"
            if events.is_file() and events.read_bytes().count(b"\n") >= start and steps.is_file():
                if steps.read_bytes().count(b'"kind": "step"') >= step:
                    return
            time.sleep(0.001)


def write_toml(file: Path, table: Mapping[str, Any]) -> Path:
    import tomli_w

    file.write_text(tomli_w.dumps(table))
    return file


class Letters(Reward):
    """The share of letters: a random model earns it, and unequally."""

    def __call__(self, problem: Problem, text: str) -> float | None:
        return sum(letter.isalpha() for letter in text) / max(1, len(text))

    def settle(self, problem: Problem, text: str) -> float | None:
        """In this process: quick, and without a worker."""
        return self(problem, text)


class Halves(GRPO):
    """Keeps about half of the groups."""

    def keeps(self, group: Group) -> bool:
        return sum(map(len, (c.text for c in group.completions))) % 2 == 0
