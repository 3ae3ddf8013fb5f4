r"""Whether two answers are the same: a quick exact path, and math-verify for what is left.

Where public graders disagree (math-verify 0.9 and mathruler 0.1), the choice is what a teacher would accept:
- equal values count whatever their form: `2/4` = `1/2`, `2^{10}` = `1024`, `{2,1}` = `{1,2}`, `--3` = `3`
  (mathruler refuses these);
- a percentage is either reading: `25\%` = `25` = `0.25` (as math-verify);
- `7 3/4` is a mixed number (math-verify multiplies), and `−5`, `42.`, `４２`, `9π`, `½`, `45°` mean what they
  say;
- the last box counts, whatever stands in earlier ones; without a box nothing is right, also when the truth
  is "None";
- words are text, never products of their letters: `silent` is not `listen`; case does not matter;
- decimals count as equal to an exact value when they agree to six places (as math-verify): `3.4641` is not
  `2\sqrt{3}`;
- a truth that cannot be read is right only as the same string; else the answer is not graded (None), never
  1.0.
"""

import re

from foveal.rewards.numbers import plain, read_number, tidy

_INTEGER = re.compile(r"[+-]?[0-9]+")
_WORDS = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?: [^\W\d_]+(?:['-][^\W\d_]+)*)*")


def compare_quickly(gold: str, answer: str) -> bool | None:
    """The verdict where no algebra is needed, None where it is. `gold` is not empty.

    Identical strings are right; two plain integers, or two texts of words, are right or wrong at once.
    """
    gold, answer = gold.strip(), answer.strip()
    if gold == answer:
        return True
    if not answer:
        return False
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return _integer(gold) == _integer(answer)
    if gold.isalpha() and answer.isalpha():
        return gold.casefold() == answer.casefold()
    gold, answer = tidy(gold), tidy(answer)
    if gold == answer:
        return bool(gold)
    if _WORDS.fullmatch(gold) and _WORDS.fullmatch(answer):
        return gold.casefold() == answer.casefold()
    left, right = read_number(gold), read_number(answer)
    if left is None or right is None:
        return None
    if set(left.readings) & set(right.readings):
        return True
    whole = left.value.denominator == right.value.denominator == 1
    return False if whole and not (left.percent or right.percent) else None


def _integer(text: str) -> tuple[bool, str]:
    """Sign and digits, so that numerals of any length compare in linear time."""
    digits = text.lstrip("+-").lstrip("0")
    return text.startswith("-") and bool(digits), digits


def equal(gold: str, answer: str) -> float | None:
    """1.0 or 0.0 by math-verify; None when the truth cannot be parsed.

    May run without end on hostile input: call it in a grading worker.
    """
    quick = compare_quickly(gold, answer)
    if quick is not None:
        return float(quick)
    from foveal.rewards.latex import parse, same

    truth = parse(plain(gold))
    if truth is None:
        return None
    found = parse(plain(answer))
    return float(found is not None and same(truth, found))
