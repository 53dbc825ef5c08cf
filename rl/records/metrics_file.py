"""metrics.jsonl of a run: one line per step. A kill leaves each line whole or absent."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from rl.records.renamed_metrics import with_new_names
from rl.records.whole_files import append_lines, write_rows
from rl.types import AhaError

log = logging.getLogger(__name__)


def read_metrics(run_dir: Path) -> list[dict[str, object]]:
    """The records of a run in order, with today's names. A last line that a kill cut short is left out.

    Numbers that JSON lacks (NaN, infinities) read as None. Raises AhaError on a damaged line before the last.
    """
    return [with_new_names(record) for record in _read_lines(run_dir / "metrics.jsonl")]


def _read_lines(path: Path) -> list[dict[str, object]]:
    """The records as they were written, old names included."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        log.info("%s: the last line is cut short; left out", path)
    records: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({**record, "stage": str(record["stage"]), "step": int(record["step"])})
        except (ValueError, TypeError, KeyError) as error:
            raise AhaError(f"{path} line {number} is damaged ({error!r}); delete that line") from error
    return records


def phases(seconds: float, metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's seconds by phase, from its seconds/<phase> metrics, and "rest". They add up to `seconds`.

    Waiting for rewards is measured inside the rollout phase, so it is taken from it.
    """
    found = {name.removeprefix("seconds/"): s for name, s in metrics.items() if name.startswith("seconds/")}
    found = {name: s for name, s in found.items() if "/" not in name}  # a name with a slash is a part of a phase
    if "rollout" in found and "rewards" in found:
        found["rollout"] = max(0.0, found["rollout"] - found["rewards"])
    order = [*(name for name in ("rollout", "rewards", "update", "sync") if name in found), *sorted(found)]
    out = {name: found[name] for name in dict.fromkeys(order)}
    return out | {"rest": max(0.0, seconds - sum(out.values()))}


class MetricsFile:
    """metrics.jsonl, to which steps are appended. Each is on disk when append returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        records = _read_lines(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_rows(path, records)
        self._seen = {(r["stage"], r["step"]) for r in records}

    def append(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if (stage, step) in self._seen:
            raise AhaError(f"{self._path}: {stage} step {step} is recorded already; resume() the tracker first")
        numbers = {name: _json_number(value) for name, value in metrics.items()}
        append_lines(self._path, [{"stage": stage, "step": step, "time": round(time.time(), 3), **numbers}])
        self._seen.add((stage, step))

    def keep(self, wanted: Callable[[str, int], bool]) -> None:
        """Remove the records of every (stage, step) that is not wanted."""
        records = _read_lines(self._path)
        kept = [r for r in records if wanted(cast(str, r["stage"]), cast(int, r["step"]))]
        if len(kept) < len(records):
            write_rows(self._path, kept)
        self._seen = {(r["stage"], r["step"]) for r in kept}


def _json_number(value: float) -> float | None:
    number = int(value) if isinstance(value, int | np.integer) else float(value)
    return number if math.isfinite(number) else None
