"""Verdicts that a mathematician would sign: wrong answers of each kind, which must not earn the reward.

Pairs are (reference, answer). What is right and was hard to read is in test_rewards_verdicts_right.py.
"""

from __future__ import annotations

import time

import pytest

from rewards.accuracy import accuracy, check_reference, same_answer
from rewards.expressions import Unreadable
from rewards.types import CORRECT, UNPARSEABLE, WRONG


def verdict_on(gold: str, answer: str, prompt: str = ""):
    return accuracy(f"<think>so</think><answer>{answer}</answer>", prompt=prompt, answer=gold)


CLOSE = [
    ("2^{100}-1", "2^{100}"), ("2^{100}", "2^{100}+1"), ("e^{-60}", "0"), ("0", "e^{-60}"), ("100!", "100!+1"), (r"\sqrt{2}", "1.41421356237309"),
    (r"\sqrt{2}", "1.4142135623730950488016887242096980785696718753769"), (r"\pi", "3.14159265358979323846264338327950288"), ("e", "2.718281828459045235360287"),
    (r"\frac{1}{3}", "0.33333333333333333333333333333333"), ("10^{30}", r"\sqrt{10^{60}+1}"), ("1", r"\tanh 50"), ("1+e^{-100}", "1"), (r"\frac{1}{10^{50}}", "0"),
    ("2^{1000}", "2^{1000}+1"), (r"e^{\pi\sqrt{163}}", "640320^3+744"), (r"\ln(10^{40}+1)", r"40\ln 10"), (r"\cos(10^{-20})", "1"), (r"\sqrt{2}", r"\sqrt{2}+10^{-40}"),
    (r"\frac{\pi}{4}", r"\frac{355}{452}"), ("3^{200}", "3^{200}-2"), (r"\binom{100}{50}", r"\binom{100}{50}+1"), (r"\sin 1", "0.8414709848078965066525"),
    (r"\{2^{100}, 1\}", r"\{2^{100}+1, 1\}"), ("(2^{100}, 1)", "(2^{100}-1, 1)"), ("x^2+y^2=2^{100}", "x^2+y^2=2^{100}+1"), ("n+2^{100}", "n+2^{100}+1"), ("n", "n+10^{-30}"),
    ("y=2x+10^{25}", "y=2x+10^{25}+1"), ("[0, 2^{100}]", "[0, 2^{100}+1]"), (r"x > e^{-60}", "x > 0"), (r"\begin{pmatrix} 3^{70} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 3^{70}+1 \\ 1 \end{pmatrix}"),
    ("x", "x+e^{-80}"), ("x^{40}", "x^{40}+2^{-100}"), (r"\frac{2^{90}}{3}\pi", r"\frac{2^{90}+1}{3}\pi"), ("|x-100|", "100-x"), ("e^{-200}x", "0x"), ("10^{24}+i", "10^{24}+1+i"),
    ("1+i", "1+i+10^{-28}"), (r"\frac{10^{30}}{7}", r"\frac{10^{30}+1}{7}"), (r"e^{-9000}", "0"), (r"1+e^{-5000}", "1"), (r"12345678901234567891\sqrt{2}", r"12345678901234567890\sqrt{2}"),
]  # fmt: skip
IDENTITIES = [
    ("2x+y+1=0", "x-x=0"), ("x+y>3", "x-x>y-y"), ("2x+y+1=0", "0=0"), ("2x+y+1=0", "x=x"), ("2x+y+1=0", "0(2x+y+1)=0"), ("x^2+y^2=1", "x^2+y^2=x^2+y^2"), ("x+y<3", "x<x"),
    (r"x+y \ge 3", r"x+y \ge x+y"), (r"x+y \le 3", r"0 \le 0"), ("2x+y+1=0", "2x+y+1=2x+y+1"), ("y=2x", "y=y"), ("y=2x", r"y-2x=y-2x"), ("x^2+y^2=1", r"\sin^2x+\cos^2x=1"),
    ("2x+y+1=0", r"\frac{2x+y+1}{2x+y+1}=1"), ("2x+y+1=0", "1=1"), ("2x+y+1=0", "1=2"), ("2x+y+1=0", "x(2x+y+1)=0"), ("x=5", "5=5"), ("x=5", "x-x=5-5"), ("x=5", "0x=0"), (r"x+y \ne 3", r"x \ne x"),
    ("x=2y", "e^x=e^x"), ("2x+y+1=0", "2x+y=1"), ("x+y>3", "x+y<3"), ("x+y>3", r"x+y\ge 3"), ("x+y>3", "-x-y>-3"), ("y=2x", "y^2=2xy"), ("3x-4y=5", "3x-4y=6"), ("xy=1", "xy=0"),
    ("a+b=c", "a+b=a+b"), ("x-y=0", "x+y=0"), (r"\frac{x^2}{4}+y^2=1", r"\frac{x^2}{4}-y^2=1"), ("x=5", "2x=10"), ("x=5", "x^2=25"), ("y=2x+1", "y=2x+2"), ("x=5", r"x \ne 5"),
]  # fmt: skip
ASSIGNMENTS = [
    ("a=3,b=5", "5,3"), ("a=3,b=5", "a=5,b=3"), ("a=3,b=5", "(5,3)"), ("a=3,b=5", "b=3,a=5"), ("a=3,b=5", "c=3,d=5"), ("a=3,b=5", "3"), ("a=3,b=5", "a=3"), ("a=3, b=5", "a=3, b=5, c=1"),
    ("x=1,y=2", "(2,1)"), ("x=1,y=2", "2,1"), ("x=1,y=2", r"\{2, 1\}"), ("x=1,y=2,z=3", "(1,3,2)"), ("x=1,y=2", "[1,2]"), ("(1,2)", "x=2,y=1"), ("(x,y)=(1,2)", "x=2,y=1"), ("(x,y)=(1,2)", "(y,x)=(1,2)"),
    (r"a=3 \text{ and } b=5", "5,3"), (r"x=1 \text{ and } y=2", r"x=2 \text{ and } y=1"), ("0;3", "3;0"), ("0; 3", "3, 0"), ("1;2;3", "1;3;2"), ("-1；4", "4；-1"), (r"\frac12; 2", r"2; \frac12"),
    ("x_1=3,x_2=5", "x_1=5,x_2=3"), (r"\begin{cases} x=1 \\ y=2 \end{cases}", "(2,1)"), (r"\alpha=1,\beta=2", r"\alpha=2,\beta=1"), ("b=5, a=3", "5, 3"), ("3, 5", "a=5, b=3"), ("A=1, B=2", "A=2, B=1"),
    ("x=y", "x=-y"), ("m=2,b=3", "3,2"), ("f(1)=2, f(2)=5", "5, 2"),
]  # fmt: skip
NOT_UNITS = [
    (r"3\mathrm{i}", "3"), (r"1-5\mathrm{i}", "-4"), (r"2\mathrm{e}", "2"), (r"2.5\text{ million}", "2.5"), (r"5 \text{ feet } 6 \text{ inches}", r"6 \text{ feet } 5 \text{ inches}"), ("1:58 am", "1:58 ma"),
    (r"3\text{i}", "3"), (r"2+\mathrm{i}", "2"), (r"2\mathrm{i}", "-2"), (r"\mathrm{e}^2", "2"), (r"4\mathrm{x}", "4"), (r"4\mathrm{n}", "4"), (r"4\mathrm{k}", "4"), (r"5\text{ M}", "5"), (r"5\text{ N}", r"5\text{ n}"), (r"3\text{ thousand}", "3"), (r"7\text{ dozen}", "7"), ("2 million", "2"), ("2 billion", "2 million"),
    (r"1.5\text{ billion dollars}", "1.5"), (r"3\text{ hundredths}", "3"), (r"3\text{ tenths}", "3"), ("1:58 am", "1:58 pm"), ("1:58 am", "1:58"), (r"1:58\text{ p.m.}", r"1:58\text{ a.m.}"), ("5 pm", "5"), ("5 pm", "5 am"),
    (r"10\text{:}30\text{ pm}", "10:30"), (r"5 \text{ feet } 6 \text{ inches}", "5"), (r"5 \text{ feet } 6 \text{ inches}", "5, 6"), (r"5 \text{ hours and } 30 \text{ minutes}", "30, 5"), ("2 hours 30 minutes", "2 minutes 30 hours"),
    (r"2 \text{ hours } 30 \text{ minutes}", "2 hours"), (r"30^\circ \text{ north}", "30"), (r"5\text{ north}", "5"), (r"2\text{ percent}", "2"), (r"5\text{ less}", "5"),
    (r"3\text{ squared}", "3"), (r"20\text{ BC}", "20"), (r"5\mathrm{y}", "5"), (r"3\operatorname{e}", "3"), (r"x\mathrm{i}", "x"), (r"\frac{3\mathrm{i}}{2}", r"\frac32"), (r"7\text{ below zero}", "7"), (r"5\text{ times}", "5"),
    (r"3\mathrm{i}", "3i^2"), ("5 km", "5 cm"), (r"5\text{ kg}", r"5\text{ lb}"),
]  # fmt: skip
POWERS_OF_TEN = [
    ("4.5e33", "148.5e"), ("4.5e33", "4.5e"), ("4.5e33", "4.5e34"), ("4.5e33", "4.5"), ("4.5e33", "4.5e+32"), ("1e3", "100"), ("1e3", "3e"), ("1e-3", "1000"), ("1.6e-19", "1.6e19"), ("1.6e-19", "1.6e-18"), ("1.6e-19", "0"),
    ("6.02e23", r"6.02 \times 10^{22}"), ("2e5", "10e"), ("2e5", "2e^5"), ("2e^5", "2e5"), ("2e", "2"), (r"4.5\times 10^{33}", "148.5e"), ("3E8", "24E"), ("1e3", "1e2"), ("9.11e-31", "9.11e-31e"), ("42", "4.2e1"), ("1000", "10^3"), ("1e3", "10^{4}"),
    ("2e^{-3}", "0.002"), ("1e10", "1e11"), ("(1e3, 2)", "(3e, 2)"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), [*CLOSE, *IDENTITIES, *ASSIGNMENTS, *NOT_UNITS, *POWERS_OF_TEN])
def test_a_wrong_answer_is_refused_and_its_reference_can_be_met(gold, answer):
    began = time.process_time()
    score = verdict_on(gold, answer)
    assert score.value == 0, score
    assert score.verdict in (WRONG, UNPARSEABLE)
    assert score.reason
    assert time.process_time() - began < 1
    assert verdict_on(gold, gold).verdict == CORRECT
    assert check_reference(gold) is None


@pytest.mark.parametrize(("gold", "answer"), [*CLOSE, *IDENTITIES, *ASSIGNMENTS])
def test_a_vote_does_not_join_what_is_different(gold, answer):
    try:
        assert not same_answer(answer, gold)
    except Unreadable:  # then the vote keeps them apart
        return
