r"""One spelling for the many ways in which people, models and data sets write the same answer.

Everything here runs in linear time. `clean` reads at most `MAX_LENGTH` characters; a longer text is no
short answer.
"""

import re
from collections.abc import Iterator

MAX_LENGTH = 1000
"""Characters that rules read. Longer answers are compared as strings only."""

_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "⁄": "/", "∕": "/", "÷": "/", "×": "\\times ",
    "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "π": "\\pi ", "∞": "\\infty ", "±": "\\pm ",
    "≤": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ",
    "∪": "\\cup ", "∈": "\\in ", "∅": "\\emptyset ", "∠": "\\angle ", "△": "\\triangle ", "º": "°",
    "˚": "°", "℃": "°C ", "℉": "°F ", "ℝ": "\\R ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ",
    "γ": "\\gamma ", "λ": "\\lambda ", "φ": "\\phi ", "ω": "\\omega ", "µ": "μ", "Ω": "Ω", "∶": ":",
    "，": ", ", "、": ", ", "。": ".", "．": ".", "；": "; ", "’": "'", "‘": "'", "“": '"', "”": '"',
    "′": "'", "∼": "~", "∣": "|", "【": "[", "】": "]", "〔": "(", "〕": ")", "\u200b": "", "\ufeff": "",
    "￥": "¥", "￡": "£", "\u200e": "", "\u2060": "",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
    | {ord(mark): " " + fraction for mark, fraction in _VULGAR.items()}
    | {ord(mark): sign for mark, sign in _SIGNS.items()}
)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉"
_RAISED_RUN = re.compile(f"[{_RAISED}]+")
_LOWERED_RUN = re.compile(f"[{_LOWERED}]+")
_TO_DIGITS = str.maketrans(_RAISED + _LOWERED, "0123456789+-0123456789")
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?"
    r"|boxed|fbox|underline|bm|boldsymbol|displaystyle|mathop) ?\{([^{}]*)\}"
)
_DELIMITERS = re.compile(r"\\[()\[\]]")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,? ?\\[!,] ?|, ?\\!(?:\\ )?)(?=\d{3}(?!\d))")
_SPACING = re.compile(
    r"\\[,;:!> ]|\\q?quad|\\(?:[bB]ig{1,2}[lrm]?|left|right|displaystyle|limits|,)(?![A-Za-z])|~"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_COLOUR = re.compile(r"\\(?:text)?color ?\{[A-Za-z]{1,12}\}")
_DEGREE = re.compile(r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})|\\degree(?![A-Za-z])|\\circ(?![A-Za-z])")
_TEMPERATURE = re.compile(r"° ?\{?([CF])\}?(?![A-Za-z])")
_SYNONYMS = {
    "\\leq": "\\le", "\\leqslant": "\\le", "\\geq": "\\ge", "\\geqslant": "\\ge", "\\lt": "<",
    "\\gt": ">", "\\neq": "\\ne", "\\varnothing": "\\emptyset", "\\div": "/", "\\ast": "*",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\lvert": "|", "\\rvert": "|", "\\vert": "|",
    "\\dots": "\\ldots", "\\colon": ":", "\\mid": "|", "\\varphi": "\\phi", "\\varepsilon": "\\epsilon",
    "\\bigcup": "\\cup", "\\lor": " or ", "\\land": " and ", "\\lbrack": "[", "\\rbrack": "]",
    "\\arcsin": "\\asin", "\\arccos": "\\acos", "\\arctan": "\\atan", "\\mp": "\\pm", "\\percent": "%",
    "\\pounds": "£", "\\euro": "€", "\\approxeq": "\\approx", "\\simeq": "\\approx", "\\ohm": "Ω",
    "\\langle": "(", "\\rangle": ")", "\\smallsetminus": "\\setminus", "\\Omega": "Ω", "\\mu": "μ",
}  # fmt: skip
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PLAIN = {
    "\\mathbb{R}": "\\R ",
    "\\mathbf{R}": "\\R ",
    "\\mathbb R": "\\R ",
    "\\%": "%",
    "\\&": " and ",
    "\\#": "#",
}
_OPENED, _CLOSED = "([{", ")]}"


def one_line(text: str) -> str:
    """The text with each run of white space as one space, so that later patterns meet one at a time."""
    return " ".join(text.split())


def clean(text: str) -> str:
    r"""The answer in one spelling: ASCII LaTeX without fonts, delimiters, spacing and final full stop.

    Degrees are `°`, percent is `%`, money in dollars is `$`. Texts over `MAX_LENGTH` come back as they are.

    >>> clean(r"$\text{The  blue one}$."), clean("６０°"), clean(r"\dfrac{1}{2}"), clean("（B）")
    ('The blue one', '60°', '\\frac{1}{2}', '(B)')
    """
    text = one_line(text)
    if len(text) > MAX_LENGTH:
        return text
    text = one_line(text.translate(_CHARACTERS)).strip("`")
    text = text[2:-2] if len(text) > 4 and text[:2] == text[-2:] == "**" else text
    text = _RAISED_RUN.sub(lambda run: "^{" + run[0].translate(_TO_DIGITS) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + run[0].translate(_TO_DIGITS) + "}", text)
    text = _without_delimiters(text)
    if "\\" in text or "{" in text:
        text = _without_fonts(text)
    text = _TEMPERATURE.sub(r" deg\1 ", text)
    text = text.replace("**", "^") if text.count("**") == 1 or "^" not in text else text
    return one_line(text).rstrip(".,;:\\ ").strip('"` ')


def _without_delimiters(text: str) -> str:
    """Math delimiters away; a dollar sign that pairs with none is money."""
    text = _DELIMITERS.sub(" ", text).replace("\\$", "\x01").replace("$$", "$")
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    return text.replace("\x01", "$")


def _without_fonts(text: str) -> str:
    text = _DOUBLED.sub(r"\\", text) if "\\begin" not in text else text  # JSON written twice
    for long, short in _PLAIN.items():
        text = text.replace(long, short)
    text = _COLOUR.sub("", _THOUSANDS.sub("", text))
    text = _SPACING.sub(" ", text)
    for _ in range(6):  # fonts inside fonts
        text, changed = _WRAPPED.subn(r" \1 ", text)
        if not changed:
            break
    text = _COMMAND.sub(lambda found: _SYNONYMS.get(found[0], found[0]), text)
    return _DEGREE.sub("°", _FRACTION.sub(r"\\frac", text))


def split(text: str, separators: str) -> list[str]:
    """The parts between separators that stand outside all brackets.

    >>> split("(1,2),3", ",")
    ['(1,2)', '3']
    """
    parts, start = [], 0
    for place, sign in _outside(text):
        if sign in separators:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _outside(text: str) -> Iterator[tuple[int, str]]:
    """Characters outside all brackets with their places."""
    depth = 0
    for place, sign in enumerate(text):
        if sign in _OPENED:
            depth += 1
        elif sign in _CLOSED:
            depth = max(0, depth - 1)
        elif depth == 0:
            yield place, sign


def outside(text: str, sign: str) -> bool:
    """Whether a character stands outside all brackets."""
    return any(found == sign for _, found in _outside(text))


def enclosed(text: str) -> bool:
    """Whether the first bracket closes at the very end: `(1,2)`, but not `(1)(2)`."""
    if len(text) < 2 or text[0] not in _OPENED or text[-1] not in _CLOSED:
        return False
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in _OPENED) - (sign in _CLOSED)
        if depth == 0:
            return place == len(text) - 1
    return False
