r"""The reference of a row: which part of it is the answer, and whether completions can be compared with it at all."""

from __future__ import annotations

import re

from rewards.comparing import agree
from rewards.extract import boxes, final_answers, normalise
from rewards.mathematics import read
from rewards.quantities import parse_number
from rewards.types import excerpt

_NO_ANSWERS = {
    *("proof", "prove", "proved", "proven", "qed", "q.e.d", "nan", "none", "null", "nil", "na", "n/a", "n.a", "#n/a"),
    *("notfound", "noanswer", "unknown", "unanswered", "missing", "tbd", "tba", "todo", "error", "omitted", "inf"),
    *("-inf", "answer", "the answer", "solution", "empty", "image", "figure", "inconclusive", "answers vary", "varies"),
    *("略", "证明", "证明略", "答案略", "见解析", "见答案", "无", "无答案", "暂无", "暂无答案", "解答なし", "証明略"),
    *("demostración", "sin respuesta", "démonstration", "preuve", "pas de réponse", "beweis", "keine antwort"),
    *("siehe lösung", "нет ответа", "доказательство"),
    *("answers may vary", "answers will vary", "various answers", "undefined value", "invalid", "untitled", "blank"),
}
_NO_ANSWER = re.compile(
    r"(?:the )?(?:proof|see|refer|shown|solution|answer)\b.*"
    r"|(?:(?:the )?answer is )?(?:not|no|cannot be|can't be)[ _-]?(?:\w+ )?"
    r"(?:found|available|provided|given|applicable|specified|stated|answer|answered|reference|extracted|parsed)"
)
_EMPTY_COMMAND = re.compile(r"\\(?:[lcv]?dots|square|blacksquare|Box|qquad|quad|underline|_|[,;:! ])(?![A-Za-z])")
_SIGNS = {"+", "<", ">", "=", "\\{\\}", "∅", "∞", "-∞", "×", "÷", "≤", "≥", "≠"}
"""Answers without a letter or a digit: a question may ask for the sign, or for the empty set."""


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


def no_answer(gold: str) -> str | None:
    """Why a reference is no answer, when it only says that there is none: "proof", "nan", "None", "?". Else None."""
    if len(gold) > 80:
        return None
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox|emph|textit|mathbf) ?\{([^{}]*)\}", r"\1", normalise(gold))
    text = " ".join(text.strip(" .!\"'`*_[]<>()").casefold().split())
    nothing = not any(c.isalnum() for c in _EMPTY_COMMAND.sub("", gold)) and normalise(gold) not in _SIGNS
    if nothing or text in _NO_ANSWERS or _NO_ANSWER.fullmatch(text):
        return f"the reference {excerpt(gold)} is no answer; leave the row out, or give it one"
    return None


def check_reference(answer: str) -> str | None:
    r"""None when completions can be compared with this reference, else the reason why not.

    "\frac{1}{2}", "(C)", "#### 42" -> None; "" -> "the row has no reference answer: ''"; "see the figure!" -> why.
    """
    try:
        text = reference_answer(answer)
        gold = normalise(text)
        form = read(gold) if parse_number(gold) is None else None
        if reason := no_answer(text):
            return reason
        given = final_answers(f"<answer>{text}</answer>", opened=False).answers
        if [normalise(found) for found in given] != [gold]:
            return f"{excerpt(text)} cannot be given as an answer: it has tags or boxes in it"
        return None if form is None or agree(form, form) else f"{excerpt(gold)} does not equal itself"
    except ValueError as error:  # Unreadable is one
        return str(error)
