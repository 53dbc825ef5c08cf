"""Which samples of a prompt rejection sampling keeps, with a reason for each. Axis suffix: _G samples of a prompt."""

from __future__ import annotations

from collections.abc import Sequence, Set

from rewards.filters import (
    PASSED,
    Check,
    has_length,
    has_no_code_block,
    has_short_paragraphs,
    is_not_repetitive,
    is_single_language,
    word_ngrams,
)
from rl.config import RejectConfig
from rl.types import GradedGroup, Verdict

DIVERSE_NGRAM = 3
KEPT = "kept"


def sample_reasons(graded: GradedGroup, reward: str, cfg: RejectConfig, before: Set[str] = frozenset()) -> list[str]:
    """For each sample of a group why it is kept ("kept: shortest") or dropped. reward: the reward that says correct.

    before: the texts kept of the same question in earlier rows, without their spacing.
    """
    rollouts_G = graded.group.rollouts_G
    verdicts_G = [parts[reward].verdict if reward in parts else None for parts in graded.parts_G]
    solved = sum(v == Verdict.CORRECT for v in verdicts_G) / max(1, len(verdicts_G))
    if solved > cfg.max_solve_share:
        return [f"easy prompt: {solved:.2f} of its samples are correct"] * len(rollouts_G)
    reasons_G: list[str] = []
    seen = set(before)
    for i, rollout in enumerate(rollouts_G):
        reason = _fault(graded, i, verdicts_G[i], cfg)
        text = without_spacing(rollout.text)
        if not reason and text in seen:
            reason = "duplicate: of an earlier sample"
        if not reason:
            seen.add(text)
        reasons_G.append(reason)
    good = [i for i, reason in enumerate(reasons_G) if not reason]
    chosen = set(_chosen(good, [r.text for r in rollouts_G], graded, cfg))
    for i in good:
        surplus = f"surplus: keep={cfg.keep}, {cfg.max_kept} of {len(good)}"
        reasons_G[i] = f"{KEPT}: {cfg.keep}" if i in chosen else surplus
    return reasons_G


def without_spacing(text: str) -> str:
    """The text with single spaces between its words. Texts that differ in white space alone count as duplicates."""
    return " ".join(text.split())


def category(reason: str) -> str:
    """The part before the colon: "kept: shortest" -> "kept". Older files have "" for a kept sample."""
    return reason.partition(":")[0] or KEPT


def is_kept(reason: str) -> bool:
    """Whether a sample with this reason was kept."""
    return category(reason) == KEPT


def filters_in_use(cfg: RejectConfig) -> tuple[str, ...]:
    """The functions of rewards/ that decide what is kept, as "module:function": those that the settings turn on."""
    uses = {
        "has_length": cfg.min_tokens or cfg.max_tokens,
        "has_no_code_block": cfg.no_code,
        "has_short_paragraphs": cfg.max_paragraph_words,
        "is_not_repetitive": cfg.max_repeated_share,
        "is_single_language": cfg.min_language_share,
        "word_ngrams": cfg.keep == "diverse",
    }
    return tuple(f"rewards.filters:{name}" for name, used in uses.items() if used)


def _fault(graded: GradedGroup, i: int, verdict: Verdict | None, cfg: RejectConfig) -> str:
    """Why one sample is dropped, looked at by itself; "" when it is good."""
    rollout, prompt = graded.group.rollouts_G[i], graded.group.prompt
    if not graded.valid_G[i]:
        return f"no verdict: {verdict or 'no reward applies'}"
    if cfg.correct and verdict != Verdict.CORRECT:
        return f"not correct: {verdict}"
    if graded.rewards_G[i] < cfg.min_score:
        return f"low score: {graded.rewards_G[i]:.3g}, at least {cfg.min_score:g} wanted"
    if rollout.truncated and not cfg.truncated:
        return "truncated: cut at the limit"
    text = rollout.text
    checks: dict[str, Check] = {"length": _length(rollout.num_sampled, text, cfg)}
    if cfg.min_language_share:
        row = prompt.columns
        checks["language"] = is_single_language(
            text, min_share=cfg.min_language_share, prompt=prompt.for_rewards,
            question=str(row["question"] or row.get("problem") or ""), language=row.get("language"),
        )  # fmt: skip
    if cfg.max_paragraph_words:
        checks["paragraph"] = has_short_paragraphs(text, max_words=cfg.max_paragraph_words)
    if cfg.no_code:
        checks["code block"] = has_no_code_block(text)
    if cfg.max_repeated_share:
        checks["repetition"] = is_not_repetitive(text, max_share=cfg.max_repeated_share)
    return next((f"{name}: {check.reason}" for name, check in checks.items() if not check.ok), "")


def _length(tokens: int, text: str, cfg: RejectConfig) -> Check:
    if not cfg.min_tokens and not cfg.max_tokens:
        return PASSED
    return has_length(text, at_least=cfg.min_tokens, at_most=cfg.max_tokens or None, completion_tokens=tokens)


def _chosen(good: list[int], texts_G: Sequence[str], graded: GradedGroup, cfg: RejectConfig) -> list[int]:
    lengths = [r.num_sampled for r in graded.group.rollouts_G]
    if cfg.keep == "all":
        return good
    if cfg.keep == "shortest":
        return sorted(good, key=lambda i: (lengths[i], i))[: cfg.max_kept]
    if cfg.keep == "longest":
        return sorted(good, key=lambda i: (-lengths[i], i))[: cfg.max_kept]
    return _diverse(good, texts_G, cfg.max_kept) if cfg.keep == "diverse" else good[: cfg.max_kept]


def _diverse(good: list[int], texts_G: Sequence[str], count: int) -> list[int]:
    """The first; then, one after the other, the sample least like any chosen one (Jaccard similarity of trigrams)."""
    grams = {i: word_ngrams(texts_G[i], DIVERSE_NGRAM) for i in good}
    chosen = good[:1]
    while len(chosen) < min(count, len(good)):
        rest = [i for i in good if i not in chosen]
        chosen.append(min(rest, key=lambda i: (max(_jaccard(grams[i], grams[j]) for j in chosen), i)))
    return chosen


def _jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
