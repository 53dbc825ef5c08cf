"""Find the thinking, the answer part and the final answer in a completion.

All of it is strict and takes linear time. No regular expression here can backtrack over more than one token, so a
hostile 1 MB completion costs what an honest one of that length does.
"""

from __future__ import annotations

import re
from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_ANSWER_TAG = re.compile("</?answer>")
# A box's opening, any escaped character (so that \{ is no brace), or a brace. Each match has a bounded length.
_BOX_TOKEN = re.compile(r"\\boxed\s{0,4}\{|\\.|[{}]", re.DOTALL)
_MARKS = (("**", "**"), ("`", "`"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
# Full-width and Chinese punctuation and signs, and the dashes that stand for minus. Digits and letters stay: int()
# would read every script's digits, and a model need not be paid for those.
_PLAIN_SIGNS = str.maketrans(
    "，；：．％＋－＝＜＞／＊＾＿｜！（）［］｛｝＄￥、。∶−–—‒‐‑﹣", ",;:.%+-=<>/*^_|!()[]{}$¥,.:-------"
)
_INNER_BOX = re.compile(r"\\boxed\s{0,4}(?=\{)")


class Extracted(NamedTuple):
    """The candidate answers of a completion: one, several that contradict each other, or none (then why)."""

    answers: list[str]
    reason: str = ""


def opens_thinking(prompt: str) -> bool:
    """Whether the prompt's template has opened the think tag, so that the completion begins inside it."""
    return prompt.rstrip().endswith(THINK_OPEN)


def after_thinking(completion: str, *, opened: bool) -> str | None:
    """What follows the thinking: the text after the last </think>, or everything when there was no thinking.

    opened: the prompt ended inside the thinking. Returns None when the completion ends inside the thinking:

        "<think>a</think> b"   -> " b"          "b"            -> "b"    (opened: None)
        "a</think> b"          -> " b"          "<think>a"     -> None
        "b <think>a"           -> None          "a</think><think>b" -> None
    """
    _, close, tail = completion.rpartition(THINK_CLOSE)
    if not close:
        return None if opened or THINK_OPEN in completion else completion
    return None if THINK_OPEN in tail else tail


def chain_of_thought(completion: str) -> str:
    """All before the last </think>; the whole completion where there is none."""
    chain, close, _ = completion.rpartition(THINK_CLOSE)
    return chain if close else completion


def last_answer_part(text: str) -> str | None:
    """Content of the last complete <answer>...</answer> with no answer tag inside; None when there is none."""
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if tag.group() == ANSWER_OPEN:
            start = tag.end()
        elif start is not None:
            found = (start, tag.start())
            start = None
    return text[found[0] : found[1]] if found else None


def boxes(text: str) -> list[str]:
    r"""Contents of the outermost balanced \boxed{...}, in order. Braces written \{ and \} do not count.

    "\boxed{\frac{1}{2}} or \boxed{3" -> ["\frac{1}{2}"]
    """
    if "\\boxed" not in text:
        return []
    open_braces: list[tuple[bool, int]] = []  # (is a box, where its content starts)
    spans: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        symbol = token.group()
        if symbol[-1] == "{" and symbol != "\\{":
            open_braces.append((len(symbol) > 1, token.end()))
        elif symbol == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, token.start()))
    return [text[start:end] for start, end in spans]


def final_answers(completion: str, *, opened: bool) -> Extracted:
    r"""The final answer of a completion, never from inside the thinking.

    The answer part is the last complete <answer>...</answer> after the thinking, else all that follows the thinking.
    The answer is its \boxed{} contents (a list: it is for the caller to see whether several agree), else, when the
    tags are there, the whole of what they hold. Without either, there is no answer.
    """
    text = after_thinking(completion, opened=opened)
    if text is None:
        return Extracted([], "the thinking never ends")
    part = last_answer_part(text)
    found = boxes(text if part is None else part)
    if found:
        return Extracted(found)
    if part is None:
        return Extracted([], "no complete <answer>...</answer> or \\boxed{} after the thinking")
    return Extracted([part]) if part.strip() else Extracted([], "the answer part is empty")


def normalise(text: str) -> str:
    r"""The answer without what never changes it: outer whitespace, math marks, bold, a final full stop, runs of spaces,
    a box inside it. Full-width and Chinese punctuation and signs become plain ones, as dashes become minus.

    " $42$. " -> "42"; "x  =  3" -> "x = 3"; "（1，–2）" -> "(1,-2)". Case stays: x is not X.
    """
    text = " ".join((text if text.isascii() else text.translate(_PLAIN_SIGNS)).split())
    if "\\boxed" in text:
        text = _INNER_BOX.sub("", text)
    text = _without_full_stop(text.rstrip("\\").rstrip())
    for left, right in _MARKS:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
            if left in (inner.replace("\\$", "") if left == "$" else inner):
                continue
            text = _without_full_stop(inner.strip())
    return text


def _without_full_stop(text: str) -> str:
    """ "42." -> "42"; an ellipsis stays, since the answer then goes on."""
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text
