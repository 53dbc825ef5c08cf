r"""Inequalities of an absolute value, as sets of real numbers: "|x - 1| < 2" is (-1, 3)."""

from __future__ import annotations

import re

from rewards.closed_forms import put
from rewards.equality import same_value, sign
from rewards.expressions import read_expression
from rewards.intervals import Interval, Intervals, union
from rewards.nodes import INFINITY, Node, Unreadable, number

_BARS = re.compile(r"\|(?P<a>[^|]+)\||\\lvert(?P<b>.+)\\rvert")
_MIRRORED = {"<": ">", ">": "<", "\\lt": ">", "\\gt": "<", "\\le": "\\ge", "\\ge": "\\le"}


def read_distance(left: str, order: str, right: str) -> tuple[Intervals, str] | None:
    r"""The numbers for which it holds, and the name of the variable; None for what is no such inequality.

    "|2x+1|", "\\le", "3" -> [-2, 1], x. Between the bars stands what is linear in one letter, beside them a constant.
    """
    if not _BARS.fullmatch(left):
        left, order, right = right, _MIRRORED[order], left
    bars = _BARS.fullmatch(left)
    if not bars:
        return None
    inner, bound = (read_expression(text)[1] for text in (bars["a"] or bars["b"], right))
    names = inner.names()
    if len(names) != 1 or bound.names() or bound.is_relation or inner.is_relation:
        return None
    (name,) = names
    at_zero, at_one = (put(inner, name, number(value)) for value in (0, 1))
    slope = Node("+", (at_one, Node("-", (at_zero,))))
    line = Node("+", (Node("*", (slope, Node("name", name=name))), at_zero))
    if not same_value(inner, line) or sign(slope) == 0:
        raise Unreadable("an absolute value that is not linear")
    return _within(slope, at_zero, bound, order), name


def _within(slope: Node, shift: Node, bound: Node, order: str) -> Intervals:
    """Where |slope x + shift| is in that order to the bound."""
    inside = order in ("<", "\\lt", "\\le")
    closed = order in ("\\le", "\\ge")
    infinities = (Node("-", (INFINITY,)), INFINITY)
    side = sign(bound)
    if side < 0 or (side == 0 and not closed and inside):
        return () if inside else (Interval(*infinities, "()"),)
    ends = [Node("/", (Node("+", (end, Node("-", (shift,)))), slope)) for end in (Node("-", (bound,)), bound)]
    low, high = ends if sign(slope) > 0 else ends[::-1]
    if inside:
        return union((Interval(low, high, "[]" if closed else "()"),))
    left = Interval(infinities[0], low, "(]" if closed else "()")
    return union((left, Interval(high, infinities[1], "[)" if closed else "()")))
