"""Answers in words: `the blue one`, `yes`, `是`, a name; and numbers written as words."""

import re

_WORDS = re.compile(r"[^\W\d_]++(?:(?:['.-]{1,2}+ ?| )[^\W\d_]++)*+\.?")
_ARTICLE = re.compile(r"^(?:the (?=.)|an? (?=[^\W\d_]{2}))")
_DROPPED = re.compile(r"[\"'`?]|\.(?!\d)|(?<=[^\W\d_]{2})!|(?<!\S)!|\*(?!\d)(?<!\d\*)")
_ABBREVIATED = re.compile(r"(?<=[^\W\d_])\.(?=\d)")
_TRUTH = {"t": "true", "f": "false", "y": "yes", "n": "no"}
_BETWEEN = re.compile(r"(?<=[^\W_]) ?[-_/]+ ?(?=[^\W_])")
_LONG = 3
"""Letters from which a word is sure to be one, and no letter of a formula."""
_YES, _NO = "yes", "no"
_SAME = {
    "true": _YES, "correct": _YES, "是": _YES, "是的": _YES, "对": _YES, "正确": _YES, "yeah": _YES,
    "yep": _YES, "dne": "does not exist", "false": _NO, "incorrect": _NO, "否": _NO, "不是": _NO, "不": _NO,
    "错": _NO, "错误": _NO, "不对": _NO, "不正确": _NO, "nope": _NO,
    "first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th",
    "seventh": "7th", "eighth": "8th", "ninth": "9th", "tenth": "10th",
}  # fmt: skip
_ONES = {
    word: n
    for n, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_STEPS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4,
          "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8,
          "tenth": 10, "tenths": 10}  # fmt: skip
_START = re.compile(r"(?:negative |minus )?[A-Za-z]+(?:[ -][A-Za-z]+)*")
_ONE_OF = re.compile(r"^an? (?=(?:hundred|thousand|million|billion|dozen)(?![A-Za-z]))", re.IGNORECASE)
_MINUS = re.compile(r"^(?:negative|minus) (?=[\d.])", re.IGNORECASE)
_LIST = re.compile(r"[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|&|和|、")
_CIRCLED = re.compile("[①-⑳][①-⑳, ]*")
_PLACED = re.compile(r"^(?:on|in|at|to) (?:the )?(?=.)")
_PLACES = frozenset("left right top bottom middle center centre front back".split())
_FIRST_WORD = re.compile(r"(yes|no|true|false)[,.;:!] (.*)", re.IGNORECASE)


def is_text(text: str) -> bool:
    """Whether the text is made of words alone, one of two letters or more (or an ideograph)."""
    return _WORDS.fullmatch(text) is not None and any(
        len(word) > 1 or ord(word[:1] or "a") > 0x2E7F for word in re.split("[ -]", text)
    )


def is_prose(text: str) -> bool:
    """Whether the text is language rather than a formula: most of it letters, with words of four or more."""
    if "\\" in text or "=" in text or "^" in text:
        return False
    letters = sum(sign.isalpha() or sign == " " for sign in text)
    long = sum(len(word) >= 4 or ord(word[:1] or "a") > 0x2E7F for word in re.split(r"[^\w]+", text))
    return bool(long) and 10 * letters >= 6 * len(text)


def is_ordinal(text: str) -> bool:
    """Whether the text is a place in an order: `3rd`."""
    return re.fullmatch(r"\d{1,4}(?:st|nd|rd|th)", text) is not None


def plain_words(text: str) -> str:
    """The text without case, punctuation, hyphens of words and a leading article.

    Numbers keep their sign and point, and so do signs between single letters.

    >>> plain_words("The Blue-green one!"), plain_words("by -2.5 V."), plain_words("x-y")
    ('blue green one', 'by -2.5 v', 'x-y')
    """
    text = _DROPPED.sub("", _ABBREVIATED.sub(" ", text))
    text = _ARTICLE.sub("", _BETWEEN.sub(_between, text).casefold().strip(), count=1)
    text = " ".join(text.split()).strip(" ,;:")
    if text.startswith("(") and text.endswith(")") and not any(sign.isdigit() for sign in text):
        text = text[1:-1].strip()
    text = text.replace(" ,", ",")
    return _SAME.get(text, text)


def _between(found: re.Match[str]) -> str:
    """A hyphen, dash or slash between words is a space; in front of a number or a letter it is a sign."""
    text, (start, end) = found.string, found.span()
    before, after = text[max(0, start - _LONG) : start], text[end : end + _LONG]
    word, follows = _is_word(before, -1), _is_word(after, 0)
    if before[-1].isalpha() and after[0].isalpha():
        return " " if word or follows else found[0]
    tight = " " not in found[0] and "/" not in found[0]
    if (word and after[0].isdigit()) or (follows and before[-1].isdigit()):
        return " " if tight else found[0]
    return found[0]


def _is_word(text: str, at: int) -> bool:
    """Whether the letters on one side of a sign are a word: three of them, or two that are not `AB`."""
    near = text[-2:] if at else text[:2]
    short = len(near) == 2 and near.isalpha() and not near.isupper()
    return short or (len(text) == _LONG and text.isalpha()) or ord(text[at]) > 0x2E7F


def truth_values(gold: str, answer: str) -> bool | None:
    """Whether `T` or `F` and a word for it say the same; None where neither is such a letter with a word."""
    one, two = gold.casefold(), answer.casefold()
    if (one in _TRUTH) == (two in _TRUTH) or not {one, two} & set(_TRUTH.values()):
        return None
    return _TRUTH.get(one, one) == _TRUTH.get(two, two)


def same_words(gold: str, answer: str) -> bool:
    """Whether two texts say the same words; "Yes, it is" says yes."""
    one, two = plain_words(gold), plain_words(answer)
    if one == two:
        return True
    if one.replace(" ", "") == two.replace(" ", "") and _hyphened(gold, answer):  # north-east
        return True
    if _PLACED.sub("", two, count=1) == one and one in _PLACES:  # "on the left" says left
        return True
    if _CIRCLED.fullmatch(gold) and _CIRCLED.fullmatch(answer):
        return _circles(gold) == _circles(answer)
    names = [sorted(filter(None, map(plain_words, _LIST.split(text)))) for text in (gold, answer)]
    if len(names[0]) > 1 and names[0] == names[1]:  # "Tom and Jerry", "Jerry, Tom"
        return True
    first = _FIRST_WORD.fullmatch(answer.strip())
    if one in (_YES, _NO) and first is not None:
        opposite = {"yes", "no", "not", "true", "false"} - {first[1].lower()}
        return plain_words(first[1]) == one and not opposite & set(plain_words(first[2]).split())
    return False


def _hyphened(gold: str, answer: str) -> bool:
    return ("-" in gold or "-" in answer) and not any(sign.isdigit() for sign in gold + answer)


def _circles(text: str) -> list[str]:
    return sorted(sign for sign in text if _CIRCLED.fullmatch(sign) and sign not in ", ")


def with_digits(text: str) -> str:
    """A number in words at the start of the text, as digits: "twenty-four apples" is "24 apples".

    >>> with_digits("two thirds"), with_digits("three hundred and five km"), with_digits("someone")
    ('2/3', '305 km', 'someone')
    """
    if not text or not text[0].isalpha() or _START.match(text) is None:
        return text
    text = _MINUS.sub("-", text)
    text = _ONE_OF.sub("1 ", text)
    if text.lower() in ("half", "a half", "one half", "one-half"):
        return "1/2"
    words = re.split(r"(?:(?<=[A-Za-z])-(?=[A-Za-z])| )", text)
    minus = words[0].lower() in ("negative", "minus")
    value, used = _number(words[minus:])
    if not used:
        return text
    used += minus
    rest = words[used:]
    sign = "-" if minus else ""
    if rest and rest[0].lower() in _PARTS and value:
        return " ".join([f"{sign}{value}/{_PARTS[rest[0].lower()]}", *rest[1:]])
    return " ".join([f"{sign}{value}", *rest])


def _number(words: list[str]) -> tuple[int, int]:
    """The value of the number words in front, and how many they are."""
    total = section = used = 0
    last = 10**9
    for n, word in enumerate(word.lower() for word in words):
        if word in _ONES and last >= (20 if _ONES[word] < 10 and last != 100 else 100):
            section, last = section + _ONES[word], 0
        elif word in _TENS and last >= 100:
            section, last = section + _TENS[word], 20
        elif word in _STEPS and used:
            step = _STEPS[word]
            if step == 100:
                section *= 100
            else:
                total, section = total + section * step, 0
            last = max(step, 100)
        elif (
            word == "and"
            and last >= 100
            and used
            and n + 1 < len(words)
            and words[n + 1].lower() in _ONES | _TENS
        ):
            continue
        else:
            break
        used = n + 1
    return total + section, used
