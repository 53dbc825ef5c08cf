"""Problems of an evaluation in training texts: short ones, reformatted ones, and formulas that are nobody's own."""

from __future__ import annotations

import time

import pytest

from rewards.filters import EvaluationIndex, telling_ngrams
from rewards.overlap import Finder, problem_ngrams, sentences_of, words_of
from rl.data.contamination import find_contamination

ROOTS = r"Find the sum of the two positive roots of the equation $x^2 - 5x + 6 = 0$ when it has any."
FORMULA = r"x^4 - 3x^3 + 2x^2 - 7x + 11 = y^4 - 3y^3 + 2y^2 - 7y + 11 + z^2"
BINOMIAL = r"Compute $\dbinom{31}{28}$."
PRODUCT = "What is 6 x 7?"
SIMPLIFY = r"Simplify $\frac{(10r^3)(4r^6)}{8r^4}$."


def found(problem: str, text: str) -> bool:
    by_stage = bool(find_contamination([problem], [text]).problems)
    assert by_stage == bool(EvaluationIndex([problem]).overlap(text))
    return by_stage


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        # a formula alone, whatever stands around it
        (f"Let ${FORMULA}$. Find all integers that solve it, with proof.", f"The curve ${FORMULA}$ has no cusp."),
        (f"Solve ${FORMULA}$.", f"${FORMULA}$"),
        (f"Solve ${FORMULA}$.", f"Differentiate ${FORMULA}$."),
        (f"Solve ${FORMULA}$.", f"If we solve ${FORMULA}$ by hand, it takes long."),
        (r"Solve $x^2-5x+6=0$.", r"$x^2-5x+6=0$ has the roots 2 and 3."),
        (rf"${FORMULA}$", f"Here\n${FORMULA}$\nis shown."),
        ("The numbers 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144 are what?", "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233"),
        ("[asy] draw((0,0)--(10,0)); draw((0,3)--(10,3)); [/asy] What is x?", "[asy] draw((0,0)--(10,0)); draw((0,3)--(10,3)); [/asy]"),
        # another problem
        (BINOMIAL, r"Compute $\dbinom{31}{27}$."),
        (BINOMIAL, r"Compute $\dbinom{31}{28}$ and $\dbinom{31}{3}$."),
        (BINOMIAL, r"Then compute $\dbinom{31}{28}$ as above"),
        (PRODUCT, "What is 6 x 8?"),
        (PRODUCT, "Nobody knows what is 6 x 7 here."),
        (PRODUCT, "What is 6 x 7 + 1?"),
        ("Find $x$.", "We have a triangle. Find $x$. Then find $y$."),
        ("Why?", "He left. Why? Nobody knows."),
        (ROOTS, ROOTS.replace("sum", "product").replace("roots", "zeros")),
        ("", ""),
        ("...", "..."),
        (ROOTS, ""),
    ],
)  # fmt: skip
def test_what_is_no_contamination(problem, text):
    assert not found(problem, text)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        # short problems behind and before what others add
        (PRODUCT, "what is 6 x 7"),
        (PRODUCT, "Question: What is 6 x 7?"),
        (PRODUCT, "Problem 12. What is 6 x 7? Think step by step."),
        (PRODUCT, "Solve the following problem.\nWhat is 6 x 7?\nPut your answer in \\boxed{}."),
        (PRODUCT, "<|im_start|>user\nWhat is 6 x 7?<|im_end|>\n<|im_start|>assistant\n42"),
        (PRODUCT, "**Problem**\n\n> **What is 6 x 7?**"),
        (PRODUCT, "Q: What is 6 x 7?\nA: 42"),
        (BINOMIAL, r"Problem: Compute $\dbinom{31}{28}$. Answer: 4495"),
        ("珍妮特有几只鸭子？", "问题：珍妮特有几只鸭子？请回答。"),
        # formulas in another form
        (BINOMIAL, r"Compute \(\binom{31}{28}\)"),
        (BINOMIAL, r"Compute $ \tbinom {31} {28} $."),
        (BINOMIAL, "Compute\n\\[\\dbinom{31}{28}.\\]"),
        (SIMPLIFY, r"Simplify $$\dfrac{(10 r^3)(4 r^6)}{8 r^4}.$$"),
        (SIMPLIFY, r"Simplify \(\frac{(10r^{3})(4r^{6})}{8r^{4}}\)"),
        (ROOTS, ROOTS.replace(" - ", "-").replace(" + ", "+").replace(" = ", "=")),
        (ROOTS, ROOTS.replace("$x", r"\(x").replace("0$", r"0\)")),
        (ROOTS, ROOTS.replace("$", "")),
        (ROOTS, ROOTS.replace("$", "").replace(" ", "  ")),
        (ROOTS, ROOTS.replace("-", "−")),
        (ROOTS, "Exercise 4: " + ROOTS.upper()),
        (r"How many cm is $3\times 4 \leq n \cdot 5$ for the least whole n of all?", "How many cm is $3 × 4 ≤ n · 5$ for the least whole n of all?"),
        (r"Is $1 + 2 \left( 3 \right) = 7$?", "Is 1 + 2(3) = 7?"),
        ("What is 1 + 2?", "what is 1+2"),
        # money is prose
        ("She has $5 and he has $10, so what do both have when she gives him $2?", "He said: she has $5 and he has $10, so what do both have at all?"),
        # formulas alone, as a whole
        (f"${FORMULA}$", rf"\({FORMULA}\)"),
        # words around formulas
        (ROOTS, f"As before, {ROOTS[:75]} and so on"),
    ],
)  # fmt: skip
def test_short_and_reformatted_problems_are_found(problem, text):
    assert found(problem, text)


def test_a_problem_of_many_words_that_are_all_formulas_is_found_as_a_whole():
    problem = " ".join(f"$a_{{{i}}} + {i} = b$," for i in range(12))
    assert found(problem, "Problem:\n" + problem.replace(" = ", "=")) is False
    assert found(problem, problem.replace(" = ", "="))


def test_the_report_says_what_it_cannot_see():
    alike = [f"How many of these {i} apples are left over when each child has had one?" for i in range(8)]
    clean = find_contamination([*alike, PRODUCT], ["something else"])
    assert "paraphrases, translations, other numbers or names are not found" in clean.report()
    assert "nor are" not in clean.report()
    same = find_contamination(["Find it.", "Why?", *["?"] * 3], ["Find it. Now."])
    assert same.unseen == 3
    assert "nor are 3 problems" in same.report()
    assert "not found" in find_contamination([PRODUCT], [PRODUCT]).report()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"Find $x^2 + 1$, so.", ["find", "x^2+1", "so"]),
        (r"If \(x\) or $\dfrac{1}{2}$", ["if", "x", "or", "frac12"]),
        ("a + b = c - d and eggs -- she", ["a+b=c-d", "and", "eggs", "she"]),
        ("well - known *three* 3 * 4", ["well", "known", "three", "3*4"]),
        ("$5 and then $10", ["5", "and", "then", "10"]),
        ("他有$x + 1$个", ["他", "有", "x+1", "个"]),
        ("+ 1 +", ["1"]),
    ],
)
def test_a_formula_is_one_word(text, words):
    assert words_of(text) == words


def test_sentences_end_at_lines_and_stops():
    text = 'Q1: Find $x$. "Why?" (So.)\n他说：好。完'
    assert sentences_of(text) == [["q1"], ["find", "x"], ["why"], ["so"], ["他", "说"], ["好"], ["完"]]


def test_the_finder_agrees_with_a_plain_search():
    problems = [f"word{i} a b word{i + 1} c d e f g h word{i % 3} i j k l" for i in range(50)]
    words_P = [words_of(problem) for problem in problems]
    ngrams_P = [problem_ngrams(words, 10) for words in words_P]
    ngrams = telling_ngrams(ngrams_P)
    finder = Finder(words_P, ngrams, 10)
    for text in (*problems, "x " + problems[3] + " y " + problems[7][:40], "a b c d e f g h i j k l"):
        words = words_of(text)
        plain = [" ".join(w) for i in range(len(words) - 9) if hash(w := tuple(words[i : i + 10])) in ngrams]
        assert list(finder.find(text).values()) == list(dict.fromkeys(plain))


FLOODS = ["$", "$a ", "$a b$ ", "\\(", "\\( a", "\\[", "a + ", "1 + 1 ", "x = ", "     ", "{", "\\left", "~", "a, ", "what is 6 x 7? ", "好。", ". "]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_megabyte_of_anything_is_looked_through_in_two_seconds(flood):
    index = EvaluationIndex([PRODUCT, ROOTS, BINOMIAL])
    text = flood * (1_000_000 // len(flood.encode()))
    start = time.process_time()
    index.overlap(text)
    assert time.process_time() - start < 2
