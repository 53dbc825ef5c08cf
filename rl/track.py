"""What a run leaves behind and shows while it goes: metrics.jsonl, rollouts, log.txt, W&B, progress.

    <run>/metrics.jsonl                  one JSON object a line: stage, step, time (Unix), seconds, then the metrics
    <run>/rollouts/step_000012.parquet   every rollout of GRPO step 12 with its reward parts; pandas.read_parquet
    <run>/log.txt                        what was logged, the third-party libraries' lines included
    <run>/wandb/, wandb_id.txt           W&B's files and the run's id there

(stage, step) names a record. Nothing appears twice, also after a kill and a resume.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from rl.config import TrackConfig
from rl.records import MetricsFile, rollout_files, rollouts_path, write_rollouts
from rl.terminal import Bar, log_to
from rl.types import BadInput, GradedGroup, ScoredGroup, StepStats

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)


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
        self._wandb: _Wandb | None = None
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
        self._records.truncate(next_steps)
        for stage, step, path in rollout_files(self.run_dir):
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
