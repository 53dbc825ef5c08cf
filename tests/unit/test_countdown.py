"""Worked cases of the countdown reward, the hostile ones first."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from rewards.countdown import MAX_LENGTH, Refused, countdown, evaluate, given_numbers
from rewards.types import CORRECT, UNPARSEABLE, WRONG

NUMBERS, TARGET = [3, 5, 7, 50], 36  # (7 + 5) * 3


def think(answer: str) -> str:
    return f"<think>so it goes</think>\n<answer>{answer}</answer>"


NOT_ARITHMETIC = {
    "an import": "__import__('os').system('true')",
    "an import that is added": "(7+5)*3 + __import__('os').getpid()*0",
    "a lambda": "(lambda: 36)()",
    "a list comprehension": "[x for x in [36]][0]",
    "a generator": "sum(x for x in (36,))",
    "an f-string": "f'{36}'",
    "a walrus": "(x := 36)",
    "an attribute": "(36).real",
    "an attribute of a number": "36 .numerator",
    "a subscript": "(36,)[0]",
    "a call": "int('36')",
    "a call without a name": "3(5)",
    "eval": "eval('(7+5)*3')",
    "exec": "exec('1')",
    "print": "print((7+5)*3)",
    "a name": "target",
    "numbers by name": "numbers[0]",
    "a condition": "36 if 1 else 0",
    "a comparison": "36 == 36",
    "a chained comparison": "1 < 36",
    "a boolean": "True * 36",
    "and": "1 and 36",
    "not": "not 0",
    "a string": "'36'",
    "bytes": "b'36'",
    "a tuple": "(7+5)*3,",
    "a dictionary": "{36: 36}",
    "an empty tuple": "()",
    "an ellipsis": "...",
    "an await": "await f()",
    "a yield": "(yield 36)",
    "a star": "*(36,)",
    "a power": "6**2",
    "a tower of powers": "9**9**9**9",
    "a tower with carets": "9^9^9^9",
    "a power with a space": "9* *9",
    "whole division": "72//2",
    "a remainder": "36%50",
    "bits": "36|0",
    "a shift": "9<<2",
    "a giant shift": "1<<99999999999",
    "a complement": "~-37",
    "a matrix product": "6@6",
    "a factorial": "3!*6",
    "a decimal": "7.2*5",
    "a float": "3.6e1",
    "hexadecimal": "0x24",
    "underscores": "3_6",
    "leading zeros": "(7+05)*3",
    "an imaginary number": "36j",
    "thirteen digits": "1" * 13,
    "a hundred thousand digits": "3" * 100_000,
    "three hundred brackets": "(" * 300 + "36" + ")" * 300,
    "twenty-one brackets": "(" * 21 + "36" + ")" * 21,
    "brackets around brackets": "((((" * 50,
    "a hundred minus signs": "-" * 100 + "36",
    "four minus signs": "----36",
    "a flood of additions": "+".join("1" * 200_000),
    "a megabyte of brackets": "()" * 500_000,
    "a megabyte of spaces inside": "(7+5)" + "\u00a0\x00" * 500_000 + "*3",
    "a null byte": "(7+5)*3\x00",
    "a null byte inside": "(7+5)\x00*3",
    "a right-to-left mark": "\u200f(7+5)*3",
    "a zero-width space": "(7+5)\u200b*3",
    "Arabic-Indic digits": "(٧+٥)*٣",
    "full-width digits": "（７+５）*３",
    "superscripts": "6²",
    "a letter for times": "(7+5)x3",
    "prose": "The expression is (7+5)*3",
    "a denial": "it is not (7+5)*3",
    "a newline and a statement": "(7+5)*3;import os",
    "a comment": "(7+5)*3 # = 36",
    "a semicolon": "(7+5)*3;",
    "two claims": "(7+5)*3 = 36 = 36",
    "a claim that is an expression": "(7+5)*3 = 30+6",
    "a claim that is no number": "(7+5)*3 = target",
    "nothing before the claim": "= 36",
    "nothing after the claim": "(7+5)*3 =",
    "an assignment": "x = 36",
    "brackets that do not close": "(7+5*3",
    "brackets that do not open": "7+5)*3",
    "an operator too many": "(7+5)*/3",
    "no operator": "(7+5) 3",
    "an operator alone": "+",
    "LaTeX fractions": r"\frac{36}{1}",
    "a LaTeX power": r"6^{2}",
    "a format string": "{target}",
    "a percent format": "%d",
    "a template": "${36}",
    "a shell command": "$(echo 36)",
    "an HTML comment": "<!-- 36 -->",
    "a path": "/dev/zero",
}


def verdict_on(completion: str, **row: object):
    start = time.process_time()
    score = countdown(completion, **{"numbers": NUMBERS, "target": TARGET, **row})
    assert time.process_time() - start < 2
    return score


@pytest.mark.parametrize("case", NOT_ARITHMETIC)
def test_what_is_no_plain_arithmetic_is_refused_unread(case):
    score = verdict_on(think(NOT_ARITHMETIC[case]))
    assert (score.value, score.verdict) == (0.0, UNPARSEABLE), score
    assert score.reason


NO_ANSWER = {
    "nothing at all": "",
    "no tags": "(7+5)*3",
    "inside the thinking": "<think><answer>(7+5)*3</answer></think>",
    "thinking that never ends": "<think><answer>(7+5)*3</answer>",
    "an answer that never ends": "<think>a</think><answer>(7+5)*3",
    "an answer that never opens": "<think>a</think>(7+5)*3</answer>",
    "tags in capitals": "<think>a</think><ANSWER>(7+5)*3</ANSWER>",
    "an empty answer": think("  "),
    "tags in code": "<think>a</think>```\nprint('<answer>')\n(7+5)*3\n```",
    "a megabyte of opening tags": "<answer>" * 125_000,
}


@pytest.mark.parametrize("case", NO_ANSWER)
def test_without_an_answer_part_there_is_no_answer(case):
    score = verdict_on(NO_ANSWER[case])
    assert (score.value, score.verdict) == (0.0, UNPARSEABLE), score
    assert score.reason


WRONG_ANSWERS = {
    "the target alone": ("36", "not among"),
    "a number that is not given": ("30 + 6", "not among"),
    "a number twice": ("(7 + 5) * 3 + 5 - 5", "not among"),
    "a number hidden by zero": ("(7 + 5) * 3 + 0 * 50", "not among"),
    "digits that are joined": ("35 + 7 - 3", "not among"),
    "a negative of a number not given": ("-4 + 50 - 3 - 7", "not among"),
    "another value": ("7 * 5", "comes to 35"),
    "nearly the value": ("50 - 7 - 5", "comes to 38"),
    "a fraction": ("50 / 7 * 5", "comes to 250/7"),
    "division by zero": ("3 / (5 - 5)", "divides by zero"),
    "division by a zero that is computed": ("50 / (7 - 5 - 3 + 1)", "divides by zero"),
    "a claim that is not so": ("(7 + 5) * 3 = 37", "says"),
    "a value that only its claim makes right": ("7 * 5 = 36", "comes to 35"),
    "boxes that differ": (r"\boxed{(7+5)*3} \boxed{36}", "differ"),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_a_wrong_expression_is_not_paid_and_the_reason_says_why(case):
    text, reason = WRONG_ANSWERS[case]
    score = verdict_on(think(text))
    assert (score.value, score.verdict) == (0.0, WRONG), score
    assert reason in score.reason


HONEST = {
    "an expression": "(7 + 5) * 3",
    "without spaces": "(7+5)*3",
    "with its value": "(7 + 5) * 3 = 36",
    "all numbers": "(7 + 5) * 3 * 50 / 50",
    "a box": r"\boxed{(7 + 5) \times 3}",
    "LaTeX": r"$\left(7+5\right) \cdot 3$",
    "signs of the printer": "(7 + 5) × 3",
    "a leading minus": "-3 * (-7 - 5)",
    "square brackets": "[7 + 5] * 3",
    "several lines": "(7 + 5)\n * 3",
}


@pytest.mark.parametrize("case", [case for case in HONEST if case != "all numbers"])
def test_an_expression_that_reaches_the_target_is_paid(case):
    assert verdict_on(think(HONEST[case])) == (1.0, CORRECT, "")


def test_a_fraction_on_the_way_is_exact():
    assert verdict_on(think("8 / (3 - 8 / 3)"), numbers=[3, 3, 8, 8], target=24).verdict == CORRECT
    assert verdict_on(think("1 / 3 * 3"), numbers=[1, 3, 3], target=1).verdict == CORRECT


def test_a_number_may_be_used_as_often_as_it_is_given():
    assert verdict_on(think("5 + 5"), numbers=[5, 5], target=10).verdict == CORRECT
    assert verdict_on(think("5 + 5"), numbers=[5, 7], target=10).verdict == WRONG
    assert verdict_on(think(HONEST["all numbers"]), numbers=[3, 5, 7, 50, 50]).verdict == CORRECT
    assert verdict_on(think(HONEST["all numbers"])).verdict == WRONG


def test_use_all_asks_for_every_number():
    short = verdict_on(think("(7 + 5) * 3"), use_all=True)
    assert (short.verdict, short.reason) == (WRONG, "does not use 50")
    assert verdict_on(think("(7 + 5) * 3"), numbers=[3, 5, 7], use_all=True).verdict == CORRECT


@pytest.mark.parametrize(
    "numbers", [[3, 5, 7], (3, 5, 7), ["3", "5", "7"], "[3, 5, 7]", "3 5 7", "3,5,7", " (3, 5, 7) "]
)
@pytest.mark.parametrize("row", [{"target": 36}, {"target": "36"}, {"answer": "36"}, {"answer": 36, "target": None}])
def test_numbers_and_target_may_come_as_text(numbers, row):
    assert countdown(think("(7+5)*3"), numbers=numbers, **row).verdict == CORRECT
    assert countdown(think("(7+5)-3"), numbers=numbers, **row).verdict == WRONG


def test_the_target_column_goes_before_the_answer_column():
    assert countdown(think("7+5"), numbers=[5, 7], target=12, answer="no solution").verdict == CORRECT


@pytest.mark.parametrize("numbers", ["", "[]", [], "[3, x]", [1.5], [True], "__import__('os')", ["9" * 13]])
def test_a_row_without_integers_is_an_error_and_not_a_wrong_answer(numbers):
    with pytest.raises(ValueError, match="countdown: "):
        countdown(think("3"), numbers=numbers, target=3)


@pytest.mark.parametrize("target", [None, "", "x", "3.5", 3.5, True, "9" * 13])
def test_a_row_without_a_target_is_an_error_and_not_a_wrong_answer(target):
    with pytest.raises(ValueError, match="target"):
        countdown(think("3"), numbers=[3], target=target)


def test_a_prompt_that_opens_the_thinking_puts_the_completion_inside_it():
    assert verdict_on("<answer>(7+5)*3</answer>", prompt="A: <think>").verdict == UNPARSEABLE
    assert verdict_on("a</think><answer>(7+5)*3</answer>", prompt="A: <think>").verdict == CORRECT


def test_an_expression_is_worked_out_in_fractions_and_its_numbers_counted():
    assert evaluate("(7 - 5) * 3 / 4") == (Fraction(3, 2), {7: 1, 5: 1, 3: 1, 4: 1})
    assert evaluate("1 / (2 - 2)")[0] is None
    assert given_numbers("[3, 5, 5]") == {3: 1, 5: 2}


def test_the_caps_let_through_what_is_just_below_them():
    assert evaluate("(" * 20 + "36" + ")" * 20)[0] == 36
    assert evaluate("9" * 12)[0] == 10**12 - 1
    longest = "1+" * (MAX_LENGTH // 2 - 1) + "10"
    assert len(longest) == MAX_LENGTH
    assert evaluate(longest)[0] == MAX_LENGTH // 2 - 1 + 10
    with pytest.raises(Refused, match="characters"):
        evaluate(longest + "0")
