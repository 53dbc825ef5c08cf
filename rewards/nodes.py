"""The tree of an expression: what rewards/expressions.py makes of a text, and rewards/values.py evaluates."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "kappa"}
GREEK |= {"lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell"}
GREEK |= {"Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"}
OF_SEVERAL = ("max", "min", "gcd", "lcm")
RELATIONS = {"=": "=", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!="}


class Unreadable(ValueError):
    """A text that cannot be read as mathematics, or that is refused unread; the message says which and why."""


class Node(NamedTuple):
    """A part of an expression: an operation on the Nodes `args`, or a number or a name.

    op: number, name, constant (pi, e, i, infinity), + and * (of two or more), - (of one), / and ^ (of two), !, !!,
    binom, root (its degree, and of what), a function by its name (log: its base, and of what), abs, floor, ceil, max,
    min, gcd, lcm, sum and prod (from, to, of what; name is the letter that runs), or a relation: = != < > <= >=.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: Fraction | None = None
    name: str = ""

    @property
    def is_relation(self) -> bool:
        return self.op in RELATIONS.values()

    def names(self) -> frozenset[str]:
        """The letters that it depends on."""
        if self.op == "name":
            return frozenset({self.name})
        inner = [arg.names() for arg in self.args]
        if self.op in ("sum", "prod"):  # the letter that runs is no letter of the limits
            inner[2] -= {self.name}
        return frozenset[str]().union(*inner)

    def holds(self, *ops: str) -> bool:
        """Whether one of these operations occurs in it."""
        return self.op in ops or any(arg.holds(*ops) for arg in self.args)


def number(value: Fraction | int) -> Node:
    return Node("number", value=Fraction(value))


def letter(name: str) -> Node:
    return Node("name", name=name)


INFINITY, PI, EULER, IMAGINARY = (Node("constant", name=name) for name in ("infinity", "pi", "e", "i"))
