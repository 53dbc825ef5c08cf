"""Shaping: length and repetition as rewards, to be added to accuracy with a weight of their own.

Lengths are in tokens: the column `completion_tokens`, which the scorer passes. Without it they are the number of
whitespace-separated words, which counts text without spaces (Chinese, Japanese, Thai) far too low.
What depends on a run (its token limit, the heights of a curve) has no default: a limit that is not the run's own would
silently never act.
"""

from __future__ import annotations

import math
import re

from rewards.accuracy import accuracy
from rewards.types import CORRECT, WRONG, Score

NGRAM = 3
"""Words of an n-gram in the repetition penalty (arXiv 2502.03373, as TRL gives it: 3-grams, down to -1)."""

# A character of a script without spaces is a unit, so that repetition in Chinese or Thai is seen too.
UNSPACED = "\u0e00-\u0edf\u1000-\u109f\u1780-\u17d3\u3040-\u30ff㐀-䶿一-鿿\U00020000-\U0003ffff"
_UNITS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def soft_overlong(
    completion: str, *, max_tokens: int, cache_tokens: int, completion_tokens: int | None = None, **columns: object
) -> Score:
    """DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13): 0 to -1.

    Settings: max_tokens (L_max), from here on -1; cache_tokens (L_cache), the penalty grows over the last so many.
    DAPO: 4,096 of 20,480. A completion limit of the run below max_tokens - cache_tokens never acts. Raises ValueError
    for lengths that are not 0 < cache_tokens <= max_tokens.

        0                                    where L <= L_max - L_cache
        ((L_max - L_cache) - L) / L_cache    up to L_max
        -1                                   beyond

    max_tokens 100, cache_tokens 20: 80 -> 0, 85 -> -0.25, 90 -> -0.5, 100 -> -1, 500 -> -1
    """
    if not 0 < cache_tokens <= max_tokens:
        raise ValueError(f"cache_tokens is {cache_tokens}; it is above 0 and at most max_tokens, {max_tokens}")
    length = length_of(completion, completion_tokens)
    return _penalty(-min(1.0, max(0.0, (length - (max_tokens - cache_tokens)) / cache_tokens)), f"{length} long")


def repetition(completion: str, *, ngram: int = NGRAM, max_penalty: float = 1.0, **columns: object) -> Score:
    """Penalty for repeated n-grams: 0 to -max_penalty, by the share of n-grams that occurred before.

    "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373) and its code: max * (1 - unique / all), of
    lower-cased words. Its code penalises wrong answers only; here all are. A text shorter than an n-gram repeats
    nothing (its code divides by zero). Settings: ngram, max_penalty. Raises ValueError for an ngram below 1 or a
    negative max_penalty.

        "a b c a b c", ngram 3: abc bca cab abc, 3 of 4 unique -> -0.25
    """
    if max_penalty < 0:
        raise ValueError(f"max_penalty is {max_penalty}; it is the height of the penalty, at least 0")
    share = repeated_share(completion, ngram)
    return _penalty(-max_penalty * share, f"{share:.2f} of the {ngram}-grams are repeated")


def cosine_length(
    completion: str,
    *,
    answer: str,
    max_tokens: int,
    correct_short: float,
    correct_long: float,
    wrong_short: float,
    wrong_long: float,
    exceeded: float,
    prompt: str = "",
    completion_tokens: int | None = None,
    **columns: object,
) -> Score:
    """The cosine length reward of arXiv 2502.03373: it takes the place of accuracy, and length bends it.

    R = long + (short - long) / 2 * (1 + cos(pi * L / max_tokens)), with correct_short and correct_long (the paper's
    r_0^c, r_L^c) for a right answer, wrong_short and wrong_long (r_0^w, r_L^w) for a wrong one, and `exceeded` (r_e)
    from max_tokens on; the paper's code applies it a few tokens earlier. The paper pays right answers more for being
    short, and wrong ones less. Whether the answer is right is rewards.accuracy's word, against the row's answer; all
    else is a setting.

    correct 2 to 1, wrong -10 to 0, exceeded -10 (made up), max_tokens 100:
        right: 0 -> 2, 50 -> 1.5, 75 -> 1.146; wrong: 0 -> -10, 50 -> -5, 75 -> -1.464; 100 -> -10 whatever the answer
    """
    _positive(max_tokens, "max_tokens")
    length = length_of(completion, completion_tokens)
    if length >= max_tokens:
        return Score(exceeded, WRONG, f"{length} long, {max_tokens} allowed")
    score = accuracy(completion, prompt=prompt, answer=answer)
    short, long = (correct_short, correct_long) if score.verdict == CORRECT else (wrong_short, wrong_long)
    return Score(cosine(length, max_tokens, short, long), score.verdict, score.reason)


def cosine(length: float, limit: float, short: float, long: float) -> float:
    """Half a cosine wave from `short` at length 0 to `long` at `limit`: (0, 100, 2, 1) -> 2, 50 -> 1.5, 100 -> 1."""
    return long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * length / limit))


def length_budget(
    completion: str,
    *,
    answer: str,
    budget: int,
    slope: float,
    at_budget: float,
    prompt: str = "",
    completion_tokens: int | None = None,
    **columns: object,
) -> Score:
    """L1-Max's reward for a token budget (arXiv 2503.04697): right * clip(slope * (budget - L) + at_budget, 0, 1).

    It takes the place of accuracy. From the row: answer, and budget (the paper writes it in the prompt too), which may
    also be a setting for all rows. Settings: slope (alpha), what a token costs; at_budget (delta), what a right answer
    of just that length earns.

    budget 100, slope 0.01, at_budget 0.5, right: 0 -> 1, 50 -> 1, 75 -> 0.75, 100 -> 0.5, 125 -> 0.25, 150 -> 0
    """
    _positive(budget, "budget")
    _positive(slope, "slope")
    score = accuracy(completion, prompt=prompt, answer=answer)
    if score.verdict != CORRECT:
        return score
    length = length_of(completion, completion_tokens)
    value = min(1.0, max(0.0, slope * (budget - length) + at_budget))
    return Score(value, CORRECT if value else WRONG, f"{length} long, budget {budget}")


def length_of(completion: str, completion_tokens: int | None) -> int:
    """Tokens where they are known, else whitespace-separated words. Raises ValueError for a negative number."""
    if completion_tokens is None:
        return len(completion.split())
    if completion_tokens < 0:
        raise ValueError(f"completion_tokens is {completion_tokens}; it is a number of tokens")
    return completion_tokens


def units(text: str) -> list[str]:
    """What n-grams are made of: lower-cased words; in scripts without spaces, characters. "Go 你好" -> go, 你, 好."""
    return _UNITS.findall(text.lower())


def repeated_share(text: str, ngram: int = NGRAM) -> float:
    """The share of n-grams that occurred before in the text, 0 to 1; 0 for a text shorter than one."""
    if ngram < 1:
        raise ValueError(f"ngram is {ngram}; it is a number of words, at least 1")
    words = units(text)
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    return 1 - len(set(zip(*(words[i:] for i in range(ngram)), strict=False))) / total


def _penalty(value: float, reason: str) -> Score:
    return Score(value, WRONG, reason) if value < 0 else Score(0.0, CORRECT)


def _positive(number: float, name: str) -> None:
    if not number > 0:
        raise ValueError(f"{name} is {number}; it is above 0")
