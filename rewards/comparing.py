"""Whether one Form is another: an answer against a reference. VERDICTS.md lists what is equal and what is not."""

from __future__ import annotations

import re
from dataclasses import replace

from rewards.denominators import same_without_denominators
from rewards.equality import infinite, same_relation, same_value
from rewards.expressions import read_expression
from rewards.forms import NAME, Form
from rewards.intervals import BRACKETS, expression_of, real_set, same_set
from rewards.mathematics import SHORT_E
from rewards.nodes import PI, Node, Unreadable, letter, number
from rewards.quantities import Number, is_unit, may_be_left_out
from rewards.structures import assignments

_INDEXED = re.compile(r"([A-Za-z])_\{?[0-9]\}?")
_LISTS = ("set", "list", "compound", "tuple")


def agree(one: Form, gold: Form, *, percent: str = "strict") -> bool:
    """Whether an answer's Form is the reference's. Raises Unreadable where a value is out of bounds.

    percent: "strict", "asked" (the question asks for percent, so 50 is 50%), or "lenient" (0.5 is 50% as well).
    """
    if "assignments" in (one.kind, gold.kind) and not {one.kind, gold.kind} & {"relation", "expression", "number"}:
        return _assignments_agree(one, gold, percent)
    if not variables_agree(one.variable, gold.variable) or "relation" in (one.kind, gold.kind):
        return _relations_agree(one, gold)
    if "degree" in (one.unit, gold.unit) and one.unit != gold.unit and _same_angle(one, gold):
        return True
    if not _units_agree(one.unit, gold.unit):
        return False
    if one.kind == gold.kind == "tuple" and one.text == gold.text == ":":
        return _same_ratio(one, gold)
    if one.number and gold.number:
        return (one.text != SHORT_E or gold.text != "") and _numbers_agree(one.number, gold.number, percent)
    if one.kind == gold.kind == "letter":
        return one.text == gold.text
    if one.kind in ("number", "expression", "letter") and gold.kind == "expression":
        a, b = _value(one), _value(gold)
        return a is not None and b is not None and same_value(a, b)
    if gold.kind == "letter":  # beyond J a capital without brackets is a variable: K is (K)
        return one.kind == "expression" and one.expression == letter(gold.text)
    if "union" in (one.kind, gold.kind) and (found := _sets_agree(one, gold)) is not None:
        return found
    return _parts_agree(one, gold, percent)


def _same_angle(one: Form, gold: Form) -> bool:
    a, b = _angle(one), _angle(gold)
    return a is not None and b is not None and same_value(a, b)


def _angle(form: Form) -> Node | None:
    """An angle in radians: degrees are so many times pi/180."""
    value = expression_of(form)
    if value is None or form.unit not in ("degree", "radian", "") or value.names():
        return None
    if form.unit == "" and not value.holds("constant"):  # a plain 30 is no angle of 30 radians
        return None
    return Node("*", (value, Node("/", (PI, number(180))))) if form.unit == "degree" else value


def _same_ratio(one: Form, gold: Form) -> bool:
    """Whether each part is to the first as in the other: 2:3:4 and 4:6:8."""
    a, b = ([expression_of(part) for part in form.parts] for form in (one, gold))
    if len(a) != len(b) or None in a + b or any(part.unit for part in (*one.parts, *gold.parts)):
        return _parts_agree(one, gold, "strict")
    if any(first is not None and same_value(first, number(0)) for first in (a[0], b[0])):
        return _parts_agree(one, gold, "strict")
    pairs = [
        (Node("*", (x, b[0])), Node("*", (y, a[0]))) for x, y in zip(a, b, strict=True) if x and y and a[0] and b[0]
    ]
    return all(same_value(*pair) for pair in pairs)


def variables_agree(one: str, gold: str) -> bool:
    return not one or not gold or one == gold


def _units_agree(one: str, gold: str) -> bool:
    if one == gold:
        return True
    if not one:
        return may_be_left_out(gold)
    return not gold and is_unit(one.partition("^")[0])


def _numbers_agree(one: Number, gold: Number, percent: str) -> bool:
    if percent == "strict" or one.percent == gold.percent:
        return one == gold
    if percent == "asked":
        return one.value == gold.value
    plain, share = (gold, one) if one.percent else (one, gold)
    return plain.value in (share.value, share.value / 100)


def _value(form: Form) -> Node | None:
    return letter(form.text) if form.kind == "letter" else expression_of(form)


def _sets_agree(one: Form, gold: Form) -> bool | None:
    """Whether two sets of real numbers are the same; None where one is none, or has letters for its ends."""
    try:
        a, b = real_set(one), real_set(gold)
    except Unreadable:
        return None
    return None if a is None or b is None else same_set(a, b)


def _parts_agree(one: Form, gold: Form, percent: str) -> bool:
    """Part by part: in any order for sets and unions, in order for the rest."""
    in_order = gold.kind in ("tuple", "list", "compound", "matrix")
    kinds = ("set", "list") if gold.kind in ("set", "list") else (gold.kind,)
    if one.kind not in kinds or len(one.parts) != len(gold.parts):
        return False
    if gold.kind not in ("set", "list") and one.text != gold.text:
        return False
    if gold.kind == "compound" and any(a.unit != b.unit for a, b in zip(one.parts, gold.parts, strict=True)):
        return False
    if in_order:
        return all(agree(a, b, percent=percent) for a, b in zip(one.parts, gold.parts, strict=True))
    left = list(one.parts)
    for part in gold.parts:
        found = next((i for i, other in enumerate(left) if agree(other, part, percent=percent)), None)
        if found is None:
            return False
        del left[found]
    return True


# ------------------------------------------------------------------------------------------------ assignments


def _assignments_agree(one: Form, gold: Form, percent: str) -> bool:
    """By the names where both have them; else by the order of the names, which a tuple or a list then follows."""
    one, gold = _by_name(one), _by_name(gold)
    if one.kind == gold.kind == "assignments":
        names = [part.variable for part in one.parts] == [part.variable for part in gold.parts]
        return names and all(agree(a, b, percent=percent) for a, b in zip(one.parts, gold.parts, strict=True))
    named, other = (one, gold) if one.kind == "assignments" else (gold, one)
    if other.kind not in _LISTS or len(other.parts) != len(named.parts) or other.text not in ("", "()"):
        return False
    indexed = {match[1] for part in named.parts if (match := _INDEXED.fullmatch(part.variable))}
    if one is named and other.kind == "set" and len(indexed) == 1:  # x_1 = 5, x_2 = 3 are the roots 3 and 5
        return _parts_agree(Form("set", parts=named.parts), gold, percent)
    if other.text != "()" and not named.text:  # b = 5, a = 3 and a bare 5, 3: which is which?
        return False
    return all(agree(a, b, percent=percent) for a, b in zip(one.parts, gold.parts, strict=True))


def _by_name(form: Form) -> Form:
    """ "(x, y) = (1, 2)" as the assignments x = 1, y = 2; any other Form as it is."""
    names = form.variable.strip("()").split(",") if form.variable.startswith("(") else []
    if form.kind != "tuple" or form.text != "()" or len(names) != len(form.parts) or len(set(names)) != len(names):
        return form
    return assignments([replace(part, variable=name) for part, name in zip(form.parts, names, strict=True)])


# ------------------------------------------------------------------------------------------------ relations


def _relations_agree(one: Form, gold: Form) -> bool:
    """Lines and equations in another arrangement. A solved x = 5 wants to be solved, not 2x = 10."""
    a, b = relation_of(one), relation_of(gold)
    if a is None or b is None:
        return False
    solved = gold.kind != "relation" and not b.args[1].names()
    return not solved and (same_relation(a, b) or same_without_denominators(a, b))


def relation_of(form: Form) -> Node | None:
    """The relation that a Form is: its own, or y = 2x + 3 of the variable y; None when it is none."""
    if form.kind == "relation":
        return form.expression
    if form.unit or not re.fullmatch(NAME, form.variable):
        return None
    if form.kind == "tuple" and len(form.parts) == 2 and form.text in BRACKETS:
        return _one_sided(form)
    value = expression_of(form)
    if value is None:
        return None
    return Node("=", (read_expression(form.variable)[1], value))


def _one_sided(form: Form) -> Node | None:
    """An interval to infinity of a variable as its inequality: y < 3 - x; None where both ends are finite."""
    low, high = map(expression_of, form.parts)
    if low is None or high is None or not low.names() | high.names():
        return None
    name = read_expression(form.variable)[1]
    if infinite(low):
        return Node("<" if form.text[1] == ")" else "<=", (name, high))
    return Node(">" if form.text[0] == "(" else ">=", (name, low)) if infinite(high) else None
