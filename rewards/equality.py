"""Whether two expressions, or two relations, are the same: by their values at points that nobody can know beforehand.

Letters get fractions drawn from a hash of both texts, so a verdict is reproducible and yet no answer can be made to
agree at the points alone. Two values differ when their difference is larger than its error bound. They are equal when
the difference is within the bound at a precision that has more than twice the bits that the largest or smallest value
on the way has in its exponent: 1 + e^{-60} needs 87 bits to be told from 1, and gets 686.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction

from rewards.balls import Imprecise, TooLarge, Undefined, Value
from rewards.nodes import INFINITY, Node, Unreadable
from rewards.values import Evaluator

FIRST_BITS, SPARE_BITS, LAST_BITS = 128, 512, 40_000
"""Bits of the first look, those beyond what magnitudes need, and the most."""
IMPRECISE_BITS = 64 * FIRST_BITS
"""Where a divisor that may still be zero counts as zero, and the floor of what may be whole as unknown."""
POINTS, WHOLE_POINTS = 7, 8
WHOLE_ONLY = ("!", "!!", "binom", "sum", "prod", "gcd", "lcm")
"""Operations that are compared at whole numbers."""

_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
Point = dict[str, Fraction]


# ------------------------------------------------------------------------------------------------ constants


def infinite(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, 0 for anything else."""
    if node == INFINITY:
        return 1
    return -1 if node.op == "-" and node.args[0] == INFINITY else 0


def sign(node: Node) -> int:
    """1, 0 or -1 as a real expression without letters is. Raises Unreadable where that cannot be said."""
    if side := infinite(node):
        return side
    values: list[Value] = []

    def value(at: Evaluator) -> Value:
        values.append(at.value(node))
        return values[-1]

    zero = vanishes(value, {})
    if zero is None or (zero is False and not Evaluator(FIRST_BITS).is_real(values[-1])):
        raise Unreadable("an end of an interval that is no real number")
    if zero:
        return 0
    last = values[-1]
    return 1 if (last if isinstance(last, Fraction) else last.mid) > 0 else -1


def order(one: Node, other: Node) -> int:
    """-1, 0 or 1 as one real constant is below, equal to or above another; infinities included."""
    if infinite(one) or infinite(other):
        return (infinite(one) > infinite(other)) - (infinite(one) < infinite(other))
    return sign(Node("+", (one, Node("-", (other,)))))


def check_defined(node: Node) -> None:
    """Raise Unreadable for what has no value, or none within the bounds, at every point."""
    if node.is_relation:
        for side in node.args:
            check_defined(side)
        return
    if infinite(node):
        return
    refused: Unreadable | None = None
    for point in drawn_points(node):
        try:
            _precisely(lambda at: at.value(node), point)
            return
        except (Undefined, Imprecise):
            continue
        except Unreadable as error:
            refused = error
    raise refused or Unreadable("it is not defined")


def _precisely(value: Callable[[Evaluator], Value], point: Point) -> Value:
    for precision in (FIRST_BITS, 8 * FIRST_BITS, IMPRECISE_BITS):
        try:
            return value(Evaluator(precision, point))
        except Imprecise:
            continue
    raise Undefined


# ------------------------------------------------------------------------------------------------ the test for zero


def vanishes(difference: Callable[[Evaluator], Value], point: Point, *, thorough: bool = True) -> bool | None:
    """Whether a value is zero; None where it is undefined or cannot be told.

    thorough: ask for more than twice the bits of the largest exponent; else a first look decides that it is.
    Raises Unreadable for what is out of bounds.
    """
    precision = FIRST_BITS
    while precision <= LAST_BITS:
        at = Evaluator(precision, point)
        try:
            value = difference(at)
        except Undefined:
            return None
        except Imprecise:
            if precision >= IMPRECISE_BITS:
                return None
            precision = 8 * precision
            continue
        if isinstance(value, Fraction):
            return value == 0
        if not at.may_be_zero(value):
            return False
        enough = SPARE_BITS + 2 * at.widest if thorough else FIRST_BITS
        if precision >= enough:
            return True if value.error < at.widest - precision / 4 else None
        precision = max(enough, 2 * precision)
    return None


def drawn_points(*nodes: Node) -> Iterator[Point]:
    """Points with a value for each name of the nodes: positive ones, then of both signs; the second near zero, where
    powers are small, the third and the last beyond all numbers in the texts, where |x - 100| is not 100 - x. Or whole
    numbers, the later ones larger.
    """
    names = sorted(frozenset[str]().union(*(node.names() for node in nodes)))
    if not names:
        yield {}
        return
    draw = random.Random(zlib.crc32(repr(nodes).encode()))
    if any(node.holds(*WHOLE_ONLY) for node in nodes):
        for i in range(WHOLE_POINTS):
            yield {name: Fraction(draw.randint(1, 4 + 3 * i)) for name in names}
        return
    beyond = 10 + 2 * min(max(map(_largest_number, nodes)), 10**9)
    for i in range(POINTS):
        values = [Fraction(draw.randint(30, 700), draw.choice((127, 128, 131, 137))) for _ in names]
        if i in (2, POINTS - 1):
            values = [value + beyond for value in values]
        if i == 1:
            values = [value / 997 for value in values]
        if i >= 4:
            values = [-value if draw.random() < 0.5 or len(names) == 1 else value for value in values]
        yield dict(zip(names, values, strict=True))


def _largest_number(node: Node) -> int:
    return max([int(node.value or 0), *map(_largest_number, node.args)])


# ------------------------------------------------------------------------------------------------ expressions


def same_value(one: Node, other: Node) -> bool:
    """Whether two expressions have the same value wherever both are defined, for positive letters at least.

    At points with negative letters only real values count, which tells |x| from x. Raises Unreadable for what is out
    of bounds.
    """
    if infinite(one) or infinite(other):
        return infinite(one) == infinite(other)
    if one == other:
        return True
    compared = 0
    for point in drawn_points(one, other):
        negative = any(value < 0 for value in point.values())
        if negative and not (_is_real(one, point) and _is_real(other, point)):
            continue
        found = _vanishes_here(lambda at: at.subtract(at.value(one), at.value(other)), point, compared < 2)
        if found is False:
            return False
        compared += found is True
    return compared > 0


def _vanishes_here(difference: Callable[[Evaluator], Value], point: Point, thorough: bool) -> bool | None:
    """As vanishes, but where letters have values a result out of bounds is left to the other points."""
    if not point:
        return vanishes(difference, point)
    try:
        return vanishes(difference, point, thorough=thorough)
    except TooLarge:
        return None


def _is_real(node: Node, point: Point) -> bool:
    at = Evaluator(FIRST_BITS, point)
    try:
        return (node.holds("constant") and _has_imaginary(node)) or at.is_real(at.value(node))
    except (Undefined, Imprecise, TooLarge):
        return False


def _has_imaginary(node: Node) -> bool:
    return (node.op == "constant" and node.name == "i") or any(map(_has_imaginary, node.args))


# ------------------------------------------------------------------------------------------------ relations


def same_relation(one: Node, other: Node) -> bool:
    """Whether one relation is the other times a constant: 2x + y = 5 and y = -2x + 5; x + y < 5 and -x > y - 5.

    A relation that holds everywhere, or without letters, is the same as itself only.
    """
    if one == other:
        return True
    if not one.names() | other.names() or {one.op, _MIRRORED[one.op]}.isdisjoint({other.op}):
        return False
    a, b = (Node("+", (node.args[0], Node("-", (node.args[1],)))) for node in (one, other))
    points = [p for p in drawn_points(a, b) if _both_nonzero(a, b, p)]
    if len(points) < 2:
        return False
    base = points[0]
    for i, point in enumerate(points[1:]):
        if _same_ratio(a, b, base, point, thorough=i == 0) is False:
            return False
    ratio = _ratio(a, b, base)
    if ratio is None:
        return False
    return one.op == (other.op if ratio > 0 else _MIRRORED[other.op])


def _both_nonzero(a: Node, b: Node, point: Point) -> bool:
    return all(_vanishes_here(_value_of(node), point, True) is False for node in (a, b))


def _value_of(node: Node) -> Callable[[Evaluator], Value]:
    return lambda at: at.value(node)


def _same_ratio(a: Node, b: Node, base: Point, point: Point, *, thorough: bool) -> bool | None:
    def crossed(at: Evaluator) -> Value:
        there = Evaluator(at.precision, base)
        product = at.multiply(there.value(a), at.value(b))
        difference = at.subtract(product, at.multiply(there.value(b), at.value(a)))
        at.widest = max(at.widest, there.widest)
        return difference

    return _vanishes_here(crossed, point, thorough)


def _ratio(a: Node, b: Node, point: Point) -> Fraction | None:
    """Of the two values, roughly: its sign is what counts. None where it is not real."""
    at = Evaluator(FIRST_BITS, point)
    try:
        value = at.divide(at.value(a), at.value(b))
    except (Undefined, Imprecise, TooLarge):
        return None
    if isinstance(value, Fraction):
        return value
    return Fraction(1 if value.mid > 0 else -1) if at.is_real(value) else None
