"""How completions are written: tokens of thought and of answer, format and language rates.

Axis suffixes: _P problems, _G the samples of one problem.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.extract import after_thinking, opens_thinking
from rewards.format import format_boxed, format_r1
from rewards.language import language_consistency
from rl.data.templates import encode
from rl.types import RewardPart, Rollout, RolloutGroup, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_SAMPLES = 256
"""Samples whose language is looked at: each costs about a millisecond for 300 words."""
LANGUAGE = "language_consistency"


@dataclass(frozen=True, slots=True)
class Style:
    """thought_mean, answer_mean: tokens. format: share of samples in the form of the run's own format reward; without
    one, in R1's tags or in <think> and a box. language: mean share of words in the question's language, over all
    samples where the run rewards it, else over at most LANGUAGE_SAMPLES of them. thought_P, format_P, language_P: of
    each problem, the mean over its samples; NaN where none was looked at.
    """

    thought_mean: float
    answer_mean: float
    format: float
    language: float | None
    thought_P: list[float]
    format_P: list[float]
    language_P: list[float]


def measure_style(
    groups_P: Sequence[RolloutGroup],
    parts_PG: Sequence[Sequence[Mapping[str, RewardPart]]],
    tokenizer: PreTrainedTokenizerBase,
) -> Style:
    """Of all samples. parts_PG: what the rewards said of them."""
    pairs = [(g, r) for g in groups_P for r in g.rollouts_G]
    problems = [i for i, g in enumerate(groups_P) for _ in g.rollouts_G]
    parts = [p for parts_G in parts_PG for p in parts_G]
    in_form = [float(_has_form(r.text, g.prompt.for_rewards, p)) for (g, r), p in zip(pairs, parts, strict=True)]
    languages = _languages(pairs, parts)
    opened = [opens_thinking(g.prompt.text) for g, _ in pairs]
    answers = [after_thinking(r.text, opened=o) or "" for (_, r), o in zip(pairs, opened, strict=True)]
    answer_tokens = [
        answer_length(r.text, answer, r.num_sampled, len(ids), ended=not r.truncated)
        for (_, r), answer, ids in zip(pairs, answers, encode(answers, tokenizer), strict=True)
    ]
    thoughts = [float(r.num_sampled - n) for (_, r), n in zip(pairs, answer_tokens, strict=True)]
    return Style(
        thought_mean=sum(thoughts) / len(pairs),
        answer_mean=sum(answer_tokens) / len(pairs),
        format=sum(in_form) / len(pairs),
        language=sum(languages.values()) / len(languages) if languages else None,
        thought_P=_by_problem(dict(enumerate(thoughts)), problems, len(groups_P)),
        format_P=_by_problem(dict(enumerate(in_form)), problems, len(groups_P)),
        language_P=_by_problem(languages, problems, len(groups_P)),
    )


def _by_problem(values: Mapping[int, float], problems: Sequence[int], count: int) -> list[float]:
    """The mean of each problem's values; NaN without one. values: by sample; problems: of each sample."""
    found: list[list[float]] = [[] for _ in range(count)]
    for sample, value in values.items():
        found[problems[sample]].append(value)
    return [sum(own) / len(own) if own else math.nan for own in found]


def answer_length(completion: str, answer: str, tokens: int, answer_tokens: int, *, ended: bool) -> int:
    """Tokens of the answer, the end token included (ended); the thought has the rest of `tokens`.

    answer_tokens: of the answer tokenised alone, which may differ from how it was sampled by a token at its edge.

        "<think>a</think> b" -> those of " b" and the end; without thinking -> all; a thought that never ends -> 0
    """
    if answer == completion:
        return tokens
    return min(answer_tokens + ended, tokens) if answer else 0


def _has_form(completion: str, prompt: str, parts: Mapping[str, RewardPart]) -> bool:
    own = [part for name, part in parts.items() if name.startswith("format")]
    if own:
        return own[0].verdict == Verdict.CORRECT
    return any(form(completion, prompt=prompt).verdict == "correct" for form in (format_r1, format_boxed))


def _languages(
    pairs: Sequence[tuple[RolloutGroup, Rollout]], parts: Sequence[Mapping[str, RewardPart]]
) -> dict[int, float]:
    """Sample -> its share of words in the question's language, of the samples that are looked at."""
    rewarded = {i: p[LANGUAGE].score for i, p in enumerate(parts) if LANGUAGE in p and p[LANGUAGE].verdict.is_valid}
    if rewarded:
        return rewarded
    chosen: Sequence[int] = range(len(pairs))
    if len(pairs) > LANGUAGE_SAMPLES:  # drawn, since every nth would always be the same sample of its group
        chosen = random.Random(0).sample(chosen, LANGUAGE_SAMPLES)
    return {
        i: share_in_language(pairs[i][1].text, pairs[i][0].prompt.for_rewards, pairs[i][0].prompt.columns)
        for i in chosen
    }


def share_in_language(completion: str, prompt: str, row: Mapping[str, object]) -> float:
    """rewards.language.language_consistency with the row's own question and language, where it has them."""
    question = row.get("question") or row.get("problem")
    return language_consistency(
        completion,
        prompt=prompt,
        question=question if isinstance(question, str) else "",
        language=row.get("language"),
    ).value
