"""What a grading worker says to the run: JSON of a few known shapes, so that no reply can do anything.

Requests are pickled, since problems carry whatever plain data a source has; they only travel from the run to
its workers. Replies come from a process that read hostile text, and are never unpickled.
"""

import json
from typing import Any

from foveal.rewards.tasks import Outcome

MAX_REPLY = 1 << 20
"""Bytes of one reply; a longer one counts as a worker that died."""
MAX_MESSAGE = 500
"""Characters of a failure's message."""

_KINDS = ("value", "timeout", "failure")


class BadReply(ValueError):
    """A reply of no known shape: the worker is not to be trusted any more."""


def encode_ready(status: dict[str, str]) -> bytes:
    """A worker takes tasks; how it is contained."""
    return json.dumps({"ready": status}).encode()


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome whose value is a number, None, or a list of these; others become failures."""
    message = outcome.message[:MAX_MESSAGE]
    try:
        text = json.dumps({"kind": outcome.kind, "value": outcome.value, "message": message})
    except (TypeError, ValueError, RecursionError) as error:
        message = f"a value that does not travel: {type(error).__name__}: {error}"[:MAX_MESSAGE]
        text = json.dumps({"kind": "failure", "value": None, "message": message})
    return text.encode()


def encode_unloadable(message: str) -> bytes:
    """A task that cannot even be loaded, and why: a mistake of the set-up."""
    return json.dumps({"unloadable": message[: 4 * MAX_MESSAGE]}).encode()


def decode(reply: bytes) -> Outcome | str | dict[str, str]:
    """An outcome, why a task cannot be loaded, or the status of a worker that is ready.

    Raises: BadReply.

    >>> decode(b'{"kind": "value", "value": 1.0, "message": ""}')
    Outcome(kind='value', value=1.0, message='')
    """
    try:
        found: Any = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"no JSON: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise BadReply("no table")
    if isinstance(found.get("unloadable"), str):
        return str(found["unloadable"])
    ready = found.get("ready")
    if isinstance(ready, dict) and all(isinstance(text, str) for text in ready.values()):
        return {str(name): text for name, text in ready.items()}
    kind, value, message = found.get("kind"), found.get("value"), found.get("message")
    numbers = value if isinstance(value, list) else [value]
    if kind not in _KINDS or not isinstance(message, str) or not all(map(_is_number, numbers)):
        raise BadReply("no outcome")
    return Outcome(kind=kind, value=value, message=message)


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)
