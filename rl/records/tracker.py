"""What a run leaves behind and shows while it goes: metrics.jsonl, rollouts, log.txt, W&B, progress.

    <run>/metrics.jsonl                  one JSON object a line: stage, step, time (Unix), seconds, then the metrics
    <run>/rollouts/step_000012.parquet   every rollout of GRPO step 12 with its reward parts; pandas.read_parquet
    <run>/log.txt                        what was logged, the third-party libraries' lines included
    <run>/wandb/, wandb_id.txt, ...      W&B's files, the run's id there, what it was sent (rl/records/wandb_run.py)
    <run>/tensorboard/                   event files, a folder a stage, if track.tensorboard is on

(stage, step) names a record. Nothing appears twice, also after a kill and a resume.
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
"""Is told of each step: the run's name, stage, step, metrics."""


class Tracker:
    """Everything that one run writes about itself. Use it as a context manager.

    run_dir: made if it is not there; only log.txt is written before the first step (or start()). name: the run's.
    console: where progress goes, standard output by default. A terminal gets a live line, anything else a line a step.
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
        """Forget what will be done again: keep a stage's records and rollouts of steps below next_steps[stage] only.

        A stage that is not named is forgotten whole. {"sft": 300, "grpo": 12, "eval": 12} before GRPO step 12.
        """
        self._records.keep(lambda stage, step: step < next_steps.get(stage, 0))
        for stage, step, path in rollout_files(self.run_dir):
            if step >= next_steps.get(stage, 0):
                path.unlink()

    def forget(self, stage: str, step: int) -> None:
        """Remove one step's record, so that the step can be recorded again."""
        self._records.keep(lambda *known: known != (stage, step))

    def start(self, config: Mapping[str, object]) -> None:
        """Begin W&B's run (config: the resolved config), if it is on. Raises BadInput when online and it cannot."""
        if self._cfg.wandb != "off":
            self._wandb = WandbRun.begin(self.run_dir, self._cfg, self._name, config)

    def attach(self, sink: Sink, queue: Callable[[], Queue]) -> None:
        """Tell sink of each step from now on, after the step is on disk, and show in the live view what queue() says.

        queue is called from another thread and answers at once.
        """
        self._sinks.append(sink)
        self._bar.watch(queue)

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
        written = with_old_names(record)
        self._records.append(stage, step, written)
        if self._wandb:
            self._wandb.log(stage, step, written, groups_P)
        if self._cfg.tensorboard:
            self._board(stage, step, written)
        for sink in self._sinks:
            sink(self._name, stage, step, written)
        self._bar.advance(stage, step, record)

    def close(self, *, failed: bool = False) -> None:
        """End progress, W&B and the log. May be called again."""
        self._bar.end()
        if self._wandb:
            self._wandb.finish(failed)
            self._wandb = None
        for writer in self._boards.values():
            writer.close()
        self._boards.clear()
        self._close_log()

    def _board(self, stage: str, step: int, record: Mapping[str, float]) -> None:
        """A step for TensorBoard, each stage a run of its own there; what a resume does again replaces what was."""
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            self._boards[stage] = SummaryWriter(str(self.run_dir / "tensorboard" / stage), purge_step=step)
        for name, value in record.items():
            self._boards[stage].add_scalar(name, value, step)
        self._boards[stage].flush()


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
