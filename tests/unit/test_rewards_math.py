"""Worked cases of the accuracy reward on mathematics, the hostile ones first, and agreement on real data."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from rewards.accuracy import accuracy, check_reference, same_answer
from rewards.expressions import Unreadable
from rewards.mathematics import MAX_LENGTH, read
from rewards.quantities import parse_number, split_unit
from rewards.types import CORRECT, UNPARSEABLE, WRONG

DATA = Path(__file__).parents[3] / "shared" / "data"
BOX = r"\boxed"


def think(answer: str) -> str:
    return f"<think>so it goes</think>\n<answer>{answer}</answer>"


def verdict_on(answer: str, gold: str, **more: object):
    start = time.process_time()
    score = accuracy(think(answer), answer=gold, **more)
    assert time.process_time() - start < 2
    return score


@pytest.fixture(scope="module", autouse=True)
def _the_arithmetic_is_loaded():
    read(r"x + \sqrt{2}")  # a second or more, the first time


# Answers that must not be paid, for each of four references: an expression, a number, an interval, a set.
HOSTILE = {
    "a denial": "the answer is not {gold}",
    "a short denial": r"\text{not } {gold}",
    "a sentence": "I am sure that it is {gold}",
    "a choice": "{gold} or 41",
    "a choice in LaTeX": r"41 \text{ or } {gold}",
    "a list with it": "40, 41, {gold}",
    "it twice": "{gold} {gold}",
    "it and an ellipsis": "{gold}...",
    "a question": "{gold}?",
    "an approximation": r"\approx {gold}",
    "a negation in LaTeX": r"\neg {gold}",
    "unequal": r"\ne {gold}",
    "unequal to a variable": r"x \ne {gold}",
    "more than it": "x > {gold}",
    "at most it": r"\le {gold}",
    "plus or minus it": r"\pm {gold}",
    "minus it": "-({gold})",
    "one more": "{gold} + 1",
    "the word answer": "answer",
    "a null byte": "{gold}\x00",
    "a right-to-left mark": "\u200f{gold}",
    "a right-to-left override": "\u202e{gold}\u202c",
    "a zero-width joiner": "{gold}\u200d",
    "a zero-width space": "\u200b{gold}",
    "a byte order mark": "\ufeff{gold}",
    "a soft hyphen": "{gold}\u00ad",
    "a lone surrogate": "{gold}\ud800",
    "a combining mark": "{gold}\u0338",
    "a tower of carets": "9^9^9^9",
    "a tower in braces": "9^{9^{9^9}}",
    "a tower in brackets": "9^(9^(9^9))",
    "a Python tower": "9**9**9**9",
    "a tower of two": "9^{9^9}",
    "a tower of e": "e^{e^{e^{e^{e}}}}",
    "a giant exponent": "2^{99999999999}",
    "a giant bracketed power": "(x+1)^{9999}",
    "a product of powers": "(a+b+c+d+e)^{30}(a-b-c-d-e)^{30}",
    "a giant factorial": "99999999!",
    "factorials of factorials": "9!!!!!!",
    "a factorial in brackets": "((9!)!)!",
    "factorials of letters": "n!m!k!x!y!z!a!b!c!d!",
    "an equation of factorials": "n!m! = k!x!y! + 500!",
    "a power of a factorial": "(n! + m!)^{30}",
    "a factorial of infinity": r"\infty!",
    "a factorial of a power": "9^9!",
    "a factorial of bars": "|500*500|!",
    "a factorial of a floor": r"\lfloor 500*500 \rfloor !",
    "a giant binomial": r"\binom{1000000000}{500000000}",
    "a giant root": r"\sqrt[999999999]{2}",
    "a giant sum": r"\sum_{k=1}^{10^{12}} k",
    "a giant product": r"\prod_{k=1}^{10^9} k",
    "an integral": r"\int_0^1 x^x dx",
    "a limit": r"\lim_{x \to 0} \frac{\sin x}{x}",
    "a hundred thousand digits": "4" * 100_000,
    "two hundred digits": "4" * 200,
    "decimals without end": "0." + "3" * 100_000,
    "three hundred round brackets": "(" * 300 + "x" + ")" * 300,
    "three hundred braces": r"\sqrt{" * 300 + "x" + "}" * 300,
    "twenty round brackets": "(" * 20 + "x" + ")" * 20,
    "three hundred square brackets": "[" * 300 + "x" + "]" * 300,
    "deep fractions": r"\frac{1}{" * 100 + "x" + "}" * 100,
    "deep fractions below the length": r"\frac{1}{" * 30 + "x" + "}" * 30,
    "many bars": "|" * 100 + "x" + "|" * 100,
    "a hundred minus signs": "-" * 100 + "x",
    "a hundred sines": r"\sin" * 100 + "x",
    "forty sines": r"\sin " * 40 + "x",
    "nested functions": "f(" * 7 + "x" + ")" * 7,
    "a long sum": "+".join("x" * 149),
    "a long product": "xyz" * 99,
    "a long product of brackets": "(x+1)" * 59,
    "a list of a hundred": ",".join("x" * 100),
    "brackets that do not close": "({gold}",
    "brackets that do not open": "{gold})",
    "brackets the wrong way round": "){gold}(",
    "braces the wrong way round": "}{gold}{",
    "a megabyte of digits": "7" * 1_000_000,
    "a megabyte of spaces": "{gold}" + " " * 1_000_000 + "7",
    "a megabyte of brackets": "(" * 1_000_000,
    "a megabyte of commas": "," * 1_000_000,
    "a megabyte of carets": "9^" * 500_000,
    "a megabyte of fractions": r"\frac{1}" * 125_000,
    "a megabyte of text commands": r"\text{a" * 140_000,
    "a fraction over zero": r"\frac{1}{0}",
    "zero to zero": "0/0",
    "infinity": r"\infty",
    "not a number": "nan",
    "inf": "inf",
    "a logarithm of zero": r"\log 0",
    "Python": "__import__('os').system('true')",
    "Python that prints": "print({gold})",
    "a lambda": "lambda: {gold}",
    "sympy": "sympify('{gold}')",
    "simplify": "simplify({gold})",
    "a LaTeX definition": r"\def\x{{gold}}\x",
    "a LaTeX input": r"\input{/etc/passwd}",
    "a LaTeX loop": r"\def\x{\x}\x",
    "a LaTeX comment": "41 % {gold}",
    "a phantom": r"\phantom{{gold}} 41",
    "struck out": r"\cancel{{gold}}",
    "an equation between numbers": "41 = {gold}",
    "a chain of equations": "41 = 40 + 1 = {gold}",
    "tags in code": "```python\nprint('{gold}')\n```",
    "HTML": "<b>{gold}</b>",
    "an HTML comment": "41<!-- {gold} -->",
    "JSON": '{"answer": "{gold}"}',
    "full-width digits": "４２",
    "Arabic-Indic digits": "٤٢",
    "mathematical digits": "𝟒𝟐",
    "Roman numerals": "XLII",
    "the empty set": r"\emptyset",
    "everything": r"(-\infty, \infty)",
    "all reals": r"\mathbb{R}",
    "a set builder": r"\{x : x = {gold}\}",
    "any": r"\text{any}",
    "stars": "*" * 100,
    "dollars": "$" * 100,
    "backslashes": "\\" * 100,
    "an ampersand": "{gold} & 41",
    "a row more": r"{gold} \\ 41",
    "a matrix that never ends": r"\begin{pmatrix} {gold}",
    "a matrix of one": r"\begin{pmatrix} {gold} \end{pmatrix}",
    "a wild subscript": "{gold}_{41}",
    "primes": "{gold}''''",
    "a foreign unit": "{gold} apples",
    "a foreign unit in LaTeX": r"{gold} \text{ apples}",
    "percent": r"{gold}\%",
}
GOLDS = [r"3\sqrt{13}", "42", "(2, 7]", r"\{2, 7\}"]


@pytest.mark.parametrize("gold", GOLDS)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer_is_never_paid_and_takes_under_two_seconds(case, gold):
    score = verdict_on(HOSTILE[case].replace("{gold}", gold), gold)
    assert score.value == 0, score
    assert score.verdict in (WRONG, UNPARSEABLE)
    assert score.reason


HOSTILE_COMPLETIONS = {
    "inside the thinking": (f"<think>{BOX}{{3\\sqrt{{13}}}}</think>", UNPARSEABLE),
    "inside nested thinking": (f"<think><think>a</think>{BOX}{{3\\sqrt{{13}}}}</think>", UNPARSEABLE),
    "thinking that never ends": (f"<think>{BOX}{{3\\sqrt{{13}}}}", UNPARSEABLE),
    "a box that never closes": (f"<think>a</think>{BOX}{{3\\sqrt{{13}}", UNPARSEABLE),
    "an answer that never closes": ("<think>a</think><answer>3\\sqrt{13}", UNPARSEABLE),
    "no tags": ("The answer is 3\\sqrt{13}.", UNPARSEABLE),
    "two boxes that differ": (f"{BOX}{{3\\sqrt{{13}}}} or {BOX}{{2\\sqrt{{13}}}}", WRONG),
    "two boxes that differ, the last right": (f"{BOX}{{\\sqrt{{13}}}} {BOX}{{3\\sqrt{{13}}}}", WRONG),
    "a right box and one that is unreadable": (f"{BOX}{{3\\sqrt{{13}}}} {BOX}{{\\int x}}", UNPARSEABLE),
    "nine boxes that agree": ("".join(f"{BOX}{{3\\sqrt{{13}} + {i} - {i}}}" for i in range(9)), WRONG),
    "ten thousand boxes": ("".join(f"{BOX}{{{i}\\sqrt{{13}}}}" for i in range(10_000)), WRONG),
    "two boxes in a box": (f"{BOX}{{{BOX}{{3\\sqrt{{13}}}} {BOX}{{2}}}}", WRONG),
    "a wrong answer after a right one": (think(r"3\sqrt{13}") + "<answer>41</answer>", WRONG),
}


@pytest.mark.parametrize("case", HOSTILE_COMPLETIONS)
def test_a_hostile_completion_is_never_paid(case):
    completion, verdict = HOSTILE_COMPLETIONS[case]
    start = time.process_time()
    score = accuracy(completion, answer=r"3\sqrt{13}")
    assert time.process_time() - start < 2
    assert (score.value, score.verdict) == (0.0, verdict), score


SAME = [
    # answer, reference
    ("C", r"\text{(C)}"), ("(C)", "C"), (r"\text{C}", "(C)"), (r"\textbf{(C)}", "C"), ("C.", r"\text{(C)}"), (r"(\text{C})", "C"),
    ("0.5", r"\frac{1}{2}"), (r"\frac12", "0.5"), (r"\dfrac{2}{4}", r"\frac 12"), ("1/2", r"\frac{1}{2}"), (r"\frac9{19}", "9/19"),
    (r"1\frac{4}{5}", "1.8"), ("1 4/5", r"1\frac{4}{5}"), (r"\frac{9}{5}", r"1\frac{4}{5}"), ("275/2", r"137 \frac{1}{2}"),
    (r"50\%", "50%"), (r"50 \text{ percent}", r"50\%"), ("50 percent", "50%"),
    ("5 cm", "5"), ("5", r"5\text{ cm}"), (r"15\mbox{ cm}^2", "15"), ("15 square cm", r"15\mbox{ cm}^2"), ("5 centimeters", r"5\text{ cm}"),
    ("5.4", r"5.4 \text{ cents}"), (r"864 \text{ in}^2", r"864 \mbox{ inches}^2"), ("18 dollars", "18"), (r"\$18.90", "18.90"), (r"18.9 \text{ dollars}", r"\$18.90"),
    ("90", r"90^\circ"), (r"90^{\circ}", r"90^\circ"), ("90°", "90"), ("90 degrees", r"90^\circ"), (r"\frac{270}{7}", r"\frac{270}7\text{ degrees}"),
    ("1,234", "1234"), (r"11{,}111", "11,111"), ("11111111100", r"11,\! 111,\! 111,\! 100"), (r"10\,000", "10000"), (r"10,000\pi", r"10000 \pi"),
    (r"6.02 \times 10^{3}", "6020"),
    (r"\sqrt{117}", r"3\sqrt{13}"), (r"3 \cdot \sqrt{13}", r"3\sqrt{13}"), ("3sqrt(13)", r"3\sqrt{13}"), ("3√13", r"3\sqrt{13}"), (r"\frac{1}{\sqrt3}", r"\frac{\sqrt{3}}{3}"),
    (r"2\pi", "2π"), (r"a \cdot b \cdot c", "a*b*c"), ("2pi", r"2\pi"), ("2*pi", r"2\pi"), (r"\frac{\pi}{6}", "pi/6"), ("0.5x", r"\frac{x}{2}"), (r"1.5\pi", r"\frac{3\pi}{2}"),
    ("2^{10}", "2^{10}"), ("1024", "2^{10}"), ("5!", "5!"), ("120", "5!"), ("10", r"\binom{5}{2}"), (r"\frac{1 - \sqrt5}{2}, \frac{1 + \sqrt5}{2}", r"\frac{1 \pm \sqrt{5}}{2}"),
    ("x^2+2x+1", "(x+1)^2"), ("(b+2)(a+5)", "(a+5)(b+2)"), ("x**2 + 1", "1 + x^{2}"), (r"\frac{9a+11}{20}", r"\frac{11+9a}{20}"), ("x^(2)", "x^2"),
    (r"1-\cos^2 x", r"\sin^2 x"), (r"\frac{\cos x}{\sin x}", r"\cot x"), (r"\ln(e^2)", r"\ln e^2"), ("e^{-x^2}", r"\frac{1}{e^{x^2}}"),
    ("9i + 6", "6+9i"), ("6 + 9 i", "6+9i"), (r"(1+i)^2 + 1", "1+2i"), ("-1 + 7i", "7i + i^2"),
    ("3", "x = 3"), ("x=3", "3"), ("x = 3", "x=3"), (r"x = \frac{1}{2}", "0.5"), ("y = 3 + 2x", "y = 2x + 3"), ("2x+3", "y = 2x + 3"), ("f(x) = 2x", "2x"),
    ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0"), ("4 + 5x = 7y - 11z", "5x - 7y + 11z + 4 = 0"), ("-x > -5 + y", "x + y < 5"),
    ("Evelyn", r"\text{Evelyn}"), ("evelyn", r"\text{Evelyn}"), (r"\textbf{east}", r"\text{east}"), ("blue whale", r"\text{Blue  whale}"),
    ("well - known", r"\text{well-known}"), ("X-ray", "x-ray"), ("No", r"\text{No}"), ("no", "No"), ("AB", r"\text{AB}"), ("e-f", r"\text{E-F}"), ("ba", "ab"), ("-c + a b", "a b - c"),
    ("p-q", "p - q"), ("a - b", "a-b"), ("-q+p", "p-q"), ("x-y-z", "x - y - z"), ("bcd-a", "bcd - a"),
    (r"\log_2 3", r"\log_{2}3"), (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"), (r"\log_2 3 + 1", r"1+\log_2 3"), ("x_1", "x_{1}"), (r"x_{1} = \frac{1}{2}", "x_1 = 0.5"),
    (r"\frac{n!}{2}", "n!/2"), ("n!k!", "k! n!"), ("x>=5", r"[5,\infty)"), ("x <= 3", r"x \le 3"), ("1<=x<=3", "[1,3]"), ("{3,1,2}", r"\{1,2,3\}"), ("{x, (1, 2)}", r"\{(1,2), x\}"),
    (r"\text{42}", "42"), (r"\textbf{42}", "42"), (r"\mathbf{42}", "42"), ("**42**", "42"), ("**$42$**", "42"), ("- 5", "-5"), ("- 1/2", "-0.5"), ("(42)", "42"), (r"\left(-42\right)", "-42"),
    ("= 42", "42"), ("x = (42)", "42"), ("42", r"\text{42 cm}"), ("(1/2)", "0.5"), ("June 20", r"\text{June 20}"), ("june 20", "June 20"),
    ("-2, 1", "1,-2"), (r"\{1, -2\}", "1,-2"), ("1 and -2", "1, -2"), (r"x = 1 \text{ or } x = -2", "1,-2"), ("x=1, y=2", "y=2, x=1"), ("0.5, 3", r"3, \frac12"),
    (r"1 - \sqrt{19}, 1 + \sqrt{19}", r"1 \pm \sqrt{19}"), (r"-2, 1 \pm \sqrt5", r"\{1\pm\sqrt{5},-2\}"),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"), ("(6, 31, -1)", "(6,31,-1)"), ("(x, y) = (1, 2)", "(1,2)"),
    ("(3, 4]", r"\left(3,4\right]"), (r"(-\infty, 0]", "(-∞,0]"), (r"x \le 0", r"(-\infty, 0]"), (r"x \in [-2,7]", "[-2, 7]"), (r"-2 \le x \le 7", r"x \in [-2,7]"),
    (r"(9,36) \cup (0,9)", r"(0,9) \cup (9,36)"), ("2 < x < 12", "(2,12)"), ("x > 5", r"(5,\infty)"), (r"7 \geq x > 1", "(1, 7]"),
    (r"\begin{bmatrix} -2 \\ -14 \end{bmatrix}", r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}"), (r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}", r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}"),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \\ \end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}"),
    ("4210_5", "4210_{5}"), ("3:4", "3 : 4"), (r"\emptyset", r"\varnothing"), (r"\{\}", r"\emptyset"),
]  # fmt: skip

DIFFERENT = [
    ("D", r"\text{(C)}"), ("c", "C"), ("(C) and (D)", "C"), ("ABC", "C"),
    ("0.333", r"\frac{1}{3}"), ("0.333333333", "1/3"), ("1.414214", r"\sqrt{2}"), ("3.14159", r"\pi"), (r"1\frac{4}{5}", "4/5"), (r"\frac{14}{5}", r"1\frac{4}{5}"),
    ("40+2", "42"), (r"\sqrt{4}", "2"), ("6 x 7", "42"), (r"6 \times 7", "42"), ("4.2e1", "42"), ("42/1/1", "42"),
    (r"50\%", "50"), (r"50\%", "0.5"), ("50", r"50\%"), ("0.5", "50%"), (r"(50\%, 1)", "(50, 1)"), (r"50\%", r"\frac{x}{2}"),
    ("5 km", r"5\text{ cm}"), (r"5\text{ cm}^2", r"5\text{ cm}"), ("5m", "5"), ("5 apples", "5"), ("€5", r"\$5"), ("5 cents", r"\$5"), ("5 pounds", "£5"),
    (r"90^\circ", r"90\text{ cm}"), ("1,23", "123"), ("1 234", "1234"), ("12345", "1,234"), ("-90", r"90^\circ"), ("6.02 \\times 10^{4}", "6020"),
    (r"2\sqrt{13}", r"3\sqrt{13}"), (r"-3\sqrt{13}", r"3\sqrt{13}"), (r"3 + \sqrt{13}", r"3\sqrt{13}"), (r"3\sqrt[3]{13}", r"3\sqrt{13}"), ("3", r"3\sqrt{13}"),
    ("x", "X"), ("R + r", "r + r"), ("x", "y"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), ("x+1", "x+2"), ("x^2", "x^3"), ("abx", "abc+x"), (r"\sin x", r"\cos x"), ("2x", "2"),
    ("x+2m", "x+2"), ("x+2", "x+2m"), (r"3\sqrt{13}c", r"3\sqrt{13}"), ("x^{2} d", "x^{2}"), ("2x = 3 m", "2x = 3"), ("(5)_{2}", r"\sqrt{400}"),
    ("6-9i", "6+9i"), ("9+6i", "6+9i"), ("1 + 10^{-9}x", "1"), (r"x + 10^{-9}", "x"), ("pi", "pip"),
    ("y = 3", "x = 3"), ("x = 4", "x = 3"), ("x > 3", "x = 3"), (r"x \ne 3", "x = 3"), ("6 = 2x + 1", "x = 3"), ("y = 2x", "y = 2x + 3"), ("5x - 7y + 11z = 0", "5x - 7y + 11z + 4 = 0"),
    ("x + y > 5", "x + y < 5"), ("x + y < 5", r"x + y \le 5"), ("-x - y < -5", "x + y < 5"), ("2x + 3 = 0", "y = 2x + 3"),
    ("Navin", r"\text{Evelyn}"), (r"\text{not Evelyn}", r"\text{Evelyn}"), ("Evelyn Navin", "Evelyn"), ("even", "odd"), ("42", r"\text{Evelyn}"),
    ("cat", "act"), ("c a t", "act"), ("c a t", "t a c"), ("A B C", "B A C"), ("ab cd ef", "fe dc ba"), (r"c \cdot a \cdot t", r"\text{act}"), ("abc", "bca"), ("q-p", "p - q"), ("P-Q", "p-q"), (r"\text{June 2}", "June 20"), ("x = 20", "June 20"), (r"\log_2 3", r"\log_3 2"), (r"\log_23 + 1", "2"), ("n!", "n"), ("n!", "k!"), ("x!", r"\frac{x}{2}"),
    ("x>=5", "x>5"), ("{1,2}", "(1,2)"), ("{1,2}", "12"), ("(1,234)", "1234"), ("1234", "(1,234)"), ("[42]", "42"), ("== 42", "42"), (r"4\text{2}", "42"), ("(4)(2)", "42"), ("-(-42)", "42"), ("4 - 2", "-2"),
    ("- - 5", "5"), ("= 41 = 42", "42"), ("**4** **2**", "42"), ("-(42)", "42"), ("(42)!", "42"),
    ("No", "Yes"), ("on", r"\text{No}"), ("BA", r"\text{AB}"), (r"\text{p-q}", "q-p"),
    ("1", "1,-2"), ("1, -2, 3", "1,-2"), ("1, 1", "1,-2"), ("1, 1", "1"), ("(1,-2)", "1,-2"), (r"\{1, 2\}", "(1, 2)"), ("1, 2", "(1, 2)"), (r"1 \pm \sqrt{19}", r"1 + \sqrt{19}"),
    ("(2, 1)", "(1, 2)"), ("(1, 2, 3)", "(1, 2)"), ("[1, 2]", "(1, 2)"), ("[1, 2)", "(1, 2]"), ("(1, 2]", "(1, 2)"), ("(3, 4]", "(3, 5]"),
    (r"x < 0", r"(-\infty, 0]"), (r"x \ge 0", r"(-\infty, 0]"), ("-2 < x < 7", r"x \in [-2,7]"), (r"y \in [-2,7]", r"x \in [-2,7]"), ("[0, 1]", r"[0, \infty)"), (r"(0,9)", r"(0,9) \cup (9,36)"),
    (r"[0,9) \cup (9,36)", r"(0,9) \cup (9,36)"), (r"(0,9) \cap (9,36)", r"(0,9) \cup (9,36)"), (r"\infty", r"-\infty"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), ("(1, 2)", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{vmatrix} 1 & 0 \\ 0 & 1 \end{vmatrix}", r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}"),
    ("4210", "4210_5"), ("4210_6", "4210_5"), ("52_{10}", "52_8"), ("4:3", "3:4"), ("3/4", "3:4"), ("0", r"\emptyset"), (r"\{0\}", r"\emptyset"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_the_same_mathematics_is_paid(answer, gold):
    assert verdict_on(answer, gold) == (1.0, CORRECT, "")
    assert accuracy(rf"So it is ${BOX}{{{answer}}}$.", answer=rf"Thus ${BOX}{{{gold}}}$.").verdict == CORRECT


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different_mathematics_is_not_paid(answer, gold):
    score = verdict_on(answer, gold)
    assert score.value == 0, score
    assert score.reason


def test_percent_is_strict_unless_it_is_asked_to_be_lenient():
    for answer, gold in [("50%", "50"), ("50%", "0.5"), ("50", r"50\%"), ("0.5", "50%"), (r"50\%", r"\frac{1}{2}")]:
        assert verdict_on(answer, gold).verdict == WRONG
        assert verdict_on(answer, gold, percent="lenient").verdict == CORRECT
    assert verdict_on("50", "0.5", percent="lenient").verdict == WRONG
    assert verdict_on("5%", "0.5", percent="lenient").verdict == WRONG
    with pytest.raises(ValueError, match="percent"):
        verdict_on("50", "50", percent="sometimes")


def test_an_unreadable_reference_is_never_just_a_wrong_answer():
    score = verdict_on("42", r"\int_C x\,dx")
    assert (score.value, score.verdict) == (0.0, UNPARSEABLE)
    assert "the reference cannot be read as mathematics: the command \\int" in score.reason
    assert verdict_on(r"\int_C x dx", r"\int_C x\,dx").verdict == CORRECT  # the same text


def test_an_unreadable_answer_is_named():
    score = verdict_on(r"\int_0^1 x dx", r"\sqrt{2}")
    assert (score.value, score.verdict) == (0.0, UNPARSEABLE)
    assert "the answer cannot be read as mathematics: the command \\int" in score.reason


def test_an_expression_copied_from_the_question_is_not_its_simplification():
    row = {"prompt": r"Simplify $\sqrt{117} + \sqrt{13}$.", "gold": r"4\sqrt{13}"}
    assert verdict_on(r"\sqrt{117} + \sqrt{13}", **row).verdict == WRONG
    assert "stands in the question" in verdict_on(r"\sqrt{117}+\sqrt{13}", **row).reason
    assert verdict_on(r"\sqrt{208}", **row).verdict == CORRECT
    assert verdict_on(r"4\sqrt{13}", prompt=r"Is it $4\sqrt{13}$?", gold=r"4\sqrt{13}").verdict == CORRECT


@pytest.mark.parametrize(
    ("prompt", "answer", "gold"),
    [
        ("Factor $x^{2}+2x+1$.", "x^{2} + 2x + 1", "(x+1)^2"),
        ("Factor $x^{2}+2x+1$.", "x^2+2x+1", "(x+1)^2"),
        ("Simplify 2x+3x.", "2x+3x", "5x"),
        (r"What is $\left(a+b\right)+c$?", "(a+b)+c", "a+b+c"),
        (r"Simplify $\frac{6}{8}x$", r"\frac{6}{8}x", r"\frac{3}{4}x"),
        (r"Simplify $\sin(-x)$.", r"\sin(-x)", r"-\sin x"),
        (r"Simplify $e^{\ln x}$.", r"e^{\ln x}", "x"),
        (r"Simplify $\frac{a/b}{c}$.", r"\frac{a/b}{c}", r"\frac{a}{bc}"),
        (r"Reduce $(\sqrt{8}, 1)$.", r"(\sqrt{8}, 1)", r"(2\sqrt{2}, 1)"),
        (r"Simplify $\sqrt{8}\text{ cm}$.", r"\sqrt{8} cm", r"2\sqrt{2}\text{ cm}"),
        ("What is 2+3*4?", "2+3*4", "14"),
    ],
)
def test_what_the_question_asks_to_simplify_is_not_the_answer(prompt, answer, gold):
    assert verdict_on(answer, gold).value == (gold != "14")
    assert verdict_on(answer, gold, prompt=prompt).verdict == WRONG


@pytest.mark.parametrize(
    ("prompt", "answer", "gold"),
    [
        ("Which of Evelyn and Navin is faster?", "Evelyn", r"\text{Evelyn}"),
        ("Is it a circle or an ellipse?", "ellipse", r"\text{ellipse}"),
        ("She has 120 dollars and spends 100 dollars. What is left?", "20 dollars", "20"),
        ("Tim walks 15 miles, and Ann as far as Tim. How far?", "15 miles", "15"),
        (r"Solve $\sin x = 1$ for $x$ in $[0, \pi/2]$.", r"\pi/2", r"\frac{\pi}{2}"),
        (r"Solve for $x$ in $[-\pi/2, \pi/2]$.", r"-\pi/2", r"x = -\frac{\pi}{2}"),
        (r"Where in $(0, \pi/2)$ is it positive?", r"(0, \pi/2)", r"\left(0, \frac{\pi}{2}\right)"),
        (r"A side is $2\sqrt2$ cm. Find another.", r"2\sqrt2 cm", r"2\sqrt{2}"),
        ("Is 12x+30 more than 2x+304?", "2x+30", "30+2x"),
        ("The set {1, 2, 3} is given.", r"\{1,2,3\}", "1, 2, 3"),
    ],
)
def test_what_only_happens_to_stand_in_the_question_is_the_answer(prompt, answer, gold):
    assert verdict_on(answer, gold, prompt=prompt) == (1.0, CORRECT, "")


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        r"1+\log_2 3",
        r"\frac{n!}{2}",
        "x>=5",
        r"\text{June 20}",
        "#### 18",
        r"\frac{1}{2}",
        r"\text{(C)}",
        "Evelyn",
        r"(3, \frac{\pi}{2})",
        "x^2 + 1",
        r"So $\boxed{3\pm i}$.",
        "y = 2x",
        "10:30",
    ],
)
def test_a_reference_that_can_be_compared_has_no_complaint(answer):
    assert check_reference(answer) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no reference answer"),
        ("work ####", "no reference answer"),
        (r"\int x", r"the command \int"),
        ("see the figure!", "the word "),
        ("x" * (MAX_LENGTH + 1), "characters"),
        (r"\frac{1}{0}", "not defined"),
        ("(1, 2", "do not pair"),
        ("9^{9^9}", "tower"),
        ("x +", "it ends too early"),
        ("12 34", "side by side"),
        ("n!=6", "unequal or"),
        ("n!!!", "a factorial of a factorial"),
    ],
)
def test_a_reference_that_cannot_be_compared_is_named_with_the_reason(answer, why):
    assert why in (check_reference(answer) or "")


def test_forms_show_how_an_answer_was_read():
    assert read(r"x \in (1, 2]").text == "(]"
    assert read("x = 3").variable == "x"
    assert [part.number.value for part in read(r"\{3, 5\}").parts] == [3, 5]
    assert read(r"15\mbox{ cm}^2").unit == "cm^2"
    assert read("2 < x < 3") == replace(read("(2, 3)"), variable="x")
    with pytest.raises(Unreadable, match="tower"):
        read("9^{9^9}")


def test_units_are_split_off_only_where_they_are_units():
    assert split_unit("5 square inches") == ("5", "in^2")
    assert split_unit(r"\$5") == ("5", "dollar")
    assert split_unit("-$5") == ("-5", "dollar")
    assert split_unit("5m") == ("5m", "")
    assert split_unit(r"5\text{ m}") == ("5", "m")
    assert split_unit("5 ducks") == ("5 ducks", "")


def test_numbers_include_mixed_numbers_and_powers_of_ten():
    assert parse_number(r"-1\frac{4}{5}") == (Fraction(-9, 5), False)
    assert parse_number(r"\frac43") == (Fraction(4, 3), False)
    assert parse_number(r"1.5 \times 10^{-2}") == (Fraction(3, 200), False)
    for text in (r"1\frac{5}{4}", "1 5/4", r"2 \times 10^{9999}", r"2 \times 3", r"\frac{1}{\frac{1}{2}}"):
        assert parse_number(text) is None, text


def test_comparing_is_the_same_both_ways_for_values():
    for one, other in [("1/2", "0.5"), (r"\sqrt{8}", r"2\sqrt{2}"), ("1, 2", "2, 1")]:
        assert same_answer(one, other)
        assert same_answer(other, one)


# ------------------------------------------------------------------------------------------------ real data


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent: it is no part of the project")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl", "gsm8k/test.jsonl"])
def test_every_gsm8k_solution_agrees_with_its_own_answer(name):
    found = rows(name)
    for number, row in enumerate(found):
        work, final = row["answer"].rsplit("####", 1)
        forms = (think(final), f"<think>{work}</think> so {BOX}{{{final.strip()}}}.")
        assert accuracy(forms[number % 2], prompt=row["question"], answer=row["answer"]) == (1.0, CORRECT, ""), row
        assert check_reference(row["answer"]) is None
    assert len(found) > 1000


def test_a_gsm8k_answer_may_have_a_unit_that_stands_with_it_in_the_question():
    units = ["dollars", "hours", "minutes", "days", "miles", "years", "feet", "inches", "pounds", "cups", "weeks"]
    tried = 0
    for row in rows("gsm8k/test.jsonl"):
        gold = row["answer"].rsplit("####", 1)[1].strip()
        for unit in (unit for unit in units if f"{gold} {unit}" in row["question"]):
            tried += 1
            assert accuracy(think(f"{gold} {unit}"), prompt=row["question"], answer=row["answer"]).value == 1, row
    assert tried > 5


def test_every_math500_solution_agrees_with_its_own_answer():
    found = rows("math500/math500.jsonl")
    scores = [accuracy(row["solution"], prompt=row["problem"], answer=row["answer"]) for row in found]
    missed = [(row["answer"], score) for row, score in zip(found, scores, strict=True) if score.value != 1]
    assert len(found) == 500
    assert not missed
    assert [row["answer"] for row in found if check_reference(row["answer"])] == []


def test_a_math500_solution_agrees_with_the_next_rows_answer_only_where_both_are_the_same():
    found = rows("math500/math500.jsonl")
    hits = []
    for row, other in zip(found, found[1:] + found[:1], strict=True):
        score = accuracy(row["solution"], answer=other["answer"])
        assert score.verdict in (CORRECT, WRONG), (row["answer"], other["answer"], score)
        hits += [(row["answer"], other["answer"])] if score.value else []
    assert hits == [("5", "x=5"), ("7", "7"), ("3", "3")]


def test_a_factorial_is_read_up_to_five_hundred():
    assert read("500!").kind == "expression"
    with pytest.raises(Unreadable, match="a giant factorial"):
        read("501!")
