"""Damage, as a function of a generator: to bytes, to values, to a file's place in its folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.random import Generator

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**14,
    10**400,
    0.5,
    -0.0,
    1e308,
    "",
    " ",
    "x",
    "tiny",
    "world",
    "a\x1b[2J\x1b]0;t\x07b",
    "\u202egnp.\u2066",
    "no such thing",
    "/",
    "..",
    "/dev/null",
    "/dev/stdin",
    "n\x00ul",
    "L" * 5000,
    "d/" * 2500,
    "{{ 1/0 }}",
    "<image>",
    "<|image_pad|>",
    "\\boxed{7}",
    [],
    [1],
    [[]],
    ["a", "b"],
    {},
    {"type": "x"},
    {"a": {"b": {"c": 1}}},
    {"bytes": None, "path": None},
)

TEXT_ONLY: tuple[Any, ...] = (*ODD_VALUES, "\ud800", float("nan"), float("inf"), "9" * 5000)
"""What JSON of this interpreter can say beside that."""


def pick(rng: Generator, values: Any) -> Any:
    """One of a sequence, as it is."""
    return values[int(rng.integers(len(values)))]


def damaged_bytes(content: bytes, rng: Generator) -> bytes:
    """Cut off, flipped, holes, noise put in, doubled, swapped ends; sometimes nothing or noise alone."""
    if not content:
        return rng.bytes(20)
    at, other = sorted(int(n) for n in rng.integers(0, len(content) + 1, size=2))
    noise = rng.bytes(int(rng.integers(1, 64)))
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + content[other:],
        lambda: content[:at] + noise + content[at:],
        lambda: content[:at] + noise + content[at + len(noise) :],
        lambda: (
            content[:at] + bytes([content[at % len(content)] ^ int(rng.integers(1, 256))]) + content[at + 1 :]
        ),
        lambda: content + content,
        lambda: content[other:] + content[:other],
        lambda: b"",
        lambda: rng.bytes(int(rng.integers(1, 400))),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content[:at] + b"\x00" * 9 + content[at:],
        lambda: b"[" * 20_000 + b"]" * 20_000,
        lambda: b'{"a":' * 20_000,
        lambda: b"[1, 2, 3]",
        lambda: b"null",
        lambda: b"{}",
        lambda: b'"text"',
    ]
    return pick(rng, ways)()


def damaged_value(value: Any, rng: Generator, *, pool: tuple[Any, ...] = ODD_VALUES) -> Any:
    """A table or list with one place in it changed, taken out, renamed or added; other values replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = pick(rng, list(value))
        way = rng.random()
        if way < 0.6:
            return {**value, key: damaged_value(value[key], rng, pool=pool)}
        if way < 0.75:
            return {name: inner for name, inner in value.items() if name != key}
        if way < 0.85:
            renamed = str(pick(rng, [key[:-1], f"{key}s", key.upper(), "", "a.b", "x\x1b[2J"]))
            return {renamed if name == key else name: inner for name, inner in value.items()}
        return {**value, str(pick(rng, ["extra", "type", "id", "x\x07", ""])): pick(rng, pool)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(len(value)))
        changed = damaged_value(value[place], rng, pool=pool)
        return pick(
            rng,
            [
                [*value[:place], changed, *value[place + 1 :]],
                [*value[:place], *value[place + 1 :]],
                [*value, *value],
                changed,
            ],
        )
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if number and rng.random() < 0.5:
        return pick(rng, [-value, 0, value + 1, value * 2, value * 10**6, value - 0.5, str(value), [value]])
    return pick(rng, pool)


def damage_place(file: Path, rng: Generator) -> None:
    """Something else in the place of a file: nothing, a folder, a pipe, a link to nowhere or to itself, a
    file that may not be read."""
    way = pick(rng, ["gone", "folder", "pipe", "nowhere", "itself", "locked", "null"])
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink()
    if way == "folder":
        file.mkdir()
    elif way == "pipe":
        os.mkfifo(file)
    elif way == "nowhere":
        file.symlink_to(file.with_name("nowhere at all"))
    elif way == "itself":
        file.symlink_to(file.name)
    elif way == "null":
        file.symlink_to("/dev/null")
    elif way == "locked":
        file.write_bytes(b"")
        file.chmod(0)


def damage_file(file: Path, rng: Generator) -> None:
    """One kind of damage to a file: its bytes, its place, or where it is JSON one of its values."""
    way = rng.random()
    if way < 0.15:
        damage_place(file, rng)
        return
    content = file.read_bytes()
    if way < 0.65 and file.suffix in (".json", ".jsonl"):
        lines = content.split(b"\n") if file.suffix == ".jsonl" else [content]
        places = [n for n, line in enumerate(lines) if line.strip()]
        if places:
            place = pick(rng, places)
            changed = damaged_value(json.loads(lines[place]), rng, pool=TEXT_ONLY)
            lines[place] = json.dumps(changed).encode()
            file.write_bytes(b"\n".join(lines))
            return
    file.write_bytes(damaged_bytes(content, rng))
