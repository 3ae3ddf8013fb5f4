r"""What a value can be given to: `x`, `x_1`, `AB`, `\\angle ABC`, `f(x)`, `V_1:V_2`, "area"."""

import re

from foveal.rewards.answers.expression import NotReadable, parse
from foveal.rewards.answers.value import variables

_NAME = re.compile(  # atomic, so that a long text cannot be read in two ways
    r"(?>\\?(?:angle|triangle|overline|overrightarrow|vec|odot|sin|cos|tan|ln|log|Delta|theta|alpha|beta|gamma"
    r"|lambda|phi|omega|rho|sigma|mu|frac|pi|epsilon|mathcal|min|max)(?![A-Za-z])"
    r"|[A-Za-z](?:_ ?(?:\{[^{}]{1,12}\}|[A-Za-z0-9]))?'?|[(){}|,:/]|\\[{}]|°|[0-9]| |μ|Ω){1,60}+"
)


def is_label(text: str) -> bool:
    """Whether a text is made of letters, figures of geometry and brackets alone."""
    return _NAME.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text can be what a value is given to: `x`, `AB`, `\\angle ABC`, `f(x)`, `V_1:V_2`, "area"."""
    if re.fullmatch(r"[A-Za-z][A-Za-z ]{2,40}", text):
        return True
    if _NAME.fullmatch(text) is None or not any(sign.isalpha() for sign in text):
        return False
    if re.fullmatch(r"\d+ ?[A-Za-z].*", text):
        return False
    if text.startswith("\\frac") or "/" in text:  # NO/BO is a name, x/4 is half an equation
        return not any(sign.isdigit() for sign in text)
    try:
        formula = parse(text)
    except NotReadable:
        return True
    letters = variables(formula)
    if formula.op == "mul":  # f(x), AB
        return bool(re.fullmatch(r"[A-Za-z]\([A-Za-z0-9,]+\)|[A-Z]{2,4}'?|[A-Z][a-z]", text.replace(" ", "")))
    return formula.op in ("var", "abs", "deg", "sin", "cos", "tan") and bool(letters)


_FIGURE = re.compile(
    r"(?:\\?(?P<kind>triangle|angle|overline|line|segment|ray|circle|odot|arc|quadrilateral|rectangle"
    r"|square) ?)?"
    r"\{? ?(?P<label>[A-Z]{1,6}|[1-9])\}?",
)
_CHEMICAL = re.compile(r"(?:[A-Z][a-z]?(?:_?\{?\d{1,2}\}?)?){1,12}")


def same_figure(gold: str, answer: str) -> bool | None:
    """Whether two figures or chemical formulas are the same; None where the truth names none.

    The word for the figure may be left out by either side: `\\triangle ABC` is `ABC`.
    """
    if _CHEMICAL.fullmatch(gold) and any(sign.isdigit() for sign in gold):
        plain = [re.sub("[_{} ]", "", text) for text in (gold, answer)]
        return True if plain[0] == plain[1] else None
    one, two = _FIGURE.fullmatch(gold), _FIGURE.fullmatch(answer)
    if one is None or not (one["kind"] or (two is not None and two["kind"] and len(one["label"]) > 1)):
        return None
    if two is None or one["label"] != two["label"] or (one["label"].isdigit() and not two["kind"]):
        return False
    return not (one["kind"] and two["kind"]) or one["kind"] == two["kind"]
