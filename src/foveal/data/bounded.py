"""Reading text from foreign files within bounds: JSON, lists written as text, and words for messages."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from foveal.data.errors import DataError

MAX_DEPTH = 64
"""Lists and tables inside each other; real rows have fewer than ten."""

MAX_LIST_TEXT = 100_000
"""Characters of a list written as text, such as the options of MMMU."""

_ITEM = re.compile(
    r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"\[\]][^,'"\[\]]*))\s*(,|$|(?=['"]))""",
    re.DOTALL,
)
_KEY = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,:'"{}]+))\s*:""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(text: str | bytes) -> Any:  # noqa: ANN401
    """A JSON value. Raises: DataError with the reason: broken, nested too deeply, or a number too long."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"broken JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise DataError(f"lists or tables are nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except ValueError:
        raise DataError("a whole number of thousands of digits; write it as text or shorten it") from None
    if text.count(b"[" if isinstance(text, bytes) else "[") + text.count(  # type: ignore[arg-type]
        b"{" if isinstance(text, bytes) else "{"  # type: ignore[arg-type]
    ) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise DataError(f"lists or tables are nested deeper than {MAX_DEPTH} levels")
    return value


def json_value(text: str) -> Any:  # noqa: ANN401
    """A JSON value, or None where the text is none or exceeds the bounds."""
    try:
        return read_json(text)
    except DataError:
        return None


def _deeper(value: object, depth: int) -> bool:
    """Whether lists or tables inside each other exceed `depth`; without recursion."""
    level = [value]
    for _ in range(depth):
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner.extend(part for part in one.values() if isinstance(part, list | dict))
            elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
                inner.extend(part for part in one if isinstance(part, list | dict))
        if not inner:
            return False
        level = inner
    return True


def list_text(text: str) -> list[str] | None:
    r"""The items of a list written as text, as JSON or Python do it, or without commas; None if it is none.

    A small grammar of quoted items; nothing is evaluated.

    >>> list_text("['a, b', \"it's\", 3]")
    ['a, b', "it's", '3']
    """
    items = list_items(text)
    return None if items is None else [part if isinstance(part, str) else json.dumps(part) for part in items]


def list_items(text: str) -> list[Any] | None:
    """What `list_text` gives, with gaps (`None`, `null`, `nan`) as None, and lists and tables of JSON kept.

    >>> list_items("['1', None, '2']")
    ['1', None, '2']
    """
    text = text.strip()
    if len(text) > MAX_LIST_TEXT or not (text.startswith("[") and text.endswith("]")):
        return None
    value = json_value(text)
    if isinstance(value, list):
        return [_scalar(part) for part in value]
    inner, place, items = text[1:-1].strip(), 0, []
    while place < len(inner):
        match = _ITEM.match(inner, place)
        if match is None or match.end() == place:
            return None
        items.append(_written(match[1], match[2], match[3]))
        place = match.end()
    return items


def table_items(text: str) -> dict[str, Any] | None:
    """A table written as text, as JSON or Python do it; None if it is none. Nothing is evaluated.

    >>> table_items("{'A': 'cat', 'B': None}")
    {'A': 'cat', 'B': None}
    """
    text = text.strip()
    if len(text) > MAX_LIST_TEXT or not (text.startswith("{") and text.endswith("}")):
        return None
    value = json_value(text)
    if isinstance(value, dict):
        return {str(key): _scalar(part) for key, part in value.items()}
    inner, place, table = text[1:-1].strip(), 0, {}
    while place < len(inner):
        key = _KEY.match(inner, place)
        item = _ITEM.match(inner, key.end()) if key is not None else None
        if key is None or item is None or (item[4] == "" and item.end() < len(inner)):
            return None
        name = _written(key[1], key[2], key[3])
        table["None" if name is None else name] = _written(item[1], item[2], item[3])
        place = item.end()
    return table


def _scalar(part: object) -> object:
    if part is None or (isinstance(part, float) and part != part):
        return None
    return part if isinstance(part, str | list | dict) else json.dumps(part)


def _written(single: str | None, double: str | None, bare: str | None) -> str | None:
    """An item of the grammar; None for a gap."""
    quoted = single if single is not None else double
    if quoted is not None:
        return _ESCAPE.sub(_unescape, quoted)
    word = (bare or "").strip()
    return None if word in ("None", "null", "nan", "NaN") else word


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, match[0])  # the backslash of LaTeX, such as \pi, stays


def well_formed(text: str) -> bool:
    """Whether text can be written as UTF-8: it has no lone surrogate."""
    return _SURROGATE.search(text) is None


def is_raw(value: object) -> bool:
    """Whether a cell holds bytes or objects, such as pictures, beside text, numbers, lists and tables."""
    if isinstance(value, Mapping):
        return any(is_raw(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(is_raw(part) for part in value)
    return value is not None and not isinstance(value, str | int | float | Decimal | date | time | timedelta)


def plain_data(value: Any) -> Any:  # noqa: ANN401
    """A cell as JSON can hold it: dates and exact numbers as text, half characters replaced."""
    if isinstance(value, str):
        return value if well_formed(value) else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {str(key): plain_data(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(part) for part in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | timedelta) else value


def short(value: object, *, limit: int = 60) -> str:
    """A value for a message: its beginning alone, however large it is."""
    if isinstance(value, str | bytes):
        text = repr(value[: limit + 1])
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{short(key, limit=20)}: ..." for key in list(value)[:4]) + "}"
    elif isinstance(value, Sequence):
        text = "[" + ", ".join(short(part, limit=20) for part in value[:4]) + (", ...]" if value[4:] else "]")
    elif isinstance(value, int) and abs(value) >= 10**limit:
        text = f"a whole number of {value.bit_length()} bits"
    else:
        text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 3] + "..."
