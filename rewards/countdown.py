"""Countdown: reach a target from given numbers with + - * / (TinyZero's task).

The expression is read as a Python syntax tree and worked out in exact fractions. Nothing in it is ever run: a tree
with anything but integers, + - * /, parentheses and a leading minus is refused.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from rewards.extract import final_answers, normalise, opens_thinking
from rewards.types import Score, correct, excerpt, unparseable, wrong

MAX_LENGTH = 300
"""Of the expression, in characters."""
MAX_NESTING = 20
"""Of brackets and signs in the expression."""
MAX_DIGITS = 12
"""Of one number in the expression."""

_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "[": "(", "]": ")"})
_LATEX_SIGNS = re.compile(r"\\(?:times|cdot)(?![A-Za-z])|\\div(?![A-Za-z])|\\(?:left|right)(?![A-Za-z])|\\[,;:! ]")
_MEANT = {"\\times": "*", "\\cdot": "*", "\\div": "/"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")


class Refused(ValueError):
    """An expression that is not plain arithmetic; the message says why."""


def countdown(
    completion: str,
    *,
    numbers: Sequence[int | str] | str,
    target: int | str | None = None,
    answer: int | str | None = None,
    prompt: str = "",
    use_all: bool = False,
    **columns: object,
) -> Score:
    """1 when the answer is an expression that uses each given number at most once and equals the target, else 0.

    From the row: numbers, [3, 5, 7] or "[3, 5, 7]" or "3 5 7"; target, an integer or its text; `answer` holds it where
    a dataset has no such column. Setting: use_all, every number must be used, as in TinyZero. Raises ValueError when
    the row has no target or no numbers. Unparseable: no answer, or no plain arithmetic. Wrong: other numbers, or
    another value.

        "<think>..</think><answer>(7 - 5) * 3</answer>", numbers=[3, 5, 7], target=6  -> 1
        "<answer>5 + 7 = 12</answer>", target=12 -> 1    "<answer>3 + 3</answer>", target=6 -> 0: there is one 3
    """
    given = given_numbers(numbers)
    wanted = _target(answer if target is None else target)
    found = final_answers(completion, opened=opens_thinking(prompt))
    if not found.answers:
        return unparseable(found.reason)
    texts = list(dict.fromkeys(normalise(text) for text in found.answers))
    if len(texts) > 1:
        return wrong(f"boxes that differ: {excerpt(texts[0])} and {excerpt(texts[-1])}")
    try:
        left, claimed = _without_claim(texts[0])
        value, used = evaluate(left)
    except Refused as error:
        return unparseable(f"{excerpt(texts[0])}: {error}")
    if value is None:
        return wrong("divides by zero")
    if extra := used - given:
        return wrong(f"uses {_listed(extra)}, which is not among the numbers that are left")
    if use_all and used != given:
        return wrong(f"does not use {_listed(given - used)}")
    if value != wanted:
        return wrong(f"comes to {value}, not {wanted}")
    if claimed is not None and claimed != wanted:
        return wrong(f"says that it comes to {claimed}, not {wanted}")
    return correct()


def given_numbers(numbers: Sequence[int | str] | str) -> Counter[int]:
    """The numbers of a row, counted. "[3, 5, 5]" -> {3: 1, 5: 2}. Raises ValueError when one is no integer."""
    items = numbers.strip().strip("[]()").replace(",", " ").split() if isinstance(numbers, str) else list(numbers)
    if not items:
        raise ValueError(f"countdown: the row has no numbers: {numbers!r}")
    for item in items:
        if isinstance(item, bool) or not _INTEGER.fullmatch(str(item).strip()):
            raise ValueError(f"countdown: numbers holds {item!r}, which is no integer")
    return Counter(int(item) for item in items)


def _target(target: int | str | None) -> int:
    if target is None or isinstance(target, bool) or not _INTEGER.fullmatch(str(target).strip()):
        raise ValueError(f"countdown: the row's target is {target!r}, which is no integer; name it target or answer")
    return int(target)


def _without_claim(text: str) -> tuple[str, int | None]:
    """An expression, and the integer after its one "=". "1 + 2 = 3" -> ("1 + 2 ", 3); "1 + 2" -> ("1 + 2", None)."""
    left, equals, right = text.partition("=")
    if not equals:
        return text, None
    if not _INTEGER.fullmatch(right.strip()):
        raise Refused("after = there must be one integer")
    return left, int(right)


def evaluate(text: str) -> tuple[Fraction | None, Counter[int]]:
    """The exact value of plain arithmetic, None where it divides by zero, and the numbers it uses.

    "(7 - 5) * 3" -> (6, {7: 1, 5: 1, 3: 1}). Raises Refused for anything else: names, calls, **, //, 1.5, 1_000.
    """
    if len(text) > MAX_LENGTH:
        raise Refused(f"{len(text)} characters, more than {MAX_LENGTH}")
    text = _LATEX_SIGNS.sub(lambda match: _MEANT.get(match.group(), " "), text.translate(_SIGNS)).strip()
    if not _ALLOWED.fullmatch(text):
        raise Refused("not plain arithmetic: only integers, + - * / and brackets")
    if "**" in text or "//" in text:
        raise Refused("not plain arithmetic: ** or //")
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", text):
        raise Refused(f"a number of more than {MAX_DIGITS} digits")
    depth = deepest = 0
    for symbol in text:
        depth += (symbol == "(") - (symbol == ")")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING or re.search(r"(?:[+-] *){4}", text):
        raise Refused("nested too deeply")
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise Refused(f"not an expression: {error.msg}") from error
    used: Counter[int] = Counter()
    try:
        return _value(tree.body, used), used
    except ZeroDivisionError:
        return None, used


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    """The value of a node; counts its integers. The depth is bounded by the text's length."""
    match node:
        case ast.Constant(value=int(number)) if type(number) is int:
            used[number] += 1
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, used)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, used), _value(right, used)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise Refused(f"not plain arithmetic: {type(node).__name__}")


def _listed(numbers: Counter[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers.elements())[:10])
