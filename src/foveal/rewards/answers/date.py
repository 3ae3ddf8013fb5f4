"""Dates and times of day: `March 5, 2024` is `2024-03-05`, `3:45 pm` is `15:45`."""

import re
from typing import NamedTuple

_MONTHS = {
    name: n
    for n, names in enumerate(
        "january jan,february feb,march mar,april apr,may,june jun,july jul,august aug,september sep sept,"
        "october oct,november nov,december dec".split(","),
        1,
    )
    for name in names.split()
}
_MONTH = "(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,? )?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_WEEKDAY}{_MONTH} {_DAY}(?:,? (?P<year>\d{{4}}))?",
        rf"{_WEEKDAY}(?:the )?{_DAY} (?:of )?{_MONTH}(?:,? (?P<year>\d{{4}}))?",
        rf"{_MONTH},? (?P<year>\d{{4}})",
        r"(?P<year>\d{4})[-/.](?P<number>\d{1,2})[-/.](?P<day>\d{1,2})",
        r"(?P<year>\d{4}) ?年 ?(?P<number>\d{1,2}) ?月(?: ?(?P<day>\d{1,2}) ?[日号])?",
        r"(?P<number>\d{1,2}) ?月 ?(?P<day>\d{1,2}) ?[日号]",
    )
)
_SLASHED = re.compile(r"(?P<one>\d{1,2})[/.-](?P<two>\d{1,2})[/.-](?P<year>\d{4})")
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)? ?(?P<half>[ap]\.? ?m\.?)?"
    r"(?P<oclock> ?o'?clock)?",
    re.IGNORECASE,
)
_CHINESE_CLOCK = re.compile(
    r"(?P<half>上午|下午|晚上)? ?(?P<hour>\d{1,2}) ?[点时](?: ?(?P<minute>\d{1,2}) ?分|(?P<thirty>半)|整)?"
)


class Date(NamedTuple):
    """Year, month and day; 0 for what is not said."""

    year: int
    month: int
    day: int


class Clock(NamedTuple):
    """A time of day. `half` is "am", "pm" or "" when not said; `marked` when it can be nothing else."""

    hour: int
    minute: int
    second: int
    half: str
    marked: bool


def read_date(text: str) -> Date | None:
    """The date that a text names, month first where `3/5/2024` leaves it open.

    >>> read_date("5 March 2024") == read_date("2024-03-05")
    True
    """
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is not None:
            found = match.groupdict()
            month = _MONTHS[found["month"].lower()] if found.get("month") else int(found["number"])
            return _date(int(found.get("year") or 0), month, int(found.get("day") or 0))
    match = _SLASHED.fullmatch(text)
    if match is None:
        return None
    one, two, year = int(match["one"]), int(match["two"]), int(match["year"])
    return _date(year, two, one) if one > 12 else _date(year, one, two)


def _date(year: int, month: int, day: int) -> Date | None:
    return Date(year, month, day) if 1 <= month <= 12 and 0 <= day <= 31 else None


def read_clock(text: str) -> Clock | None:
    """The time of day that a text names; a bare `3:45` may also be a ratio, and is not `marked`."""
    match = _CHINESE_CLOCK.fullmatch(re.sub(r"^([上下]午|晚上) ?(\d{1,2}):(\d{2})$", r"\1\2点\3分", text))
    if match is not None:
        half = {"上午": "am", "下午": "pm", "晚上": "pm"}.get(match["half"] or "", "")
        minute = 30 if match["thirty"] else int(match["minute"] or 0)
        return _clock(int(match["hour"]), minute, 0, half, marked=True)
    match = _CLOCK.fullmatch(text)
    if match is None or not (match["minute"] or match["half"] or match["oclock"]):
        return None
    half = re.sub(r"[^apm]", "", (match["half"] or "").lower())
    marked = bool(half or match["oclock"] or match["second"])
    return _clock(
        int(match["hour"]), int(match["minute"] or 0), int(match["second"] or 0), half, marked=marked
    )


def _clock(hour: int, minute: int, second: int, half: str, *, marked: bool) -> Clock | None:
    if hour > 24 or minute > 59 or second > 59 or (half and hour > 12 and half == "am"):
        return None
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return Clock(hour, minute, second, half, marked)


def same_date(gold: str, answer: str) -> bool | None:
    """Whether two dates are the same; None where the truth is no date. The truth may lack a year."""
    one = read_date(gold)
    if one is None:
        return None
    two = read_date(answer)
    if two is None:
        return False
    return (one.month, one.day) == (two.month, two.day) and one.year in (two.year, 0)


def same_clock(gold: str, answer: str) -> bool | None:
    """Whether two times of day are the same; None where the truth is no time.

    `3:45 pm` may be answered without "pm"; `15:45` and `3:45 pm` are the same.
    """
    one = read_clock(gold)
    two = read_clock(answer)
    if one is None or (two is None and not one.marked):
        return None
    if two is None:
        return False
    if (one.minute, one.second) != (two.minute, two.second):
        return False
    if one.half and two.half or not (one.half or two.half):
        return one.hour == two.hour
    said, bare = (one, two) if one.half else (two, one)
    return bare.hour == said.hour or (bare.hour <= 12 and bare.hour % 12 == said.hour % 12)
