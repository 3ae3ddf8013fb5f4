r"""Reads short answers without a computer algebra system: tidy text, and plain numbers as exact fractions."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
"""Longer numerals are left to math-verify: exact arithmetic on them would cost time in the caller."""

MAX_EXPONENT = 300
"""Larger powers of ten are left to math-verify, for the same reason."""

_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
    | {ord(mark): " " + fraction for mark, fraction in _VULGAR.items()}
    | {
        ord("−"): "-",
        ord("–"): "-",
        ord("⁄"): "/",
        ord("°"): "^\\circ ",
        ord("π"): "\\pi ",
        ord("×"): "\\times ",
    }
    | {ord("·"): "\\cdot ", ord("√"): "\\sqrt ", ord("\u00a0"): " ", ord("\u2009"): " ", ord("\u202f"): " "}
    | {ord("²"): "^2", ord("³"): "^3", ord("≤"): "\\le ", ord("≥"): "\\ge ", ord("∞"): "\\infty "}
)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"\\[,;:! ]|\\(?:q?quad|left|right|displaystyle)(?![A-Za-z])|~")
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*$")
_MIXED = re.compile(r"(?P<sign>[+-]?)\s*(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)")
_LETTER = re.compile(r"\(([A-Za-z])\)")

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:\\?\$|€|£)?\s*(?:"
    rf"(?P<whole>\d+)(?:\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)|\s*\\frac\s*\{{\s*(?P<top2>\d+)\s*\}}\s*\{{\s*(?P<bottom2>\d+)\s*\}})"
    r"|\\frac\s*(?:\{\s*(?P<num>[+-]?\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<den>\d+(?:\.\d+)?)\s*\}|(?P<num1>\d)(?P<den1>\d))"
    rf"|(?P<plain>{_UNSIGNED})(?:\s*/\s*(?P<over>{_UNSIGNED})"
    r"|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*(?P<exp>[+-]?\d+)\s*\}|(?P<exp1>[+-]?\d+))|[eE](?P<exp2>[+-]?\d+))?"
    r")\s*(?P<percent>\\?%)?"
)
_UNIT = re.compile(r"\s*(?:[A-Za-zµΩ]{1,14}(?:\s*(?:/|per)\s*[A-Za-z]{1,14})?\s*(?:\^\s*\{?[-]?\d\}?)?)?\s*")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A plain number; `percent` when it was written with a percent sign; `value` is what stands before it."""

    value: Fraction
    percent: bool = False

    @property
    def readings(self) -> tuple[Fraction, ...]:
        """What the number may mean: 25 % is 25, and 0.25."""
        return (self.value, self.value / 100) if self.percent else (self.value,)


def plain(text: str) -> str:
    r"""ASCII LaTeX for the characters that models and data sets write instead: `−5`, `９π`, `７½`, `45°`.

    A mixed number in digits becomes a sum, which math-verify would read as a product: `7 3/4` -> `(7+3/4)`.
    """
    text = text.translate(_CHARACTERS).replace("{,}", ",").strip()
    mixed = _MIXED.fullmatch(text)
    return f"{mixed['sign']}({mixed['whole']}+{mixed['top']}/{mixed['bottom']})" if mixed else text


def tidy(text: str) -> str:
    r"""The text in one spelling: without math delimiters, font commands, extra spacing and final full stop.

    >>> tidy(r"$\text{the  blue one}$."), tidy(r"\left( C \right)"), tidy(r"\dfrac{1}{2}")
    ('the blue one', 'C', '\\frac{1}{2}')
    """
    text = text.translate(_CHARACTERS).replace("{,}", ",").strip().removesuffix(".")
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)]
    if "\\" in text:
        text = _WRAPPED.sub(r"\1", text)
        text = _SPACING.sub(" ", text)
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
        text = _DEGREES.sub("", text)
    text = " ".join(text.split()).removesuffix(".").strip()
    text = text.replace("( ", "(").replace(" )", ")").replace("[ ", "[").replace(" ]", "]").replace(", ", ",")
    letter = _LETTER.fullmatch(text)
    return letter[1] if letter else text


def read_number(text: str, *, units: bool = False) -> Quantity | None:
    r"""A plain number: integer, decimal, fraction, mixed or scientific; None for anything else.

    Thousands separators, a currency sign and a percent sign may be there; `units` allows a unit behind it
    (`12 cm^2`). Numerals of more than 400 digits are not read.

    >>> read_number(r"1,234.50").value, read_number("7 3/4").value, read_number(r"3\times 10^{-2}").value
    (Fraction(2469, 2), Fraction(31, 4), Fraction(3, 100))
    """
    text = tidy(text)
    match = _NUMBER.match(text) if len(text) <= MAX_DIGITS else None
    if match is None:
        return None
    rest = text[match.end() :]
    if rest and not (units and _UNIT.fullmatch(rest)):
        return None
    value = _value(match)
    if value is None:
        return None
    return Quantity(value=-value if match["sign"] == "-" else value, percent=match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction | None:
    if match["whole"]:
        top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
        return None if int(bottom) == 0 else int(match["whole"]) + Fraction(int(top), int(bottom))
    if match["plain"] is None:
        num, den = match["num"] or match["num1"], match["den"] or match["den1"]
        return None if Fraction(den) == 0 else Fraction(num) / Fraction(den)
    value = _decimal(match["plain"])
    if match["over"]:
        below = _decimal(match["over"])
        return None if below == 0 else value / below
    exponent = match["exp"] or match["exp1"] or match["exp2"]
    if exponent is None:
        return value
    if len(exponent) > 4 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(exponent)


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").removesuffix("."))
