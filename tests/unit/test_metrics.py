"""The numbers of an evaluation against values worked by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from rl.evaluation.metrics import (
    default_ks,
    group_equivalent,
    majority,
    mean_and_stderr,
    paired_difference,
    pass_at_k,
    percentiles,
)

NAN = math.nan


def test_mean_and_standard_error_by_hand():
    # Deviations of +-0.5: s^2 = 4 x 0.25 / 3 = 1/3; s / sqrt(4) = 0.288675
    assert mean_and_stderr([0, 1, 1, 0]) == pytest.approx((0.5, 0.2886751))
    # mean 0.5; deviations -.5, 0, .5: s^2 = 0.25; / 3 -> sqrt(1/12)
    assert mean_and_stderr([0.0, 0.5, 1.0]) == pytest.approx((0.5, 0.2886751))


def test_a_problem_that_was_not_measured_is_left_out_of_mean_and_error():
    assert mean_and_stderr([0, NAN, 1, 1, NAN, 0]) == mean_and_stderr([0, 1, 1, 0])
    mean, error = mean_and_stderr([NAN, 0.25])
    assert mean == 0.25
    assert math.isnan(error)
    assert all(math.isnan(x) for x in mean_and_stderr([NAN]))


def test_the_error_of_a_paired_difference_is_that_of_the_differences():
    before, after = [0.0, 1.0, 0.5, 0.0], [1.0, 1.0, 1.0, 0.0]
    # Differences 1, 0, .5, 0: mean .375; squares .390625 + .140625 + .015625 + .140625 = .6875; / 3 / 4 = .0572917
    assert paired_difference(before, after) == pytest.approx((0.375, math.sqrt(0.6875 / 12)))
    # A gain that is the same on each problem has no error, however different the problems are.
    assert paired_difference([0.1, 0.5, 0.8], [0.2, 0.6, 0.9]) == pytest.approx((0.1, 0.0))
    assert paired_difference([NAN, *before], [1.0, *after]) == paired_difference(before, after)


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5  # of the 6 pairs, 3 hold the correct one
    assert pass_at_k(4, 1, 4) == 1.0
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)  # of the 10 triples, 1 holds none of the two
    assert pass_at_k(5, 0, 3) == 0.0
    assert pass_at_k(5, 3, 3) == 1.0  # only 2 are wrong: every triple holds a correct one


@pytest.mark.parametrize(("n", "correct"), [(6, 1), (6, 4), (7, 2)])
def test_pass_at_k_is_the_mean_over_all_subsets_of_k_samples(n, correct):
    samples = [i < correct for i in range(n)]
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(samples, k))
        assert pass_at_k(n, correct, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses_more_samples_than_there_are(n, correct, k):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, correct, k)


def test_pass_at_k_is_asked_for_powers_of_two_and_all_samples():
    assert [default_ks(n) for n in (1, 4, 6, 16)] == [(1,), (1, 2, 4), (1, 2, 4, 6), (1, 2, 4, 8, 16)]


def test_answers_are_grouped_by_equivalence_not_by_text():
    def same(a, b):
        return Fraction(a) == Fraction(b)

    assert group_equivalent(["1/2", "7", None, "0.5", "7", "0.50"], same) == [0, 1, None, 0, 1, 0]
    assert group_equivalent(["1/2", "0.5"], lambda a, b: a == b) == [0, 1]


def test_each_different_text_is_compared_once_with_each_class():
    asked = []

    def same(a, b):
        asked.append((a, b))
        return False

    group_equivalent(["x", "x", "y", "x", "y"], same)
    assert asked == [("x", "y")]


@pytest.mark.parametrize(
    ("classes", "correct", "score"),
    [
        ([0, 0, 1], [1, 1, 0], 1.0),
        ([0, 1, 1], [1, 0, 0], 0.0),
        ([0, 1], [1, 0], 0.5),  # a tie of a right answer and a wrong one
        ([0, 1, 2, 0, 1, 2], [1, 0, 0, 1, 0, 0], 1 / 3),
        ([None, None, None, 0], [0, 0, 0, 1], 1.0),  # no answer never wins
        ([None, None], [0, 0], 0.0),
        ([], [], 0.0),
        ([0, 0, 0, 1], [1, 0, NAN, 1], 0.5),  # one answer, verdicts that differ
        ([0, 0, 1], [NAN, NAN, 1], NAN),  # no reward has a verdict on the winner
    ],
)
def test_the_majority_by_hand(classes, correct, score):
    assert majority(classes, correct) == pytest.approx(score, nan_ok=True)


def test_percentiles_by_hand():
    assert percentiles([1, 2, 3, 4], (50, 90)) == pytest.approx([2.5, 3.7])
    assert math.isnan(percentiles([], (50,))[0])
