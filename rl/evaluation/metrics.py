"""The numbers of an evaluation, from verdicts: pass@1, pass@k, cons@k, standard errors. Pure.

Axis suffixes: _P problems, _G the samples of one problem. Where a share is of problems, its error is over problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Mean over problems and its standard error, s / sqrt(n) with Bessel's s: problems are the sample.

    Example: [0, 1, 1, 0] -> (0.5, 0.2887). NaN stands for a problem that was not measured and is left out; the mean
    is NaN where none was, the error where fewer than two were.
    """
    known = [v for v in values if not math.isnan(v)]
    n = len(known)
    if not n:
        return math.nan, math.nan
    mean = sum(known) / n
    if n < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in known) / (n - 1) / n)


def paired_difference(before_P: Sequence[float], after_P: Sequence[float]) -> tuple[float, float]:
    """Mean of after - before over the same problems, and its standard error. Problems without one of the two are out.

    The error is of the differences: what makes a problem hard is in both and cancels.

        [0, 1, 0.5, 0], [1, 1, 1, 0] -> differences [1, 0, 0.5, 0] -> (0.375, 0.2394)
    """
    return mean_and_stderr([after - before for before, after in zip(before_P, after_P, strict=True)])


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is correct, unbiased from n: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.

        n 4, correct 1: k 1 -> 0.25, k 2 -> 1 - 3/6 = 0.5, k 4 -> 1
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@k: {correct} correct of {n} samples, k={k}; k is at least 1 and at most the samples")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def default_ks(n: int) -> tuple[int, ...]:
    """The k of pass@k for n samples: 1, 2, 4 and so on, and n itself. 6 -> (1, 2, 4, 6)."""
    powers = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return tuple(powers) if powers[-1] == n else (*powers, n)


def group_equivalent(answers_G: Sequence[str | None], same: Callable[[str, str], bool]) -> list[int | None]:
    """The number of each answer's class, None for no answer. An answer joins the first class whose first one it is.

    ["1/2", "7", None, "0.5"], same: equal numbers -> [0, 1, None, 0]
    """
    firsts: list[str] = []
    known: dict[str, int] = {}
    classes_G: list[int | None] = []
    for answer in answers_G:
        if answer is None:
            classes_G.append(None)
            continue
        if answer not in known:
            found = next((i for i, first in enumerate(firsts) if same(first, answer)), len(firsts))
            if found == len(firsts):
                firsts.append(answer)
            known[answer] = found
        classes_G.append(known[answer])
    return classes_G


def majority(classes_G: Sequence[int | None], correct_G: Sequence[float]) -> float:
    """Whether the most frequent answer is correct, 0 to 1 (cons@k of Wang et al. 2022, arXiv 2203.11171).

    classes_G: equal numbers are equivalent answers, None is no answer. correct_G: 1 or 0, NaN where no verdict.
    A tie counts the mean over the tied answers: what drawing one of them would score on average. An answer whose
    samples have different verdicts (a verifier need not be transitive) counts their mean. No answer never wins; where
    no sample has one, the problem is wrong. NaN where no sample of the winners has a verdict.

        [0, 0, 1, None], [1, 1, 0, 0] -> 1; [0, 1], [1, 0] -> 0.5; [None, None, 1], [0, 0, 1] -> 1; [None], [0] -> 0
    """
    votes: dict[int, list[float]] = {}
    for answer, correct in zip(classes_G, correct_G, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(correct)
    if not votes:
        return 0.0
    most = max(len(v) for v in votes.values())
    winners = [[c for c in v if not math.isnan(c)] for v in votes.values() if len(v) == most]
    scores = [sum(v) / len(v) for v in winners if v]
    return sum(scores) / len(scores) if scores else math.nan


def percentiles(values: Sequence[float], at: Sequence[int]) -> list[float]:
    """Percentiles with linear interpolation, NaN for no values. [1, 2, 3, 4], (50, 90) -> [2.5, 3.7]"""
    if not values:
        return [math.nan] * len(at)
    return [float(x) for x in np.percentile(np.asarray(values, dtype=np.float64), list(at))]
