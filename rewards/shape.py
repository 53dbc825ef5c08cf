"""The shape of an expression: how it is written, without what never matters (order, brackets, + 0, times 1).

rewards/disguise.py compares shapes to tell an answer from the question written otherwise. Two expressions of one shape
have one value; the reverse does not hold, and is not meant to.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

from rewards.nodes import Node

Shape = tuple[object, ...]
_ONE: Shape = ("number", Fraction(1))
MAX_REPEATED = 12
"""A power up to this one is so many factors: x x is x^2."""


def shape(node: Node, *, folded: bool = False) -> Shape:
    """Sorted and flattened. folded: numbers that stand together are computed too, and what cancels is left out."""
    if node.op in ("+", "-"):
        return _sum(node, folded)
    if node.op in ("*", "/", "^", "number", "root"):
        return _product(node, folded)
    if node.op in ("sum", "prod"):  # the letter that runs may be any
        node = Node(node.op, (*node.args[:2], _renamed(node.args[2], node.name)))
    return (node.op, node.name, *(shape(arg, folded=folded) for arg in node.args))


def _renamed(node: Node, name: str) -> Node:
    """The expression with its letter `name` as the letter that runs."""
    if node.op == "name":
        return node._replace(name="running") if node.name == name else node
    return node._replace(args=tuple(_renamed(arg, name) for arg in node.args))


def _sum(node: Node, folded: bool) -> Shape:
    terms: defaultdict[Shape, Fraction] = defaultdict(Fraction)
    numbers: list[Shape] = []
    for sign, term in _terms(node, 1):
        own_sign, rest = _signed(shape(term, folded=folded))
        if folded:
            coefficient, rest = _coefficient(rest)
            terms[rest] += sign * own_sign * coefficient
        elif rest != ("number", Fraction(0)):
            numbers.append(("-", rest) if sign * own_sign < 0 else rest)
    if folded:
        numbers = [_times(count, term) for term, count in terms.items() if count]
    if not numbers:
        return ("number", Fraction(0))
    numbers.sort(key=_without_sign)
    if folded and len(numbers) > 1 and numbers[0][0] == "-":  # 1 - x is -(x - 1)
        return ("-", ("+", *map(_negated, numbers)))
    return numbers[0] if len(numbers) == 1 else ("+", *numbers)


def _parts(found: Shape) -> tuple[list[Shape], list[Shape]]:
    """The factors above and below the line."""
    if found[0] == "*":
        return [part for part in found[1:] if isinstance(part, tuple)], []
    if found[0] == "/" and isinstance(found[1], tuple) and isinstance(found[2], tuple):
        return list(found[1]), list(found[2])
    return [found], []


def _made(above: list[Shape], below: list[Shape]) -> Shape:
    top, bottom = (sorted((f for f in side if f != _ONE), key=repr) for side in (above, below))
    if bottom:
        return ("/", tuple(top), tuple(bottom))
    return _ONE if not top else top[0] if len(top) == 1 else ("*", *top)


def _coefficient(found: Shape) -> tuple[Fraction, Shape]:
    """2x/3 -> 2/3 and x."""
    value = Fraction(1)
    kept: tuple[list[Shape], list[Shape]] = ([], [])
    for side, factors in zip((1, -1), _parts(found), strict=True):
        for factor in factors:
            number = factor[1] if factor[0] == "number" else None
            if isinstance(number, Fraction) and (number or side > 0):
                value *= number**side
            else:
                kept[side < 0].append(factor)
    return value, _made(*kept)


def _times(value: Fraction, found: Shape) -> Shape:
    above, below = _parts(found)
    size = abs(value)
    made = _made([*above, ("number", Fraction(size.numerator))], [*below, ("number", Fraction(size.denominator))])
    return ("-", made) if value < 0 else made


def _without_sign(found: Shape) -> tuple[str, bool]:
    return repr(found[1] if found[0] == "-" else found), found[0] == "-"


def _negated(found: Shape) -> Shape:
    inner = found[1]
    return inner if found[0] == "-" and isinstance(inner, tuple) else ("-", found)


def _signed(found: Shape) -> tuple[int, Shape]:
    inner = found[1] if len(found) > 1 else None
    return (-1, inner) if found[0] == "-" and isinstance(inner, tuple) else (1, found)


def _terms(node: Node, sign: int) -> list[tuple[int, Node]]:
    if node.op == "+":
        return [found for arg in node.args for found in _terms(arg, sign)]
    return _terms(node.args[0], -sign) if node.op == "-" else [(sign, node)]


def _product(node: Node, folded: bool) -> Shape:
    sign, coefficient = 1, Fraction(1)
    above: list[Shape] = []
    below: list[Shape] = []
    for side, factor in _factors(node, 1):
        found_sign, found = _signed(_power(factor, folded))
        sign *= found_sign
        if folded and found[0] == "number" and isinstance(found[1], Fraction):
            if found[1] == 0 and side < 0:
                below.append(found)
            else:
                coefficient *= found[1] ** side
        elif found[0] == "number" and isinstance(found[1], Fraction):  # a decimal is its fraction: 0.5x is x/2
            (above if side > 0 else below).append(("number", Fraction(found[1].numerator)))
            (below if side > 0 else above).append(("number", Fraction(found[1].denominator)))
        else:
            (above if side > 0 else below).append(found)
    if folded:
        above.append(("number", Fraction(abs(coefficient.numerator))))
        below.append(("number", Fraction(coefficient.denominator)))
        sign *= -1 if coefficient < 0 else 1
    if ("number", Fraction(0)) in above and not any(factor != _ONE for factor in below):
        return ("number", Fraction(0))
    made = _made(above, below)
    return ("-", made) if sign < 0 else made


def _power(node: Node, folded: bool) -> Shape:
    if node.op == "number":
        value = node.value or Fraction(0)
        return ("number", value) if value >= 0 else ("-", ("number", -value))
    if node.op == "root":
        inverse = Node("/", (Node("number", value=Fraction(1)), node.args[0]))
        node = Node("^", (node.args[1], inverse))
    if node.op == "^":
        return ("^", *(shape(arg, folded=folded) for arg in node.args))
    return shape(node, folded=folded)


def _factors(node: Node, side: int) -> list[tuple[int, Node]]:
    if node.op == "*":
        return [found for arg in node.args for found in _factors(arg, side)]
    if node.op == "/":
        return _factors(node.args[0], side) + _factors(node.args[1], -side)
    if node.op == "^" and node.args[1].op == "number":
        times = node.args[1].value or Fraction(0)
        if times.denominator == 1 and 1 <= times <= MAX_REPEATED:
            return _factors(node.args[0], side) * int(times)
    return [(side, node)]


# ------------------------------------------------------------------------------------------------ measures


def size(node: Node) -> int:
    """Numbers, letters and functions that one has to write: (x-1)(x+1) -> 4, x^2 - 1 -> 3, 4\\sqrt{13} -> 3."""
    own = node.op not in ("+", "*", "-", "/", "^", "root") or (node.op == "root" and node.args[0].value == 2)
    inner = node.args[1:] if node.op == "root" and node.args[0].value == 2 else node.args
    return own + sum(map(size, inner))


def is_expanded(node: Node) -> bool:
    """Whether no sum is multiplied or raised to a whole power: x^2 - 1 is, (x-1)(x+1) is not."""
    for _, term in _terms(node, 1):
        factors = [factor for side, factor in _factors(term, 1) if side > 0]
        if len(factors) > 1 and any(factor.op in ("+", "-") and is_sum(factor) for factor in factors):
            return False
    return True


def is_sum(node: Node) -> bool:
    """Whether it has several terms."""
    return len(_terms(node, 1)) > 1


def factor_count(node: Node) -> int:
    """How many factors with letters it has: 3x(x+1)^2 -> 4."""
    if len(_terms(node, 1)) > 1:
        return 1
    (_, term), *_ = _terms(node, 1)
    return sum(side > 0 and bool(factor.names()) for side, factor in _factors(term, 1)) or 1
