"""Arithmetic of exact fractions, and of numbers with an error bound (balls), real or complex, at one precision.

Rational arithmetic is exact. Everything else is computed with mpmath and carries a bound on its error, so that two
values are told apart by their difference and never by a tolerance. Results beyond MAX_BITS are refused before they are
computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from rewards.nodes import Unreadable

if TYPE_CHECKING:
    from mpmath import mpc, mpf
    from mpmath.ctx_mp import MPContext

MAX_BITS, MAX_EXPONENT_BITS = 34_000, 16_000
"""Of an exact number, and the largest exponent of any other: 10^9999 and e^9999 pass, 10^20000 does not."""
_LOG2_E = math.log2(math.e)


class Undefined(ArithmeticError):
    """There is no value here: a division by zero, the logarithm of zero, the factorial of a fraction."""


class Imprecise(ArithmeticError):
    """The value cannot be told at this precision: a divisor that may be zero, a floor at a whole number."""


class TooLarge(Unreadable):
    """A value, or the way to it, that is beyond the bounds."""

    def __init__(self, what: str = "a tower of powers or another number that is too large") -> None:
        super().__init__(what)


class Ball(NamedTuple):
    """A number and a bound on its error: the true value is within 2^error of mid. error is -inf where mid is exact."""

    mid: mpf | mpc
    error: float


Value = Fraction | Ball


@lru_cache(maxsize=64)
def _context(precision: int) -> MPContext:
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.prec = precision
    return context


class Arithmetic:
    """Operations at one precision, in bits. Each raises Undefined, Imprecise or TooLarge.

    widest: the largest binary exponent, of either sign, of any value so far: how many bits a difference may need.
    """

    def __init__(self, precision: int) -> None:
        self.context, self.precision, self.widest = _context(precision), precision, 0

    def noted(self, value: Value) -> Value:
        """The value, when it is within the bounds; its size counts for `widest`."""
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
                raise TooLarge
            return value
        magnitude = self.magnitude(value)
        if magnitude > value.error:
            if abs(magnitude) > MAX_EXPONENT_BITS:
                raise TooLarge
            self.widest = max(self.widest, int(abs(magnitude)))
        return value

    # ------------------------------------------------------------------------------------ balls

    def ball(self, value: Value) -> Ball:
        if isinstance(value, Ball):
            return value
        if value.denominator == 1 and value.numerator.bit_length() <= self.precision:
            return Ball(self.context.mpf(value.numerator), -math.inf)
        self.widest = max(self.widest, abs(value.numerator.bit_length() - value.denominator.bit_length()))
        return self._rounded(self.context.mpf(value.numerator) / value.denominator, -math.inf)

    def magnitude(self, value: Value) -> float:
        """The binary exponent: |value| is below 2^magnitude, and at least a quarter of it. -inf for zero."""
        mid = value.mid if isinstance(value, Ball) else self.ball(value).mid
        return float(self.context.mag(mid)) if mid else -math.inf

    def may_be_zero(self, value: Value) -> bool:
        return self.magnitude(value) - 2 <= value.error if isinstance(value, Ball) else value == 0

    def _rounded(self, mid: mpf | mpc, error: float) -> Ball:
        """A result with its operands' error and its own rounding; a complex number without imaginary part is real."""
        if isinstance(mid, self.context.mpc) and mid.imag == 0:
            mid = mid.real
        rounding = float(self.context.mag(mid)) - self.precision + 2 if mid else -math.inf
        return Ball(mid, max(error, rounding) + 1)

    def is_real(self, value: Value) -> bool:
        return isinstance(value, Fraction) or isinstance(value.mid, self.context.mpf)

    def nonzero(self, value: Value) -> None:
        if isinstance(value, Fraction):
            if value == 0:
                raise Undefined
        elif self.may_be_zero(value):
            raise Imprecise

    # ------------------------------------------------------------------------------------ arithmetic

    def constant(self, name: str) -> Value:
        if name == "i":
            return Ball(self.context.mpc(0, 1), -math.inf)
        if name in ("pi", "e"):
            return self._rounded(+(self.context.pi if name == "pi" else self.context.e), -math.inf)
        raise Unreadable("infinity as a part of an expression")

    def add(self, *terms: Value) -> Value:
        exact = sum((term for term in terms if isinstance(term, Fraction)), Fraction(0))
        balls = [term for term in terms if isinstance(term, Ball)]
        if not balls:
            return exact
        total = self.ball(exact)
        for term in balls:
            largest = max(self.magnitude(total), self.magnitude(term))
            total = Ball(total.mid + term.mid, max(total.error, term.error, largest - self.precision + 2) + 1)
        return self._rounded(*total)

    def negative(self, x: Value) -> Value:
        return -x if isinstance(x, Fraction) else Ball(-x.mid, x.error)

    def subtract(self, x: Value, y: Value) -> Value:
        return self.add(x, self.negative(y))

    def multiply(self, *factors: Value) -> Value:
        exact = Fraction(1)
        balls = []
        for factor in factors:
            if isinstance(factor, Fraction):
                exact *= factor
                self.noted(exact)
            else:
                balls.append(factor)
        if not balls or exact == 0:
            return exact
        total = balls[0]
        for factor in [*balls[1:], *([self.ball(exact)] if exact != 1 else [])]:
            a, b = self.magnitude(total), self.magnitude(factor)
            error = max(a + factor.error, b + total.error, total.error + factor.error) + 2
            total = self._rounded(total.mid * factor.mid, error)
        return total

    def divide(self, x: Value, y: Value) -> Value:
        self.nonzero(y)
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return x / y
        a, b = self.ball(x), self.ball(y)
        low = self.magnitude(b) - 3
        return self._rounded(a.mid / b.mid, max(self.magnitude(a) + b.error - 2 * low, a.error - low) + 2)

    def power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self._whole_power(base, int(exponent))
            if exponent.denominator <= 1000:
                return self._whole_power(self.root(Fraction(exponent.denominator), base), exponent.numerator)
        if isinstance(base, Fraction) and base == 0:
            if self.is_real(exponent) and not self.may_be_zero(exponent) and self.ball(exponent).mid > 0:
                return Fraction(0)
            raise Undefined
        return self.exp(self.multiply(exponent, self.ln(base)))

    def _whole_power(self, base: Value, n: int) -> Value:
        if n <= 0:
            self.nonzero(base)  # 0^0 has no value
        if isinstance(base, Fraction):
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
            if abs(base) != 1 and abs(n) * size > MAX_BITS:
                raise TooLarge
            return base**n if abs(base) != 1 else (base if n % 2 else Fraction(1))
        magnitude = self.magnitude(base)
        if abs(n) > MAX_BITS or abs(n) * abs(magnitude - 1) > 4 * MAX_EXPONENT_BITS:
            raise TooLarge
        if self.may_be_zero(base):  # n > 0
            return Ball(self.context.mpf(0), n * (max(magnitude, base.error) + 1))
        mid = base.mid**n
        return self._rounded(mid, float(self.context.mag(mid)) + base.error - magnitude + 3 + 2 * abs(n).bit_length())

    def root(self, degree: Value, x: Value) -> Value:
        """The real root of a negative number where the degree is odd, else the principal one."""
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 1000:
            return self.power(x, self.divide(Fraction(1), degree))
        n = int(degree)
        if isinstance(x, Fraction):
            exact = _exact_root(abs(x), n)
            if exact is not None and (x >= 0 or n % 2):
                return exact if x >= 0 else -exact
        if self.is_real(x) and n % 2 and self.ball(x).mid < 0:
            return self.negative(self.root(degree, self.negative(x)))
        ball = self.ball(x)
        if self.may_be_zero(ball):
            return Ball(self.context.mpf(0), math.ceil(max(self.magnitude(ball), ball.error) / n) + 2)
        self._off_the_cut(ball)
        mid = self.context.root(ball.mid, n)
        return self._rounded(mid, float(self.context.mag(mid)) + ball.error - self.magnitude(ball) + 4)

    def _off_the_cut(self, ball: Ball) -> None:
        """Raise Imprecise where a complex number may be a negative real one: its root has two candidates."""
        mid = ball.mid
        if isinstance(mid, self.context.mpc) and mid.real < 0 and float(self.context.mag(mid.imag)) - 2 <= ball.error:
            raise Imprecise

    # ------------------------------------------------------------------------------------ functions

    def exp(self, x: Value) -> Value:
        if x == Fraction(0):
            return Fraction(1)
        ball = self.ball(x)
        if self.magnitude(ball) > MAX_EXPONENT_BITS.bit_length():
            raise TooLarge
        if ball.error > -1:
            raise Imprecise
        mid = self.context.exp(ball.mid)
        return self._rounded(mid, float(self.context.mag(mid)) + ball.error + 1)

    def ln(self, x: Value) -> Value:
        self.nonzero(x)
        if x == Fraction(1):
            return Fraction(0)
        ball = self.ball(x)
        self._off_the_cut(ball)
        return self._rounded(self.context.ln(ball.mid), ball.error - self.magnitude(ball) + 4)

    def log(self, base: Value, x: Value) -> Value:
        return self.divide(self.ln(x), self.ln(base))

    def wave(self, function: Callable[[mpf | mpc], mpf | mpc], x: Value) -> Value:
        """A sine or cosine: as steep as its imaginary part is large."""
        ball = self.ball(x)
        growth = 0.0 if self.is_real(ball) else abs(float(ball.mid.imag)) * _LOG2_E + 1
        if growth > MAX_EXPONENT_BITS:
            raise TooLarge
        if ball.error > -1 or self.magnitude(ball) > self.precision:
            raise Imprecise
        return self._rounded(function(ball.mid), ball.error + growth + 1)

    def sin(self, x: Value) -> Value:
        return Fraction(0) if x == Fraction(0) else self.wave(self.context.sin, x)

    def cos(self, x: Value) -> Value:
        return Fraction(1) if x == Fraction(0) else self.wave(self.context.cos, x)

    def arcsin(self, x: Value) -> Value:
        return self._arc(self.context.asin, x)

    def arccos(self, x: Value) -> Value:
        return self._arc(self.context.acos, x)

    def _arc(self, function: Callable[[mpf | mpc], mpf | mpc], x: Value) -> Value:
        """Steep near 1 and -1. Values beyond them have no real one, and are refused."""
        ball = self.ball(x)
        room = self.subtract(Fraction(1), self.multiply(x, x))
        if not self.is_real(ball) or (not self.may_be_zero(room) and self.ball(room).mid < 0):
            raise Undefined
        mid = max(min(ball.mid, self.context.mpf(1)), self.context.mpf(-1))
        flat = not self.may_be_zero(room) and self.magnitude(room) > ball.error + 4
        error = ball.error - self.magnitude(room) / 2 + 3 if flat else ball.error / 2 + 3
        return self._rounded(function(mid), error)

    def arctan(self, x: Value) -> Value:
        if not self.is_real(x):
            raise Undefined
        ball = self.ball(x)
        return self._rounded(self.context.atan(ball.mid), ball.error + 1)

    def absolute(self, x: Value) -> Value:
        return abs(x) if isinstance(x, Fraction) else self._rounded(abs(x.mid), x.error)

    def floor(self, x: Value) -> Value:
        if isinstance(x, Fraction):
            return Fraction(math.floor(x))
        if not self.is_real(x):
            raise Undefined
        below = int(self.context.floor(x.mid))
        margin = min(x.mid - below, below + 1 - x.mid)
        if not margin or float(self.context.mag(margin)) - 1 <= x.error:
            raise Imprecise
        return Fraction(below)


def _exact_root(x: Fraction, n: int) -> Fraction | None:
    """The rational root of a fraction that is not negative; None when there is none."""
    top, bottom = _whole_root(x.numerator, n), _whole_root(x.denominator, n)
    return Fraction(top, bottom) if top**n == x.numerator and bottom**n == x.denominator else None


def _whole_root(x: int, n: int) -> int:
    """The largest whole number whose n-th power is at most x, by Newton's method."""
    if n == 2 or x < 2:
        return math.isqrt(x) if n == 2 else x
    guess = 1 << -(-x.bit_length() // n)
    while True:
        better = ((n - 1) * guess + x // guess ** (n - 1)) // n
        if better >= guess:
            return guess
        guess = better
