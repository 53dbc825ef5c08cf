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
_TIMES_TEN = re.compile(r"(?P<number>[^\\×]+)(?:\\times|\\cdot|×)\s*10\^(?:\{(?P<n>[+-]?[0-9]{1,3})\}|(?P<d>[0-9]))")
# "10,\!000", "10{,}000" and "10\,000": LaTeX for a thousands separator.
SEPARATORS = re.compile(r",\s*\\!\s*(?=[0-9])|\{,\}|\\,(?=[0-9])")


class Number(NamedTuple):
    """An exact number. 50% is not 50 and not 0.5: percent is part of what a number is."""

    value: Fraction
    percent: bool = False


def parse_number(text: str) -> Number | None:
    r"""The exact number that a normalised text is, as a whole: an integer, decimal, fraction or mixed number, with a
    sign, thousands separators, a leading $, a power of ten, or a trailing %. None for "3 apples", "1e3", "40+2".

    "-1,234.50" -> -2469/2; "\frac34" and "3/4" -> 3/4; "1\frac{4}{5}" and "1 4/5" -> 9/5; "$5" -> 5;
    "50\%" -> 50 percent; "6.02 \times 10^{3}" -> 6020; "1,00" -> None.
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
    power = _TIMES_TEN.fullmatch(text)
    if power:
        value = _decimal(power["number"].strip())
        return None if value is None else value * Fraction(10) ** int(power["n"] or power["d"])
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


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if not match or not (match["whole"] or (match["part"] or "").strip(".")):
        return None
    return Fraction(f"{match['sign']}{(match['whole'] or '0').replace(',', '')}{match['part'] or ''}".rstrip("."))


# ------------------------------------------------------------------------------------------------ units

_UNIT_LINES = """cm centimeter centimeters centimetre centimetres|mm millimeter millimeters millimetre millimetres
m meter meters metre metres|km kilometer kilometers kilometre kilometres|in inch inches|ft foot feet|yd yard yards
mi mile miles|g gram grams|kg kilogram kilograms|mg milligram milligrams|lb lbs pound pounds|oz ounce ounces
l liter liters litre litres|ml milliliter milliliters millilitre millilitres|gallon gallons|cup cups
s sec second seconds|min minute minutes|h hr hrs hour hours|day days|week weeks|month months|year years
dollar dollars usd|cent cents|euro euros|yen|sterling|degree degrees|radian radians|unit units|mph|m/s|km/h kph"""
UNITS = {alias: line.split()[0] for line in re.split(r"[|\n]", _UNIT_LINES) for alias in line.split()}
_CURRENCY = {"$": "dollar", "\\$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
_CURRENCY_HEAD = re.compile(r"(?P<sign>[+-]?)(?P<mark>\\?\$|[€£¥])\s*(?=[0-9.\\])")
_DEGREES = re.compile(r"(?:\^ ?(?:\{ ?\\circ ?\}|\\circ)|°|\\degree)$")
_PERCENT = re.compile(r"(?<=[0-9}]) ?(?:\\text ?\{ ?percent ?\}|percent)$")
# A single letter is a unit only inside \text{}: 5m is five times m.
_UNIT_TAIL = re.compile(
    r"(?:\\text ?\{ ?(?P<text>[A-Za-z][A-Za-z ./]{0,40})\}|(?<=[0-9}) ])"
    r"(?P<word>(?:(?:square|cubic|sq) )?[A-Za-z/]{2,20})) ?(?:\^(?:\{(?P<power>[23])\}|(?P<p>[23])))?$"
)
_POWERS = {"square ": "^2", "sq ": "^2", "cubic ": "^3"}


def split_unit(text: str) -> tuple[str, str]:
    r""" "5 cm^2" -> ("5", "cm^2"); "90^\circ" -> ("90", "degree"); "\$5" -> ("5", "dollar"); "5m" -> ("5m", "")."""
    text = _PERCENT.sub("%", text)
    head = _CURRENCY_HEAD.match(text)
    if head:
        return head["sign"] + text[head.end() :], _CURRENCY[head["mark"]]
    if match := _DEGREES.search(text):
        return text[: match.start()].rstrip(), "degree"
    match = _UNIT_TAIL.search(text)
    if not match or not match.start():
        return text, ""
    name, power = (match["text"] or match["word"]).lower().strip(" ."), match["power"] or match["p"]
    exponent = f"^{power}" if power else ""
    for prefix, meant in _POWERS.items():
        if name.startswith(prefix):
            name, exponent = name.removeprefix(prefix), meant
    if match["word"] and name not in UNITS:
        return text, ""
    return text[: match.start()].rstrip(), UNITS.get(name, name) + exponent
