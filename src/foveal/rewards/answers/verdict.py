"""The verdict of the rules on one answer: right, wrong, or None where no rule reads the two."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.rewards.answers import choice
from foveal.rewards.answers.chinese import western
from foveal.rewards.answers.date import same_clock, same_date
from foveal.rewards.answers.names import same_figure
from foveal.rewards.answers.reading import readings
from foveal.rewards.answers.rewriting import rewritten, rows_as_tuples
from foveal.rewards.answers.sameness import NO_TERMS, Terms, same
from foveal.rewards.answers.senses import Reading, Scalar
from foveal.rewards.answers.span import same_span
from foveal.rewards.answers.statement import is_sign, same_statement
from foveal.rewards.answers.text import MAX_LENGTH, clean
from foveal.rewards.answers.unit import read_unit
from foveal.rewards.answers.value import TooHard, variables
from foveal.rewards.answers.words import is_ordinal, is_prose, is_text, same_words, truth_values

_QUOTED_LIST = re.compile(r"""\[\s*(?:(?:"[^"]*"|'[^']*')\s*(?:,\s*(?:"[^"]*"|'[^']*')\s*){0,30})\]""")
_QUOTED = re.compile(r""""([^"]*)"|'([^']*)'""")
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:the )?(?:final |correct |right )?(?:answer|result)"
    r"(?: is| =|:)+ ?(?=.)|answer ?: ?(?=.)",
    re.IGNORECASE,
)
_PERCENT_ASKED = re.compile(
    r"(?<![A-Za-z])(?:what|which|how|many|much|find|calculate|determine|compute|give|state|express|expressed"
    r"|write|answer|as|in|to|by)(?: [A-Za-z]+){0,3} (?:%|percent|per cent)"
    r"|百分之(?:几|多少)|百分比|百分率|百分数",
    re.IGNORECASE,
)
"""What is asked for: a percentage that the question tells has its number in front of the sign."""
_FIRST = {"index": 0, "index_from_1": 1}

_LETTERS_MULTIPLIED = re.compile(r"[a-zA-Z](?:(?: ?(?:\\cdot|\\times|\*) ?| )[a-zA-Z]){1,3}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a problem says about its answer besides the truth itself."""

    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> cleaned text."""
    terms: Terms = NO_TERMS
    unit: str = ""
    first: int | None = None
    """What the first option is called, where the truth is the index of one."""


PLAIN = Asked()


def asked(question: str, meta: Mapping[str, Any]) -> Asked:
    """Options, unit, precision and percent sign of a problem.

    `meta` may hold `choices` or `options`, `unit`, and `precision` (decimal places, for answers that are
    decimal: `answer_type` "float", or not given). `answer_kind` "index" or "index_from_1" says
    that the truth is the number of an option.
    """
    choices: object = meta.get("choices")
    if choices is None or choices == [] or choices == {}:
        choices = meta.get("options")
    if isinstance(choices, str):  # a list that is stored as text
        listed = alternatives(choices)
        choices = listed if len(listed) > 1 else None
    found = choice.options(choices) if choices is not None else {}
    unit = meta.get("unit")
    return Asked(
        options=found,
        terms=Terms(places=_places(meta), percent=_PERCENT_ASKED.search(question[:4000]) is not None),
        unit=clean(unit) if isinstance(unit, str) and len(unit) <= 40 else "",
        first=_FIRST.get(str(meta.get("answer_kind"))),
    )


def _places(meta: Mapping[str, Any]) -> int | None:
    kind, precision = meta.get("answer_type"), meta.get("precision")
    if isinstance(kind, str) and kind not in ("float", "decimal", "number"):
        return None
    try:
        places = float(str(precision)) if precision is not None else math.nan
    except ValueError:
        return None
    return int(places) if places in range(11) else None


def alternatives(gold: str) -> tuple[str, ...]:
    """The truths that a list of quoted texts offers, each of which is right; else the text itself.

    >>> alternatives("['24/7', '3.429']"), alternatives("[1, 2]")
    (('24/7', '3.429'), ('[1, 2]',))
    """
    text = gold.strip()
    if len(text) > MAX_LENGTH or _QUOTED_LIST.fullmatch(text) is None:
        return (gold,)
    found = tuple(one or two for one, two in _QUOTED.findall(text))
    if len(found) > 1 and all(len(part) == 1 and part.isupper() for part in found):
        return (", ".join(found),)  # several options, all of which are asked for
    return found or (gold,)


def verdict(gold: str, answer: str, about: Asked = PLAIN) -> bool | None:
    """Whether the answer is right; None where the rules cannot tell.

    Both are read up to `MAX_LENGTH` characters; longer ones are right only as the same string.
    """
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if not answer or len(answer) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return False
    verdicts = [_one(truth, answer, about) for truth in alternatives(gold)]
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _one(gold: str, answer: str, about: Asked) -> bool | None:
    truth, said = prepared(gold), prepared(answer)
    if truth == said:
        return bool(truth)
    if not said:
        return False
    if about.options:
        found = _by_options(truth, said, about)
        if found is not None:
            return found
    for rule in (truth_values, same_figure):
        found = rule(truth, said)
        if found is not None:
            return found
    found = choice.without_options(truth, said) if not about.options else None
    if found is not None:
        return found
    for rule in (same_date, same_clock):
        found = rule(truth, said)
        if found is not None:
            return found
    return by_value(truth, said, about)


def prepared(text: str) -> str:
    """The text as the rules read it: cleaned, without "the answer is", Chinese units in letters."""
    text = clean(rows_as_tuples(text))
    lead = _LEAD.match(text)
    return rewritten(western(text[lead.end() :] if lead is not None else text))


def same_option(one: str, two: str, terms: Terms = NO_TERMS) -> bool:
    """Whether a prepared text says what an option's text says."""
    for rule in (same_figure, same_date, same_clock):
        found = rule(one, two)
        if found is not None:
            return found
    return by_value(one, two, Asked(terms=terms)) is True


def _by_options(truth: str, said: str, about: Asked) -> bool | None:
    def same_text(one: str, two: str) -> bool:
        return same_option(one, two, about.terms)

    return choice.settle(truth, said, about.options, same_text, first=about.first)


def by_value(truth: str, said: str, about: Asked) -> bool | None:
    """The verdict on two prepared texts without options."""
    for found in (same_span(truth, said, about.terms), same_statement(truth, said)):
        if found is not None:
            return found
    if is_ordinal(truth):
        return same_words(truth, said)
    if is_text(truth) and not _is_number_in_words(truth) and not _is_product(truth, said):
        return same_words(truth, said)
    golds = _with_unit(readings(truth, gold=True), about.unit)
    if not golds:
        return same_words(truth, said) if is_prose(truth) or is_sign(truth) else None
    answers = readings(said)
    if not answers:
        return False if "\\" not in said or _is_plain(golds) and is_prose(said) else None
    hard = False
    for gold in golds:
        for answer in answers:
            try:
                if same(gold, answer, about.terms):
                    return True
            except TooHard:
                # Two constants that are too large to be computed are not the same text.
                hard = hard or not (_is_plain((gold,)) and _is_plain((answer,)))
    return None if hard else False


def _is_product(truth: str, said: str) -> bool:
    """Whether short words are letters that are multiplied: `xy` for the answer `x \\cdot y`."""
    return len(truth) <= 3 and _LETTERS_MULTIPLIED.fullmatch(said) is not None


def _is_number_in_words(text: str) -> bool:
    return any(isinstance(found, Scalar) and not variables(found.formula) for found in readings(text))


def _is_plain(golds: tuple[Reading, ...]) -> bool:
    """Whether the truth is one number, which no sentence can equal."""
    return all(isinstance(gold, Scalar) and not variables(gold.formula) for gold in golds)


def _with_unit(golds: tuple[Reading, ...], unit: str) -> tuple[Reading, ...]:
    """The truths with the unit that the data set keeps in a column of its own."""
    found = read_unit(unit) if unit else None
    if found is None or found.words:
        return golds
    return tuple(
        replace(gold, unit=found)
        if isinstance(gold, Scalar) and gold.unit is None and not gold.percent
        else gold
        for gold in golds
    )


__all__ = ["PLAIN", "Asked", "alternatives", "asked", "by_value", "prepared", "verdict"]
