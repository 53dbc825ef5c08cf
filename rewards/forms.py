"""What an answer is, once it is read: its kind and its parts."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.nodes import INFINITY, Node
from rewards.quantities import Number

_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|rho|sigma|tau|varphi|ell"
NAME = rf"(?:[A-Za-z]|\\(?:{_GREEK}))(?:_ ?(?:\{{[A-Za-z0-9]{{1,3}}\}}|[A-Za-z0-9]))?"
"""The name of a variable, as a regular expression: x, \\alpha, x_1."""


@dataclass(frozen=True)
class Form:
    """What an answer is. Only the fields of its kind are set.

    kind: number, letter, words, time, base (52_8), set, list (in order), tuple, union (of sets of real numbers), matrix
    (its rows are tuples), assignments (parts with variables), compound (5 ft 6 in), cases (values and conditions),
    expression or relation.
    text: the letter, the words, the brackets of a tuple, an expression as written. variable: the x of "x = 3".
    unit: "cm^2" and such, or "".
    """

    kind: str
    text: str = ""
    number: Number | None = None
    parts: tuple[Form, ...] = ()
    expression: Node | None = None
    variable: str = ""
    unit: str = ""


REALS = Form(
    "tuple",
    "()",
    parts=(
        Form("expression", "-\\infty", expression=Node("-", (INFINITY,))),
        Form("expression", "\\infty", expression=INFINITY),
    ),
)
