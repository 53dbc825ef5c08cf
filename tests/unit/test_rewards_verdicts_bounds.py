"""Answers that would take a symbolic library for ever, or make it raise: each has a verdict within a second."""

from __future__ import annotations

import random
import time

import pytest

from rewards.accuracy import accuracy, check_reference
from rewards.types import UNPARSEABLE, WRONG
from tests.unit.hostile_answers import GOLDS, HOSTILE


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_hostile_answer_is_wrong_within_a_second_against_every_reference(answer):
    for gold in GOLDS:
        for prompt in ("", f"Simplify ${answer[:200]}$."):
            began = time.process_time()
            score = accuracy(f"<answer>{answer}</answer>", prompt=prompt, answer=gold)
            assert time.process_time() - began < 1
            assert (score.value, score.verdict) in ((0, WRONG), (0, UNPARSEABLE)), (gold, score)


@pytest.mark.parametrize("gold", HOSTILE)
def test_a_hostile_reference_is_accepted_or_refused_within_a_second(gold):
    began = time.process_time()
    reason = check_reference(gold)
    assert time.process_time() - began < 1
    for answer in (gold, f"{gold}+1", f"1+{gold}", f"({gold})+1-1", f"2({gold})/2"):
        began = time.process_time()
        score = accuracy(f"<answer>{answer}</answer>", answer=gold)
        assert time.process_time() - began < 1
        assert score.value == 1 or answer != gold or reason is not None, score


def test_what_is_too_much_work_is_refused_and_not_paid():
    equal = ",".join(f"1+e^{{-99{i:02d}}}" for i in reversed(range(18)))
    score = accuracy(f"<answer>{','.join(f'e^{{-99{i:02d}}}+1' for i in range(18))}</answer>", answer=equal)
    assert (score.value, score.verdict) == (0, UNPARSEABLE)
    assert "takes too long to evaluate" in score.reason


SIGNS = [
    *"0123456789xyznkeiabABKRC+-*/^_=<>()[]{}|!.,;: ", r"\frac", r"\sqrt", r"\sin", r"\ln", r"\log", r"\exp", r"\text{", r"\pi", r"\infty", r"\cup", r"\le", r"\ne", r"\{", r"\}", r"\binom", r"\sum_{k=1}^{", r"\pm", r"\lfloor", r"\rfloor",
    r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", r"\mathbb{R}", r"\in", r"^\circ", r"\overline{", r"\%", "$", r"\boxed{", "cm", "feet", "million", " or ", " and ", r"\setminus", r"\begin{cases}", r"\end{cases}", "100", "1e3", "e^{e^", r"\tan", r"\arcsin", "，", "–", "²", "½", "am",
]  # fmt: skip


def test_no_text_makes_it_raise():
    draw = random.Random(18)
    for _ in range(3000):
        answer = "".join(draw.choice(SIGNS) for _ in range(draw.randint(1, 25)))
        gold = draw.choice(GOLDS)
        assert accuracy(f"<answer>{answer}</answer>", prompt=f"What is ${answer}$?", answer=gold).value in (0, 1)
        assert check_reference(f"a{answer}") is None or answer
