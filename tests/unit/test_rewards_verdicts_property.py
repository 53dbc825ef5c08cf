"""A property of the accuracy reward: an answer that is equal in another notation scores 1, one that differs scores 0.

tests/bench/verdicts.py asks the same of as many pairs as one likes.
"""

from __future__ import annotations

from itertools import islice

import pytest

from rewards.accuracy import accuracy, same_answer
from rewards.expressions import Unreadable
from rewards.types import CORRECT
from tests.unit.made_expressions import pairs

PAIRS = 5000  # for each of the two seeds; half of them are equal


@pytest.mark.parametrize("seed", [18, 2026])
def test_an_equal_answer_is_paid_and_one_that_differs_at_a_random_point_is_not(seed):
    paid = 0
    for gold, answer, equal in islice(pairs(seed), PAIRS):
        score = accuracy(f"<answer>{answer}</answer>", answer=gold)
        assert (score.verdict == CORRECT) == equal, (gold, answer, score)
        paid += equal
    assert paid == PAIRS // 2


def test_a_vote_joins_what_is_equal_and_only_that():
    for gold, answer, equal in islice(pairs(7), 400):
        try:
            joined = same_answer(answer, gold)
        except Unreadable:
            joined = False
        assert joined == equal, (gold, answer)
