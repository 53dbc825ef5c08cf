r"""Definite integrals, limits and infinite sums among references, by rules that give their exact value.

    \int_a^b       sums of powers, exponentials, sines and cosines of what is linear in the letter
    \lim           quotients of polynomials, also to infinity; else what is defined at the point itself
    \sum^\infty    geometric sums, sums of c/k^p for even p, of c/(k(k+1)), and of c r^k/k!

Anything else is refused (Unreadable): a value to some digits is not the answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.balls import Imprecise, Undefined
from rewards.equality import check_defined, infinite, same_value, sign
from rewards.expressions import read_expression
from rewards.nodes import EULER, INFINITY, PI, Node, Unreadable, letter, number
from rewards.polynomials import NoPolynomial, limit_of_quotient, quotient
from rewards.values import Evaluator

_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_BOUND = rf"(?:{_BRACED}|(\\[A-Za-z]+|[0-9A-Za-z]))"
_INTEGRAL = re.compile(rf"\\int ?_ ?{_BOUND} ?\^ ?{_BOUND} ?(?P<body>.+?) ?(?<![A-Za-z\\])d ?(?P<name>[A-Za-z])")
_LIMIT = re.compile(
    r"\\lim ?_ ?\{ ?(?P<name>[A-Za-z]) ?\\(?:to|rightarrow) ?(?P<to>[^{}]+|\\frac[^^]+)\} ?(?P<body>.+)"
)
_JUMPS = ("!", "!!", "floor", "ceil", "binom", "sum", "prod", "max", "min", "gcd", "lcm")
_ZETA = {2: 6, 4: 90, 6: 945, 8: 9450}
"""p -> pi^p / the sum of all 1/k^p."""
MAX_LEFT_OUT = 20  # terms before the first one of a sum

UNDONE = re.compile(r"\\(?:int|lim)(?![A-Za-z])|\\sum[^^]*\^ ?\{? ?\+? ?\\infty")
"""What is still to be evaluated."""


def read_closed(text: str) -> tuple[str, Node] | None:
    """The value of an integral or a limit that is the whole text; None for any other text."""
    if text.startswith("\\int"):
        found = _INTEGRAL.fullmatch(text)
        if not found:
            raise Unreadable("the command \\int in a form that is not known")
        low, high = (read_expression(found[i] or found[i + 1])[1] for i in (1, 3))
        return text, _integral(read_expression(found["body"])[1], found["name"], low, high)
    if text.startswith("\\lim") and not text.startswith("\\limits"):
        found = _LIMIT.fullmatch(text)
        if not found:
            raise Unreadable("the command \\lim in a form that is not known")
        return text, _limit(read_expression(found["body"])[1], found["name"], read_expression(found["to"])[1])
    return None


def with_closed_sums(node: Node) -> Node:
    """The expression with its infinite sums evaluated."""
    if not node.args:
        return node
    node = node._replace(args=tuple(map(with_closed_sums, node.args)))
    return _infinite_sum(node) if node.op == "sum" and infinite(node.args[1]) == 1 else node


def put(node: Node, name: str, value: Node) -> Node:
    """The expression with a value for a letter."""
    if node.op == "name":
        return value if node.name == name else node
    if node.op in ("sum", "prod") and node.name == name:
        return node._replace(args=(*(put(arg, name, value) for arg in node.args[:2]), node.args[2]))
    return node._replace(args=tuple(put(arg, name, value) for arg in node.args))


def _plus(one: Node, other: Node) -> Node:
    return Node("+", (one, other))


def _times(one: Node, other: Node) -> Node:
    return Node("*", (one, other))


def _over(one: Node, other: Node) -> Node:
    return Node("/", (one, other))


def _negative(node: Node) -> Node:
    return Node("-", (node,))


# ------------------------------------------------------------------------------------------------ integrals


def _integral(body: Node, name: str, low: Node, high: Node) -> Node:
    if (low.names() | high.names() | body.names()) - {name} or name in low.names() | high.names():
        raise Unreadable("an integral with other letters in it")
    if infinite(low) or infinite(high) or body.is_relation:
        raise Unreadable("an integral to infinity")
    polynomial = _polynomial(body, name)
    whole = polynomial if polynomial is not None else _antiderivative(body, name, low, high)
    return _plus(put(whole, name, high), _negative(put(whole, name, low)))


def _polynomial(body: Node, name: str) -> Node | None:
    """The antiderivative of a polynomial with rational coefficients; None for anything else."""
    try:
        top, bottom = quotient(body, name)
    except NoPolynomial:
        return None
    if len(bottom) != 1:
        return None
    powers = [Node("^", (letter(name), number(i + 1))) for i in range(len(top))]
    terms = [
        _times(number(c / bottom[0] / (i + 1)), power) for i, (c, power) in enumerate(zip(top, powers, strict=True))
    ]
    return Node("+", (number(0), *terms))


def _antiderivative(term: Node, name: str, low: Node, high: Node) -> Node:
    if name not in term.names():
        return _times(term, letter(name))
    if term.op == "-":
        return _negative(_antiderivative(term.args[0], name, low, high))
    if term.op == "+":
        return Node("+", tuple(_antiderivative(arg, name, low, high) for arg in term.args))
    if term.op == "/" and name not in term.args[1].names():
        return _over(_antiderivative(term.args[0], name, low, high), term.args[1])
    if term.op == "/" and name not in term.args[0].names() and term.args[0] != number(1):
        return _times(term.args[0], _antiderivative(_over(number(1), term.args[1]), name, low, high))
    if term.op == "*":
        constants = [arg for arg in term.args if name not in arg.names()]
        others = [arg for arg in term.args if name in arg.names()]
        if constants:
            rest = others[0] if len(others) == 1 else Node("*", tuple(others))
            return Node("*", (*constants, _antiderivative(rest, name, low, high)))
    if term.op in ("sin", "cos", "exp") or (term.op == "^" and term.args[0] == EULER):
        inner = term.args[-1]
        slope = _slope(inner, name)
        made = {"sin": _negative(Node("cos", (inner,))), "cos": Node("sin", (inner,))}.get(term.op, term)
        return _over(made, slope)
    return _power(term, name, low, high)


def _power(term: Node, name: str, low: Node, high: Node) -> Node:
    """Of x^n, also written as a root, below a line, or as a product of several."""
    base, exponent = _base_and_exponent(term, name)
    slope = _slope(base, name)
    sides = [sign(put(base, name, end)) for end in (low, high)]
    whole = exponent.denominator == 1
    if (exponent < 0 and (0 in sides or sides[0] != sides[1])) or (not whole and min(sides) < 0):
        raise Unreadable("an integral over a point where it is not defined")
    if exponent == -1:
        return _over(Node("ln", (Node("abs", (base,)),)), slope)
    raised = Node("^", (base, number(exponent + 1)))
    return _over(raised, _times(slope, number(exponent + 1)))


def _base_and_exponent(term: Node, name: str) -> tuple[Node, Fraction]:
    if term.op == "^" and (power := _rational(term.args[1])) is not None:
        base, inner = _base_and_exponent(term.args[0], name)
        if inner != 1 and inner.denominator != 1:
            raise Unreadable("an integral of a power of a root")
        return base, inner * power
    if term.op == "root" and (degree := _rational(term.args[0])):
        base, inner = _base_and_exponent(term.args[1], name)
        if inner != 1:
            raise Unreadable("an integral of the root of a power")
        return base, inner / degree
    if term.op == "/" and name not in term.args[0].names() and term.args[0] == number(1):
        base, inner = _base_and_exponent(term.args[1], name)
        return base, -inner
    if term.op in ("*", "/"):
        (first, a), *others = (_base_and_exponent(arg, name) for arg in term.args)
        if any(base != first for base, _ in others) or len(others) != 1:
            raise Unreadable("an integral of a product")
        return first, a + others[0][1] if term.op == "*" else a - others[0][1]
    return term, Fraction(1)


def _slope(inner: Node, name: str) -> Node:
    """The constant p of p x + q. Raises Unreadable for what is not linear."""
    at_zero, at_one = (put(inner, name, number(value)) for value in (0, 1))
    slope = _plus(at_one, _negative(at_zero))
    check_defined(slope)
    if not same_value(inner, _plus(_times(slope, letter(name)), at_zero)) or sign(slope) == 0:
        raise Unreadable("an integral of what is not linear inside")
    return slope


def _rational(node: Node) -> Fraction | None:
    if node.names():
        return None
    value = _exact(node)
    return value if isinstance(value, Fraction) else None


def _exact(node: Node) -> object:
    try:
        return Evaluator(128).value(node)
    except (Undefined, Imprecise) as error:
        raise Unreadable("it is not defined") from error


# ------------------------------------------------------------------------------------------------ limits


def _limit(body: Node, name: str, to: Node) -> Node:
    if body.names() - {name} or to.names() or body.is_relation:
        raise Unreadable("a limit with other letters in it")
    try:
        top, bottom = quotient(body, name)
    except NoPolynomial:
        if infinite(to) or body.holds(*_JUMPS):
            raise Unreadable("a limit that is not known") from None
        found = put(body, name, to)
        check_defined(found)
        return found
    point = None if infinite(to) else _rational(to)
    if point is None and not infinite(to):
        found = put(body, name, to)
        check_defined(found)
        return found
    value = limit_of_quotient(top, bottom, point, infinite(to))
    return number(value) if isinstance(value, Fraction) else (INFINITY if value > 0 else _negative(INFINITY))


# ------------------------------------------------------------------------------------------------ infinite sums


def _infinite_sum(node: Node) -> Node:
    first, term, name = _rational(node.args[0]), node.args[2], node.name
    if first is None or first.denominator != 1 or term.names() - {name}:
        raise Unreadable("an infinite sum with other letters in it")
    k = letter(name)
    following = put(term, name, _plus(k, number(1)))
    a, b = (put(term, name, number(first + i)) for i in (0, 1))
    if sign(a) == 0:
        raise Unreadable("an infinite sum that is not known")
    ratio = _over(b, a)
    if same_value(following, _times(ratio, term)):
        if sign(_plus(Node("abs", (ratio,)), number(-1))) >= 0:
            raise Unreadable("an infinite sum that does not converge")
        return _over(a, _plus(number(1), _negative(ratio)))
    if first >= 1 and (found := _sum_of_powers(term, name, int(first))) is not None:
        return found
    growth = _times(ratio, number(first + 1))
    if first == 0 and same_value(_times(following, _plus(k, number(1))), _times(growth, term)):
        return _times(a, Node("^", (EULER, growth)))
    raise Unreadable("an infinite sum that is not known")


def _sum_of_powers(term: Node, name: str, first: int) -> Node | None:
    """Of c/(k(k+1)), and of c/k^p for even p."""
    k = letter(name)
    at_first = put(term, name, number(first))
    product = _times(k, _plus(k, number(1)))
    scaled = _times(at_first, number(first * (first + 1)))
    if same_value(_times(term, product), scaled):
        return _over(scaled, number(first))
    for power, below in _ZETA.items():
        scaled = _times(at_first, number(first**power))
        if same_value(_times(term, Node("^", (k, number(power)))), scaled):
            if first > MAX_LEFT_OUT:
                raise Unreadable("an infinite sum that begins too late")
            before = number(sum((Fraction(1, i**power) for i in range(1, first)), Fraction(0)))
            whole = _over(Node("^", (PI, number(power))), number(below))
            return _times(scaled, _plus(whole, _negative(before)))
    return None
