"""What training changed, from two evaluations: worked by hand."""

from __future__ import annotations

import math

import pytest

from rl.evaluation.gains import gains
from rl.evaluation.result import EvalResult


def result(correct_P: list[float], samples: int, greedy: float | None = None) -> EvalResult:
    return EvalResult(
        pass_at_1=0.0, stderr=0.0, greedy=greedy, truncated=0.0, length_mean=1.0, correct_P=correct_P, samples=samples
    )


def test_each_measure_is_compared_problem_by_problem():
    before, after = result([0.0, 0.5, 0.25, 1.0], 4, 0.5), result([0.5, 0.75, 0.25, 0.0], 4, 0.75)
    first, greedy, best = gains(before, after)
    assert (first.label, greedy.label, best.label) == ("pass@1, sampled", "greedy", "pass@4")
    # Differences 0.5, 0.25, 0, -1: mean -0.0625, s / sqrt(4).
    assert first.difference == pytest.approx(-0.0625)
    assert first.stderr == pytest.approx(math.sqrt(sum((d + 0.0625) ** 2 for d in (0.5, 0.25, 0, -1)) / 3 / 4))
    # At least one of four: 0 1 1 1, then 1 1 1 0.
    assert (best.before, best.after, best.difference) == (0.75, 0.75, 0.0)
    assert best.stderr == pytest.approx(math.sqrt((1 + 1) / 3 / 4))
    # A half and three quarters of four problems, as if they were independent.
    assert (greedy.before_stderr, greedy.difference) == (0.25, 0.25)
    assert greedy.stderr == pytest.approx(math.hypot(0.25, math.sqrt(0.75 * 0.25 / 4)))


def test_pass_at_k_takes_the_samples_that_both_have():
    first, best = gains(result([0.5, 0.0], 8), result([0.5, 1.0], 2))
    assert (first.label, best.label) == ("pass@1, sampled", "pass@2")
    assert best.before == pytest.approx((1 - math.comb(4, 2) / math.comb(8, 2)) / 2)
    assert best.after == 1.0


def test_what_was_not_measured_is_left_out():
    (only,) = gains(result([1.0, 0.0], 1), result([1.0, 1.0], 1, greedy=1.0))
    assert only.label == "pass@1, sampled"


def test_a_problem_without_verdicts_is_left_out_of_both():
    first, best = gains(result([math.nan, 0.5, 0.0], 2), result([1.0, 1.0, 0.0], 2))
    assert (first.before, first.difference) == (0.25, 0.25)
    assert (best.before, best.difference) == (0.5, 0.0)
