"""The grader: order, limits of CPU time, crashes, strangers' rewards, and workers that stay light."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal.rewards import pool
from foveal.rewards.grading import Grader, GradingError
from foveal.rewards.mathruler import Mathruler
from foveal.rewards.rules import Boxed, Choice, Format
from foveal.spec import ConfigError, build_component
from foveal.types import Completion, Group, Problem, Reward

PLUGIN = """
import os, signal, time
from typing import ClassVar
from foveal.types import Problem, Reward

class Stranger(Reward):
    is_accuracy: ClassVar[bool] = True
    flag: str = ""
    def __call__(self, problem: Problem, text: str) -> float | None:
        if text == "loop":
            while True:
                try:
                    sum(range(1000))
                except BaseException:
                    pass
        if text == "sleep":
            time.sleep(600)
        if text == "raise":
            raise ValueError("no such luck")
        if text == "word":
            return "good"
        if text == "die once" and not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "die":
            os._exit(3)
        if text == "images":
            return float(len(problem.images))
        return float(text == problem.answer)
"""


SLOW = "(x+y+1)**60*(x-y+2)**50"
"""A product that sympy expands for more than 20 seconds."""


def problem(answer: str, *, images: tuple[Image.Image, ...] = (), name: str = "p") -> Problem:
    return Problem(id=name, question="q", images=images, answer=answer)


FLOOR = "\\lfloor x \\rfloor + 1"
"""A truth that the rules leave to a worker."""
ENDLESS = "\\lfloor (x+y+z+w+1)^{60} \\rfloor"
"""An answer that costs a worker more than its limit."""


def completions(*texts: str) -> list[Completion]:
    return [Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=text, finish="stop") for text in texts]


def stranger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Reward:
    (folder / "my_reward.py").write_text(PLUGIN)
    monkeypatch.chdir(folder)
    table = {"type": "my_reward:Stranger", "flag": str(folder / "died")}
    reward = build_component(table, {}, kind="reward")
    assert isinstance(reward, Reward)
    return reward


def test_rewards_are_weighted_sums_in_order_and_correct_follows_accuracy() -> None:
    with Grader([Boxed(weight=0.9), Format(weight=0.1)]) as grader:
        group = grader.grade(
            problem("7"),
            completions("<think>a</think>\\boxed{7}", "\\boxed{7}", "<think>a</think>\\boxed{8}", ""),
        )
    assert isinstance(group, Group)
    assert group.rewards == pytest.approx((1.0, 0.9, 0.1, 0.0))
    assert group.correct == (True, True, False, False)
    assert group.breakdown == {"boxed": (1.0, 1.0, 0.0, 0.0), "format": (1.0, 0.0, 1.0, 0.0)}
    assert not grader._pool._idle  # nothing needed a worker, so none was started


def test_a_value_of_none_counts_zero_and_stays_none() -> None:
    with Grader([Boxed(weight=0.9), Format(weight=0.1)]) as grader:
        group = grader.grade(problem("!!"), completions("<think>a</think>\\boxed{\\frac{1}{2}}"))
    assert group.rewards == pytest.approx((0.1,)) and group.correct == (False,)
    assert group.breakdown["boxed"] == (None,) and grader.failures == grader.timeouts == 0


def test_a_slow_comparison_ends_at_the_limit_and_others_are_still_graded() -> None:
    with Grader([Mathruler()], cpu_limit_s=1.0) as grader:
        group = grader.grade(
            problem("x+1"),
            completions(f"\\boxed{{{SLOW}}}", "\\boxed{x+\\sqrt{1}}", "\\boxed{x+\\sqrt{2}}"),
        )
    assert group.breakdown["mathruler"] == (None, 1.0, 0.0)
    assert (grader.timeouts, grader.failures) == (1, 0)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.sampled_from(["x+1", "1+x", "x+2", "\\sqrt{4}", "3", "\\frac{x}{2}"]), min_size=1, max_size=8)
)
def test_order_is_kept_for_any_mixture_and_number_of_workers(answers: Sequence[str]) -> None:
    truth = {"x+1": 1.0, "1+x": 1.0}
    items = [
        (problem("x+1", name=str(n)), completions(f"\\boxed{{{answer}}}", "\\boxed{x+1}"))
        for n, answer in enumerate(answers)
    ]
    with Grader([Boxed()], workers=2) as two:
        groups = two.grade_many(items)
    assert [group.problem.id for group in groups] == [str(n) for n in range(len(answers))]
    assert [group.breakdown["boxed"] for group in groups] == [
        (truth.get(answer, 0.0), 1.0) for answer in answers
    ]


def test_an_endless_loop_that_swallows_everything_cannot_hang_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader([stranger(tmp_path, monkeypatch)], cpu_limit_s=0.5) as grader:
        picture = Image.new("RGB", (4, 4))
        group = grader.grade(problem("yes", images=(picture,)), completions("loop", "yes", "no", "images"))
        assert group.problem.images == (picture,)
    assert group.breakdown == {"stranger": (None, 1.0, 0.0, 0.0)}  # a worker gets no pictures
    assert group.correct == (False, True, False, False) and grader.timeouts == 1


def test_a_sleeping_reward_ends_at_the_wall_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Grader([stranger(tmp_path, monkeypatch)], cpu_limit_s=5.0, wall_limit_s=0.5) as grader:
        group = grader.grade(problem("yes"), completions("sleep", "yes"))
    assert group.breakdown == {"stranger": (None, 1.0)} and grader.timeouts == 1


def test_crashes_and_wrong_values_are_counted_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader([stranger(tmp_path, monkeypatch)]) as grader:
        with pytest.warns(
            RuntimeWarning, match="'stranger' failed on problem 'p', completion 0: ValueError: no such luck"
        ) as seen:
            group = grader.grade(problem("yes"), completions("raise", "word", "die", "die once", "yes"))
    assert group.breakdown == {"stranger": (None, None, None, 0.0, 1.0)}
    assert (grader.failures, grader.timeouts, len(seen)) == (3, 0, 1)
    assert (tmp_path / "died").exists()  # a worker killed mid-way got its item a second try


def test_an_idle_worker_that_was_killed_is_replaced() -> None:
    with Grader([Mathruler()]) as grader:
        grader.grade(problem("x+1"), completions("\\boxed{1+x}"))
        (worker,) = grader._pool._idle
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        assert grader.grade(problem("x+1"), completions("\\boxed{x+1}")).rewards == (1.0,)


def test_workers_start_in_the_background_and_grade_the_first_completions() -> None:
    with Grader([Boxed()], workers=2) as grader:
        grader.start()
        grader.start()
        one, two = grader._pool._idle
        assert not one._ready and not two._ready  # nothing waited for them
        assert grader.grade(problem(FLOOR), completions("\\boxed{1+\\lfloor x \\rfloor}")).rewards == (1.0,)
        assert {worker.process.pid for worker in grader._pool._idle} == {one.process.pid, two.process.pid}
    assert one.process.poll() is not None and two.process.poll() is not None


def test_no_worker_is_started_for_rewards_that_never_need_one() -> None:
    with Grader([Choice(), Format()]) as grader:
        grader.start()
        assert not grader._pool._idle


def test_a_started_worker_has_loaded_the_reward_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = stranger(tmp_path, monkeypatch)
    with (tmp_path / "my_reward.py").open("a") as file:
        file.write('\nopen("loaded", "w").close()\n')
    with Grader([reward]) as grader:
        grader.start()
        grader._pool._idle[0].ready()
        assert (tmp_path / "loaded").exists()
        (tmp_path / "my_reward.py").unlink()
        assert grader.grade(problem("yes"), completions("yes")).rewards == (1.0,)


def test_a_worker_that_never_gets_ready_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = stranger(tmp_path, monkeypatch)
    with (tmp_path / "my_reward.py").open("a") as file:
        file.write("\ntime.sleep(600)\n")
    monkeypatch.setattr(pool, "START_LIMIT_S", 1)
    with Grader([reward]) as grader:
        grader.start()
        (worker,) = grader._pool._idle
        with pytest.raises(
            GradingError, match="not ready after 1 s; check what the files of your rewards do"
        ):
            grader.grade(problem("yes"), completions("yes"))
        assert worker.process.poll() is not None


def test_a_reward_that_workers_cannot_import_is_refused_at_start() -> None:
    class Local(Reward):
        is_accuracy: ClassVar[bool] = True

        def __call__(self, problem: Problem, text: str) -> float:
            return 1.0

    with pytest.raises(ConfigError, match=r"put it in a file and write type = 'my_file:MyReward'"):
        Grader([Local()])


def test_a_local_reward_with_settle_runs_in_this_process() -> None:
    class LocalQuick(Reward):
        is_accuracy: ClassVar[bool] = True

        def settle(self, problem: Problem, text: str) -> float:
            return float(len(text))

    with Grader([LocalQuick(), LocalQuick(weight=2.0)]) as grader:
        group = grader.grade(problem("1"), completions("ab"))
    assert group.rewards == (6.0,) and list(group.breakdown) == ["local_quick", "local_quick_2"]


def test_rewards_without_accuracy_and_impossible_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="format.*is_accuracy"):
        Grader([Format()])
    with pytest.raises(ConfigError, match="workers"):
        Grader([Boxed()], workers=0)
    with pytest.raises(ConfigError, match="cpu_limit_s"):
        Grader([Boxed()], cpu_limit_s=0.0)


def test_a_reward_file_that_vanished_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader([stranger(tmp_path, monkeypatch)]) as grader:
        (tmp_path / "my_reward.py").unlink()
        with pytest.raises(GradingError, match="cannot be loaded in a grading worker.*my_reward"):
            grader.grade(problem("yes"), completions("yes"))


def test_a_problem_that_cannot_be_sent_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader([stranger(tmp_path, monkeypatch)]) as grader:
        bad = Problem(id="p", question="q", images=(), answer="1", meta={"lambda": lambda: 0})
        with pytest.raises(GradingError, match="plain data in `Problem.meta`"):
            grader.grade(bad, completions("1"))


@pytest.mark.parametrize("target", ["rewards.equality:equal", "compat.mathruler:grade_answer_strictly"])
def test_a_worker_imports_neither_torch_nor_the_carriers(target: str) -> None:
    code = (
        "import sys, foveal.rewards.worker as w; from foveal.rewards.tasks import Task; "
        f"f = w.load(Task(target='foveal.{target}')); assert f('1+x', 'x+\\\\frac{{2}}{{2}}') == 1.0; "
        "print(sorted({'torch', 'foveal.types', 'PIL', 'pydantic', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
from foveal.rewards.grading import Grader
from foveal.rewards.mathruler import Mathruler
from foveal.types import Completion, Problem
grader = Grader([Mathruler()], cpu_limit_s=60.0)
p = Problem(id="p", question="q", images=(), answer="x+1")
c = lambda t: [Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=t, finish="stop")]
grader.grade(p, c("\\\\boxed{1+\\\\lfloor x \\\\rfloor}"))
print(grader._pool._idle[0].process.pid, flush=True)
try:
    grader.grade(p, c("\\\\boxed{(x+y+1)**60*(x-y+2)**50}"))
except KeyboardInterrupt:
    print("interrupted", grader.grade(p, c("\\\\boxed{x+\\\\sqrt{1}}")).rewards, flush=True)
"""


def test_ctrl_c_stops_the_grading_and_the_next_call_works(tmp_path: Path) -> None:
    """Run without a `__main__` guard: workers do not run the main script again."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest.strip() == "interrupted (1.0,)" and process.returncode == 0
    assert not Path(f"/proc/{worker}").exists()


def test_workers_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("cpu_limit_s=60.0", "cpu_limit_s=1.5"))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.communicate()
    end = time.monotonic() + 30.0
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(worker)


def test_workers_that_are_still_starting_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    lines = textwrap.dedent(SCRIPT).split("p = Problem")[0] + "grader.start()\n"
    script = tmp_path / "script.py"
    script.write_text(lines + "print(grader._pool._idle[0].process.pid, flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert _alive(worker)
    process.kill()
    process.communicate()
    end = time.monotonic() + 30.0
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
