"""The steps of a solution, and the token at which each of them ends: the same for training a process reward model, for
asking one, and for search.

A tokenizer may merge the text that ends a step with what stands before it (".\\n\\n" can be one token), so a step has
no token boundary of its own. A step ends at the token that contains its last character.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rl.scoring.reward_model_text import EncodedResponse, Encoder
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Decode = Callable[[Sequence[int]], str]


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Tokens to text, with special tokens and every space as they are."""
    return lambda ids: cast(
        str, tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def split_steps(text: str, ends: Sequence[str]) -> list[str]:
    """The steps, each with the text that ends it; together they are the text. A blank step belongs to the one before.

    "a. b. c", [". "] -> ["a. ", "b. ", "c"]    "a\\n\\n\\nb\\n", ["\\n"] -> ["a\\n\\n\\n", "b\\n"]    "" -> []
    """
    steps: list[str] = []
    rest = text
    while rest:
        found = [(at, len(end)) for end in ends if (at := rest.find(end)) >= 0]
        # The first end; of two at one place the longer.
        at, length = min(found, key=lambda of: (of[0], -of[1]), default=(len(rest), 0))
        step, rest = rest[: at + length], rest[at + length :]
        if steps and not step.strip():
            steps[-1] += step
        else:
            steps.append(step)
    if len(steps) > 1 and not steps[0].strip():
        steps[:2] = [steps[0] + steps[1]]
    return steps


def joined(steps: Sequence[str], separator: str) -> list[str]:
    """The steps as they stand in one text: each but the last ends in the separator, where it ends in no space already.

    ["a", "b", "c"], "\\n\\n" -> ["a\\n\\n", "b\\n\\n", "c"]    ["a\\n", "b"] -> ["a\\n", "b"]
    """
    whole = [step if step[-1:].isspace() else step + separator for step in steps[:-1]]
    return [*whole, *steps[-1:]]


def end_tokens(token_ids: Sequence[int], decode: Decode, steps: Sequence[str]) -> list[int]:
    """For each step, the index of the token that contains its last character. The last place in the tokens' text where
    all the steps stand is looked at.

    A text that was cut has fewer steps than it had: the caller gives those that are there, the last perhaps in part.
    Where a tokenizer's template has removed spaces at the two ends, the first and the last step end without them.
    Raises ValueError where the steps are not in the text: the tokenizer has changed it.

        Tokens "Q: ", "one", ".\\n\\n", "two", ".", "</s>", steps ["one.\\n\\n", "two."] -> [2, 4]
    """
    text, whole = decode(token_ids), "".join(steps)
    shown = whole.strip()
    start = text.rfind(whole)
    if start < 0 and shown:
        start = text.rfind(shown) - (len(whole) - len(whole.lstrip()))
        if text.rfind(shown) < 0:
            raise ValueError(f"the tokenizer changes the text of a response: {shown[:40]!r} is not in {text[-80:]!r}")
    stop = start + len(whole) if text[start : start + len(whole)] == whole else start + len(whole.rstrip())
    out: list[int] = []
    low, at = 0, start
    for step in steps:
        at = at + len(step)
        end = min(at, stop)
        low = bisect.bisect_left(
            range(len(token_ids)), True, lo=low, key=lambda i: decode(token_ids[: i + 1])[:end] == text[:end]
        )
        out.append(low)
    return out


@dataclass(frozen=True, slots=True)
class EncodedSteps:
    """Question and response in tokens, and the token at which each step ends."""

    encoded: EncodedResponse
    ends_K: list[int]


def encode_steps(encoder: Encoder, question: str, steps: Sequence[str]) -> EncodedSteps | None:
    """The response whose steps these are. Steps that max_tokens cuts away are left out. None where the question leaves
    no room, or there is nothing to read. Raises ValueError as end_tokens does.
    """
    steps = [encoder.defused(step) for step in steps]
    encoded = encoder.encode(question, "".join(steps))
    if encoded is None or not encoded.shown.strip():
        return None
    kept, left = [], len(encoded.shown)
    for step in steps:
        if left <= 0:
            break
        kept.append(step[:left])
        left -= len(step)
    return EncodedSteps(encoded, end_tokens(encoded.token_ids, decoder(encoder.tokenizer), kept))


def aggregated(scores: Sequence[float], how: str) -> float:
    """One score for a solution from those of its steps: of the last, the smallest, or their mean.

    A product would punish every step, and so length. [.9, .5, .7] -> last .7, min .5, mean .7
    """
    if how == "last":
        return scores[-1]
    if how == "min":
        return min(scores)
    if how == "mean":
        return sum(scores) / len(scores)
    raise BadInput(f"aggregate={how}: expected last, min or mean")
