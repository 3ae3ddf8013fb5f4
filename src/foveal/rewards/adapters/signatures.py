"""Calls a reward function of another library by its own signature. Imports nothing heavy.

A row is what a function may ask about a completion: plain data, so that it travels to a worker.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from foveal.spec import ConfigError

Signature = Literal["simple", "trl", "easyr1", "verl", "swift"]
"""simple   f(problem, text) -> float | None
trl      f(prompts, completions, completion_ids, **columns) -> list[float | None]
easyr1   compute_score(reward_inputs: list[dict]) -> list[dict], or of one dict; the older forms too:
         (predicts, ground_truths), (predict, ground_truth)
verl     compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict
swift    ORM.__call__(completions, **columns) -> list[float]"""

NAMES: tuple[Signature, ...] = get_args(Signature)

Function = Callable[..., Any]


class Row(TypedDict):
    """What is known of a completion."""

    id: str
    question: str
    answer: str
    text: str
    token_ids: list[int]
    columns: dict[str, Any]
    """The other columns of the problem's row."""
    images: list[Any]
    problem: Any
    """For the signature "simple" alone."""


def recognise(function: Function, *, what: str) -> Signature:
    """The signature of a function, by the names of its parameters.

    Raises: ConfigError, when it is none of these.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    names = set(parameters)
    if "solution_str" in names:
        return "verl"
    if names & {"reward_inputs", "reward_input", "predicts", "predict", "predict_str"}:
        return "easyr1"
    if "completions" in names:
        # With prompts beside them as in TRL; an object without is an ORM of ms-swift. A plain function
        # without them takes either call.
        own = inspect.isfunction(function) or bool(names & {"prompts", "completion_ids"})
        return "trl" if own else "swift"
    needed = [
        p
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) == 2:
        return "simple"
    raise ConfigError(
        f"the signature of {what} is not recognised (parameters: {', '.join(names) or 'none'}); write "
        f"f(problem, text), or say whose it is: signature = {' | '.join(map(repr, NAMES))}"
    )


def in_batches(function: Function, signature: Signature) -> bool:
    """Whether the function takes the completions of a group at once."""
    if signature == "easyr1":
        return bool(_accepted(function, {"reward_inputs", "predicts"}))
    return signature in ("trl", "swift")


def grade(
    function: Function, signature: Signature, rows: Sequence[Row], *, conversational: bool | None = None
) -> Any:  # noqa: ANN401
    """What the function says of these completions: a list for several, a value for one."""
    if in_batches(function, signature):
        found = _awaited(_BATCHED[signature](function, rows, conversational))
        return found[0] if isinstance(found, Sequence) and len(rows) == len(found) == 1 else found
    values = [_awaited(_ONE_BY_ONE[signature](function, row)) for row in rows]
    return values[0] if len(values) == 1 else values


def _awaited(found: Any) -> Any:  # noqa: ANN401
    """What an asynchronous function gives; what any other gave."""
    if not inspect.iscoroutine(found):
        return found

    async def wait() -> Any:  # noqa: ANN401
        return await found

    return asyncio.run(wait())


def _trl(function: Function, rows: Sequence[Row], conversational: bool | None) -> Any:  # noqa: ANN401
    talks = _talks(rows) if conversational is None else conversational
    completions = [[{"role": "assistant", "content": row["text"]}] if talks else row["text"] for row in rows]
    given = {
        **_columns(rows),
        "prompts": [_prompt(row) if talks else row["question"] for row in rows],
        "completions": completions,
        "completion_ids": [row["token_ids"] for row in rows],
    }
    return function(**_accepted(function, given))


def _swift(function: Function, rows: Sequence[Row], conversational: bool | None) -> Any:  # noqa: ANN401
    return function([row["text"] for row in rows], **_accepted(function, _columns(rows)))


def _easyr1_batch(function: Function, rows: Sequence[Row], conversational: bool | None) -> Any:  # noqa: ANN401
    if _accepted(function, {"predicts"}):
        found = function([row["text"] for row in rows], [row["answer"] for row in rows])
    else:
        found = function([_easyr1_input(row) for row in rows])
    found = _awaited(found)
    return [_number(one, "overall") for one in found] if isinstance(found, Sequence) else found


def _easyr1(function: Function, row: Row) -> Any:  # noqa: ANN401
    if _accepted(function, {"reward_input"}):
        return _number(function(_easyr1_input(row)), "overall")
    return _number(function(row["text"], row["answer"]), "overall")


def _verl(function: Function, row: Row) -> Any:  # noqa: ANN401
    columns = row["columns"]
    given = {
        "data_source": columns.get("data_source", ""),
        "solution_str": row["text"],
        "ground_truth": row["answer"],
        "extra_info": columns.get("extra_info") or columns,
    }
    return _number(function(**_accepted(function, given)), "score")


def _simple(function: Function, row: Row) -> Any:  # noqa: ANN401
    return function(row["problem"], row["text"])


_BATCHED: Mapping[str, Callable[[Function, Sequence[Row], bool | None], Any]] = {
    "trl": _trl,
    "swift": _swift,
    "easyr1": _easyr1_batch,
}
_ONE_BY_ONE: Mapping[str, Callable[[Function, Row], Any]] = {
    "simple": _simple,
    "easyr1": _easyr1,
    "verl": _verl,
}


def _easyr1_input(row: Row) -> dict[str, Any]:
    return {
        **row["columns"],
        "response": row["text"],
        "response_length": len(row["token_ids"]),
        "ground_truth": row["answer"],
    }


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The columns of the rows, the true answer under the names that functions look for, unless a column of
    that name is there."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        answers = dict.fromkeys(("answer", "solution", "ground_truth"), row["answer"])
        asked = dict.fromkeys(("question", "problem"), row["question"])
        pictures = {"images": row["images"]} if row["images"] else {}
        for name, value in {"id": row["id"], **asked, **answers, **pictures, **row["columns"]}.items():
            found.setdefault(str(name), []).append(value)
    return {name: values for name, values in found.items() if len(values) == len(rows)}


def _talks(rows: Sequence[Row]) -> bool:
    """Whether the rows hold conversations, by which TRL decides that completions are messages."""
    return all(_messages(row) is not None for row in rows)


def _messages(row: Row) -> list[Any] | None:
    for name in ("prompt", "messages"):
        value = row["columns"].get(name)
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            return value
    return None


def _prompt(row: Row) -> list[Any]:
    return _messages(row) or [{"role": "user", "content": row["question"]}]


def _accepted(function: Function, given: Any) -> Any:  # noqa: ANN401
    """Those of the given names (or named values) that the function takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return given
    if isinstance(given, Mapping):
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return given
        names = {p.name for p in parameters}
        return {name: value for name, value in given.items() if name in names}
    return given & {p.name for p in parameters}


def _number(found: Any, key: str) -> Any:  # noqa: ANN401
    """A score that may stand in a table of several."""
    found = _awaited(found)
    if not isinstance(found, Mapping):
        return found
    name = next((name for name in (key, "overall", "score") if name in found), None)
    if name is None:
        raise KeyError(f"the function gives {', '.join(map(str, found))}, and no {key!r}")
    return found[name]
