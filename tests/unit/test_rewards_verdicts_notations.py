"""Notations that real answers use, in several languages, and what looks like them and is something else."""

from __future__ import annotations

import pytest

from rewards.accuracy import accuracy, check_reference

PAID = [
    # inequalities and sets of numbers
    ("x+y\\le 3", "y\\le 3-x"), ("2x-y>1", "y<2x-1"), ("3a-b \\ge 2", "b \\le 3a-2"),
    (r"(-\infty,-2)\cup(2,\infty)", "|x|>2"), ("(-2,2)", "|x|<2"), ("|x|<3", "-3<x<3"), ("|x|<3", "(-3,3)"),
    (r"|x-1|\le 2", "[-1,3]"), ("[-1,3]", r"|x-1|\le 2"), ("[-1,3]", r"|1-x|\le 2"), ("[-1,3]", r"2 \ge |x-1|"),
    (r"(-2,\frac{1}{3})", r"|6t+5| < 7"), (r"\emptyset", "|x|<-1"), (r"\mathbb{R}", r"|x|\ge 0"),
    ("(1,5)", "]1,5["), ("[1,5)", "[1;5["), (r"x\le 7", r"]-\infty, 7]"), (r"(-\infty,-1)\cup(3,\infty)", r"]-\infty,-1[ \cup ]3,\infty["),
    (r"[0,\infty)", r"\mathbb{R}_{\ge 0}"), (r"[0,\infty)", r"\mathbb{R}_0^+"), (r"(0,\infty)", r"\mathbb{R}_{>0}"), (r"(-\infty,0)", r"\mathbb{R}^-"),
    (r"(0,1)\cup(1,2)", r"(0,2)\setminus\{1\}"), (r"\{1,3\}", r"\{1,2,3\}\setminus\{2\}"),
    # units, counted things, angles
    ("60 mph", "60 miles per hour"), ("5 m/s", r"5\ \mathrm{m\,s^{-1}}"), ("5 m/s", r"5\frac{\text{m}}{\text{s}}"), ("5 m/s", "5 meters per second"),
    (r"9.8\text{ m/s}^2", r"9.8\,\mathrm{m\,s^{-2}}"), ("80 km/h", "80 kilometers per hour"),
    ("8个", "8"), ("6人", "6"), ("3万", "30000"), ("2亿元", "200,000,000"), ("120千米", "120 km"),
    ("5 ft 6 in", "5' 6\""), ("2 h 30 min", "2 hours 30 minutes"), ("2 h 30 min", "2 hours and 30 minutes"), ("1 min 5 s", "1 minute 5 seconds"),
    (r"\frac{\pi}{6}", r"30^\circ"), (r"180^\circ", r"\pi"), (r"\frac{5\pi}{4}", "225 degrees"), (r"45^\circ", r"\frac{\pi}{4}\text{ radians}"),
    # ratios, fractions, fonts, frames
    ("3:4", "6:8"), ("2:3:4", "4:6:8"), ("3:4", r"3\text{ to }4"), ("3:4", "3 to 4"), (r"\frac{3}{2}", r"{3 \over 2}"),
    ("5", "`5`"), ("5", r"\bf{5}"), ("5", r"{\bf 5}"), ("5", r"\fbox{5}"), ("5", r"\underline{5}"), ("5", "5\\ "), ("5", "5 \\\\"), ("5 cm", r"5 {\rm cm}"),
    # choices, names, words
    ("A,C", "AC"), ("AC", "A, C"), ("ABD", "A, B, D"), ("A, B", "A and B"), ("(A), (C)", "A、C"), ("B", "Option B"), ("D", "choice (D)"),
    (r"\frac{dy}{dx}=2x", "2x"), ("f^{-1}(x)=x-1", "x-1"), ("42", r"\text{Area} = 42"), ("42", "Total cost = 42"),
    ("DNE", "does not exist"), ("infinity", r"\infty"), (r"\infty", "infinity"), (r"-\infty", "negative infinity"),
]  # fmt: skip
WRONG = [
    ("2x-y>1", "y>2x-1"), ("2x-y>1", r"y\le 2x-1"), ("2x-y>1", "y<2x+1"), ("(-2,2)", r"|x|\le 2"), ("(-2,2)", "|x|<3"), ("(-2,2)", "|x|>2"),
    ("[-1,3]", "|x+1|\\le 2"), ("|x|<3", "x<3"), ("|x|<3", "|x|<4"), ("|x|<3", "|y|<3"), (r"\mathbb{R}", "|x|>0"), ("(1,5)", "[1,5["), ("(1,5)", "]1,5]"),
    (r"[0,\infty)", r"\mathbb{R}^+"), (r"[0,\infty)", r"\mathbb{R}_{\le 0}"), (r"(0,2)\setminus\{1\}", "(0,2)"), (r"(0,2)\setminus\{1\}", "(0,1)"),
    ("5 MHz", "5 mHz"), ("5 MW", "5 mW"), ("5 mg", "5 Mg"), ("60 mph", "60 km per hour"), ("5 m/s", "5 m"), ("5 m/s", r"5\,\mathrm{m\,s^{-2}}"), ("5 m/s", "5 m per minute"),
    ("3万", "3"), ("3万人", "3人"), ("3亿", "3万"), ("2 h 30 min", "30 h 2 min"), ("2 h 30 min", "2.3 h"), ("5 ft 6 in", "6' 5\""),
    (r"\frac{\pi}{6}", "30"), (r"\frac{\pi}{6}", r"60^\circ"), (r"30^\circ", r"\frac{\pi}{3}"), ("30", r"\frac{\pi}{6}"), ("1", r"\frac{180}{\pi}^\circ"),
    ("3:4", "4:3"), ("3:4", "0:0"), ("3:4", "3:4:0"), ("2:3:4", "2:3"), ("3:40", "6:80"), ("x:y", "(y-y):(y-y)"), ("3:4", "3+4"),
    ("A,C", "A"), ("A,C", "A,B,C"), ("A,C", "C A B"), ("A,C", "A or C"), ("AC", "A"), ("B", "Option C"), ("B", "Option B or C"),
    ("5", "The answer is 5"), ("5", "The answer is 5 or 6"), ("5", "The answer is 6"), ("5", "Answer: 4, no, 5"), ("5", "答案不是5"), ("3", r"\text{not } = 3"),
    ("DNE", "0"), (r"\infty", r"-\infty"), (r"\infty", "a large number"), (r"\text{width}=3", r"\text{length}=3"),
]  # fmt: skip


def paid(gold: str, answer: str, prompt: str = "") -> float:
    return accuracy(f"<think>so</think> <answer>{answer}</answer>", prompt=prompt, answer=gold).value


@pytest.mark.parametrize(("gold", "answer"), PAID)
def test_the_same_answer_in_another_notation_is_paid(gold, answer):
    assert paid(gold, answer) == 1


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_what_only_looks_like_it_is_not_paid(gold, answer):
    assert paid(gold, answer) == 0


@pytest.mark.parametrize(
    "gold", ["证明略", "略", "无", "见解析", "(proof)", "Beweis", "sin respuesta", "нет ответа", "解答なし"]
)
def test_a_reference_that_says_that_there_is_none_is_refused_in_other_languages(gold):
    assert check_reference(gold)
    assert paid(gold, gold) == 0


def test_an_absolute_value_of_the_question_is_still_to_be_resolved():
    prompt = r"Solve $|x-1| \le 2$."
    assert paid("[-1,3]", r"|x-1| \le 2", prompt) == 0
    assert paid("[-1,3]", r"|1-x| \le 2", prompt) == 0
    assert paid("[-1,3]", r"-1 \le x \le 3", prompt) == 1


EVALUATED = [
    (r"\int_0^1 x\,dx", "1/2"), (r"\int_{0}^{\pi}\sin x\,dx", "2"), (r"\int_1^e \frac{1}{x} dx", "1"), (r"\int_{1}^{2} \frac{3}{x^2}\,dx", r"\frac32"),
    (r"\int_0^4 \sqrt{x}\,dx", r"\frac{16}{3}"), (r"\int_0^1 x(1-x)\,dx", r"\frac16"), (r"\int_0^1 e^{2x}dx", r"\frac{e^2-1}{2}"),
    (r"\int_0^{\frac{\pi}{2}} 2\cos t\,dt", "2"), (r"\int_{-3}^{-1} \frac{1}{x}\,dx", r"-\ln 3"), (r"\int_0^1 (2x+1)^3\,dx", "10"),
    (r"\int_{0}^{1} \frac{1}{\sqrt{2x+1}}\,dx", r"\sqrt3-1"), (r"\int_0^2 5\,dx", "10"), (r"\int_0^1 (e^x+x)\,dx", r"e-\frac12"),
    (r"\lim_{x \to 1}\frac{x^2-1}{x-1}", "2"), (r"\lim_{x\to\infty}\frac{3x^2+1}{2x^2-x}", "1.5"), (r"\lim_{x\to 0} \cos x", "1"),
    (r"\lim_{n\to\infty} \frac{n^2}{n+1}", r"\infty"), (r"\lim_{x\to-\infty} \frac{x^3}{x^2+1}", r"-\infty"), (r"\lim_{h\to 0}\frac{(3+h)^2-9}{h}", "6"),
    (r"\sum_{k=0}^\infty \frac{1}{2^k}", "2"), (r"\sum_{n=1}^{\infty} \left(-\frac{1}{3}\right)^n", r"-\frac14"), (r"\sum_{n=2}^\infty \frac{3}{5^n}", r"\frac{3}{20}"),
    (r"\sum_{n=1}^{\infty}\frac{1}{n^2}", r"\frac{\pi^2}{6}"), (r"\sum_{n=1}^{\infty}\frac{2}{n^4}", r"\frac{\pi^4}{45}"), (r"\sum_{k=2}^\infty \frac{1}{k^2}", r"\frac{\pi^2}{6}-1"),
    (r"\sum_{n=0}^\infty \frac{1}{n!}", "e"), (r"\sum_{n=0}^\infty \frac{2^n}{n!}", "e^2"), (r"\sum_{k=1}^\infty\frac{1}{k(k+1)}", "1"), (r"1+\sum_{k=1}^{\infty} \frac{1}{3^k}", "1.5"),
]  # fmt: skip
NOT_EVALUATED = [
    r"\int_{-1}^1 \frac1x dx", r"\int_{-1}^{1} x^{-2} dx", r"\int_0^1 e^{x^2}dx", r"\int_0^1 \ln x\,dx", r"\int_0^\infty e^{-x}dx", r"\int x\,dx", r"\int_0^a x\,dx",
    r"\int_{-1}^1 \sqrt{x}\,dx", r"\int_0^1 x^2 \sin x\,dx", r"\iint_D x\,dA", r"\oint_C f",
    r"\lim_{x\to 0} \frac{1}{x}", r"\lim_{x\to 0} \frac{\sin x}{x}", r"\lim_{x\to\infty} \sin x", r"\lim_{x\to 2} \lfloor x\rfloor", r"\lim_{x\to 0^+} \frac1x", r"\lim_{x\to 0} \frac{|x|}{x}",
    r"\sum_{k=1}^\infty \frac1k", r"\sum_{k=0}^{\infty} 2^k", r"\sum_{k=1}^{\infty}\frac{1}{k^3}", r"\sum_{k=0}^\infty x^k", r"\sum_{k=0}^\infty (-1)^k", r"\prod_{k=1}^\infty \frac{1}{2}",
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EVALUATED)
def test_integrals_limits_and_sums_among_references_have_their_exact_value(gold, answer):
    assert check_reference(gold) is None
    assert paid(gold, answer) == 1
    assert paid(gold, f"{answer}+10^{{-30}}") == 0
    assert paid(answer, gold) == 0  # as an answer, it is left to be evaluated


@pytest.mark.parametrize("gold", NOT_EVALUATED)
def test_what_has_no_value_or_none_that_is_known_is_refused(gold):
    assert check_reference(gold)
