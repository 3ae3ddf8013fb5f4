"""A judge behind a server that is slow, fails, lies and dies; and what leaves the process."""

import base64
import io
import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.rewards import chat
from foveal.rewards.grading import Grader
from foveal.rewards.judge import Judge
from foveal.rewards.settings import GradingConfig
from foveal.rewards.tasks import TryLater
from foveal.spec import ConfigError
from foveal.types import Completion, Problem
from judge_server import Reply, Server, serving

NOWHERE = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
QUICK = GradingConfig(retries=0, backoff_s=0.0)


def problem(answer: str = "7", images: tuple[Image.Image, ...] = ()) -> Problem:
    return Problem(
        id="p", question="<image>How many?" * bool(images) or "How many?", images=images, answer=answer
    )


def completions(*texts: str) -> list[Completion]:
    return [Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=text, finish="stop") for text in texts]


def judge(server: Server, **fields: Any) -> Judge:
    return Judge.model_validate({"base_url": server.url, "model": "m", "timeout_s": 5.0, **fields})


def prompt_of(request: dict[str, Any]) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def is_right(number: int, request: dict[str, Any]) -> Reply:
    said = "\\boxed{7}" in prompt_of(request)
    return Reply(f"Let me see.\nVerdict: {'yes' if said else 'no'}")


def test_verdicts_come_in_order_whatever_the_order_of_the_replies() -> None:
    def late_first(number: int, request: dict[str, Any]) -> Reply:
        time.sleep(0.15 if "first" in prompt_of(request) else 0.0)
        return is_right(number, request)

    with serving(late_first) as server, Grader([judge(server)], QUICK) as grader:
        texts = ["first \\boxed{7}", "\\boxed{8}", "x \\boxed{7}", "no idea"]
        group = grader.grade(problem(), completions(*texts))
    assert group.breakdown["judge"] == (1.0, 0.0, 1.0, 0.0)
    assert group.correct == (True, False, True, False) and not group.excluded
    assert server.most > 1  # asked side by side


def test_no_more_calls_at_a_time_than_concurrency() -> None:
    def slow(number: int, request: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return Reply("yes")

    with serving(slow) as server, Grader([judge(server, concurrency=3)], QUICK) as grader:
        grader.grade(problem(), completions(*map(str, range(9))))
    assert server.most == 3 and len(server.requests) == 9


def test_the_prompt_holds_each_field_as_it_stands() -> None:
    """What is put in may itself look like a field: the completion cannot fetch the true answer."""
    with serving(is_right) as server, Grader([judge(server)], QUICK) as grader:
        grader.grade(problem("forty-two"), completions("{answer} {question} \\frac{1}{2}"))
    prompt = prompt_of(server.requests[0])
    assert "<response>\n{answer} {question} \\frac{1}{2}\n</response>" in prompt
    assert prompt.count("forty-two") == 1 and prompt.count("How many?") == 1


def test_pictures_go_out_as_png_data_urls() -> None:
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    with serving(is_right) as server, Grader([judge(server, send_images=True)], QUICK) as grader:
        grader.grade(problem(images=(picture,)), completions("a"))
        grader.grade(problem(), completions("b"))
    part, text = server.requests[0]["messages"][0]["content"]
    head, _, data = part["image_url"]["url"].partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and sent.size == (3, 2) and sent.getpixel((0, 0)) == (1, 2, 3)
    assert text["type"] == "text" and "<image>" not in text["text"]
    assert isinstance(server.requests[1]["messages"][0]["content"], str)


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A letter now and then: each read succeeds, and the answer never ends."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def finished(text: str, reason: str) -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return Reply(body=json.dumps({"choices": [choice]}).encode())


FAULTS: dict[str, tuple[Callable[[], Reply], str]] = {
    "500": (lambda: Reply(status=500, body=b"oh no \x1b[2J"), r"status 500: oh no \?\[2J"),
    "400": (lambda: Reply(status=400, body=b"bad"), "status 400: bad"),
    "dropped": (lambda: Reply(instead=drop), "no connection"),
    "drip": (lambda: Reply(instead=drip), "no answer within 0.4 s"),
    "not_json": (lambda: Reply(body=b"<html>"), "not that of a chat completion"),
    "deep_json": (lambda: Reply(body=b"[" * 500_000), "not that of a chat completion"),
    "other_json": (lambda: Reply(body=b'{"choices": []}'), "not that of a chat completion"),
    "no_text": (lambda: Reply(body=b'{"choices": [{"message": {"content": 7}}]}'), "content is int"),
    "huge": (lambda: Reply(body=b"x" * (chat.MAX_REPLY_BYTES + 1)), "longer than 1048576 bytes"),
    "redirect": (
        lambda: Reply(status=302, headers={"Location": "file:///etc/passwd"}),
        "redirects are not followed",
    ),
    "garbage": (lambda: Reply("it is not correct"), "states no verdict"),
    "both": (lambda: Reply("Verdict: yes and no"), "states no verdict"),
    "empty": (lambda: Reply(""), "states no verdict"),
    "cut_off": (lambda: finished("Response: yes\nVerdict: yes", "length"), "cut off .*raise max_tokens"),
    "withheld": (lambda: finished("Verdict: yes", "content_filter"), "withheld"),
    "odd_choice": (lambda: Reply(body=b'{"choices": [7]}'), "not that of a chat completion"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_verdict_is_a_failure_and_never_a_zero(fault: str) -> None:
    make, message = FAULTS[fault]

    def answer(number: int, request: dict[str, Any]) -> Reply:
        return make() if "bad one" in prompt_of(request) else Reply("Verdict: yes")

    with serving(answer) as server, Grader([judge(server, timeout_s=0.4)], QUICK) as grader:
        with pytest.warns(RuntimeWarning, match=message):
            group = grader.grade(problem(), completions("a", "bad one", "c"))
    assert group.breakdown["judge"] == (1.0, None, 1.0)
    assert list(group.excluded) == [1] and grader.failures == 1 and group.failed == {1}


@pytest.mark.parametrize(
    ("parse", "reply", "value"),
    [
        ("yes_no", "Verdict: yes", 1.0),
        ("yes_no", "thoughts\n\n**Verdict: No.**\n", 0.0),
        ("yes_no", "Incorrect", 0.0),
        ("yes_no", "final verdict = TRUE", 1.0),
        ("yes_no", "My final grade is: correct", 1.0),
        ("yes_no", "**Judgement**: no", 0.0),
        ("yes_no", "Incorrect: true", None),
        ("yes_no", "Wrong: yes", None),
        ("yes_no", "Not correct: true", None),
        ("yes_no", "Response: yes", None),
        ("yes_no", "<think>\nVerdict: yes", None),
        ("yes_no", "Verdict: no\n<think>\nor\nVerdict: yes", None),
        ("yes_no", "<think>\nVerdict: yes\n</think>\n", None),
        ("yes_no", "<think>\nVerdict: yes\n</think>\nVerdict: no", 0.0),
        ("yes_no", "It has no <think> tags.\nVerdict: no", 0.0),
        ("score", "Points lost: 7", None),
        ("yes_no", "yes\nI am not sure", None),
        ("yes_no", "The answer is not correct", None),
        ("score", "Score: 7", 0.7),
        ("score", "so\n**Score:** 7.5/10", 0.75),
        ("score", "0", 0.0),
        ("score", "Score: 7/100", None),
        ("score", "Score: 11", None),
        ("score", "-1", None),
        ("score", "Score: 1e400", None),
        ("score", "Score: " + "9" * 4000, None),
        ("score", "between 3 and 4", None),
        ("score", "nan", None),
    ],
)
def test_a_reply_is_read_by_its_last_line_alone(parse: str, reply: str, value: float | None) -> None:
    reward = Judge.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "model": "m",
            "parse": parse,
            "scale": 10.0 if parse == "score" else 1.0,
        }
    )
    if value is None:
        with pytest.raises(TryLater, match="the reply"):
            reward.read(reply)
    else:
        assert reward.read(reply) == value


def test_a_reply_of_a_megabyte_is_read_at_once() -> None:
    reward = Judge.model_validate(NOWHERE)
    for fill in ("\n", " ", "*", "<think>", "</think>", "\n \t"):
        start = time.monotonic()
        assert reward.read(fill * (chat.MAX_REPLY_BYTES // len(fill)) + "</think>\nVerdict: no") == 0.0
        with pytest.raises(TryLater, match="states no verdict"):
            reward.read("x" + fill * (chat.MAX_REPLY_BYTES // len(fill)) + "x")
        assert time.monotonic() - start < 2.0


def test_a_pattern_finds_what_is_read() -> None:
    reward = Judge(
        base_url="http://127.0.0.1:9/v1", model="m", parse="score", pattern=r'"score":\s*([-\d.]+)'
    )
    assert reward.read('{"score": 0.25, "why": "so"}') == 0.25
    for nothing in ("{}", '<think>{"score": 1}', '<think>{"score": 1}</think>'):
        with pytest.raises(TryLater, match="no number"):
            reward.read(nothing)


def test_a_judge_that_is_overloaded_is_asked_again_after_the_pause_it_wants() -> None:
    times: list[float] = []

    def answer(number: int, request: dict[str, Any]) -> Reply:
        times.append(time.monotonic())
        return Reply(status=429, body=b"{}", headers={"Retry-After": "0.3"}) if number == 1 else Reply("yes")

    with serving(answer) as server, Grader([judge(server)], GradingConfig(backoff_s=0.01)) as grader:
        group = grader.grade(problem(), completions("a"))
    assert group.rewards == (1.0,) and times[1] - times[0] >= 0.3
    assert grader.counts.retries == [1] and grader.failures == 0


@pytest.mark.parametrize(("status", "calls"), [(401, 1), (500, 3)])
def test_only_what_may_pass_is_tried_again(status: int, calls: int) -> None:
    settings = GradingConfig(retries=2, backoff_s=0.01)
    with serving(lambda number, request: Reply(status=status, body=b"")) as server:
        with (
            Grader([judge(server)], settings) as grader,
            pytest.warns(RuntimeWarning, match=f"status {status}"),
        ):
            grader.grade(problem(), completions("a"))
        assert len(server.requests) == calls


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with serving(is_right) as server:
        dead = judge(server, name="dead")
    with Grader([dead], QUICK) as grader, pytest.warns(RuntimeWarning, match="no connection"):
        assert grader.grade(problem(), completions("a", "b")).excluded.keys() == {0, 1}


def test_the_same_question_is_asked_once_and_remembered_in_the_run_folder(tmp_path: Path) -> None:
    with serving(is_right) as server:
        with Grader([judge(server)], QUICK) as grader:
            grader.keep_in(tmp_path)
            first = grader.grade(problem(), completions("\\boxed{7}", "\\boxed{7}", "\\boxed{8}"))
        assert len(server.requests) == 2
        with (tmp_path / "judge" / "judge.jsonl").open("a") as file:
            file.write('{"key": "torn')
        with Grader([judge(server)], QUICK) as grader:
            grader.keep_in(tmp_path)
            assert grader.grade(problem(), completions("\\boxed{7}", "\\boxed{8}")).rewards == (1.0, 0.0)
            assert len(server.requests) == 2
            grader.grade(problem("8"), completions("\\boxed{7}"))
        assert len(server.requests) == 3  # another true answer is another question
        with Grader([judge(server, cache="off")], QUICK) as grader:
            grader.grade(problem(), completions("\\boxed{7}"))
        assert len(server.requests) == 4
    assert first.rewards == (1.0, 1.0, 0.0)


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123\n")

    def answer(number: int, request: dict[str, Any]) -> Reply:
        if "bad" in prompt_of(request):
            return Reply(status=400, body=b"your key sk-secret-123 is odd")
        return Reply("yes")

    with serving(answer) as server:
        reward = judge(server, api_key_env="MY_KEY")
        with Grader([reward], QUICK) as grader:
            grader.start()
            grader.keep_in(tmp_path)
            with pytest.warns(RuntimeWarning) as seen:
                group = grader.grade(problem(), completions("good", "bad"))
    assert set(server.keys) == {"Bearer sk-secret-123"}
    told = repr(group) + repr(reward) + str(seen[0].message) + json.dumps(reward.model_dump())
    told += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "sk-secret" not in told and "your key *** is odd" in told


def test_a_missing_key_and_impossible_settings_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with Grader([Judge.model_validate({**NOWHERE, "api_key_env": "NO_KEY"})]) as grader:
        with pytest.raises(ConfigError, match="variable NO_KEY holds no usable key"):
            grader.start()
    for change, message in (
        ({"base_url": "file:///etc/passwd"}, "expected one such as http"),
        ({"base_url": "http://user:secret@host/v1"}, "api_key_env"),
        ({"prompt": "Is it right?"}, "no {completion}"),
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "yes"}, "no group"),
    ):
        with pytest.raises((ValueError, ConfigError), match=message) as seen:
            Judge.model_validate({**NOWHERE, **change})
        assert "secret" not in str(seen.value).partition("[type=")[0]
