"""Worked cases of length and repetition rewards."""

from __future__ import annotations

import math
import time

import pytest

from rewards.shaping import (
    cosine,
    cosine_length,
    length_budget,
    length_of,
    repeated_share,
    repetition,
    soft_overlong,
    units,
)
from rewards.types import CORRECT, UNPARSEABLE, WRONG

RIGHT = "<think>a</think><answer>42</answer>"
WRONG_ANSWER = "<think>a</think><answer>41</answer>"
CURVE = {"correct_short": 2.0, "correct_long": 1.0, "wrong_short": -10.0, "wrong_long": 0.0, "exceeded": -7.0}


@pytest.mark.parametrize(
    ("length", "value"),
    [(0, 0), (80, 0), (81, -0.05), (85, -0.25), (90, -0.5), (99, -0.95), (100, -1), (101, -1), (10**9, -1)],
)
def test_the_soft_overlong_penalty_grows_over_the_cache(length, value):
    score = soft_overlong("text", max_tokens=100, cache_tokens=20, completion_tokens=length)
    assert score.value == pytest.approx(value)
    assert score.verdict == (WRONG if value else CORRECT)


def test_the_soft_overlong_penalty_is_dapo_s_in_dapo_s_own_setting():
    at = {
        n: soft_overlong("", max_tokens=20_480, cache_tokens=4_096, completion_tokens=n).value for n in (16_384, 18_432)
    }
    assert at == {16_384: 0, 18_432: -0.5}


@pytest.mark.parametrize(("max_tokens", "cache_tokens"), [(100, 0), (100, 101), (0, 0), (100, -1)])
def test_a_cache_that_does_not_fit_is_an_error(max_tokens, cache_tokens):
    with pytest.raises(ValueError, match="cache_tokens is"):
        soft_overlong("", max_tokens=max_tokens, cache_tokens=cache_tokens, completion_tokens=1)


def test_a_penalty_without_its_limit_is_an_error():
    with pytest.raises(TypeError, match="max_tokens"):
        soft_overlong("text", completion_tokens=5)


def test_the_penalty_may_grow_over_the_whole_length():
    assert soft_overlong("text", max_tokens=100, cache_tokens=100, completion_tokens=25).value == pytest.approx(-0.25)


def test_a_right_answer_so_long_that_it_earns_nothing_counts_as_wrong():
    budget = {"answer": "42", "budget": 100, "slope": 0.01, "at_budget": 0.5}
    assert length_budget(RIGHT, completion_tokens=150, **budget)[:2] == (0.0, WRONG)
    assert length_budget(RIGHT, completion_tokens=149, **budget)[1] == CORRECT


def test_lengths_are_tokens_where_known_and_else_words():
    assert length_of("a b\nc", 7) == 7
    assert length_of("a b\nc", 0) == 0
    assert length_of("a b\nc", None) == 3
    assert soft_overlong("w " * 90, max_tokens=100, cache_tokens=20).value == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="completion_tokens is -1"):
        length_of("a", -1)


@pytest.mark.parametrize(
    ("text", "ngram", "share"),
    [
        ("", 3, 0),
        ("a b", 3, 0),
        ("a b c", 3, 0),
        ("a b c a b c", 3, 1 / 4),
        ("A b C a B c", 3, 1 / 4),
        ("a a a a a", 3, 2 / 3),
        ("a b a b", 1, 1 / 2),
        ("ha " * 1000, 3, 997 / 998),
        ("\u200f" * 1000, 3, 0),
        ("好的好的好的", 2, 3 / 5),
        ("\x00 \x00 \x00 \x00", 3, 1 / 2),
        ("9" * 100_000, 3, 0),
    ],
)
def test_the_share_of_repeated_ngrams_is_that_of_those_seen_before(text, ngram, share):
    assert repeated_share(text, ngram) == pytest.approx(share)
    assert repetition(text, ngram=ngram, max_penalty=2).value == pytest.approx(-2 * share)


def test_a_text_that_repeats_nothing_is_not_penalised():
    assert repetition("every word is another here") == (0, CORRECT, "")
    assert repetition("go go go go").verdict == WRONG


def test_units_are_words_and_the_characters_of_scripts_without_spaces():
    assert units("Go 你好, ไป X1") == ["go", "你", "好", ",", "ไ", "ป", "x1"]


def test_settings_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="ngram is 0"):
        repetition("a b c", ngram=0)
    with pytest.raises(ValueError, match="max_penalty is -1"):
        repetition("a b c", max_penalty=-1)


@pytest.mark.parametrize(
    ("completion", "length", "value", "verdict"),
    [
        (RIGHT, 0, 2.0, CORRECT),
        (RIGHT, 25, 1.5 + math.sqrt(0.5) / 2, CORRECT),
        (RIGHT, 50, 1.5, CORRECT),
        (RIGHT, 75, 1.5 - math.sqrt(0.5) / 2, CORRECT),
        (WRONG_ANSWER, 0, -10.0, WRONG),
        (WRONG_ANSWER, 50, -5.0, WRONG),
        (WRONG_ANSWER, 75, -5 + 5 * math.sqrt(0.5), WRONG),
        ("no answer", 50, -5.0, UNPARSEABLE),
        (RIGHT, 100, -7.0, WRONG),
        (WRONG_ANSWER, 1000, -7.0, WRONG),
    ],
)
def test_the_cosine_reward_bends_accuracy_by_length(completion, length, value, verdict):
    score = cosine_length(completion, answer="42", max_tokens=100, completion_tokens=length, **CURVE)
    assert score.value == pytest.approx(value)
    assert score.verdict == verdict


def test_the_cosine_runs_from_short_to_long():
    assert [cosine(n, 100, 2, 1) for n in (0, 50, 100)] == pytest.approx([2, 1.5, 1])
    assert cosine(75, 100, 2, 1) == pytest.approx(1.146, abs=5e-4)
    assert cosine(75, 100, -10, 0) == pytest.approx(-1.464, abs=5e-4)


@pytest.mark.parametrize(
    ("length", "value"), [(0, 1), (50, 1), (75, 0.75), (100, 0.5), (125, 0.25), (150, 0), (10_000, 0)]
)
def test_the_length_budget_scales_a_right_answer(length, value):
    settings = {"answer": "42", "budget": 100, "slope": 0.01, "at_budget": 0.5, "completion_tokens": length}
    assert length_budget(RIGHT, **settings).value == pytest.approx(value)
    assert length_budget(WRONG_ANSWER, **settings).value == 0
    assert length_budget("no answer", **settings).verdict == UNPARSEABLE


@pytest.mark.parametrize(("budget", "slope"), [(0, 0.1), (-1, 0.1), (100, 0), (100, float("nan"))])
def test_a_budget_that_costs_nothing_is_an_error(budget, slope):
    with pytest.raises(ValueError, match="it is above 0"):
        length_budget(RIGHT, answer="42", budget=budget, slope=slope, at_budget=0.5, completion_tokens=1)


def test_the_prompt_s_open_tag_and_other_columns_reach_accuracy():
    settings = {"answer": "42", "max_tokens": 100, "completion_tokens": 0, **CURVE, "language": "en"}
    inside = "a</think><answer>42</answer>"
    assert cosine_length(inside, prompt="<think>", **settings).value == 2
    assert cosine_length("<answer>42</answer>", prompt="<think>", **settings).value == -10


@pytest.mark.parametrize("flood", ["a ", "a", "好", " ", "\u200b ", "\x00"])
def test_a_megabyte_is_scored_in_linear_time(flood):
    mass = flood * (1_000_000 // len(flood.encode()))
    start = time.process_time()
    assert -1 <= repetition(mass).value <= 0
    assert time.process_time() - start < 2
