"""Worked cases of the numbers that show a reward being gamed."""

from __future__ import annotations

import math
import time

import pytest

from rewards.types import Score, correct, unparseable, wrong
from rewards.watch import correlation, hacking_watch, mentions

SIGNS = ("gold_unparsed", "repeated_text", "duplicates", "verifiers_disagree", "paid_without_gold")


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("it is 42.", "42", True),
        ("x=42", "42", True),
        ("(42)", "42", True),
        ("42, I think", "42", True),
        ("50-42", "42", True),
        ("$42$", "42", True),
        ("no 142, but 42", "42", True),
        ("142", "42", False),
        ("420", "42", False),
        ("42.5", "42", False),
        ("1.42", "42", False),
        (".42", "42", False),
        ("42,000", "42", False),
        ("1,042", "42", False),
        ("-42", "42", False),
        ("−42", "42", False),
        ("42/7", "42", False),
        ("42nd", "42", False),
        ("x_42", "42", False),
        ("-42", "-42", True),
        ("A blue  Whale swims", "blue whale", True),
        ("a bluewhale", "blue", False),
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        ("4" * 100_000, "42", False),
        ("4\u200b2", "42", False),
        ("4\x002", "42", False),
        ("٤٢", "42", False),
        ("", "42", False),
        ("it makes 18", "2 * 9 = 18 #### 18", True),
    ],
)
def test_the_lenient_verifier_wants_a_whole_word_or_number(text, answer, found):
    assert mentions(text, answer) == found


def test_each_sign_counts_its_own_samples():
    completions = ["it is 42", "<answer>42</answer>", "<answer>41</answer> not 42", "no no no no", "no no no no"]
    scores = [unparseable("form"), correct(), wrong("41"), unparseable("form"), correct()]
    lengths = [1, 5, 2, 2, 5]
    assert hacking_watch(completions, ["42"] * 5, scores, lengths) == {
        "watch/gold_unparsed": 1 / 5,
        "watch/repeated_text": pytest.approx((1 / 2 + 1 / 2) / 5),  # "no no no" twice, in the last two
        "watch/duplicates": pytest.approx(1 / 5),
        "watch/verifiers_disagree": 3 / 5,
        "watch/paid_without_gold": 1 / 5,
        "watch/length_score": pytest.approx(expected_correlation(lengths, [0, 1, 0, 0, 1])),
    }


def expected_correlation(lengths: list[int], values: list[int]) -> float:
    """Written another way than in watch.py: covariance over deviations, from raw sums."""
    n = len(lengths)
    products = sum(x * y for x, y in zip(lengths, values, strict=True))
    top = n * products - sum(lengths) * sum(values)
    squares = [n * sum(v * v for v in side) - sum(side) ** 2 for side in (lengths, values)]
    return top / math.sqrt(squares[0] * squares[1])


def test_an_honest_step_shows_nothing():
    completions = [f"<think>we add</think><answer>{n}</answer>" for n in range(4)]
    found = hacking_watch(completions, [str(n) for n in range(4)], [correct()] * 4, [10, 12, 9, 11])
    assert {name: value for name, value in found.items() if name != "watch/length_score"} == dict.fromkeys(
        (f"watch/{name}" for name in SIGNS), 0.0
    )
    assert "watch/length_score" not in found  # all scores are equal


def test_a_reward_that_pays_for_length_shows():
    lengths = [10, 20, 30, 40]
    scores = [Score(n / 100, "correct") for n in lengths]
    assert hacking_watch(["a"] * 4, ["a"] * 4, scores, lengths)["watch/length_score"] == pytest.approx(1)


def test_correlation_is_pearson_s_or_nothing():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert correlation([1, 2], [5, 5]) is None
    assert correlation([1], [1]) is None
    assert correlation([1, 2, 9], [1, 2, math.nan]) == pytest.approx(1)


def test_no_samples_show_nothing_and_uneven_lists_are_an_error():
    assert hacking_watch([], [], [], []) == {}
    with pytest.raises(ValueError, match="2 completions, 1 answers"):
        hacking_watch(["a", "b"], ["a"], [correct()], [1])


@pytest.mark.parametrize("flood", ["42", "4", "42 ", " ", "-42", "4.", "好"])
def test_a_megabyte_is_watched_in_linear_time(flood):
    mass = flood * (1_000_000 // len(flood.encode()))
    start = time.process_time()
    hacking_watch([mass], ["442"], [wrong("no")], [1])
    assert time.process_time() - start < 3
