"""How well a process reward model finds the first wrong step. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def first_error_f1(found: Sequence[int | None], true: Sequence[int | None]) -> float:
    """ProcessBench's number (2412.06559): the harmonic mean of two shares, of the solutions with an error whose first
    wrong step is found, and of those without one in which none is found. None: no wrong step.

    Where all solutions are of one of the two kinds, it is that kind's share alone.

        found [1, None, 2], true [1, None, None] -> 1 of 1 and 1 of 2: 2 x 1 x .5 / 1.5 = .667
    """
    wrong = [f == t for f, t in zip(found, true, strict=True) if t is not None]
    right = [f is None for f, t in zip(found, true, strict=True) if t is None]
    shares = [sum(kind) / len(kind) for kind in (wrong, right) if kind]
    if not shares:
        return 0.0
    return len(shares) / sum(1 / share for share in shares) if all(shares) else 0.0
