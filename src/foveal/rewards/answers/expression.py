r"""A grammar for the formulas that stand in answers: `4/3\pi`, `5√13`, `\frac{1}{2}x^{2}+3`, `\sin 30°`.

The parser knows each token that it takes by name and builds plain tuples; nothing is evaluated here and no
text reaches another parser. Read as people mean it: digits over digits are one coefficient (`1/2x` is
`(1/2)x`), other denominators take what is written next to them (`a/2b` is `a/(2b)`), `√13` and `2^10` take
all digits, `7 3/4` and `7\frac{3}{4}` are mixed numbers.
"""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_TOKENS = 300
MAX_DEPTH = 40
MAX_DIGITS = 400
MAX_POWER_OF_TEN = 1000
"""Larger exponents in `1e999` are not read: exact arithmetic on them would cost time in the caller."""

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda nu xi rho sigma tau phi chi psi omega".split()
)
FUNCTIONS = frozenset("sin cos tan cot sec csc asin acos atan sinh cosh tanh ln log lg exp".split())
_WORDS_AS_FUNCTIONS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_NOT_LETTERS = frozenset(
    "or and is no not cm mm km kg mg ml hr min sec deg to of in on at if yes the per".split()
)

_TOKEN = re.compile(
    r" ?(?:(?P<num>(?:\d+\.?\d*|\.\d+)(?:\\overline ?\{\d{1,20}\}|\\dot ?\{?\d\}?)?"
    r"(?:[eE][+-]?\d{1,6}(?!\d|\.))?)"
    r"|\\(?P<cmd>[A-Za-z]+)|(?P<word>[A-Za-z]+)|(?P<sign>[-+*/^_(){}\[\]|!√∛°']))"
)
_NUMERAL = re.compile(r"(\d*)\.?(\d*)(?:\\overline ?\{(\d+)\}|\\dot ?\{?(\d)\}?)?(?:[eE]([+-]?\d+))?")


class NotReadable(Exception):
    """The text is no formula of this grammar."""


class Node(NamedTuple):
    """One operation: `num` (value), `var` (name), `add`, `mul`, `div`, `pow`, `neg`, `root` (index,
    radicand), `abs`, `fact`, `deg`, `log` (base, argument) or a function by its name.
    """

    op: str
    args: tuple["Node", ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


class Token(NamedTuple):
    """A word of the formula; `spaced` when white space stands before it."""

    kind: str
    text: str
    spaced: bool


def tokens(text: str) -> list[Token]:
    """The words of a formula.

    Raises: NotReadable, at the first character that the grammar does not know.
    """
    found: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(found) >= MAX_TOKENS:
            if not text[place:].strip():
                break
            raise NotReadable(text)
        kind, spaced = match.lastgroup or "", match[0].startswith(" ")
        word = match[kind]
        if kind == "word" and _is_product(word):  # of `ab^2` only b is squared
            found.extend(Token(kind, letter, spaced and not n) for n, letter in enumerate(word))
        else:
            found.append(Token(kind, word, spaced))
        place = match.end()
    return found


def _is_product(word: str) -> bool:
    """Whether a word is letters that are multiplied, not a function, a constant or a unit."""
    named = word in FUNCTIONS or word in GREEK or word in _WORDS_AS_FUNCTIONS or word in ("pi", "sqrt")
    return 1 < len(word) <= 3 and not named and word.lower() not in _NOT_LETTERS


def numeral(text: str) -> Fraction:
    r"""The value of a numeral: `42`, `.5`, `1.6e-19`, `0.\overline{3}`.

    Raises: NotReadable, for more digits or a larger power than the limits.
    """
    match = _NUMERAL.fullmatch(text)
    if match is None or len(text) > MAX_DIGITS:
        raise NotReadable(text)
    whole, places, repeated = match[1], match[2], match[3] or match[4]
    value = Fraction(int(whole + places or "0"), 10 ** len(places))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(places))
    if match[5]:
        power = int(match[5])
        if abs(power) > MAX_POWER_OF_TEN:
            raise NotReadable(text)
        value *= Fraction(10) ** power
    return value


def parse(text: str) -> Node:
    """The formula as a tree.

    Raises: NotReadable.
    """
    return parse_tokens(tokens(text))


def parse_tokens(words: list[Token]) -> Node:
    """The formula as a tree.

    Raises: NotReadable.
    """
    parser = _Parser(words)
    node = parser.sum()
    if parser.place != len(words):
        raise NotReadable(" ".join(word.text for word in words))
    return node


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, words: list[Token]) -> None:
        self.words, self.place, self.depth, self.bars = words, 0, 0, 0

    def peek(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.words[place] if place < len(self.words) else Token("end", "", False)

    def take(self) -> Token:
        word = self.peek()
        self.place += 1
        return word

    def sign(self, *signs: str) -> bool:
        word = self.peek()
        return word.kind == "sign" and word.text in signs

    def expect(self, sign: str) -> None:
        if not self.sign(sign):
            raise NotReadable(self.peek().text)
        self.place += 1

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotReadable("nested too deep")
        parts = [self.term()]
        while self.sign("+", "-"):
            minus = self.take().text == "-"
            part = self.term()
            parts.append(Node("neg", (part,)) if minus else part)
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Node("add", tuple(parts))

    def term(self) -> Node:
        minus = False
        while self.sign("+", "-"):
            minus ^= self.take().text == "-"
        result = self.product()
        while True:
            if self.sign("*") or (self.peek().kind == "cmd" and self.peek().text in ("times", "cdot")):
                self.place += 1
                result = Node("mul", (result, self.signed()))
            elif self.sign("/"):
                self.place += 1
                result = self.quotient(result)
            else:
                return Node("neg", (result,)) if minus else result

    def signed(self) -> Node:
        """A product that may carry its own sign, as in `2*-3`."""
        if self.sign("-"):
            self.place += 1
            return Node("neg", (self.product(),))
        return self.product()

    def quotient(self, above: Node) -> Node:
        """Digits over digits, and anything over a bracket, are closed; others take what follows."""
        closed = (above.op == "num" and self.peek().kind == "num") or self.sign("(", "{")
        if not closed:
            return Node("div", (above, self.signed()))
        result = Node("div", (above, self.power()))
        return Node("mul", (result, self.product())) if self.starts_factor() else result

    def product(self) -> Node:
        """Factors without a sign between them."""
        factors = [self.mixed()]
        while self.starts_factor():
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))

    def starts_factor(self) -> bool:
        word = self.peek()
        if word.kind == "sign":
            return word.text in "({√∛" or (word.text == "|" and not self.bars)
        return word.kind == "word" or (word.kind == "cmd" and word.text not in ("times", "cdot"))

    def mixed(self) -> Node:
        """`7 3/4` and `7\\frac{3}{4}`, else a power."""
        whole = self.peek()
        if whole.kind == "num" and whole.text.isdigit():
            top, slash, bottom = self.peek(1), self.peek(2), self.peek(3)
            if top.kind == bottom.kind == "num" and slash.text == "/" and top.spaced:
                if top.text.isdigit() and bottom.text.isdigit() and self.peek(4).text != "^":
                    self.place += 4
                    below = numeral(bottom.text)
                    if not below:
                        raise NotReadable("a denominator of 0")
                    return Node("num", value=numeral(whole.text) + numeral(top.text) / below)
            if top.text == "frac":
                self.place += 1
                fraction = self.power()
                above = fraction.args[0] if fraction.op == "div" else fraction
                below_node = fraction.args[1] if fraction.op == "div" else fraction
                if above.op == below_node.op == "num" and 0 < above.value < below_node.value:
                    return Node("num", value=numeral(whole.text) + above.value / below_node.value)
                return Node("mul", (Node("num", value=numeral(whole.text)), fraction))
        return self.power()

    def power(self) -> Node:
        base = self.atom()
        start = self.place
        while True:
            if self.place > start + MAX_DEPTH:
                raise NotReadable("too many signs behind one value")
            if self.sign("!"):
                self.place += 1
                base = Node("fact", (base,))
            elif self.sign("°"):
                self.place += 1
                base = Node("deg", (base,))
            elif self.sign("^"):
                self.place += 1
                base = Node("pow", (base, self.exponent()))
            else:
                return base

    def exponent(self) -> Node:
        minus = self.sign("-")
        if self.sign("-", "+"):
            self.place += 1
        node = self.atom()
        if self.sign("^"):  # x^2^3 is x^(2^3) to some and an error to LaTeX
            raise NotReadable("a tower of powers")
        return Node("neg", (node,)) if minus else node

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotReadable("nested too deep")
        node = self.bare_atom()
        self.depth -= 1
        return node

    def bare_atom(self) -> Node:
        word = self.take()
        if word.kind == "num":
            if self.peek().kind == "num":
                raise NotReadable("two numbers side by side")
            return Node("num", value=numeral(word.text))
        if word.kind == "word":
            return self.letters(word.text)
        if word.kind == "cmd":
            return self.command(word.text)
        if word.text in ("(", "{"):
            node = self.sum()
            self.expect(")" if word.text == "(" else "}")
            return node
        if word.text == "|":
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect("|")
            return Node("abs", (node,))
        if word.text in ("√", "∛"):
            return Node("root", (Node("num", value=Fraction(2 if word.text == "√" else 3)), self.atom()))
        raise NotReadable(word.text)

    def letters(self, word: str) -> Node:
        word = _WORDS_AS_FUNCTIONS.get(word, word)
        if word in FUNCTIONS:
            return self.function(word)
        if word == "sqrt":
            return self.root()
        if word == "pi" or word in GREEK:
            return self.variable(word)
        if len(word) > 1:
            raise NotReadable(word)
        return self.variable(word)

    def variable(self, name: str) -> Node:
        if self.sign("_"):
            self.place += 1
            index = self.take()
            if index.text == "{":
                parts = []
                while not self.sign("}") and self.peek().kind in ("num", "word", "cmd"):
                    parts.append(self.take().text)
                self.expect("}")
                name += "_" + " ".join(parts)
            elif index.kind in ("num", "word") and len(index.text) <= 3:
                name += "_" + index.text
            else:
                raise NotReadable(index.text)
        return Node("var", name=name)

    def command(self, name: str) -> Node:
        if name == "frac":
            above, below = self.argument(), self.argument()
            if self.peek().kind == "num" and not self.peek().spaced:
                raise NotReadable("a fraction without braces")
            return Node("div", (above, below))
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function(name)
        if name == "pi" or name in GREEK:
            return self.variable(name)
        raise NotReadable(name)

    def argument(self) -> Node:
        """What a command takes: a group, or one sign; of a numeral its first digit."""
        word = self.peek()
        if word.kind == "num":
            if not word.text.isdigit():
                raise NotReadable(word.text)
            if len(word.text) > 1:
                self.words = list(self.words)
                self.words[self.place] = Token("num", word.text[1:], False)
            else:
                self.place += 1
            return Node("num", value=Fraction(int(word.text[0])))
        if word.text == "{" or word.kind == "cmd" or (word.kind == "word" and len(word.text) == 1):
            return self.atom()
        raise NotReadable(word.text)

    def root(self) -> Node:
        index = Node("num", value=Fraction(2))
        if self.sign("["):
            self.place += 1
            index = self.sum()
            self.expect("]")
        return Node("root", (index, self.atom()))

    def function(self, name: str) -> Node:
        base, power = None, None
        for _ in range(2):
            if self.sign("_"):
                self.place += 1
                base = self.subscript()
            elif self.sign("^"):
                self.place += 1
                power = self.exponent()
        if power is not None and power == Node("neg", (Node("num", value=Fraction(1)),)):
            name, power = "a" + name, None
        if name not in FUNCTIONS or (base is not None and name != "log"):
            raise NotReadable(name)
        argument = self.function_argument()
        node = Node(name, (argument,)) if base is None else Node("log", (base, argument))
        return node if power is None else Node("pow", (node, power))

    def subscript(self) -> Node:
        """The base of a logarithm: a numeral, a letter or a group."""
        if self.peek().kind == "num":
            return Node("num", value=numeral(self.take().text))
        return self.atom()

    def function_argument(self) -> Node:
        if self.sign("("):
            return self.power()
        factors = [self.mixed()]
        while self.starts_factor():
            word = self.peek()
            if word.text in FUNCTIONS or word.text in _WORDS_AS_FUNCTIONS:
                break
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))
