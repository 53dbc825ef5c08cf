"""How completions are written: tokens of thought and of answer, format and language rates.

Axis suffixes: _P problems, _G the samples of one problem.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.extract import after_thinking, opens_thinking
from rewards.format import format_boxed, format_r1
from rewards.language import language_consistency
from rl.templates import encode
from rl.types import RewardPart, RolloutGroup, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_SAMPLES = 256
"""Samples whose language is looked at: each costs about a millisecond for 300 words."""
LANGUAGE = "language_consistency"


@dataclass(frozen=True, slots=True)
class Style:
    """thought_mean, answer_mean: tokens. format: share of samples in the form of the run's own format reward; without
    one, in R1's tags or in <think> and a box. language: mean share of words in the question's language, over all
    samples where the run rewards it, else over at most LANGUAGE_SAMPLES of them.
    """

    thought_mean: float
    answer_mean: float
    format: float
    language: float | None


def measure_style(
    groups_P: Sequence[RolloutGroup],
    parts_PG: Sequence[Sequence[Mapping[str, RewardPart]]],
    tokenizer: PreTrainedTokenizerBase,
) -> Style:
    """Of all samples. parts_PG: what the rewards said of them."""
    pairs = [(g, r) for g in groups_P for r in g.rollouts_G]
    parts = [p for parts_G in parts_PG for p in parts_G]
    opened = [opens_thinking(g.prompt.text) for g, _ in pairs]
    answers = [after_thinking(r.text, opened=o) or "" for (_, r), o in zip(pairs, opened, strict=True)]
    answer_tokens = [
        answer_length(r.text, answer, len(r.token_ids_T), len(ids), ended=not r.truncated)
        for (_, r), answer, ids in zip(pairs, answers, encode(answers, tokenizer), strict=True)
    ]
    return Style(
        thought_mean=sum(len(r.token_ids_T) - n for (_, r), n in zip(pairs, answer_tokens, strict=True)) / len(pairs),
        answer_mean=sum(answer_tokens) / len(pairs),
        format=sum(_has_form(r.text, g.prompt.text, p) for (g, r), p in zip(pairs, parts, strict=True)) / len(pairs),
        language=_language(groups_P, parts),
    )


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


def _language(groups_P: Sequence[RolloutGroup], parts: Sequence[Mapping[str, RewardPart]]) -> float | None:
    scores = [p[LANGUAGE].score for p in parts if LANGUAGE in p and p[LANGUAGE].verdict.is_judgement]
    if not scores:
        pairs = [(g.prompt, r) for g in groups_P for r in g.rollouts_G]
        if len(pairs) > LANGUAGE_SAMPLES:  # drawn, since every nth would always be the same sample of its group
            pairs = random.Random(0).sample(pairs, LANGUAGE_SAMPLES)
        for prompt, rollout in pairs:
            scores.append(share_in_language(rollout.text, prompt.text, prompt.row))
    return sum(scores) / len(scores) if scores else None


def share_in_language(completion: str, prompt: str, row: Mapping[str, object]) -> float:
    """rewards.language.language_consistency with the row's own question and language, where it has them."""
    question, language = row.get("question") or row.get("problem"), row.get("language")
    return language_consistency(
        completion,
        prompt=prompt,
        question=question if isinstance(question, str) else "",
        language=language if isinstance(language, str) else "",
    ).value
