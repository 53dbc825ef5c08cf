"""Sets of real numbers: unions of intervals whose ends are constants, compared as sets and not as texts."""

from __future__ import annotations

from functools import cmp_to_key
from typing import NamedTuple

from rewards.equality import infinite, order
from rewards.forms import Form
from rewards.nodes import Node, number

BRACKETS = ("()", "(]", "[)", "[]")


class Interval(NamedTuple):
    """From low to high; brackets: "(]" leaves low out and has high in it. A single number is [a, a]."""

    low: Node
    high: Node
    brackets: str


Intervals = tuple[Interval, ...]


def expression_of(form: Form) -> Node | None:
    """The expression that a number or an expression is, percent as hundredths; None for any other form."""
    if form.number is not None:
        return number(form.number.value / (100 if form.number.percent else 1))
    return form.expression if form.kind == "expression" else None


def real_set(form: Form) -> Intervals | None:
    """The real numbers of an interval, a set or a union, as disjoint intervals in order; None for any other form."""
    if form.kind == "union":
        found = [real_set(part) for part in form.parts]
        return None if any(part is None for part in found) else union(*(part or () for part in found))
    if form.kind == "set":
        points = [_constant(part) for part in form.parts]
        return None if any(p is None for p in points) else union(tuple(Interval(p, p, "[]") for p in points if p))
    if form.kind == "number":
        point = _constant(form)
        return (Interval(point, point, "[]"),) if point else None
    if form.kind != "tuple" or form.text not in BRACKETS or len(form.parts) != 2:
        return None
    low, high = (_constant(part) for part in form.parts)
    return union((Interval(low, high, form.text),)) if low and high else None


def _constant(form: Form) -> Node | None:
    node = expression_of(form)
    return None if node is None or node.names() or form.unit else node


def union(*sets: Intervals) -> Intervals:
    """Disjoint intervals in order. Raises Unreadable where ends cannot be ordered."""
    left = sorted((i for found in sets for i in found if not _empty(i)), key=cmp_to_key(_by_low))
    merged: list[Interval] = []
    for interval in left:
        if merged and _touch(merged[-1], interval):
            merged[-1] = _joined(merged[-1], interval)
        else:
            merged.append(interval)
    return tuple(merged)


def intersection(one: Intervals, other: Intervals) -> Intervals:
    """What two sets share."""
    return union(tuple(_shared(a, b) for a in one for b in other))


def same_set(one: Intervals, other: Intervals) -> bool:
    """Whether two sets in the order of union() have the same numbers."""
    return len(one) == len(other) and all(
        _brackets(a) == _brackets(b) and order(a.low, b.low) == 0 and order(a.high, b.high) == 0
        for a, b in zip(one, other, strict=True)
    )


def _brackets(interval: Interval) -> str:
    """Infinity is never in it, however it is written."""
    low = "(" if infinite(interval.low) else interval.brackets[0]
    return low + (")" if infinite(interval.high) else interval.brackets[1])


def _empty(interval: Interval) -> bool:
    found = order(interval.low, interval.high)
    return found > 0 or (found == 0 and interval.brackets != "[]")


def _by_low(one: Interval, other: Interval) -> int:
    return order(one.low, other.low) or (one.brackets[0] == "(") - (other.brackets[0] == "(")


def _touch(one: Interval, other: Interval) -> bool:
    found = order(other.low, one.high)
    return found < 0 or ((found == 0 and other.brackets[0] != "(") or (found == 0 and one.brackets[1] == "]"))


def _joined(one: Interval, other: Interval) -> Interval:
    found = order(one.high, other.high)
    end = one if found > 0 or (found == 0 and one.brackets[1] == "]") else other
    return Interval(one.low, end.high, one.brackets[0] + end.brackets[1])


def _shared(one: Interval, other: Interval) -> Interval:
    low = one if order(one.low, other.low) > 0 else other
    if order(one.low, other.low) == 0:
        low = one if one.brackets[0] == "(" else other
    high = one if order(one.high, other.high) < 0 else other
    if order(one.high, other.high) == 0:
        high = one if one.brackets[1] == ")" else other
    return Interval(low.low, high.high, low.brackets[0] + high.brackets[1])
