r"""Read what holds several answers: lists, sets, tuples and intervals, inequalities, unions, matrices, cases.

Pieces are split outside all brackets and read one by one (rewards/mathematics.py), so the time is that of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from rewards.distances import read_distance
from rewards.expressions import bracket_step
from rewards.forms import NAME, REALS, Form
from rewards.intervals import Interval, expression_of, intersection, real_set, union
from rewards.nodes import INFINITY, Node, Unreadable
from rewards.quantities import is_unit

Read = Callable[[str], Form]
"""Reads one piece: rewards.mathematics.read."""
MAX_PARTS = 24
"""Of a list, set or matrix: they are matched in any order."""
MAX_NESTING = 40

_TOKEN = re.compile(r"\\begin ?\{[a-z]*\}|\\end ?\{[a-z]*\}|\\[A-Za-z]+|\\.|.")
_COLUMNS = r"(?:\{[lcr|@ ]*\})?"
_MATRIX = re.compile(
    rf"\\begin ?\{{([pb]?matrix|smallmatrix|array)\}}{_COLUMNS}(.*)\\end ?\{{\1\}}"
    rf"|[(\[] ?\\begin ?\{{(array|smallmatrix|matrix)\}}{_COLUMNS}(.*)\\end ?\{{\3\}} ?[)\]]"
)
_CASES = re.compile(
    rf"\\begin ?\{{(cases)\}}(.*)\\end ?\{{cases\}}"
    rf"|\\\{{ ?\\begin ?\{{(array|aligned)\}}{_COLUMNS}(.*)\\end ?\{{\3\}} ?\.?"
)
_CONDITION = re.compile(
    r"\\text ?\{ ?(?:if|for|when|where|as)?[ ,]*\}|(?<![A-Za-z\\])(?:if|for|when|where)(?![A-Za-z])"
)
_BUILDER = re.compile(rf"({NAME})(?: ?\\in ?\\reals)? ?[:|] ?(.+)")
_UNEQUAL = re.compile(rf"({NAME}) ?\\ne ?(.+)")
_WITHOUT = re.compile(r"(?:\\reals|\(-\\infty, ?\\infty\)) ?(?:\\setminus|-) ?(\\\{.*\\\})")
_ORDERS = ("<", ">", "\\le", "\\ge", "\\lt", "\\gt")
_HALF = re.compile(
    r"\\reals ?(?:[_^] ?\{? ?[+-] ?\}?|_ ?\{ ?(?:\\ge|\\le|>|<) ?0 ?\}|_ ?\{? ?0 ?\}? ?\^ ?\{? ?[+-] ?\}?"
    r"|\^ ?\{? ?[+-] ?\}? ?_ ?\{? ?0 ?\}?)"
)
_TIME = re.compile("[0-9]{1,2} ?: ?[0-9]{2}")
_INFINITE = (Node("-", (INFINITY,)), INFINITY)


def read_structure(text: str, read: Read) -> Form | None:
    """The Form of a text that has several parts; None when it is one expression or relation. Raises Unreadable."""
    if matrix := _MATRIX.fullmatch(text):
        return Form("matrix", parts=tuple(Form("tuple", parts=row) for row in _rows(_inside(matrix), read)))
    if cases := _CASES.fullmatch(text):
        return _read_cases(_inside(cases), read)
    if text in ("\\reals", "(-\\infty, +\\infty)"):
        return REALS
    if half := _HALF.fullmatch(text):
        return _half_line(half, read)
    if text in ("\\emptyset", "\\{\\}"):
        return Form("set")
    if (without := _WITHOUT.fullmatch(text)) and "\\}" not in without[1][:-2]:
        return _all_but(read(without[1]).parts)
    if len(pieces := split(text, "\\setminus")[::2]) == 2:
        return _difference(*(read(piece) for piece in pieces))
    if (unequal := _UNEQUAL.fullmatch(text)) and "\\ne" not in unequal[2]:
        return replace(
            _all_but(_parts(_without_plus_minus(split(unequal[2], ",", "\\land")[::2], read), read)),
            variable=unequal[1],
        )
    if len(pieces := split(text, "\\cup")[::2]) > 1:
        return Form("union", parts=_parts(pieces, read))
    if len(pieces := split(text, ";")[::2]) > 1:
        return _read_list(_parts(_without_plus_minus(pieces, read), read), [";"] * (len(pieces) - 1))
    pieces = split(text, ",", "\\lor", "\\land")
    if len(values := _without_plus_minus([piece for piece in pieces[::2] if piece], read)) > 1:
        return _read_list(_parts(values, read), pieces[1::2])
    if len(pieces := split(text, *_ORDERS)) > 1:
        if len(pieces) == 3 and (within := read_distance(*pieces)) is not None:
            return _of_intervals(within[0], within[1])
        return _read_inequality(pieces, read)
    if len(pieces := split(text, ":")[::2]) > 1:
        return Form("tuple", "h:m" if _TIME.fullmatch(text) else ":", parts=_parts(pieces, read))
    return _read_compound(text, read) or _read_brackets(text, read)


def _inside(environment: re.Match[str]) -> str:
    """The rows of a matrix or of cases: the group behind the name of the environment."""
    return next(text for name, text in zip(environment.groups()[::2], environment.groups()[1::2], strict=True) if name)


def split(text: str, *separators: str) -> list[str]:
    """The pieces between separators outside all brackets, a separator before each piece but the first.

    "a < (b, c) < d" at "<" -> ["a", "<", "(b, c)", "<", "d"]. Raises Unreadable for brackets that do not pair.
    """
    pieces, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol in separators and depth == 0:
            pieces += [text[start : token.start()].strip(), symbol]
            start = token.end()
        depth += bracket_step(symbol)
        if depth < 0:
            raise Unreadable("brackets that do not pair")
        if depth > MAX_NESTING:
            raise Unreadable("brackets nested too deeply")
    if depth:
        raise Unreadable("brackets that do not pair")
    return [*pieces, text[start:].strip()]


def _parts(pieces: Sequence[str], read: Read) -> tuple[Form, ...]:
    if len(pieces) > MAX_PARTS:
        raise Unreadable(f"{len(pieces)} parts, more than {MAX_PARTS}")
    return tuple(read(piece) for piece in pieces)


def _rows(text: str, read: Read) -> list[tuple[Form, ...]]:
    rows = [row for row in split(re.sub(r"\\\\ ?\[[^\]]*\]", r"\\\\", text), "\\\\")[::2] if row]
    if len(rows) > MAX_PARTS:
        raise Unreadable(f"{len(rows)} rows, more than {MAX_PARTS}")
    return [_parts(split(row, "&")[::2], read) for row in rows]


def _without_plus_minus(pieces: Sequence[str], read: Read) -> list[str]:
    r""" "1 \pm 2" -> "1 + 2", "1 - 2"; two signs of plus or minus are four values."""
    found: list[str] = []
    for piece in pieces:
        count = piece.count("\\pm")
        if count not in (1, 2) or _read_brackets(piece, read) is not None:
            found.append(piece)
            continue
        texts = piece.split("\\pm")
        for signs in product("+-", repeat=count):
            made = "".join(text + sign for text, sign in zip(texts, (*signs, ""), strict=True))
            found.append(re.sub(r"(^|[=(,]) ?\+ ?", r"\1 ", made).strip())
    return found


# ------------------------------------------------------------------------------------------------ lists


def _read_list(parts: tuple[Form, ...], separators: Sequence[str]) -> Form:
    """Values between separators: assignments, conditions on one variable, quantities, blanks in order, or a set."""
    if "\\lor" in separators and all(part.kind == "letter" for part in parts):
        raise Unreadable("one of several choices, which is not told")
    variables = [part.variable for part in parts]
    if all(variables) and len(set(variables)) == len(parts):
        return assignments(parts)
    if conditions := _read_conditions(parts, separators):
        return conditions
    units = [part.unit for part in parts]
    if all(units) and len(set(units)) == len(units):
        return Form("compound", parts=parts)
    if ";" in separators and not any(variables):
        return Form("list", parts=parts)
    return Form("set", parts=parts)


def assignments(parts: Sequence[Form]) -> Form:
    """Values of variables, by their names; text tells whether they were written in that order."""
    ordered = sorted(parts, key=lambda part: part.variable)
    return Form("assignments", "in order" if ordered == list(parts) else "", parts=tuple(ordered))


def _read_conditions(parts: tuple[Form, ...], separators: Sequence[str]) -> Form | None:
    r""" "x < 1 \lor x > 3" -> a union; "x > 1 \land x < 3" -> what they share; with commas, what they
    share if anything."""
    variables = {part.variable for part in parts}
    if len(variables) != 1 or not all(part.kind in ("tuple", "union") for part in parts):
        return None
    sets = [real_set(part) for part in parts]
    if "" in variables or any(found is None for found in sets):
        return None
    shared = union(*(found or () for found in sets)) if "\\lor" in separators else ()
    if "\\lor" not in separators:
        shared = sets[0] or ()
        for found in sets[1:]:
            shared = intersection(shared, found or ())
        if not shared and "\\land" not in separators:
            shared = union(*(found or () for found in sets))
    return _of_intervals(shared, variables.pop())


def _of_intervals(intervals: Sequence[Interval], variable: str = "") -> Form:
    parts = [
        Form("tuple", brackets, parts=tuple(Form("expression", expression=end) for end in (low, high)))
        for low, high, brackets in intervals
    ]
    return Form("union", parts=tuple(parts), variable=variable)


def _half_line(match: re.Match[str], read: Read) -> Form:
    r""" "\\reals^+", "\\reals_{\\ge 0}", "\\reals_0^+": above or below zero, with or without it."""
    signs = match.group()
    low = "-" in signs or "<" in signs or "\\le" in signs
    with_zero = "\\ge" in signs or "\\le" in signs or ("0" in signs and not re.search("[<>]", signs))
    if low:
        return read("(-\\infty, 0" + ("]" if with_zero else ")"))
    return read(("[" if with_zero else "(") + "0, \\infty)")


def _difference(one: Form, other: Form) -> Form:
    r""" "(0, 2) \\setminus \\{1\\}" -> the two intervals beside 1."""
    a, points = real_set(one), real_set(_all_but(other.parts)) if other.kind == "set" else None
    if a is None or points is None:
        raise Unreadable("a difference of sets that are no sets of numbers")
    return _of_intervals(intersection(a, points))


def _all_but(points: tuple[Form, ...]) -> Form:
    """All real numbers but these."""
    found = real_set(Form("set", parts=points))
    if not found:
        raise Unreadable("numbers left out that are no numbers")
    lows, highs = [_INFINITE[0], *(p.high for p in found)], [*(p.low for p in found), _INFINITE[1]]
    return _of_intervals([Interval(low, high, "()") for low, high in zip(lows, highs, strict=True)])


def _read_compound(text: str, read: Read) -> Form | None:
    r""" "5 \text{ feet } 6 \text{ inches}" -> a compound of two quantities."""
    pieces = re.findall(r"([0-9][0-9.,/]*) ?((?:\\text ?\{[A-Za-z .]+\}|[A-Za-z]{1,12}))(?= ?[0-9]|$)", text)
    if len(pieces) < 2 or re.sub(r"[ ,]", "", "".join(a + b for a, b in pieces)) != re.sub(r"[ ,]", "", text):
        return None
    if any(len(unit) == 1 and not is_unit(unit) for _, unit in pieces):
        return None
    parts = _parts([number + (unit if unit[0] == "\\" else f"\\text{{{unit}}}") for number, unit in pieces], read)
    if not all(part.kind == "number" and part.unit for part in parts):
        return None
    return Form("compound", parts=parts)


# ------------------------------------------------------------------------------------------------ brackets


def _read_brackets(text: str, read: Read) -> Form | None:
    """A set in braces, or a tuple or interval in brackets, when one pair spans the whole text."""
    marks = re.fullmatch(r"(\\\{|[(\[{])(.*)(\\\}|[)\]]|(?<!\\)\})", text)
    if not marks:
        return None
    left, inner, right = marks.groups()
    try:
        pieces = split(inner, ",", ";")[::2]
    except Unreadable:  # (a)(b): the first bracket closes before the end
        return None
    braces = left + right
    if braces in ("\\{\\}", "{}") and (builder := _BUILDER.fullmatch(inner.strip())):
        return _read_builder(builder[1], builder[2], read)
    if braces == "\\{\\}" or (braces == "{}" and len(pieces) > 1):  # {42} is 42 in LaTeX's own braces
        return Form("set", parts=_parts(_without_plus_minus(pieces, read), read) if inner.strip() else ())
    if len(pieces) == 1 or left == "{" or right == "}":
        return None
    return Form("tuple", braces, parts=_parts(pieces, read))


def _read_builder(name: str, condition: str, read: Read) -> Form:
    r""" "\{x : x > 3\}" -> (3, \infty). Raises Unreadable for a condition that does not give its numbers."""
    found = read(condition)
    value = replace(found, variable="")
    if found.variable == name and expression_of(found) is not None:
        return Form("set", parts=(value,))
    if found.variable != name or "=" in condition or real_set(found) is None:
        raise Unreadable("a set by a condition that does not say its numbers")
    return value


def _read_inequality(pieces: list[str], read: Read) -> Form | None:
    r""" "1 < x \le 2" -> (1, 2], "x > 5" -> (5, \infty), each of the variable x; None for other inequalities."""
    values, signs = pieces[::2], [sign.replace("\\lt", "<").replace("\\gt", ">") for sign in pieces[1::2]]
    if all(sign in (">", "\\ge") for sign in signs):
        values, signs = values[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
    elif not all(sign in ("<", "\\le") for sign in signs):
        return None
    if len(values) == 2 and re.fullmatch(NAME, values[0]):
        values, signs = ["-\\infty", *values], ["<", *signs]
    elif len(values) == 2:
        values, signs = [*values, "\\infty"], [*signs, "<"]
    if len(values) != 3 or not re.fullmatch(NAME, values[1]):
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Form("tuple", brackets, parts=_parts([values[0], values[2]], read), variable=values[1])


def _read_cases(text: str, read: Read) -> Form:
    """Values and their conditions; a system of assignments or equations is a list of them."""
    rows = [[piece.rstrip(",. ") for piece in split(row, "&")[::2]] for row in split(text, "\\\\")[::2] if row]
    if len(rows) > MAX_PARTS:
        raise Unreadable(f"{len(rows)} rows, more than {MAX_PARTS}")
    if not rows:
        raise Unreadable("cases without any")
    joined = ["".join(row) for row in rows]
    if all(len(row) == 1 or "=" in row[1][:1] for row in rows):
        return _read_list(_parts(joined, read), ["\\land"] * (len(rows) - 1))
    pairs = [[row[0], _CONDITION.sub("", "".join(row[1:])).strip(" ,")] for row in rows]
    return Form("cases", parts=tuple(Form("tuple", parts=_parts(pair, read)) for pair in pairs))
