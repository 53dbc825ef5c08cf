"""Quotients of polynomials in one letter with rational coefficients, and their limits."""

from __future__ import annotations

from fractions import Fraction
from itertools import zip_longest

from rewards.nodes import Node, Unreadable

Polynomial = tuple[Fraction, ...]
"""Coefficients, that of the zeroth power first; the last one is not zero."""
MAX_DEGREE = 30


class NoPolynomial(Exception):
    """An expression that is no quotient of polynomials."""


def quotient(node: Node, name: str) -> tuple[Polynomial, Polynomial]:
    """What stands above and below the line. (x^2-1)/(x-1) -> (-1, 0, 1), (-1, 1)"""
    if node.op == "number" and node.value is not None:
        return _trimmed([node.value]), (Fraction(1),)
    if node.op == "name" and node.name == name:
        return (Fraction(0), Fraction(1)), (Fraction(1),)
    if node.op == "^" and node.args[1].op == "number":
        n = node.args[1].value or Fraction(0)
        if n.denominator == 1 and 0 < n <= MAX_DEGREE:
            top, bottom = quotient(node.args[0], name)
            return _power(top, int(n)), _power(bottom, int(n))
    if node.op == "-":
        top, bottom = quotient(node.args[0], name)
        return tuple(-c for c in top), bottom
    if node.op in ("+", "*", "/"):
        found = quotient(node.args[0], name)
        for arg in node.args[1:]:
            found = _combined(node.op, found, quotient(arg, name))
        return found
    raise NoPolynomial


def _combined(
    op: str, one: tuple[Polynomial, Polynomial], other: tuple[Polynomial, Polynomial]
) -> tuple[Polynomial, Polynomial]:
    (a, b), (c, d) = one, other
    if op == "*":
        return _product(a, c), _product(b, d)
    if op == "/":
        if not c:
            raise Unreadable("it is not defined")
        return _product(a, d), _product(b, c)
    terms = zip_longest(_product(a, d), _product(c, b), fillvalue=Fraction(0))
    return _trimmed([x + y for x, y in terms]), _product(b, d)


def _trimmed(coefficients: list[Fraction]) -> Polynomial:
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    return tuple(coefficients)


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    if len(one) + len(other) > 2 * MAX_DEGREE:
        raise Unreadable("a polynomial of too high a degree")
    found = [Fraction(0)] * max(0, len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            found[i + j] += a * b
    return _trimmed(found)


def _power(base: Polynomial, n: int) -> Polynomial:
    found: Polynomial = (Fraction(1),)
    for _ in range(n):
        found = _product(found, base)
    return found


def _at(polynomial: Polynomial, x: Fraction) -> Fraction:
    return sum((c * x**i for i, c in enumerate(polynomial)), Fraction(0))


def _without_root(polynomial: Polynomial, x: Fraction) -> Polynomial:
    """Divided by the letter minus x, which divides it."""
    found: list[Fraction] = []
    carried = Fraction(0)
    for coefficient in reversed(polynomial[1:]):
        carried = carried * x + coefficient
        found.append(carried)
    return tuple(reversed(found))


def limit_of_quotient(top: Polynomial, bottom: Polynomial, point: Fraction | None, side: int) -> Fraction | float:
    """The limit at a point, or at infinity (point None, side its sign): a number, inf or -inf.

    (x^2-1)/(x-1) at 1 -> 2. Raises Unreadable where there is none, or where its sign depends on the side.
    """
    if not top:
        return Fraction(0)
    if point is None:
        higher = len(top) - len(bottom)
        lead = top[-1] / bottom[-1]
        if higher <= 0:
            return lead if higher == 0 else Fraction(0)
        return float("inf") if (lead > 0) == (side > 0 or higher % 2 == 0) else float("-inf")
    while _at(bottom, point) == 0 and top and _at(top, point) == 0:
        top, bottom = _without_root(top, point), _without_root(bottom, point)
    below = _at(bottom, point)
    if below == 0:
        raise Unreadable("a limit that is not finite")
    return _at(top, point) / below
