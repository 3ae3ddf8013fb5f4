"""Rewards made of plain functions: those that a worker can import, and those of a script or notebook."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, ClassVar, NoReturn

from pydantic import Field, PrivateAttr, ValidationError

from foveal.rewards import REGISTRY
from foveal.rewards.adapters.calls import callable_of, load_function
from foveal.rewards.adapters.signatures import Function as AnyFunction
from foveal.rewards.adapters.signatures import Row, Signature, grade, in_batches, recognise
from foveal.rewards.base import NAME, Declared, Handed, Threaded, Value
from foveal.rewards.tasks import Task
from foveal.spec import Component, ConfigError, absolute_path, build_component, explain, load_object
from foveal.types import Completion, Problem, Reward

CALL = "foveal.rewards.adapters.calls:FunctionCall"

_PROVIDED: ContextVar[Mapping[str, AnyFunction] | None] = ContextVar("provided", default=None)

_UNPROVIDED: ContextVar[bool] = ContextVar("unprovided", default=False)


class _FunctionReward(Declared):
    """What both kinds share."""

    name: str = Field(default="", pattern=NAME)
    """Name in metrics; by default that of the function."""
    signature: Signature | None = None
    """How it is called; by default recognised by the names of its parameters."""
    conversational: bool | None = None
    """For "trl": whether completions are messages, [{"role": "assistant", "content": text}]; by default where
    the row holds messages, as in TRL."""
    _function: AnyFunction = PrivateAttr()
    _how: Signature = PrivateAttr()

    def _take(self, function: AnyFunction) -> None:
        self._function = function
        self._how = self.signature or recognise(function, what=f"reward {self.name or self.type!r}")

    def _take_at(self, path: str) -> None:
        known = (_PROVIDED.get() or {}).get(path)
        self._take(known if known is not None else load_function(path))

    @property
    def short_name(self) -> str:
        """Its name in metrics."""
        return self.name or _name_of(self._function)

    def in_batches(self) -> bool:
        """As its signature says."""
        return in_batches(self._function, self._how)

    def __call__(self, problem: Problem, text: str) -> Value:
        """The value of a completion of which only the text is known."""
        completion = Completion(token_ids=(), sampled_logprobs=(), text=text, finish="stop")
        rows = rows_of(problem, [completion], images=self.send_images, whole=self._how == "simple")
        value: Value = grade(self._function, self._how, rows, conversational=self.conversational)
        return value


class Function(_FunctionReward, Handed):
    """A function in a file or package, called in grading workers: `type = "their_file.py:func"`."""

    own_code: ClassVar[bool] = True
    """Somebody's own code runs in its workers."""
    network: bool = False
    """Whether it may open connections; without, its workers are cut off where the system allows it."""
    variables: tuple[str, ...] = ()
    """Names of environment variables that it reads, "*" for all; its workers start without the others."""

    def model_post_init(self, context: Any) -> None:  # noqa: ANN401
        """Import it, to know how it is called."""
        self._take_at(self.type)

    def first_task(self) -> Task:
        """The import of the function."""
        return Task(target=CALL, fields=self._fields())

    def task(self, problem: Problem, completions: Sequence[Completion]) -> Task:
        """The call of these completions."""
        rows = rows_of(problem, completions, images=self.send_images, whole=self._how == "simple")
        return Task(target=CALL, arguments=(rows,), fields=self._fields(), count=len(completions))

    def _fields(self) -> dict[str, Any]:
        return {
            "path": absolute_path(self.type),
            "signature": self._how,
            "conversational": self.conversational,
        }


class _CalledHere(_FunctionReward, Threaded):
    """A function that is called in this process."""

    def ask(self, problem: Problem, completions: Sequence[Completion]) -> Value | list[Value]:
        """What the function says."""
        rows = rows_of(problem, completions, images=self.send_images, whole=self._how == "simple")
        found: Value | list[Value] = grade(
            self._function, self._how, rows, conversational=self.conversational
        )
        return list(found) if isinstance(found, tuple) else found


class Waiting(_CalledHere):
    """A function in a file or package that waits for something else: `type = "their_file.py:func"` with a
    `concurrency`. It is called in threads of this process, with the network, without a limit of CPU time."""

    def model_post_init(self, context: Any) -> None:  # noqa: ANN401
        """Import it."""
        self._take_at(self.type)


class Python(_CalledHere):
    """A function of a script or notebook, which no worker can import: called in this process, without a limit
    of CPU time. A configuration names it; whoever loads that provides it again."""

    type: str = "python"
    concurrency: int = Field(default=1, ge=1, le=1024)
    """1 calls it in the main thread, one call after the other; more in so many threads, for a function that
    waits and may be called by several at a time."""

    def runs_here(self) -> bool:
        """In the main thread, where functions that set alarms (math-verify's parser) work too."""
        return self.concurrency == 1

    def model_post_init(self, context: Any) -> None:  # noqa: ANN401
        """Take the function that is provided under its name.

        Raises: ConfigError, when there is none.
        """
        provided = _PROVIDED.get() or {}
        if self.name in provided:
            self._take(provided[self.name])
        elif _UNPROVIDED.get():
            self._function, self._how = self._missing, self.signature or "simple"
        else:
            self._missing()

    def _missing(self, *arguments: Any) -> NoReturn:  # noqa: ANN401
        raise ConfigError(
            f"reward {self.name!r} was a function of the script or notebook that started the run, and only "
            f"its name is recorded; pass it again by rewards=[{self.name}], to foveal.resume as to "
            f'foveal.evaluate, or put it into a file and write type = "my_file.py:{self.name}"'
        )


RUNS: Mapping[type[_FunctionReward], str] = {
    Function: "a function that grading workers import",
    Waiting: "a function called in threads",
    Python: "a function of a script or notebook, called in this process",
}
"""What each kind is, for messages: which fields it has depends on where it runs."""


def rows_of(problem: Problem, completions: Sequence[Completion], *, images: bool, whole: bool) -> list[Row]:
    """What a function may ask about completions; the problem itself where it takes the `whole` of it."""
    return [
        Row(
            id=problem.id,
            question=problem.question,
            answer=problem.answer,
            text=completion.text,
            token_ids=list(completion.token_ids),
            columns={} if whole else dict(problem.meta),
            images=list(problem.images) if images and not whole else [],
            problem=problem if whole else None,
        )
        for completion in completions
    ]


@contextmanager
def provided(functions: Mapping[str, AnyFunction] | Sequence[object]) -> Iterator[None]:
    """Let configurations that are loaded inside name these functions: by the names given, or their own.
    Among a sequence, what holds no function (another `Reward`, a word) is passed over. Several of one name,
    such as lambdas, are numbered in their order, as `told_apart` does."""
    found = dict(_PROVIDED.get() or {})
    found |= functions if isinstance(functions, Mapping) else _by_name(functions)
    token = _PROVIDED.set(found)
    try:
        yield
    finally:
        _PROVIDED.reset(token)


def told_apart(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
    """The rewards, with a name each for functions that a configuration finds by their names.

    Raises: ConfigError for one function under one name twice: two that are loaded so were two functions.
    """
    known: dict[str, AnyFunction] = {}
    found: list[Reward] = []
    for reward in rewards:
        if isinstance(reward, Python):
            if known.get(reward.name) is reward._function:
                raise ConfigError(
                    f"two rewards are named {reward.name!r}, and one function answers for both; give each a "
                    f"name of its own, as in foveal.reward(function, name='other')"
                )
            name = _free(reward.name, known)
            known[name] = reward._function
            reward = reward if name == reward.name else reward.model_copy(update={"name": name})
        found.append(reward)
    return tuple(found)


def _by_name(functions: Sequence[object]) -> dict[str, AnyFunction]:
    """Those that only a name can find come first: the others have paths, and leave them the names."""
    here: dict[str, AnyFunction] = {}
    placed: dict[str, AnyFunction] = {}
    for given in functions:
        function = given.get("type") if isinstance(given, Mapping) else given
        if isinstance(function, Python):
            here[_free(function.name, here)] = function._function
        elif callable(function) and not _is_reward(function):
            name = (given.get("name") if isinstance(given, Mapping) else None) or _name_of(function)
            made = callable_of(function, what=name)
            if _path_of(function) is None:
                here[_free(name, here)] = made
            else:
                placed[name] = made
    return placed | here


def _is_reward(value: object) -> bool:
    return isinstance(value, Reward) or (isinstance(value, type) and issubclass(value, Reward))


def _free(name: str, taken: Mapping[str, object]) -> str:
    numbered = (f"{name}_{number}" for number in count(2))
    return name if name not in taken else next(word for word in numbered if word not in taken)


@contextmanager
def unprovided() -> Iterator[None]:
    """Let configurations that are loaded inside be looked at without their functions of a notebook: these
    raise when they are called."""
    token = _UNPROVIDED.set(True)
    try:
        yield
    finally:
        _UNPROVIDED.reset(token)


def reward_from(
    function: object,
    *,
    name: str | None = None,
    signature: Signature | None = None,
    weight: float = 1.0,
    accuracy: bool | None = None,
    concurrency: int | None = None,
    path: str | None = None,
    **fields: Any,
) -> Reward:
    """A reward made of a function, an object that can be called, or a class that is made without arguments.

    `signature` as in `foveal.rewards.adapters.signatures`; None recognises it. `accuracy`: whether a value of
    at least 0.5 means right; None where no other reward says so. A function that stands at the top of a file
    or package, or whose `path` ("file.py:func") is given, is found again by its path, and runs in grading
    workers, with a `concurrency` in so many threads of this process. Another is found by its name
    (`provided`), and runs in the main thread, with a `concurrency` above 1 in threads. A
    `Reward` stays as it is. `fields`: what else the table of such a reward may say: `send_images`, `gold`,
    `conversational`; in workers `network` and `variables`, in threads `retries`.

    Raises: ConfigError, when it cannot be called, its signature is not recognised, or a field is not known.
    """
    if isinstance(function, Reward):
        return function
    where = path or _path_of(function)
    short = name or _name_of(function)
    made = callable_of(function, what=repr(short))
    table = {"weight": weight, "accuracy": accuracy, "signature": signature, **fields}
    if concurrency is not None:
        table["concurrency"] = concurrency
    kind: type[_FunctionReward] = (
        Python if where is None else Waiting if concurrency is not None else Function
    )
    table |= {"name": short} if where is None else {"type": where, "name": name or ""}
    with provided({where or short: made}):
        try:
            return kind.model_validate(table)
        except ValidationError as error:
            raise ConfigError(explain(error, kind, where=f"reward {short!r} ({RUNS[kind]})")) from error


def build_reward(value: object) -> Reward:
    """A reward from a table with a `type`, a name, a path, a function or an instance.

    Raises: ConfigError.
    """
    if callable(value) and not isinstance(value, Reward):
        return reward_from(value)
    table = {"type": value} if isinstance(value, str) else value
    kind = table.get("type") if isinstance(table, Mapping) else None
    if isinstance(kind, str) and ":" in kind and isinstance(table, Mapping):
        found = load_object(kind, kind="reward")
        if callable(found) and not (isinstance(found, type) and issubclass(found, Component)):
            made = Waiting if "concurrency" in table else Function
            try:
                return made.model_validate(dict(table))
            except ValidationError as error:
                raise ConfigError(explain(error, made, where=f"reward {kind!r}")) from error
    built = build_component(value, REGISTRY, kind="reward", base=Reward)
    if not isinstance(built, Reward):
        raise ConfigError(f"{type(built).__name__} is not a reward; derive it from foveal.types.Reward")
    return built


def _name_of(function: object) -> str:
    own = getattr(function, "__name__", None) or type(function).__name__
    return re.sub(r"\W+", "_", str(own)).strip("_") or "function"


def _path_of(function: object) -> str | None:
    """Where a worker finds a function or class; None for what stands in a script, notebook or function."""
    if not (inspect.isfunction(function) or isinstance(function, type)):
        return None
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    known = module is not None and getattr(module, function.__qualname__, None) is function
    if not known or file is None or function.__module__ == "__main__":
        return None
    return f"{function.__module__ if '.' in function.__module__ else file}:{function.__qualname__}"
