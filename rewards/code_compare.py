"""Whether what a program gave is what a test expects: printed text, and values as JSON.

Numbers in printed text compare as numbers, as programming contests compare them:

    "3.0" is "3", "0.1666666667" is "0.16666666666666666", "2e-05" is "0.00002"
    "1000000008" is not "1000000007", "1e+18" is not "1000000000000000001": whole numbers are exact
    "0011" is not "11", "Yes" is not "yes", "1 2" is not "12": what is no number is text
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

TOLERANCE = 1e-6
"""Relative: the usual one of programming contests."""

_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d*)")
# A sign in the exponent, as all languages print it, since 1e5 may be hexadecimal; no zero before other digits, since
# 0011 may be binary.
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]\d{1,3})?")
MAX_DIGITS = 20_000
_LONGEST = 400  # characters of a number that is no whole one
_NOISE = 1e-9  # of a sum that should be 0 or another whole number


def same_lines(one: str, other: str) -> bool:
    """Whether two outputs are the same but for spaces inside and around lines, and blank lines at the end."""
    return _lines(one) == _lines(other)


def same_output(given: str, expected: str, tolerance: float = TOLERANCE) -> bool:
    """Whether the output is the expected one, line by line and word by word; numbers as same_number says."""
    given_L, expected_L = _lines(given), _lines(expected)
    if len(given_L) != len(expected_L):
        return False
    for line, wanted in zip(given_L, expected_L, strict=True):
        if line == wanted:
            continue
        words, others = line.split(" "), wanted.split(" ")
        if len(words) != len(others):
            return False
        if not all(a == b or same_number(a, b, tolerance) for a, b in zip(words, others, strict=True)):
            return False
    return True


def same_number(given: str, expected: str, tolerance: float = TOLERANCE) -> bool:
    """Whether both are numbers, and equal: whole numbers exactly, others to the tolerance.

    "-0" -> "0"; "3.0000000001" -> "3"; "2.5" is not "2"; "007" is no number
    """
    if _WHOLE.fullmatch(given) and _WHOLE.fullmatch(expected):
        one, other = given.lstrip("+-"), expected.lstrip("+-")
        return one == other and (one == "0" or given.startswith("-") == expected.startswith("-"))
    for text in (given, expected):
        if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
            return False
    if _WHOLE.fullmatch(expected):
        return _is_whole_number(Fraction(given), int(expected))
    one_float, other_float = float(given), float(expected)  # infinite beyond 1e308, where all would be alike
    return math.isfinite(other_float) and math.isclose(one_float, other_float, rel_tol=tolerance, abs_tol=_NOISE)


def same_value(value: object, expected: object) -> bool:
    """Whether two decoded JSON values are equal. Numbers by value, floats to 1e-9 relative; true is not 1."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same_value(value[key], expected[key]) for key in expected)
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, float) and isinstance(expected, int):
        return math.isfinite(value) and _is_whole_number(Fraction(value), expected)
    if isinstance(value, int | float) and isinstance(expected, float):
        return _close(value, expected)
    return type(value) is type(expected) and value == expected


def _is_whole_number(value: Fraction, expected: int) -> bool:
    """Whether a number with a fraction is this whole one but for the noise of floating point: 1e18 is not 1e18 + 1."""
    difference = abs(value - expected)
    return difference <= Fraction(_NOISE) * max(1, abs(expected)) and difference <= Fraction(1, 1000)


def _close(value: float, expected: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:  # an int beyond the floats
        return value == expected


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def long_integer(digits: str) -> int:
    """int() without Python's limit of 4,300 digits, for at most MAX_DIGITS. Raises ValueError for more."""
    if len(digits) <= 4000:
        return int(digits)
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(Decimal(digits))
