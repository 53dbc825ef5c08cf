"""Verdicts on what stands around an answer, on powers of ten, functions of several numbers, cleared denominators and
other ways to write numbers and times. Hostile cases first. Cases are (reference, answer, prompt).
"""

from __future__ import annotations

import pytest

from rewards.accuracy import accuracy

OPTIONS = "What is 2 + 3?\n(A) 4\n(B) 5\n(C) 6\n"
WRONG = [
    ("B", "(A) 5", ""), ("B", "(B) 5 or (C) 6", ""), ("B", "(A) (B)", ""), ("B", "B5", ""), ("B", "5 (C)", ""), ("B", "(B) and (C)", ""), ("B", "(B) not", ""), ("5", "(B) 6", ""), ("5", "(5) 6", ""),
    ("B", "(B) 4", OPTIONS), ("5", "(A) 5", OPTIONS), (r"\text{(B) } 5", "(B) 6", ""), (r"\text{(B) } 5", "(A) 5", ""), (r"\text{(B) } 5", "A", ""),
    ("12", "12 apples", ""), ("12", "12 apples", "How many pears are left?"), ("12", "12 apples and 3 pears", "How many apples?"), ("12", "12 less apples", "How many less apples?"), ("12", "12 dozen", "How many dozen eggs?"),
    ("12", "12 dozens", "How many dozens?"), ("12", "12 thousands", "How many thousands?"), ("12", "12 pairs", "How many pairs of socks?"), ("12", "12 half loaves", "How many half loaves?"), ("12", "12 halves", "How many halves?"),
    ("12", "12 million people", "How many million people?"), ("12", "13 apples", "How many apples?"), ("12 pears", "12 apples", "How many apples?"), ("3", r"3\mathrm{i}", "Find i."), ("5", "5 feet 6 inches", "How many inches?"),
    ("1000000", "10^5", ""), ("1000000", "10^7", ""), ("1000000", "10^6+1", ""), ("1000000", "100^3", ""), ("1000", "10^3", ""), ("10", "10^1", ""), ("1", "10^0", ""), ("0.00001", "10^5", ""), ("1000000", "-10^6", ""),
    (r"y=\frac{6}{x}", "xy=-6", ""), (r"y=\frac{6}{x}", "x^2y=6x", ""), (r"y=\frac{6}{x}", "y=6x", ""), (r"y=\frac{x^2-4}{x-2}", "y(x-2)=x^2-4", ""), (r"\frac{y}{x}=2", "y=2x", ""), (r"y=\frac{k}{x}", "xy=k", ""),
    (r"\frac{x^2}{x}=y", "x^2=xy", ""), (r"y=\frac{6}{x}", "x(xy-6)=0", ""), (r"y=\frac{x}{x+1}", "y(x+1)=x+1", ""), (r"\frac{1}{x}+\frac{1}{y}=1", "x+y=xy", ""), (r"\frac{x}{y}>1", "x>y", ""),
    (r"\max(3,5)", "3", ""), (r"\min(3,5)", "5", ""), (r"\gcd(12,18)", "2", ""), (r"\operatorname{lcm}(4,6)", "24", ""), (r"\max(a,b)", r"\min(a,b)", ""), (r"\max(a,b)", "a", ""), ("5", r"\max(3,5)", ""), ("6", r"\gcd(12,18)", ""),
    (r"\max(a,b)", r"\max(a,b,0)+1", ""), (r"\gcd(m,n)", "m", ""), ("1.234", "1,234", ""), ("1234", "12,34", ""), ("1234", "12 34", ""), ("1.234", "1234", ""), ("1234", "1.234", ""), ("0.5", "0,5", ""), ("1234567", "1.234,567", ""),
    ("1234567", "1 23 4567", ""), ("1234", "1 234", ""), ("12", "1 2", ""), (r"3:30\text{ pm}", "3:30", ""), (r"3:30\text{ pm}", "03:30", ""), (r"3:30\text{ pm}", "16:30", ""), (r"3:30\text{ am}", "15:30", ""), (r"2F_{16}", "2E_{16}", ""),
    ("1011_2", "1011 base 3", ""), ("1011_2", "1010 base 2", ""), (r"\{1,2,3\}", r"\lbrace 1,2 \rbrace", ""),
]  # fmt: skip
RIGHT = [
    ("B", "(B) 5", ""), ("5", "(B) 5", ""), ("B", "B. 5", ""), ("B", "B) 5", ""), ("B", r"(B)\ 5", ""), ("B", r"\text{(B) } 5", ""), ("B", r"\textbf{(B)}\ 5", ""), ("5", r"\textbf{(B) } 5", ""), (r"\text{(B)}", "(B) 5", ""),
    ("B", "(B) 5", OPTIONS), ("5", "(B) 5", OPTIONS), ("B", r"(B) $5$", OPTIONS), (r"\text{(B) } 5", "B", ""), (r"\text{(B) } 5", "(B)", ""), (r"\text{(B) } 5", "5", ""), (r"\text{(B) } 5", "(B) 5.0", ""), (r"\frac{1}{2}", r"\text{(C) } 0.5", ""),
    ("K", "(K) 7", ""), ("12", "12 apples", "How many apples are left?"), ("12", r"12\text{ apples}", "How many apples are left?"), ("5", "5 students", "How many students passed?"), ("1234", "1,234 books", "How many books?"),
    ("7", "7 red marbles", "How many red marbles are there?"), ("3", "3 Cookies", "how many cookies?"), ("11", r"11 \text{ ways}", "In how many ways?"), ("40", "40 sheep", "How many sheep?"), ("2.5", "2.5 pies", "How many pies?"),
    ("6", "6 people", "How many people came?"), ("1000000", "10^6", ""), ("1000000", "10^{6}", ""), ("10000", "10^4", ""), ("0.00001", "10^{-5}", ""), ("1,000,000", "10⁶", ""), ("10^6", "1000000", ""), ("-3", "-3.0", ""),
    (r"y=\frac{6}{x}", "xy=6", ""), ("xy=6", "y=6/x", ""), (r"y=\frac{6}{x}", "6=yx", ""), (r"y=\frac{6}{x}", "xy-6=0", ""), (r"y=6x^{-1}", "xy=6", ""), (r"y=\frac{x+1}{x-2}", "y(x-2)=x+1", ""), (r"y=\frac{6}{x}", r"x=\frac{6}{y}", ""),
    (r"y=\frac{1}{x^2}", "x^2y=1", ""), (r"y=\frac{3}{2x+1}", "2xy+y=3", ""), (r"xy+y=1", r"y=\frac{1}{x+1}", ""),
    (r"\max(3,5)", "5", ""), (r"\min(3,5)", "3", ""), (r"\gcd(12,18)", "6", ""), (r"\operatorname{lcm}(4,6)", "12", ""), ("lcm(4,6)", "12", ""), (r"\max(a,b)", r"\max\{b,a\}", ""), (r"\max\{a,b\}", r"-\min(-a,-b)", ""),
    (r"\max(x,-x)", "|x|", ""), (r"mn", r"\gcd(m,n)\operatorname{lcm}(m,n)", ""), (r"\max(\sqrt{2},\pi)", r"\pi", ""), (r"\max(1,2,3)", "3", ""), ("5 min", r"5\text{ min}", ""),
    ("1234567", "1 234 567", ""), ("1234567", "1.234.567", ""), ("1234567.5", "1.234.567,5", ""), ("1234567", "1'234'567", ""), ("-1234.5", "-1'234.5", ""), (r"3:30\text{ pm}", "15:30", ""), (r"11:05\text{ pm}", "23:05", ""),
    ("15:30", "3:30 pm", ""), ("15:30", "15:30", ""), (r"2F_{16}", "2f_{16}", ""), ("1011_2", "1011 base 2", ""), ("1011_2", r"1011 \text{ (base 2)}", ""), ("1011_2", r"1011\text{ in base two}", ""), (r"\{1,2,3\}", r"\lbrace 1,2,3 \rbrace", ""),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "prompt"), WRONG)
def test_a_wrong_answer_is_refused(gold, answer, prompt):
    assert accuracy(f"<answer>{answer}</answer>", prompt=prompt, answer=gold).value == 0


@pytest.mark.parametrize(("gold", "answer", "prompt"), RIGHT)
def test_a_right_answer_is_paid(gold, answer, prompt):
    assert accuracy(f"<answer>{answer}</answer>", prompt=prompt, answer=gold).value == 1
