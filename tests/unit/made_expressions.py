"""Random expressions for the property of the accuracy reward: written in some notation, rewritten, and changed.

An expression here is a tree of tuples, ("sum", a, b, ...) and so on, with an evaluation of its own (mpmath, 60 digits):
the reward's reader and arithmetic have no part in what the test expects.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

from mpmath import mp, mpf

from rewards.accuracy import check_reference
from rewards.extract import normalise
from rewards.mathematics import read

Tree = tuple
LETTERS = ("x", "y", "n", "a", r"\theta")
FUNCTIONS = ("sin", "cos", "exp", "ln")
DIGITS = 60


def pairs(seed: int) -> Iterator[tuple[str, str, bool]]:
    """Without end: a reference, an answer, and whether the answer is equal, each kind as often as the other."""
    draw = random.Random(seed)
    while True:
        tree = made(draw, draw.choice((1, 2, 2, 3)))
        at = [{name: mpf(draw.randint(10**9, 4 * 10**9)) / 10**9 for name in LETTERS} for _ in range(4)]
        if tree[0] in ("number", "letter") or not _is_ordinary(tree, at):
            continue
        gold, other = written(tree, draw), changed(tree, draw)
        same, different = (written(rewritten(found, draw), draw) for found in (tree, other))
        if _told_apart(tree, other, at) and _can_be_compared(gold, same, different):
            yield gold, same, True
            yield gold, different, False


def _is_ordinary(tree: Tree, at: list[dict[str, mpf]]) -> bool:
    """Whether it has a real value of ordinary size at most of these points: no question has another for its answer."""
    found = [number for point in at if (number := _real(tree, point)) is not None]
    return sum(mpf(10) ** -60 < abs(number) < mpf(10) ** 60 for number in found) >= 3


def _told_apart(one: Tree, other: Tree, at: list[dict[str, mpf]]) -> bool:
    """Whether two values differ at a point where both are real."""
    values = [(_real(one, point), _real(other, point)) for point in at]
    with mp.workdps(DIGITS):
        return any(
            a is not None and b is not None and abs(a - b) > (1 + abs(a) + abs(b)) * mpf(10) ** (8 - DIGITS)
            for a, b in values
        )


def _real(tree: Tree, point: dict[str, mpf]) -> mpf | None:
    try:
        with mp.workdps(DIGITS):
            number = value(tree, point)
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    return number if isinstance(number, mpf) and mp.isfinite(number) else None


def _can_be_compared(gold: str, *answers: str) -> bool:
    """Whether all are of ordinary length, and the reference is no plain number, which wants one."""
    if max(map(len, (gold, *answers))) > 280 or check_reference(gold) is not None:
        return False
    return read(normalise(gold)).kind != "number"


def made(draw: random.Random, depth: int = 3) -> Tree:
    """An expression of at most `depth` operations one in another."""
    if depth == 0 or draw.random() < 0.12:
        kind = draw.choices(("number", "letter", "pi"), (4, 5, 1))[0]
        if kind == "number":
            value = Fraction(draw.randint(1, 30), draw.choice((1, 1, 1, 2, 3, 4, 5)))
            return ("number", value)
        return ("letter", draw.choice(LETTERS)) if kind == "letter" else ("pi",)
    kind = draw.choices(("sum", "product", "quotient", "power", "root", "function"), (5, 5, 3, 3, 2, 2))[0]
    if kind in ("sum", "product"):
        terms = [made(draw, depth - 1) for _ in range(draw.randint(2, 3))]
        if kind == "sum":
            terms = [("minus", term) if i and draw.random() < 0.4 else term for i, term in enumerate(terms)]
        return (kind, *terms)
    if kind == "quotient":
        return ("quotient", made(draw, depth - 1), made(draw, depth - 1))
    if kind == "power":
        return ("power", made(draw, depth - 1), draw.randint(2, 4))
    if kind == "root":
        return ("root", made(draw, depth - 1))
    return ("function", draw.choice(FUNCTIONS), made(draw, depth - 1))


def value(tree: Tree, point: dict[str, mpf]) -> mpf:
    """At a point; complex for roots and logarithms of negative numbers. Raises ZeroDivisionError, ValueError."""
    kind, *rest = tree
    if kind == "number":
        return mpf(rest[0].numerator) / rest[0].denominator
    if kind == "letter":
        return point[rest[0]]
    if kind == "pi":
        return +mp.pi
    if kind == "power":
        return value(rest[0], point) ** rest[1]
    if kind == "function":
        return {"sin": mp.sin, "cos": mp.cos, "exp": mp.exp, "ln": mp.log}[rest[0]](value(rest[1], point))
    values = [value(part, point) for part in rest]
    if kind == "sum":
        return mp.fsum(values)
    if kind == "product":
        return mp.fprod(values)
    return {"minus": lambda a: -a, "root": mp.sqrt, "quotient": lambda a, b: a / b}[kind](*values)


# ------------------------------------------------------------------------------------------------ in another notation


def rewritten(tree: Tree, draw: random.Random) -> Tree:
    """An expression of the same value: by laws that hold wherever all letters are positive."""
    kind, *rest = tree
    if kind in ("number", "letter", "pi"):
        return _law(tree, draw) if draw.random() < 0.2 else tree
    inner = [rewritten(part, draw) if isinstance(part, tuple) else part for part in rest]
    if kind in ("sum", "product"):
        draw.shuffle(inner)
    return _law((kind, *inner), draw) if draw.random() < 0.6 else (kind, *inner)


def _law(tree: Tree, draw: random.Random) -> Tree:
    kind, *rest = tree
    one, two = ("number", Fraction(1)), ("number", Fraction(2))
    laws: list[Callable[[], Tree]] = [
        lambda: ("minus", ("minus", tree)),
        lambda: ("quotient", ("product", two, tree), two),
        lambda: ("sum", ("sum", tree, one), ("minus", one)),
    ]
    if kind == "power":
        laws.append(lambda: ("product", *[rest[0]] * rest[1]))
        laws.append(lambda: ("product", rest[0], ("power", rest[0], rest[1] - 1)))
    if kind == "product":
        sums = [i for i, part in enumerate(rest) if part[0] == "sum"]
        if sums:
            others = [part for i, part in enumerate(rest) if i != sums[0]]
            laws.append(lambda: ("sum", *(("product", *others, term) for term in rest[sums[0]][1:])))
    if kind == "quotient":
        laws.append(lambda: ("product", rest[0], ("quotient", one, rest[1])))
        if rest[0][0] == "sum":
            laws.append(lambda: ("sum", *(("quotient", term, rest[1]) for term in rest[0][1:])))
    if kind == "sum":
        laws.append(lambda: ("minus", ("sum", *(("minus", term) for term in rest))))
    if kind == "function" and rest[0] == "exp":
        laws.append(lambda: ("quotient", one, ("function", "exp", ("minus", rest[1]))))
    if kind == "function" and rest[0] == "sin":
        laws.append(lambda: ("minus", ("function", "sin", ("minus", rest[1]))))
    if kind == "function" and rest[0] == "cos":
        half = ("quotient", rest[1], two)
        laws.append(lambda: ("sum", one, ("minus", ("product", two, ("power", ("function", "sin", half), 2)))))
    return draw.choice(laws)()


# ------------------------------------------------------------------------------------------------ another value


def changed(tree: Tree, draw: random.Random) -> Tree:
    """The expression with one place changed: a number, a letter, a sign, an exponent, a function."""
    kind, *rest = tree
    places = [i for i, part in enumerate(rest) if isinstance(part, tuple)]
    if places and draw.random() < 0.75:
        i = draw.choice(places)
        return (kind, *rest[:i], changed(rest[i], draw), *rest[i + 1 :])
    if kind == "number":
        by = draw.choice(
            (Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(1, 10**20), -rest[0] * 2, Fraction(1, 10**40))
        )
        return ("number", rest[0] + by) if rest[0] + by > 0 else ("minus", ("number", -(rest[0] + by) or Fraction(7)))
    if kind == "letter":
        return ("letter", draw.choice([name for name in LETTERS if name != rest[0]]))
    if kind == "power":
        return ("power", rest[0], rest[1] + 1)
    if kind == "function":
        return ("function", draw.choice([name for name in FUNCTIONS if name != rest[0]]), rest[1])
    if kind == "quotient":
        return ("quotient", rest[1], rest[0])
    return draw.choice(
        (("minus", tree), ("product", ("number", Fraction(2)), tree), ("sum", tree, ("number", Fraction(1, 7))))
    )


# ------------------------------------------------------------------------------------------------ writing


def written(tree: Tree, draw: random.Random) -> str:
    """The expression as a text, each sign in one of the ways in which people write it."""
    kind, *rest = tree
    if kind == "number":
        return _number(rest[0], draw)
    if kind == "letter":
        return rest[0] + " " if rest[0][0] == "\\" else rest[0]
    if kind == "pi":
        return draw.choice((r"\pi ", "π", r"{\pi}"))
    if kind == "minus":
        return draw.choice(("-", "–", "−")) + _factor(rest[0], draw)
    if kind == "sum":
        text = _term(rest[0], draw)
        for part in rest[1:]:
            text += (
                draw.choice(("+", " + ")) + _term(part, draw)
                if part[0] != "minus"
                else draw.choice(("-", " - ")) + _factor(part[1], draw)
            )
        return text
    if kind == "product":
        text = _factor(rest[0], draw)
        for part in rest[1:]:
            follows = _factor(part, draw)
            signs = [r"\cdot ", "*", r" \times ", "·"]
            if (
                not follows[0].isdigit()
                and follows[0] not in ".-"
                and part[0] != "function"
                and rest[0][0] != "function"
            ):
                signs += ["", " "] if not text[-1:].isalpha() or text[-1:] == " " or follows[0] != "x" else [" "]
            text += draw.choice(signs) + follows
        return text
    if kind == "quotient":
        if draw.random() < 0.6:
            return f"{draw.choice((chr(92) + 'frac', chr(92) + 'dfrac'))}{{{written(rest[0], draw)}}}{{{written(rest[1], draw)}}}"
        return f"{_factor(rest[0], draw)}/{_atom(rest[1], draw)}"
    if kind == "power":
        return f"{_atom(rest[0], draw)}^{draw.choice((str(rest[1]), f'{{{rest[1]}}}'))}"
    if kind == "root":
        inner = written(rest[0], draw)
        return draw.choice(
            (rf"\sqrt{{{inner}}}", rf"\sqrt{{ {inner} }}", f"({inner})^{{1/2}}", rf"({inner})^{{\frac12}}")
        )
    name, inner = rest[0], written(rest[1], draw)
    if name == "exp":
        return draw.choice((f"e^{{{inner}}}", rf"\exp({inner})"))
    return draw.choice((rf"\{name}({inner})", rf"\{name}\left({inner}\right)", f"{name}({inner})"))


def _number(number: Fraction, draw: random.Random) -> str:
    if number.denominator == 1:
        return draw.choice((str(number), f"{number}", f"{{{number}}}", f"{number}.0"))
    ways = [rf"\frac{{{number.numerator}}}{{{number.denominator}}}", f"({number.numerator}/{number.denominator})"]
    decimal = _decimal(number)
    return draw.choice([*ways, decimal] if decimal else ways)


def _decimal(number: Fraction) -> str:
    for places in range(1, 45):
        scaled = number * 10**places
        if scaled.denominator == 1:
            digits = str(scaled.numerator).rjust(places + 1, "0")
            return f"{digits[:-places]}.{digits[-places:]}"
    return ""


def _bracketed(text: str, draw: random.Random) -> str:
    return draw.choice((f"({text})", rf"\left({text}\right)", f"[{text}]", f"{{({text})}}"))


def _term(tree: Tree, draw: random.Random) -> str:
    return _bracketed(written(tree, draw), draw) if tree[0] in ("minus", "sum") else written(tree, draw)


def _factor(tree: Tree, draw: random.Random) -> str:
    wants = tree[0] in ("minus", "sum", "quotient") or (tree[0] == "number" and tree[1].denominator > 1)
    return _bracketed(written(tree, draw), draw) if wants or tree[0] == "product" else written(tree, draw)


def _atom(tree: Tree, draw: random.Random) -> str:
    plain = tree[0] == "letter" or (tree[0] == "number" and tree[1].denominator == 1)
    return (
        str(tree[1])
        if plain and tree[0] == "number"
        else written(tree, draw).strip()
        if plain
        else _bracketed(written(tree, draw), draw)
    )
