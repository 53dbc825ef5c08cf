"""Procedural tasks: endless, checkable problems that need no download. Plain Python.

A task is named in a recipe as 'recipes.tasks:three_numbers_train'. Each row has a prompt, its answer, and a target in
R1's form for an SFT cold start. Training and held-out rows never share a problem: a hash of the problem, written the
same way however it is put (3 + 4 and 4 + 3 are one problem), says on which side it lies.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from typing import TypeVar

Row = dict[str, object]
Problem = TypeVar("Problem", tuple[int, ...], tuple[str, ...])

HELD_OUT_PERCENT = 20


def three_numbers_train() -> list[Row]:
    """Sums of a number in 10..89 and two in 2..9 to train on, with the sum of the first two in the thought."""
    return three_numbers("train")


def three_numbers_eval() -> list[Row]:
    """The held-out sums of three_numbers_train."""
    return three_numbers("eval")


def three_numbers(split: str) -> list[Row]:
    """ "What is 47 + 8 + 6?", thought "47 + 8 + 6 = 55 + 6 = 61". The order of a sum's numbers makes no new problem."""
    every = itertools.product(range(10, 90), range(2, 10), range(2, 10))
    return [
        _row(f"What is {a} + {b} + {c}?", f"{a} + {b} + {c} = {a + b} + {c} = {a + b + c}", str(a + b + c))
        for a, b, c in _mixed(every, "three numbers", split, sum_of=True)
    ]


def addition_train() -> list[Row]:
    """Sums of a number in 10..99 and one in 2..9 to train on: 720 pairs, less those held out."""
    return addition((10, 99), (2, 9), "train")


def addition_eval() -> list[Row]:
    """The held-out sums of addition_train."""
    return addition((10, 99), (2, 9), "eval")


def addition(a_range: tuple[int, int], b_range: tuple[int, int], split: str) -> list[Row]:
    """ "What is a + b?" for every a and b in their ranges (both ends included) that lies in split, "train" or "eval".

    No number is negative. The order is fixed and mixed, so that the first n rows are a fair sample.
    """
    for lo, hi in (a_range, b_range):
        if not 0 <= lo <= hi:
            raise ValueError(f"addition: the range {lo}..{hi} must not be negative or empty")
    every = itertools.product(range(a_range[0], a_range[1] + 1), range(b_range[0], b_range[1] + 1))
    return [
        _row(f"What is {a} + {b}?", _addition_chain(a, b), str(a + b))
        for a, b in _mixed(every, "addition", split, sum_of=True)
    ]


def tiny_train() -> list[Row]:
    """Strings of four digits to reverse, to train on; for a model of a million parameters that reads characters."""
    return reversal(4, "train")


def tiny_eval() -> list[Row]:
    """The held-out strings of tiny_train."""
    return reversal(4, "eval")


CHAIN_DIGITS = 10


def chain_train() -> list[Row]:
    """Chains of sums to learn from."""
    return chain("train")


def chain_label() -> list[Row]:
    """The rows of chain_train, the last first: what is labelled was not all learnt before."""
    return chain("train")[::-1]


def chain_eval() -> list[Row]:
    """The held-out rows of chain_train."""
    return chain("eval")


def chain(split: str, count: int = 20_000) -> list[Row]:
    """ "add 3 8 5:" -> 3+8=1,1+5=6 and the answer 6: ten digits added one after the other, modulo 10.

    Each step has the last one's result, so one that is wrong can be seen where it stands, and usually makes the answer
    wrong. The chains are drawn by their number, so that there is no end of them; those of one split are in no other.
    """
    drawn = (
        tuple(byte % 10 for byte in hashlib.sha256(f"chain {i}".encode()).digest()[:CHAIN_DIGITS]) for i in range(count)
    )
    return [_chain_row(digits) for digits in _mixed(dict.fromkeys(drawn), "chain", split)]


def _chain_row(digits: tuple[int, ...]) -> Row:
    total, steps = digits[0], []
    for digit in digits[1:]:
        steps.append(f"{total}+{digit}={(total + digit) % 10}")
        total = (total + digit) % 10
    return _row(f"add {' '.join(map(str, digits))}:", ",".join(steps), str(total))


def reversal(length: int, split: str) -> list[Row]:
    """ "reverse 4719:" -> 9174, for every string of that length over 1..9 that lies in split, "train" or "eval".

    There is no 0, so that answers compared as numbers cannot lose a leading one. A string and its reverse are one
    problem. Written with the digits, the letters of "reverse think answer", and " :,<>/".
    """
    rows = []
    for digits in _mixed(itertools.product("123456789", repeat=length), "reversal", split):
        backwards = digits[::-1]
        rows.append(_row(f"reverse {''.join(digits)}:", ",".join(backwards), "".join(backwards)))
    return rows


def _addition_chain(a: int, b: int) -> str:
    """b is added place by place, the highest first: (47, 38) -> "47 + 38 = 47 + 30 + 8 = 77 + 8 = 85"."""
    digits = str(b)
    places = [int(d) * 10**power for power, d in zip(range(len(digits))[::-1], digits, strict=True) if d != "0"] or [0]
    steps = [f"{a} + {b}"]
    while places:
        steps.append(" + ".join(map(str, [a, *places])))
        a += places.pop(0)
    return " = ".join(dict.fromkeys([*steps, str(a)]))


def _mixed(problems: Iterable[Problem], task: str, split: str, *, sum_of: bool = False) -> list[Problem]:
    """The problems of one side, in a fixed mixed order.

    A problem read backwards is the same problem; with sum_of, so are its numbers in any order.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"{task}: split {split!r} must be train or eval")
    held_out = split == "eval"

    def same(problem: Problem) -> tuple[int | str, ...]:
        return tuple(sorted(problem)) if sum_of else min(problem, problem[::-1])

    side = [p for p in problems if (_number(task, same(p)) % 100 < HELD_OUT_PERCENT) == held_out]
    if not side:
        raise ValueError(f"{task}: no problem lies in split {split}; widen its range")
    return sorted(side, key=lambda p: _number("order", p))


def _number(purpose: str, problem: tuple[int | str, ...]) -> int:
    """A number that looks random and is the same on every machine."""
    return int(hashlib.sha256(f"{purpose} {problem}".encode()).hexdigest()[:12], 16)


def _row(prompt: str, thought: str, answer: str) -> Row:
    return {"prompt": prompt, "answer": answer, "target": f"<think>{thought}</think> <answer>{answer}</answer>"}
