"""Mixes datasets into one: quotas per domain, deduplication, decontamination, an order by the seed, and a manifest.

R1 makes the data of its second SFT stage in this way (V2 B.3.3).

data.jsonl      the rows: prompt, answer, target (or messages), domain, and the other columns of their parts
manifest.json   for each part: how many rows it had, how many were taken, how many were left out and why
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rewards.filters import EvaluationIndex
from rl.config import DataConfig, MixConfig, MixPart, knob
from rl.context import StageRun
from rl.data.contamination import shown_texts
from rl.data.rows import fingerprint, load_rows, place
from rl.data.templates import Table
from rl.records.whole_files import write_json, write_rows
from rl.stage import MAKES_DATA, Recipe, Stage
from rl.stages.selection import without_spacing
from rl.types import BadInput, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mix(Stage):
    """Mix datasets: quotas, deduplication, decontamination, order. Output: a dataset and its manifest."""

    mix: MixConfig = knob(MixConfig, "The parts.")

    makes = frozenset({MAKES_DATA})
    counts_in = "manifest.json"

    @property
    def kept_free_of(self) -> tuple[DataConfig, ...]:
        return self.mix.against

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if not self.mix.parts:
            yield "mix.parts: at least one dataset"

    def run(self, at: StageRun) -> None:
        parts = tuple(replace(part, data=at.resolved(part.data)) for part in self.mix.parts)
        against = tuple(at.resolved(data) for data in self.mix.against)
        mix(at.folder, replace(self.mix, parts=parts, against=against), at.seed)


def mix(folder: Path, cfg: MixConfig, seed: int) -> Path:
    """Write data.jsonl and manifest.json into folder. Raises BadInput for a part that is too small for its quota."""
    index = evaluation_index(cfg.against)
    seen: set[bytes] = set()
    taken: list[tuple[_Part, int]] = []
    parts = []
    for number, part in enumerate(cfg.parts):
        mine = _Part(part)
        indices, counts = _take(mine, cfg, index, seen, [seed, number])
        taken += [(mine, i) for i in indices]
        parts.append({"source": part.data.source, "domain": part.domain, "quota": part.quota, **counts})
        log.info("%s: %s", part.data.source, ", ".join(f"{n} {what}" for what, n in counts.items()))
    if cfg.shuffle:
        taken = [taken[i] for i in np.random.default_rng([seed, len(cfg.parts)]).permutation(len(taken))]
    domains: Counter[str] = Counter()
    write_rows(folder / "data.jsonl", _counted(taken, domains))
    sha256 = fingerprint(part.common(i) for part, i in taken)
    manifest = {"rows": len(taken), "sha256": sha256, "domains": domains, "parts": parts}
    manifest |= {"against": [data.source for data in cfg.against], "evaluation_ngrams": len(index)}
    write_json(folder / "manifest.json", manifest)
    return folder / "data.jsonl"


def evaluation_index(against: Sequence[DataConfig]) -> EvaluationIndex:
    """The n-grams of the evaluation sets' questions, and of their worked solutions where there is such a column.

    Raises BadInput for rows without the question's column.
    """
    questions: list[str] = []
    solutions: list[str] = []
    for data in against:
        rows = load_rows(data)
        questions += Table(rows, data, functools.partial(place, data.source)).texts(data.prompt_field)
        solutions += [str(row.get(data.target_field) or "") for row in rows]
    return EvaluationIndex(questions, solutions)


def _counted(taken: Sequence[tuple[_Part, int]], domains: Counter[str]) -> Iterator[Row]:
    for part, i in taken:
        row = part.common(i)
        domains[str(row.get("domain", ""))] += 1
        yield row


class _Part:
    """A part's rows. They stay on disk; those that are taken are read again when they are written."""

    def __init__(self, part: MixPart) -> None:
        self.part, self.rows = part, load_rows(part.data)
        self._where = functools.partial(place, part.data.source)
        self._table = Table(self.rows, part.data, self._where)

    def common(self, i: int) -> Row:
        """The row under common names."""
        return _common(self._table, self.rows[i], i, self.part, self._where)


def _take(
    rows: _Part, cfg: MixConfig, index: EvaluationIndex, seen: set[bytes], seed: Sequence[int]
) -> tuple[list[int], dict[str, int]]:
    """(which of the part's rows are taken, counts: what became of its rows). seen: hashes of the rows of all parts."""
    part, found = rows.part, rows.rows
    counts = {"rows": len(found), "taken": 0, "duplicate": 0, "contaminated": 0, "surplus": 0}
    order = np.random.default_rng(list(seed)).permutation(len(found)) if part.quota else np.arange(len(found))
    taken: list[int] = []
    for i in (int(i) for i in order):
        if part.quota and len(taken) == part.quota:
            counts["surplus"] += 1
            continue
        row = rows.common(i)
        key = _key(row)
        if len(index) and any(index.overlap(text) for text in shown_texts(row, part.data)):
            counts["contaminated"] += 1
        elif cfg.deduplicate and key in seen:
            counts["duplicate"] += 1
        else:
            seen.add(key)
            taken.append(i)
    counts["taken"] = len(taken)
    if len(taken) < part.quota and cfg.short == "error":
        raise BadInput(
            f"{part.data.source}: gives {len(taken)} rows (of {len(found)}, {counts['duplicate']} duplicates and "
            f"{counts['contaminated']} contaminated ones left out), but its quota is {part.quota}; lower the quota, or "
            "set mix.short=take"
        )
    return sorted(taken), counts


def _common(table: Table, row: Row, i: int, part: MixPart, where: Callable[[int], str]) -> Row:
    """The row with the columns prompt, answer, target (or messages) and domain; its other columns stay."""
    data = part.data
    if data.messages_field:
        if data.messages_field not in row:
            raise BadInput(f"{where(i)}: has no column {data.messages_field!r}")
        out: Row = dict(row) | {"prompt": "", "messages": row[data.messages_field]}
    else:
        for name in (data.prompt_field, data.target_field):
            if not isinstance(row.get(name), str):
                raise BadInput(f"{where(i)}: column {name!r} is missing or is not text")
        reference = (table.reference(i) if data.answer_field in row else "") or None
        out = dict(row) | {"prompt": row[data.prompt_field], "target": row[data.target_field], "answer": reference}
    if part.domain:
        out["domain"] = part.domain
    return out


def _key(row: Row) -> bytes:
    """A hash by which rows are duplicates: of their question and their answer or conversation."""
    texts = (_comparable(row["prompt"]), _comparable(row.get("messages", row.get("target", ""))))
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).digest()


def _comparable(value: object) -> str:
    """A text, or a conversation as JSON, by which rows are duplicates."""
    return without_spacing(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
