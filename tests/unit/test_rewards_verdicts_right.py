"""Verdicts that a mathematician would sign: right answers in another notation, which must be paid.

Pairs are (reference, answer).
"""

from __future__ import annotations

import time

import pytest

from rewards.accuracy import accuracy, check_reference
from rewards.types import CORRECT


def verdict_on(gold: str, answer: str, prompt: str = ""):
    return accuracy(f"<think>so</think><answer>{answer}</answer>", prompt=prompt, answer=gold)


LINES = [
    ("y=-2x+5", "2x+y=5"), ("2x+y=5", "y=-2x+5"), ("x=5", "5=x"), ("5=x", "x=5"), ("y=-2x+5", "5-2x=y"), ("2x+y=5", "2x+y-5=0"), ("2x+y=5", "0=5-2x-y"), ("y=-2x+5", "y+2x=5"), ("y=-2x+5", "4x+2y=10"),
    (r"y=\frac{3}{4}x-1", "3x-4y=4"), (r"\frac{x}{2}+\frac{y}{3}=1", "3x+2y=6"), ("x^2+y^2=25", "25=x^2+y^2"), (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"), ("(x-1)^2+(y+2)^2=9", "x^2-2x+y^2+4y-4=0"),
    ("x-2y+3z=4", "2x-4y+6z=8"), ("x+y<5", "5>x+y"), (r"2x+3y \ge 6", r"6 \le 2x+3y"), ("y=x", "x=y"), ("y=x", "x-y=0"), ("x+y>3", "-x-y<-3"), ("y=2x+1", "x=\\frac{y-1}{2}"), ("2x+y+1=0", "-2x-y-1=0"),
    ("y-3=2(x-1)", "y=2x+1"), ("x=5", "x = 5.0"), ("f(x)=2x", "f(x) = x+x"), (r"y=\sqrt{2}x", r"\sqrt{2}x-y=0"), ("x = -1", "-1 = x"), ("a+b+c=0", "c=-a-b"),
]  # fmt: skip
REAL_SETS = [
    (r"x<-1 \text{ or } x>3", r"(-\infty,-1)\cup(3,\infty)"), (r"(-\infty,-1)\cup(3,\infty)", r"x<-1 \text{ or } x>3"), (r"(-\infty,-1)\cup(3,\infty)", "x < -1 or x > 3"), (r"(-\infty,-1)\cup(3,\infty)", "x>3 or x<-1"),
    (r"(-\infty,-1)\cup(3,\infty)", "x<-1, x>3"), (r"(-\infty,-1)\cup(3,\infty)", r"x<-1\lor x>3"), (r"(-\infty,-1)\cup(3,\infty)", r"(3,+\infty)\cup(-\infty,-1)"), (r"(1,3)", r"x>1 \text{ and } x<3"), ("1<x<3", "x>1, x<3"),
    (r"\{x : x > 3\}", r"(3,\infty)"), (r"\{x \mid x<-1 \text{ or } x>3\}", r"(-\infty,-1)\cup(3,\infty)"), (r"\{x \in \mathbb{R} : x \ne 2\}", r"(-\infty,2)\cup(2,\infty)"), (r"(3,\infty)", r"\{x | x > 3\}"), (r"(3,\infty)", r"\{x\mid x>3\}"),
    (r"\mathbb{R}", r"(-\infty,\infty)"), (r"(-\infty,\infty)", r"\mathbb{R}"), (r"\mathbb{R}", r"\text{all real numbers}"), (r"\mathbb R", "all real numbers"), (r"x \in \mathbb{R}", r"\mathbb{R}"), (r"(-\infty,\infty)", "ℝ"),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)"), (r"(-\infty,2)\cup(2,\infty)", r"x \neq 2"), (r"x \ne 2", "x≠2"), (r"\mathbb{R}\setminus\{2\}", r"x \ne 2"), (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R} \setminus \{2\}"),
    (r"x \ne 2", r"x \in \mathbb{R}, x \ne 2"), (r"x \ne 1, 2", r"(-\infty,1)\cup(1,2)\cup(2,\infty)"), (r"(-\infty,1)\cup(1,2)\cup(2,\infty)", r"x \ne 1 \text{ and } x \ne 2"), (r"[0,4]", r"[0,2]\cup[2,4]"), (r"[0,4]", r"[0,2)\cup[2,4]"),
    (r"x \ge 2", r"[2,\infty)"), (r"(-\infty,0)\cup\{2\}", r"\{2\}\cup(-\infty,0)"), (r"\left(-\infty,-\sqrt{2}\right]\cup\left[\sqrt{2},\infty\right)", r"x \le -\sqrt2 \text{ or } x \ge \sqrt2"), (r"[-1, 1]", r"-1 \leqslant x \leqslant 1"),
    (r"(-\infty,-1)\cup(3,\infty)", r"x<-1 \text{或} x>3"), (r"x>3", "3<x"), (r"\emptyset", r"\text{no solution}"), (r"(0,1)\cup(1,2)", r"0<x<1 \text{ or } 1<x<2"), (r"(-\infty,2)\cup(2,\infty)", "x<2 or x>2"),
]  # fmt: skip
SIGNS = [
    ("(1,2)", "（1，2）"), ("1, 2", "1，2"), ("-5", "–5"), ("-5", "—5"), ("-5", "－5"), ("3-2i", "3 – 2i"), ("15", "15 cm²"), (r"15\text{ cm}^2", "15 cm²"), ("15 cm²", "15 cm^2"), ("x=5", "x＝5"), ("50\\%", "50％"), ("x>3", "x＞3"),
    ("1:2", "1：2"), ("1:2", "1∶2"), ("42", "42。"), (r"\{1,2\}", "｛1，2｝"), ("[1,2)", "［1，2）"), ("x^2", "x²"), ("x^3+x^2", "x³+x²"), ("x^{-1}", "x⁻¹"), ("x+1", "x＋1"), ("1,2,3", "1、2、3"), (r"\frac12", "½"), ("x<-1 \\text{ or } x>3", "x＜－1或x＞3"),
    ("5", "5 厘米"), (r"5\text{ m}^3", "5 m³"), (r"\pm 2", "±2"), ("2, -2", "±2"), (r"\sqrt{2}", "√2"), (r"2\sqrt{3}", "2√3"), (r"3\cdot 5x", "3·5x"), ("-3, -4", "−3, −4"), (r"\frac{1}{2}", "1／2"), (r"5\text{ m}^2", "5平方米"), ("(1; 2)", "(1, 2)"),
    (r"\text{偶数}", "偶数"), ("x=1,y=2", "x=1，y=2"), ("3;0", "3；0"), ("A、B", "A, B"),
]  # fmt: skip
BRACES = [
    ("42", "{42}"), (r"\frac{1}{2}", r"\frac{{1}}{{2}}"), ("42", "{{42}}"), (r"3\sqrt{13}", r"{3\sqrt{13}}"), ("(2, 7]", "{(2, 7]}"), (r"\sqrt{2}", r"\sqrt{{2}}"), ("x^{2}", "x^{{2}}"), ("42", r"\boxed{42}"), ("42", r"\boxed{\boxed{42}}"),
    ("x=5", r"\boxed{x=\boxed{5}}"), (r"\frac{1}{2}", r"\boxed{\frac{\boxed{1}}{2}}"), ("42", r"\text{{42}}"), (r"\frac{3}{4}", r"{\frac{3}{4}}"), ("-5", "{-5}"), (r"2^{10}", "{2}^{10}"), (r"\frac{{x}}{{y}}", "x/y"), ("42", r"{\boxed{42}}"), (r"\$36", r"$\$36$"), (r"\frac{1}{4}", "(1)/(4)"), (r"\frac{1}{2}", "{1}/{2}"), (r"-\frac{3}{8}", "-(3)/(8)"), ("1e10", "10^{10}"),
]  # fmt: skip
POWERS_OF_TEN = [
    ("2500", "2.5*10^3"), ("2500", r"2.5 \cdot 10^{3}"), ("2500", "2.5 x 10^3"), ("2500", "2.5×10³"), ("2500", r"2.5\times 10^3"), ("2500", "2.5e3"), ("1e3", "1000"), ("4.5e33", r"4.5\times 10^{33}"), (r"4.5\times 10^{33}", "4.5e33"),
    ("4.5e33", "4.5E+33"), ("1.6e-19", r"1.6\times10^{-19}"), ("1.6e-19", "1.6*10^-19"), ("1.6e-19", "1.6*10^(-19)"), ("6.02e23", "6.02 * 10**23"), ("1e-3", "0.001"), ("1e-3", r"\frac{1}{1000}"), ("2e8", "200000000"), ("4.2e1", "42"),
    ("4.2e1", "4.2e1"), ("-3e5", "-300,000"), ("1000", "1e3"), ("9.1e-31 kg", r"9.1\times 10^{-31}\text{ kg}"), ("1e3", "1,000"), ("(1e3, 2)", "(1000, 2)"), ("0.00012", "1.2e-4"), ("12000000000000", r"1.2\times10^{13}"), ("5e-1", "0.5"),
]  # fmt: skip
PERCENT = [
    ("What percent of 50 is 25?", r"50\%", "50"), ("What percentage of the class passed?", "50%", "50"), ("Find the percent increase in price.", r"25\%", "25"), ("Express the ratio as a percent.", r"62.5\%", "62.5"), ("What percent of 50 is 25?", "50", r"50\%"),
    ("By what percent did it grow?", r"12.5\%", r"\frac{25}{2}"), ("What is the percent change?", "-20%", "-20"), ("降价了百分之几？", "20%", "20"), ("Give your answer in percent.", "5%", "5"), ("What is the percentage of red balls?", r"40\%", "40.0"),
]  # fmt: skip
LETTERS = [
    (r"\text{(K)}", "K"), (r"\text{(K)}", "(K)"), ("K", r"\text{(K)}"), ("(P)", "P"), (r"\textbf{(Z)}", "Z"), (r"\text{K}", "(K)"), ("M", "(M)"), (r"\mathrm{(L)}", "L"), ("(T)", r"\text{T}"), ("Q", "Q"), (r"\text{(A)}", "A."), ("A, K", "K, A"),
]  # fmt: skip
FORMS = [
    (r"0.\overline{3}", r"\frac13"), (r"\frac{1}{6}", r"0.1\overline{6}"), (r"0.\overline{142857}", "1/7"), ("1/3", "0.(3)"), (r"0.\dot{3}", "1/3"), (r"2.\bar{3}", "7/3"), (r"\frac{41}{333}", r"0.\dot{1}2\dot{3}"),
    (r"\begin{cases} x=1 \\ y=2 \end{cases}", "x=1, y=2"), ("x=1, y=2", r"\begin{cases} x=1 \\ y=2 \end{cases}"), (r"\begin{cases} x & x \ge 0 \\ -x & x<0 \end{cases}", r"\begin{cases} -x & \text{if } x<0 \\ x & \text{if } x\ge0 \end{cases}"),
    (r"\left\{\begin{array}{l} x=1 \\ y=2 \end{array}\right.", "(1,2)"), (r"\left(\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right)", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"), (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\left[\begin{array}{c} 1 \\ 2 \end{array}\right]"),
    ("(n-1)!", r"\frac{n!}{n}"), ("(n-1)!", "(n-1)(n-2)!"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"), (r"\sum_{k=1}^{10} k^2", "385"), (r"\frac{(2n)!}{n!n!}", r"\binom{2n}{n}"), (r"\prod_{k=1}^{n} k", "n!"),
    (r"\pm 1 \pm \sqrt{2}", r"1+\sqrt2, 1-\sqrt2, -1+\sqrt2, -1-\sqrt2"), (r"\langle 1, 2 \rangle", "(1,2)"), ("[1;2]", "[1,2]"), (r"5 \text{ feet } 6 \text{ inches}", "5 ft 6 in"), (r"2.5\text{ million}", "2,500,000"), (r"\$2.5\text{ million}", "2500000"),
    ("1:58 pm", r"1\!:\!58 \text{ p.m.}"), ("3i", r"3\mathrm{i}"), (r"2\mathrm{e}", "2e"), (r"\mathrm{e}^{\mathrm{i}\pi/3}", r"e^{i\pi/3}"), (r"\frac{\mathrm{i}}{2}", r"\frac{i}{2}"), ("(3,\\infty)", "{x|x>3}"), (r"\operatorname{sin} x", r"\sin x"), (r"\sin^{-1}\frac12", r"\arcsin 0.5"), (r"x\sin 30^\circ", r"\frac{x}{2}"), (r"\lg 100x", r"\log_{10} 100x"),
    (r"12\text{ apples}", "12"), (r"5\text{ people}", "5"), (r"9.8\text{ m/s}^2", "9.8"), (r"100\text{ kPa}", "100"), (r"\lceil x \rceil", r"-\lfloor -x \rfloor"), (r"\left|x-3\right|", "|3-x|"), (r"\sqrt[3]{-8}x", "-2x"), (r"\varphi+1", r"1+\varphi"),
    (r"x_{\max}", r"x_{\max}"), (r"\vec{v}+\vec{u}", r"\vec{u}+\vec{v}"), (r"\overline{AB}", r"\overline{AB}"), ("2^{n+1}", r"2\cdot 2^n"), (r"\frac{e^x+e^{-x}}{2}", r"\cosh x"), (r"\log_4 x", r"\frac{\ln x}{\ln 4}"), ("a=3,b=5", "3,5"), ("x_1=3,x_2=5", "3,5"), ("(2n-1)!!", r"\frac{(2n)!}{2^n n!}"), (r"\sum_{i=0}^{n} \binom{n}{i} 2^i", "3^n"), (r"\sum_{i=1}^{4} i", "10"), ("1011_2", r"1011_{\text{two}}"), ("(1011)_2", "1011_2"),
    (r"f(x)=\begin{cases} x & \text{if } x \geq 0, \\ -x & \text{if } x < 0. \end{cases}", r"\begin{cases} -x & x<0 \\ x & x \ge 0 \end{cases}"), (r"\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"\mathbb{R}^+", r"(0,\infty)"), (r"2k\pi+\frac{\pi}{3}, k\in\mathbb{Z}", r"\frac{\pi}{3}+2k\pi"), (r"x=k\pi", r"x = k\pi \ (k \in \mathbb{Z})"), ("f'(x)=2x", "2x"), (r"\tan 15°", r"2-\sqrt3"), (r"\angle A = 30^\circ", r"30^\circ"), (r"10\text{:}30", "10:30"),
    (r"\text{A and B}", "B and A"), (r"{n \choose 2}", r"\binom{n}{2}"), (r"5 \mathrm{~kg} \cdot \mathrm{m} / \mathrm{s}", r"5\text{ kg m/s}"), (r"\mathbb{Z}", r"\mathbb Z"), (r"\overrightarrow{AB}", r"\overrightarrow{AB}"),
    ("3,5", "x_1=5,x_2=3"), ("x=1,y=2", "(1,2)"), ("(1,2)", "x=1,y=2"), ("(x,y)=(1,2)", "y=2,x=1"), ("0;3", "0,3"), (r"3\frac{1}{2}\pi", r"\frac{7\pi}{2}"), (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i"), (r"\tan^{2}\theta+1", r"\sec^2\theta"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), [*LINES, *REAL_SETS, *SIGNS, *BRACES, *POWERS_OF_TEN, *LETTERS, *FORMS])
def test_a_right_answer_is_paid_in_another_notation(gold, answer):
    began = time.process_time()
    assert verdict_on(gold, answer) == (1.0, CORRECT, "")
    assert check_reference(gold) is None
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("prompt", "gold", "answer"), PERCENT)
def test_the_sign_of_percent_may_be_left_out_where_the_question_asks_for_percent(prompt, gold, answer):
    assert verdict_on(gold, answer, prompt).verdict == CORRECT
    assert verdict_on(gold, answer).value == 0
    for other in (
        "What is 20 percent of 50?",
        "What is twenty percent of 50?",
        "After a 20 percent increase, what is the price?",
        "If 20% of x is 3, what is x?",
    ):
        assert verdict_on(gold, answer, other).value == 0
    assert verdict_on(r"50\%", "0.5", prompt).value == 0
    assert verdict_on("0.5", r"50\%", prompt).value == 0
