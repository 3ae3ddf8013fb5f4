r"""Rule rewards: boxed answer, multiple choice, number with tolerance, format.

Each offers `settle`, which decides at once what needs no algebra and otherwise names the pure function that
a grading worker shall run (`foveal.rewards.grading`). Calling a reward directly grades to the end, without
a time limit.
"""

import re
import string
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import ClassVar

from pydantic import Field

from foveal.rewards.boxed import gold_text, last_boxed, statement
from foveal.rewards.equality import compare_quickly, equal
from foveal.rewards.layout import thinks_then_boxes
from foveal.rewards.numbers import read_number, tidy
from foveal.rewards.tasks import Task
from foveal.types import Problem, Reward


class Boxed(Reward):
    r"""1 when the last `\boxed{}` equals the truth in value, else 0; None when the truth cannot be read.

    Source: arXiv:2507.06448, released reward function (accuracy part).
    Differs from its code: math-verify instead of mathruler, for the reasons in `foveal.rewards.equality`;
    a missing box is never right, also when the truth is the word "None".
    """

    type: str = "boxed"
    is_accuracy: ClassVar[bool] = True
    worker_calls: ClassVar[tuple[str, ...]] = ("foveal.rewards.equality:equal",)

    def settle(self, problem: Problem, text: str) -> float | None | Task:
        """The verdict where it is plain; else the comparison that a worker shall make."""
        gold, answer = gold_text(problem.answer), last_boxed(text)
        if not gold:
            return None
        if answer is None:
            return 0.0
        quick = compare_quickly(gold, answer)
        return Task(target=self.worker_calls[0], arguments=(gold, answer)) if quick is None else float(quick)

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None; may take long on hostile input."""
        found = self.settle(problem, text)
        return equal(*found.arguments) if isinstance(found, Task) else found


class Choice(Reward):
    r"""1 when the chosen option is the right one, else 0; None when the truth names no option.

    Accepts `\boxed{B}`, `(B)`, `B.`, `B. 12 cm`, and an option's text when `problem.meta["choices"]` lists
    the options (a list, or a table from letter to text). Without a box the last line after the reasoning is
    read, which has to be the option or "the answer is" with it; a letter somewhere in a sentence does not
    count.
    """

    type: str = "choice"
    is_accuracy: ClassVar[bool] = True

    require_box: bool = False
    r"""Whether an answer outside `\boxed{}` is wrong."""

    def settle(self, problem: Problem, text: str) -> float | None:
        """The verdict; always plain."""
        options = _options(problem.meta.get("choices"))
        gold = _chosen(gold_text(problem.answer), options)
        if gold is None:
            return None
        stated = last_boxed(text)
        if stated is None and not self.require_box:
            stated = statement(text)
        return float(stated is not None and _chosen(stated, options) == gold)

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None."""
        return self.settle(problem, text)


_OPTION = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*(?:[.:)]\s*(.*))?", re.DOTALL)


def _options(choices: object) -> Mapping[str, str]:
    """Letter -> tidy text in lower case; empty when the problem lists no options."""
    if isinstance(choices, Mapping):
        return {str(letter).strip().upper(): tidy(str(text)).casefold() for letter, text in choices.items()}
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        return {}
    options = {}
    for letter, text in zip(string.ascii_uppercase, choices, strict=False):
        # Some sets write the letter into the option: "A. 12" is 12.
        match = _OPTION.fullmatch(str(text).strip())
        labelled = match is not None and match[2] and match[1].upper() == letter
        options[letter] = tidy(match[2] if match is not None and labelled else str(text)).casefold()
    return options


def _chosen(stated: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that `stated` names; None when it names none."""
    text = tidy(stated).casefold()
    by_text = [letter for letter, option in options.items() if option and option == text]
    if len(by_text) == 1:
        return by_text[0]
    match = _OPTION.fullmatch(tidy(stated))
    if match is None:
        return None
    letter, rest = match[1].upper(), tidy(match[2] or "").casefold()
    if not options:
        return letter
    return letter if letter in options and rest in ("", options[letter]) else None


class Number(Reward):
    r"""1 when |answer - truth| <= max(absolute, relative * |truth|), else 0; None if the truth is no number.

    Reads integers, decimals, fractions, mixed and scientific numbers, thousands separators, currency and
    units (`\frac{3}{4}`, `1,234.5`, `3\times 10^8`, `$15`, `12 cm^2`). A percentage is either reading: 25 %
    is 25 and 0.25. Units are not compared. Without a box the last line after the reasoning is read.
    """

    type: str = "number"
    is_accuracy: ClassVar[bool] = True

    absolute: float = Field(default=0.0, ge=0.0)
    """Largest difference that still counts, in the unit of the truth."""
    relative: float = Field(default=1e-4, ge=0.0, lt=1.0)
    """Largest difference that still counts, as a fraction of the truth: by default four good digits."""
    require_box: bool = False
    r"""Whether an answer outside `\boxed{}` is wrong."""

    def settle(self, problem: Problem, text: str) -> float | None:
        """The verdict; always plain."""
        gold = read_number(gold_text(problem.answer), units=True)
        if gold is None:
            return None
        stated = last_boxed(text)
        if stated is None and not self.require_box:
            stated = statement(text)
        found = None if stated is None else read_number(stated, units=True)
        if found is None:
            return 0.0
        absolute, relative = Fraction(self.absolute), Fraction(self.relative)
        pairs = ((one, two) for one in found.readings for two in gold.readings)
        return float(any(abs(one - two) <= max(absolute, relative * abs(two)) for one, two in pairs))

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None."""
        return self.settle(problem, text)


class Format(Reward):
    r"""1 when the whole completion reads `<think>...</think>...\boxed{...}...`, else 0.

    White space around `<`, `>` and `/` is allowed, also in front, unless `allow_spaces` is off; the tags
    are lower case, and `\boxed{` has no space. The box need not balance: any later `}` closes it, as in the
    published pattern `<think>.*</think>.*\boxed\{.*\}.*`.

    Source: arXiv:2507.06448, released reward function (format part). CPPO's copy is `allow_spaces = false`.
    """

    type: str = "format"

    allow_spaces: bool = True
    """Whether white space around `<`, `>` and `/` is ignored."""

    def settle(self, problem: Problem, text: str) -> float:
        """The verdict; always plain."""
        return float(thinks_then_boxes(text, allow_spaces=self.allow_spaces))

    def __call__(self, problem: Problem, text: str) -> float:
        """1.0 or 0.0."""
        return self.settle(problem, text)
