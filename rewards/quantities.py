"""Plain numbers and units: the exact number that a short text is, and the unit that stands with it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_NUMBER_LENGTH = 200
"""Longer texts are compared as text only: exact arithmetic on thousands of digits is a way to stall a run."""

# ASCII digits only: int() would read every script's digits, and a model need not be paid for "４２".
_DECIMAL = re.compile(r"(?P<sign>[+-]?) ?(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?P<part>\.[0-9]*)?")
_LATEX_FRACTION = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)\s*\\[dtc]?frac\s*"
    r"(?:\{(?P<top>[^{}]*)\}|(?P<t>[0-9]))\s*(?:\{(?P<bottom>[^{}]*)\}|(?P<b>[0-9]))"
)
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+)\s+(?P<top>[0-9]+)/(?P<bottom>[0-9]+)")
_TIMES_TEN = re.compile(
    r"(?P<number>[^\\×*·x]+?) ?(?:\\times|\\cdot|[×*·x]) ?10 ?(?:\^|\*\*) ?"
    r"(?:\{ ?(?P<n>[+-]?[0-9]{1,3}) ?\}|\((?P<p>[+-]?[0-9]{1,3})\)|(?P<d>[+-]?[0-9]{1,3}))"
)
_E_NOTATION = re.compile(r"(?P<number>[+-]?[0-9.,]+)[eE](?P<n>[+-]?[0-9]{1,3})")
_POWER_OF_TEN = re.compile(r"10 ?\^ ?\{? ?([+-]?[0-9]{1,3}) ?\}?")
_REPEATING = re.compile(
    r"(?P<sign>[+-]?) ?(?P<whole>[0-9]*)\.(?P<part>[0-9]*)"
    r"(?:\\(?:overline|bar) ?\{(?P<a>[0-9]{1,40})\}|\\(?:overline|bar) ?(?P<b>[0-9])|\((?P<c>[0-9]{1,40})\)"
    r"|\\dot ?\{?(?P<first>[0-9])\}?(?:(?P<middle>[0-9]{0,40})\\dot ?\{?(?P<last>[0-9])\}?)?)"
)
# "10,\!000", "10{,}000" and "10\,000": LaTeX for a thousands separator.
SEPARATORS = re.compile(r",\s*\\!\s*(?=[0-9])|\{,\}|\\,(?=[0-9])")
_OTHER_THOUSANDS = re.compile(
    r"([+-]?[1-9][0-9]{0,2})(?:((?: [0-9]{3}){2,}|(?:['’][0-9]{3})+)(\.[0-9]+)?|((?:\.[0-9]{3}){2,})(?:,([0-9]+))?)"
)
"""1'234.5; 1 234 567.5 and 1.234.567,5 from two separators on, since 1 234 is two numbers and 1.234 a decimal."""


class Number(NamedTuple):
    """An exact number. 50% is not 50 and not 0.5: percent is part of what a number is."""

    value: Fraction
    percent: bool = False


def parse_number(text: str) -> Number | None:
    r"""The exact number that a normalised text is, as a whole: an integer, decimal, fraction or mixed number, with a
    sign, thousands separators, a leading $, a power of ten, digits that repeat, or a trailing %. None for "3 apples",
    "40+2", "1e".

    "-1,234.50" -> -2469/2; "\frac34" and "3/4" -> 3/4; "1\frac{4}{5}" and "1 4/5" -> 9/5; "$5" -> 5;
    "50\%" -> 50 percent; "6.02 \times 10^{3}", "6.02*10^3" and "6.02e3" -> 6020; "0.1\overline{6}" -> 1/6;
    "1,00" -> None.
    """
    if not text or len(text) > MAX_NUMBER_LENGTH:
        return None
    text = SEPARATORS.sub(",", text).replace("\\!", "")
    percent = text.endswith("%")
    if percent:
        text = text[:-1].rstrip().removesuffix("\\").rstrip()
    for currency in ("\\$", "$"):
        sign = "-" if text.startswith("-" + currency) else ""
        if text.startswith(sign + currency):
            text = sign + text[len(sign + currency) :].lstrip()
            break
    value = _fraction(text)
    return None if value is None else Number(value, percent)


def _fraction(text: str) -> Fraction | None:
    if power := _TIMES_TEN.fullmatch(text):
        value = _decimal(power["number"].strip())
        return None if value is None else value * Fraction(10) ** int(power["n"] or power["p"] or power["d"])
    if power := _E_NOTATION.fullmatch(text):
        value = _decimal(power["number"])
        return None if value is None else value * Fraction(10) ** int(power["n"])
    if repeating := _REPEATING.fullmatch(text):
        return _repeating(repeating)
    latex = _LATEX_FRACTION.fullmatch(text)
    if latex:
        top, bottom = latex["top"] or latex["t"] or "", latex["bottom"] or latex["b"] or ""
        sign, whole = latex["sign"], latex["whole"]
    elif mixed := _MIXED.fullmatch(text):
        sign, whole, top, bottom = mixed.groups()
    elif text.count("/") == 1:
        top, bottom = text.split("/")
        sign, whole = "", ""
    else:
        return _decimal(text)
    a, b = _decimal(top.strip()), _decimal(bottom.strip())
    if a is None or not b or (whole and not 0 < a < b):
        return None
    value = a / b + (int(whole) if whole else 0)
    return -value if sign == "-" else value


def _repeating(match: re.Match[str]) -> Fraction:
    r""" "0.1\overline{6}", "0.1(6)" and "0.1\dot{6}" -> 1/6."""
    digits = match["a"] or match["b"] or match["c"] or match["first"] + (match["middle"] or "") + (match["last"] or "")
    part, whole = match["part"], match["whole"] or "0"
    value = Fraction(int(whole + part)) + Fraction(int(digits), 10 ** len(digits) - 1)
    value /= 10 ** len(part)
    return -value if match["sign"] == "-" else value


def is_short_e_notation(text: str) -> bool:
    """Whether a number is written as nobody needs to: 4.2e1. It is paid only where the reference has a power of ten."""
    power = _E_NOTATION.fullmatch(text)
    return power is not None and abs(int(power["n"])) < 3


def has_power_of_ten(text: str) -> bool:
    """Whether a number is written with a power of ten: 4.5e33, 4.5 \\times 10^{33}."""
    return _E_NOTATION.fullmatch(text) is not None or _TIMES_TEN.fullmatch(text) is not None


def power_of_ten(text: str) -> Number | None:
    """The number that 10^{33} is; None for any other text."""
    match = _POWER_OF_TEN.fullmatch(text)
    return Number(Fraction(10) ** int(match[1])) if match else None


def _decimal(text: str) -> Fraction | None:
    if other := _OTHER_THOUSANDS.fullmatch(text):
        whole = other[1] + re.sub("[^0-9]", "", other[2] or other[4])
        return Fraction(whole + (other[3] or f".{other[5] or 0}"))
    match = _DECIMAL.fullmatch(text)
    if not match or not (match["whole"] or (match["part"] or "").strip(".")):
        return None
    return Fraction(f"{match['sign']}{(match['whole'] or '0').replace(',', '')}{match['part'] or ''}".rstrip("."))


# ------------------------------------------------------------------------------------------------ units

_UNIT_LINES = """cm centimeter centimeters centimetre centimetres 厘米|m meter meters metre metres 米
mm millimeter millimeters millimetre millimetres 毫米|km kilometer kilometers kilometre kilometres 千米 公里
in inch inches|ft foot feet|yd yard yards|mi mile miles|g gram grams 克|kg kilogram kilograms 千克 公斤|nm|μm
mg milligram milligrams|lb lbs pound pounds|oz ounce ounces|l liter liters litre litres 升|gallon gallons|cup cups
ml milliliter milliliters millilitre millilitres 毫升|ton tons tonne tonnes|acre acres|s sec second seconds 秒
min minute minutes 分钟|h hr hrs hour hours 小时|day days 天|week weeks|month months|year years 年|ms
dollar dollars usd|cent cents|euro euros|yen|yuan rmb 元|sterling|degree degrees deg 度|radian radians rad|unit units
mph|m/s|km/h kph|newton newtons|joule joules|watt watts|kw|hz hertz|khz|mhz|pa pascal pascals|kpa|volt volts
ampere amperes amp amps|coulomb coulombs|kelvin kelvins|mol moles mole|ev|kev|mev|gev|tesla teslas
farad farads|ohm ohms|kj|kn|cal calorie calories|kcal"""
_CASED = {f"{prefix}{unit}": f"{prefix}{unit}" for prefix in "mM" for unit in ("Hz", "W", "J", "V", "N", "Pa", "A")}
_CASED |= {"Mm": "Mm", "mm": "mm", "Mg": "Mg", "mg": "mg", "Pm": "Pm", "pm": "pm", "Gs": "Gs", "Ms": "Ms", "ms": "ms"}
"""Milli and mega differ in their case alone."""
UNITS = {alias: line.split()[0] for line in re.split(r"[|\n]", _UNIT_LINES) for alias in line.split()}
# One letter is a unit in its own case only: N is newtons, \mathrm{n} is a number.
_ONE_LETTER = {"m": "m", "g": "g", "s": "s", "h": "h", "l": "l", "L": "l", "N": "newton", "J": "joule", "W": "watt"}
_ONE_LETTER |= {"V": "volt", "A": "ampere", "C": "coulomb", "K": "kelvin", "T": "tesla", "F": "farad"}
_QUOTIENTS = {"mi/h": "mph"}
_SCALES = {
    "百": 100,
    "千": 10**3,
    "万": 10**4,
    "亿": 10**8,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_NO_COUNTED = {"tenths", "thirds", "halves", "quarters", "hundredths", "thousandths", "fourths", "fifths", "sixths"}
_NO_COUNTED |= {"eighths", "ninths", "twelfths", "dozens", "hundreds", "thousands", "millions", "billions", "pairs"}
_NO_COUNTED |= {"trillions", "scores", "less", "plus", "minus", "times", "pluses", "negatives", "opposites", "powers"}
_NO_COUNTED |= {"tens", "percents", "points", "is", "does", "was", "has", "gross", "sevenths", "towards", "afterwards"}
_CHANGING = {"half", "third", "quarter", "fourth", "fifth", "tenth", "double", "triple", "pair", "score", "percent"}
_CHANGING |= {
    "fewer",
    "more",
    "not",
    "no",
    "or",
    "and",
    "of",
    "per",
    "to",
    "about",
    "over",
    "under",
    "almost",
    "nearly",
}
_CHANGES = frozenset("万亿千百十半倍成折点分零几多约或和减加乘除负正第个") - {"个"}
_COUNTED = {"people", "children", "men", "women", "mice", "fish", "sheep", "人", "个"}
_CURRENCY = {"$": "dollar", "\\$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
_CURRENCY_HEAD = re.compile(r"(?P<sign>[+-]?)(?P<mark>\\?\$|[€£¥])\s*(?=[0-9.\\])")
_DEGREES = re.compile(r"(?<=[0-9})])\s*(?:\^ ?(?:\{ ?\\circ ?\}|\\circ)|°|\\circ)$")
_PERCENT = re.compile(r"(?<=[0-9}]) ?(?:\\text ?\{ ?percent ?\}|percent|\\text ?\{ ?\\?% ?\})$")
# A single letter is a unit only inside \text{}: 5m is five times m.
_UNIT_TAIL = re.compile(
    r"(?:\\text ?\{ ?(?P<text>[A-Za-z一-鿿μ][A-Za-z ./一-鿿-]{0,40})\}|(?<=[0-9}) ])"
    r"(?P<word>(?:(?:square|cubic|sq) )?[A-Za-z/]{2,20}(?: per [A-Za-z]{2,10})?|[一-鿿]{1,6}))"
    r" ?(?:\^ ?(?:\{(?P<power>[23])\}|(?P<p>[23])))?$"
)
_POWERS = {"square ": "^2", "sq ": "^2", "cubic ": "^3", "平方": "^2", "立方": "^3"}
_SCALE_TAIL = re.compile(rf"(?<=[0-9}}]) ?(?:\\text ?\{{ ?)?(?P<scale>{'|'.join(_SCALES)})(?: ?\}}| (?=[A-Za-z\\]))?$")
_SCALED_UNIT = re.compile(rf"\\text ?\{{ ?(?P<scale>{'|'.join(_SCALES)}) (?P<unit>[A-Za-z ]+)\}}$")


def is_unit(name: str) -> bool:
    """Whether a word or a letter is the name of a unit; products and quotients of units are too: "kg m/s"."""
    parts = [part for part in re.split(r"[ ./-]+", name) if part]
    return bool(parts) and all(_unit(part) or part in ("per", "square", "cubic") for part in parts)


def _unit(word: str) -> str:
    if len(word) == 1 and word.isascii():
        return _ONE_LETTER.get(word, "")
    return _CASED.get(word) or UNITS.get(word.lower(), "")


def _canonical(name: str) -> str:
    """ "miles per hour" -> "mph"; "km/hr" -> "km/h"; "" for what is no unit."""
    parts = [_unit(part.strip()) for part in re.split(r" per |/", name)]
    return _unit(name) or ((_QUOTIENTS.get(found, found) if all(parts) else "") if (found := "/".join(parts)) else "")


def may_be_left_out(unit: str) -> bool:
    """Whether a reference's unit goes without saying: a unit of measure, or things that are counted (12 apples).

    Not so a word that changes the number (million, dozen) or says which (pm, north).
    """
    name = unit.partition("^")[0]
    return not unit or is_unit(name) or is_counted(name)


def is_counted(name: str) -> bool:
    """Whether it names things that are counted: apples, people, 个."""
    if re.fullmatch("[一-鿿]{1,6}", name):
        return not set(name) & _CHANGES
    return name in _COUNTED or (re.fullmatch("[a-z]{2,}s", name) is not None and name not in _NO_COUNTED)


def changes_numbers(word: str) -> bool:
    """Whether a word beside a number makes it another one: million, dozen, half, less."""
    return word in _SCALES or word in _NO_COUNTED or word in _CHANGING


def split_scale(text: str) -> tuple[str, int]:
    r""" "2.5\text{ million}" -> ("2.5", 1000000); "3" -> ("3", 1)."""
    match = _SCALE_TAIL.search(text)
    return (text[: match.start()].rstrip(), _SCALES[match["scale"]]) if match else (text, 1)


def split_unit(text: str) -> tuple[str, str]:
    r""" "5 cm^2" -> ("5", "cm^2"); "90^\circ" -> ("90", "degree"); "\$5" -> ("5", "dollar"); "5m" -> ("5m", "")."""
    text = _SCALED_UNIT.sub(r"\\text{\g<scale>} \\text{\g<unit>}", _PERCENT.sub("%", text))
    head = _CURRENCY_HEAD.match(text)
    if head:
        return head["sign"] + text[head.end() :], _CURRENCY[head["mark"]]
    if (match := _DEGREES.search(text)) and not re.search(r"\\[a-z]*(?:sin|cos|tan|cot|sec|csc)", text):
        return text[: match.start()].rstrip(), "degree"
    match = _UNIT_TAIL.search(text)
    if not match or not match.start():
        return text, ""
    name, power = (match["text"] or match["word"]).strip(" ."), match["power"] or match["p"]
    name = name if len(name) == 1 or is_unit(name) else name.lower()
    exponent = f"^{power}" if power else ""
    for prefix, meant in _POWERS.items():
        if name.startswith(prefix):
            name, exponent = name.removeprefix(prefix), meant
    if name[0] in _SCALES and not _unit(name):  # 3万人
        return text[: match.start()] + name[0], name[1:]
    if name in _SCALES or (match["word"] and not _canonical(name) and (name.isascii() or not is_counted(name))):
        return text, ""
    return text[: match.start()].rstrip(), (_canonical(name) or name) + exponent
