"""Worked cases of the rewards, the hostile ones first."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from rewards import COLUMNS, REWARDS, short_name
from rewards.accuracy import accuracy, reference_answer, same_answer
from rewards.extract import after_thinking, boxes, last_answer_part, normalise
from rewards.format import check_format, format_r1, format_r1_opened
from rewards.quantities import MAX_NUMBER_LENGTH, parse_number
from rewards.types import CORRECT, UNPARSEABLE, WRONG
from rl.config import RewardConfig
from rl.scoring.reward_functions import RewardFunctions, resolve
from rl.types import Prompt, Rollout, RolloutGroup, Verdict

BOX = r"\boxed"


def think(answer: str) -> str:
    return f"<think>so it goes</think>\n<answer>{answer}</answer>"


# ------------------------------------------------------------------------------------------------ accuracy

# Completions that must not be paid when the reference is 42, and the verdict that each gets.
HOSTILE = {
    "nothing at all": ("", UNPARSEABLE),
    "the bare number, without tags or a box": ("42", UNPARSEABLE),
    "the number in prose": ("The answer is 42.", UNPARSEABLE),
    "the answer inside the thinking": ("<think><answer>42</answer></think>", UNPARSEABLE),
    "a box inside the thinking": (f"<think>{BOX}{{42}}</think> done", UNPARSEABLE),
    "an answer in thinking that never ends": ("<think>hm <answer>42</answer>", UNPARSEABLE),
    "a second thinking that never ends": ("<think>a</think><think><answer>42</answer>", UNPARSEABLE),
    "an answer before the thinking": ("<answer>42</answer><think>a</think>", UNPARSEABLE),
    "an answer before thinking that never ends": ("<answer>42</answer><think>a", UNPARSEABLE),
    "nested thinking around the answer": ("<think><think>a</think><answer>42</answer></think>", UNPARSEABLE),
    "an answer tag that never closes": ("<think>a</think><answer>42", UNPARSEABLE),
    "an answer tag that never opens": ("<think>a</think>42</answer>", UNPARSEABLE),
    "answer tags the wrong way round": ("<think>a</think></answer>42<answer>", UNPARSEABLE),
    "an empty answer": (think("  \n "), UNPARSEABLE),
    "a box that never closes": (f"<think>a</think>{BOX}{{42", UNPARSEABLE),
    "tags in capitals": ("<think>a</think><ANSWER>42</ANSWER>", UNPARSEABLE),
    "tags with spaces": ("<think>a</think>< answer >42</ answer >", UNPARSEABLE),
    "a denial": (think("the answer is not 42"), WRONG),
    "a sentence around the number": (think("The answer is 42"), WRONG),
    "two numbers": (think("41 42"), WRONG),
    "a choice of numbers": (think("41 or 42"), WRONG),
    "a list with the number in it": (think("40, 41, 42"), WRONG),
    "a range of numbers": (think("1-100"), WRONG),
    "the right number and then a wrong one": (think("42") + "<answer>41</answer>", WRONG),
    "two boxes that differ, the last right": (f"<think>a</think>{BOX}{{41}} wait, {BOX}{{42}}", WRONG),
    "two boxes that differ in the answer": (think(f"{BOX}{{42}} or {BOX}{{41}}"), WRONG),
    "a hundred boxes, one of them right": ("".join(f"{BOX}{{{i}}}" for i in range(100)), WRONG),
    "a right box outside, a wrong answer inside": (f"<think>a</think>{BOX}{{42}}<answer>41</answer>", WRONG),
    "another box in a box": (think(f"{BOX}{{{BOX}{{42}} 41}}"), WRONG),
    "full-width digits": (think("４２"), WRONG),
    "Arabic-Indic digits": (think("٤٢"), WRONG),
    "superscript digits": (think("⁴²"), WRONG),
    "a null byte": (think("42\x00"), WRONG),
    "a right-to-left mark": (think("\u200f42"), WRONG),
    "a zero-width space": (think("4\u200b2"), WRONG),
    "percent": (think("42%"), WRONG),
    "percent as a decimal": (think("0.42"), WRONG),
    "a unit": (think("42 apples"), WRONG),
    "a sum that comes to it": (think("40+2"), WRONG),
    "a power that comes to it": (think("42^1"), WRONG),
    "Python that comes to it": (think("int('42')"), WRONG),
    "scientific notation": (think("4.2e1"), WRONG),
    "hexadecimal": (think("0x2a"), WRONG),
    "digits with underscores": (think("4_2"), WRONG),
    "misplaced separators": (think("4,2"), WRONG),
    "a fraction over zero": (think("42/0"), WRONG),
    "infinity": (think("inf"), WRONG),
    "not a number": (think("nan"), WRONG),
    "a towering power": (think("9^9^9^9"), WRONG),
    "a hundred thousand digits": (think("4" * 100_000), WRONG),
    "the reference as a template": (think("{answer}"), WRONG),
    "a negative": (think("-42"), WRONG),
    "a part of the number": (think("4"), WRONG),
    "more than the number": (think("420"), WRONG),
    "an ellipsis": (think("42..."), WRONG),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_completion_is_never_paid(case):
    completion, verdict = HOSTILE[case]
    score = accuracy(completion, prompt="What is 6 x 7?", answer="42")
    assert (score.value, score.verdict) == (0.0, verdict), score
    assert score.reason


HONEST = {
    "the R1 form": (think("42"), "42"),
    "no thinking at all": ("<answer>42</answer>", "42"),
    "whitespace and newlines": ("\n<think>\na\n</think>\n\n<answer>\n 42\n</answer>\n", "42"),
    "a box after the thinking": (f"<think>a</think> It is ${BOX}{{42}}$.", "42"),
    "a box and no tags": (f"So ${BOX}{{42}}$.", "42"),
    "a box in a box": (think(f"{BOX}{{{BOX}{{42}}}}"), "42"),
    "a box inside the answer": (think(f"It is {BOX}{{42}}"), "42"),
    "two boxes that agree": (f"{BOX}{{0.5}} and {BOX}{{1/2}}", "0.5"),
    "two boxes that agree with the reference only as numbers": (f"{BOX}{{0.5}} = {BOX}{{1/2}}", r"\frac{1}{2}"),
    "boxes that differ, but in the thinking": (f"<think>{BOX}{{41}}</think>{BOX}{{42}}", "42"),
    "the last of two answers": (think("41") + "<answer>42</answer>", "42"),
    "an answer and then one cut short": (think("42") + "<answer>4", "42"),
    "a stray opening tag": (think("<answer>42"), "42"),
    "dollars around mathematics": (think("$42$"), "42"),
    "LaTeX parentheses": (think(r"\(42\)"), "42"),
    "a full stop": (think("42."), "42"),
    "a currency sign": (think("$42"), "42"),
    "an escaped currency sign": (think(r"\$42.00"), "42"),
    "a negative amount": (think("-$5"), "-5"),
    "a plus sign": (think("+42"), "42"),
    "a true minus sign": (think("−42"), "-42"),
    "leading zeros": (think("042"), "42"),
    "trailing zeros": (think("42.000"), "42"),
    "thousands separators": (think("1,234,567"), "1234567"),
    "thousands separators in the reference": (think("1234567"), "1,234,567"),
    "LaTeX thousands separators": (think(r"10,\!000"), "10000"),
    "LaTeX braces around the separator": (think("10{,}000"), "10000"),
    "LaTeX thin space as separator": (think(r"10\,000"), "10000"),
    "a fraction for a decimal": (think("3/4"), "0.75"),
    "a fraction not in lowest terms": (think("6/8"), "3/4"),
    "a LaTeX fraction": (think(r"-\dfrac{3}{4}"), "-0.75"),
    "a decimal without its zero": (think(".75"), "0.75"),
    "percent for percent": (think(r"50\%"), "50%"),
    "text": (think("blue  whale"), "blue whale"),
    "a LaTeX expression as it stands": (think(r"\sqrt{2}"), r"$\sqrt{2}$"),
    "a box with braces inside": (rf"{BOX}{{\left\{{1, \frac{{1}}{{2}}\right\}}}}", r"\left\{1, \frac{1}{2}\right\}"),
    "a GSM8K reference": (think("18"), "16 - 3 - 4 = <<16-3-4=9>>9\n9 * 2 = 18\n#### 18"),
    "a reference with a box": (think("18"), rf"So it is ${BOX}{{18}}$."),
}


@pytest.mark.parametrize("case", HONEST)
def test_an_honest_completion_is_paid(case):
    completion, answer = HONEST[case]
    assert accuracy(completion, answer=answer) == (1.0, CORRECT, "")


def test_a_prompt_that_opens_the_thinking_puts_the_completion_inside_it():
    opened = "Assistant: <think>\n"
    assert accuracy("<answer>42</answer>", prompt=opened, answer="42").verdict == UNPARSEABLE
    assert accuracy("a</think><answer>42</answer>", prompt=opened, answer="42").verdict == CORRECT
    assert accuracy("<answer>42</answer>", prompt="Write <think> tags.", answer="42").verdict == CORRECT


def test_an_empty_reference_is_an_error_and_not_a_wrong_answer():
    for reference in ("", "  ", "work ####", rf"{BOX}{{}}"):
        with pytest.raises(ValueError, match="no reference answer"):
            accuracy(think("42"), answer=reference)


def test_the_reference_is_what_follows_the_hashes_or_stands_in_the_last_box():
    assert reference_answer("2 + 2 = 4\n#### 1,004 ") == "1,004"
    assert reference_answer(rf"{BOX}{{1}} then {BOX}{{\frac{{1}}{{2}}}}") == r"\frac{1}{2}"
    assert reference_answer(" x ") == "x"


def test_numbers_are_read_exactly_or_not_at_all():
    assert parse_number("-1,234.50") == (-2469 / 2, False)
    assert parse_number("0.1") != parse_number("0.10000000000000000555")
    assert parse_number("50%") == (50, True)
    assert parse_number("1,000/2") == (500, False)
    for text in ("", ".", "+", "-", "%", "$", "1,00", "0,123", "1 000", "1/2/3", "1/", "1.2.3", "--1", r"\frac{1}{0}"):
        assert parse_number(text) is None, text
    assert parse_number("9" * MAX_NUMBER_LENGTH) is not None
    assert parse_number("9" * (MAX_NUMBER_LENGTH + 1)) is None


def test_equal_means_equal_and_not_nearly_equal():
    assert not same_answer("0.333", "1/3")
    assert not same_answer("50%", "0.5")
    assert not same_answer("50%", "50")
    assert not same_answer("x", "X")
    assert same_answer("1,000.0", "$1000$")


def test_normalising_takes_off_what_never_changes_an_answer():
    assert normalise("  $$ x  =\n3 $$. ") == "x = 3"
    assert normalise("$5 and $6$") == "$5 and $6$"  # the outer dollars are not a pair
    assert normalise("1..") == "1.."


# ------------------------------------------------------------------------------------------------ extraction


def test_thinking_ends_at_the_last_closing_tag():
    assert after_thinking("<think>a</think> b", opened=False) == " b"
    assert after_thinking("<think>a</think> b </think> c", opened=False) == " c"
    assert after_thinking("b", opened=False) == "b"
    assert after_thinking("b", opened=True) is None
    assert after_thinking("a</think> b", opened=False) == " b"


def test_the_answer_part_is_the_last_complete_one():
    assert last_answer_part("<answer>1</answer><answer>2</answer>") == "2"
    assert last_answer_part("<answer>1<answer>2</answer>3</answer>") == "2"
    assert last_answer_part("</answer>1<answer>") is None


def test_boxes_are_found_by_balanced_braces():
    assert boxes(rf"{BOX}{{\frac{{1}}{{2}}}} or {BOX}{{3") == [r"\frac{1}{2}"]
    assert boxes(rf"{BOX}{{a{BOX}{{b}}c}} {BOX} {{d}}") == [rf"a{BOX}{{b}}c", "d"]
    assert boxes(rf"{BOX}{{\{{1\}}}}") == [r"\{1\}"]
    assert boxes(rf"{BOX}{{\left\{{1\right.}} {BOX}{{2}}") == [r"\left\{1\right.", "2"]
    assert boxes(rf"{{ {BOX}{{1}}") == ["1"]
    assert boxes(rf"}} {BOX}{{1}}") == ["1"]


MEGABYTE = 1_000_000
FLOODS = {
    "one letter": "a",
    "opening think tags": "<think>",
    "closing think tags": "</think>",
    "opening answer tags": "<answer>",
    "closing answer tags": "</answer>",
    "whole answers": "<answer>1</answer>",
    "empty boxes": r"\boxed{}",
    "boxes that never close": r"\boxed{",
    "backslashes": "\\",
    "opening braces": "{",
    "closing braces": "}",
    "digits": "9",
    "digits and commas": "999,",
    "minus signs": "-",
    "spaces": " ",
    "newlines": "\n",
    "full stops": ".",
    "dollars": "$",
    "fractions": r"\frac{1}{",
    "angle brackets": "<",
    "thin spaces": r"\,1",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_megabyte_of_anything_takes_linear_time(flood):
    mass = FLOODS[flood] * (MEGABYTE // len(FLOODS[flood]))
    start = time.perf_counter()
    for text in (think(mass), rf"\boxed{{1}}{mass}"):
        accuracy(text, answer="42")
        format_r1(text)
    # 2 MB, measured at 0.01 to 1 s; what is quadratic in them takes minutes to hours.
    assert time.perf_counter() - start < 10


def test_many_boxes_around_one_long_one_take_linear_time():
    long = "42" + " " * 500_000
    start = time.perf_counter()
    assert accuracy(r"\boxed{42}" * 50_000 + rf"\boxed{{{long}}}", answer="42").verdict == CORRECT
    assert time.perf_counter() - start < 5  # normalising the long one for each of the others takes minutes


# ------------------------------------------------------------------------------------------------ format

MALFORMED = {
    "nothing at all": "",
    "an answer alone": "<answer>42</answer>",
    "thinking alone": "<think>a</think>",
    "thinking that never ends": "<think>a<answer>42</answer>",
    "an answer that never ends": "<think>a</think><answer>42",
    "the answer inside the thinking": "<think>a<answer>42</answer></think>",
    "the answer before the thinking": "<answer>42</answer><think>a</think>",
    "thinking twice": "<think>a</think><think>b</think><answer>42</answer>",
    "nested thinking": "<think><think>a</think></think><answer>42</answer>",
    "thinking opened twice": "<think>a<think>b</think><answer>42</answer>",
    "an answer opened twice": "<think>a</think><answer><answer>42</answer>",
    "an answer that closes inside the thinking": "<think></answer>a</think><answer>42",
    "two answers": "<think>a</think><answer>41</answer><answer>42</answer>",
    "nested answers": "<think>a</think><answer><answer>42</answer></answer>",
    "crossed tags": "<think>a<answer></think>42</answer>",
    "text before": "Well, <think>a</think><answer>42</answer>",
    "text between": "<think>a</think>so<answer>42</answer>",
    "text after": "<think>a</think><answer>42</answer> Hope this helps!",
    "a null byte after": "<think>a</think><answer>42</answer>\x00",
    "a zero-width space between": "<think>a</think>\u200b<answer>42</answer>",
    "tags in capitals": "<THINK>a</THINK><ANSWER>42</ANSWER>",
    "empty thinking": "<think> \n</think><answer>42</answer>",
    "an empty answer": "<think>a</think><answer>\n</answer>",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_completion_earns_no_format_reward(case):
    score = format_r1(MALFORMED[case], prompt="Assistant:")
    assert (score.value, score.verdict) == (0.0, WRONG)
    assert score.reason


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>42</answer>",
        "<think>a</think> <answer>42</answer>",
        "\n\n <think>\na\n</think>\n\n<answer>\n42\n</answer>\t\n",
        "<think>1 < 2, <b>bold</b>, {braces}</think>\r\n<answer>42</answer>",
    ],
)
def test_whitespace_and_newlines_never_decide_about_format(text):
    assert format_r1(text, prompt="Assistant:") == (1.0, CORRECT, "")


def test_format_follows_a_template_that_opens_the_thinking():
    inside, whole = "a</think>\n<answer>42</answer>", "<think>a</think>\n<answer>42</answer>"
    assert format_r1(inside, prompt="Assistant: <think>\n").value == 1
    assert format_r1(whole, prompt="Assistant: <think>\n").value == 0
    assert format_r1(inside, prompt="Assistant:").value == 0
    assert format_r1_opened(inside).value == 1
    assert check_format(" </think><answer>42</answer>", opened=True).value == 0


# ------------------------------------------------------------------------------------------------ the package


def test_verdicts_are_spelt_as_the_trainer_spells_them():
    assert (Verdict(CORRECT), Verdict(WRONG), Verdict(UNPARSEABLE)) == (
        Verdict.CORRECT,
        Verdict.WRONG,
        Verdict.UNPARSEABLE,
    )


def test_rewards_load_nothing_heavy_and_nothing_of_the_trainer():
    code = (
        "import sys, rewards.accuracy, rewards.format\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'rl', 'numpy', 'torch', 'sympy', 'math_verify'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------------------------------------ columns and settings

ALWAYS = {"prompt", "prompts", "completions", "answer", "completion_tokens"}


def test_a_reward_named_by_its_module_is_listed_under_its_short_name():
    assert {name: short_name(target) for name, target in REWARDS.items()} == {name: name for name in REWARDS}
    assert [short_name(spec) for spec in ("countdown", "mine:countdown")] == ["countdown", "mine:countdown"]


@pytest.mark.parametrize("name", REWARDS)
def test_a_docstring_tells_settings_from_the_rows_columns(name):
    function = resolve(name)
    parameters = inspect.signature(function).parameters.values()
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - ALWAYS
    assert set(COLUMNS.get(name, ())) <= keywords
    settings, text = keywords - set(COLUMNS.get(name, ())), inspect.getdoc(function) or ""
    if settings and not text.endswith("Settings and columns as in llm_judge.") and name != "cosine_length":
        said = text.partition("Setting")[2]
        assert {word for word in settings if re.search(rf"\b{word}\b", said)} == settings, said
    for column in COLUMNS.get(name, ()):
        assert re.search(rf"\b{column}\b", text) or name == "llm_pairwise"


@pytest.mark.parametrize(
    ("reward", "row", "verdict"),
    [
        ("accuracy", {"percent": "lenient"}, "wrong"),
        ("format", {"partial": 0.9}, "wrong"),
        ("language_consistency", {"target": "de", "language": "en"}, "correct"),
        ("language_consistency", {"target": "<think>5 + 6</think> what SFT learns", "language": "en"}, "correct"),
        ("reasoning_gym", {"family": "word_sorting", "facts": "", "partial": 0.9}, "wrong"),
        ("countdown", {"numbers": [20, 30, 1], "target": 50, "use_all": True}, "correct"),
    ],
)
def test_a_column_of_the_row_with_the_name_of_a_setting_does_not_change_it(reward, row, verdict):
    text = {
        "accuracy": "<answer>50%</answer>",
        "format": "<think>a</think> 50",
        "reasoning_gym": "<answer>50, 51</answer>",
        "countdown": "<answer>20 + 30</answer>",
    }.get(reward, "First we add the number of apples in both baskets.")
    rollout = Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), text, "stop", 1.0, 0, 0)
    group = RolloutGroup(Prompt(0, 0, [1], "How many?", "50", row), [rollout])
    (part,) = RewardFunctions([RewardConfig(reward)]).call(reward, group)
    assert part is not None
    assert (part.verdict, part.score) == (verdict, float(verdict == "correct"))
