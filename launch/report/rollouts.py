"""A sample of a run's rollouts that fits into a page: whole groups, from steps all over the run, cut into tokens.

Lengths and positions in texts count UTF-16 units, like the page's scripts.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from launch.report.reading import Run
from launch.report.tokens import Tokens, cut_text, read_tokens, units
from rl.records.rollout_files import rollout_files
from rl.turns import MODEL, TOOL
from rl.types import AhaError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MOST_STEPS = 48
MOST_EVALUATIONS = 8
MOST_SAMPLES = 16
MOST_OF_A_TEXT = 8_000
T = TypeVar("T")
LIGHT = ("prompt_id", "draw", "sample", "reward", "tokens", "valid", "uniform")


@dataclass(frozen=True, slots=True)
class Part:
    """What one reward said of a sample."""

    name: str
    score: float | None
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """left_out characters were taken out of text at gap_at. token_lengths: of the text's tokens, one after the other.

    surprise: hundredths of a nat by which each token's probability falls short of 1 (-100 x logprob). Both are empty
    when the run has no logprobs or no tokenizer.
    """

    sample: int
    reward: float | None
    advantage: float | None
    valid: bool
    tokens: int
    finish: str
    version: int
    logprob: float | None
    parts: list[Part]
    text: str
    gap_at: int
    left_out: int
    token_lengths: list[int]
    surprise: list[int]


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one prompt. of: the number of all its samples. dead: all valid samples have the same reward."""

    prompt_id: int
    draw: int
    prompt: str
    reference: str
    dead: bool
    of: int
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class Step:
    stage: str
    step: int
    of: int
    groups: list[Group]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """shown of total rollouts, from len(steps) of total_steps steps. note: why tokens are not coloured, or empty."""

    shown: int
    total: int
    total_steps: int
    clipped: int
    note: str
    steps: list[Step]


def read_rollouts(run: Run, budget: int) -> Rollouts:
    """Rollouts in about `budget` bytes of JSON. Equal runs give equal samples. Raises AhaError for a damaged file."""
    files = rollout_files(run.folder)
    stages = list(dict.fromkeys(stage for stage, _, _ in files))
    limits = {stage: MOST_EVALUATIONS if stage == "eval" else MOST_STEPS for stage in stages}
    kept = [f for s in stages for f in spread([f for f in files if f[0] == s], limits[s])]
    tokens = read_tokens(run)
    steps: list[Step] = []
    for i, (stage, step, path) in enumerate(kept):
        share = budget // (len(kept) - i)
        groups, of, size = _read_file(path, share, tokens, seed=step)
        budget -= size
        steps.append(Step(stage, step, of, groups))
    samples = [s for step in steps for g in step.groups for s in g.samples]
    return Rollouts(
        shown=len(samples),
        total=sum(_count(path) for _, _, path in files),
        total_steps=len(files),
        clipped=sum(s.left_out > 0 for s in samples),
        note=_note(samples, tokens),
        steps=sorted(steps, key=lambda s: (s.stage == "eval", s.step)),
    )


def _note(samples: Sequence[Sample], tokens: Tokens) -> str:
    if not samples or any(s.surprise for s in samples):
        return ""
    if not tokens.found:
        return (
            "The model's tokenizer is not in reach (the run's model folder, or model.path), so tokens have no colour."
        )
    return "This run recorded no log-probabilities of single tokens, so tokens are coloured by advantage only."


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, the first and the last among them. (0 .. 9), 4 -> 0 3 6 9."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, most - 1))] for i in range(most)]


# ------------------------------------------------------------------------------------------------ one file


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise AhaError(f"{path} cannot be read ({error}); remove it, and the report goes without it") from error


def _count(path: Path) -> int:
    with _open(path) as file:
        return int(file.metadata.num_rows)


def _read_file(path: Path, budget: int, tokens: Tokens, *, seed: int) -> tuple[list[Group], int, int]:
    """(groups by draw, number of rollouts in the file, their bytes as JSON)."""
    with _open(path) as file:
        names = set(file.schema_arrow.names)
        light = file.read(columns=[name for name in LIGHT if name in names]).to_pylist()
        members: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(light):
            members.setdefault((row["prompt_id"], row["draw"]), []).append(i)
        dead = {key: _is_dead([light[i] for i in rows]) for key, rows in members.items()}
        groups: list[Group] = []
        used = 0
        reader = _Rows(file)
        for key in _order(list(members), dead, seed):
            chosen = spread(sorted(members[key], key=lambda i: (light[i]["reward"] or 0.0, i)), MOST_SAMPLES)
            rows = [reader.row(i) for i in sorted(chosen)]
            group = _group(rows, dead[key], len(members[key]), tokens)
            size = len(json.dumps(asdict(group), ensure_ascii=False).encode("utf-8", "replace"))
            if used + size > budget and groups:
                break
            if used + size > budget:
                group = _fitting(group, budget)
                size = min(size, budget)
            groups.append(group)
            used += size
    return sorted(groups, key=lambda g: (g.draw, g.prompt_id)), len(light), used


class _Rows:
    """The rows of a file, by number. Reads a row group when one of its rows is needed, and keeps the last group."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self._starts = [0]
        for i in range(file.num_row_groups):
            self._starts.append(self._starts[-1] + file.metadata.row_group(i).num_rows)
        self._at = -1

    def row(self, number: int) -> dict[str, Any]:
        at = next(i for i in range(len(self._starts) - 1) if number < self._starts[i + 1])
        if at != self._at:
            self._table = self._file.read_row_group(at)
            self._at = at
        row: dict[str, Any] = self._table.slice(number - self._starts[at], 1).to_pylist()[0]
        return row


def _order(keys: list[tuple[int, int]], dead: dict[tuple[int, int], bool], seed: int) -> Iterator[tuple[int, int]]:
    """Two mixed groups for each dead one, as long as there are both, in a random order that the seed fixes."""
    rng = random.Random(seed)
    rng.shuffle(keys)
    mixed, flat = [k for k in keys if not dead[k]], [k for k in keys if dead[k]]
    turn = rng.randrange(3)  # when there is room for one group per step, some steps show a dead one
    while mixed or flat:
        turn += 1
        pile = flat if turn % 3 == 0 else mixed
        if pile:
            yield pile.pop()


def _is_dead(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the group is recorded as dead; without advantages: whether all valid rewards are equal."""
    recorded = rows[0].get("uniform")
    if recorded is not None:
        return bool(recorded)
    rewards = {row["reward"] for row in rows if row["valid"]}
    return len(rewards) <= 1


def _fitting(group: Group, budget: int) -> Group:
    """The first samples, at least one, of a group that is larger than the whole budget."""
    samples: list[Sample] = []
    used = 0
    for sample in group.samples:
        used += len(json.dumps(asdict(sample), ensure_ascii=False).encode("utf-8", "replace"))
        if used > budget and samples:
            break
        samples.append(sample)
    return Group(group.prompt_id, group.draw, group.prompt, group.reference, group.dead, group.of, samples)


def _group(rows: Sequence[dict[str, Any]], dead: bool, of: int, tokens: Tokens) -> Group:
    first = rows[0]
    return Group(
        prompt_id=first["prompt_id"],
        draw=first["draw"],
        prompt=cut_text(first["prompt"], MOST_OF_A_TEXT // 2).joined(),
        reference=cut_text(first["reference"], 1_000).joined(),
        dead=dead,
        of=of,
        samples=[_sample(row, tokens) for row in rows],
    )


def _sample(row: dict[str, Any], tokens: Tokens) -> Sample:
    token_ids, logprobs = row.get("token_ids") or [], row.get("logprobs") or []
    if row.get("turns"):
        cut = cut_text(transcript(row["turns"]), MOST_OF_A_TEXT)
    else:
        cut = tokens.cut(token_ids, row["completion"], MOST_OF_A_TEXT)
    known = len(logprobs) == len(token_ids)
    names = [name.removesuffix("/verdict") for name in row if name.endswith("/verdict")]
    parts = [
        Part(n, _number(row[f"{n}/score"]), row[f"{n}/verdict"], cut_text(row[f"{n}/reason"] or "", 600).joined())
        for n in names
        if row[f"{n}/verdict"] is not None
    ]
    return Sample(
        sample=row["sample"],
        reward=_number(row["reward"]),
        advantage=_number(row["advantage"]),
        valid=row["valid"],
        tokens=row["tokens"],
        finish=row["finish_reason"],
        version=row["policy_version"],
        logprob=_number(row["logprob_mean"]),
        parts=parts,
        text=cut.head + cut.tail,
        gap_at=units(cut.head),
        left_out=cut.left_out,
        token_lengths=cut.lengths,
        surprise=[_surprise(logprobs[i]) for i in cut.kept] if known else [],
    )


def transcript(turns: str) -> str:
    """The turns of a trajectory, each under who speaks. turns: as the rollout files have them."""
    return "\n".join(f"── {_speaker(turn['role'], turn['name'])} ──\n{turn['text']}" for turn in json.loads(turns))


def _speaker(role: str, name: str) -> str:
    return {MODEL: "model", TOOL: f"tool {name}".rstrip()}.get(role, "environment")


def _surprise(logprob: float | None) -> int:
    """-1.234 -> 123; at most 9999, which also stands for values that are not finite."""
    return 9999 if logprob is None or not logprob > -99.99 else max(0, round(-100 * logprob))


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
