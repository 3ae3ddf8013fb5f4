r"""How a completion is laid out: thoughts between tags, then a box; and white space at the tags.

Source: arXiv:2507.06448, released reward function. Its pattern `<think>.*</think>.*\\boxed\{.*\}.*` and
its removal of white space backtrack without bound; both are done here from left to right.
"""

import re

_OPEN_TAG = {True: re.compile(r"\s*<\s*think\s*>"), False: re.compile(r"<think>")}
_CLOSE_TAG = {True: re.compile(r"<\s*/\s*think\s*>"), False: re.compile(r"</think>")}
_TAG_MARK = re.compile(r"([<>/])")


def thinks_then_boxes(text: str, *, allow_spaces: bool) -> bool:
    r"""Whether the whole text reads `<think>...</think>...\boxed{...}...`.

    `allow_spaces`: white space around `<`, `>` and `/` does not matter, also in front.

    >>> thinks_then_boxes("< think >a< / think > \\boxed{1}", allow_spaces=True)
    True
    """
    opening = _OPEN_TAG[allow_spaces].match(text)
    closing = _CLOSE_TAG[allow_spaces].search(text, opening.end()) if opening else None
    box = text.find("\\boxed{", closing.end()) if closing else -1
    return box >= 0 and text.find("}", box) >= 0


def without_tag_spaces(text: str) -> str:
    """The text without white space around each `<`, `>` and `/`, those in formulas too.

    >>> without_tag_spaces(" < think > 7 / 8")
    '<think>7/8'
    """
    pieces = _TAG_MARK.split(text)
    last = len(pieces) - 1
    for n in range(0, len(pieces), 2):  # the marks stand between, at odd places
        if n < last:
            pieces[n] = pieces[n].rstrip()
        if n > 0:
            pieces[n] = pieces[n].lstrip()
    return "".join(pieces)
