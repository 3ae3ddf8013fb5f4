"""Nothing that came from data or a completion is executed, whatever the reward."""

import ast
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attack_cases
import foveal
from attack_cases import VARIABLE, Attack, Marks, every_reward, generated, known_attacks
from foveal.rewards import REGISTRY
from foveal.rewards.grading import Grader
from foveal.rewards.rules import Boxed
from foveal.types import Completion, Problem

BY_RULES = sorted(set(REGISTRY) - {"judge", "python"})
"""Rewards that read answers themselves; a judge sends them to a server, `python` to a user's function."""
COUNT = 200
SOURCE = Path(foveal.__file__).parent


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield server


def untouched(marks: Marks, listener: socket.socket) -> bool:
    try:
        listener.accept()
        return False
    except BlockingIOError:
        return not marks.file.exists() and VARIABLE not in os.environ


def seed_of(request: pytest.FixtureRequest) -> int:
    seed = int(os.environ.get("FOVEAL_ATTACK_SEED") or secrets.randbelow(1 << 31))
    request.node.user_properties.append(("seed", seed))
    print(f"FOVEAL_ATTACK_SEED={seed}")
    return seed


def test_no_attack_and_no_answer_reaches_an_evaluator(
    tmp_path: Path, listener: socket.socket, request: pytest.FixtureRequest
) -> None:
    """In a process of its own, under an audit hook: nothing is compiled, started, opened or written."""
    marks, seed = Marks(file=tmp_path / "canary", port=listener.getsockname()[1]), seed_of(request)
    arguments = [str(seed), str(COUNT), str(marks.file), str(marks.port), ",".join(BY_RULES)]
    done = subprocess.run(
        [sys.executable, attack_cases.__file__, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["attacks"] == COUNT + len(known_attacks(marks))
    assert report["graded"] >= report["attacks"] * len(BY_RULES)
    assert report["evaluated"] == [], "a string reached an evaluator of sympy's"
    assert report["events"] == [] and report["variable"] is None
    assert report["slow"] == []
    assert report["values"]["boxed"] and report["values"]["mathruler"]
    assert untouched(marks, listener) and sorted(path.name for path in tmp_path.iterdir()) == []


def test_no_attack_does_anything_in_a_worker(
    tmp_path: Path, listener: socket.socket, request: pytest.FixtureRequest
) -> None:
    marks, seed = Marks(file=tmp_path / "canary", port=listener.getsockname()[1]), seed_of(request)
    attacks = [*known_attacks(marks), *generated(seed, COUNT, marks)]
    for reward in every_reward(BY_RULES).values():
        rewards = [reward] if reward.is_accuracy else [reward, Boxed(weight=0.0)]
        with Grader(rewards, cpu_limit_s=4.0) as grader:
            grader.grade_many([graded(attack) for attack in attacks])
            assert grader.failures == 0
    assert untouched(marks, listener)


def graded(attack: Attack) -> tuple[Problem, list[Completion]]:
    completion = Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=attack.completion, finish="stop")
    return Problem(id="p", question="q", images=(), answer=attack.gold, meta=attack.meta), [completion]


def test_the_marks_would_be_seen(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payloads work where something does evaluate them."""
    marks = Marks(file=tmp_path / "canary", port=listener.getsockname()[1])
    assert untouched(marks, listener)
    for number, code in enumerate(marks.codes()):
        monkeypatch.delenv(VARIABLE, raising=False)
        started = eval(code)
        if hasattr(started, "wait"):
            started.wait()
        assert not untouched(marks, listener), number
        marks.file.unlink(missing_ok=True)
    monkeypatch.delenv(VARIABLE, raising=False)
    code = attack_cases.by_subscripts(f"touch {marks.file}")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert done.returncode == 0 and marks.file.exists()


EVALUATORS = frozenset(
    "eval exec compile parse_expr eval_expr stringify_expr sympify kernS lambdify literal_eval nsimplify "
    "ExprExtractionConfig parse_latex parse_mathematica __import__ run_path run_module execfile".split()
)
OF_THE_LIBRARY = {("policy/vocabulary.py", "compile")}
"""`torch.compile` takes a function."""
UNPICKLES = {"rewards/worker.py"}
"""Requests, which come from the run that started the worker."""


def named(tree: ast.Module) -> Iterator[str]:
    """Every identifier and every string that is no docstring, `re.compile` apart."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) != "re.compile":
            # A model's eval() switches its mode; Python's takes the text.
            yield "" if node.attr == "eval" else node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_file_names_an_evaluator_of_strings() -> None:
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        found.update((name, word) for word in named(ast.parse(path.read_text())) if word in EVALUATORS)
    assert found == OF_THE_LIBRARY


def test_nothing_foreign_is_unpickled() -> None:
    found = set()
    for path in SOURCE.rglob("*.py"):
        text, name = path.read_text(), path.relative_to(SOURCE).as_posix()
        tree = ast.parse(text)
        calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if calls & {
            "pickle.loads",
            "pickle.load",
            "marshal.loads",
            "marshal.load",
            "dill.loads",
            "joblib.load",
        }:
            found.add(name)
        # A connection's recv() unpickles too.
        assert not any(call.endswith("connection.recv") for call in calls), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" for k in node.keywords), name
    assert found == UNPICKLES
