"""Which words of a plain text belong to a formula or a measure: "3 km/h", "sin(x)", "ab = 6" are of no language."""

from __future__ import annotations

_UNIT_NAMES = """
bit bits byte bytes cal cc cd cl cm cwt dB deg dm eV fm ft GB Gb GHz GPa GW ha Hz hr hrs in kB KB kHz kJ kWh kW kV kN
kPa kcal kg kgm km kmh kph lb lbf lbs ly lm lx mA mAh MB MHz MJ MPa MW mV mg mL ml mm mmHg mol mph ms mW mi min nm ns oz
pH pm ppm psi pt px qt rad rpm rps sec sq TB TW USD EUR RMB CNY Wb Wh yd AU Pa hPa μm
"""
_UNITS = frozenset(_UNIT_NAMES.split())
_FUNCTION_NAMES = """
arccos arccot arcsin arctan arg ceil cos cosh cot csc deg det dim div exp floor gcd hcf ker lcm lg lim ln log max min
mod rank round Rt sec sgn sign sin sinh sqrt sup inf tan tanh tr var
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
NAMES = frozenset(name.lower() for name in _UNITS | _FUNCTIONS)
"""In lower case, the words of more than 3 letters that in_a_formula can be true of, and shorter ones."""
_DIGITS = "0123456789"
_DIGITS_AND_INDEX = _DIGITS + "_"
_OPERATORS = "=+*^<>≤≥≠≈×÷·∙⋅−±∝→⇒|"
_MEASURED = _DIGITS + "/·⋅*^²³}-°"
_ARGUMENT = _DIGITS + "([{_^\\|△∠αβθπ°"


def in_a_formula(word: str, text: str, place: int, every: bool = True) -> bool:
    """Whether the Latin word at text[place:] is a unit behind a number, a function before its argument, or a name of at
    most 3 letters beside an operator, or 2 beside a bracket. In "5 km" it is, in "about km" it is not.

    every: look for all of it, not for names of two letters glued to a digit alone.
    """
    end = place + len(word)
    left, right = text[place - 1 : place], text[end : end + 1]  # "" at the start and the end
    if len(word) == 2:
        if left and left in _DIGITS_AND_INDEX:
            return True  # "5km", "x_ab"
        if every and ((left and left in "([{") or (right and right in ")]}_")):
            return True  # "f(ab, cd)"
    if not every:
        return False
    if left == " ":
        left = text[place - 2 : place - 1]
    if right == " ":
        right = text[end : end + 3].lstrip(" ")[:1]
    if left.isalpha() and right.isalpha() and word not in _FUNCTIONS:
        return False  # most words
    if left and left in _MEASURED and (word in _UNITS or word.lower() in _UNITS):
        return True
    if right and word in _FUNCTIONS and (right in _ARGUMENT or _is_symbol(text[end : end + 3].lstrip(" "))):
        return True
    return len(word) <= 3 and bool((left and left in _OPERATORS) or (right and right in _OPERATORS))


def _is_symbol(text: str) -> bool:
    """Whether it begins with a letter that stands alone: the x of "sin x"."""
    return text[:1].isascii() and text[:1].isalpha() and not text[1:2].isalnum() and text[1:2] not in ("'", "’")
