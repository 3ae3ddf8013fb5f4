r"""Whole answers that are another notation for one the grammar reads: column vectors and matrices as tuples,
`\{x \mid x > 3\}` as its condition, "no solution" as the empty set, "all real numbers" as `\R`.
"""

import re

_MATRIX = re.compile(
    r"(?:\\left ?[\[(]|[\[(])? ?\\begin\{(?:[pb]|small)?(?:matrix|array)\} ?(?:\{[clr| ]{1,12}\})?"
    r"([^{}]*(?:\{[^{}]*\}[^{}]*)*)"
    r"\\end\{(?:[pb]|small)?(?:matrix|array)\} ?(?:\\right ?[\])]|[\])])?"
)
_BUILDER = re.compile(r"\\?\{ ?[a-z](?: ?\\in ?\\R)? ?[|:] ?([^{}|]+?) ?\\?\}")
_NOTHING = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set",
     "{}", "\\{\\}", "\\{ \\}")
)  # fmt: skip
_ALL = frozenset(
    ("all real numbers", "all reals", "any real number", "every real number", "all real", "the real numbers")
)
_NUMBER = r"([^<>|\\=]{1,40}|\\frac\{\d+\}\{\d+\})"
_ABSOLUTE = re.compile(rf"\|([a-z])\| ?(<|\\le|>|\\ge) ?{_NUMBER}")
_RING = re.compile(rf"{_NUMBER} ?(<|\\le) ?\|([a-z])\| ?(<|\\le) ?{_NUMBER}")


def rows_as_tuples(text: str) -> str:
    r"""A matrix as a tuple of its rows, a vector as a tuple of its entries; other texts unchanged.

    >>> rows_as_tuples(r"\begin{pmatrix}1 \\ 2\end{pmatrix}")
    '(1, 2)'
    >>> rows_as_tuples(r"\begin{bmatrix}1&2\\3&4\end{bmatrix}")
    '((1, 2), (3, 4))'
    """
    if "\\begin" not in text:
        return text
    match = _MATRIX.fullmatch(text.strip().strip("$").rstrip(". ").strip())
    if match is None:
        return text
    rows = [
        row.strip() for row in re.split(r"\\\\(?:\[[^\]]{0,8}\])?|\\cr(?![A-Za-z])", match[1]) if row.strip()
    ]
    table = [[cell.strip() for cell in row.split("&")] for row in rows]
    if not table or len({len(row) for row in table}) != 1 or not all(all(row) for row in table):
        return text
    if len(table) == 1 or len(table[0]) == 1:
        return f"({', '.join(cell for row in table for cell in row)})"
    return f"({', '.join('(' + ', '.join(row) + ')' for row in table)})"


def rewritten(text: str) -> str:
    r"""The cleaned text in the notation that the other rules read.

    >>> rewritten("no solution"), rewritten(r"\{x | x > 3\}"), rewritten("|x| < 2")
    ('\\emptyset', 'x > 3', '-(2) < x < 2')
    """
    lower = text.lower()
    if lower in _NOTHING:
        return "\\emptyset"
    if lower in _ALL:
        return "\\R"
    builder = _BUILDER.fullmatch(text)
    if builder is not None:
        text = builder[1]
    ring = _RING.fullmatch(text)
    if ring is not None:
        low, first, name, second, high = (part.strip() for part in ring.groups())
        return f"-({high}) {second} {name} {first} -({low}) or {low} {first} {name} {second} {high}"
    absolute = _ABSOLUTE.fullmatch(text)
    if absolute is None:
        return text
    name, sign, bound = absolute[1], absolute[2], absolute[3].strip()
    if sign in ("<", "\\le"):
        return f"-({bound}) {sign} {name} {sign} {bound}"
    turned = "<" if sign == ">" else "\\le"
    return f"{name} {turned} -({bound}) or {name} {sign} {bound}"
