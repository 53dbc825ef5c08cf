"""Checkpoints: written beside the last good one, hashed, renamed into place, verified when loaded, and pruned.

    <folder>/step_000010/manifest.json   sha256 and size of every file; a checkpoint without it was never finished
    <folder>/step_000010/meta.json       CheckpointMeta
    <folder>/step_000010/...             what the learners wrote

A kill at any moment leaves the old checkpoints, with or without a new whole one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rl.records.whole_files import read_json, sync_folder, write_json
from rl.types import BadInput

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class CheckpointMeta:
    """What a checkpoint holds beside the learners' state.

    step: finished steps. cursor: the position of the data stream. fingerprint: a hash of the names and shapes of the
    model's parameters, and of the values of those that are not trained, which no checkpoint holds.
    score: held-out pass@1; None when it was not measured. seconds: phase -> seconds spent so far.
    ranks, zero_stage: how the learners' state is split.
    """

    step: int
    cursor: dict[str, int]
    fingerprint: str
    ranks: int
    zero_stage: int
    score: float | None
    seconds: dict[str, float]


class CheckpointStore:
    """The checkpoints of one stage of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def begin(self, step: int) -> Path:
        """Make an empty folder for the step's checkpoint. Removes what an earlier kill left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.partial"):
            shutil.rmtree(leftover)
        partial = self.folder / f"step_{step:06d}.partial"
        partial.mkdir()
        return partial

    def commit(self, partial: Path, meta: CheckpointMeta) -> Path:
        """Hash what was written, add the metadata, and rename the folder into place."""
        write_json(partial / "meta.json", asdict(meta))
        manifest = {str(p.relative_to(partial)): {"sha256": h, "bytes": p.stat().st_size} for p, h in _hashes(partial)}
        write_json(partial / MANIFEST, manifest, indent=1)
        final = partial.with_suffix("")
        if final.exists():  # the step was done before, and again after a resume from an earlier checkpoint
            shutil.rmtree(final)
        partial.rename(final)
        sync_folder(self.folder)
        self._prune()
        return final

    def steps(self) -> list[int]:
        """The steps that have a finished checkpoint, the oldest first."""
        return sorted(
            int(p.name.removeprefix("step_")) for p in self.folder.glob("step_??????") if (p / MANIFEST).exists()
        )

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}"

    def latest(self) -> tuple[Path, CheckpointMeta] | None:
        """The newest checkpoint, verified; None when there is none.

        Raises BadInput when it is damaged, with the damaged file and the last good checkpoint.
        """
        steps = self.steps()
        if not steps:
            return None
        newest = self.path(steps[-1])
        fault = self.fault(newest)
        if fault:
            good = next((s for s in reversed(steps[:-1]) if not self.fault(self.path(s))), None)
            remedy = (
                f"the last good one is {self.path(good)}; delete {newest} to resume from it"
                if good is not None
                else f"there is no other good one; delete {self.folder} to start this stage again"
            )
            raise BadInput(f"checkpoint {newest} is damaged: {fault}; {remedy}")
        return newest, self._meta(newest)

    def _meta(self, checkpoint: Path) -> CheckpointMeta:
        remedy = f"delete {checkpoint}, and the run resumes from the checkpoint before it"
        return read_json(checkpoint / "meta.json", lambda tree: CheckpointMeta(**tree), remedy)

    def fault(self, checkpoint: Path) -> str:
        """What is wrong with a checkpoint's files; "" when nothing is."""
        try:
            manifest = {
                name: (int(known["bytes"]), str(known["sha256"]))
                for name, known in json.loads((checkpoint / MANIFEST).read_text()).items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            return f"{MANIFEST}: {error}"
        for name, (size, _) in manifest.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
        for file, digest in _hashes(checkpoint):
            name = str(file.relative_to(checkpoint))
            if name != MANIFEST and digest != manifest.get(name, (0, ""))[1]:
                return f"{name} is not what was saved"
        return ""

    def _prune(self) -> None:
        """Delete all but the last `keep` checkpoints and the one with the best score."""
        steps = self.steps()
        scores: dict[int, float] = {}
        for step in steps:
            try:
                score = self._meta(self.path(step)).score
            except (BadInput, FileNotFoundError) as error:  # of an older checkpoint, which a resume would check itself
                log.warning("%s", error)
                continue
            if score is not None:
                scores[step] = score
        best = max(scores, key=lambda s: (scores[s], s), default=None)
        for step in steps[: -self.keep]:
            if step != best:
                # The manifest goes first, so that a kill in between leaves no folder that looks whole.
                (self.path(step) / MANIFEST).unlink()
                shutil.rmtree(self.path(step))


def _hashes(folder: Path) -> list[tuple[Path, str]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(zip(files, pool.map(_hash, files), strict=True))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_meta(meta: CheckpointMeta, where: Path, *, fingerprint: str, ranks: int, zero_stage: int) -> None:
    """Raise BadInput when a checkpoint cannot be loaded into these learners."""
    if (meta.ranks, meta.zero_stage) != (ranks, zero_stage):
        raise BadInput(
            f"checkpoint {where} was saved by {meta.ranks} ranks with ZeRO {meta.zero_stage}; resume with "
            f"learner.ranks={meta.ranks} learner.zero_stage={meta.zero_stage}, or use another run name"
        )
    if meta.fingerprint != fingerprint:
        raise BadInput(
            f"checkpoint {where} is of another model, or with adapters of another base; use its model.path, "
            "model.dtype and model.lora, or another run name"
        )


def refuse_fewer_steps(folder: Path, stage: str, done: int, asked: int) -> None:
    """Raise BadInput when more steps are done than are asked for: later weights would stand beside earlier numbers."""
    if asked < done:
        raise BadInput(
            f"{folder} holds {done} finished {stage} steps, and the settings ask for {asked}; trained weights are not "
            f"taken back. Ask for {done} steps or more, or use another name=..."
        )
