"""rl/evaluation/selection.py: each estimator against brute force over all subsets, and cases worked by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest

from rl.evaluation.metrics import majority
from rl.evaluation.selection import (
    Candidates,
    best,
    choices,
    names,
    parsed,
    refuse_unknown_scores,
    subsets,
    votes,
    weighted_majority,
    weighted_votes,
)
from rl.types import BadInput

NAN = math.nan


def brute_force(value: Callable[[tuple[int, ...]], float], count: int, k: int) -> float:
    """The mean of value over all subsets of k that have one, by counting."""
    found = [value(at) for at in itertools.combinations(range(count), k)]
    known = [v for v in found if not math.isnan(v)]
    return sum(known) / len(known) if known else NAN


def first_of(scores: Sequence[float], correct: Sequence[float], at: tuple[int, ...]) -> float:
    """By its definition: the samples of the subset with the highest score, failed ones last; the mean of their verdicts."""
    ranked = {i: -math.inf if math.isnan(scores[i]) else scores[i] for i in at}
    judged = [correct[i] for i in at if ranked[i] == max(ranked.values()) and not math.isnan(correct[i])]
    return sum(judged) / len(judged) if judged else NAN


def drawn(seed: int, *, silent: bool) -> tuple[list[int | None], list[float], list[float]]:
    """Six samples: answers of few kinds, verdicts, scores of few values so that there are ties, and failed ones."""
    rng = random.Random(seed)
    answers: list[int | None] = [rng.choice((0, 0, 1, 2, None)) for _ in range(6)]
    correct = [rng.choice((0.0, 1.0, NAN) if silent else (0.0, 1.0)) for _ in range(6)]
    return answers, correct, [rng.choice((0.25, 0.5, 0.5, 0.75, NAN)) for _ in range(6)]


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("k", range(1, 7))
def test_every_estimator_of_six_samples_is_the_mean_over_all_subsets(k: int, silent: bool):
    for seed in range(60):
        check_six(*drawn(seed, silent=silent), k)


def check_six(answers: list[int | None], correct: list[float], scores: list[float], k: int) -> None:
    def voted(at: tuple[int, ...]) -> float:
        return majority([answers[i] for i in at], [correct[i] for i in at])

    def weighed(at: tuple[int, ...]) -> float:
        return weighted_majority([answers[i] for i in at], [correct[i] for i in at], [scores[i] for i in at])

    def chosen(at: tuple[int, ...]) -> float:
        return first_of(scores, correct, at)

    assert votes(answers, correct, k) == pytest.approx(brute_force(voted, 6, k), nan_ok=True)
    assert best(scores, correct, k) == pytest.approx(brute_force(chosen, 6, k), nan_ok=True)
    assert weighted_votes(answers, correct, scores, k) == pytest.approx(brute_force(weighed, 6, k), nan_ok=True)


def test_votes_of_two_among_three_by_hand():
    # {0, 0} is right; {0, 1} twice: a tie of a right and a wrong answer.
    assert votes([0, 0, 1], [1, 1, 0], 2) == pytest.approx(2 / 3)
    # Without answers there is nothing to vote for: one of three pairs is wrong, in two the one answer wins.
    assert votes([0, None, None], [1, 0, 0], 2) == pytest.approx(2 / 3)


def test_the_best_of_two_among_three_by_hand():
    assert best([3, 2, 1], [0, 1, 1], 2) == pytest.approx(1 / 3)
    # The two best are tied: {0, 1} scores a half, {0, 2} its first, which is wrong, {1, 2} its first, which is right.
    assert best([3, 3, 1], [0, 1, 1], 2) == pytest.approx(1 / 2)
    # The failed one wins nothing, although it is right.
    assert best([3, NAN, 1], [0, 1, 0], 2) == 0.0
    assert best([NAN, NAN], [1, 0], 2) == 0.5
    # The winner of two of three pairs has no verdict: the third pair alone counts.
    assert best([3, 2, 1], [NAN, 1, 0], 2) == 1.0


def test_weights_decide_a_vote_by_hand():
    assert weighted_majority([0, 0, 1], [0, 0, 1], [0.2, 0.3, 0.6]) == 1.0
    assert weighted_majority([0, 0, 1], [0, 0, 1], [0.3, 0.3, 0.6]) == 0.5
    # .1 + .2 + .3 is not .3 + .2 + .1 in floating point, unless the sums are exact before they are rounded.
    assert weighted_majority([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]) == 0.5
    assert weighted_majority([0, 1], [0, 1], [NAN, 0.1]) == 1.0
    assert weighted_majority([0, 0, 1], [0, 0, 1], [-1.0, NAN, 0.0]) == 0.5
    assert weighted_majority([None, 0], [1, 0], [9.0, 0.1]) == 0.0
    assert weighted_majority([None], [1], [1.0]) == 0.0
    assert math.isnan(weighted_majority([0, 1], [NAN, 1], [0.9, 0.1]))


def test_many_samples_keep_their_exact_mean_and_sampled_subsets_come_near():
    rng = random.Random(1)
    answers = [rng.choice((0, 1, 2, 3)) for _ in range(40)]
    correct = [float(answer == 0) for answer in answers]
    exact = votes(answers, correct, 8)
    nearly = weighted_votes(answers, correct, [1.0] * 40, 8)  # equal weights: the same vote, over drawn subsets
    assert abs(exact - nearly) < 0.1
    assert nearly != exact
    assert len(set(subsets(40, 8))) == 200
    assert subsets(40, 8) == subsets(40, 8)
    assert subsets(4, 2) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_samples_beyond_exact_counting_are_drawn():
    answers = [0] * 800 + [1] * 400
    assert votes(answers, [1.0] * 800 + [0.0] * 400, 300) == pytest.approx(1.0, abs=0.01)


def test_choices_have_a_name_for_each_way_and_size():
    one = Candidates(
        [0, 0, 1], [1.0, 1.0, 0.0], {"prm": [0.1, 0.2, 0.9], "shortest": [-1.0, -2.0, -3.0]}, {"prm": [0.1, 0.2, 0.9]}
    )
    two = Candidates([0], [1.0], {"prm": [0.5], "shortest": [-3.0]}, {"prm": [0.5]})
    found = choices([one, two], ("majority", "prm", "shortest"), (1, 3))
    assert list(found) == ["cons@1", "cons@3", "best@1:prm", "best@3:prm", "weighted@1:prm", "weighted@3:prm",
                           "best@1:shortest", "best@3:shortest"]  # fmt: skip
    assert found["cons@3"] == [1.0, pytest.approx(NAN, nan_ok=True)]
    assert [found[name][0] for name in ("best@3:prm", "weighted@3:prm", "best@3:shortest")] == [0.0, 0.0, 1.0]
    assert found["best@1:prm"] == [pytest.approx(2 / 3), 1.0]
    assert names(("majority", "shortest"), 3) == ["cons@3", "best@3:shortest"]
    assert [parsed(name) for name in ("cons@16", "best@16:prm")] == [("cons", 16), ("best:prm", 16)]


def test_a_name_that_scores_nothing_is_refused():
    refuse_unknown_scores(("majority", "prm", "logprob"), ["accuracy", "prm"])
    with pytest.raises(
        BadInput, match=r"evaluation.select=pmr: expected one of majority, logprob, shortest, .*mean prm"
    ):
        refuse_unknown_scores(("pmr",), ["accuracy", "prm"])
    with pytest.raises(BadInput, match="a reward has this name too"):
        refuse_unknown_scores(("shortest",), ["shortest"])
