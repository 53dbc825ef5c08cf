"""The one thing that every reward returns."""

from __future__ import annotations

from typing import NamedTuple

CORRECT = "correct"
WRONG = "wrong"
UNPARSEABLE = "unparseable"


class Score(NamedTuple):
    """What a reward says of one completion.

    value: the reward, before any weight. verdict: "correct", "wrong" or "unparseable" (no answer could be read).
    reason: a few words for whoever reads the rollouts; "" where there is nothing to add.
    """

    value: float
    verdict: str
    reason: str = ""


def correct(reason: str = "") -> Score:
    return Score(1.0, CORRECT, reason)


def wrong(reason: str) -> Score:
    return Score(0.0, WRONG, reason)


def unparseable(reason: str) -> Score:
    return Score(0.0, UNPARSEABLE, reason)


def excerpt(text: str, limit: int = 60) -> str:
    """text in quotes on one line, cut in the middle to about `limit` characters."""
    if len(text) > limit:
        text = text[: limit // 2] + " ... " + text[-(limit // 2) :]
    return repr(text)
