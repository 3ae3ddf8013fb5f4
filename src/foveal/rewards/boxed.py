r"""Finds where a completion states its answer: the last `\boxed{}`, or a closing statement."""

import re

_TOKEN = re.compile(r"\\{1,2}boxed\s*\{|\\.|[{}]", re.DOTALL)
_TAKEN_BACK = re.compile(
    r"(?<![A-Za-z])(?:no|not|wait|but|then|instead|actually|or rather|wrong)(?![A-Za-z])|\n\s*\n", re.I
)
_JOINER = re.compile(r"[,;、和与&]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\q?quad")
_ONLY_JOINS = re.compile(
    r"(?:[$ \\\n()\[\],;、和与及或&]|\\text ?\{ ?(?:and|or|,) ?\}|(?<![A-Za-z])(?:and|or|q?quad)(?![A-Za-z])"
    r"|(?<![A-Za-z])[a-zA-Z](?:_\{?\d\}?)? ?= ?)*+",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:please )?(?:see|refer to|as shown in)(?: the| above| below)* ?(?:figure|image|picture|diagram"
    r"|solution|explanation|graph|table|text|above|below|attached)s?(?: above| below)?"
    r"|(?:the )?answers? (?:may|will|can|could)? ?vary|varies|answers? not (?:given|available|provided)"
    r"|no answer(?: given| provided)?|not (?:given|available|provided)|to be determined|tbd|nan|null"
    r"|open[- ]ended|略|见解析|见图|如图所示|答案不唯一|无答案",
    re.IGNORECASE,
)
_SAYS = re.compile(r"[^\W_]|[<>=+×√✓✗≥≤≠∅∞①-⑳]|\\[a-zA-Z]|\{ ?\\?\}")
_CLOSING = re.compile(
    r"(?:^|[.;,] ?|\s)(?:the |final |correct )*(?:answer|答案)(?: ?is| ?为| ?是|:|：)+ ?:? ?(.{1,200})$",
    re.IGNORECASE,
)
MAX_GAP = 60
"""Characters between two boxes that belong together."""
MAX_BOXES = 20
MAX_STATEMENT = 400
MAX_GOLD = 1000
"""Characters of a truth; longer ones are solutions."""
MAX_WORDS = 60
MAX_LINES = 6
_STATEMENT = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:the )?(?:final |correct )?(?:answer|option|choice) ?"
    r"(?:is|:)? ?:? ?(.+)",
    re.IGNORECASE,
)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance; None when there is none.

    Of nested boxes the innermost counts; `\{` and `\}` do not; white space before the brace is allowed, as
    in LaTeX. One pass over the text, so that a completion of unclosed boxes cannot stall the caller.

    >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    found = _boxes(text)
    return None if not found else text[found[-1][0] : found[-1][1]].strip()


def boxes_together(text: str, *, strict: bool = False) -> str | None:
    r"""The last boxes of the answer as one list, where a comma, "and" or nothing joins them; else None.

    Between two boxes at most `MAX_GAP` characters may stand, and none that takes the first back ("no",
    "wait", "then"). Boxes of the reasoning in front of `</think>` do not count. `strict`, for truths: nothing
    but what joins may stand between, and equal boxes count once.

    >>> boxes_together(r"So $\boxed{1}$ apples and $\boxed{-2}$ pears.")
    '1, -2'
    """
    after = text.rfind("</think>")
    found = [(start, end) for start, end in _boxes(text) if start > after]
    kept = found[-1:]
    for start, end in reversed(found[:-1]):
        gap = text[end + 1 : kept[0][0]]
        between = gap.rpartition("\\boxed")[0]
        if len(gap) > MAX_GAP + len("\\boxed{") or not _joins(between):
            break
        if strict and _ONLY_JOINS.fullmatch(between) is None:
            break
        kept.insert(0, (start, end))
    if not 1 < len(kept) <= MAX_BOXES:
        return None
    found_texts = [text[start:end].strip() for start, end in kept]
    return ", ".join(dict.fromkeys(found_texts) if strict else found_texts)


def _joins(gap: str) -> bool:
    if _TAKEN_BACK.search(gap):
        return False
    return not gap.strip("$ \\()[]\n") or _JOINER.search(gap) is not None


def _boxes(text: str) -> list[tuple[int, int]]:
    """Start and end of what balanced boxes hold, by start; of nested ones the innermost alone."""
    if "\\boxed" not in text:
        return []
    opened: list[tuple[int, bool]] = []
    found: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "}":
            if opened:
                start, is_box = opened.pop()
                # An inner box closes first, and starts behind this one.
                if is_box and (not found or found[-1][0] < start):
                    found.append((start, match.start()))
        elif token[-1] == "{" and token != "\\{":
            opened.append((match.end(), token != "{"))
    return found


def reduce_gold(text: str) -> str | None:
    r"""The answer that a data set's truth states; None where it states none.

    Of `<answer>` tags the last pair counts, else what follows the reasoning (`</think>`); in that the last
    boxes, the text behind `####`, or the closing statement ("The answer is 7."). A text without any of them
    is the answer itself, unless it is as long as a solution.

    >>> reduce_gold(r"<think>try \boxed{7}</think> <answer> B </answer>"), reduce_gold("so 2+2=4\n#### 4")
    ('B', '4')
    """
    text = text.strip()
    tagged = _tagged(text)
    if tagged is None and "<think>" in text and "</think>" not in text:
        return None
    rest = (text.rpartition("</think>")[2] if tagged is None else tagged).strip()
    if "\\boxed" in rest:
        found = boxes_together(rest, strict=True) or last_boxed(rest)
        return found if found and states_answer(found) else None
    if "####" in rest:
        rest = rest.rpartition("####")[2].strip()
    line = rest.splitlines()[-1].strip(" *") if rest else ""
    match = _CLOSING.search(line[-MAX_STATEMENT:])
    if match is not None:
        rest = match[1].strip(" *").removesuffix(".")
    rest = _unwrapped(rest)
    return rest if rest and not _is_solution(rest) and states_answer(rest) else None


def states_answer(text: str) -> bool:
    """Whether a text says anything that an answer can be equal to: no blank, mark or remark in its place.

    >>> [states_answer(text) for text in ("7", ">", "____", "?", "Answers may vary.", "see the figure above")]
    [True, True, False, False, False, False]
    """
    text = text.strip()
    return _SAYS.search(text) is not None and _PLACEHOLDER.fullmatch(text.strip(" .()[]")) is None


def _tagged(text: str) -> str | None:
    """What the last `<answer>` tag holds; None without one. A tag that is not closed holds the rest."""
    lower = text.lower() if len(text.lower()) == len(text) else text
    start = lower.rfind("<answer>")
    if start < 0:
        return None
    end = lower.find("</answer>", start)
    return text[start + len("<answer>") : len(text) if end < 0 else end]


def _unwrapped(text: str) -> str:
    """Without dollar signs that enclose all of the text."""
    for sign in ("$$", "$"):
        inner = text[len(sign) : -len(sign)]
        if len(text) > 2 * len(sign) and text.startswith(sign) and text.endswith(sign) and "$" not in inner:
            return inner.strip()
    return text


def _is_solution(text: str) -> bool:
    """Whether a text is too long to be a short answer: a derivation whose result nothing marks."""
    if "\\begin{" in text and len(text) <= MAX_GOLD:
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    return len(text) > MAX_GOLD or len(text.split()) > MAX_WORDS or len(lines) > MAX_LINES


def statement(text: str) -> str:
    """What the last line says after the reasoning: "The answer is (B)." gives "(B)", and "B" gives "B".

    >>> statement("<think>A or B?</think> So the answer is **B**.")
    'B'
    """
    lines = text.rpartition("</think>")[2].strip().splitlines()
    line = " ".join(lines[-1].split()).strip(" *.") if lines else ""
    if len(line) > MAX_STATEMENT:
        return ""
    match = _STATEMENT.fullmatch(line)
    return match[1].strip(" *.") if match else line
