r"""Whether two answers are the same: our rules first, math-verify for the formulas that they leave.

The rules (`foveal.rewards.answers`) decide numbers, units, percentages, ratios, words, dates, options,
lists, tuples, sets, intervals, equations and the formulas of school mathematics. What is left (floors,
binomials, inequalities in several letters) is compared by math-verify's comparison on formulas that
`foveal.rewards.latex` read, which lets no text reach an evaluator. `docs/rewards.md` says what counts as
equal, kind by kind, and where math-verify and mathruler judge otherwise.
"""

import re

from foveal.rewards.answers.statement import same_text
from foveal.rewards.answers.text import MAX_LENGTH, clean
from foveal.rewards.answers.verdict import PLAIN, Asked, alternatives, prepared, verdict
from foveal.rewards.answers.words import same_words

_WORD = re.compile(r"(?<![\\A-Za-z])(?!sin|cos|tan|log|ln|max|min|mod)[A-Za-z]{2,}|%")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def compare_quickly(gold: str, answer: str, about: Asked = PLAIN) -> bool | None:
    """The verdict of the rules; None where algebra is needed. `gold` is not empty.

    Identical strings, and two plain integers of any length, are decided at once.
    """
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if not answer:
        return False
    if not about.options and _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        if about.terms.places is None:
            return _integer(gold) == _integer(answer)
    return verdict(gold, answer, about)


def _integer(text: str) -> tuple[bool, str]:
    """Sign and digits, so that numerals of any length compare in linear time."""
    digits = text.lstrip("+-").lstrip("0")
    return text.startswith("-") and bool(digits), digits


def equal(gold: str, answer: str) -> float:
    """1.0 or 0.0, by the rules and else by math-verify's comparison.

    A truth that neither reads is compared as a text, so that an answer is not left out for being another.

    May run without end on hostile input: call it in a grading worker.
    """
    quick = compare_quickly(gold, answer)
    if quick is not None:
        return float(quick)
    found = [by_algebra(truth, answer) for truth in alternatives(gold)]
    if None not in found:
        return max(value for value in found if value is not None)
    by_text = max(float(_same_text(truth, answer)) for truth in alternatives(gold))
    return max([by_text, *(value for value in found if value is not None)])


def _same_text(gold: str, answer: str) -> bool:
    if same_text(gold, answer):
        return True
    return "\\" not in gold and "\\" not in answer and same_words(prepared(gold), prepared(answer))


def by_algebra(gold: str, answer: str) -> float | None:
    """1.0 or 0.0 by math-verify's comparison of the two formulas; None when the truth is no formula."""
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return 0.0
    import importlib
    import logging

    # Time is limited from outside, in CPU seconds; math-verify's own limit is in wall seconds and warns
    # when it is off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)
    latex = importlib.import_module("foveal.rewards.latex")
    truth = latex.parse(_ascii(gold))
    if truth is None:
        return None
    if set(_words(answer)) - set(_words(gold)):
        return 0.0  # the reader drops units and words, whichever they are
    found = latex.parse(_ascii(answer))
    return float(found is not None and latex.same(truth, found))


_ARRAY = re.compile(
    r"(?:\\left ?)?[\[(] ?\\begin\{array\} ?\{[clr| ]{1,12}\}(.*)\\end\{array\} ?(?:\\right ?)?[\])]",
    re.DOTALL,
)
_MATRIX = re.compile(r"\\(begin|end)\{(?:bmatrix|smallmatrix)\}")


def _words(text: str) -> list[str]:
    return [] if "\\begin" in text else _WORD.findall(_ascii(text))


def _ascii(text: str) -> str:
    """The text as the reader of formulas takes it; all brackets around a matrix mean the same."""
    if "\\begin{" not in text:
        return clean(text).replace("°", "^\\circ ")
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text.strip().strip("$").removesuffix(".").strip())
    return _MATRIX.sub(r"\\\1{pmatrix}", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
