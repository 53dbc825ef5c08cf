"""The files of rejection sampling (rl/stages/reject.py): samples.jsonl, and data.jsonl and yield.json made from it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np

from rl.data.row_store import keep_json
from rl.records.whole_files import whole_lines, write_json, write_rows
from rl.stages.selection import KEPT, category, is_kept
from rl.types import Row

log = logging.getLogger(__name__)


class SampleLine(TypedDict):
    """One sample in samples.jsonl. reason: a category, a colon and the details, for example "kept: shortest".

    cached: the columns for rl/data/teacher_logprobs.py, of a kept sample with cfg.top_logprobs.
    """

    text: str
    tokens: int
    finish_reason: str
    reward: float | None
    verdicts: dict[str, str]
    reason: str
    cached: NotRequired[dict[str, object]]


class PromptLine(TypedDict):
    """One line of samples.jsonl."""

    prompt_id: int
    prompt: str
    answer: str
    row: Row
    samples: list[SampleLine]


def read_samples(path: Path) -> Iterator[PromptLine]:
    """The whole lines of a samples.jsonl."""
    return whole_lines(path)


def write_kept(folder: Path, teacher: Mapping[str, object] | None = None, without_thought: int = 0) -> Path:
    """Write data.jsonl and yield.json from samples.jsonl, in the order of the prompts. teacher, without_thought (how
    many of its answers have no thought): for yield.json.
    """
    lines = keep_json(cast("Iterator[Row]", read_samples(folder / "samples.jsonl")))
    order = np.argsort([cast(int, line["prompt_id"]) for line in lines], kind="stable")
    reasons: Counter[str] = Counter()
    solved = 0

    def rows() -> Iterator[Row]:
        nonlocal solved
        for i in order.tolist():
            line = cast(PromptLine, lines[i])
            reasons.update(category(sample["reason"]) for sample in line["samples"])
            kept = [sample for sample in line["samples"] if is_kept(sample["reason"])]
            solved += bool(kept)
            yield from (_kept_row(line, sample) for sample in kept)

    write_rows(folder / "data.jsonl", rows())
    report = {"prompts": len(lines), "prompts_with_a_sample": solved, "samples": reasons.total(), "by_reason": reasons}
    report |= {"teacher": teacher, "without_thought": without_thought} if teacher is not None else {}
    write_json(folder / "yield.json", report)
    log.info(
        "kept %d of %d samples, of %d of %d prompts; dropped: %s", reasons[KEPT], reasons.total(), solved, len(lines),
        ", ".join(f"{count} {why}" for why, count in reasons.most_common() if why != KEPT) or "none",
    )  # fmt: skip
    return folder / "data.jsonl"


def _kept_row(line: PromptLine, sample: SampleLine) -> Row:
    """The row with the sample as target. original_answer keeps the text that answer_after cut the answer from."""
    row, answer = line["row"], line["answer"]
    longer = {"original_answer": row["answer"]} if row.get("answer", answer) != answer else {}
    return {**row, **longer, "answer": answer, "target": sample["text"], **sample.get("cached", {})}
