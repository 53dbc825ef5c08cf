r"""What may stand around an answer without changing it: the letter of a choice before its value, or behind a number the
things that the question counts.

    "(B) 5", "\textbf{(B)}\ 5", "B. 5"       the choice B, whose value is 5
    "12 apples"                               12, where the question speaks of apples
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.extract import normalise
from rewards.quantities import changes_numbers, is_counted, is_unit, parse_number

_FONT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|bf) ?\{([^{}]*)\}")
_LABELLED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:](?= )) ?(.+)")
_SPACES = re.compile(r"\\(?:quad|qquad|[ ,;:])|~")
_OTHER_CHOICE = re.compile(r"\([A-Z]\)|(?<![A-Za-z\\])(?:[A-J]|or|and|not|none)(?![A-Za-z])")
_COUNT = re.compile(
    r"(?P<number>.*[0-9}]) ?(?:\\text ?\{ ?(?P<text>[A-Za-z ]{3,40}) ?\}|(?<=[ }])(?P<bare>[A-Za-z ]{3,40}))"
)
MAX_PROMPT = 4000


class Choice(NamedTuple):
    """One of several choices with its value: (B) 5."""

    letter: str
    value: str


def read_choice(text: str) -> Choice | None:
    r""" "(B) 5" and "\textbf{(B) } 5" -> B with 5. None for "(B)", and for what names another choice, too."""
    plain = " ".join(_SPACES.sub(" ", _FONT.sub(r"\1 ", text)).split())
    found = _LABELLED.fullmatch(plain)
    if not found or _OTHER_CHOICE.search(found[3]):
        return None
    return Choice(found[1] or found[2], normalise(found[3]))


def choice_in(prompt: str, letter: str) -> str:
    """What a question gives as the value of a choice; "" where it gives none."""
    plain = _SPACES.sub(" ", _FONT.sub(r"\1 ", prompt[-MAX_PROMPT:]).replace("$", " "))
    found = re.search(rf"(?<![A-Za-z])\(?{letter}[).:]\s*(.+?)\s*(?=\n|\(?[A-Z][).:]\s|$)", plain)
    return found[1].strip() if found else ""


def without_counted(text: str, prompt: str) -> str:
    """The number of a count whose things the question speaks of: "12 red apples" -> "12"; any other text as it is."""
    found = _COUNT.fullmatch(text) if prompt and len(text) < 100 else None
    if not found or parse_number(number := found["number"].strip()) is None:
        return text
    things = " ".join((found["text"] or found["bare"]).split())
    words = things.lower().split(" ")
    is_plain = is_counted(words[-1]) and not is_unit(words[-1]) and not any(map(changes_numbers, words))
    named = is_plain and re.search(rf"\b{re.escape(things)}\b", prompt[-MAX_PROMPT:], re.IGNORECASE)
    return number if named else text
