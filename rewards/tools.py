"""Tools for models: python in the sandbox, a calculator that parses and never evaluates, search in a local file.

Named in a recipe as EnvironmentConfig(tools=("rewards.tools:python",)), or, for search, as the class
EnvironmentConfig("rewards.tools:Search", options=("file=corpus.sqlite",)). Each call stands alone: no state is kept.
"""

from __future__ import annotations

import ast
import contextlib
import math
import operator
import re
import sqlite3
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

from rewards.sandbox import Limits, run
from rewards.sandbox_view import python as interpreter

PROGRAM_S = 5.0
MOST_OUTPUT = 4_000
MOST_DIGITS = 300
"""Digits of a number that the calculator goes on with."""
MOST_CHARACTERS = 500
OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b), ast.Mod: operator.mod,
}  # fmt: skip


def python(code: str) -> str:
    """Run a Python program and return what it prints. It sees no files and no network.

    Args:
        code: The program.
    """
    ran = run(
        [interpreter(), "-I", "-B", "-X", "utf8", "-c", code],
        limits=Limits(wall_s=PROGRAM_S, cpu_s=math.ceil(PROGRAM_S), output_bytes=1 << 16),
    )
    printed = ran.stdout.decode(errors="replace")[:MOST_OUTPUT]
    if ran.limit:
        return f"{printed}Error: stopped at its limit of {ran.limit}"
    if ran.status:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        return f"{printed}Error: {said[-1][:500] if said else f'it ended with status {ran.status}'}"
    return printed.rstrip("\n")


def calculator(expression: str) -> str:
    """Work out an expression of numbers, + - * / // % ** and parentheses, exactly.

    Args:
        expression: For example (3 + 4) * 12 / 5
    """
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"an expression has at most {MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError("this is no expression") from error
    value = _value(tree.body)
    if value.denominator == 1:
        return str(value.numerator)
    return f"{value.numerator}/{value.denominator} = {float(value):.10g}"


def _value(node: ast.expr) -> Fraction:
    """A number, exactly. Raises ValueError for whatever is no arithmetic, and ZeroDivisionError."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _small(Fraction(str(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in OPERATIONS:
            return _small(OPERATIONS[type(node.op)](left, right))
    raise ValueError("an expression has numbers, + - * / // % ** and parentheses")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("an exponent is a whole number")
    digits = max(len(str(abs(base.numerator))), len(str(base.denominator)))
    if digits * abs(exponent.numerator) > MOST_DIGITS:
        raise ValueError(f"a number has at most {MOST_DIGITS} digits")
    return Fraction(base**exponent.numerator)


def _small(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) >= 10**MOST_DIGITS:
        raise ValueError(f"a number has at most {MOST_DIGITS} digits")
    return value


class Search:
    """Passages of a local SQLite FTS5 file, the best first by bm25. Make the file with index()."""

    def __init__(self, file: str, results: int = 3) -> None:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file}: no such file; rewards.tools.index makes it")
        self._file, self._results = file, results

    def search(self, query: str) -> str:
        """Find passages about something.

        Args:
            query: Words to look for.
        """
        words = re.findall(r"\w+", query)[:32]
        if not words:
            return "Nothing was found: the query has no words."
        wanted = " OR ".join(f'"{word}"' for word in words)  # quoted: no word is an operator of FTS5
        with contextlib.closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as base:
            rows = base.execute(
                "SELECT text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages), rowid LIMIT ?",
                (wanted, self._results),
            ).fetchall()
        return "\n".join(text for (text,) in rows) or "Nothing was found."


def index(file: Path, passages: Iterable[str]) -> Path:
    """Write passages into a new FTS5 file, for Search. Returns it."""
    file.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        base.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61')")
        base.executemany("INSERT INTO passages(text) VALUES (?)", ((text,) for text in passages))
    return file
