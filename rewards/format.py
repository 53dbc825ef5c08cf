"""Format: does the completion have the required form? A rule, as in R1.

R1's format reward is rule-based: the reasoning and the answer stand in their tags (Nature 10.1038/s41586-025-09422-z,
Methods). Each form is data: its delimiters in order, and what stands before, between and after them. Whitespace never
decides: rewards that match newlines exactly pay nobody (open-r1 #235).

    R1          <think> thinking </think> <answer> answer </answer>
    BOXED       <think> thinking </think> answer, with exactly one \\boxed{...}
    COLD_START  |special_token| reasoning |special_token| summary     (R1's cold-start data, V1 2.3.1)

Where the prompt itself ends in a form's first delimiter (templates that open the think tag), the completion begins
behind it and must not write it again.
"""

from __future__ import annotations

from typing import NamedTuple

from rewards.extract import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, boxes
from rewards.ink import has_ink, shows_something
from rewards.types import WRONG, Score, correct, excerpt, wrong

SPECIAL_TOKEN = "|special_token|"
"""The delimiter as R1's paper prints it; a model's own is the setting special_token of format_cold_start."""


class Form(NamedTuple):
    """A form as data.

    tags: the delimiters in order; each occurs just as often as it is listed. pieces: the names of what stands before,
    between and after them, one more than tags: a named piece must hold something, "" must hold nothing.
    boxed: the last piece has exactly one \\boxed{...}, and that is not empty.
    """

    tags: tuple[str, ...]
    pieces: tuple[str, ...]
    boxed: bool = False

    def opened(self) -> Form:
        """The rest of the form, for a completion that begins behind its first delimiter."""
        return self._replace(tags=self.tags[1:], pieces=self.pieces[1:])


R1 = Form((THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE), ("", "think", "", "answer", ""))
BOXED = Form((THINK_OPEN, THINK_CLOSE), ("", "think", "answer"), boxed=True)
THOUGHT = ("think", "reasoning")
"""Pieces that need only some character; the others must show something once they are set as LaTeX."""
COLD_START = Form((SPECIAL_TOKEN, SPECIAL_TOKEN), ("", "reasoning", "summary"))


def format_r1(completion: str, *, prompt: str = "", partial: float = 0.0, **columns: object) -> Score:
    """1 for <think>..</think> <answer>..</answer> and nothing else, else 0. Setting: partial, see check_form."""
    return check_form(completion, R1, opened=_opens(prompt, R1), partial=partial)


def format_r1_opened(completion: str, *, partial: float = 0.0, **columns: object) -> Score:
    """format_r1 for templates that open the think tag in a way that the prompt's text does not show."""
    return check_form(completion, R1, opened=True, partial=partial)


def format_boxed(completion: str, *, prompt: str = "", partial: float = 0.0, **columns: object) -> Score:
    r"""1 for <think>..</think> and then exactly one \boxed{..}, else 0. Boxes inside the thinking do not count.

    Setting: partial, see check_form.
    """
    return check_form(completion, BOXED, opened=_opens(prompt, BOXED), partial=partial)


def format_boxed_opened(completion: str, *, partial: float = 0.0, **columns: object) -> Score:
    """format_boxed for templates that open the think tag in a way that the prompt's text does not show."""
    return check_form(completion, BOXED, opened=True, partial=partial)


def format_cold_start(
    completion: str,
    *,
    prompt: str = "",
    special_token: str = SPECIAL_TOKEN,
    partial: float = 0.0,
    **columns: object,
) -> Score:
    """1 for |special_token| reasoning |special_token| summary, else 0.

    Settings: special_token, the delimiter that the model uses; it must reach the text (a sampler may skip special
    tokens); partial, see check_form. Raises ValueError when special_token is empty.
    """
    if not special_token.strip():
        raise ValueError("special_token is empty; name the delimiter of the cold-start form")
    form = COLD_START._replace(tags=(special_token, special_token))
    return check_form(completion, form, opened=_opens(prompt, form), partial=partial)


def check_format(completion: str, *, opened: bool) -> Score:
    """1 when the text is exactly one think part and then exactly one answer part, each with something in it, else 0.

    opened: the template wrote <think> already, so the completion begins inside the think part.

        "<think>a</think>\\n<answer>b</answer>"  -> 1 (opened: 0)
        "a</think><answer>b</answer>"           -> 0 (opened: 1)
    """
    return check_form(completion, R1, opened=opened)


def check_form(completion: str, form: Form, *, opened: bool = False, partial: float = 0.0) -> Score:
    """1 when the text has the form, else `partial` times the share of delimiters that occur as often as they should.

    partial: 0 (the default) pays no half measures; at least 0 and below 1. Raises ValueError for any other.

        R1, "<think>a</think>", partial 0.2 -> 0.1: two of the four delimiters
    """
    if not 0 <= partial < 1:
        raise ValueError(f"partial is {partial}; it is at least 0 and below 1, which only the whole form earns")
    first = form.tags[0]
    if opened:
        form = form.opened()
    problem = _problem(completion, form, first if opened else "")
    if not problem:
        return correct()
    if not partial:
        return wrong(problem)
    expected = {tag: form.tags.count(tag) for tag in form.tags}
    right = sum(completion.count(tag) == count for tag, count in expected.items())
    return Score(partial * right / len(expected), WRONG, problem)


def _problem(completion: str, form: Form, opened_by: str) -> str:
    """What the text lacks of the form, "" when nothing. opened_by: the delimiter that the prompt has written."""
    if opened_by and opened_by not in form.tags and opened_by in completion:
        return f"{opened_by} again: the prompt has opened it"
    for tag in form.tags:
        count, wanted = completion.count(tag), form.tags.count(tag)
        if count != wanted:
            return f"no {tag}" if count == 0 else f"{count} times {tag}"
    pieces: list[str] = []
    rest = completion
    for tag in form.tags:
        piece, found, rest = rest.partition(tag)
        if not found:
            return f"{tag} comes too early"
        pieces.append(piece)
    pieces.append(rest)
    outside = next((p.strip() for p, name in zip(pieces, form.pieces, strict=True) if not name and p.strip()), "")
    if outside:
        return f"text outside the tags: {excerpt(outside)}"
    for piece, name in zip(pieces, form.pieces, strict=True):
        if name and not (any(map(has_ink, piece)) if name in THOUGHT else shows_something(piece)):
            return f"the {name} part is empty"
    return _box_problem(rest) if form.boxed else ""


def _box_problem(answer: str) -> str:
    found, written = boxes(answer), answer.count("\\boxed")
    if not found:
        return "no \\boxed{} after the thinking"
    if written != 1:
        return f"{written} times \\boxed after the thinking"
    return "" if shows_something(found[0]) else "the \\boxed{} is empty"


def _opens(prompt: str, form: Form) -> bool:
    """Whether the prompt ends in the form's first delimiter, so that the completion begins behind it."""
    return prompt.rstrip().endswith(form.tags[0])
