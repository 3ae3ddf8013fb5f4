r"""The verdicts of mathruler 0.1.0 and the score that PAPO and CPPO train with, value for value.

Two answers are equal when one of these says so, in this order:
1. their MATH forms are the same text (`math_form`);
2. their PRM800K forms are (`prm_form`);
3. the elements of both tuples or intervals are, one by one, between the same brackets: two fractions as
   text (`2/4` is not `1/2`), an integer never equals what is no integer (`1024` is not `2**10`), else
   sympy simplifies the difference to 0. sympy is not asked about more than two different letters, `^{`,
   `^(`, `2^3^4`, or an exponent of two digits.

sympy may run without end: in training these functions are called by a grading worker, with a limit of CPU
time (`foveal.rewards.mathruler`).

Source: mathruler 0.1.0 (`grade_answer`, `extract_boxed_content`); arXiv:2507.06448 and arXiv:2601.00501,
released reward functions.
"""

import re
from dataclasses import dataclass

from foveal.compat.mathruler_forms import is_whole, math_form, prm_form, without_group_commas
from foveal.compat.mathruler_reader import is_zero
from foveal.rewards.layout import thinks_then_boxes, without_tag_spaces

NO_BOX = "None"
"""What mathruler extracts where there is no box; a truth of this word is then scored right."""

_BRACE = re.compile(r"[{}]")
_FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?\n?")
_BRACKETS = re.compile(r"[()\[\]][^()\[\]]+[()\[\]]", re.DOTALL)
_REFUSED = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]")
MAX_LETTERS = 2
"""Different letters, `sqrt` and `frac` apart, about which sympy is asked."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the official reward function returns for a completion."""

    overall: float
    format: float
    accuracy: float


def find_box(text: str) -> str | None:
    r"""The content of the last `\boxed{`, up to the brace that closes it; None without one.

    Differs from `foveal.rewards.boxed.last_boxed`: an unclosed last box hides those before it, `\{` counts
    as a brace, and `\boxed {` is no box.
    """
    _, box, rest = text.rpartition("\\boxed{")
    depth = 1
    for match in _BRACE.finditer(rest) if box else ():
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return rest[: match.start()].strip()
    return None


def extract_boxed_content(text: str) -> str:
    r"""The content of the last box (`find_box`), and the word "None" without one.

    >>> extract_boxed_content(r"\boxed{1} or \boxed{\frac{1}{2}}"), extract_boxed_content("1/2")
    ('\\frac{1}{2}', 'None')
    """
    content = find_box(text)
    return NO_BOX if content is None else content


def grade_answer(answer: str | None, truth: str | None) -> bool:
    r"""Whether mathruler takes `answer` for `truth`. May run without end on hostile input.

    Raises: ConfigError, for LaTeX when pylatexenc is not installed.

    >>> grade_answer("31/4", "7 3/4"), grade_answer("2/4", "1/2"), grade_answer(r"\sqrt{12}", r"2\sqrt{3}")
    (True, False, True)
    """
    return answer is not None and truth is not None and _grade(answer, truth, match_nothing=True)


def grade_answer_strictly(answer: str, truth: str) -> bool:
    """As `grade_answer`, but a truth of which a form leaves nothing is not right by that form.

    mathruler takes `year` for `day`, since units are dropped. May run without end on hostile input.

    >>> grade_answer("year", "day"), grade_answer_strictly("year", "day"), grade_answer_strictly("day", "day")
    (True, False, True)
    """
    return _grade(answer, truth, match_nothing=False)


def grade_quickly(answer: str, truth: str, *, match_nothing: bool = True) -> bool | None:
    """The verdict of `grade_answer`, or of `grade_answer_strictly`, where text decides it, in linear time.

    None where LaTeX has to be converted, or sympy asked.
    """
    if _same_math_form(answer, truth, match_nothing=match_nothing):
        return True
    if "\\" in answer or "\\" in truth:
        return None
    found = _compare_prm_forms(answer, truth, match_nothing=match_nothing)
    return found if isinstance(found, bool) else None


def _grade(answer: str, truth: str, *, match_nothing: bool) -> bool:
    if _same_math_form(answer, truth, match_nothing=match_nothing):
        return True
    found = _compare_prm_forms(answer, truth, match_nothing=match_nothing)
    return found if isinstance(found, bool) else all(_simplifies_to_zero(*pair) for pair in found)


def _same_math_form(answer: str, truth: str, *, match_nothing: bool) -> bool:
    form = math_form(truth)
    return form == math_form(answer) and (match_nothing or bool(form))


def _compare_prm_forms(answer: str, truth: str, *, match_nothing: bool) -> bool | tuple[tuple[str, str], ...]:
    form = prm_form(truth)
    return (match_nothing or bool(form)) and compare_forms(form, prm_form(answer))


def compare_forms(truth: str, answer: str) -> bool | tuple[tuple[str, str], ...]:
    """The verdict on two PRM800K forms, or the pairs (truth, answer) that sympy has to find equal."""
    if truth == answer:
        return True
    if not answer:
        return False
    wanted, given = _elements(truth), _elements(answer)
    if len(wanted) != len(given) or (len(wanted) > 1 and (truth[0], truth[-1]) != (answer[0], answer[-1])):
        return False
    left = []
    for one, two in zip(wanted, given, strict=True):
        if _FRACTION.fullmatch(one) and _FRACTION.fullmatch(two):
            if one != two:
                return False
        elif is_whole(one) != is_whole(two) or not _may_be_evaluated(_difference(one, two)):
            return False
        else:
            left.append((one, two))
    return tuple(left) or True


def _elements(text: str) -> list[str]:
    """The elements of a tuple or an interval; anything else is one element, nothing is none."""
    text = without_group_commas(text)
    if _BRACKETS.fullmatch(text):
        return [element.strip() for element in text[1:-1].split(",")]
    return [text] if text else []


def _difference(truth: str, answer: str) -> str:
    return f"({truth})-({answer})"


def _may_be_evaluated(expression: str) -> bool:
    letters = {c for c in expression.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    return len(letters) <= MAX_LETTERS and _REFUSED.search(expression) is None


def _simplifies_to_zero(truth: str, answer: str) -> bool:
    return is_zero(_difference(truth, answer).replace("^", "**"))


def compute_score(
    completion: str, truth: str, *, format_weight: float = 0.1, strip_tags: bool = True
) -> Score:
    r"""overall = (1 - format_weight) * accuracy + format_weight * format, as PAPO's reward function has it.

    `strip_tags` takes away the white space around `<`, `>` and `/` first, in formulas too; CPPO's copy does
    not. May run without end on hostile input.

    >>> compute_score("<think>a</think> \\boxed{2/4}", "1/2")
    Score(overall=0.1, format=1.0, accuracy=0.0)
    """
    text = without_tag_spaces(completion) if strip_tags else completion
    format = float(thinks_then_boxes(text, allow_spaces=False))
    accuracy = float(grade_answer(extract_boxed_content(text), truth))
    overall = (1 - format_weight) * accuracy + format_weight * format
    return Score(overall=overall, format=format, accuracy=accuracy)
