"""cons@k: the samples of a problem vote with their answers, and equivalent answers are one.

Axis suffixes: _P problems, _G the samples of one problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rewards.extract import final_answers, normalise, opens_thinking
from rl.evaluation.metrics import group_equivalent, majority
from rl.evaluation.same_answer import Comparer
from rl.types import RolloutGroup

MAX_BOXES = 8
"""More boxes that differ are no answer: each pair would be a comparison."""


def consensus(
    groups_P: Sequence[RolloutGroup], correct_PG: Sequence[Sequence[float]], verified_P: Sequence[bool]
) -> list[float]:
    """For each problem, whether the most frequent answer is correct, 0 to 1 (rl.evaluation.metrics.majority).

    Arguments, and when it is empty: as answer_classes.
    """
    classes_PG = answer_classes(groups_P, correct_PG, verified_P)
    return [majority(*of_one) for of_one in zip(classes_PG, correct_PG, strict=True)] if classes_PG else []


def answer_classes(
    groups_P: Sequence[RolloutGroup], correct_PG: Sequence[Sequence[float]], verified_P: Sequence[bool]
) -> list[list[int | None]]:
    """For each problem, the number of each sample's answer: equivalent answers have the same, None is no answer.

    correct_PG: 1 or 0, NaN without a verdict. verified_P: "correct" means equal to the reference answer, so all correct
    samples have one answer and need no comparison. For a reward of another kind (a countdown has many solutions) that
    would let the verifier vote. Empty when the rewards are of other kinds and no sample has an answer to vote for:
    a greeting has none.
    """
    with Comparer() as comparer:
        trusted_PG = [
            [verified and correct == 1.0 for correct in correct_G]
            for correct_G, verified in zip(correct_PG, verified_P, strict=True)
        ]
        answers_PG = [
            _answers(group, trusted_G, comparer.same) for group, trusted_G in zip(groups_P, trusted_PG, strict=True)
        ]
        if not any(verified_P) and all(answer is None for answers_G in answers_PG for answer in answers_G):
            return []
        return [
            _classes(answers_G, trusted_G, comparer.same)
            for answers_G, trusted_G in zip(answers_PG, trusted_PG, strict=True)
        ]


def _answers(group: RolloutGroup, trusted_G: Sequence[bool], same: Callable[[str, str], bool]) -> list[str | None]:
    """What each sample votes for; None where it has no answer, or is trusted."""
    opened = opens_thinking(group.prompt.text)
    return [
        None if trusted else voted(rollout.text, opened, same)
        for rollout, trusted in zip(group.rollouts_G, trusted_G, strict=True)
    ]


def _classes(
    answers_G: Sequence[str | None], trusted_G: Sequence[bool], same: Callable[[str, str], bool]
) -> list[int | None]:
    right = len(answers_G)  # no class of the others has this number
    classes_G = group_equivalent(answers_G, same)
    return [right if trusted else c for c, trusted in zip(classes_G, trusted_G, strict=True)]


def voted(completion: str, opened: bool, same: Callable[[str, str], bool]) -> str | None:
    r"""The answer that a completion votes for; None when it has none, or several that differ.

    opened: the prompt opened the thinking. "<answer>7</answer>" -> "7"; "\boxed{1/2} or \boxed{0.5}" -> "1/2".
    """
    found = list(dict.fromkeys(normalise(text) for text in final_answers(completion, opened=opened).answers))
    if not found or not found[0] or len(found) > MAX_BOXES:
        return None
    return found[0] if all(same(found[0], other) for other in found[1:]) else None


def correct_share(correct_G: Sequence[float]) -> float:
    """The share of a problem's samples that are correct, of those with a verdict; NaN when none has one."""
    valid = [c for c in correct_G if not math.isnan(c)]
    return sum(valid) / len(valid) if valid else math.nan
