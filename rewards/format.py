"""Format: R1's form, one think part and then one answer part.

R1's format reward is a rule: the reasoning and the answer stand in their tags (Nature 10.1038/s41586-025-09422-z,
Methods). Whitespace never decides: rewards that match newlines exactly pay nobody (open-r1 #235).
"""

from __future__ import annotations

from rewards.extract import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, opens_thinking
from rewards.types import Score, correct, excerpt, wrong


def format_r1(completion: str, *, prompt: str = "", **columns: object) -> Score:
    """1 for <think>..</think> <answer>..</answer> and nothing else, else 0.

    Where the prompt itself ends in <think>, the completion must not open it again: see check_format.
    """
    return check_format(completion, opened=opens_thinking(prompt))


def format_r1_opened(completion: str, **columns: object) -> Score:
    """format_r1 for templates that open the think tag in a way that the prompt's text does not show."""
    return check_format(completion, opened=True)


def check_format(completion: str, *, opened: bool) -> Score:
    """1 when the text is exactly one think part and then exactly one answer part, each with something in it, else 0.

    opened: the template wrote <think> already, so the completion begins inside the think part.

        "<think>a</think>\\n<answer>b</answer>"  -> 1 (opened: 0)
        "a</think><answer>b</answer>"           -> 0 (opened: 1)
    """
    tags = [THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE] if opened else [THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE]
    if opened and THINK_OPEN in completion:
        return wrong(f"{THINK_OPEN} again: the prompt has opened it")
    for tag in tags:
        count = completion.count(tag)
        if count != 1:
            return wrong(f"no {tag}" if count == 0 else f"{count} times {tag}")

    pieces: list[str] = []
    rest = completion
    for tag in tags:
        piece, found, rest = rest.partition(tag)
        if not found:
            return wrong(f"{tag} comes too early")
        pieces.append(piece)
    if opened:
        pieces.insert(0, "")
    before, thinking, between, answer = (piece.strip() for piece in pieces)
    outside = before or between or rest.strip()
    if outside:
        return wrong(f"text outside the tags: {excerpt(outside)}")
    if not thinking or not answer:
        return wrong(f"the {'think' if not thinking else 'answer'} part is empty")
    return correct()
