"""Right and wrong answers by kind, made from a seed: each kind writes a truth, forms that a teacher takes for
it, and mutations that no teacher does (another number, unit, sign, order of magnitude or option).
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Kind = Callable[[random.Random], "Case"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One truth with answers that are right and wrong."""

    gold: str
    right: list[str]
    wrong: list[str]
    meta: dict[str, Any] = field(default_factory=dict)
    question: str = "q"


KINDS: dict[str, Kind] = {}


def kind(make: Kind) -> Kind:
    KINDS[make.__name__] = make
    return make


def cases(each: int, *, seed: int) -> Iterator[tuple[str, Case]]:
    """`each` cases of every kind, the same for the same seed."""
    for name, make in KINDS.items():
        rng = random.Random(f"{seed}/{name}")
        for _ in range(each):
            yield name, make(rng)


def full_width(text: str) -> str:
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


def frac(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def proper(rng: random.Random, top: int = 9) -> Fraction:
    """A fraction that is not whole."""
    while True:
        value = Fraction(rng.randint(1, top), rng.randint(2, top))
        if value.denominator > 1:
            return value


@kind
def integers(rng: random.Random) -> Case:
    n = rng.randint(2, 99_999)
    return Case(
        gold=str(n),
        right=[
            f"{n}.0",
            f"+{n}",
            f"{n}.",
            f"${n}$",
            f"\\text{{{n}}}",
            f"{n:,}",
            f"x={n}",
            full_width(str(n)),
            f"≈{n}",
        ],
        wrong=[
            str(n + 1),
            str(-n),
            f"{n}0",
            f"{n}.5",
            f"1/{n}",
            f"{n}^2",
            f"{n}x",
            f"{n} million",
            f"not {n}",
            f"{n} or {n + 1}",
        ],
    )


@kind
def negatives(rng: random.Random) -> Case:
    n = rng.randint(1, 500)
    return Case(
        gold=f"-{n}",
        right=[
            f"−{n}",
            f"-{n}.00",
            f"- {n}",
            f"x = -{n}",
            f"-{n}/1",
            f"(-{n})",
            f"negative {n}" if n < 10 else f"-{n}",
        ],
        wrong=[str(n), f"-{n + 1}", f"1/{n + 1}", f"-{n}0", f"|{-n}|", f"-{n}/2"],
    )


@kind
def decimals(rng: random.Random) -> Case:
    whole, places = rng.randint(0, 99), rng.randint(1, 3)
    digits = str(rng.randint(1, 10**places - 1)).zfill(places).rstrip("0") or "5"
    value = f"{whole}.{digits}"
    exact = Fraction(value)
    return Case(
        gold=value,
        right=[
            value + "0",
            frac(exact),
            f"{exact.numerator}/{exact.denominator}",
            f"${value}$",
            full_width(value),
            f"approximately {value}",
        ],
        wrong=[
            f"{whole}{digits}",
            f"{whole + 1}.{digits}",
            value + "1",
            "-" + value,
            f"{whole}.0{digits}",
            str(whole),
        ],
    )


@kind
def thousands(rng: random.Random) -> Case:
    n = rng.randint(1_000, 9_999_999)
    return Case(
        gold=str(n),
        right=[
            f"{n:,}",
            f"{n:,}".replace(",", "{,}"),
            f"{n:,}".replace(",", ",\\!"),
            f"{n:,}".replace(",", " "),
            f"{n:,}.0",
            f"\\${n:,}",
        ],
        wrong=[
            f"{n:,}".replace(",", ", "),
            f"{n + 1:,}",
            f"{n:,},000",
            f"-{n:,}",
            f"({n:,})".replace(",", ", "),
        ],
    )


@kind
def fractions(rng: random.Random) -> Case:
    f, k = proper(rng), rng.randint(2, 5)
    a, b = f.numerator, f.denominator
    return Case(
        gold=frac(f),
        right=[
            f"{a}/{b}",
            f"\\dfrac{{{a}}}{{{b}}}",
            f"{a * k}/{b * k}",
            f"\\frac{a}{b}",
            f"{a} / {b}",
            f"{a}÷{b}",
            f"{a}⁄{b}",
            f"({a})/({b})",
        ],
        wrong=[
            f"{b}/{a}",
            f"{a + 1}/{b}",
            f"-{a}/{b}",
            f"{a}/{b + 1}",
            f"{a}{b}",
            f"{a}/{b}/{b}",
            f"\\frac{{{a}}}{{{b}0}}",
        ],
    )


@kind
def mixed_numbers(rng: random.Random) -> Case:
    w, b = rng.randint(1, 12), rng.randint(3, 9)
    a = rng.choice([n for n in range(1, b) if math.gcd(n, b) == 1])
    top = w * b + a
    return Case(
        gold=f"{top}/{b}",
        right=[
            f"{w} {a}/{b}",
            f"{w}\\frac{{{a}}}{{{b}}}",
            f"{w} \\frac{{{a}}}{{{b}}}",
            f"{w}+{a}/{b}",
            f"{w}又{b}分之{a}",
        ],
        wrong=[f"{w * a}/{b}", f"{w}/{b}", f"{w + 1} {a}/{b}", f"-{w} {a}/{b}", f"{a}/{b}", f"{w} {b}/{a}"],
    )


@kind
def roots(rng: random.Random) -> Case:
    n, k = rng.choice([2, 3, 5, 6, 7, 10, 11, 13, 15]), rng.randint(2, 9)
    return Case(
        gold=f"{k}\\sqrt{{{n}}}",
        right=[
            f"{k}√{n}",
            f"\\sqrt{{{k * k * n}}}",
            f"√{k * k * n}",
            f"{k}*sqrt({n})",
            f"{k} \\cdot \\sqrt{n}",
            f"√{n}·{k}",
            f"√({k * k * n})",
            f"{k}√({n})",
        ],
        wrong=[
            f"{k * n}",
            f"\\sqrt{{{k * n}}}",
            f"{n}√{k}" if n != k else "1",
            f"-{k}√{n}",
            f"{k}",
            f"{round(k * math.sqrt(n), 2)}",
            f"\\sqrt[3]{{{k * k * n}}}",
        ],
    )


@kind
def root_fractions(rng: random.Random) -> Case:
    n, a, b = rng.choice([2, 3, 5, 7]), rng.randint(1, 5), rng.choice([2, 4, 8, 11])
    return Case(
        gold=f"\\frac{{{a}\\sqrt{{{n}}}}}{{{b}}}",
        right=[
            f"{a}√{n}/{b}",
            f"{a}/{b}\\sqrt{{{n}}}",
            f"({a}√{n})/{b}",
            f"\\frac{{{a}}}{{{b}}}\\sqrt{n}",
            f"\\frac{{{a * n}}}{{{b}\\sqrt{{{n}}}}}",
        ],
        wrong=[
            f"\\frac{{{a}}}{{{b}\\sqrt{{{n}}}}}",
            f"{a}√{n}",
            f"{b}√{n}/{a}" if a != b else "1",
            f"-{a}√{n}/{b}",
            f"\\sqrt{{\\frac{{{a * n}}}{{{b}}}}}" if a != b else "0",
        ],
    )


@kind
def multiples_of_pi(rng: random.Random) -> Case:
    f = proper(rng)
    a, b = f.numerator, f.denominator
    return Case(
        gold=f"\\frac{{{a}}}{{{b}}}\\pi",
        right=[
            f"{a}/{b}\\pi",
            f"\\frac{{{a}\\pi}}{{{b}}}",
            f"{a}π/{b}",
            f"{a}\\pi/{b}",
            f"{a}/{b}π",
            f"\\pi\\cdot\\frac{{{a}}}{{{b}}}",
            f"{a}pi/{b}",
        ],
        wrong=[
            f"\\frac{{{a}}}{{{b}\\pi}}",
            f"{a}/{b}",
            f"{b}/{a}\\pi",
            f"-{a}/{b}\\pi",
            f"{a}π",
            f"{round(a / b * math.pi, 2)}",
            f"{a}/{b}\\pi^2",
        ],
    )


@kind
def powers(rng: random.Random) -> Case:
    b, e = rng.randint(2, 9), rng.randint(5, 14)
    return Case(
        gold=f"{b}^{{{e}}}",
        right=[str(b**e), f"{b}^{e}", f"{b**e:,}", f"{b}**{e}", f"{b}^{{{e - 1}}} \\cdot {b}"],
        wrong=[
            str(b * e),
            f"{e}^{b}" if b**e != e**b else "1",
            f"{b}^{{{e + 1}}}",
            f"{b}^{{-{e}}}",
            str(b**e + 1),
        ],
    )


@kind
def scientific(rng: random.Random) -> Case:
    m, e = rng.randint(11, 99), rng.choice([-31, -19, -8, -3, 4, 7, 11])
    mantissa = f"{m // 10}.{m % 10}"
    return Case(
        gold=f"{mantissa}\\times 10^{{{e}}}",
        right=[
            f"{mantissa}e{e}",
            f"{mantissa}×10^{e}",
            f"{mantissa} x 10^{{{e}}}",
            f"{m}\\times 10^{{{e - 1}}}",
            f"{mantissa}E{e}",
            f"{mantissa}*10^{e}",
        ],
        wrong=[
            f"{mantissa}e{e + 1}",
            f"{mantissa}e{-e}",
            f"{(m + 1) / 10:.1f}e{e}",
            mantissa,
            f"-{mantissa}e{e}",
            "9.1e-33",
            "0",
        ],
    )


@kind
def magnitudes(rng: random.Random) -> Case:
    n = rng.randint(2, 99)
    word, power = rng.choice([("million", 10**6), ("thousand", 10**3), ("billion", 10**9)])
    return Case(
        gold=f"{n} {word}",
        right=[str(n * power), f"{n * power:,}", f"{n}\\text{{ {word}}}", f"{n} {word} people"],
        wrong=[
            str(n),
            f"{n + 1} {word}",
            str(n * power * 10),
            f"{n} trillion",
            f"-{n} {word}",
            f"{n} people",
        ],
    )


UNITS = [
    ("cm", ["centimeters", "\\text{ cm}", "\\mathrm{cm}", "厘米"], ["kg", "cm^2", "s", "m"]),
    ("cm^2", ["cm²", "\\text{ cm}^2", "square centimeters", "平方厘米"], ["cm", "cm^3", "m^2", "kg"]),
    ("kg", ["kilograms", "\\text{kg}", "千克"], ["g", "m", "lb", "N"]),
    ("km/h", ["km per hour", "\\text{ km/h}", "kmh"], ["m/s", "km", "mph", "h"]),
    ("m/s^2", ["m/s²", "\\text{m/s}^2", "m s^{-2}"], ["m/s", "km/h", "N", "s^2"]),
    ("N", ["newtons", "\\text{ N}", "牛"], ["J", "kg", "kN", "W"]),
    ("J", ["joules", "\\text{J}"], ["W", "kJ", "N", "eV"]),
    ("minutes", ["min", "\\text{ minutes}", "分钟"], ["hours", "seconds", "days", "m"]),
    ("Ω", ["ohms", "\\Omega", "ohm"], ["V", "A", "W", "kΩ"]),
]  # fmt: skip


@kind
def numbers_with_units(rng: random.Random) -> Case:
    n, (unit, same, other) = rng.randint(2, 400), rng.choice(UNITS)
    return Case(
        gold=f"{n} {unit}",
        right=[str(n), *[f"{n} {name}" for name in same], f"{n}.0 {unit}", f"x = {n} {unit}"],
        wrong=[
            f"{n + 1} {unit}",
            str(n + 1),
            *[f"{n} {name}" for name in other],
            f"-{n} {unit}",
            f"{n}0 {unit}",
        ],
    )


@kind
def bare_truths_with_units_in_the_answer(rng: random.Random) -> Case:
    n, (unit, _, _) = rng.randint(2, 400), rng.choice(UNITS)
    noun = rng.choice(["people", "apples", "red cars", "square units", "students"])
    return Case(
        gold=str(n),
        right=[f"{n} {unit}", f"{n}\\text{{ {unit}}}", f"{n} {noun}", f"{n} \\text{{ {noun}}}", f"{n} units"],
        wrong=[
            f"{n + 1} {unit}",
            f"{n} hundred",
            f"{n} and a half",
            f"{n} or more",
            f"-{n} {unit}",
            f"{n} dozen",
            f"{n} tenths",
        ],
    )


CONVERSIONS = [
    ("cm", "mm", 10), ("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000), ("hours", "minutes", 60),
    ("L", "mL", 1000), ("m^2", "cm^2", 10_000), ("minutes", "seconds", 60), ("kW", "W", 1000),
]  # fmt: skip


@kind
def conversions(rng: random.Random) -> Case:
    n, (large, small, factor) = rng.randint(2, 50), rng.choice(CONVERSIONS)
    return Case(
        gold=f"{n} {large}",
        right=[f"{n * factor} {small}", f"{n * factor}\\text{{ {small}}}", f"{n * factor:,} {small}"],
        wrong=[
            f"{n} {small}",
            f"{n * factor} {large}",
            str(n * factor),
            f"{n * factor + 1} {small}",
            f"{n * factor} lb",
        ],
    )


@kind
def money(rng: random.Random) -> Case:
    n = rng.randint(2, 900)
    return Case(
        gold=f"\\${n}",
        right=[f"${n}", str(n), f"{n} dollars", f"\\${n}.00", f"{n} USD", f"{n * 100} cents"],
        wrong=[f"€{n}", f"{n} cents", f"\\${n + 1}", f"-\\${n}", f"{n} euros", f"{n}%", f"\\${n} million"],
    )


@kind
def counts_of_things(rng: random.Random) -> Case:
    n = rng.randint(2, 60)
    one, two = rng.sample(["apples", "students", "books", "cars", "balls", "trees"], 2)
    return Case(
        gold=f"{n} {one}",
        right=[str(n), f"{n} {one[:-1]}", f"{n} red {one}", f"{n}\\text{{ {one}}}"],
        wrong=[f"{n} {two}", f"{n + 1} {one}", f"{n} kg", f"{n}0 {one}", f"{n} dozen {one}"],
    )


@kind
def percentages(rng: random.Random) -> Case:
    n = rng.choice([n for n in range(2, 99) if n % 10])
    return Case(
        gold=f"{n}\\%",
        right=[f"{n}%", str(n), f"{n} percent", f"0.{n:02d}", f"{n}/100", f"{n}％", f"百分之{n}"],
        wrong=[f"{n + 1}%", f"0.{n:02d}%", f"{n}0%", f"-{n}%", f"0.00{n:02d}", f"{n} cm", f"{n / 10:g}%"],
    )


@kind
def shares(rng: random.Random) -> Case:
    n = rng.choice([n for n in range(2, 99) if n % 10])
    return Case(
        gold=f"0.{n:02d}",
        right=[f"{n}%", f"{n}\\%", f"{n}/100", f".{n:02d}", f"{n} percent"],
        wrong=[f"0.{n:02d}%", str(n), f"{n + 1}%", f"{n}00%", f"0.{n:02d}1"],
    )


@kind
def degrees(rng: random.Random) -> Case:
    n = rng.choice([15, 18, 30, 36, 45, 60, 72, 75, 120, 135, 150])
    f = Fraction(n, 180)
    return Case(
        gold=f"{n}^\\circ",
        right=[
            f"{n}°",
            str(n),
            f"{n} degrees",
            f"{n}度",
            f"{n}^{{\\circ}}",
            f"\\angle ABC = {n}°",
            f"\\frac{{{f.numerator}\\pi}}{{{f.denominator}}}",
        ],
        wrong=[
            f"{n + 1}°",
            f"{180 - n}°" if n != 90 else "1",
            f"{n} cm",
            f"-{n}°",
            f"{n} rad",
            f"{n}\\pi",
            f"\\frac{{\\pi}}{{{n}}}",
            f"{n}%",
        ],
    )


@kind
def tuples(rng: random.Random) -> Case:
    a, b = rng.sample(range(-9, 10), 2)
    return Case(
        gold=f"({a},{b})",
        right=[
            f"({a}, {b})",
            f"\\left({a},{b}\\right)",
            f"({a}.0,{b})",
            f"（{a}，{b}）",
            f"A({a},{b})",
            f"x={a}, y={b}",
            f"P = ({a}, {b})",
            f"(x,y)=({a},{b})",
        ],
        wrong=[
            f"({b},{a})",
            f"({a},{b + 1})",
            f"[{a},{b})",
            f"\\{{{a},{b}\\}}",
            f"({a},{b},0)",
            f"({-a - 20},{b})",
            f"{a}{b}",
        ],
    )


@kind
def lists(rng: random.Random) -> Case:
    a, b, c = rng.sample(range(2, 99), 3)
    return Case(
        gold=f"{a}, {b}, {c}",
        right=[
            f"{c}, {a}, {b}",
            f"{a}, {b} and {c}",
            f"{a}; {b}; {c}",
            f"\\{{{b},{a},{c}\\}}",
            f"x={a}, x={b}, x={c}",
            f"{a}、{b}、{c}",
            f"{a} or {b} or {c}",
        ],
        wrong=[
            f"{a}, {b}",
            f"{a}, {b}, {c + 1}",
            f"{a}, {b}, {c}, {a + b + c}",
            f"{a}",
            f"{a}{b}{c}",
            f"{a}, {b}, -{c}",
            f"{a}, {a}, {b}",
        ],
    )


@kind
def sets(rng: random.Random) -> Case:
    a, b, c = rng.sample(range(2, 99), 3)
    return Case(
        gold=f"\\{{{a},{b},{c}\\}}",
        right=[
            f"\\{{{c},{b},{a}\\}}",
            f"{{{a}, {c}, {b}}}",
            f"\\left\\{{{a}, {b}, {c}\\right\\}}",
            f"{a}, {b}, {c}",
        ],
        wrong=[
            f"\\{{{a},{b}\\}}",
            f"({a},{b},{c})",
            f"\\{{{a},{b},{c + 1}\\}}",
            f"\\{{{a},{b},{c},0\\}}",
            "\\emptyset",
        ],
    )


@kind
def intervals(rng: random.Random) -> Case:
    a = rng.randint(-9, 5)
    b = a + rng.randint(2, 9)
    return Case(
        gold=f"[{a},{b})",
        right=[
            f"[{a}, {b})",
            f"{a} \\le x < {b}",
            f"x \\in [{a},{b})",
            f"[{a}.0,{b}.0)",
            f"{a}≤x<{b}",
            f"\\left[{a}, {b}\\right)",
            f"{b} > x \\ge {a}",
        ],
        wrong=[
            f"({a},{b})",
            f"[{a},{b}]",
            f"({a},{b}]",
            f"[{a},{b + 1})",
            f"{a} < x < {b}",
            f"x \\ge {a}",
            f"[{b},{a})",
            f"{a}",
        ],
    )


@kind
def interval_ends_as_fractions_and_decimals(rng: random.Random) -> Case:
    a, b = rng.randint(1, 9), rng.randint(11, 19)
    return Case(
        gold=f"(\\frac{{{a}}}{{10}}, \\frac{{{b}}}{{10}}]",
        right=[f"(0.{a}, 1.{b - 10}]", f"({a}/10,{b}/10]", f"0.{a} < x \\le 1.{b - 10}", f"(0.{a}0,{b}/10]"],
        wrong=[
            f"(0.{a}, 1.{b - 10})",
            f"[0.{a}, 1.{b - 10}]",
            f"(0.{a}1, 1.{b - 10}]",
            f"({a}, {b}]",
            f"(0.{a}, 2.{b - 10}]",
        ],
    )


@kind
def rays_and_unions(rng: random.Random) -> Case:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 9)
    return Case(
        gold=f"(-\\infty,{a})\\cup({b},\\infty)",
        right=[
            f"x<{a} \\text{{ or }} x>{b}",
            f"(-∞,{a})∪({b},+∞)",
            f"({b},\\infty)\\cup(-\\infty,{a})",
            f"x \\in (-\\infty, {a}) \\cup ({b}, \\infty)",
            f"x > {b} or x < {a}",
        ],
        wrong=[
            f"(-\\infty,{a}]\\cup({b},\\infty)",
            f"(-\\infty,{a})",
            f"({a},{b})",
            f"x<{a} \\text{{ or }} x>{b + 1}",
            f"{a}<x<{b}",
            f"(-\\infty,{b})\\cup({a},\\infty)",
        ],
    )


@kind
def inequalities(rng: random.Random) -> Case:
    a = rng.randint(2, 30)
    sign, turned, other = rng.choice([("\\ge", "\\le", ">"), ("\\le", "\\ge", "<")])
    closed = f"[{a},\\infty)" if sign == "\\ge" else f"(-\\infty,{a}]"
    return Case(
        gold=f"x {sign} {a}",
        right=[
            f"x{sign} {a}",
            f"{a} {turned} x",
            closed,
            f"x {'>=' if sign == chr(92) + 'ge' else '<='} {a}",
            f"x {sign} {a}.0",
        ],
        wrong=[
            f"x {turned} {a}",
            f"x {other} {a}",
            f"x {sign} {a + 1}",
            f"x = {a}",
            str(a),
            f"y {sign} {a}",
            f"x {sign} -{a}",
        ],
    )


@kind
def assignments(rng: random.Random) -> Case:
    a, name = rng.randint(2, 300), rng.choice(["x", "y", "k", "AB", "S", "\\angle A"])
    return Case(
        gold=f"{name}={a}",
        right=[
            str(a),
            f"{name} = {a}",
            f"{a}={name}" if name == "x" else f"{name}={a}.0",
            f"{name} = {a - 1} + 1 = {a}",
        ],
        wrong=[
            f"{name}={a + 1}",
            f"z={a}",
            f"{name}=-{a}",
            str(-a),
            f"{name} > {a}",
            f"{name}={a} or {a + 1}",
        ],
    )


@kind
def lines(rng: random.Random) -> Case:
    f, c = proper(rng, 5), rng.randint(1, 9)
    a, b = f.numerator, f.denominator
    return Case(
        gold=f"y=\\frac{{{a}}}{{{b}}}x+{c}",
        right=[
            f"y={a}/{b}x+{c}",
            f"y = {c} + \\frac{{{a}x}}{{{b}}}",
            f"{a}/{b}x+{c}",
            f"{b}y = {a}x + {b * c}",
            f"{a}x - {b}y + {b * c} = 0",
            f"y={a}x/{b}+{c}",
        ],
        wrong=[
            f"y=\\frac{{{a}}}{{{b}x}}+{c}",
            f"y={a}/{b}x-{c}",
            f"y=-{a}/{b}x+{c}",
            f"y={b}/{a}x+{c}",
            f"x={a}/{b}y+{c}",
            f"{a}x+{b}y+{c}=0",
            str(c),
        ],
    )


@kind
def polynomials(rng: random.Random) -> Case:
    a, b = rng.sample(range(1, 12), 2)
    return Case(
        gold=f"x^2+{a + b}x+{a * b}",
        right=[
            f"(x+{a})(x+{b})",
            f"x^{{2}} + {a + b}x + {a * b}",
            f"{a * b}+{a + b}x+x²",
            f"(x+{b})(x+{a})",
            f"x*x+{a + b}*x+{a * b}",
        ],
        wrong=[
            f"(x-{a})(x-{b})",
            f"x^2+{a + b}x-{a * b}",
            f"x^2+{a + b + 1}x+{a * b}",
            f"(x+{a})(x+{b + 1})",
            f"x^2+{a * b}",
            f"{a * b}",
            f"y^2+{a + b}y+{a * b}",
        ],
    )


@kind
def ratios(rng: random.Random) -> Case:
    while True:
        a, b = rng.randint(1, 9), rng.randint(2, 9)
        if math.gcd(a, b) == 1 and a != b:
            break
    return Case(
        gold=f"{a}:{b}",
        right=[
            f"{a} : {b}",
            f"{a}∶{b}",
            f"{2 * a}:{2 * b}",
            f"{a}/{b}",
            f"{a}：{b}",
            f"\\frac{{{a}}}{{{b}}}",
        ],
        wrong=[f"{b}:{a}", f"{a}:{b + 1}", f"{a}:{b}:1", f"{a}, {b}", f"-{a}:{b}", f"{a}{b}"],
    )


MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
]


@kind
def dates(rng: random.Random) -> Case:
    month, day, year = rng.choice(MONTHS), rng.randint(13, 27), rng.randint(1900, 2030)
    n = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
    ].index(month) + 1
    return Case(
        gold=f"{month} {day}, {year}",
        right=[
            f"{day} {month} {year}",
            f"{year}-{n:02d}-{day}",
            f"{month[:3]} {day}, {year}",
            f"{n}/{day}/{year}",
            f"{year}年{n}月{day}日",
            f"{month} {day}th, {year}",
            f"{month.lower()} {day} {year}",
        ],
        wrong=[
            f"{month} {day + 1}, {year}",
            f"{month} {day}, {year + 1}",
            f"December {day}, {year}",
            f"{year}-{n + 1:02d}-{day}",
            f"{month} {year}",
            str(year),
        ],
    )


@kind
def times_of_day(rng: random.Random) -> Case:
    hour, minute = rng.randint(1, 11), rng.randint(10, 59)
    return Case(
        gold=f"{hour}:{minute} pm",
        right=[
            f"{hour}:{minute} PM",
            f"{hour + 12}:{minute}",
            f"{hour}:{minute}pm",
            f"{hour}:{minute} p.m.",
            f"下午{hour}点{minute}分",
            f"{hour}:{minute}",
        ],
        wrong=[
            f"{hour}:{minute} am",
            f"{hour + 1}:{minute} pm",
            f"{hour}:{minute - 1:02d} pm",
            f"{minute}:{hour:02d}",
            str(hour),
            f"{hour}.{minute}",
        ],
    )


WORDS = [
    "circle",
    "blue sphere",
    "red",
    "square",
    "Paris",
    "triangular prism",
    "ice cream",
    "dog",
    "left",
    "Monday",
]


@kind
def words(rng: random.Random) -> Case:
    word, other = rng.sample(WORDS, 2)
    return Case(
        gold=word,
        right=[
            word.upper(),
            f"the {word}",
            f"\\text{{{word}}}",
            f"{word}.",
            f"  {word} ",
            word.replace(" ", "-"),
            f'"{word}"',
        ],
        wrong=[other, word[::-1], f"not {word}", f"{word} or {other}", "3", word[:-1], "", f"{other} {word}"],
    )


@kind
def yes_and_no(rng: random.Random) -> Case:
    gold, other = rng.sample([("Yes", "是", "True"), ("No", "否", "False")], 2)
    return Case(
        gold=gold[0],
        right=[
            gold[0].lower(),
            f"{gold[0]}.",
            gold[1],
            gold[2],
            f"\\text{{{gold[0]}}}",
            gold[0].upper(),
            f"{gold[0]}, they are",
        ],
        wrong=[
            other[0],
            other[1],
            other[2],
            f"{gold[0]} and {other[0]}",
            "maybe",
            "1",
            f"{other[0]}, they are",
        ],
    )


NUMERALS = [
    (3, "three", "三"),
    (7, "seven", "七"),
    (12, "twelve", "十二"),
    (24, "twenty-four", "二十四"),
    (105, "one hundred five", "一百零五"),
    (40, "forty", "四十"),
]


@kind
def numbers_in_words(rng: random.Random) -> Case:
    (n, english, chinese), (_, other, third) = rng.sample(NUMERALS, 2)
    return Case(
        gold=str(n),
        right=[
            english,
            english.capitalize(),
            chinese,
            f"{chinese}个",
            f"{english} apples",
            full_width(str(n)),
        ],
        wrong=[
            other,
            third,
            f"{english} hundred" if n != 105 else other,
            f"minus {english}",
            f"{english} thousand",
            f"{english} and a half",
        ],
    )


def options(rng: random.Random) -> tuple[list[str], int]:
    start, step = rng.randint(2, 60), rng.randint(3, 9)
    form = rng.choice(["{} cm", "{}°", "{}", "$\\frac{{{}}}{{7}}$", "option {} here", "\\sqrt{{{}}}"])
    return [form.format(start + n * step) for n in range(4)], rng.randint(0, 3)


@kind
def letters_with_known_options(rng: random.Random) -> Case:
    texts, right = options(rng)
    letter, other = "ABCD"[right], "ABCD"[(right + 1) % 4]
    choices: Any = rng.choice(
        [
            texts,
            dict(zip("ABCD", texts, strict=True)),
            {"label": list("ABCD"), "text": texts},
            [{"label": a, "text": b} for a, b in zip("ABCD", texts, strict=True)],
            [f"{a}. {b}" for a, b in zip("ABCD", texts, strict=True)],
        ]
    )
    text, wrong = texts[right], texts[(right + 1) % 4]
    return Case(
        gold=rng.choice([letter, text, f"({letter})", f"{letter}. {text}"]),
        meta={"choices": choices},
        right=[
            letter,
            letter.lower(),
            f"({letter})",
            f"{letter}.",
            f"{letter}. {text}",
            f"({letter}) {text}",
            text,
            f"{letter}: {text}",
            f"{full_width(letter)}。",
            f"\\text{{{letter}}}",
        ],
        wrong=[
            other,
            f"({other})",
            f"{other}. {wrong}",
            wrong,
            f"{letter}. {wrong}",
            f"{other}. {text}",
            f"{letter} or {other}",
            f"{letter}, {other}",
            "none",
            f"{letter}{other}",
        ],
    )


@kind
def letters_without_options(rng: random.Random) -> Case:
    letter, other = rng.sample("ABCDE", 2)
    return Case(
        gold=letter,
        right=[
            letter,
            letter.lower(),
            f"({letter})",
            f"{letter}.",
            f"{letter}. 80^\\circ",
            f"({letter}) 12 cm",
            f"{letter}: small",
            f"（{letter}）",
            f"选{letter}",
            f"Option {letter}",
        ],
        wrong=[
            other,
            f"({other})",
            f"{other}. 80",
            f"{letter} or {other}",
            f"{letter}, {other}",
            "80",
            f"{letter}. 1 {other}. 2",
            f"not {letter}",
        ],
    )


@kind
def several_letters(rng: random.Random) -> Case:
    found = sorted(rng.sample("ABCD", 2))
    a, b = found
    c = next(letter for letter in "ABCD" if letter not in found)
    return Case(
        gold=a + b,
        meta={"choices": ["red", "blue", "green", "white"]} if rng.random() < 0.5 else {},
        right=[f"{a}, {b}", f"{a}{b}", f"{a} and {b}", f"{b}, {a}", f"{a},{b}", f"{a}、{b}"],
        wrong=[a, b, f"{a}, {c}", f"{a}{b}{c}", f"{a}, {b}, {c}", c],
    )


@kind
def indices_of_options(rng: random.Random) -> Case:
    colours = rng.sample(["red", "blue", "green", "white", "black", "brown"], 4)
    n = rng.randint(0, 3)
    other = (n + 1) % 4
    return Case(
        gold=str(n),
        meta={"choices": colours, "answer_kind": "index"},
        right=["ABCD"[n], colours[n], f"{'ABCD'[n]}. {colours[n]}", f"({'ABCD'[n]})", str(n)],
        wrong=["ABCD"[other], colours[other], f"{'ABCD'[n]}. {colours[other]}", str(other)],
    )


@kind
def several_boxes(rng: random.Random) -> Case:
    a, b = rng.sample(range(2, 90), 2)
    return Case(
        gold=f"{a}, {b}",
        right=[
            f"{a}}} and \\boxed{{{b}",
            f"{b}}}$, $\\boxed{{{a}",
            f"{a}}} \\text{{ and }} \\boxed{{{b}",
            f"{a}}} papers and \\boxed{{{b}",
        ],
        wrong=[
            f"{a}}} no, \\boxed{{{b}",
            f"{a}}} and \\boxed{{{b + 100}",
            f"{a}}} then \\boxed{{{b}",
            f"{a}}}, \\boxed{{{b}}}, \\boxed{{7",
        ],
    )


@kind
def truths_in_tags_and_solutions(rng: random.Random) -> Case:
    n = rng.randint(2, 90)
    wrap = rng.choice(
        [
            "<answer> {} </answer>",
            "<think>so \\boxed{{1}}</think>\n<answer>{}</answer>",
            "We get $x$. $\\boxed{{{}}}$.",
            "Add them: 1+1.\n#### {}",
            "<think>hm</think> The answer is {}.",
        ]
    )
    return Case(
        gold=wrap.format(n),
        right=[str(n), f"{n}.0", f"{n} cm"],
        wrong=["1", str(n + 1), f"-{n}", f"{n}0", "x"],
    )


@kind
def alternatives(rng: random.Random) -> Case:
    n = rng.choice([n for n in range(20, 90) if n % 8])
    return Case(
        gold=f"['{n}/8', '{n / 8:g}', 'about {n}']",
        right=[f"{n}/8", f"\\frac{{{n}}}{{8}}", f"{n / 8:g}", str(n)],
        wrong=[f"{n + 1}/8", str(n + 1), f"-{n}/8", f"{n}/8, {n}", "1/8"],
    )


@kind
def rounding_to_the_precision_of_the_data_set(rng: random.Random) -> Case:
    n = rng.randint(11, 98)
    value = f"{n // 10}.{n % 10}"
    return Case(
        gold=value,
        meta={"precision": 1.0, "answer_type": "float", "unit": None},
        right=[f"{value}2", f"{value}4", f"{value}", frac(Fraction(n, 10)), f"{(n * 10 - 3) / 100:.2f}"],
        wrong=[f"{value}6", f"{(n + 1) / 10:.1f}", f"-{value}", f"{(n * 10 - 7) / 100:.2f}", str(n)],
    )


@kind
def units_in_a_column(rng: random.Random) -> Case:
    n = rng.randint(11, 98)
    return Case(
        gold=str(n),
        meta={"unit": "cm", "precision": None},
        right=[str(n), f"{n} cm", f"{n * 10} mm", f"{n}\\text{{ cm}}"],
        wrong=[f"{n} m", f"{n} kg", str(n + 1), f"{n * 10} cm", f"{n} cm^2"],
    )


DASHES = "-\u2013"


@kind
def ranges(rng: random.Random) -> Case:
    low = rng.randint(1, 2020)
    high = low + rng.randint(1, 90)
    unit = rng.choice(["", " years", " mg", "%", " km/h"])
    return Case(
        gold=f"{low}{rng.choice(DASHES)}{high}{unit}",
        right=[
            f"{low} to {high}{unit}",
            f"{low} - {high}{unit}",
            f"{low}\u2013{high}",
            f"from {low} to {high}{unit}",
            f"between {low} and {high}{unit}",
        ],
        wrong=[
            f"{low - high}{unit}",
            str(high - low),
            f"{low}-{high + 1}{unit}",
            f"{low + 1}-{high}{unit}",
            f"{high}-{low}{unit}",
            f"{low}{unit}",
            f"{low}-{high} s",
        ]
        if unit
        else [str(low - high), f"{low + 1}-{high}", f"{low}-{high + 1}", f"{high}-{low}", f"{low}, {high}"],
    )


@kind
def options_that_differ_by_a_sign_or_a_point(rng: random.Random) -> Case:
    n = rng.randint(11, 98)
    texts = rng.sample(
        [f"{n}", f"-{n}", f"{n // 10}.{n % 10}", f"\\frac{{1}}{{{n}}}", f"{n + 1}\\%", f"({n}, -1)"], 4
    )
    right = rng.randint(0, 3)
    letter, text = "ABCD"[right], texts[right]
    others = [other for other in texts if other != text]
    return Case(
        gold=rng.choice([letter, f"{letter}. {text}"]),
        meta={"choices": texts},
        right=[letter, text, f"{letter}. {text}", f"({letter}) {text}", f"${text}$"],
        wrong=[*others, *(f"{letter}. {other}" for other in others), f"-{text}", f"{letter}. -{text}"]
        if not text.startswith("-") and f"-{text}" not in texts
        else [*others, *(f"{letter}. {other}" for other in others)],
    )


@kind
def sentences_with_numbers(rng: random.Random) -> Case:
    n = rng.randint(11, 98)
    value = f"{n // 10}.{n % 10}"
    form = rng.choice(
        ["It increases by {} units", "from {} to 99 volts", "Figure {} of the book", "version {}"]
    )
    return Case(
        gold=form.format(value),
        right=[form.format(value).lower(), form.format(value) + "."],
        wrong=[
            form.format(other)
            for other in (str(n), f"-{value}", f"{value}1", f"{n // 10}", f"{n // 10} {n % 10}")
        ],
    )
