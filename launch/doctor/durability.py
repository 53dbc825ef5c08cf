"""What must survive: checkpoints on disk, and the work of a sampler that is killed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.doctor.check import Check, failed, passed, skipped
from launch.doctor.exam import Exam
from launch.doctor.numbers import measure_gaps, shorten
from rl.config import RunConfig
from rl.records.checkpoint import MANIFEST, CheckpointMeta, CheckpointStore
from rl.types import BadInput


def checkpoints_whole(cfg: RunConfig) -> Check:
    """The checkpoints from which this run would resume hold what was saved."""
    found = []
    for folder in sorted(p for p in (cfg.run_dir / "checkpoints").glob("*") if p.is_dir()):
        try:
            newest = CheckpointStore(folder, cfg.checkpoint.keep).latest()
        except BadInput as error:
            return failed(
                str(error),
                "the disk or a copy changed the file after it was saved",
                "delete the damaged checkpoint as said; then the run resumes from the one before it",
            )
        if newest is not None:
            found.append(f"{folder.name} step {newest[1].step}")
    if not found:
        return skipped("the run has no checkpoints yet")
    return passed(f"whole: {', '.join(found)}")


# ------------------------------------------------------------------------------------------------ save and load


@dataclass(frozen=True)
class Saved:
    """A checkpoint of the learners' state after an update: the hash of its weights, the sums of its master weights."""

    path: Path
    weights: str
    masters: dict[str, float]
    num_bytes: int


def save(exam: Exam) -> Saved:
    path = _save(exam, 0)
    files = json.loads((path / MANIFEST).read_text()).values()
    backend = exam.backend
    return Saved(path, backend.weights_hash(), backend.master_sums(), sum(file["bytes"] for file in files))


def _save(exam: Exam, step: int) -> Path:
    store = CheckpointStore(exam.store, keep=2)
    partial = store.begin(step)
    exam.backend.save(partial)
    learner = exam.cfg.learner
    return store.commit(partial, CheckpointMeta(step, {}, "", learner.ranks, learner.zero_stage, None, {}))


def describe(saved: Saved) -> Check:
    return passed(f"{saved.num_bytes / 1e6:.0f} MB in {saved.path.parent.parent.parent}")


def loads_equal(exam: Exam, saved: Saved) -> Check:
    """New learners, as in a resumed run, get the saved weights back, and saving them again gives the same files."""
    exam.load()
    if exam.backend.master_sums() == saved.masters:
        return skipped("the update had moved nothing, so there is nothing to bring back")
    exam.backend.restore(saved.path)
    if (exam.backend.weights_hash(), exam.backend.master_sums()) != (saved.weights, saved.masters):
        return failed(
            "the weights after loading are not those that were saved",
            "part of the state is not in the checkpoint, or is not put back",
            "look at rl/workers/learner/deepspeed_engine.py's save and restore",
        )
    again = _save(exam, 1)
    one, two = (json.loads((path / MANIFEST).read_text()) for path in (saved.path, again))
    other = sorted(n for n in one.keys() | two.keys() if n != "meta.json" and one.get(n) != two.get(n))
    # Equal values may have other bytes: tensors that shared memory before loading need not share it after.
    other = [n for n in other if n not in one or n not in two or not _same_values(saved.path / n, again / n)]
    if other:
        return failed(
            f"the weights are equal after loading, but saved again these files differ: {shorten(other)}",
            "the optimiser's state, the random state or a counter is not put back",
            "look at rl/workers/learner/deepspeed_engine.py's save and restore",
        )
    return passed(
        f"loaded into learners set up anew, the weights are those that were saved; saved again, all {len(one)} files "
        "hold the same"
    )


def _same_values(one: Path, two: Path) -> bool:
    """Whether two files of torch.save hold the same values. Any other two files with different bytes differ."""
    if one.suffix != ".pt":
        return False
    # weights_only=False, for DeepSpeed's own objects. It is safe: the doctor wrote both files a moment ago.
    first, second = (torch.load(path, weights_only=False, map_location="cpu") for path in (one, two))
    return _equal(first, second)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    # DeepSpeed's own objects (loss scaler) have no ==: their settings are compared.
    return (
        _equal(vars(a), vars(b))
        if type(a).__eq__ is object.__eq__ and type(a) is type(b) and _has_fields(a)
        else a == b
    )


def _has_fields(value: object) -> bool:
    return type(value).__dictoffset__ != 0


def flipped_byte_found(exam: Exam) -> Check:
    """When one byte of the doctor's checkpoint changes, loading must be refused, with the file's name."""
    store = CheckpointStore(exam.store, keep=2)
    path = store.path(store.steps()[-1])
    manifest = json.loads((path / MANIFEST).read_text())
    name = max(manifest, key=lambda n: manifest[n]["bytes"])
    with (path / name).open("r+b") as file:
        file.seek(manifest[name]["bytes"] // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    try:
        store.latest()
    except BadInput as error:
        if name in str(error):
            return passed(f"one bit of {name} changed: loading is refused and names the file")
    return failed(
        f"one bit of {name} changed, and the checkpoint is still taken for whole",
        "checkpoints are not verified on load",
        "look at CheckpointStore.fault in rl/records/checkpoint.py",
    )


# ------------------------------------------------------------------------------------------------ a killed sampler


def sampler_returns(exam: Exam) -> Check:
    """A sampler killed at work is started again, gets the current weights, and no group is lost."""
    backend = exam.backend
    if not backend.revives:
        return skipped("samplers on GPUs are not started again by themselves: the run stops, and resumes")
    restarts = backend.restarts
    backend.kill_sampler(0)
    groups = exam.sample(exam.params(), 2)
    versions = sorted({r.policy_version for g in groups for r in g.rollouts_G})
    gap = float(measure_gaps(exam, exam.micro_batches(groups)).gap_M.mean())
    measured = (
        f"sampler 0, killed, was started {backend.restarts - restarts} time(s) again; {len(groups)} of "
        f"{len(exam.prompts_P)} groups came back, of weights {versions}, mean gap {gap:.1e}"
    )
    right = backend.restarts == restarts + 1 and len(groups) == len(exam.prompts_P) and versions == [exam.version]
    if not right or not gap <= exam.cfg.gap_limit:
        return failed(
            measured,
            "the new sampler did not get the work or the weights of the old one",
            "look at RayBackend._revive in rl/workers/cluster/ray_backend.py",
        )
    return passed(measured)
