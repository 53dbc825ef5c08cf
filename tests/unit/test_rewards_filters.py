"""Worked cases of the data filters."""

from __future__ import annotations

import time

import pytest

from rewards.filters import (
    PASSED,
    EvaluationIndex,
    has_length,
    has_no_code_block,
    has_short_paragraphs,
    is_correct,
    is_not_repetitive,
    is_single_language,
    is_uncontaminated,
)

ENGLISH = "First we add the number of apples in both baskets and then we divide the sum by two."
CHINESE = "首先我们把两个篮子里的苹果数量加起来，然后除以二，就得到了答案。"
QUESTION = "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins."


def test_only_the_right_answer_is_correct():
    assert is_correct("<think>a</think><answer>42</answer>", answer="42") == PASSED
    for text, reason in (("<think>a</think><answer>41</answer>", "wrong: "), ("42", "unparseable: ")):
        check = is_correct(text, answer="42")
        assert not check.ok
        assert check.reason.startswith(reason)
    assert not is_correct("<answer>42</answer>", prompt="<think>", answer="42").ok
    with pytest.raises(ValueError, match="no reference answer"):
        is_correct("<answer>42</answer>", answer="")


@pytest.mark.parametrize(
    ("completion", "given", "ok"),
    [
        (ENGLISH, {}, True),
        (CHINESE, {}, True),
        (f"{ENGLISH} {CHINESE}", {}, False),
        (ENGLISH, {"prompt": CHINESE}, False),
        (ENGLISH, {"prompt": CHINESE, "language": "en"}, True),
        (f"<think>{CHINESE}</think>{ENGLISH}", {"prompt": CHINESE}, True),
        ("5 + 6 = 11", {"prompt": CHINESE}, True),
        (f"$x$ {CHINESE} ```\nx = 1\n```", {}, True),
        (f"${ENGLISH}$", {"prompt": CHINESE}, False),
    ],
)
def test_a_chain_of_mixed_languages_is_dropped(completion, given, ok):
    check = is_single_language(completion, min_share=0.95, **given)
    assert check.ok == ok
    assert ok or check.reason.startswith("mixed languages: ")


def test_a_share_of_just_the_minimum_is_enough():
    mixed = "So 我们 add the numbers"  # 4 of 5 words
    assert is_single_language(mixed, min_share=0.8, language="en").ok
    assert not is_single_language(mixed, min_share=0.81, language="en").ok


@pytest.mark.parametrize(
    ("completion", "ok"),
    [
        ("", True),
        ("a b c", True),
        ("a b c d", False),
        ("a b\n \t\nc d", True),
        ("a b\nc d", False),  # a line is no paragraph
        ("a\n\nb c d e", False),
        ("a b c</think> a b c d e", True),  # the answer is not the chain
        ("一二三", True),
        ("一二三四", False),
        ("\n" * 1000, True),
        ("\x00 \x00 \x00 \x00", False),
    ],
)
def test_a_long_paragraph_in_the_chain_is_dropped(completion, ok):
    check = has_short_paragraphs(completion, max_words=3)
    assert check.ok == ok
    assert ok or "3 allowed" in check.reason


@pytest.mark.parametrize(
    ("completion", "ok"),
    [
        ("no code", True),
        ("inline `f(x)` and ``g``", True),
        ("inline ```f``` in a sentence", True),
        ("```python\nx = 1\n```", False),
        ("so\n  ```\nx\n```", False),
        ("> ```\n> x", False),
        ("~~~\nx\n~~~", False),
        ("```", False),
        ("a</think>\n```python\nx = 1\n```", True),
        ("<think>\n```\nx\n```\n</think> done", False),
    ],
)
def test_a_code_block_in_the_chain_is_dropped(completion, ok):
    assert has_no_code_block(completion).ok == ok


def test_text_that_repeats_itself_is_dropped():
    assert is_not_repetitive(ENGLISH, max_share=0.0) == PASSED
    assert not is_not_repetitive("wait, let me see. " * 20, max_share=0.5).ok
    assert is_not_repetitive("a b c a b c", max_share=0.25, ngram=3).ok
    assert not is_not_repetitive("a b c a b c", max_share=0.24, ngram=3).ok


def test_lengths_have_bounds_that_are_included():
    assert has_length("a b", at_least=2, at_most=2) == PASSED
    assert has_length("a b", at_least=3).reason == "2 long, at least 3 wanted"
    assert has_length("a b", at_most=1).reason == "2 long, at most 1 allowed"
    assert has_length("a b", at_most=5, completion_tokens=6).reason == "6 long, at most 5 allowed"


# ------------------------------------------------------------------------------------------------ decontamination


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    return EvaluationIndex([QUESTION, "What is 6 x 7?", "珍妮特的鸭子每天下十六个蛋。", ""])


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (QUESTION, False),
        (QUESTION.upper(), False),
        (f"Once: {QUESTION} Indeed.", False),
        ("Ducks lay 16 eggs per day! -- she EATS *three* for breakfast", False),
        ("lay 16 eggs per day she eats three for", True),  # 9 words in a row
        ("lay 16 eggs per day she eats three for breakfast", False),
        ("lay 16 eggs per day he eats three for breakfast", True),  # a paraphrase is not caught
        ("What is 6 x 7?", False),
        ("what is 6 X 7", False),
        ("Tell me what is 6 x 7?", True),  # a short text is found as a whole only
        ("他说珍妮特的鸭子每天下十六个蛋", False),
        ("鸭子每天下蛋", True),
        ("", True),
        ("...", True),
        ("\x00" * 100, True),
    ],
)
def test_a_text_that_shares_ten_words_with_an_evaluation_text_is_contaminated(index, text, ok):
    check = is_uncontaminated(text, index)
    assert check.ok == ok
    assert ok or check.reason.startswith("also in an evaluation text: ")


def test_nine_words_in_a_row_are_one_short_of_ten():
    index = EvaluationIndex(["a b c d e f g h i j k"])
    assert is_uncontaminated("x a b c d e f g h i x", index).ok
    assert index.overlap("x b c d e f g h i j k x") == "b c d e f g h i j k"
    assert len(index) == 2


def test_the_number_of_words_is_a_setting():
    assert EvaluationIndex([QUESTION], ngram=3).overlap("he has 16 eggs per box") == "16 eggs per"
    with pytest.raises(ValueError, match="ngram is 0"):
        EvaluationIndex([QUESTION], ngram=0)


def test_a_short_solution_is_nobodys_own():
    index = EvaluationIndex(["Is the sky blue?"], ["yes", " ".join("abcdefghij")])
    assert index.overlap("is the sky blue") == "is the sky blue"
    assert index.overlap("Yes.") == ""
    assert index.overlap("x a b c d e f g h i j") == "a b c d e f g h i j"


def test_the_wording_that_many_texts_share_is_no_contamination():
    questions = [f"How many of these {i} apples are left over when each child has had one?" for i in range(5)]
    index = EvaluationIndex(questions)
    assert is_uncontaminated(questions[0].replace("0", "70"), index).ok
    assert not is_uncontaminated(questions[0], index).ok
    assert not is_uncontaminated(questions[0].replace("0", "70"), EvaluationIndex(questions[:4])).ok


@pytest.mark.parametrize("times", [1, 4, 5, 32])
def test_a_set_that_lists_each_problem_many_times_is_still_found(times):
    questions = [QUESTION, "How many apples does Anna have when she gives three of her nine away?"] * times
    for question in questions[:2]:
        assert not is_uncontaminated(question, EvaluationIndex(questions)).ok
        assert not is_uncontaminated(question, EvaluationIndex(questions, questions)).ok


@pytest.mark.parametrize("flood", ["a ", "好", "\n\n", "```", "\n \n", "~", "9"])
def test_a_megabyte_is_filtered_in_linear_time(flood):
    mass = flood * (1_000_000 // len(flood.encode()))
    index = EvaluationIndex([QUESTION])
    start = time.process_time()
    assert is_uncontaminated(mass, index).ok
    has_no_code_block(mass)
    has_short_paragraphs(mass, max_words=10)
    is_not_repetitive(mass, max_share=0.5)
    assert time.process_time() - start < 5
