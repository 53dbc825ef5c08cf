"""Watch: numbers of a step that move when a reward is being gamed, or when a verifier is too strict or too lax.

No number convicts. Read the rollouts behind a curve that climbs: rewards get hacked where nobody looks (open-r1 #407).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewards.accuracy import reference_answer
from rewards.shaping import NGRAM, repeated_share
from rewards.types import CORRECT, UNPARSEABLE, Score


def hacking_watch(
    completions: Sequence[str], answers: Sequence[str], scores: Sequence[Score], lengths: Sequence[int]
) -> dict[str, float]:
    """A step's warning signs, each by its name; what has nothing to show is left out, all of it for no completions.

    completions, answers (references), scores (of the strict verifier: accuracy) and lengths (tokens): one each a
    sample, in the same order. Raises ValueError when they differ in number.

    watch/gold_unparsed        share with the gold answer somewhere in the text but scored unparseable, for its form:
                               a verifier too strict, or a template that the model has not learnt
    watch/repeated_text        mean share of 3-grams that occurred before in their text: text spun out
    watch/duplicates           share of completions equal to an earlier one of the step
    watch/length_score         correlation of length and score, -1 to 1: near 1, length itself may be paid
    watch/verifiers_disagree   share where the strict verdict and "the gold answer stands anywhere" differ
    watch/paid_without_gold    the part of it that was paid though the gold answer stands nowhere as it is written:
                               another way to write it (0.5 for 1/2), or a hole in the verifier
    """
    counts = {len(completions), len(answers), len(scores), len(lengths)}
    if len(counts) != 1:
        raise ValueError(
            f"{len(completions)} completions, {len(answers)} answers, {len(scores)} scores, {len(lengths)} lengths: "
            "they are one each a sample"
        )
    if not completions:
        return {}
    strict = [score.verdict == CORRECT for score in scores]
    lenient = [mentions(text, answer) for text, answer in zip(completions, answers, strict=True)]
    unparsed = [score.verdict == UNPARSEABLE for score in scores]
    out = {
        "watch/gold_unparsed": _share([a and b for a, b in zip(lenient, unparsed, strict=True)]),
        "watch/repeated_text": sum(repeated_share(text, NGRAM) for text in completions) / len(completions),
        "watch/duplicates": 1 - len(set(completions)) / len(completions),
        "watch/verifiers_disagree": _share([a != b for a, b in zip(strict, lenient, strict=True)]),
        "watch/paid_without_gold": _share([a and not b for a, b in zip(strict, lenient, strict=True)]),
    }
    found = correlation([float(length) for length in lengths], [score.value for score in scores])
    return out if found is None else out | {"watch/length_score": found}


def mentions(text: str, answer: str) -> bool:
    """The lenient verifier: the gold answer stands anywhere in the text, as a whole word or number, whatever its case.

    42 stands in "it is 42." and "x=42", but not in "142", "42.5", "42,000", "1.42", "-42" or "42nd".
    """
    gold = " ".join(reference_answer(answer).casefold().split())
    text = " ".join(text.casefold().split())
    start = text.find(gold)
    while start >= 0:
        if _is_whole(text, start, start + len(gold)):
            return True
        start = text.find(gold, start + 1)
    return False


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is no part of a longer word or number."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    first, last = text[start], text[end - 1]
    if first.isalnum() and before and (before[-1].isalnum() or before[-1] == "_"):
        return False
    if last.isalnum() and after and (after[0].isalnum() or after[0] == "_"):
        return False
    if first.isdigit() and before and _binds(before[-1], before[:-1]):
        return False
    # A separator goes on with the number only where a digit follows: "42." ends a sentence.
    return not (last.isdigit() and len(after) == 2 and after[0] in ".,/" and after[1].isdigit())


def _binds(mark: str, left: str) -> bool:
    """Whether what stands before a digit makes another number of it: the 1. of 1.42, the sign of -42 (not 50-42)."""
    if mark in ".,/":
        return left.isdigit() or mark == "."
    return mark in "-−" and not left.isalnum()


def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Pearson's correlation over the pairs that are finite; None with fewer than 2, or where either does not vary.

    [1, 2, 3], [2, 4, 6] -> 1; [1, 2, 3], [3, 2, 1] -> -1; [1, 2], [5, 5] -> None
    """
    pairs = [(x, y) for x, y in zip(one, other, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(pairs) < 2 or len({x for x, _ in pairs}) == 1 or len({y for _, y in pairs}) == 1:
        return None
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread_x = math.sqrt(sum((x - mean_x) ** 2 for x, _ in pairs))
    spread_y = math.sqrt(sum((y - mean_y) ** 2 for _, y in pairs))
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / (spread_x * spread_y)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
