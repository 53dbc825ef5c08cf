r"""Equations with letters below a fraction bar beside those without: y = 6/x and xy = 6.

Multiplied by its denominators an equation may gain solutions, where one of them is zero: (x^2-4)/(x-2) = y is no line
at x = 2. So the multiplied equation must have none there: at x = 0, xy = 6 says 0 = 6.
"""

from __future__ import annotations

from fractions import Fraction

from rewards.balls import Imprecise, Undefined
from rewards.closed_forms import put
from rewards.equality import FIRST_BITS, drawn_points, same_relation
from rewards.nodes import Node, number
from rewards.values import Evaluator


def same_without_denominators(one: Node, other: Node) -> bool:
    """Whether two equations, each times its denominators, are the same, and nothing was gained by that."""
    below, others = _denominators(one), _denominators(other)
    if not one.op == other.op == "=" or not (below or others):
        return False
    cleared, other_cleared = _cleared(one, below), _cleared(other, others)
    return (
        same_relation(cleared, other_cleared)
        and all(_has_no_solution(other_cleared, node) for node in below)
        and all(_has_no_solution(cleared, node) for node in others)
    )


def _cleared(equation: Node, below: list[Node]) -> Node:
    return Node("=", (Node("*", (_difference(equation), *dict.fromkeys(below))), number(0))) if below else equation


def _difference(equation: Node) -> Node:
    return Node("+", (equation.args[0], Node("-", (equation.args[1],))))


def _denominators(node: Node) -> list[Node]:
    """What stands below fraction bars, or has a negative power, and has letters."""
    if node.op == "/" and node.args[1].names():
        return [node.args[1], *_denominators(node.args[0])]
    if node.op == "^" and node.args[1].op == "-" and node.names():
        power = node.args[1].args[0]
        return [node.args[0] if power == number(1) else Node("^", (node.args[0], power))]
    if node.op in ("+", "-", "*", "/", "="):
        return [found for arg in node.args for found in _denominators(arg)]
    return []


def _has_no_solution(equation: Node, divisor: Node) -> bool:
    """Whether the equation fails wherever the divisor, linear in one letter, is zero."""
    if divisor.op == "^" and divisor.args[1].op == "number":
        divisor = divisor.args[0]
    names = divisor.names()
    if len(names) != 1:
        return False
    (name,) = names
    values = [_exact(divisor, {name: Fraction(x)}) for x in (0, 1, 2)]
    first, second, third = values
    if first is None or second is None or third is None or third - second != second - first or first == second:
        return False
    there = put(_difference(equation), name, number(first / (first - second)))
    found = {_exact(there, point) for point in drawn_points(there)}
    return len(found) == 1 and not found & {None, Fraction(0)}


def _exact(node: Node, point: dict[str, Fraction]) -> Fraction | None:
    try:
        value = Evaluator(FIRST_BITS, point).value(node)
    except (Undefined, Imprecise):
        return None
    return value if isinstance(value, Fraction) else None
