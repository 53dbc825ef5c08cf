"""Find the thinking, the answer part and the final answer in a completion, and the plain number that it may be.

All of it is strict and takes linear time. No regular expression here can backtrack over more than one token, so a
hostile 1 MB completion costs what an honest one of that length does; numbers and units are read in short texts only.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_NUMBER_LENGTH = 200
"""Longer texts are compared as text only: exact arithmetic on thousands of digits is a way to stall a run."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_ANSWER_TAG = re.compile("</?answer>")
# A box's opening, any escaped character (so that \{ is no brace), or a brace. Each match has a bounded length.
_BOX_TOKEN = re.compile(r"\\boxed\s{0,4}\{|\\.|[{}]", re.DOTALL)


class Extracted(NamedTuple):
    """The candidate answers of a completion: one, several that contradict each other, or none (then why)."""

    answers: list[str]
    reason: str = ""


def opens_thinking(prompt: str) -> bool:
    """Whether the prompt's template has opened the think tag, so that the completion begins inside it."""
    return prompt.rstrip().endswith(THINK_OPEN)


def after_thinking(completion: str, *, opened: bool) -> str | None:
    """What follows the thinking: the text after the last </think>, or everything when there was no thinking.

    opened: the prompt ended inside the thinking. Returns None when the completion ends inside the thinking:

        "<think>a</think> b"   -> " b"          "b"            -> "b"    (opened: None)
        "a</think> b"          -> " b"          "<think>a"     -> None
        "b <think>a"           -> None          "a</think><think>b" -> None
    """
    close = completion.rfind(THINK_CLOSE)
    if close < 0:
        return None if opened or THINK_OPEN in completion else completion
    tail = completion[close + len(THINK_CLOSE) :]
    return None if THINK_OPEN in tail else tail


def last_answer_part(text: str) -> str | None:
    """Content of the last complete <answer>...</answer> with no answer tag inside; None when there is none."""
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if tag.group() == ANSWER_OPEN:
            start = tag.end()
        elif start is not None:
            found = (start, tag.start())
            start = None
    return text[found[0] : found[1]] if found else None


def boxes(text: str) -> list[str]:
    r"""Contents of the outermost balanced \boxed{...}, in order. Braces written \{ and \} do not count.

    "\boxed{\frac{1}{2}} or \boxed{3" -> ["\frac{1}{2}"]
    """
    if "\\boxed" not in text:
        return []
    open_braces: list[tuple[bool, int]] = []  # (is a box, where its content starts)
    spans: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        symbol = token.group()
        if symbol[-1] == "{" and symbol != "\\{":
            open_braces.append((len(symbol) > 1, token.end()))
        elif symbol == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, token.start()))
    return [text[start:end] for start, end in spans]


def final_answers(completion: str, *, opened: bool) -> Extracted:
    r"""The final answer of a completion, never from inside the thinking.

    The answer part is the last complete <answer>...</answer> after the thinking, else all that follows the thinking.
    The answer is its \boxed{} contents (a list: it is for the caller to see whether several agree), else, when the
    tags are there, the whole of what they hold. Without either, there is no answer.
    """
    text = after_thinking(completion, opened=opened)
    if text is None:
        return Extracted([], "the thinking never ends")
    part = last_answer_part(text)
    found = boxes(text if part is None else part)
    if found:
        return Extracted(found)
    if part is None:
        return Extracted([], "no complete <answer>...</answer> or \\boxed{} after the thinking")
    return Extracted([part]) if part.strip() else Extracted([], "the answer part is empty")


# ------------------------------------------------------------------------------------------------ plain numbers

# ASCII digits only: int() would read every script's digits, and a model need not be paid for "４２".
_DECIMAL = re.compile(r"(?P<sign>[+-]?)(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?P<part>\.[0-9]*)?")
_LATEX_FRACTION = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)\s*\\[dtc]?frac\s*"
    r"(?:\{(?P<top>[^{}]*)\}|(?P<t>[0-9]))\s*(?:\{(?P<bottom>[^{}]*)\}|(?P<b>[0-9]))"
)
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+)\s+(?P<top>[0-9]+)/(?P<bottom>[0-9]+)")
_TIMES_TEN = re.compile(r"(?P<number>[^\\×]+)(?:\\times|\\cdot|×)\s*10\^(?:\{(?P<n>[+-]?[0-9]{1,3})\}|(?P<d>[0-9]))")
# "10,\!000", "10{,}000" and "10\,000": LaTeX for a thousands separator.
SEPARATORS = re.compile(r",\s*\\!\s*(?=[0-9])|\{,\}|\\,(?=[0-9])")
_MATH_MARKS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


class Number(NamedTuple):
    """An exact number. 50% is not 50 and not 0.5: percent is part of what a number is."""

    value: Fraction
    percent: bool = False


def normalise(text: str) -> str:
    """The answer without what never changes it: outer whitespace and math marks, a final full stop, runs of spaces.

    " $42$. " -> "42"; "x  =  3" -> "x = 3". Case stays: x is not X.
    """
    text = " ".join(text.replace("\u2212", "-").split())
    text = _without_full_stop(text)
    for left, right in _MATH_MARKS:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right) and left not in inner:
            return _without_full_stop(inner.strip())
    return text


def _without_full_stop(text: str) -> str:
    """ "42." -> "42"; an ellipsis stays, since the answer then goes on."""
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


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
