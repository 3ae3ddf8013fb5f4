r"""Rule rewards: boxed answer, multiple choice, number with tolerance, format.

Each offers `settle`, which decides at once what needs no algebra and otherwise names the pure function that
a grading worker shall run (`foveal.rewards.grading`). Calling a reward directly grades to the end, without
a time limit.
"""

from fractions import Fraction
from typing import ClassVar

from pydantic import Field

from foveal.rewards.answers import choice
from foveal.rewards.answers.number import Within, within
from foveal.rewards.answers.text import MAX_LENGTH
from foveal.rewards.answers.verdict import asked, prepared, same_option
from foveal.rewards.boxed import boxes_together, last_boxed, reduce_gold, statement
from foveal.rewards.equality import compare_quickly, equal
from foveal.rewards.layout import thinks_then_boxes
from foveal.rewards.tasks import Task
from foveal.types import Problem, Reward


class Boxed(Reward):
    r"""1 when the last `\boxed{}` says what the truth says, else 0; None when the truth cannot be read.

    Right on mixed sets: options (`problem.meta["choices"]`), numbers with units, formulas, lists, intervals,
    dates and words; `docs/rewards.md` says kind by kind what counts as equal. `meta["unit"]` and
    `meta["precision"]` are respected. Boxes joined by a comma or "and" count together.

    Source: arXiv:2507.06448, released reward function (accuracy part).
    Differs from its code: equal in value instead of mathruler's comparison of texts, for the reasons in
    `docs/rewards.md`; a missing box is never right, also when the truth is the word "None".
    """

    type: str = "boxed"
    is_accuracy: ClassVar[bool] = True
    worker_calls: ClassVar[tuple[str, ...]] = ("foveal.rewards.equality:equal",)

    def settle(self, problem: Problem, text: str) -> float | None | Task:
        """The verdict of the rules; else the comparison that a worker shall make."""
        gold = reduce_gold(problem.answer)
        if gold is None:
            return None
        answer = last_boxed(text)
        if answer is None:
            return 0.0
        about = asked(problem.question, problem.meta)
        quick = compare_quickly(gold, answer, about)
        if quick is not True and (together := boxes_together(text)) is not None:
            whole = compare_quickly(gold, together, about)
            if whole is not False:
                answer, quick = together, whole
        return Task(target=self.worker_calls[0], arguments=(gold, answer)) if quick is None else float(quick)

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None; may take long on hostile input."""
        found = self.settle(problem, text)
        return equal(*found.arguments) if isinstance(found, Task) else found


class Choice(Reward):
    r"""1 when the chosen option is the right one, else 0; None when the truth names no option.

    Accepts `\boxed{B}`, `(B)`, `B.`, `B. 12 cm`, several letters, and an option's text when
    `problem.meta["choices"]` lists the options (a list, a table from letter to text, `{label, text}` or a
    list of them). Without a box the last line after the reasoning is read, which has to be the option or
    "the answer is" with it; a letter somewhere in a sentence does not count.
    """

    type: str = "choice"
    is_accuracy: ClassVar[bool] = True

    require_box: bool = False
    r"""Whether an answer outside `\boxed{}` is wrong."""

    def settle(self, problem: Problem, text: str) -> float | None:
        """The verdict; always plain."""
        gold = _short(reduce_gold(problem.answer))
        if gold is None:
            return None
        stated = last_boxed(text)
        if stated is None and not self.require_box:
            stated = statement(text)
        said = _short(stated) or ""
        about = asked(problem.question, problem.meta)
        if about.options:
            found = choice.settle(gold, said, about.options, same_option, first=about.first)
        else:
            found = choice.without_options(gold.upper() if len(gold) == 1 else gold, said, letters="A-Z")
        return None if found is None else float(found)

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None."""
        return self.settle(problem, text)


def _short(text: str | None) -> str | None:
    return prepared(text) if text is not None and len(text) <= MAX_LENGTH else None


class Number(Reward):
    r"""1 when |answer - truth| <= max(absolute, relative * |truth|), else 0; None if the truth is no number.

    Reads integers, decimals, fractions, mixed and scientific numbers, thousands separators, magnitudes,
    currency and units (`\frac{3}{4}`, `1,234.5`, `3\times 10^8`, `2 million`, `$15`, `12 cm^2`). A percentage
    is either reading: 25 % is 25 and 0.25. Units that measure different things are wrong, lengths of 5 cm
    and 50 mm are the same, and a unit may be left out. Without a box the last line after the reasoning is
    read.
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
        gold = _short(reduce_gold(problem.answer))
        stated = last_boxed(text)
        if stated is None and not self.require_box:
            stated = statement(text)
        bounds = Within(absolute=Fraction(self.absolute), relative=Fraction(self.relative))
        found = None if gold is None else within(gold, _short(stated) or "", bounds)
        return None if found is None else float(found)

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
