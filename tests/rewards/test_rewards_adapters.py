"""Plain functions as rewards: each library's signature, in workers and in this process."""

import asyncio
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from foveal.config import RunConfig, dump, load
from foveal.rewards.adapters import Function, Python, build_reward, provided, reward_from
from foveal.rewards.adapters.functions import Waiting
from foveal.rewards.adapters.signatures import Signature
from foveal.rewards.grading import Grader
from foveal.rewards.rules import Boxed
from foveal.rewards.settings import GradingConfig
from foveal.spec import ConfigError
from foveal.types import Completion, Problem, Reward

QUICK = GradingConfig(retries=0, backoff_s=0.0)

FILE = """
import os

def simple(problem, text):
    return float(text == problem.answer) + 0.125 * len(problem.images)

def trl(prompts, completions, completion_ids, **columns):
    assert len(prompts) == len(completions) == len(completion_ids) == len(columns["solution"])
    assert prompts[0] == "How many?" and columns["level"][0] == 3
    assert completion_ids[0] in ([1, 2, 3], [])
    return [None if c == "skip" else float(c == gold) for c, gold in zip(completions, columns["solution"])]

def trl_talks(completions, answer, **kwargs):
    return [float(one[0]["content"] == gold) for one, gold in zip(completions, answer)]

def easyr1(reward_inputs, format_weight=0.1):
    return [{"overall": float(one["response"] == one["ground_truth"])} for one in reward_inputs]

def easyr1_one(reward_input):
    return {"overall": float(reward_input["response"] == reward_input["ground_truth"]), "accuracy": 1.0}

def papo(predict, ground_truth):
    return {"overall": float(predict == ground_truth), "format": 1.0}

def verl(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "geo" and extra_info["split"] == "train"
    return {"score": float(solution_str == ground_truth), "acc": True}

class Swift:
    def __call__(self, completions, solution, **kwargs):
        return [float(one == gold) for one, gold in zip(completions, solution)]

def batch_of_one_bad(completions, **columns):
    if "bad" in completions:
        raise ValueError("one of them is bad")
    return [1.0] * len(completions)

def short(completions, **columns):
    return [1.0]

def pid(solution_str):
    return float(os.getpid())

def odd(one, two, three):
    return 0.0
"""


def problem(images: tuple[Image.Image, ...] = (), **meta: Any) -> Problem:
    columns = {"level": 3, "data_source": "geo", "extra_info": {"split": "train"}, **meta}
    return Problem(id="p", question="How many?", images=images, answer="7", meta=columns)


def completions(*texts: str) -> list[Completion]:
    return [
        Completion(token_ids=(1, 2, 3), sampled_logprobs=(0.0,) * 3, text=text, finish="stop")
        for text in texts
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_file.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SIGNATURES: dict[str, Signature] = {
    "simple": "simple",
    "trl": "trl",
    "easyr1": "easyr1",
    "easyr1_one": "easyr1",
    "papo": "easyr1",
    "verl": "verl",
    "Swift": "swift",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_function_of_each_library_is_recognised_and_grades_in_a_worker(name: str, folder: Path) -> None:
    reward = build_reward({"type": f"their_file.py:{name}", "weight": 0.5})
    assert isinstance(reward, Function) and reward._how == SIGNATURES[name]
    with Grader([reward], QUICK) as grader:
        group = grader.grade(problem(), completions("7", "8", "7"))
        alone = grader.grade(problem(), completions("8"))
    key = "swift" if name == "Swift" else name
    assert group.breakdown == {key: (1.0, 0.0, 1.0)} and group.rewards == (0.5, 0.0, 0.5)
    assert group.correct == (True, False, True) and alone.breakdown == {key: (0.0,)}
    assert reward(problem(), "7") == 1.0


def test_a_batched_function_may_say_none(folder: Path) -> None:
    with Grader([build_reward("their_file.py:trl")], QUICK) as grader:
        group = grader.grade(problem(), completions("7", "skip", "8"))
    assert group.breakdown == {"trl": (1.0, None, 0.0)} and list(group.excluded) == [1]


def test_completions_are_messages_where_the_row_holds_a_conversation(folder: Path) -> None:
    """As in TRL, where the form of the prompt decides; or as the configuration says."""
    talk = [{"role": "user", "content": "How many?"}]
    with Grader([build_reward("their_file.py:trl_talks")], QUICK) as grader:
        assert grader.grade(problem(prompt=talk), completions("7", "8")).rewards == (1.0, 0.0)
    asked = build_reward({"type": "their_file.py:trl_talks", "conversational": True})
    with Grader([asked], QUICK) as grader:
        assert grader.grade(problem(), completions("7", "8")).rewards == (1.0, 0.0)


def test_a_batch_that_fails_costs_only_the_completion_that_is_bad(folder: Path) -> None:
    with Grader([build_reward("their_file.py:batch_of_one_bad")], QUICK) as grader:
        with pytest.warns(RuntimeWarning, match="completion 1: ValueError: one of them is bad"):
            group = grader.grade(problem(), completions("a", "bad", "c"))
    assert group.breakdown["batch_of_one_bad"] == (1.0, None, 1.0) and list(group.excluded) == [1]
    assert (grader.failures, grader.counts.values) == (1, [3])


def test_a_batch_of_the_wrong_length_is_a_failure_of_all_and_a_bad_value_of_one(folder: Path) -> None:
    with Grader([build_reward("their_file.py:short")], QUICK) as grader:
        with pytest.warns(RuntimeWarning, match="expected a list of 2 values, got list of 1"):
            assert grader.grade(problem(), completions("a", "b")).excluded.keys() == {0, 1}

    def mine(completions: list[str], **columns: Any) -> list[Any]:
        return [text if text == "bad" else 1.0 for text in completions]

    with Grader([reward_from(mine)], QUICK) as grader:
        with pytest.warns(RuntimeWarning, match="'bad' is not a finite number"):
            group = grader.grade(problem(), completions("a", "bad"))
    assert group.breakdown == {"mine": (1.0, None)} and list(group.excluded) == [1]


def test_pictures_reach_a_function_that_asks_for_them(folder: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    for send, value in ((False, 1.0), (True, 1.125)):
        with Grader([build_reward({"type": "their_file.py:simple", "send_images": send})], QUICK) as grader:
            assert grader.grade(problem((picture,)), completions("7")).rewards == (value,)


def test_pictures_reach_a_reward_class_that_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sees.py").write_text(
        "from typing import ClassVar\nfrom foveal.types import Reward\n\nclass Sees(Reward):\n"
        "    is_accuracy: ClassVar[bool] = True\n    needs_images: ClassVar[bool] = True\n\n"
        "    def __call__(self, problem, text):\n"
        "        return float(problem.images[0].getpixel((0, 0))[0])\n"
    )
    monkeypatch.chdir(tmp_path)
    with Grader([build_reward("sees:Sees")], QUICK) as grader:
        picture = Image.new("RGB", (4, 4), (9, 0, 0))
        assert grader.grade(problem((picture,)), completions("7")).rewards == (9.0,)


def test_a_signature_that_is_not_recognised_names_the_ones_that_are(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"odd' is not recognised \(parameters: .*\); write f\(problem, text\).*'trl'"
    ):
        build_reward("their_file.py:odd")
    with pytest.raises(ConfigError, match="has no 'trll'; did you mean 'trl'"):
        build_reward("their_file.py:trll")
    with pytest.raises(ConfigError, match="unknown key 'wieght'; did you mean 'weight'"):
        build_reward({"type": "their_file.py:trl", "wieght": 1})


def test_a_file_is_found_beside_the_config_and_from_a_worker_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "beside_it.py").write_text(FILE)
    config = tmp_path / "configs" / "own.toml"
    config.write_text('reward = "beside_it.py:papo"\n[data]\ntype = "world"\n[objective]\ntype = "grpo"\n')
    monkeypatch.chdir(tmp_path)
    loaded = load(config)
    assert [reward.type for reward in loaded.rewards] == ["beside_it.py:papo"]
    monkeypatch.chdir("/")
    with Grader(loaded.rewards, QUICK) as grader:
        assert grader.grade(problem(), completions("7")).rewards == (1.0,)


def config_with(rewards: Sequence[Any]) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"type": "world"}, "objective": {"type": "grpo"}, "rewards": rewards}
    )


def test_a_function_of_a_notebook_runs_here_and_is_asked_for_again_by_name() -> None:
    calls = []

    def mine(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    reward = reward_from(mine, weight=2.0)
    assert isinstance(reward, Python)
    with Grader([reward], QUICK) as grader:
        assert grader.grade(problem(), completions("7", "8")).rewards == (2.0, 0.0)
        assert not grader._pool._idle
    assert calls == [2]
    written = dump(config_with([reward, Boxed()]))
    table = tomllib.loads(written)
    assert {k: table["rewards"][0][k] for k in ("type", "name", "weight")} == {
        "type": "python",
        "name": "mine",
        "weight": 2.0,
    }
    with pytest.raises(ConfigError, match=r"reward 'mine' was a function of the script.*rewards=\[mine\]"):
        load(table)
    for given in ([mine], {"mine": mine}, [reward, "boxed"]):
        with provided(given):
            again = load(table)
        with Grader(again.rewards, QUICK) as grader:
            assert grader.grade(problem(), completions("7")).rewards[0] == 2.0


def test_a_reward_from_a_function_takes_every_field_of_its_table(folder: Path) -> None:
    def mine(problem: Problem, text: str) -> float:
        return 1.0

    given: dict[str, Any] = {"send_images": True, "gold": "#### {answer}", "conversational": False}
    path = f"{folder}/their_file.py:pid"
    for reward in (
        reward_from(mine, **given),
        reward_from(mine, concurrency=2, retries=4, **given),
        reward_from(mine, path=path, network=True, variables=["TOKEN"], **given),
        reward_from(mine, path=path, concurrency=2, retries=4, **given),
    ):
        assert {key: getattr(reward, key) for key in given} == given
    worker = reward_from(mine, path=path, network=True, variables=["TOKEN"])
    assert isinstance(worker, Function) and (worker.network, worker.variables) == (True, ("TOKEN",))
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"send_image": True}, "unknown key 'send_image'; did you mean 'send_images'"),
        ({"network": True}, "'mine' .a function of a script or notebook, called in this.*key 'network'"),
        ({"weight": "much"}, "weight = 'much'"),
        ({"path": path, "gold": 3}, "'mine' .a function that grading workers import.*gold = 3"),
    ]
    for wrong, hint in mistakes:
        with pytest.raises(ConfigError, match=hint):
            reward_from(mine, **wrong)


def test_functions_of_files_and_packages_run_in_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))

    import their_file  # type: ignore[import-not-found]

    reward = reward_from(their_file.pid)
    assert isinstance(reward, Function) and reward.type == f"{folder}/their_file.py:pid"
    with Grader([reward], QUICK) as grader:
        assert grader.grade(problem(), completions("7")).rewards[0] != os.getpid()
    assert reward_from(Boxed()) == Boxed()
    assert isinstance(reward_from(lambda problem, text: 1.0), Python)
    named = reward_from(lambda problem, text: 1.0, name="always", accuracy=False)
    with pytest.raises(ConfigError, match="says whether an answer is right"):
        Grader([named])


def test_a_function_in_this_process_that_hangs_is_given_up_and_the_next_one_goes_on() -> None:
    hold = threading.Event()

    def mine(problem: Problem, text: str) -> float:
        if text == "hang":
            hold.wait(30)
        if text == "leave":
            raise SystemExit(3)
        return 1.0

    with (
        Grader([reward_from(mine, concurrency=2)], QUICK, wall_limit_s=0.2) as grader,
        pytest.warns(RuntimeWarning, match="SystemExit"),
    ):
        group = grader.grade(problem(), completions("hang", "a", "leave", "b"))
    hold.set()
    assert group.breakdown["mine"] == (None, 1.0, None, 1.0) and (grader.timeouts, grader.failures) == (1, 1)


def test_a_function_of_a_notebook_is_called_in_the_main_thread_in_the_order_of_the_groups() -> None:
    """There functions that set alarms work, such as math-verify's parser."""
    seen: list[str] = []

    def mine(problem: Problem, text: str) -> float:
        assert threading.current_thread() is threading.main_thread()
        seen.append(problem.id + text)
        if text == "fail" and seen.count(problem.id + text) < 3:
            raise OSError("not yet")
        if text == "leave":
            raise SystemExit(0)
        return 1.0

    with Grader([reward_from(mine)], GradingConfig(retries=2, backoff_s=0.001)) as grader:
        grading = grader.begin()
        for place in (2, 0, 1):
            grading.submit(place, replace(problem(), id=str(place)), completions("a", "fail"))
        groups = grading.finish()
        with pytest.warns(RuntimeWarning, match="SystemExit: 0"):
            assert grader.grade(problem(), completions("leave")).excluded.keys() == {0}
    assert [group.problem.id for group in groups] == ["0", "1", "2"]
    assert seen[:6] == ["0a", "0fail", "1a", "1fail", "2a", "2fail"] and seen.count("1fail") == 3
    assert all(group.rewards == (1.0, 1.0) for group in groups)


def test_a_function_of_a_file_that_waits_is_called_in_threads(folder: Path) -> None:
    reward = build_reward({"type": "their_file.py:pid", "concurrency": 4})
    assert isinstance(reward, Waiting)
    with Grader([reward], QUICK) as grader:
        assert grader.grade(problem(), completions("7", "8")).rewards == (os.getpid(), os.getpid())
        assert not grader._pool._idle
    assert build_reward(reward.model_dump()) == reward


def test_an_asynchronous_function_is_waited_for() -> None:
    async def mine(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        await asyncio.sleep(0.001)
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    async def one(problem: Problem, text: str) -> float:
        return 2.0

    with Grader([reward_from(mine, concurrency=2), reward_from(one)], QUICK) as grader:
        group = grader.grade(problem(), completions("7", "8"))
    assert group.breakdown == {"mine": (1.0, 0.0), "one": (2.0, 2.0)}


def test_a_name_that_a_metric_has_is_not_taken() -> None:
    def accuracy(problem: Problem, text: str) -> float:
        return 1.0

    assert Grader([reward_from(accuracy)]).names == ("accuracy_reward",)
    with pytest.raises(ConfigError, match="should match pattern"):
        reward_from(accuracy, name="../up")


def test_who_says_what_is_correct() -> None:
    """A reward that declares it; else the first function or judge that leaves it open."""

    def mine(problem: Problem, text: str) -> float:
        return 1.0

    for rewards, wanted in (
        ([reward_from(mine), Boxed()], 1),
        ([reward_from(mine, accuracy=True), Boxed()], 0),
        ([reward_from(mine, accuracy=False), reward_from(mine)], 1),
    ):
        with Grader(rewards) as grader:
            assert grader.accuracy == wanted


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), "1.0", [1.0], object(), 1 + 2j])
def test_what_is_no_number_is_a_failure(value: object) -> None:
    def mine(problem: Problem, text: str) -> Any:
        return value

    with Grader([reward_from(mine)], QUICK) as grader, pytest.warns(RuntimeWarning, match="finite"):
        group = grader.grade(problem(), completions("a"))
    assert group.breakdown == {"mine": (None,)} and grader.failures == 1


def test_a_huge_number_from_a_worker_or_a_fast_path_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "huge.py").write_text("def huge(solution_str):\n    return 10**400\n")
    monkeypatch.chdir(tmp_path)

    class Quick(Reward):
        is_accuracy: ClassVar[bool] = True

        def settle(self, problem: Problem, text: str) -> Any:
            return 10**400

    for reward in (build_reward("huge.py:huge"), Quick()):
        with (
            Grader([reward], QUICK) as grader,
            pytest.warns(RuntimeWarning, match="401 digits|does not travel"),
        ):
            assert grader.grade(problem(), completions("a")).excluded.keys() == {0}


def test_a_worker_that_leaves_with_status_zero_is_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text(
        "import os\n\ndef leaves(solution_str):\n"
        "    os._exit(0) if solution_str == 'go' else None\n    return 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    with Grader([build_reward("leaves.py:leaves")], QUICK) as grader:
        with pytest.warns(RuntimeWarning, match=r"the grading worker died \(exit status 0\)"):
            group = grader.grade(problem(), completions("go", "stay"))
    assert group.breakdown == {"leaves": (None, 1.0)} and grader.failures == 1


def test_a_worker_loads_functions_without_torch(folder: Path) -> None:
    fields = {"path": f"{folder}/their_file.py:papo", "signature": "easyr1"}
    row = {"text": "7", "answer": "7", "id": "", "question": "", "token_ids": [], "columns": {}, "images": []}
    code = (
        "import sys; from foveal.rewards.tasks import Task; import foveal.rewards.worker as w; "
        f"f = w.load(Task(target='foveal.rewards.adapters.calls:FunctionCall', fields={fields!r})); "
        f"print(f([{row!r}])); "
        "print(sorted({'torch', 'foveal.types', 'PIL', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1.0", "[]"]


def test_functions_of_one_name_are_told_apart_when_a_run_goes_on() -> None:
    """Each lambda is named `lambda`: with one name for both, a resumed run would call one of them twice."""
    one, quarter = (lambda problem, text: 1.0), (lambda problem, text: 0.25)
    table = tomllib.loads(dump(config_with([reward_from(one), "boxed", reward_from(quarter)])))
    assert [part.get("name") for part in table["rewards"]] == ["lambda", None, "lambda_2"]
    for given in (
        [one, quarter],
        [{"type": one, "weight": 0.5}, "boxed", {"type": quarter}],
        [reward_from(one), reward_from(quarter)],
    ):
        with provided(given):
            again = load(table)
        with Grader(again.rewards, QUICK) as grader:
            group = grader.grade(problem(), completions("8"))
        assert (group.breakdown["lambda"], group.breakdown["lambda_2"]) == ((1.0,), (0.25,))
    with provided([one]), pytest.raises(ConfigError, match="reward 'lambda_2' was a function of the script"):
        load(table)
    table["rewards"][2]["name"] = "lambda"
    with provided([one, quarter]), pytest.raises(ConfigError, match="two rewards are named 'lambda'"):
        load(table)


def test_a_function_that_has_a_path_leaves_its_name_to_one_that_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))

    import their_file

    def pid(problem: Problem, text: str) -> float:
        return 0.125

    table = tomllib.loads(dump(config_with([reward_from(their_file.pid), reward_from(pid)])))
    for given in ([their_file.pid, pid], [pid, their_file.pid]):
        with provided(given):
            again = load(table)
        assert again.rewards[1](problem(), "7") == 0.125
