"""Answers as Chinese school sets write them: `60度`, `12平方厘米`, `答案：B`, `二十四`, `3点45分`."""

import re

_LEAD = re.compile(
    r"(?:(?:最终|正确)?答案?(?:是|为|选)?|故?(?:应?选(?:择|项)?)|所以|因此|等于|约为?|大约)+ ?[:：]? ?"
)
_UNITS = {
    "平方千米": "km^2", "平方公里": "km^2", "平方厘米": "cm^2", "平方分米": "dm^2", "平方毫米": "mm^2",
    "平方米": "m^2", "立方厘米": "cm^3", "立方分米": "dm^3", "立方米": "m^3",
    "千米/时": "km/h", "千米/小时": "km/h",
    "公里/小时": "km/h", "米/秒": "m/s", "米/分": "m/min", "摄氏度": "degC", "厘米": "cm", "毫米": "mm",
    "分米": "dm", "千米": "km", "公里": "km", "米": "m", "千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g",
    "吨": "t", "毫升": "mL", "升": "L", "小时": "hour", "分钟": "minute", "秒钟": "second", "秒": "second",
    "天": "day", "周": "week", "年": "year", "个月": "month", "岁": "year", "美元": "dollar", "元钱": "yuan",
    "元": "yuan", "块钱": "yuan", "块": "yuan", "度": "°", "牛顿": "N", "牛": "N", "焦耳": "J", "焦": "J",
    "瓦": "W", "伏": "V", "安": "A", "欧": "Ω", "帕": "Pa", "倍": "times",
}  # fmt: skip
_UNIT = re.compile(
    "(?<=[0-9}) 万亿π])(?:" + "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True)) + ")$"
)
_COUNTERS = "个只条本张棵名位人头匹辆座间支枝颗粒块件套双对朵次种根杯瓶盒箱袋架艘幅把台页行列排组班"
_COUNTED = re.compile(f"(?<=[0-9])[{_COUNTERS}](?:[\u4e00-\u9fff]{{0,4}})$")
_NUMERAL = re.compile("([零〇一二两三四五六七八九十百千万亿]{1,20})(.*)", re.DOTALL)
_DIGITS = {sign: n for n, sign in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_STEPS = {"十": 10, "百": 100, "千": 1000}
_IDEOGRAPH = re.compile("[\u4e00-\u9fff]")
_PARTS = re.compile("([一二两三四五六七八九十百]{1,7})(分之)([一二两三四五六七八九十百]{1,7})")
_ITEM = re.compile("([A-H])选?项")
_NEGATIVE = re.compile("^负 ?(?=[0-9零一二两三四五六七八九十百])")
_TENTHS = re.compile("^([一二三四五六七八九])成$")
_HOURS = re.compile("^([0-9]{1,4}) ?(?:个?小时|时) ?([0-9]{1,2}) ?(?:分钟|分)$")
_FRACTION = re.compile("([0-9]{1,9})分之([0-9]{1,9})")


def is_chinese(text: str) -> bool:
    """Whether any ideograph stands in the text."""
    return _IDEOGRAPH.search(text) is not None


def western(text: str) -> str:
    """A Chinese answer with units and numerals as the other rules read them; others come back unchanged.

    >>> western("12平方厘米"), western("答案:B"), western("二十四"), western("3个苹果")
    ('12 cm^2', 'B', '24', '3')
    """
    if not is_chinese(text):
        return text
    lead = _LEAD.match(text)
    if lead is not None and lead.end() < len(text):
        text = text[lead.end() :].strip()
    text = _ITEM.sub(r"\1", text)
    text = _NEGATIVE.sub("-", text)
    if text.startswith("-"):
        return f"-{western(text[1:].strip())}"
    text = _TENTHS.sub(lambda found: f"{_DIGITS[found[1]]}0%", text)
    text = _HOURS.sub(r"\1 hours \2 minutes", text)
    text = _numerals(_PARTS.sub(lambda found: "".join(_digits(found, n) for n in (1, 2, 3)), text))
    text = re.sub("(?:百|100)分之([0-9.]+)", r"\1%", text)
    text = _FRACTION.sub(r"\2/\1", text)
    text = text.replace("又", " ") if re.fullmatch(r"[0-9]+又[0-9]+/[0-9]+", text) else text
    text = text.replace("或者", " or ").replace("或", " or ") if re.search("[0-9})]或", text) else text
    text = text.replace("和", " and ") if re.search("[0-9A-Z})]和", text) else text
    text = _UNIT.sub(lambda found: " " + _UNITS[found[0]], text)
    return _COUNTED.sub("", text).strip()


def _digits(found: re.Match[str], group: int) -> str:
    value = _value(found[group]) if group != 2 else None
    return found[group] if value is None else str(value)


def _numerals(text: str) -> str:
    match = _NUMERAL.fullmatch(text)
    if match is None:
        return text
    value, rest = _value(match[1]), match[2]
    ends_number = not rest or any(rest.startswith(unit) for unit in _UNITS) or rest[0] in _COUNTERS
    return text if value is None or not ends_number else f"{value}{rest}"


def _value(text: str) -> int | None:
    total = section = digit = 0
    for sign in text:
        if sign in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[sign]
        elif sign in _STEPS:
            section += (digit or (1 if sign == "十" and not section else 0)) * _STEPS[sign]
            digit = 0
        else:
            total = (total + section + digit) * (10_000 if sign == "万" else 100_000_000)
            section = digit = 0
    value = total + section + digit
    return value if value or text in ("零", "〇") else None
