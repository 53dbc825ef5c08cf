"""rl/algorithms/advantage.py against values computed by hand."""

import doctest
import math
import random

import pytest

import rl.algorithms.advantage
from rl.algorithms.advantage import advantages, batch_std, group_mean, group_std, is_uniform, leave_one_out

KINDS = ("group_std", "group_mean", "batch_std", "leave_one_out", "per_reward")


def run(kind, rewards_PG, valid_PG=None, eps=0.0, parts_PG=None, weights=None):
    """advantages(), all valid, the reward as its only part."""
    valid_PG = valid_PG or [[True] * len(rewards_G) for rewards_G in rewards_PG]
    parts_PG = parts_PG or [[{"accuracy": r} for r in rewards_G] for rewards_G in rewards_PG]
    return advantages(kind, rewards_PG, valid_PG, std_eps=eps, parts_PG=parts_PG, weights=weights or {"accuracy": 1.0})


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(rl.algorithms.advantage)
    assert result.attempted >= 4
    assert result.failed == 0


def test_group_std_divides_by_the_sample_standard_deviation():
    half_over_std = 0.5 / math.sqrt(1 / 3)  # squares sum to 1, over n - 1 = 3; the population std would give 1.0
    assert run("group_std", [[0, 0, 1, 1]]) == [pytest.approx([-half_over_std] * 2 + [half_over_std] * 2)]
    assert group_std([0, 0, 1, 1], 0.0)[3] == pytest.approx(0.8660254)


def test_std_eps_is_added_to_the_standard_deviation():
    assert run("group_std", [[0, 1]], eps=0.5) == [pytest.approx([-0.41421356, 0.41421356])]


def test_group_mean_does_not_divide():
    assert group_mean([0, 0, 1, 1]) == [-0.5, -0.5, 0.5, 0.5]
    assert run("group_mean", [[0, 0, 1, 1], [0, 4]], eps=9.0) == [[-0.5, -0.5, 0.5, 0.5], [-2, 2]]


def test_leave_one_out_compares_with_the_mean_of_the_others():
    assert run("leave_one_out", [[1, 2, 6]]) == [pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5])]
    assert leave_one_out([0, 0, 1, 1]) == pytest.approx([-2 / 3, -2 / 3, 2 / 3, 2 / 3])


def test_batch_std_centres_in_the_group_and_scales_by_the_rewards_of_the_batch():
    # Rewards 0, 1, 1, 1: mean .75, squares .5625 + 3 * .0625 = .75, over 3 = .25, std .5.
    assert run("batch_std", [[0, 1], [1, 1]]) == [pytest.approx([-1, 1]), [0, 0]]


def test_batch_std_gives_a_group_of_one_the_mean_of_the_batch_as_its_baseline():
    # Rewards 0, 1, 2: mean 1, std 1.
    assert run("batch_std", [[0], [1], [2]]) == [pytest.approx([-1]), [0], pytest.approx([1])]
    assert batch_std([[0.1 + 0.2], [0.3]], [1, 1], 0.0) == [[0.0], [0.0]]


def test_batch_std_gives_nothing_to_a_sample_whose_peers_are_invalid():
    got = run("batch_std", [[0, 1], [1, 9]], [[True, True], [True, False]])
    # Valid rewards 0, 1, 1: mean 2/3, squares 6/9, over 2 = 1/3.
    assert got == [pytest.approx([-0.5 / math.sqrt(1 / 3), 0.5 / math.sqrt(1 / 3)]), [0.0, 0.0]]


def test_per_reward_normalises_each_reward_before_adding_them():
    parts = [[{"a": a, "f": f} for a, f in zip((0, 0, 1, 1), (0, 1, 0, 1), strict=True)]]
    got = run("per_reward", [[0, 1, 1, 2]], parts_PG=parts, weights={"a": 1.0, "f": 1.0})
    # +-.8660 each; sums -1.7321, 0, 0, 1.7321; squares 6 over 3; std sqrt 2.
    assert got == [pytest.approx([-math.sqrt(1.5), 0, 0, math.sqrt(1.5)])]


def test_per_reward_is_blind_to_the_scale_of_a_reward_but_not_to_its_weight():
    def parts(scale):
        return [[{"a": 0.0, "f": scale}, {"a": 1.0, "f": 0.0}]]

    def of(scale, weight):
        return run("per_reward", [[0, 0]], parts_PG=parts(scale), weights={"a": 1.0, "f": weight}, eps=0.0)[0]

    assert of(1.0, 0.5) == pytest.approx(of(100.0, 0.5))
    assert of(1.0, 0.5)[0] < 0 < of(1.0, 2.0)[0]
    assert of(1.0, 1.0) == [0.0, 0.0]


def test_per_reward_divides_by_the_std_of_the_whole_batch():
    # Group 1: +-1/sqrt 2 ; group 2 uniform: 0, 0. Squares 1 over 3.
    got = run("per_reward", [[0, 1], [1, 1]])
    assert got == [pytest.approx([-math.sqrt(1.5), math.sqrt(1.5)]), [0.0, 0.0]]


def test_per_reward_lets_a_reward_be_absent_from_a_sample():
    parts = [[{"a": 0.0}, {"a": 1.0}, {"h": 5.0}], [{"h": 1.0}, {"h": 3.0}, {"h": 3.0}]]
    got = run("per_reward", [[0, 1, 5], [1, 3, 3]], parts_PG=parts, weights={"a": 1.0, "h": 1.0})
    assert got[0][2] == 0.0
    assert got[0][0] == -got[0][1] < 0
    assert got[1][0] < 0 < got[1][1] == got[1][2]


def test_per_reward_refuses_a_score_without_a_weight_and_missing_parts():
    with pytest.raises(ValueError, match="'f' has a score but no weight"):
        run("per_reward", [[0]], parts_PG=[[{"a": 0.0, "f": 1.0}]], weights={"a": 1.0})
    with pytest.raises(ValueError, match="needs parts_PG and weights"):
        advantages("per_reward", [[0.0]], [[True]], std_eps=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_equal_rewards_is_exactly_zero_even_with_float_noise_and_no_eps(kind):
    got = run(kind, [[0.1 + 0.2, 0.3, 0.3], [0.0, 1.0, 1.0]])
    assert got[0] == [0.0, 0.0, 0.0]
    assert got[1][0] < 0 < got[1][1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_equal_rewards_is_exactly_zero(kind):
    assert run(kind, [[0.1 + 0.2, 0.3], [0.3, 0.3]]) == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "batch_std"])
def test_a_group_of_one_is_zero(kind):
    assert run(kind, [[7.0], [0.0, 1.0]])[0] == [0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_samples_get_zero_and_change_nobody_else(kind):
    valid = [[True, False, True, True], [True, True]]
    nan = float("nan")
    with_invalid = run(kind, [[0, nan, 1, 3], [0, 1]], valid, eps=1e-4)
    without = run(kind, [[0, 1, 3], [0, 1]], eps=1e-4)
    assert with_invalid[0][1] == 0.0
    assert [with_invalid[0][g] for g in (0, 2, 3)] == pytest.approx(without[0])
    assert with_invalid[1] == pytest.approx(without[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_without_a_valid_sample_is_all_zero(kind):
    assert run(kind, [[3.0, 4.0], [0.0, 1.0]], [[False, False], [True, True]])[0] == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_groups_changes_no_bit(kind):
    groups = [[0.1, 0.7, 0.2], [1.0, 0.3], [0.9, 0.9, 0.4, 0.6]]
    assert run(kind, groups[::-1], eps=1e-4) == run(kind, groups, eps=1e-4)[::-1]


def test_the_mean_and_the_std_of_the_batch_do_not_depend_on_its_order_in_the_last_bit():
    rng = random.Random(1)
    for _ in range(20):
        one_by_one = [[rng.random()] for _ in range(50)]
        assert run("batch_std", one_by_one[::-1]) == run("batch_std", one_by_one)[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_of_a_group_sum_to_zero(kind):
    for values_G in run(kind, [[0.1, 0.7, 0.2], [1.0, 0.3], [0.9, 0.9, 0.4, 0.6]], eps=1e-4):
        assert sum(values_G) == pytest.approx(0.0, abs=1e-12)


def test_a_reward_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="group 1, sample 0 is nan"):
        run("group_std", [[0.0, 1.0], [float("nan"), 1.0]])


def test_shapes_that_differ_and_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        advantages("group_std", [[0.0, 1.0]], [[True]], std_eps=0.0)
    with pytest.raises(ValueError, match="unknown advantage kind 'median'"):
        run("median", [[0.0, 1.0]])


def test_uniform_means_that_the_valid_rewards_are_one():
    assert is_uniform([0.1 + 0.2, 0.3], [True, True])
    assert is_uniform([1.0, 2.0], [True, False])
    assert is_uniform([1.0, 2.0], [False, False])
    assert not is_uniform([1.0, 2.0], [True, True])
    assert not is_uniform([1.0, 1.000001], [True, True])


def test_uniform_by_parts_sees_equal_sums_of_different_parts():
    parts = [{"a": 1.0, "f": 0.0}, {"a": 0.0, "f": 1.0}]
    assert is_uniform([1.0, 1.0], [True, True])
    assert not is_uniform([1.0, 1.0], [True, True], parts)
    assert is_uniform([1.0, 1.0], [True, False], parts)
