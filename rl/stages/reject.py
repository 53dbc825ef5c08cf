"""Rejection sampling: sample, judge, filter, keep. Every sample stays on disk with the reason for its fate.

    samples.jsonl   a line a prompt: its samples, each with text, verdicts, and why it was dropped ("": kept)
    data.jsonl      a row for each kept sample: the prompt's row, with the sample as "target"
    yield.json      counts by reason; they add up to the samples

A prompt's line is written whole; after a kill the prompts that have one are not sampled again.
Axis suffixes: _P prompts, _G samples of a prompt.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

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
from rl.backend import Task
from rl.config import OptimConfig, RejectConfig
from rl.score import Scorer
from rl.stages.context import Context, sample_seed
from rl.stages.rollouts import ScoringStats, sample_and_grade
from rl.types import GradedGroup, Prompt, Row, Stopped, Verdict

log = logging.getLogger(__name__)

DIVERSE_NGRAM = 3


class SampleLine(TypedDict):
    """One sample in samples.jsonl. reason: "" when it was kept, else its category, a colon, and what was found."""

    text: str
    tokens: int
    finish_reason: str
    reward: float | None
    verdicts: dict[str, str]
    reason: str


class PromptLine(TypedDict):
    """One line of samples.jsonl."""

    prompt_id: int
    prompt: str
    answer: str
    row: Row
    samples: list[SampleLine]


def reject(ctx: Context, model_path: str, prompts_P: Sequence[Prompt], scorer: Scorer, cfg: RejectConfig) -> Path:
    """Sample cfg.samples completions of each prompt and keep the good ones. Returns data.jsonl. Resumes."""
    path = ctx.run_dir / "samples.jsonl"
    done = {cast(PromptLine, line)["prompt_id"] for line in mend_lines(path)}
    missing_P = [p for p in prompts_P if p.id not in done]
    if done:
        log.info("resuming: %d of %d prompts are sampled", len(done), len(prompts_P))
    if missing_P:
        with ctx.timed("load"):
            ctx.backend.load(Task(model_path, OptimConfig(), 0))
        with ctx.timed("sync"):
            ctx.backend.sync_weights(version=0)
        first = -(-len(done) // cfg.chunk_prompts)
        ctx.tracker.resume({"reject": first})
        ctx.tracker.begin("reject", first + -(-len(missing_P) // cfg.chunk_prompts), first)
        _sample_missing(ctx, missing_P, len(prompts_P), scorer, cfg, path)
    return write_kept(ctx.run_dir)


def _sample_missing(
    ctx: Context, missing_P: Sequence[Prompt], total: int, scorer: Scorer, cfg: RejectConfig, path: Path
) -> None:
    roll, seed = ctx.cfg.rollout, ctx.cfg.seed
    params = ctx.sample_params(temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens)
    for at in range(0, len(missing_P), cfg.chunk_prompts):
        chunk_P = missing_P[at : at + cfg.chunk_prompts]
        seeds_PG = [[sample_seed(seed, "reject", p.id, i) for i in range(cfg.samples)] for p in chunk_P]
        stats = ScoringStats()
        with ctx.timed("rollout"):
            graded_P = sample_and_grade(ctx, scorer, chunk_P, seeds_PG, params, stats)
        scorer.stop_if_silent(graded_P)
        lines = [_line(g, scorer, cfg, ctx.cfg.prompts.prompt_field) for g in graded_P]
        append_lines(path, lines)
        samples = [s for line in lines for s in line["samples"]]
        kept = sum(not s["reason"] for s in samples) / len(samples)
        first = total - len(missing_P) + at
        tokens = float(sum(s["tokens"] for s in samples))
        ctx.tracker.step(
            "reject", -(-first // cfg.chunk_prompts), {"kept_share": kept, "rollout/tokens": tokens} | stats.metrics()
        )
        if ctx.stop.requested and at + cfg.chunk_prompts < len(missing_P):
            raise Stopped(
                f"stopped after {first + len(chunk_P)} of {total} prompts; the same command goes on from there"
            )


def _line(graded: GradedGroup, scorer: Scorer, cfg: RejectConfig, prompt_field: str) -> PromptLine:
    prompt, rollouts_G = graded.group.prompt, graded.group.rollouts_G
    reasons_G = decide(graded, next(iter(scorer.applying(prompt)), ""), cfg)
    samples: list[SampleLine] = [
        {
            "text": rollout.text.encode("utf-8", "replace").decode("utf-8"),
            "tokens": len(rollout.token_ids_T),
            "finish_reason": rollout.finish_reason,
            "reward": reward if valid else None,
            "verdicts": {name: str(part.verdict) for name, part in parts.items()},
            "reason": reason,
        }
        for rollout, reward, valid, parts, reason in zip(
            rollouts_G, graded.rewards_G, graded.valid_G, graded.parts_G, reasons_G, strict=True
        )
    ]
    row = prompt.row | {"prompt": prompt.row[prompt_field]}
    return {
        "prompt_id": prompt.id, "prompt": prompt.text, "answer": prompt.reference, "row": row, "samples": samples,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ decisions


def decide(graded: GradedGroup, judge: str, cfg: RejectConfig) -> list[str]:
    """For each sample of a group why it is dropped, "" for those that are kept. judge: the reward that says correct."""
    rollouts_G = graded.group.rollouts_G
    verdicts_G = [parts[judge].verdict if judge in parts else None for parts in graded.parts_G]
    solved = sum(v == Verdict.CORRECT for v in verdicts_G) / max(1, len(verdicts_G))
    if solved > cfg.max_solve_share:
        return [f"easy prompt: {solved:.2f} of its samples are correct"] * len(rollouts_G)
    reasons_G: list[str] = []
    seen: set[str] = set()
    for i, rollout in enumerate(rollouts_G):
        reason = _fault(graded, i, verdicts_G[i], cfg)
        text = " ".join(rollout.text.split())
        if not reason and text in seen:
            reason = "duplicate: of an earlier sample"
        if not reason:
            seen.add(text)
        reasons_G.append(reason)
    good = [i for i, reason in enumerate(reasons_G) if not reason]
    for i in set(good) - set(_chosen(good, [r.text for r in rollouts_G], graded, cfg)):
        reasons_G[i] = f"surplus: keep={cfg.keep}, {cfg.max_kept} of {len(good)}"
    return reasons_G


def _fault(graded: GradedGroup, i: int, verdict: Verdict | None, cfg: RejectConfig) -> str:
    """What is wrong with one sample by itself."""
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
    checks: dict[str, Check] = {"length": _length(len(rollout.token_ids_T), text, cfg)}
    if cfg.min_language_share:
        language = str(prompt.row.get("language", ""))
        checks["language"] = is_single_language(
            text, min_share=cfg.min_language_share, prompt=prompt.text, language=language
        )
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
    lengths = [len(r.token_ids_T) for r in graded.group.rollouts_G]
    if cfg.keep == "all":
        return good
    if cfg.keep == "shortest":
        return sorted(good, key=lambda i: (lengths[i], i))[: cfg.max_kept]
    if cfg.keep == "longest":
        return sorted(good, key=lambda i: (-lengths[i], i))[: cfg.max_kept]
    return _diverse(good, texts_G, cfg.max_kept) if cfg.keep == "diverse" else good[: cfg.max_kept]


def _diverse(good: list[int], texts_G: Sequence[str], count: int) -> list[int]:
    """The first, then again and again the one that shares the least with its nearest chosen one (trigrams, Jaccard)."""
    grams = {i: word_ngrams(texts_G[i], DIVERSE_NGRAM) for i in good}
    chosen = good[:1]
    while len(chosen) < min(count, len(good)):
        rest = [i for i in good if i not in chosen]
        chosen.append(min(rest, key=lambda i: (max(_jaccard(grams[i], grams[j]) for j in chosen), i)))
    return chosen


def _jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


# ------------------------------------------------------------------------------------------------ files


def read_samples(path: Path) -> Iterator[PromptLine]:
    """The whole lines of a samples.jsonl; one that a kill cut short is left out."""
    yield from cast(Iterator[PromptLine], _whole_lines(path))


def _whole_lines(path: Path) -> Iterator[object]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)


def append_lines(path: Path, lines: Sequence[object]) -> None:
    """Add JSON lines; on return they are on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def mend_lines(path: Path) -> list[object]:
    """Read JSON lines and cut off a last one that is not whole, so that the next has a line of its own."""
    lines = list(_whole_lines(path))
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        whole = path.read_bytes().rpartition(b"\n")
        path.write_bytes(whole[0] + whole[1])
    return lines


def write_kept(folder: Path) -> Path:
    """data.jsonl and yield.json from samples.jsonl, in the order of the prompts."""
    lines = sorted(read_samples(folder / "samples.jsonl"), key=lambda line: line["prompt_id"])
    reasons: Counter[str] = Counter()
    rows: list[Mapping[str, object]] = []
    for line in lines:
        for sample in line["samples"]:
            reasons[sample["reason"].partition(":")[0] or "kept"] += 1
            if not sample["reason"]:
                rows.append(_kept_row(line, sample))
    write_rows(folder / "data.jsonl", rows)
    solved = sum(any(not s["reason"] for s in line["samples"]) for line in lines)
    report = {"prompts": len(lines), "prompts_with_a_sample": solved, "samples": reasons.total(), "by_reason": reasons}
    (folder / "yield.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log.info(
        "kept %d of %d samples, of %d of %d prompts; dropped: %s", reasons["kept"], reasons.total(), solved, len(lines),
        ", ".join(f"{count} {why}" for why, count in reasons.most_common() if why != "kept") or "none",
    )  # fmt: skip
    return folder / "data.jsonl"


def _kept_row(line: PromptLine, sample: SampleLine) -> Row:
    """The row with the sample as target. A longer text that answer_after took the answer from stays too."""
    row, answer = line["row"], line["answer"]
    longer = {"original_answer": row["answer"]} if row.get("answer", answer) != answer else {}
    return {**row, **longer, "answer": answer, "target": sample["text"]}


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as JSON lines, whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    partial.replace(path)
