"""What a run writes and shows while it goes on: metrics.jsonl, rollouts, log.txt, W&B, progress.

    <run>/metrics.jsonl                  one JSON object per line: stage, step, time (Unix), seconds, the metrics
    <run>/rollouts/step_000012.parquet   every rollout of GRPO step 12 with its reward parts; pandas.read_parquet
    <run>/log.txt                        all log messages, those of libraries included
    <run>/wandb/, wandb_id.txt, ...      W&B's files, the run's id there, what it was sent (rl/records/wandb_run.py)
    <run>/tensorboard/                   event files in one folder per stage, if track.tensorboard is on

(stage, step) identifies a record. None appears twice, not even after a kill and a resume.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from rl.config import TrackConfig
from rl.records.metrics_file import MetricsFile
from rl.records.renamed_metrics import with_old_names
from rl.records.rollout_files import rollout_files, rollouts_path, write_rollouts
from rl.records.terminal import Bar, log_to
from rl.records.wandb_run import WandbRun
from rl.types import GradedGroup, Queue, ScoredGroup, StepStats

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

Sink = Callable[[str, str, int, Mapping[str, float]], None]
"""Called after each step with the run's name, the stage, the step and its metrics."""


class Tracker:
    """Everything that one run writes about itself. Use it as a context manager.

    run_dir: made if it does not exist. Only log.txt is written there before the first step or start(). name: the run's.
    console: where progress goes; standard output by default.
    """

    def __init__(self, run_dir: Path, cfg: TrackConfig, *, name: str, console: Console | None = None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run_dir, self._cfg, self._name = run_dir, cfg, name
        self._console = console or Console()
        self._records = MetricsFile(run_dir / "metrics.jsonl")
        self._bar = Bar(self._console)
        self._wandb: WandbRun | None = None
        self._boards: dict[str, SummaryWriter] = {}
        self._sinks: list[Sink] = []
        self._clock = time.monotonic()
        self._close_log = log_to(run_dir / "log.txt", self._console)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(failed=error is not None)

    def resume(self, next_steps: Mapping[str, int]) -> None:
        """Remove what will be done again: the records and rollouts of each stage from step next_steps[stage] on.

        A stage that is not named loses all its records. Before GRPO step 12: {"sft": 300, "grpo": 12, "eval": 12}.
        """
        self._records.keep(lambda stage, step: step < next_steps.get(stage, 0))
        for stage, step, path in rollout_files(self.run_dir):
            if step >= next_steps.get(stage, 0):
                path.unlink()

    def forget(self, stage: str, step: int) -> None:
        """Remove one step's record, so that the step can be recorded again."""
        self._records.keep(lambda *known: known != (stage, step))

    def start(self, config: Mapping[str, object]) -> None:
        """Begin the W&B run, if W&B is on. config: what W&B shows. Raises BadInput when W&B is online and fails."""
        if self._cfg.wandb != "off":
            self._wandb = WandbRun.begin(self.run_dir, self._cfg, self._name, config)

    def attach(self, sink: Sink, queue: Callable[[], Queue]) -> None:
        """Call sink after each step that is on disk, and show queue() in the live view.

        queue is called from another thread and must answer at once.
        """
        self._sinks.append(sink)
        self._bar.watch(queue)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Show that a stage of `total` steps begins, of which `done` were done before."""
        self._bar.begin(stage, total, done)
        self._clock = time.monotonic()

    def step(
        self,
        stage: str,
        step: int,
        metrics: Mapping[str, float],
        groups_P: Sequence[ScoredGroup | GradedGroup] = (),
    ) -> None:
        """Record one step, which is on disk on return. stage: "sft", "grpo" or "eval". groups_P: rollouts to keep.

        Adds seconds (since the last record) and, to metrics with "tokens" or "rollout/tokens", tokens_per_second.
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
        written = with_old_names(record)
        self._records.append(stage, step, written)
        if self._wandb:
            self._wandb.log(stage, step, written, groups_P)
        if self._cfg.tensorboard:
            self._board(stage, step, written)
        for sink in self._sinks:
            sink(self._name, stage, step, written)
        self._bar.advance(stage, step, record)

    def warn(self, text: str) -> None:
        """Log a warning, and keep it in the live view until another one, or "", takes its place."""
        if text:
            log.warning("%s", text)
        self._bar.warning = text

    def close(self, *, failed: bool = False) -> None:
        """End progress, W&B and the log. Further calls do nothing."""
        self._bar.end()
        if self._wandb:
            self._wandb.finish(failed)
            self._wandb = None
        for writer in self._boards.values():
            writer.close()
        self._boards.clear()
        self._close_log()

    def _board(self, stage: str, step: int, record: Mapping[str, float]) -> None:
        """Send a step to TensorBoard, where each stage is a run. A step that is done again replaces the first one."""
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            self._boards[stage] = SummaryWriter(str(self.run_dir / "tensorboard" / stage), purge_step=step)
        for name, value in record.items():
            self._boards[stage].add_scalar(name, value, step)
        self._boards[stage].flush()


def stats_metrics(stats: StepStats) -> dict[str, float]:
    """A learner's report as metrics. Phases become seconds/<phase>."""
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
