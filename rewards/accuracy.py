r"""Accuracy: is the final answer the reference answer?

R1's rule for mathematics: match gives 1, else 0 (Nature 10.1038/s41586-025-09422-z, Methods; V2 table 4). The answer
is extracted strictly (rewards/extract.py), then compared as text, as an exact number, and last as mathematics
(rewards/comparing.py). Equal means exactly equal. VERDICTS.md is the table of what is paid and what is not; the choices
that a reader should know:

    a plain number     wants a plain number: 40+2 is not 42, 1.414214 is not \sqrt{2}, 0.333 is not 1/3
    percent            50% is neither 50 nor 0.5, unless percent="lenient"; where the question asks for
                       percent, 50 is 50%
    units              a known unit may be left out or added (MATH-500 writes both 15\mbox{ cm}^2 and 15), but two
                       units must be the same: 5 km is not 5 cm, and 42 apples is not 42
    3, 5 and \{5, 3\}   are the same set; (3, 5) and (5, 3) are not the same, nor are (3, 5] and (3, 5)
    x = 3 and 3        are the same; x = 3 and y = 3 are not
    words              ignore case (Evelyn, evelyn); letters do not (x is not X)
    the question       an expression of the question in disguise is not its own simplification (rewards/disguise.py)
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from rewards.closed_forms import UNDONE
from rewards.comparing import agree, variables_agree
from rewards.disguise import asks_for_percent, is_disguised
from rewards.expressions import Unreadable
from rewards.extract import boxes, final_answers, normalise, opens_thinking
from rewards.labels import choice_in, read_choice, without_counted
from rewards.mathematics import MAX_LENGTH, POWER_OF_TEN, Form, read, read_simple, text_key, tidy, without_variable
from rewards.quantities import Number, has_power_of_ten, is_short_e_notation, parse_number, power_of_ten
from rewards.references import check_reference, no_answer, reference_answer
from rewards.types import Score, correct, excerpt, unparseable, wrong
from rewards.values import bounded_work

__all__ = ["accuracy", "check_reference", "reference_answer", "same_answer"]

MAX_BOXES = 8
"""Boxes with different texts that may still agree (0.5, 1/2): each pair is a comparison."""


_CHOICE = re.compile(r"(?:\\(?:text|textbf|textrm|mathrm|mathbf) ?\{ ?)?\(?[A-Z]\)?(?: ?\})?")
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?: ?,? and | ?, ?|、)?\(?[A-J]\)?)*")


def accuracy(
    completion: str,
    *,
    prompt: str = "",
    answer: str,
    percent: Literal["strict", "lenient"] = "strict",
    **columns: object,
) -> Score:
    r"""1 when the completion's final answer is the reference `answer`, else 0.

    completion: the model's text. prompt: what it was given; one that ends in <think> puts the completion's start
    inside the thinking. From the row: answer, the reference: an answer, a solution with a \boxed{} in it, or a GSM8K
    solution ending in "#### 42". Raises ValueError when it is empty. Setting: percent, "strict", or "lenient": 50% is
    50 and 0.5.

    Unparseable: no answer after the thinking, or an answer or a reference that cannot be read as mathematics (the
    reason says which). Wrong: another answer, or two boxes that differ.

        "<think>..</think><answer>\frac{2}{4}</answer>", answer="0.5" -> 1, "correct"
    """
    if percent not in ("strict", "lenient"):
        raise ValueError(f"percent is 'strict' or 'lenient', not {percent!r}")
    gold = reference_answer(answer)
    if not gold.isdecimal() and (refused := no_answer(gold)):
        return unparseable(refused)
    found = final_answers(completion, opened=opens_thinking(prompt))
    if not found.answers:
        return unparseable(found.reason)
    # Each candidate is normalised once: pairwise, many boxes and one very long one would cost their product.
    candidates = list(dict.fromkeys(map(normalise, found.answers)))
    if len(candidates) > 1:
        candidates = _without_quoted(candidates, prompt)
    if len(candidates) > MAX_BOXES:
        return wrong(f"{len(candidates)} boxes that differ")
    given, wanted = candidates[0], normalise(gold)
    if len(candidates) > 1 and (differ := _boxes_differ(candidates, percent)):
        return differ
    if _agree_plainly(given, wanted):
        return correct()
    given, wanted = _meant(given, wanted, prompt)
    if _agree_plainly(given, wanted):
        return correct()
    asked = percent == "strict" and "%" in given + wanted and asks_for_percent(prompt)
    try:
        if not same_mathematics(given, wanted, percent="asked" if asked else percent):
            return wrong(f"{excerpt(given)} is not {excerpt(gold)}")
    except Unreadable as error:
        return unparseable(f"{error}; the answer is {excerpt(given)}, the reference {excerpt(gold)}")
    with bounded_work():
        disguised = bool(prompt) and is_disguised(given, wanted, prompt)
    if disguised:
        return wrong(f"{excerpt(given)} stands in the question: it is equal to {excerpt(gold)}, but not the answer")
    return correct()


def _meant(given: str, wanted: str, prompt: str) -> tuple[str, str]:
    r"""An answer and a reference without what does not change them (rewards/labels.py).

    "(B) 5", "B" -> "B", "B"; "(B) 5", "5" -> "5", "5"; "12 apples", "12" -> "12", "12". A choice that the question
    gives another value stays as it is, and so is wrong.
    """
    if parse_number(wanted) is not None:
        given = without_counted(given, prompt)
    choice, gold = read_choice(given), read_choice(wanted)
    if choice is None:
        if gold is None:
            return given, wanted
        return given, gold.letter if _CHOICE.fullmatch(given) else gold.value
    offered = choice_in(prompt, choice.letter) if prompt else ""
    if offered and not _may_agree(choice.value, normalise(offered)):
        return given, wanted
    if gold is not None:
        return (choice.value, gold.value) if choice.letter == gold.letter else (given, wanted)
    if _CHOICE.fullmatch(wanted):
        return choice.letter, "".join(re.findall(r"[A-Z](?=\W*$)", wanted))
    return (given, wanted) if choice.letter in wanted else (choice.value, wanted)


def _may_agree(one: str, other: str) -> bool:
    try:
        return _agree(one, other, "strict")
    except Unreadable:
        return False


def _boxes_differ(candidates: list[str], percent: str) -> Score | None:
    """The verdict on boxes that do not agree; None when they do."""
    told = f"{excerpt(candidates[0])} and {excerpt(candidates[-1])}"
    try:
        if any(not _agree(other, candidates[0], percent) for other in candidates[1:]):
            return wrong(f"boxes that differ: {told}")
    except Unreadable:
        return unparseable(f"boxes that cannot be compared: {told}")
    return None


def _without_quoted(answers: list[str], prompt: str) -> list[str]:
    """The boxes without those that only quote a box of the question, when others are left."""
    quoted = {normalise(text) for text in boxes(prompt)} if len(answers) > 1 else set()
    return [text for text in answers if text not in quoted] or answers


# ------------------------------------------------------------------------------------------------ comparing


def same_answer(one: str, other: str, *, percent: str = "strict") -> bool:
    """Whether two answers agree (1/2 = 0.5, 1,000 = 1000, 50% != 50). Raises Unreadable when that cannot be said."""
    return _agree(normalise(one), normalise(other), percent)


def _agree(one: str, gold: str, percent: str) -> bool:
    """same_answer for texts that are already normalised."""
    return _agree_plainly(one, gold) or same_mathematics(one, gold, percent=percent)


def _agree_plainly(one: str, gold: str) -> bool:
    """Whether two normalised texts are the same text or the same exact number: this settles most, and is fast."""
    if one == gold:
        return True
    number = parse_number(one)
    if number is None or (is_short_e_notation(one) and not has_power_of_ten(gold)):
        return False
    return number == parse_number(gold)


def same_mathematics(one: str, gold: str, *, percent: str = "strict") -> bool:
    r"""Whether two normalised texts are the same mathematics. Raises Unreadable when one cannot be read.

    "(1, 2]", "(1, 2)" -> False; "\sqrt{8}", "2\sqrt{2}" -> True. What is too much work to compare is Unreadable.
    """
    with bounded_work():
        try:
            return _same_mathematics(one, gold, percent)
        except (ArithmeticError, RecursionError) as error:
            raise Unreadable(f"it cannot be evaluated: {error or type(error).__name__}") from error


def _same_mathematics(one: str, gold: str, percent: str) -> bool:
    if len(one) <= MAX_LENGTH >= len(gold) and text_key(one) == text_key(gold):
        return True
    if (wanted_choices := _choices(gold)) and _choices(one) == wanted_choices:
        return True
    try:
        wanted = read(gold)
    except Unreadable as error:
        raise Unreadable(f"the reference cannot be read as mathematics: {error}") from error
    if wanted.kind in ("number", "letter", "words", "base", "time"):  # Only another such will do: nothing is parsed.
        if len(one) > MAX_LENGTH:
            return False
        text, variable = without_variable(tidy(one))
        given = _read_like(text, wanted)
        return (
            given is not None and variables_agree(variable, wanted.variable) and agree(given, wanted, percent=percent)
        )
    try:
        if not UNDONE.search(gold) and (undone := UNDONE.search(one)):
            raise Unreadable(f"the command {undone.group().split('_')[0]} is left to be evaluated")
        return agree(read(one), wanted, percent=percent)
    except Unreadable as error:
        raise Unreadable(f"the answer cannot be read as mathematics: {error}") from error


def _choices(text: str) -> str:
    """ "A, C", "A and C" and "AC" -> "AC": several choices in the order of the alphabet; "" for anything else."""
    if len(text) > 60 or not (found := _CHOICES.fullmatch(re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text).strip())):
        return ""
    letters = "".join(re.findall("[A-J]", found.group()))
    return letters if len(letters) > 1 and list(letters) == sorted(set(letters)) else ""


def _read_like(text: str, wanted: Form) -> Form | None:
    """The simple Form of an answer, in the light of what is wanted: AB is a word, K a choice, 5 m a length."""
    if wanted.kind == "letter" and re.fullmatch("[A-Z]", text):
        return Form("letter", text)
    given = read_simple(text, wordy=wanted.kind == "words")
    if given is None and (number := power_of_ten(text)) and (wanted.text == POWER_OF_TEN or _is_long(number)):
        return Form("number", POWER_OF_TEN, number=number)
    if given is None and wanted.unit == "degree" and "\\pi" in text:
        return read(text)
    if given is None and (unit := re.fullmatch(r"([a-zμ])(?:\^([23]))?", wanted.unit)):
        power = rf"\^ ?\{{?{unit[2]}\}}?" if unit[2] else ""
        given = read_simple(re.sub(rf" ?{unit[1]}{power}$", "", text))
    return given


def _is_long(power: Number) -> bool:
    """Whether a power of ten takes longer to write out: from 10^4 on, and up to 10^{-4}."""
    return not Fraction(1, 1001) < power.value < 1001
