r"""The two normal forms that mathruler 0.1.0 gives an answer before it compares.

`math_form` follows the MATH data set's `is_equiv`, `prm_form` PRM800K's grader. Pure text, except that
`prm_form` has pylatexenc turn LaTeX into text. Time is linear in the length, pylatexenc apart.

Source: mathruler 0.1.0, as run on many answers; the quirks are kept, since verdicts hang on them (`7 3/4`
equals `73/4`, a unit's letters go wherever they stand, `Monday` becomes `mon`).
"""

import functools
import logging
import re
from collections.abc import Callable

_TEXT_ALONE = re.compile(r"\\text\{(.+)\}\n?")

_MATH_REPLACED = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_UNIT_TEXT = "\\text{ "
_MATH_REPLACED_LATER = (("%", ""), (" .", " 0."), ("{.", "{0."))
_PLAIN_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")


class _Unreadable(Exception):
    """A text that the MATH rules cannot take apart; it stays as it was."""


def math_form(answer: str) -> str:
    r"""The answer in the MATH data set's spelling; what its rules cannot take apart stays as it is.

    >>> math_form(r"x = \tfrac12"), math_form("1/2"), math_form(r".5\%"), math_form(r"12\text{ cm}")
    ('\\frac{1}{2}', '\\frac{1}{2}', '\\frac{1}{2}', '12')
    """
    answer = _bare(answer.strip()).strip()
    try:
        return _math_rules(answer)
    except _Unreadable:
        return answer


def _bare(text: str) -> str:
    r"""The content of a `\text{}` that is all there is."""
    match = _TEXT_ALONE.fullmatch(text)
    return match[1] if match else text


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    return functools.reduce(lambda found, pair: found.replace(*pair), pairs, text)


def _math_rules(text: str) -> str:
    text = _replaced(text, _MATH_REPLACED)
    text, *units = text.split(_UNIT_TEXT)
    if len(units) > 1:
        raise _Unreadable
    text = _replaced(text.replace("\\%", ""), _MATH_REPLACED_LATER)
    if text.startswith("."):
        text = "0" + text
    if not text:
        return text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _fill_fractions(_fill_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    match = _PLAIN_FRACTION.fullmatch(text)
    return f"\\frac{{{match[1]}}}{{{match[2]}}}" if match else text


def _fill_roots(text: str) -> str:
    r"""`\sqrt3` -> `\sqrt{3}`; a root of nothing is unreadable."""
    head, *pieces = text.split("\\sqrt")
    if not all(pieces):
        raise _Unreadable
    filled = (piece if piece[0] == "{" else f"{{{piece[0]}}}{piece[1:]}" for piece in pieces)
    return "\\sqrt".join((head, *filled))


def _fill_fractions(text: str) -> str:
    r"""`\frac12` -> `\frac{1}{2}`, `\frac1{72}` -> `\frac{1}{72}`; a final `\frac1` leaves all as it is."""
    head, *pieces = text.split("\\frac")
    filled = [head]
    for piece in pieces:
        if not piece:
            raise _Unreadable
        if piece[0] == "{":
            filled.append(piece)
        elif len(piece) == 1:
            return text
        else:
            below = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            filled.append(f"{{{piece[0]}}}{below}")
    return "\\frac".join(filled)


_PRM_REPLACED = (
    ("\\%", ""),
    ("\\$", ""),
    ("$", ""),
    ("%", ""),
    (" or ", " , "),
    (" and ", " , "),
    ("million", "*10^6"),
    ("billion", "*10^9"),
    ("trillion", "*10^12"),
)
_UNITS = tuple(
    re.compile(rf"{name}(?:es)?s? *(?:\^[0-9]+)?")
    for name in (
        "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard".split()
    )
)
"""One after the other: taking one away can bring another together."""
_DEGREE_SIGN = re.compile(r"\^ *\\circ")
_THIN_COMMA = re.compile(r",\\! *")
_MIXED_NUMBER = re.compile(r"([0-9]) +([0-9])")
_GROUP_COMMA = re.compile(r"(\d),(\d\d\d)($|\D)")
_FROM_LATEX = (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*"))


def prm_form(answer: str) -> str:
    r"""The answer in PRM800K's spelling: lower case, without units, `$`, `%`, spaces and braces.

    Raises: ConfigError, for an answer in LaTeX when pylatexenc is not installed.

    >>> prm_form("12 cm^2"), prm_form(r"\$1,234.0"), prm_form("-1 2/3"), prm_form(r"2\sqrt{X}")
    ('12', '1234', '-1+2/3', '2sqrt(x)')
    """
    text = _replaced(_bare(answer), _PRM_REPLACED)
    for unit in _UNITS:
        text = unit.sub("", text)
    text = _DEGREE_SIGN.sub("", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = _THIN_COMMA.sub("", text)
    value = _whole(text)
    text = text if value is None else str(round(value))
    if "\\" in text:
        text = _from_latex(text)
    text = _MIXED_NUMBER.sub(r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    value = _whole(without_group_commas(text))
    # Towards zero here, to the nearest above: 2,999.99999999 is 2999 and 2.99999999 is 3.
    return text if value is None else str(int(value))


def _whole(text: str) -> float | None:
    """The number that a text is, when it lies within 1e-7 of a whole one."""
    try:
        value = float(text)
        return value if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def is_whole(text: str) -> bool:
    """Whether the text is a number within 1e-7 of a whole one, commas between thousands allowed."""
    return _whole(without_group_commas(text)) is not None


def without_group_commas(text: str) -> str:
    """The text without commas that stand between a digit and exactly three more.

    >>> without_group_commas("1,234,567"), without_group_commas("(1,23)")
    ('1234567', '(1,23)')
    """
    while (shorter := _GROUP_COMMA.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def _from_latex(text: str) -> str:
    """LaTeX as text that sympy can read; unchanged when pylatexenc gives up on it."""
    convert = latex_converter()
    spaced = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    try:
        return _replaced(convert(spaced), _FROM_LATEX).strip()
    except Exception:  # pylatexenc raises its own errors, IndexError, RecursionError, ...
        return text


def latex_converter() -> Callable[[str], str]:
    """pylatexenc's conversion of LaTeX to text, as it is by default.

    Raises: ConfigError, when pylatexenc is not installed.
    """
    try:
        from pylatexenc.latex2text import LatexNodes2Text
    except ImportError as error:
        # Not at the top: it loads pydantic, and a grading worker shall start without.
        from foveal.spec import ConfigError

        raise ConfigError(
            f"grading as mathruler does needs the package pylatexenc: {error}; "
            "pip install 'foveal[compat]', or use the reward type \"boxed\""
        ) from error
    # It warns of every malformed formula, and models write many.
    logging.getLogger("pylatexenc").setLevel(logging.ERROR)
    convert: Callable[[str], str] = LatexNodes2Text().latex_to_text
    return convert
