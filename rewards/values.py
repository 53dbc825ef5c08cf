"""What an expression is worth where its letters have given values: an exact fraction, or a number with an error bound.

The work is bounded: every result is (rewards/balls.py), and so is the number of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction

from rewards.balls import Arithmetic, Ball, Imprecise, TooLarge, Undefined, Value
from rewards.nodes import EULER, Node, Unreadable

MAX_COST, MAX_TOTAL_COST = 100.0, 400.0
"""Of one evaluation, and of all in one comparison: roughly milliseconds, from the operations and their precision, so
that no clock decides."""
MAX_TERMS, MAX_FACTORIAL = 1000, 500
_DEAR = {"^", "root", "exp", "ln", "log", "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"}
_DEAR |= {"arcsin", "arccos", "arctan"}


class _Work:
    """What one comparison may still cost."""

    def __init__(self) -> None:
        self.left = MAX_TOTAL_COST


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def bounded_work() -> Iterator[None]:
    """All evaluations inside may cost MAX_TOTAL_COST together; beyond it they raise TooLarge."""
    token = _work.set(_Work())
    try:
        yield
    finally:
        _work.reset(token)


class Evaluator(Arithmetic):
    """Values of expressions at one precision, in bits. point: the letters' values."""

    def __init__(self, precision: int, point: Mapping[str, Fraction] | None = None) -> None:
        super().__init__(precision)
        self.point = dict(point or {})
        thousands = precision / 1024
        self._cheap, self._dear = 0.02 + 0.03 * thousands, 0.05 + 0.3 * thousands**1.5
        self._left = MAX_COST
        self._work = _work.get() or _Work()

    def value(self, node: Node) -> Value:
        """Raises Undefined, Imprecise, or Unreadable for what is out of bounds."""
        cost = self._dear if node.op in _DEAR else self._cheap
        self._left -= cost
        self._work.left -= cost
        if self._left < 0 or self._work.left < 0:
            raise TooLarge("an expression that takes too long to evaluate")
        if node.op == "number":
            assert node.value is not None
            return node.value
        if node.op == "name":
            return self.point[node.name]
        if node.op == "constant":
            return self.constant(node.name)
        if node.op in ("sum", "prod"):
            return self.noted(self._series(node))
        if node.op == "^" and node.args[0] == EULER:
            return self.noted(self.exp(self.value(node.args[1])))
        operation = _OPERATIONS.get(node.op)
        if operation is None:
            raise Unreadable(f"{node.op} inside an expression")
        return self.noted(operation(self, *(self.value(arg) for arg in node.args)))

    def _series(self, node: Node) -> Value:
        first, last = (self.value(arg) for arg in node.args[:2])
        if (
            not isinstance(first, Fraction)
            or not isinstance(last, Fraction)
            or {first.denominator, last.denominator} != {1}
        ):
            raise Undefined
        if last - first >= MAX_TERMS:
            raise TooLarge(f"a sum of more than {MAX_TERMS} terms")
        outer = self.point.get(node.name)
        total: Value = Fraction(0 if node.op == "sum" else 1)
        for k in range(int(first), int(last) + 1):
            self.point[node.name] = Fraction(k)
            term = self.value(node.args[2])
            total = self.noted(self.add(total, term) if node.op == "sum" else self.multiply(total, term))
        self.point.pop(node.name, None)
        if outer is not None:
            self.point[node.name] = outer
        return total

    def factorial(self, x: Value) -> Value:
        if not isinstance(x, Fraction) or x.denominator != 1 or x < 0:
            raise Undefined
        if x > MAX_FACTORIAL:
            raise TooLarge("a giant factorial")
        return Fraction(math.factorial(int(x)))

    def double_factorial(self, x: Value) -> Value:
        if not isinstance(x, Fraction) or x.denominator != 1 or x < -1:
            raise Undefined
        if x > MAX_FACTORIAL:
            raise TooLarge("a giant factorial")
        return Fraction(math.prod(range(int(x), 0, -2)))

    def binomial(self, n: Value, k: Value) -> Value:
        if not isinstance(n, Fraction) or not isinstance(k, Fraction) or k.denominator != 1 or k < 0:
            raise Undefined
        if k > MAX_FACTORIAL or max(n.numerator.bit_length(), n.denominator.bit_length()) > 64:
            raise TooLarge("a giant binomial coefficient")
        top = Fraction(1)
        for j in range(int(k)):
            top *= n - j
        return top / math.factorial(int(k))

    def largest(self, *values: Value) -> Value:
        found = values[0]
        for value in values[1:]:
            more = self.subtract(value, found)
            if not self.is_real(more):
                raise Undefined
            if isinstance(more, Ball) and self.may_be_zero(more):
                raise Imprecise
            if (more if isinstance(more, Fraction) else more.mid) > 0:
                found = value
        return found

    def smallest(self, *values: Value) -> Value:
        return self.negative(self.largest(*map(self.negative, values)))

    def divisor(self, *values: Value) -> Value:
        return Fraction(math.gcd(*_positive_whole(values)))

    def multiple(self, *values: Value) -> Value:
        found = 1
        for value in _positive_whole(values):
            found = math.lcm(found, value)
            self.noted(Fraction(found))
        return Fraction(found)


def _positive_whole(values: tuple[Value, ...]) -> list[int]:
    """The values as integers. Raises Undefined where one is none, or not above 0."""
    if any(not isinstance(value, Fraction) or value.denominator != 1 or value < 1 for value in values):
        raise Undefined
    return [int(value) for value in values if isinstance(value, Fraction)]


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "+": Evaluator.add,
    "*": Evaluator.multiply,
    "-": Evaluator.negative,
    "/": Evaluator.divide,
    "^": Evaluator.power,
    "root": Evaluator.root,
    "!": Evaluator.factorial,
    "!!": Evaluator.double_factorial,
    "binom": Evaluator.binomial,
    "abs": Evaluator.absolute,
    "max": Evaluator.largest,
    "min": Evaluator.smallest,
    "gcd": Evaluator.divisor,
    "lcm": Evaluator.multiple,
    "floor": Evaluator.floor,
    "ceil": lambda at, x: at.negative(at.floor(at.negative(x))),
    "exp": Evaluator.exp,
    "ln": Evaluator.ln,
    "log": Evaluator.log,
    "sin": Evaluator.sin,
    "cos": Evaluator.cos,
    "tan": lambda at, x: at.divide(at.sin(x), at.cos(x)),
    "cot": lambda at, x: at.divide(at.cos(x), at.sin(x)),
    "sec": lambda at, x: at.divide(Fraction(1), at.cos(x)),
    "csc": lambda at, x: at.divide(Fraction(1), at.sin(x)),
    "sinh": lambda at, x: at.divide(at.subtract(at.exp(x), at.exp(at.negative(x))), Fraction(2)),
    "cosh": lambda at, x: at.divide(at.add(at.exp(x), at.exp(at.negative(x))), Fraction(2)),
    "tanh": lambda at, x: at.subtract(
        Fraction(1), at.divide(Fraction(2), at.add(Fraction(1), at.exp(at.multiply(Fraction(2), x))))
    ),
    "arcsin": Evaluator.arcsin,
    "arccos": Evaluator.arccos,
    "arctan": Evaluator.arctan,
}
