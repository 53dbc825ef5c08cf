"""Worked cases of the forms beside R1's own (that is in test_rewards.py), the hostile ones first."""

from __future__ import annotations

import time

import pytest

from rewards.format import (
    BOXED,
    COLD_START,
    R1,
    check_form,
    format_boxed,
    format_boxed_opened,
    format_cold_start,
    format_r1,
    format_r1_opened,
)
from rewards.types import CORRECT, WRONG

BOX = r"\boxed"
TOKEN = "|special_token|"
PROMPT = "Assistant:"
INVISIBLE = {
    "spaces": " \n\t",
    "zero-width spaces": "\u200b\u200c\u200d",
    "null bytes": "\x00\x00",
    "right-to-left marks": "\u200f\u202e",
    "byte-order marks": "\ufeff",
    "soft hyphens": "\xad",
    "accents on nothing": "\u0301",
    "Hangul fillers": "\u3164\u115f",
    "blank Braille": "\u2800",
    "tag characters": "\U000e0041",
}

# ------------------------------------------------------------------------------------------------ R1


@pytest.mark.parametrize("ink", INVISIBLE)
def test_a_part_in_which_nothing_is_seen_is_empty(ink):
    nothing = INVISIBLE[ink]
    for text, part in (
        (f"<think>{nothing}</think><answer>42</answer>", "think"),
        (f"<think>a</think><answer>{nothing}</answer>", "answer"),
    ):
        score = format_r1(text, prompt=PROMPT)
        assert (score.value, score.reason) == (0, f"the {part} part is empty")


HOSTILE_R1 = {
    "tags with a zero-width space": "<th\u200bink>a</think><answer>42</answer>",
    "tags with a null byte": "<think\x00>a</think><answer>42</answer>",
    "tags of full-width brackets": "＜think＞a＜/think＞＜answer＞42＜/answer＞",
    "tags in a code block": "```\n<think>a</think><answer>42</answer>\n```",
    "tags with attributes": '<think lang="en">a</think><answer>42</answer>',
    "tags in HTML's own escapes": "&lt;think&gt;a&lt;/think&gt;&lt;answer&gt;42&lt;/answer&gt;",
    "a right-to-left mark before": "\u200f<think>a</think><answer>42</answer>",
    "a right-to-left mark after": "<think>a</think><answer>42</answer>\u200f",
    "tags quoted in the thinking": "<think>I write </think> then <answer></think><answer>42</answer>",
    "a thousand tags": "<think>" * 1000 + "a" + "</think>" * 1000 + "<answer>42</answer>",
    "a thousand answers": "<think>a</think>" + "<answer>42</answer>" * 1000,
    "every tag but in reverse": "</answer>42<answer></think>a<think>",
    "nested answers in thinking": "<think><answer>41</answer></think><answer>42</answer>",
    "the cold-start form": f"{TOKEN}a{TOKEN}42",
    "a megabyte before": "a" * 1_000_000 + "<think>a</think><answer>42</answer>",
}


@pytest.mark.parametrize("case", HOSTILE_R1)
def test_a_hostile_completion_has_not_r1_s_form(case):
    score = format_r1(HOSTILE_R1[case], prompt=PROMPT)
    assert (score.value, score.verdict) == (0, WRONG)
    assert score.reason


def test_r1_s_form_may_hold_anything_but_its_tags():
    for inside in ("4" * 100_000, "x" * 1_000_000, "a\x00b", "\u200fשלום", "1 < 2 </div>", "∞", "-", "首先 and потом"):
        assert format_r1(f"<think>{inside}</think>\r\n<answer>{inside}</answer>", prompt=PROMPT).verdict == CORRECT


# ------------------------------------------------------------------------------------------------ boxed

NOT_BOXED = {
    "nothing at all": "",
    "no box": "<think>a</think> 42",
    "a box in the thinking only": f"<think>{BOX}{{42}}</think> 42",
    "two boxes": f"<think>a</think>{BOX}{{42}}{BOX}{{42}}",
    "a box in a box": f"<think>a</think>{BOX}{{{BOX}{{42}}}}",
    "a box that never closes": f"<think>a</think>{BOX}{{42",
    "a box and one that never closes": f"<think>a</think>{BOX}{{42}} {BOX}{{42",
    "a box without braces": f"<think>a</think>{BOX} 42",
    "an empty box": f"<think>a</think>{BOX}{{ }}",
    "a box of zero-width spaces": f"<think>a</think>{BOX}{{\u200b}}",
    "a box of a null byte": f"<think>a</think>{BOX}{{\x00}}",
    "a box before the thinking": f"{BOX}{{42}}<think>a</think>42",
    "text before the thinking": f"So <think>a</think>{BOX}{{42}}",
    "no thinking": f"{BOX}{{42}}",
    "empty thinking": f"<think></think>{BOX}{{42}}",
    "thinking that never ends": f"<think>a {BOX}{{42}}",
    "thinking that never began": f"a</think>{BOX}{{42}}",
    "thinking twice": f"<think>a</think><think>b</think>{BOX}{{42}}",
    "nested thinking": f"<think><think>a</think></think>{BOX}{{42}}",
    "tags the wrong way round": f"</think>a<think>{BOX}{{42}}",
    "an escaped brace": rf"<think>a</think>{BOX}\{{42\}}",
    "a thousand boxes": "<think>a</think>" + f"{BOX}{{42}}" * 1000,
    "a thousand opened boxes": "<think>a</think>" + f"{BOX}{{" * 1000,
    "a box with a zero-width space in its name": "<think>a</think>\\box\u200bed{42}",
    "a framed box": r"<think>a</think>\fbox{42}",
}


@pytest.mark.parametrize("case", NOT_BOXED)
def test_a_hostile_completion_has_not_the_boxed_form(case):
    score = format_boxed(NOT_BOXED[case], prompt=PROMPT)
    assert (score.value, score.verdict) == (0, WRONG)
    assert score.reason


@pytest.mark.parametrize(
    "text",
    [
        f"<think>a</think>{BOX}{{42}}",
        f"\n <think>\na\n</think>\r\n\n The answer is ${BOX}{{42}}$.\n",
        f"<think>{BOX}{{41}}? {BOX}{{42}}!</think>{BOX} {{\\frac{{1}}{{2}}}}",
        "<think>a</think>" + f"{BOX}{{{'4' * 100_000}}}",
    ],
)
def test_thinking_and_then_one_box_is_the_boxed_form(text):
    assert format_boxed(text, prompt=PROMPT) == (1, CORRECT, "")


def test_the_boxed_form_follows_a_template_that_opens_the_thinking():
    inside = f"a</think>{BOX}{{42}}"
    assert format_boxed(inside, prompt="Assistant: <think>\n").value == 1
    assert format_boxed_opened(inside).value == 1
    assert format_boxed(f"<think>{inside}", prompt="Assistant: <think>\n").value == 0
    assert format_boxed(inside, prompt=PROMPT).value == 0


# ------------------------------------------------------------------------------------------------ cold start

NOT_COLD_START = {
    "nothing at all": "",
    "one token": f"{TOKEN}a",
    "three tokens": f"{TOKEN}a{TOKEN}b{TOKEN}c",
    "a thousand tokens": TOKEN * 1000,
    "no reasoning": f"{TOKEN} \n{TOKEN}b",
    "no summary": f"{TOKEN}a{TOKEN}\n",
    "an invisible summary": f"{TOKEN}a{TOKEN}\u200b\x00",
    "text before": f"Well, {TOKEN}a{TOKEN}b",
    "a token cut short": f"{TOKEN}a|special_token b",
    "a token in capitals": f"{TOKEN}a|SPECIAL_TOKEN|b",
    "a token with a zero-width space": f"{TOKEN}a|special\u200b_token|b",
    "R1's form": "<think>a</think><answer>b</answer>",
}


@pytest.mark.parametrize("case", NOT_COLD_START)
def test_a_hostile_completion_has_not_the_cold_start_form(case):
    score = format_cold_start(NOT_COLD_START[case], prompt=PROMPT)
    assert (score.value, score.verdict) == (0, WRONG)
    assert score.reason


def test_reasoning_and_a_summary_behind_their_tokens_are_the_cold_start_form():
    assert format_cold_start(f" {TOKEN}\nwe add\n{TOKEN}\nIt is 42.\n", prompt=PROMPT) == (1, CORRECT, "")
    assert format_cold_start("<|r|>a<|r|>b", special_token="<|r|>").value == 1
    assert format_cold_start(f"{TOKEN}a{TOKEN}b", special_token="<|r|>").value == 0


def test_the_cold_start_form_follows_a_prompt_that_ends_in_its_token():
    assert format_cold_start(f"a{TOKEN}b", prompt=f"Q {TOKEN}\n").value == 1
    assert format_cold_start(f"{TOKEN}a{TOKEN}b", prompt=f"Q {TOKEN}").value == 0
    assert format_cold_start(f"a{TOKEN}b", prompt="Q").value == 0


def test_an_empty_special_token_is_an_error():
    with pytest.raises(ValueError, match="special_token is empty"):
        format_cold_start("a", special_token=" ")


# ------------------------------------------------------------------------------------------------ partial credit


def test_partial_credit_is_off_unless_asked_for():
    for text in ("<think>a</think>", "<think>a</think><answer></answer>"):
        assert format_r1(text).value == format_r1_opened(text).value == format_boxed(text).value == 0


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        (R1, "", 0.0),
        (R1, "<think>a</think>", 0.1),
        (R1, "<think>a</think><answer>b", 0.15),
        (R1, "x<think>a</think><answer>b</answer>", 0.2),
        (R1, "<think>a</think><answer>b</answer>", 1.0),
        (R1, "<think>" * 1000, 0.0),
        (R1, "<think></think><answer></answer>" * 2, 0.0),
        (BOXED, "<think>a</think>b", 0.2),
        (COLD_START, TOKEN, 0.0),
        (COLD_START, f"x{TOKEN}a{TOKEN}b", 0.2),
    ],
)
def test_partial_credit_is_for_the_share_of_delimiters_in_their_number(form, text, value):
    score = check_form(text, form, partial=0.2)
    assert score.value == pytest.approx(value)
    assert score.verdict == (CORRECT if value == 1 else WRONG)


@pytest.mark.parametrize("partial", [-0.1, 1.0, 2.0, float("nan")])
def test_partial_credit_is_below_that_of_the_whole_form(partial):
    with pytest.raises(ValueError, match="partial is"):
        format_r1("<think>a</think>", partial=partial)


# ------------------------------------------------------------------------------------------------ cost


@pytest.mark.parametrize("flood", ["\u200b", "\\boxed{", "\\boxed{}", TOKEN, "<think>", "}", "|", "\x00"])
def test_a_megabyte_of_anything_has_no_form_and_takes_linear_time(flood):
    mass = flood * (1_000_000 // len(flood))
    start = time.process_time()
    for reward in (format_r1, format_boxed, format_cold_start):
        assert reward(mass, prompt=PROMPT).value == 0
        assert reward(f"<think>{mass}</think>{mass}", prompt=PROMPT).value == 0
    assert time.process_time() - start < 5  # 9 MB; what is quadratic in them takes hours
