r"""Read an answer as mathematics: a text -> a Form, once. Lists, sets, intervals and systems are read here and in
rewards/structures.py; one expression or relation is read by rewards/expressions.py. Nothing takes long: what is too
long, nested too deeply or too large is refused (Unreadable).

    "3, 5"  "\{5, 3\}"  "x = 3 \text{ or } x = 5"  "4 \pm 1"    sets, in any order
    "0; 3"                                                     a list: the blanks of a question, in order
    "(3, 5)"  "[3, 5)"  "3 \le x < 5"                         tuples and intervals: brackets and order count
    "x < 1 \text{ or } x > 3"  "x \ne 2"  "\mathbb{R}"        sets of real numbers
    "a = 3, b = 5"  "(a, b) = (3, 5)"                         assignments, by their names
    "\text{(C)}"  "C"                                         a letter
    "\text{Evelyn}"  "evelyn"                                 words, in any case
    "\text{June 20}"  "1:58 pm"                               words, a time of day; p-q is a difference
    "5 cm"  "90^\circ"  "\$5"  "5 ft 6 in"                     numbers with a unit
    "(42)"  "\text{42}"  "= 42"  "- 42"                       plain numbers
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from rewards.closed_forms import read_closed, with_closed_sums
from rewards.equality import check_defined
from rewards.expressions import ENGLISH, NAMES, read_expression
from rewards.forms import NAME, REALS, Form
from rewards.nodes import Unreadable
from rewards.notation import MAX_LENGTH, text_key, tidy, without_outer_braces
from rewards.quantities import (
    has_power_of_ten,
    is_short_e_notation,
    parse_number,
    split_scale,
    split_unit,
)
from rewards.structures import read_structure

__all__ = [
    "MAX_LENGTH",
    "NAME",
    "POWER_OF_TEN",
    "SHORT_E",
    "SIGNS",
    "Form",
    "read",
    "read_simple",
    "text_key",
    "tidy",
    "without_variable",
]

SIGNS = ("<", ">", "=", "+", "\\le", "\\ge", "\\ne", "\\times", "/", "\\in", "\\cup")
"""Answers by themselves: a question may ask for the sign."""
SHORT_E, POWER_OF_TEN = "e", "10^"
"""The text of a number like 4.2e1 (see is_short_e_notation), and of one like 4.5e33; that of any other is empty."""
_VARIABLE = re.compile(
    rf"(?P<name>{NAME}'{{0,2}}(?: ?\([A-Za-z0-9](?:, ?[A-Za-z0-9])*\))?|\({NAME}(?: ?, ?{NAME})+\)"
    r"|[A-Za-z]\^ ?\{? ?-1 ?\}? ?\([A-Za-z]\)|\\frac ?\{ ?d[A-Za-z] ?\} ?\{ ?d[A-Za-z] ?\}"
    r"|\\text ?\{(?![^{}]*\b(?:not|no|or)\b)[^{}]{2,30}\}|[A-Z][a-z]{2,15}(?: [a-z]{2,15}){0,3}"
    r"|\\angle ?[A-Z]{1,3}|\\overline ?\{[A-Z]{2}\})"
    r" ?(?:=|\\in(?![A-Za-z])) ?(?P<rest>[^=<>]+|\\begin.*|\\\{ ?\\begin.*)"
)
_MIRRORED = re.compile(rf"(?P<rest>[^=<>]+?) ?= ?(?P<name>{NAME})")
_COMMAND_RELATION = re.compile(r"\\(?:ne|le|ge|lt|gt|in)(?![A-Za-z])")
_LETTER = re.compile(r"\( ?([A-Za-z]) ?\)|([A-Z])\)|([A-J])")
_WORDS = re.compile(r"[^\W\d_][^\W\d_' -]*(?:['’ -]+[^\W\d_]+)*(?: [0-9]{1,4})?'?")
_WRAPPED = re.compile(r"\\text ?\{([^{}]*)\}|\(([^(),]*)\)|= ?(.*)")
_BASE = re.compile(
    r"\(?0*([0-9A-F]+|[0-9][0-9a-f]*)\)?_ ?(?:\{(?:\\text ?\{)? ?([0-9]{1,2}|[a-z]{3,7}) ?\}{1,2}|([0-9]{1,2}))"
)
_BASE_NAMES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASE_NAMES |= {"eleven": 11, "twelve": 12, "sixteen": 16}
_NUMBER_SETS = re.compile(r"\\mathbb ?\{? ?([ZNQC]) ?\}?")
_TIME = re.compile(r"([0-9]{1,2})(?: ?: ?([0-9]{2}))? ?([ap])\.? ?m\.?", re.IGNORECASE)
_TIME_OF_24_HOURS = re.compile("(1[3-9]|2[0-3]) ?: ?([0-5][0-9])")
_SAME_WORDS = {"dne": "does not exist", "doesn't exist": "does not exist", "the limit does not exist": "does not exist"}
_INFINITE = {"infinity": "\\infty", "positive infinity": "\\infty", "+infinity": "\\infty", "+\\infty": "\\infty"}
_INFINITE |= {"-infinity": "-\\infty", "negative infinity": "-\\infty", "minus infinity": "-\\infty"}
_OPTION = re.compile(r"(?:option|choice) \(?([A-Z])\)?", re.IGNORECASE)
_ALL_REALS = {"all real numbers", "all reals", "real numbers", "the real numbers", "全体实数", "所有实数"}
_NO_SOLUTION = {"no solution", "no solutions", "no real solution", "no real solutions", "无解", "empty set", "空集"}


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    r"""The Form of a normalised answer. Raises Unreadable, with the reason.

    "x = \frac{1}{2}" -> the number 1/2 of the variable x; "(1, 2]" -> a tuple with the brackets "(]".
    """
    text = tidy(text)
    body, variable = without_variable(text)
    body = _INFINITE.get(body.lower(), body)
    form = read_simple(body) or read_structure(body, read) or _read_expression(body)
    if form.kind == "relation" and variable:  # a = (b = c) is no reading
        raise Unreadable("several relations in one")
    return replace(form, variable=variable) if variable else form


def without_variable(text: str) -> tuple[str, str]:
    r""" "x = 3" and "3 = x" -> ("3", "x"); "x \in [1, 2]" -> ("[1, 2]", "x"); "6 = 2x" stays as it is, with ""."""
    match = _VARIABLE.fullmatch(text)
    if not match and "," not in text:
        match = _MIRRORED.fullmatch(text)
    if not match or ("\\begin" not in match["rest"] and _COMMAND_RELATION.search(match["rest"])):
        return text, ""
    return without_outer_braces(match["rest"].strip()), match["name"].replace(" ", "")


def read_simple(text: str, *, wordy: bool = False) -> Form | None:
    r"""The Form of what needs no parser: a number, a letter, words, a time, or a number in another base. Else None.

    wordy: words are wanted, so that AB is one, as \text{AB} always is; else it is a product, and p-q a difference.
    """
    if text in SIGNS:
        return Form("words", text)
    plain = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text).strip()
    if time := _TIME.fullmatch(" ".join(plain.split())):
        return Form("time", f"{int(time[1])}:{time[2] or '00'} {time[3].lower()}m")
    if time := _TIME_OF_24_HOURS.fullmatch(plain):
        return Form("time", f"{int(time[1]) - 12}:{time[2]} pm")
    number = _read_number(text)
    if number is not None:
        return number
    if option := _OPTION.fullmatch(plain):
        return Form("letter", option[1].upper())
    if letter := _LETTER.fullmatch(plain):
        return Form("letter", letter[1] or letter[2] or letter[3])
    if plain != text and re.fullmatch("[A-Za-z]", plain):
        return Form("letter", plain)
    if (base := _BASE.fullmatch(text)) and (base[3] or base[2].isdigit() or base[2] in _BASE_NAMES):
        return Form("base", f"{base[1].upper()}_{_BASE_NAMES.get(base[2] or base[3], base[2] or base[3])}")
    if numbers := _NUMBER_SETS.fullmatch(text):
        return Form("words", f"the numbers {numbers[1]}")
    return _read_words(plain, wordy or plain != text)


def _read_number(text: str) -> Form | None:
    """A plain number, with its unit: in brackets, behind "=", or in \\text{}."""
    wrapped = _WRAPPED.fullmatch(text)
    rest, unit = split_unit(wrapped[wrapped.lastindex or 0].strip() if wrapped else text)
    rest, scale = split_scale(rest)
    number = parse_number(rest)
    if number is None or (number.percent and scale > 1):
        return None
    number = number._replace(value=number.value * scale)
    notation = SHORT_E if is_short_e_notation(rest) else POWER_OF_TEN if has_power_of_ten(rest) else ""
    return Form("number", notation, number=number, unit=unit)


def _read_words(plain: str, wordy: bool) -> Form | None:
    words = re.split("[ -]+", plain)
    lower = " ".join(plain.split()).casefold()
    if lower in _ALL_REALS:
        return REALS
    if lower in _NO_SOLUTION:
        return Form("set")
    wordy = wordy or any(word.lower() in ENGLISH or not word.isascii() for word in words)
    wordy = wordy or any(len(word) > 2 and not word.isdigit() for word in words)
    wordy = wordy or (len(words) > 2 and "-" not in plain)  # B A C is an order of letters
    if wordy and _WORDS.fullmatch(plain) and not {*words} & NAMES:
        return Form("words", _SAME_WORDS.get(lower, re.sub(" ?- ?", "-", lower)))
    return None


def _read_expression(text: str) -> Form:
    """An expression, equation or inequality. Raises Unreadable, also for what has no value anywhere."""
    body, unit = split_unit(text)
    meant, expression = read_closed(body) or read_expression(body)
    expression = with_closed_sums(expression)
    check_defined(expression)
    return Form("relation" if expression.is_relation else "expression", text=meant, expression=expression, unit=unit)
