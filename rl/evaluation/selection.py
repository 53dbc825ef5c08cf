"""Choosing one answer among k samples: by majority, by the highest score, or by votes that scores weigh. Pure.

All estimators are means over the subsets of k of a problem's K samples, so one set of samples gives the whole curve
over k. What is compared: pass@1 (one drawn at random), and pass@k (what a perfect judge would reach) as the ceiling.

    cons@k           the most frequent answer
    best@k:NAME      the sample with the highest score
    weighted@k:NAME  the answer whose samples have the largest sum of scores

NAME is a reward, or one of OWN_SCORES. In all three a tie counts the mean over what is tied: what drawing one of them
would score on average. A subset whose winners have no verdict is left out; NaN where that is all of them.
Axis suffixes: _P problems, _G the samples of one problem. correct_G: 1 or 0, NaN without a verdict.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rl.config import SearchConfig
from rl.evaluation.metrics import majority
from rl.types import BadInput

MAJORITY = "majority"
LOGPROB, SHORTEST = "logprob", "shortest"
OWN_SCORES = (LOGPROB, SHORTEST)
"""Scores that need no reward: the mean logprob of a sample's tokens, and minus their number."""
MOST_SUBSETS, DRAWN = 500, 200
"""Of more subsets than that, so many are drawn by seed for a weighted vote."""
MOST_EXACT = 1000
"""Of more samples than that, subsets are counted in numbers too large for the exact mean."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The samples of one problem. classes_G: the number of each one's answer, None for no answer.

    scores: name -> a number a sample, NaN where scoring failed. weights: the same as votes; not for OWN_SCORES.
    """

    classes_G: Sequence[int | None]
    correct_G: Sequence[float]
    scores: dict[str, list[float]]
    weights: dict[str, list[float]]


def choices(candidates_P: Sequence[Candidates], select: Sequence[str], ks: Sequence[int]) -> dict[str, list[float]]:
    """Metric -> the expected correctness of what is chosen, for each problem. select: MAJORITY and names of scores.

    A problem with fewer samples than k has NaN there.
    """
    out: dict[str, list[float]] = {}
    for name, estimate in _estimators(select):
        for k in ks:
            out[named(name, k)] = [
                estimate(one, k) if k <= len(one.correct_G) else math.nan for one in candidates_P
            ]  # fmt: skip
    return out


def refuse_unknown_scores(select: Sequence[str], rewards: Sequence[str]) -> None:
    """Raise BadInput for a name in evaluation.select that is neither a way to choose nor one of the rewards' names, or
    for a reward with the name of a way.
    """
    ways = (MAJORITY, *OWN_SCORES)
    for name in select:
        if name not in ways and name not in rewards:
            near = difflib.get_close_matches(name, (*ways, *rewards), n=1)
            raise BadInput(
                f"evaluation.select={name}: expected one of {', '.join(ways)}, or a reward's name; the rewards are "
                f"{', '.join(rewards)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if name in ways and name in rewards:
            raise BadInput(f"evaluation.select={name}: a reward has this name too; give the reward another one")


def refuse_unknown_scorers(key: str, searches: Sequence[SearchConfig], rewards: Sequence[str]) -> None:
    """Raise BadInput for a search whose scorer is none of the rewards' names. key: the setting that holds searches."""
    for i, search in enumerate(searches):
        if search.by_steps and search.scorer not in rewards:
            near = difflib.get_close_matches(search.scorer, rewards, n=1)
            raise BadInput(
                f"{key}.{i}.scorer={search.scorer}: expected a reward's name; the rewards are {', '.join(rewards)}"
                + (f"; did you mean {near[0]}?" if near else "")
            )


def names(select: Sequence[str], k: int) -> list[str]:
    """The metrics of a selection among k samples: ("majority", "prm"), 16 -> cons@16, best@16:prm, weighted@16:prm."""
    return [named(kind, k) for kind, _ in _estimators(select)]


def named(kind: str, k: int) -> str:
    """ "cons" -> "cons@16", "best:prm" -> "best@16:prm"."""
    word, colon, score = kind.partition(":")
    return f"{word}@{k}{colon}{score}"


def parsed(metric: str) -> tuple[str, int]:
    """ "best@16:prm" -> ("best:prm", 16), "cons@4" -> ("cons", 4)."""
    word, _, rest = metric.partition("@")
    k, colon, score = rest.partition(":")
    return f"{word}{colon}{score}", int(k)


def score_of(kind: str) -> str:
    """The score that a way of choosing uses: "best:prm" -> "prm", "cons" -> ""."""
    return kind.partition(":")[2]


Estimator = Callable[[Candidates, int], float]


def _estimators(select: Iterable[str]) -> Iterator[tuple[str, Estimator]]:
    for name in select:
        if name == MAJORITY:
            yield "cons", _majority_of
            continue
        yield f"best:{name}", functools.partial(_best_by, name)
        if name not in OWN_SCORES:
            yield f"weighted:{name}", functools.partial(_weighted_by, name)


def _majority_of(one: Candidates, k: int) -> float:
    return votes(one.classes_G, one.correct_G, k)


def _best_by(name: str, one: Candidates, k: int) -> float:
    return best(one.scores[name], one.correct_G, k)


def _weighted_by(name: str, one: Candidates, k: int) -> float:
    return weighted_votes(one.classes_G, one.correct_G, one.weights[name], k)


# ------------------------------------------------------------------------------------------------ best of k


def best(scores_G: Sequence[float], correct_G: Sequence[float], k: int) -> float:
    """best@k: the mean correctness of the sample with the highest score, over all subsets of k. Exact.

    A failed score (NaN) never wins against another; where all of a subset have failed, they are tied.
    With K samples of which b score higher, one is the winner in C(K - 1 - b, k - 1) of the C(K, k) subsets.

        scores [3, 2, 1], correct [0, 1, 1], k 2 -> the first wins 2 of 3 subsets, the second 1: 1/3
    """
    total = len(scores_G)
    ranked = [-math.inf if math.isnan(score) else score for score in scores_G]
    known = won = 0.0
    higher = 0
    for score in sorted(set(ranked), reverse=True):
        tied = [correct for own, correct in zip(ranked, correct_G, strict=True) if own == score]
        judged = [correct for correct in tied if not math.isnan(correct)]
        # Subsets without a higher score, and with one that is tied here and has a verdict: the tie counts their mean.
        subsets = math.comb(total - higher, k) - math.comb(total - higher - len(judged), k)
        if subsets:
            share = subsets / math.comb(total, k)
            known += share
            won += share * sum(judged) / len(judged)
        higher += len(tied)
    return won / known if known else math.nan


# ------------------------------------------------------------------------------------------------ votes


def votes(classes_G: Sequence[int | None], correct_G: Sequence[float], k: int) -> float:
    """cons@k: the mean of rl.evaluation.metrics.majority over all subsets of k. Exact up to MOST_EXACT samples.

    answers [0, 0, 1], correct [1, 1, 0], k 2 -> {0, 0} scores 1 and {0, 1} twice 1/2: 2/3
    """
    if k == len(classes_G):
        return majority(classes_G, correct_G)
    if len(classes_G) > MOST_EXACT:
        drawn = [majority([classes_G[i] for i in at], [correct_G[i] for i in at]) for at in subsets(len(classes_G), k)]
        return _mean_known(drawn)
    groups = _answer_groups(classes_G, correct_G)
    without_answer = classes_G.count(None)
    # Subsets of samples without an answer are wrong, and have a value.
    value, counted = np.longdouble(0), _comb(without_answer, k)
    for most in range(1, min(k, max((g.size for g in groups), default=0)) + 1):
        ways_T, scores_T = _won_with(groups, without_answer, k, most)
        counted += ways_T[1:].sum()
        value += (scores_T[1:] / np.arange(1, len(scores_T))).sum()
    return float(value / counted) if counted else math.nan


@dataclass(frozen=True, slots=True)
class _AnswerGroup:
    """The samples with one answer. silent: those of them without a verdict. mean: of the others' correctness."""

    size: int
    silent: int
    mean: float


def _answer_groups(classes_G: Sequence[int | None], correct_G: Sequence[float]) -> list[_AnswerGroup]:
    found: dict[int, list[float]] = {}
    for answer, correct in zip(classes_G, correct_G, strict=True):
        if answer is not None:
            found.setdefault(answer, []).append(correct)
    out = []
    for own in found.values():
        judged = [correct for correct in own if not math.isnan(correct)]
        out.append(_AnswerGroup(len(own), len(own) - len(judged), sum(judged) / len(judged) if judged else 0.0))
    return out


def _won_with(
    groups: Sequence[_AnswerGroup], without_answer: int, k: int, most: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The subsets of k in which the most frequent answers have exactly `most` samples, by the number of those answers
    that have a verdict (axis _T): (how many subsets, the sum over them of those answers' correctness).

    A product over the answers: each gives fewer than `most` samples, or exactly that many and is a winner. A winner's
    samples with a verdict have, over all choices of them, the mean correctness of all that it has.
    long double, because a number of subsets may be larger than a double.
    """
    ways = np.zeros((k + 1, k // most + 1), np.longdouble)
    ways[: min(without_answer, k) + 1, 0] = [_comb(without_answer, j) for j in range(min(without_answer, k) + 1)]
    scores = np.zeros_like(ways)
    for group in groups:
        new_ways, new_scores = np.zeros_like(ways), np.zeros_like(ways)
        for j in range(min(group.size, most - 1, k) + 1):
            new_ways[j:] += _comb(group.size, j) * ways[: k + 1 - j]
            new_scores[j:] += _comb(group.size, j) * scores[: k + 1 - j]
        if most <= min(group.size, k):
            silent = _comb(group.silent, most)
            judged = _comb(group.size, most) - silent
            below, below_scores = ways[: k + 1 - most], scores[: k + 1 - most]
            new_ways[most:] += silent * below
            new_scores[most:] += silent * below_scores
            new_ways[most:, 1:] += judged * below[:, :-1]
            new_scores[most:, 1:] += judged * (below_scores + group.mean * below)[:, :-1]
        ways, scores = new_ways, new_scores
    return ways[k], scores[k]


def _comb(n: int, k: int) -> np.longdouble:
    return np.longdouble(math.comb(n, k))


def weighted_votes(
    classes_G: Sequence[int | None], correct_G: Sequence[float], weights_G: Sequence[float], k: int
) -> float:
    """weighted@k: the mean of weighted_majority over the subsets of k: all of them up to MOST_SUBSETS, else DRAWN of
    them, the same ones whatever the weights.
    """
    found = [
        weighted_majority([classes_G[i] for i in at], [correct_G[i] for i in at], [weights_G[i] for i in at])
        for at in subsets(len(classes_G), k)
    ]
    return _mean_known(found)


def subsets(count: int, k: int) -> list[tuple[int, ...]]:
    """Subsets of k of 0 .. count - 1: all of them up to MOST_SUBSETS, else DRAWN different draws by seed."""
    if math.comb(count, k) <= MOST_SUBSETS:
        return list(itertools.combinations(range(count), k))
    rng = random.Random(f"{count} {k}")
    return [tuple(sorted(rng.sample(range(count), k))) for _ in range(DRAWN)]


def weighted_majority(
    classes_G: Sequence[int | None], correct_G: Sequence[float], weights_G: Sequence[float]
) -> float:  # fmt: skip
    """Whether the answer with the largest sum of weights is correct, 0 to 1; else as rl.evaluation.metrics.majority.

    A weight below 0, or of a failed score (NaN), counts as 0. Where every sum is 0, all answers are tied.

        answers [0, 0, 1], weights [.2, .3, .6] -> answer 1; weights [.3, .3, .6] -> a tie
    """
    sums: dict[int, list[float]] = {}
    for answer, weight in zip(classes_G, weights_G, strict=True):
        if answer is not None:
            sums.setdefault(answer, []).append(0.0 if math.isnan(weight) else max(weight, 0.0))
    totals = {answer: math.fsum(own) for answer, own in sums.items()}  # exact, so that equal sums are a tie
    most = max(totals.values(), default=0.0)
    winners = [answer for answer, total in totals.items() if total == most]
    if not winners:
        return 0.0
    judged: dict[int, list[float]] = {answer: [] for answer in winners}
    for answer, correct in zip(classes_G, correct_G, strict=True):
        if answer in judged and not math.isnan(correct):
            judged[answer].append(correct)
    values = [sum(own) / len(own) for own in judged.values() if own]
    return sum(values) / len(values) if values else math.nan


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
