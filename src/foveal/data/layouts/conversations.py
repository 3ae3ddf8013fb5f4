"""Prompts as lists of turns: TRL and verl (`prompt`), ms-swift (`messages`), ShareGPT (`conversations`).

A turn has `role` and `content`, or `from` and `value`. Its content is text with `<image>` marks, or a list of
parts: `{"type": "text", "text": ...}`, `{"type": "image"}`, and pictures that stand in the part itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.data.bounded import json_value, short
from foveal.data.errors import DataError
from foveal.types import IMAGE_MARK, Turn

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""Words for the speakers -> ours."""

PICTURE_KEYS = ("image", "image_url", "path", "url", "base64", "bytes", "data")
"""Where a part of type image may hold its picture."""

_KEYS = (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"))
_VIDEO = re.compile(r"<(video|audio)>")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A list of turns, read: what stands before the question, the question, and the reply behind it."""

    system: str | None
    turns: tuple[Turn, ...]
    question: str
    reply: str | None
    pictures: tuple[Any, ...]
    """Cells of the pictures that stand in the turns themselves, in order; empty where a column holds them."""
    image_parts: int
    """Parts of type image."""


def turns_of(value: object) -> Sequence[Mapping[str, Any]] | None:
    """The turns in a cell, a list or JSON text of one; None when it is no list of turns."""
    if isinstance(value, str):
        text = value.lstrip()
        value = json_value(text) if text.startswith("[") else None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return None
    if all(isinstance(turn, Mapping) and _keys(turn) for turn in value):
        return value
    return None


def _keys(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    filled = (pair for pair in _KEYS if all(turn.get(key) is not None for key in pair))
    return next(filled, None) or next((pair for pair in _KEYS if all(key in turn for key in pair)), None)


def read_conversation(value: object, *, column: str, where: str) -> Conversation:
    """The conversation in a cell.

    Raises: DataError when it is no list of turns, has an unknown speaker, or no question of a user.
    """
    turns = turns_of(value)
    if turns is None:
        raise DataError(
            f"{where}: {column} should be a list of turns (`role` and `content`, or `from` and `value`), "
            f"got {type(value).__name__} {short(value)}"
        )
    read: list[tuple[str, str]] = []
    pictures: list[Any] = []
    parts = 0
    for number, turn in enumerate(turns, start=1):
        place = f"{where}: {column}, turn {number}"
        keys = _keys(turn) or _KEYS[0]
        role = ROLES.get(str(turn[keys[0]]).strip().casefold())
        if role is None:
            raise DataError(
                f"{place}: unknown speaker {short(turn[keys[0]])}; expected system, user or assistant (tool "
                "calls and their results are not supported: take such rows out)"
            )
        text, found, count = _content(turn[keys[1]], place)
        if count and role != "user":
            raise DataError(f"{place}: a picture in a turn of the {role}; move it to a user's turn")
        read.append((role, text))
        pictures.extend(found)
        parts += count
    if pictures and len(pictures) != parts:
        raise DataError(
            f"{where}: {column} has {parts} parts of type image, of which {len(pictures)} hold a picture; "
            "fill in all of them, or none and give the pictures in a column `images`"
        )
    return _arranged(read, pictures, parts, column=column, where=where)


def _arranged(
    read: list[tuple[str, str]], pictures: list[Any], parts: int, *, column: str, where: str
) -> Conversation:
    systems = [text for role, text in read if role == "system"]
    if len(systems) > 1 or (systems and read[0][0] != "system"):
        raise DataError(f"{where}: {column} has a system turn that is not the first; put it in front")
    spoken = [(role, text) for role, text in read if role != "system"]
    last = max((n for n, (role, _) in enumerate(spoken) if role == "user"), default=None)
    if last is None:
        raise DataError(f"{where}: {column} has no turn of a user; the last one is the question")
    replies = [text for _, text in spoken[last + 1 :]]
    if len(replies) > 1:
        raise DataError(
            f"{where}: {column} ends with {len(replies)} turns of the assistant; expected one at most"
        )
    return Conversation(
        system=(systems[0].strip() or None) if systems else None,
        turns=tuple(Turn(role=_speaker(role), text=text) for role, text in spoken[:last]),
        question=spoken[last][1],
        reply=replies[0] if replies else None,
        pictures=tuple(pictures),
        image_parts=parts,
    )


def _speaker(role: str) -> Any:  # noqa: ANN401
    return role


def _content(content: object, place: str) -> tuple[str, list[Any], int]:
    """Text with a mark per image part, the pictures that stand in parts, and the number of image parts."""
    if content is None:
        return "", [], 0
    if isinstance(content, str):
        _no_video(content, place)
        return content, [], 0
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(f"{place}: content should be text or a list of parts, got {type(content).__name__}")
    texts: list[str] = []
    pictures: list[Any] = []
    count = 0
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            raise DataError(f"{place}: a part should be a table with `type`, got {type(part).__name__}")
        kind = part.get("type") or ("text" if part.get("text") is not None else "image")
        if kind in ("text", "input_text"):
            text = str(part.get("text") or "")
            _no_video(text, place)
            texts.append(text)
        elif kind in ("image", "image_url", "input_image"):
            texts.append(IMAGE_MARK)
            count += 1
            picture = _picture(part)
            pictures += [] if picture is None else [picture]
        else:
            raise DataError(
                f"{place}: a part of type {short(kind)}; expected text or image (video and audio are not "
                "supported: take such rows out)"
            )
    return "".join(texts), pictures, count


def _picture(part: Mapping[str, Any]) -> object:
    if isinstance(part.get("bytes"), bytes):
        return part
    for key in PICTURE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping) and key == "image_url":
            value = value.get("url")
        if value is not None and value != "":
            return value
    return None


def _no_video(text: str, place: str) -> None:
    found = _VIDEO.search(text)
    if found:
        raise DataError(f"{place}: has a {found[0]} mark; only pictures are supported: take such rows out")
