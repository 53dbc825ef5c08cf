"""Accuracy: is the final answer the reference answer?

R1's rule for mathematics: match gives 1, else 0 (Nature 10.1038/s41586-025-09422-z, Methods; V2 table 4). The answer
is extracted strictly (rewards/extract.py), then compared as normalised text, then as an exact number.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from rewards.extract import boxes, final_answers, opens_thinking
from rewards.types import Score, correct, excerpt, unparseable, wrong

MAX_NUMBER_LENGTH = 200
"""Longer texts are compared as text only: exact arithmetic on thousands of digits is a way to stall a run."""

# ASCII digits only: int() would read every script's digits, and a model need not be paid for "４２".
_DECIMAL = re.compile(r"(?P<sign>[+-]?)(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?P<part>\.[0-9]*)?")
_LATEX_FRACTION = re.compile(r"(?P<sign>[+-]?)\\[dt]?frac\{(?P<top>[^{}]*)\}\{(?P<bottom>[^{}]*)\}")
_MATH_MARKS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_THIN_SPACE = re.compile(r"\\,(?=[0-9])")


class Number(NamedTuple):
    """An exact number. 50% is not 50 and not 0.5: percent is part of what a number is."""

    value: Fraction
    percent: bool = False


def accuracy(completion: str, *, prompt: str = "", answer: str, **columns: object) -> Score:
    r"""1 when the completion's final answer is the reference `answer`, else 0.

    completion: the model's text. prompt: what it was given; one that ends in <think> puts the completion's start
    inside the thinking. answer: the reference: an answer, a solution with a \boxed{} in it, or a GSM8K solution
    ending in "#### 42". Raises ValueError when it is empty.

    Unparseable: no answer after the thinking. Wrong: another answer, or two boxes that differ.
    """
    gold = reference_answer(answer)
    found = final_answers(completion, opened=opens_thinking(prompt))
    if not found.answers:
        return unparseable(found.reason)
    # Each candidate is normalised once: pairwise, many boxes and one very long one would cost their product.
    candidates = list(dict.fromkeys(normalise(text) for text in found.answers))
    if any(not _agree(other, candidates[0]) for other in candidates[1:]):
        return wrong(f"boxes that differ: {excerpt(candidates[0])} and {excerpt(candidates[-1])}")
    if _agree(candidates[0], normalise(gold)):
        return correct()
    return wrong(f"{excerpt(candidates[0])} is not {excerpt(gold)}")


def reference_answer(answer: str) -> str:
    r"""The answer in a reference: after the last "####", else in the last \boxed{}, else the whole text.

    "... = 18 #### 18" -> "18". Raises ValueError when nothing is left.
    """
    text = answer.rsplit("####", 1)[-1]
    boxed = boxes(text)
    gold = (boxed[-1] if boxed else text).strip()
    if not gold:
        raise ValueError(f"the row has no reference answer: {excerpt(answer)}")
    return gold


def same_answer(one: str, other: str) -> bool:
    """Whether two answers agree: as normalised text, or as exact numbers (1/2 = 0.5, 1,000 = 1000, 50% != 50)."""
    return _agree(normalise(one), normalise(other))


def _agree(one: str, other: str) -> bool:
    """same_answer for texts that are already normalised."""
    if one == other:
        return True
    number = parse_number(one)
    return number is not None and number == parse_number(other)


def normalise(text: str) -> str:
    """The answer without what never changes it: outer whitespace and math marks, a final full stop, runs of spaces.

    " $42$. " -> "42"; "x  =  3" -> "x = 3". Case stays: x is not X.
    """
    text = " ".join(text.replace("\u2212", "-").split())
    text = _without_full_stop(text)
    for left, right in _MATH_MARKS:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right) and left not in inner:
            return _without_full_stop(inner.strip())
    return text


def _without_full_stop(text: str) -> str:
    """ "42." -> "42"; an ellipsis stays, since the answer then goes on."""
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def parse_number(text: str) -> Number | None:
    r"""The exact number that a normalised text is, as a whole: an integer, decimal or fraction, with a sign,
    thousands separators, a leading $, or a trailing %. None for anything else, "3 apples" and "1e3" included.

    "-1,234.50" -> -2469/2; "3/4" and "\frac{3}{4}" -> 3/4; "$5" -> 5; "50\%" -> 50 percent; "1,00" -> None.
    """
    if not text or len(text) > MAX_NUMBER_LENGTH:
        return None
    text = _THIN_SPACE.sub(",", text.replace("\\!", "").replace("{,}", ","))
    percent = text.endswith("%")
    if percent:
        text = text[:-1].rstrip().removesuffix("\\").rstrip()
    for currency in ("\\$", "$"):
        sign = "-" if text.startswith("-" + currency) else ""
        if text.startswith(sign + currency):
            text = sign + text[len(sign + currency) :].lstrip()
            break
    value = _fraction(text)
    return None if value is None else Number(value, percent)


def _fraction(text: str) -> Fraction | None:
    latex = _LATEX_FRACTION.fullmatch(text)
    if latex:
        top, bottom, sign = latex["top"], latex["bottom"], latex["sign"]
    elif text.count("/") == 1:
        top, bottom = text.split("/")
        sign = ""
    else:
        return _decimal(text)
    a, b = _decimal(top.strip()), _decimal(bottom.strip())
    if a is None or not b:
        return None
    return -a / b if sign == "-" else a / b


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if not match or not (match["whole"] or (match["part"] or "").strip(".")):
        return None
    return Fraction(f"{match['sign']}{(match['whole'] or '0').replace(',', '')}{match['part'] or ''}".rstrip("."))
