"""W&B: metrics in groups, a table of rollouts, and resumed runs that continue their W&B run without repeating a step.

W&B cannot take back what it was sent, so a step that a resumed run does again is not sent again. wandb_sent.json in the
run's folder holds the last step of each stage that was sent. An online run's summary is asked too, because the run may
have continued from another copy of the folder.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rl.config import TrackConfig
from rl.records.metric_groups import panel_name
from rl.records.metrics_file import read_metrics
from rl.records.whole_files import read_json, write_json, write_whole
from rl.types import BadInput, GradedGroup, ScoredGroup

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

TABLE_EVERY = 10
"""A table of rollouts is sent for every tenth GRPO step."""
TABLE_ROWS = 32
SENT = "wandb_sent.json"
SET_HERE = ("WANDB_ERROR_REPORTING", "WANDB_SERVICE")
LINK = re.compile(r"\[type=[^\n]*|For further information visit \S+")


class WandbFailure(Exception):
    """W&B does not work. Its text is one line."""


@contextmanager
def one_kind_of_failure() -> Iterator[None]:
    """Raise WandbFailure for whatever fails in W&B during the block, a wrong WANDB_... variable included."""
    try:
        yield
    except Exception as error:
        # Its own errors have no class in common, and may not be importable: W&B reads its variables on import.
        if isinstance(error, ImportError | OSError | ValueError) or type(error).__module__.startswith("wandb"):
            raise WandbFailure(_reason(error)) from error
        raise


class WandbRun:
    """A W&B run whose id stays with the run folder."""

    def __init__(self, run: Run, run_dir: Path, sent: Mapping[str, int]) -> None:
        """sent: stage -> its last step that W&B has."""
        self._run: Run | None = run
        self._run_dir, self._sent = run_dir, dict(sent)
        self._defined: set[str] = set()

    @staticmethod
    def begin(run_dir: Path, cfg: TrackConfig, name: str, config: Mapping[str, object]) -> WandbRun | None:
        """Begin the run. When W&B does not work: None, with a warning, if it is offline; BadInput if it is online."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: its crash reports phone home
        id_file = run_dir / "wandb_id.txt"
        run_id = (id_file.read_text(errors="replace").strip() if id_file.exists() else "") or secrets.token_hex(6)
        sent = _sent_before(run_dir)
        try:
            with one_kind_of_failure():
                run = _init(run_dir, cfg, name, run_id, config)
                if cfg.wandb == "online":
                    for key, value in dict(run.summary).items():
                        stage, slash, rest = key.partition("/")
                        if slash and rest == "step" and isinstance(value, int):
                            sent[stage] = max(sent.get(stage, -1), value)
        except WandbFailure as error:
            _no_wandb(cfg, error)
            return None
        write_whole(id_file, run_id)
        write_json(run_dir / SENT, sent)
        return WandbRun(run, run_dir, sent)

    def log(
        self, stage: str, step: int, metrics: Mapping[str, float], groups_P: Sequence[ScoredGroup | GradedGroup] = ()
    ) -> None:
        """Send a step, unless it was sent before. Evaluations, and every tenth GRPO step, get a table of rollouts."""
        if self._run is None or step <= self._sent.get(stage, -1):
            return
        import wandb

        names = {panel_name(stage, name): value for name, value in metrics.items()}
        row: dict[str, object] = {f"{stage}/step": step, **names}
        if groups_P and (stage != "grpo" or step % TABLE_EVERY == 0):
            columns, rows = rollout_table(step, groups_P)
            row[f"{stage}/rollouts"] = wandb.Table(columns=columns, data=rows)
        groups = {name.partition("/")[0] for name in row} - self._defined
        self._defined |= groups
        self._sent[stage] = step
        try:
            with one_kind_of_failure():
                for group in groups:
                    self._run.define_metric(f"{group}/*", step_metric=f"{stage}/step")  # each counts its own steps
                # Written first: a kill between the two loses a point of a curve, the other order would send it twice.
                write_json(self._run_dir / SENT, self._sent)
                self._run.log(row)
        except WandbFailure as error:
            log.warning("W&B stopped working (%s); the run goes on without it", error)
            self._run = None

    def finish(self, failed: bool) -> None:
        if self._run is None:
            return
        try:
            with one_kind_of_failure():
                self._run.finish(exit_code=1 if failed else 0)
        except WandbFailure as error:
            log.warning("W&B did not end well (%s); what the run itself wrote is whole", error)


def _init(run_dir: Path, cfg: TrackConfig, name: str, run_id: str, config: Mapping[str, object]) -> Run:
    import wandb

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
        x_service_wait=120,
        init_timeout=60,
        login_timeout=30,
        finish_timeout=120,
    )
    return wandb.init(
        project=cfg.project, name=name, id=run_id, resume="allow",
        dir=str(run_dir), config=dict(config), settings=settings,
    )  # fmt: skip


def rollout_table(step: int, groups_P: Sequence[ScoredGroup | GradedGroup]) -> tuple[list[str], list[list[object]]]:
    """(columns, rows) of at most TABLE_ROWS samples, spread over the groups: texts, reward, verdicts, reasons."""
    names = list(dict.fromkeys(name for g in groups_P for part in g.parts_G for name in part))
    parts = [f"{name}/{field}" for name in names for field in ("score", "verdict", "reason")]
    columns = ["step", "prompt", "completion", "reference", "reward", "advantage", *parts]
    each = max(1, TABLE_ROWS // len(groups_P))
    rows: list[list[object]] = []
    for g in groups_P[:TABLE_ROWS]:
        for i, rollout in enumerate(g.group.rollouts_G[:each]):
            row: list[object] = [step, g.group.prompt.text, rollout.text, g.group.prompt.reference, g.rewards_G[i]]
            row.append(g.advantages_G[i] if isinstance(g, ScoredGroup) else None)
            for name in names:
                part = g.parts_G[i].get(name)
                row += [part.score, str(part.verdict), part.reason] if part else [None, None, None]
            rows.append([v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in row])
    return columns, rows


def _no_wandb(cfg: TrackConfig, error: WandbFailure) -> None:
    reason = str(error)
    variables = sorted(name for name in os.environ if name.startswith("WANDB_") and name not in SET_HERE)
    reason += f"; its variables {', '.join(variables)} are set" if variables else ""
    if cfg.wandb == "online":
        raise BadInput(f"track.wandb=online: W&B does not start: {reason}; or set track.wandb=offline") from error
    log.warning("W&B does not start (%s); the run goes on without it. set track.wandb=off to turn it off", reason)


def _reason(error: Exception) -> str:
    """The error in one line, without pydantic's links."""
    return " ".join(LINK.sub("", str(error)).split()) or type(error).__name__


def _sent_before(run_dir: Path) -> dict[str, int]:
    """Stage -> its last step that was sent from this folder."""
    try:
        return read_json(run_dir / SENT, lambda tree: {str(stage): int(step) for stage, step in tree.items()})
    except FileNotFoundError:
        log.debug("%s: no %s; what metrics.jsonl holds was sent", run_dir, SENT)
    except BadInput as error:
        log.warning("%s", error)
    # Each step goes to metrics.jsonl before it is sent. A resumed run's steps are removed there only after this.
    records = read_metrics(run_dir)
    return {str(r["stage"]): int(str(r["step"])) for r in sorted(records, key=lambda r: int(str(r["step"])))}
