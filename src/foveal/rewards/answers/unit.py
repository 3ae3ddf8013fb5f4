r"""Units of measurement: `cm^2`, `km/h`, `m s^{-2}`, `square metres`, `people`, and which of them agree.

A unit is a product of base units with a factor, so that `5 cm` is `50 mm`; words that measure nothing
(`12 people`) are compared as words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

_BASES: Mapping[str, str] = {
    "length": (
        "m=1 km=1000 dm=1/10 cm=1/100 mm=1/1000 μm=1/1000000 um=1/1000000 nm=1/1000000000 meter=1 "
        "metre=1 kilometer=1000 kilometre=1000 centimeter=1/100 centimetre=1/100 millimeter=1/1000 "
        "millimetre=1/1000 decimeter=1/10 decimetre=1/10 inch=254/10000 inches=254/10000 "
        "in=254/10000 ft=3048/10000 foot=3048/10000 feet=3048/10000 yd=9144/10000 yard=9144/10000 "
        "mile=1609344/1000 mi=1609344/1000 Å=1/10000000000"
    ),
    "mass": (
        "kg=1 g=1/1000 mg=1/1000000 t=1000 tonne=1000 ton=1000 kilogram=1 gram=1/1000 "
        "milligram=1/1000000 lb=45359237/100000000 lbs=45359237/100000000 pound=45359237/100000000 "
        "oz=45359237/1600000000 ounce=45359237/1600000000"
    ),
    "time": (
        "s=1 sec=1 second=1 ms=1/1000 millisecond=1/1000 min=60 mins=60 minute=60 h=3600 hr=3600 "
        "hour=3600 day=86400 week=604800"
    ),
    "years": "year=1 yr=1 month=1/12",
    "current": "A=1 mA=1/1000 amp=1 ampere=1",
    "temperature": "K=1 kelvin=1",
    "celsius": "degC=1 celsius=1 centigrade=1",
    "fahrenheit": "degF=1 fahrenheit=1",
    "amount": "mol=1 mole=1",
    "angle": "°=1 deg=1 degree=1",
    "money": "$=1 dollar=1 USD=1 usd=1 cent=1/100 cents=1/100 buck=1",
    "euro": "€=1 euro=1 EUR=1",
    "sterling": "£=1 GBP=1",
    "yuan": "¥=1 yuan=1 RMB=1 CNY=1 rmb=1",
    "yen": "yen=1 JPY=1",
    "rupee": "₹=1 rupee=1 Rs=1",
    "candela": "cd=1",
    "unit": "unit=1",
    "bit": "bit=1 byte=8 KB=8192 MB=8388608 GB=8589934592",
}
_DERIVED: Mapping[str, tuple[str, str]] = {
    "volume": ("length3", "L=1/1000 l=1/1000 mL=1/1000000 ml=1/1000000 liter=1/1000 litre=1/1000 "
               "milliliter=1/1000000 millilitre=1/1000000 cc=1/1000000 gallon=3785411784/1000000000000"),
    "area": ("length2", "ha=10000 hectare=10000 acre=40468564224/10000000"),
    "force": ("mass1 length1 time-2", "N=1 kN=1000 newton=1"),
    "energy": ("mass1 length2 time-2", "J=1 kJ=1000 MJ=1000000 joule=1 kilojoule=1000 kWh=3600000 Wh=3600 "
               "cal=4184/1000 kcal=4184 calorie=4184/1000 eV=1602176634/10000000000000000000000000000"),
    "power": ("mass1 length2 time-3", "W=1 kW=1000 MW=1000000 mW=1/1000 watt=1 kilowatt=1000"),
    "pressure": ("mass1 length-1 time-2", "Pa=1 kPa=1000 MPa=1000000 hPa=100 pascal=1 bar=100000 atm=101325"),
    "charge": ("current1 time1", "C=1 mC=1/1000 μC=1/1000000 coulomb=1 mAh=36/10"),
    "voltage": ("mass1 length2 time-3 current-1", "V=1 kV=1000 mV=1/1000 volt=1"),
    "resistance": ("mass1 length2 time-3 current-2", "Ω=1 kΩ=1000 ohm=1"),
    "frequency": ("time-1", "Hz=1 kHz=1000 MHz=1000000 GHz=1000000000 hertz=1"),
    "capacitance": ("mass-1 length-2 time4 current2", "F=1 μF=1/1000000 farad=1"),
    "magnetic": ("mass1 time-2 current-1", "T=1 mT=1/1000 tesla=1"),
    "flux": ("mass1 length2 time-2 current-1", "Wb=1 weber=1"),
    "speed": ("length1 time-1", "mph=44704/100000 kmh=10/36 kph=10/36 kmph=10/36 knot=1852/3600"),
    "rad": ("angle1", "rad=1 radian=1"),
}  # fmt: skip
MAGNITUDES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "thousands": 10**3, "millions": 10**6, "billions": 10**9, "mn": 10**6, "bn": 10**9, "dozen": 12,
    "lakh": 10**5, "crore": 10**7, "万": 10**4, "亿": 10**8,
}  # fmt: skip
"""Words that multiply the number in front of them."""

_NO_NOUN = frozenset(
    "plus minus times divided multiplied over by squared cubed not is are isn wrong more less than fewer "
    "greater to from between negative half halves third thirds quarter quarters fourth fourths fifth "
    "fifths sixth tenth tenths hundredths thousandths hundredth thousandth pair pairs couple score gross "
    "and or but if when unless except without no none never false incorrect instead mod modulo root power "
    "of. a an the hundreds tens least most about approximately almost nearly under above below per "
    "percent factorial sin cos tan log ln sqrt pi inf infinity double triple twice up point base "
    "st nd rd th clockwise anticlockwise counterclockwise north south east west".split()
)
_SAME_NOUN = {
    "persons": "people", "person": "people", "kid": "child", "children": "child", "men": "man",
    "women": "woman",
    "yrs": "year",
}  # fmt: skip
_WORD = re.compile(
    r" ?(?:(?P<word>[A-Za-zμΩÅ]+|[°$€£¥₹])"
    r"(?: ?(?:\^ ?\{? ?(?P<exp>[+-]?\d) ?\}?|(?P<tail>[23])(?!\d)))?"
    r"|(?P<sign>/|\*|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])))"
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_NOUN = re.compile(r"[A-Za-z][a-z'-]+(?: [A-Za-z][a-z'-]+){0,3}")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A measurement (`dimension` and `factor`), or a noun (`words`)."""

    dimension: Mapping[str, int] = field(default_factory=dict)
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()

    def agrees(self, other: "Unit") -> bool:
        """Whether the two measure the same thing: one dimension, or nouns of which one holds the other."""
        if self.words or other.words:
            return bool(self.words and other.words) and (
                self.words <= other.words or other.words <= self.words
            )
        if self.dimension == other.dimension:
            return True
        angle, warmth = {"angle": 1}, ({"celsius": 1}, {"fahrenheit": 1})
        return (self.dimension == angle and other.dimension in warmth) or (
            other.dimension == angle and self.dimension in warmth
        )


DEGREE = Unit(dimension={"angle": 1})


def read_unit(text: str) -> Unit | None:
    """The unit that a text names; None when it names none.

    >>> read_unit("km/h").factor, read_unit("red apples").words == {"red", "apple"}
    (Fraction(5, 18), True)
    """
    text = text.strip().strip("()").replace("sq.", "sq").replace("cu.", "cu").strip()
    found = _measurement(text)
    if found is not None:
        return found
    if _NOUN.fullmatch(text) is None:
        return None
    words = text.lower().split()
    if _NO_NOUN.intersection(words) or any(word in MAGNITUDES for word in words):
        return None
    return Unit(words=frozenset(_singular(word) for word in words if word not in ("of", "in", "the")))


def _singular(word: str) -> str:
    word = _SAME_NOUN.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


@cache
def _table() -> dict[str, tuple[dict[str, int], Fraction]]:
    """Name -> dimension and factor."""
    found: dict[str, tuple[dict[str, int], Fraction]] = {}
    for base, row in _BASES.items():
        _enter(found, {base: 1}, row)
    for _, (form, row) in _DERIVED.items():
        parts = (re.fullmatch(r"([a-z]+)(-?\d)", part) for part in form.split())
        _enter(found, {part[1]: int(part[2]) for part in parts if part}, row)
    for name in ("rad", "radian"):
        found[name] = ({"angle": 1}, Fraction("57.29577951308232087679815481410517"))
    return found


def _enter(table: dict[str, tuple[dict[str, int], Fraction]], dimension: dict[str, int], row: str) -> None:
    for entry in row.split():
        name, factor = entry.split("=")
        table[name] = (dimension, Fraction(factor))


def known(word: str) -> tuple[dict[str, int], Fraction] | None:
    """Dimension and factor of one unit word, also in the plural or with a capital."""
    table = _table()
    for form in (word, word.lower() if len(word) > 3 else word):
        if form in table:
            return table[form]
        if len(form) > 3 and form.endswith("s") and form[:-1] in table:
            return table[form[:-1]]
    return None


def _measurement(text: str) -> Unit | None:
    text = re.sub(r"\bdegrees? (celsius|centigrade|fahrenheit|C|F)\b", _degrees, text, flags=re.IGNORECASE)
    dimension: dict[str, int] = {}
    factor, place, below, power = Fraction(1), 0, False, 1
    if not text:
        return None
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None:
            return None
        place = match.end()
        word = match["word"]
        if match["sign"] or word == "per":
            below = below or match["sign"] == "/" or word == "per"
            continue
        if word.lower() in _POWERS:
            power = _POWERS[word.lower()]
            continue
        if word in ("squared", "cubed"):
            return None
        entry = known(word)
        if entry is None:
            return None
        exponent = int(match["exp"] or match["tail"] or 1) * power * (-1 if below else 1)
        power = 1
        for base, count in entry[0].items():
            dimension[base] = dimension.get(base, 0) + count * exponent
        factor *= entry[1] ** exponent
    if not dimension:
        return None
    return Unit(dimension={base: count for base, count in dimension.items() if count}, factor=factor)


def _degrees(match: re.Match[str]) -> str:
    return "degF" if match[1][0].lower() == "f" else "degC"
