r"""Finds where a completion states its answer: the last `\boxed{}`, or a closing statement."""

import re

_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
MAX_WORDS = 60
"""Words of a truth; longer ones are solutions whose result nothing marks."""
_THINK = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_STATEMENT = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*:?\s*(.+)",
    re.IGNORECASE,
)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance; None when there is none.

    Of nested boxes the innermost counts; `\{` and `\}` do not; white space before the brace is allowed, as
    in LaTeX. One pass over the text, so that a completion of unclosed boxes cannot stall the caller.

    >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    if "\\boxed" not in text:
        return None
    opened: list[tuple[int, bool]] = []
    best: tuple[int, int] | None = None
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "}":
            if opened:
                start, is_box = opened.pop()
                if is_box and (best is None or start > best[0]):
                    best = (start, match.start())
        elif token[-1] == "{" and token != "\\{":
            opened.append((match.end(), token != "{"))
    return None if best is None else text[best[0] : best[1]].strip()


def gold_text(answer: str) -> str:
    r"""A data set's answer without the `\boxed{}` and dollar signs that some sets store it in.

    >>> gold_text(r"$\boxed{21}$")
    '21'
    """
    boxed = last_boxed(answer)
    return (answer if boxed is None else boxed).strip().strip("$").strip()


def reduce_gold(text: str) -> str | None:
    r"""The answer that a data set's truth states; None where it states none.

    The last `<answer>`, else the last box outside the reasoning, else all of the text unless it is as long as
    a solution.

    >>> reduce_gold(r"<think>maybe \boxed{7}</think> <answer> B </answer>")
    'B'
    """
    outside = _THINK.sub("", text)
    tagged = _ANSWER.findall(outside)
    rest = tagged[-1] if tagged else outside
    boxed = last_boxed(rest)
    found = (rest if boxed is None else boxed).strip()
    return found if found and (boxed is not None or len(found.split()) <= MAX_WORDS) else None


def statement(text: str) -> str:
    """What the last line says after the reasoning: "The answer is (B)." gives "(B)", and "B" gives "B".

    >>> statement("<think>A or B?</think> So the answer is **B**.")
    'B'
    """
    lines = text.rpartition("</think>")[2].strip().splitlines()
    if not lines:
        return ""
    line = lines[-1].strip(" *.")
    match = _STATEMENT.fullmatch(line)
    return match[1].strip(" *.") if match else line
