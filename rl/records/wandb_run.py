"""W&B: metrics in groups, a table of rollouts, and a resumed run that goes on in the same W&B run with no step twice.

W&B cannot take back what it was sent. So what it has is asked first: of an offline run, the files in the run's folder;
of an online one, its summary. Steps that a resume does again are not sent again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rl.config import TrackConfig
from rl.records.metric_groups import panel_name
from rl.records.whole_files import write_whole
from rl.types import BadInput, GradedGroup, ScoredGroup

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

TABLE_EVERY = 10
WRITTEN_S = 20.0
TABLE_ROWS = 32


class WandbRun:
    """A W&B run whose id stays with the run folder."""

    def __init__(self, run: Run, logged: Mapping[str, int]) -> None:
        """logged: stage -> its last step that W&B has."""
        self._run: Run | None = run
        self._logged = dict(logged)
        self._defined: set[str] = set()

    @staticmethod
    def begin(run_dir: Path, cfg: TrackConfig, name: str, config: Mapping[str, object]) -> WandbRun | None:
        """The run; None, after a warning, when offline and W&B does not work. Raises BadInput when online."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: its crash reports phone home
        id_file = run_dir / "wandb_id.txt"
        run_id = (id_file.read_text().strip() if id_file.exists() else "") or secrets.token_hex(6)
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
            x_service_wait=120,
            init_timeout=60,
            login_timeout=30,
            finish_timeout=120,
        )
        logged = _logged_offline(run_dir)
        try:
            run = wandb.init(
                project=cfg.project, name=name, id=run_id, resume="allow",
                dir=str(run_dir), config=dict(config), settings=settings,
            )  # fmt: skip
            if cfg.wandb == "online":
                for key, value in dict(run.summary).items():
                    stage, slash, rest = key.partition("/")
                    if slash and rest == "step" and isinstance(value, int):
                        logged[stage] = max(logged.get(stage, -1), value)
        except (wandb.Error, OSError) as error:
            _no_wandb(cfg, error)
            return None
        write_whole(id_file, run_id)
        return WandbRun(run, logged)

    def log(
        self, stage: str, step: int, metrics: Mapping[str, float], groups_P: Sequence[ScoredGroup | GradedGroup] = ()
    ) -> None:
        """Send a step, once. A table of its rollouts goes along for evaluations and every TABLE_EVERY steps."""
        if self._run is None or step <= self._logged.get(stage, -1):
            return
        import wandb

        names = {panel_name(stage, name): value for name, value in metrics.items()}
        sent: dict[str, object] = {f"{stage}/step": step, **names}
        if groups_P and (stage != "grpo" or step % TABLE_EVERY == 0):
            columns, rows = rollout_table(step, groups_P)
            sent[f"{stage}/rollouts"] = wandb.Table(columns=columns, data=rows)
        try:
            for group in {name.partition("/")[0] for name in sent} - self._defined:
                self._run.define_metric(f"{group}/*", step_metric=f"{stage}/step")  # each stage counts its own steps
                self._defined.add(group)
            self._run.log(sent)
            self._logged[stage] = step
        except (wandb.Error, OSError) as error:
            log.warning("W&B stopped working (%s); the run goes on without it", error)
            self._run = None

    def finish(self, failed: bool) -> None:
        if self._run is None:
            return
        file = Path(self._run.settings.sync_file) if self._run.offline else None
        self._run.finish(exit_code=1 if failed else 0)
        deadline = time.monotonic() + WRITTEN_S
        # W&B's own process writes on after finish(); a run that goes on reads the file to send no step twice.
        while file is not None and not _is_whole(file):
            if time.monotonic() > deadline:
                log.warning("W&B did not end %s within %g s", file, WRITTEN_S)
                return
            time.sleep(0.02)


def _is_whole(path: Path) -> bool:
    """Whether an offline file has its last record, which says how the run ended."""
    from wandb.proto import wandb_internal_pb2

    frames = list(_frames(path.read_bytes())) if path.exists() else []
    record = wandb_internal_pb2.Record()
    record.ParseFromString(frames[-1] if frames else b"")
    return bool(record.WhichOneof("record_type") == "exit")


def rollout_table(step: int, groups_P: Sequence[ScoredGroup | GradedGroup]) -> tuple[list[str], list[list[object]]]:
    """(columns, rows) of at most TABLE_ROWS samples, as many of each group as fit: texts, reward, verdicts, reasons."""
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


def _no_wandb(cfg: TrackConfig, error: Exception) -> None:
    reason = " ".join(str(error).split())
    if cfg.wandb == "online":
        raise BadInput(f"track.wandb=online: W&B does not start: {reason}; or set track.wandb=offline") from error
    log.warning("W&B does not start (%s); the run goes on without it. track.wandb=off says so on purpose", reason)


def _logged_offline(run_dir: Path) -> dict[str, int]:
    """stage -> its last step in the offline files of run_dir."""
    out: dict[str, int] = {}
    for row in offline_history(run_dir):
        for key, value in row.items():
            stage, slash, rest = key.partition("/")
            if slash and rest == "step" and isinstance(value, int):
                out[stage] = max(out.get(stage, -1), value)
    return out


def offline_history(run_dir: Path) -> Iterator[dict[str, object]]:
    """What was logged, a dict a call, over all the offline files of run_dir, the oldest first."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb")):
        for raw in _frames(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(raw)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _frames(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format behind a header of 7 bytes. Ends where a kill cut the file.

    Blocks of 32 KiB hold chunks of checksum (4 bytes), length (2), kind (1): whole, first, middle or last part.
    """
    block, header, at, parts = 1 << 15, 7, 7, list[bytes]()
    while at + header <= len(data):
        if block - at % block < header:  # too short for a chunk: filled with zeros
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        chunk = data[at + header : at + header + length]
        if kind == 0 or len(chunk) < length:
            return
        at += header + length
        parts = [chunk] if kind in (1, 2) else [*parts, chunk]
        if kind in (1, 4):
            yield b"".join(parts)
