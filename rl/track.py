"""What a run leaves behind and shows while it goes: metrics.jsonl, rollouts, log.txt, W&B, progress.

    <run>/metrics.jsonl                  one JSON object a line: stage, step, time (Unix), seconds, then the metrics
    <run>/rollouts/step_000012.parquet   every rollout of GRPO step 12 with its reward parts; pandas.read_parquet
    <run>/log.txt                        what was logged, the third-party libraries' lines included
    <run>/wandb/, wandb_id.txt           W&B's files and the run's id there

(stage, step) names a record. Nothing appears twice, also after a kill and a resume.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from rl.config import TrackConfig
from rl.types import AhaError, BadInput, GradedGroup, ScoredGroup, StepStats

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)
step_log = logging.getLogger("rl.step")  # a line a step: shown where there is no live progress line

OURS = ("rl.", "rewards", "recipes", "launch")
SHOWN = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "accuracy", ".3f"),
    ("pass@1", "pass@1", ".3f"),
    ("loss", "loss", ".4f"),
    ("length", "rollout/length_mean", ".0f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
)
"""What a step's line shows: label, metric, format. A metric that is not there is left out."""


class Tracker:
    """Everything that one run writes about itself. Use it as a context manager.

    run_dir: made if it is not there; only log.txt is written before the first step (or start()). name: the run's.
    console: where progress goes, standard output by default. A terminal gets a live line, anything else a line a step.
    """

    def __init__(self, run_dir: Path, cfg: TrackConfig, *, name: str, console: Console | None = None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run_dir, self._cfg, self._name = run_dir, cfg, name
        self._console = console or Console()
        self._records = _MetricsFile(run_dir / "metrics.jsonl")
        self._bar = _Bar(self._console)
        self._wandb: _Wandb | None = None
        self._clock = time.monotonic()
        self._close_log = _log_to(run_dir / "log.txt", self._console)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(failed=error is not None)

    def resume(self, next_steps: Mapping[str, int]) -> None:
        """Forget what will be done again: keep a stage's records and rollouts of steps below next_steps[stage] only.

        A stage that is not named is forgotten whole. {"sft": 300, "grpo": 12, "eval": 12} before GRPO step 12.
        """
        self._records.truncate(next_steps)
        for stage, step, path in _rollout_files(self.run_dir):
            if step >= next_steps.get(stage, 0):
                path.unlink()

    def start(self, config: Mapping[str, object]) -> None:
        """Begin W&B's run (config: the resolved config), if it is on. Raises BadInput when online and it cannot."""
        if self._cfg.wandb != "off":
            self._wandb = _Wandb.begin(self.run_dir, self._cfg, self._name, config)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage of `total` steps begins, the first `done` of them done before."""
        self._bar.begin(stage, total, done)
        self._clock = time.monotonic()

    def step(
        self,
        stage: str,
        step: int,
        metrics: Mapping[str, float],
        groups_P: Sequence[ScoredGroup | GradedGroup] = (),
    ) -> None:
        """Record one step: on return it is on disk. stage: "sft", "grpo" or "eval". groups_P: rollouts to keep.

        Adds seconds (since the last record) and, where "tokens" or "rollout/tokens" is there, tokens_per_second.
        Raises AhaError when (stage, step) is recorded already.
        """
        now = time.monotonic()
        record = {"seconds": now - self._clock, **metrics}
        self._clock = now
        tokens = metrics.get("tokens", metrics.get("rollout/tokens"))
        if tokens is not None and record["seconds"] > 0:
            record.setdefault("tokens_per_second", tokens / record["seconds"])
        if groups_P and self._cfg.rollouts:
            write_rollouts(rollouts_path(self.run_dir, stage, step), step, groups_P)
        self._records.append(stage, step, record)
        if self._wandb:
            self._wandb.log(stage, step, record)
        self._bar.advance(stage, step, record)

    def close(self, *, failed: bool = False) -> None:
        """End progress, W&B and the log. May be called again."""
        self._bar.end()
        if self._wandb:
            self._wandb.finish(failed)
            self._wandb = None
        self._close_log()


def stats_metrics(stats: StepStats) -> dict[str, float]:
    """A learner's report as flat metrics. Phases become seconds/<phase>."""
    out = {
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "lr": stats.learning_rate,
        "gap/mean": stats.gap_mean,
        "gap/max": stats.gap_max,
        "updates": float(stats.updates),
        "updates/skipped": float(stats.skipped_updates),
        "learner/tokens": float(stats.tokens),
    }
    return out | stats.metrics | {f"seconds/{phase}": seconds for phase, seconds in stats.seconds.items()}


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def read_metrics(run_dir: Path) -> list[dict[str, object]]:
    """The records of a run in order. A last line that a kill cut short is left out.

    Numbers that JSON lacks (NaN, infinities) read as None. Raises AhaError on a damaged line before the last.
    """
    path = run_dir / "metrics.jsonl"
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
            raise AhaError(f"{path} line {number} is damaged ({error!r}); mend or remove that line") from error
    return records


class _MetricsFile:
    """metrics.jsonl: appended to line by line, each on disk before append returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        records = read_metrics(path.parent)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._write(records)
        self._seen = {(r["stage"], r["step"]) for r in records}

    def append(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if (stage, step) in self._seen:
            raise AhaError(f"{self._path}: {stage} step {step} is recorded already; resume() the tracker first")
        numbers = {name: _json_number(value) for name, value in metrics.items()}
        record = {"stage": stage, "step": step, "time": round(time.time(), 3), **numbers}
        with self._path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._seen.add((stage, step))

    def truncate(self, next_steps: Mapping[str, int]) -> None:
        records = read_metrics(self._path.parent)
        kept = [r for r in records if cast(int, r["step"]) < next_steps.get(cast(str, r["stage"]), 0)]
        if len(kept) < len(records):
            self._write(kept)
        self._seen = {(r["stage"], r["step"]) for r in kept}

    def _write(self, records: Iterable[Mapping[str, object]]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        _replace(temporary, self._path)


def _json_number(value: float) -> float | None:
    number = int(value) if isinstance(value, int | np.integer) else float(value)
    return number if math.isfinite(number) else None


def _replace(temporary: Path, path: Path) -> None:
    """Rename over path, so that a kill at any moment leaves the old file or the new one, whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ------------------------------------------------------------------------------------------------ rollouts


def rollouts_path(run_dir: Path, stage: str, step: int) -> Path:
    """rollouts/step_000012.parquet for GRPO, rollouts/<stage>_000012.parquet for others."""
    return run_dir / "rollouts" / f"{'step' if stage == 'grpo' else stage}_{step:06d}.parquet"


def _rollout_files(run_dir: Path) -> list[tuple[str, int, Path]]:
    files = [(*path.stem.rpartition("_")[::2], path) for path in sorted((run_dir / "rollouts").glob("*_*.parquet"))]
    return [("grpo" if kind == "step" else kind, int(step), path) for kind, step, path in files if step.isdigit()]


def write_rollouts(path: Path, step: int, groups_P: Sequence[ScoredGroup | GradedGroup]) -> None:
    """One row a sample, as parquet, whole or not at all. A reward part has columns <part>/score, /verdict, /reason.

    tokens: of the completion. logprob_mean: nats per token, of the sampler. A part that does not apply is null, as is
    the advantage of a group without one; reward is NaN where the sample is not valid.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for g in groups_P for part in g.parts_G for name in part))
    rows = [_row(step, g, i, names) for g in groups_P for i in range(len(g.parts_G))]
    text, kinds = pa.string(), {int: pa.int64(), bool: pa.bool_(), str: pa.string()}
    types = {name: kinds.get(type(value), pa.float64()) for name, value in rows[0].items()}
    types |= {f"{name}/{field}": text for name in names for field in ("verdict", "reason")}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), temporary, compression="zstd")
    _replace(temporary, path)


def _row(step: int, g: ScoredGroup | GradedGroup, i: int, names: Sequence[str]) -> dict[str, object]:
    prompt, rollout = g.group.prompt, g.group.rollouts_G[i]
    row: dict[str, object] = {
        "step": step,
        "prompt_id": prompt.id,
        "draw": prompt.draw,
        "sample": i,
        "prompt": _utf8(prompt.text),
        "completion": _utf8(rollout.text),
        "reference": _utf8(prompt.reference),
        "reward": g.rewards_G[i],
    }
    for name in names:
        part = g.parts_G[i].get(name)
        row[f"{name}/score"] = part.score if part else None
        row[f"{name}/verdict"] = str(part.verdict) if part else None
        row[f"{name}/reason"] = _utf8(part.reason) if part else None
    return row | {
        "advantage": g.advantages_G[i] if isinstance(g, ScoredGroup) else None,
        "valid": g.valid_G[i],
        "tokens": len(rollout.token_ids_T),
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "seed": rollout.seed,
        "temperature": rollout.temperature,
        "logprob_mean": float(np.mean(rollout.logprobs_T, dtype=np.float64)) if len(rollout.logprobs_T) else None,
    }


def _utf8(text: str) -> str:
    """Lone surrogates, which no file can hold, become "?": a strange completion must not stop a run."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ------------------------------------------------------------------------------------------------ W&B


class _Wandb:
    """A W&B run whose id stays with the run folder, so that a resumed run goes on there.

    W&B cannot take back what it was sent: steps that a resume repeats have two points there. metrics.jsonl has one.
    """

    def __init__(self, run: Run) -> None:
        self._run: Run | None = run
        self._stages: set[str] = set()

    @staticmethod
    def begin(run_dir: Path, cfg: TrackConfig, name: str, config: Mapping[str, object]) -> _Wandb | None:
        """The run; None, after a warning, when offline and W&B does not work. Raises BadInput when online."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: its crash reports phone home
        id_file = run_dir / "wandb_id.txt"
        run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(6)
        try:
            import wandb
        except ImportError as error:
            _no_wandb(cfg, error)
            return None
        settings = wandb.Settings(
            mode=cfg.wandb,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=60,
            login_timeout=30,
            finish_timeout=120,
        )
        try:
            run = wandb.init(
                project=cfg.project, name=name, id=run_id, resume="allow",
                dir=str(run_dir), config=dict(config), settings=settings,
            )  # fmt: skip
        except (wandb.Error, OSError) as error:
            _no_wandb(cfg, error)
            return None
        id_file.write_text(run_id)
        return _Wandb(run)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            return
        import wandb

        try:
            if stage not in self._stages:  # each stage counts its own steps
                self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                self._stages.add(stage)
            self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in metrics.items()})
        except (wandb.Error, OSError) as error:
            log.warning("W&B stopped working (%s); the run goes on without it", error)
            self._run = None

    def finish(self, failed: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=1 if failed else 0)


def _no_wandb(cfg: TrackConfig, error: Exception) -> None:
    reason = " ".join(str(error).split())
    if cfg.wandb == "online":
        raise BadInput(f"track.wandb=online: W&B does not start: {reason}; or set track.wandb=offline") from error
    log.warning("W&B does not start (%s); the run goes on without it. track.wandb=off says so on purpose", reason)


# ------------------------------------------------------------------------------------------------ terminal and log


class _Bar:
    """Progress: one live line on a terminal, else a line a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._stage, self._total, self._done = "", 0, 0
        self._seconds: deque[float] = deque(maxlen=20)

    def begin(self, stage: str, total: int, done: int) -> None:
        self.end()
        self._stage, self._total, self._done = stage, total, done
        self._seconds.clear()
        if self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=12)),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(f"{stage} {done}/{total}", total=total, completed=done, numbers="")
            self._progress.start()

    def advance(self, stage: str, step: int, record: Mapping[str, float]) -> None:
        numbers = [f"{label} {record[key]:{form}}" for label, key, form in SHOWN if key in record]
        if stage != self._stage:
            step_log.info("  ".join([f"{stage} {step}", *numbers]))
            return
        self._done += 1
        self._seconds.append(record["seconds"])
        pace = sum(self._seconds) / len(self._seconds)
        title = f"{stage} {self._done}/{self._total}"
        left = f"{_duration(pace * (self._total - self._done))} left"
        line = "  ".join([left, *numbers, f"{pace:.1f} s/step"])
        if self._progress:
            self._progress.update(self._task, description=title, completed=self._done, numbers=line)
        step_log.info(f"{title}  {line}", extra={"live": self._progress is not None})

    def end(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


def _duration(seconds: float) -> str:
    """90 -> "1 min 30 s", 7320 -> "2 h 2 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _ConsoleHandler(logging.Handler):
    """Our own messages, and any library's warnings, above the live line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        live = record.__dict__.get("live", False)
        if not live and (record.levelno >= logging.WARNING or record.name.startswith(OURS)):
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._console.print(Text(prefix + record.getMessage()), soft_wrap=True)


def _log_to(path: Path, console: Console) -> Callable[[], None]:
    """Send the root logger, from INFO up, to the file and (ours and warnings) to the console. Returns what ends it."""
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers = [to_file, _ConsoleHandler(console)]
    root = logging.getLogger()
    level = root.level
    root.setLevel(min(level, logging.INFO) or logging.INFO)
    for handler in handlers:
        root.addHandler(handler)

    def end() -> None:
        while handlers:
            handler = handlers.pop()
            root.removeHandler(handler)
            handler.close()
            root.setLevel(level)

    return end
