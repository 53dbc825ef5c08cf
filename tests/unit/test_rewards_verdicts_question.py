"""The question in disguise, references that are no answers, boxes that quote the question, and empty forms."""

from __future__ import annotations

import time

import pytest

from rewards.accuracy import accuracy, check_reference
from rewards.format import format_boxed, format_r1
from rewards.types import CORRECT, WRONG

BOX = r"\boxed"


def verdict_on(gold: str, answer: str, prompt: str = ""):
    began = time.process_time()
    score = accuracy(f"<think>so</think><answer>{answer}</answer>", prompt=prompt, answer=gold)
    assert time.process_time() - began < 1
    return score


DISGUISED = {
    ("Expand (x-1)(x+1).", "x^2-1"): [
        *("(x-1)(x+1)", "(x-1)(x+1)+0", "(x+1)(x-1)", "1(x-1)(x+1)", r"\frac{(x-1)(x+1)}{1}", "(x-1)(x+1)-0", "(-1+x)(1+x)", r"(x-1)\cdot(x+1)", "-(1-x)(x+1)", "(x+2-3)(x+1)"),
        *("2(x-1)(x+1)/2", "(x-1)(x+1)+1-1", "((x-1)(x+1))^1", "(1-x)(-x-1)", "x(x+1)-(x+1)", "(x-1)^2+2(x-1)", "x(x+1)-x-1", "(x-1)(x+2-1)", "x^2-x+x-1", r"\{(x-1)(x+1)\}"),
    ],
    ("Expand $(x+2)^2$.", "x^2+4x+4"): ["(x+2)^2", "(2+x)^2", "(x+2)(x+2)", "(x+2)^2+0", "x(x+4)+4", "(x+2)(2+x)", "(-x-2)^2", "4(x/2+1)^2", "x(x+2)+2(x+2)"],
    ("Factor $x^{2}+2x+1$.", "(x+1)^2"): ["x^2+2x+1", "1+2x+x^2", "x^2+2x+1+0", "x(x+2)+1", "1(x^2+2x+1)", r"\frac{2x^2+4x+2}{2}", "x^2+x+x+1", "(x+1)^2+x-x+0-(x+1)^2+x^2+2x+1"],
    (r"Simplify $\sqrt{117} + \sqrt{13}$.", r"4\sqrt{13}"): [r"\sqrt{117}+\sqrt{13}", r"\sqrt{13}+\sqrt{117}", r"\sqrt{117}+\sqrt{13}+0", r"1\sqrt{117}+\sqrt{13}", r"\sqrt{13}+\sqrt{9\cdot 13}", r"\frac{2\sqrt{117}+2\sqrt{13}}{2}"],
    ("Simplify 2x+3x.", "5x"): ["2x+3x", "3x+2x", "2x+3x+0", "x+x+3x", "2x+2x+x", "(2+3)x"],
    (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1"): [r"\frac{x^2-1}{x-1}", r"\frac{(x-1)(x+1)}{x-1}", r"\frac{1-x^2}{1-x}", r"\frac{x^2-1}{x-1}+0", r"\frac{-1+x^2}{-1+x}"],
    (r"Expand \((a+b)(a-b)\)", "a^2-b^2"): ["(a-b)(a+b)", "(a+b)(a-b)+0", "a(a-b)+b(a-b)", "-(b-a)(a+b)"],
    (r"Compute \[(2+\sqrt{3})^2\]", r"7+4\sqrt{3}"): [r"(2+\sqrt{3})^2", r"(\sqrt3+2)^2", r"(2+\sqrt3)(2+\sqrt3)", r"(2+\sqrt3)^2+0", r"4+3+4\sqrt3-0+(2+\sqrt3)^2-7-4\sqrt3"],
    ("Solve $2x+y=5$ for $y$.", "y=-2x+5"): ["2x+y=5", "y+2x=5", "2x+y-5=0", "4x+2y=10", r"x=\frac{5-y}{2}", "5=2x+y"],
    ("Write the line 3x-4y=4 in slope-intercept form.", r"y=\frac34x-1"): ["3x-4y=4", "4y=3x-4", "3x-4y-4=0"],
    (r"Rationalize $\frac{1}{\sqrt{2}+1}$.", r"\sqrt{2}-1"): [r"\frac{1}{\sqrt2+1}", r"\frac{1}{1+\sqrt2}", r"\frac{1}{\sqrt2+1}+0", r"1/(\sqrt{2}+1)"],
    (r"Rationalize $\frac{1}{\sqrt{2}}$.", r"\frac{\sqrt{2}}{2}"): [r"\frac{1}{\sqrt2}", r"\frac{1}{\sqrt2}+0", r"1\cdot\frac{1}{\sqrt2}", r"\frac{2}{2\sqrt{2}}", r"1/\sqrt{2}"],
    (r"Write $\sin 2x$ in terms of $\sin x$ and $\cos x$.", r"2\sin x\cos x"): [r"\sin 2x", r"\sin(2x)", r"\sin(x+x)", r"\sin 2x+0", r"\sin(3x-x)", r"\frac{2\sin 2x}{2}"],
    ("**Expand (x - 1)(x + 1)** <|im_end|>", "x^2-1"): ["(x-1)(x+1)", "(x+1)(x-1)+0", "x(x+1)-(x+1)"],
    ("Expand: `(x−1)(x+1)=?`", "x^2-1"): ["(x-1)(x+1)", "(1+x)(x-1)"],
    ("<|im_start|>user\nExpand (x-1)(x+1)<|im_end|>\n<|im_start|>assistant\n", "x^2-1"): ["(x-1)(x+1)", "(1+x)(x-1)"],
    ("Complete the square: $x^2+6x+5$.", "(x+3)^2-4"): ["x^2+6x+5", "(x+1)(x+5)", "x^2+6x+5+0"],
    (r"Compute $\binom{n}{2}$.", r"\frac{n(n-1)}{2}"): [r"\binom{n}{2}", r"\binom n2", r"\binom{n}{2}+0"],
    (r"Compute $\sum_{k=1}^n k$.", r"\frac{n(n+1)}{2}"): [r"\sum_{k=1}^n k", r"\sum_{j=1}^n j", r"\sum_{k=1}^{n} k+0", r"1\sum_{k=1}^n k"],
    ("Compute $(1+i)^2$.", "2i"): ["(1+i)^2", "(i+1)^2", "(1+i)(1+i)", "(1+i)^2+0"],
    (r"Find $\sin(\pi/3)$.", r"\frac{\sqrt{3}}{2}"): [r"\sin(\pi/3)", r"\sin(\frac{\pi}{3})", r"\sin 60^\circ"],
    ("What is $(2x)(3x)$?", "6x^2"): ["(2x)(3x)", "2x(3x)", "(3x)(2x)", r"2x\cdot 3x"],
}  # fmt: skip
ANSWERED = {
    ("Expand (x-1)(x+1).", "x^2-1"): ["x^2-1", "-1+x^2", r"x\cdot x-1", "x^{2} - 1", "xx-1"],
    ("Expand $(x+2)^2$.", "x^2+4x+4"): ["4+4x+x^2", r"x^2+4\cdot x+4"],
    ("Factor $x^{2}+2x+1$.", "(x+1)^2"): ["(x+1)^2", "(1+x)^2", "(x+1)(x+1)", "(x+1)(1+x)", "(-x-1)^2"],
    (r"Simplify $\sqrt{117} + \sqrt{13}$.", r"4\sqrt{13}"): [r"4\sqrt{13}", r"\sqrt{208}", r"\sqrt{13}\cdot 4", r"2\sqrt{52}"],
    ("Simplify 2x+3x.", "5x"): ["5x", r"5\cdot x", "x5"[::-1]],
    (r"Simplify $\frac{x^2-1}{x-1}$.", "x+1"): ["1+x", "x+1"],
    ("Solve $2x+y=5$ for $y$.", "y=-2x+5"): ["y=5-2x", "5-2x=y", "5-2x", "y=-(2x-5)"],
    ("Find the line through (0,5) and (1,3).", "y=-2x+5"): ["2x+y=5", "y=5-2x"],
    (r"Rationalize $\frac{1}{\sqrt{2}+1}$.", r"\sqrt{2}-1"): [r"-1+\sqrt2", r"\sqrt2-1"],
    (r"Is $4\sqrt{13}$ more than 14? Give it in the form $a\sqrt{b}$.", r"4\sqrt{13}"): [r"4\sqrt{13}"],
    (r"A side is $2\sqrt2$ cm. Find another.", r"2\sqrt{2}"): [r"\sqrt{8}", r"2\sqrt2"],
    (r"Compute $\binom{n}{2}$.", r"\frac{n(n-1)}{2}"): [r"\frac{n^2-n}{2}", r"\frac12 n(n-1)"],
    (r"Compute $\sum_{k=1}^n k$.", r"\frac{n(n+1)}{2}"): [r"\frac{n^2+n}{2}", r"\binom{n+1}{2}"],
    ("Complete the square: $x^2+6x+5$.", "(x+3)^2-4"): ["-4+(x+3)^2", "(3+x)^2-4"],
    ("What is the sum of the first n odd numbers?", "n^2"): ["n^2", r"n\cdot n"],
    (r"Solve for $x$ in $[-\pi/2, \pi/2]$.", r"x = -\frac{\pi}{2}"): [r"-\pi/2", r"x=-\frac{1}{2}\pi"],
    ("Let $f(x) = x^2$ and $g(x) = x+1$. Find $f(g(x))$.", "(x+1)^2"): ["x^2+2x+1", "(x+1)^2"],
}  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), [(q, a) for q, answers in DISGUISED.items() for a in answers])
def test_the_question_in_disguise_is_not_its_answer(question, answer):
    prompt, gold = question
    assert verdict_on(gold, answer, prompt).verdict == WRONG
    template = f"A conversation between User and Assistant. User: {prompt} Assistant: <think>"
    assert accuracy(f"so</think><answer>{answer}</answer>", prompt=template, answer=gold).verdict == WRONG


@pytest.mark.parametrize(("question", "answer"), [(q, a) for q, answers in ANSWERED.items() for a in answers])
def test_an_answer_of_the_wanted_form_is_paid(question, answer):
    prompt, gold = question
    assert verdict_on(gold, answer, prompt) == (1.0, CORRECT, "")


def test_a_disguise_is_paid_where_the_question_does_not_show_it():
    assert verdict_on("x^2-1", "(x+1)(x-1)", "Which polynomial vanishes at 1 and -1?").verdict == CORRECT


NO_ANSWERS = [
    *("proof", "Proof.", "notfound", "not found", "nan", "NaN", "None", "null", "N/A", "n.a.", r"\text{proof}", r"\text{None}", "unknown", "no answer", "No answer found", "[]", "?", "-", "...", "…", r"\ldots", r"\square", "TBD", "{}", "missing"),
    *("see solution", "See above.", "The proof is complete", "proof omitted", "answer not found", "not provided", "not available", "The answer is not given", "Q.E.D.", r"\blacksquare", "''", '"None"', "`nan`", "$nan$", r"\mathrm{NaN}", "inf", "error", "answers may vary", "not applicable"),
    *(r"\boxed{None}", "work #### nan", r"\boxed{\text{proof}}", "answer", "NA"),
]  # fmt: skip


@pytest.mark.parametrize("gold", NO_ANSWERS)
def test_a_reference_that_is_no_answer_is_refused_and_never_paid(gold):
    assert check_reference(gold)
    said = gold.rsplit("####", 1)[-1].strip()
    for text in (said, rf"\text{{{said}}}", "proof", "None"):
        for completion in (f"<answer>{text}</answer>", f"{BOX}{{{text}}}"):
            assert accuracy(completion, answer=gold).value == 0


@pytest.mark.parametrize("gold", [r"\text{none of the above}", "no", "No solution", "undefined", r"\text{does not exist}", "True", r"\emptyset", r"\{\}", "<", "=", "+", "x", "N", "impossible", "0", r"\infty", "zero", "infinitely many"])  # fmt: skip
def test_a_reference_that_says_that_there_is_nothing_is_an_answer(gold):
    assert check_reference(gold) is None
    assert verdict_on(gold, gold).verdict == CORRECT


def test_a_box_that_quotes_the_question_is_no_answer_of_its_own():
    prompt = rf"Put the final answer in {BOX}{{answer}}. What is {BOX}{{x}} + 2 if x = 40?"
    assert accuracy(rf"We want {BOX}{{x}} + 2, so {BOX}{{42}}.", prompt=prompt, answer="42").verdict == CORRECT
    assert accuracy(rf"As {BOX}{{answer}}: {BOX}{{42}}.", prompt=prompt, answer="42").verdict == CORRECT
    assert accuracy(rf"{BOX}{{x}} {BOX}{{41}}", prompt=prompt, answer="42").verdict == WRONG
    assert accuracy(rf"{BOX}{{43}} {BOX}{{42}}", prompt=prompt, answer="42").verdict == WRONG
    assert accuracy(rf"{BOX}{{x}} {BOX}{{41}} {BOX}{{42}}", prompt=prompt, answer="42").verdict == WRONG
    assert accuracy(rf"{BOX}{{x}}", prompt=prompt, answer="x").verdict == CORRECT  # nothing else is left
    assert accuracy(rf"{BOX}{{x}}", prompt=prompt, answer="42").verdict == WRONG
    assert accuracy(rf"{BOX}{{ x }} and {BOX}{{42}}", prompt=prompt, answer="42").verdict == CORRECT


EMPTY = [
    *("", " ", r"\text{}", r"\,", r"\phantom{1}", r"\ ", "~", r"\quad", r"\qquad", r"\;\!", "{}", "{{}}", "$$", r"\(\)", r"\text{ }", r"\mathrm{}", r"\hspace{1cm}", r"\hspace*{2em}", r"\vphantom{x^2}", r"\hphantom{42}", r"\left.\right.", r"\displaystyle", r"\mbox{}", r"\kern1em"),
    *(r"\textbf{\text{}}", r"\phantom{\frac{1}{2}}", r"\boxed{}", r"\boxed{\text{}}", r"\color{white}", r"\color{red}{}", r"\textcolor{white}{}", r"\label{eq:1}", r"\tag{1}", r"\rule{0pt}{0pt}", r"\vspace{3pt}", r"\mskip 3mu", r"\null", r"\relax", r"{\rm }", r"\ensuremath{}", r"\underline{}", r"\mathstrut", r"\strut", r"\nobreak\ ", r"\,\text{\phantom{7}}\,", r"\smash{}", r"\overline{\,}", r"^{}", r"_{}", r"\\", "%", "% 42", r"\sqrt{}", r"\frac{}{}", "\u200b", "\u3164", r"\hskip 1em", r"\hfill", r"\!", r"\begin{array}{c}\end{array}"),
]  # fmt: skip
FULL = [
    "42",
    r"\text{a}",
    r"\frac{1}{2}",
    r"\emptyset",
    r"\phantom{1}2",
    r"\infty",
    r"\pi",
    "x",
    r"\{\}",
    r"\alpha",
    r"\text{ no }",
    "-",
    r"\color{red}{4}",
    r"50\%",
    r"\varnothing",
    r"\mathbb{R}",
    "(C)",
    r"\$5",
]


@pytest.mark.parametrize("text", EMPTY)
def test_a_box_or_an_answer_that_shows_nothing_earns_no_form(text):
    assert format_boxed(f"<think>a</think> {BOX}{{{text}}}").value == 0
    assert format_r1(f"<think>a</think><answer>{text}</answer>").value == 0
    assert format_r1(f"<think>a</think><answer>{BOX}{{{text}}}</answer>").value == 0


@pytest.mark.parametrize("text", FULL)
def test_a_box_or_an_answer_that_shows_something_earns_its_form(text):
    assert format_boxed(f"<think>a</think> {BOX}{{{text}}}").value == 1
    assert format_r1(f"<think>a</think><answer>{text}</answer>").value == 1
