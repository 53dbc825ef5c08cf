"""Reads the folder of a run that is finished or still going on. Imports nothing heavier than numpy."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rl.config import RunConfig
from rl.records.metrics_file import read_metrics
from rl.records.provenance import total_seconds
from rl.settings.all_settings import describe
from rl.settings.overrides import from_json
from rl.types import BadInput

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Record:
    """A line of metrics.jsonl. time: when it was written (Unix). seconds: since the previous line."""

    stage: str
    step: int
    time: float
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the run. help: what it means; "" when the file was written by another version."""

    key: str
    value: str
    help: str


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """An evaluation's file. correct_P: each problem's share of correct samples; None where no sample has a verdict.

    stderr: metric -> standard error, as far as the file has them. samples: per problem; 0 when the file does not say.
    """

    correct_P: list[float | None]
    stderr: dict[str, float]
    samples: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a run, or a stage of a recipe, has written so far. evaluations: evaluation step -> its file.

    model: empty when it is not known. config: None when resolved.json is missing or of another version.
    seconds: phase -> seconds, of a finished run.
    """

    folder: Path
    name: str
    model: str
    config: RunConfig | None
    settings: list[Setting]
    records: list[Record]
    evaluations: dict[int, EvaluationFile]
    finished: bool
    seconds: dict[str, float]
    provenance: Json
    claims: Json

    def of(self, stage: str) -> list[Record]:
        return [r for r in self.records if r.stage == stage]


def read_run(folder: Path) -> Run:
    """Read the run in the folder. Raises BadInput when there is none, AhaError when one of its files is damaged."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such run folder")
    if not any((folder / name).exists() for name in ("metrics.jsonl", "resolved.json", "stage.json")):
        stages = sorted(path.parent.name for path in folder.glob("*/stage.json"))
        which = f"it holds stages, name one: {', '.join(stages)}" if stages else "runs are in runs/<name>"
        raise BadInput(f"{folder}: holds no run, neither metrics.jsonl nor resolved.json; {which}")
    config, settings = _config(folder / "resolved.json")
    stage = _object(folder / "stage.json")
    of_stage = stage.get("config")
    if not settings and isinstance(of_stage, dict):
        settings = [Setting(key, str(value), "") for key, value in of_stage.items()]
    records = [_record(r) for r in read_metrics(folder)]
    summary = _object(folder / "summary.json")
    steps = config.grpo.steps if config else None
    provenance = read_json(folder / "provenance.json")
    seconds = summary.get("seconds", provenance.get("seconds") if isinstance(provenance, dict) else None)
    return Run(
        folder=folder,
        name=config.name if config else str(stage.get("name") or folder.resolve().name),
        model=config.model.path if config else next((s.value for s in settings if s.key == "model"), ""),
        config=config,
        settings=settings,
        records=records,
        evaluations=_evaluations(folder / "evals"),
        finished=provenance is not None or (bool(summary) and steps in (None, summary.get("steps"))),
        seconds=_phases(_numbers(seconds)) if isinstance(seconds, dict) else {},
        provenance=provenance,
        claims=read_json(folder / "claims.json"),
    )


def _phases(seconds: dict[str, float]) -> dict[str, float]:
    """The phases without "stage", which is their total. What it has beyond them becomes "rest"."""
    phases = {name: s for name, s in seconds.items() if name != "stage"}
    rest = total_seconds(seconds) - sum(phases.values())
    return phases | ({"rest": rest} if rest > 0 else {})


def read_json(path: Path) -> Json:
    """The file's value; None when there is no file. Raises BadInput when it is not JSON."""
    try:
        return cast(Json, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BadInput(f"{path}: is not JSON ({error}); delete it") from error


def _object(path: Path) -> dict[str, Json]:
    value = read_json(path)
    if value is not None and not isinstance(value, dict):
        raise BadInput(f"{path}: expected an object with named fields, not {type(value).__name__}")
    return value or {}


def _record(raw: dict[str, object]) -> Record:
    metrics = _numbers({k: v for k, v in raw.items() if k not in ("stage", "step", "time", "seconds")})
    times = _numbers({"time": raw.get("time"), "seconds": raw.get("seconds")})
    step = cast(int, raw["step"])
    return Record(str(raw["stage"]), step, times.get("time", 0.0), times.get("seconds", 0.0), metrics)


def _numbers(values: dict[str, Json] | dict[str, object]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def _config(path: Path) -> tuple[RunConfig | None, list[Setting]]:
    raw = _object(path)
    if not raw:
        return None, []
    try:
        config = from_json(path.read_text(encoding="utf-8"))
    except BadInput:  # written by a version with other settings: they are shown without their help
        return None, [Setting(key, value, "") for key, value in _leaves(raw, "")]
    written = {key for key, _ in _leaves(raw, "")}  # without settings that this version has added
    return config, [Setting(key, value, text) for key, value, text in describe(config) if key in written]


def _leaves(node: Json, prefix: str) -> list[tuple[str, str]]:
    if isinstance(node, dict) and node:
        return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}{key}.")]
    if isinstance(node, list) and node and isinstance(node[0], dict):
        return [leaf for i, value in enumerate(node) for leaf in _leaves(value, f"{prefix}{i}.")]
    return [(prefix.rstrip("."), str(node))]


def _evaluations(folder: Path) -> dict[int, EvaluationFile]:
    out: dict[int, EvaluationFile] = {}
    for path in sorted(folder.glob("step_*.json")):
        step, raw = path.stem.removeprefix("step_"), _object(path)
        shares, pass_at = raw.get("correct_P"), raw.get("pass_at")
        if not step.isdigit() or not isinstance(shares, list):
            continue
        correct_P = [_share(s) for s in shares]
        errors: dict[str, float] = {}
        for k, pair in (pass_at if isinstance(pass_at, dict) else {}).items():
            if isinstance(pair, list) and len(pair) == 2 and _share(pair[1]) is not None:
                errors[f"pass@{k}"] = cast(float, pair[1])
        greedy, n = _share(raw.get("greedy")), len(correct_P)
        if greedy is not None and n > 1:  # one sample per problem: s / sqrt(n) of ones and zeros
            errors["greedy"] = math.sqrt(greedy * (1 - greedy) / (n - 1))
        samples = raw.get("samples")
        out[int(step)] = EvaluationFile(correct_P, errors, samples if isinstance(samples, int) else 0)
    return out


def _share(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
