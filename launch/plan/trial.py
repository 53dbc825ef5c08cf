"""Trains a few layers of a model on this machine, for `aha plan --calibrate`. The plan scales the times up.

Rates alone (calibrate.py) miss what a step costs beside its arithmetic: small matrices, the hooks of every module under
ZeRO-3, messages between ranks. So the real learner trains models of 1 and of 3 such layers (LAYERS), with 1 and with 3
micro-batches (MICRO_BATCHES). A step's time is linear in both. Loads no torch: each rank runs trial_rank.py in a
process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from launch.plan.hardware import GIB, Hardware
from launch.plan.memory import LearnerShape, learner_memory
from launch.plan.model import Architecture
from rl.types import AhaError

LAYERS = (1, 3)
MICRO_BATCHES = (1, 3)
TIMEOUT_S = 600.0
RANK = ("-m", "launch.plan.trial_rank")
MEMORY_SHARE = 0.7
"""A trial whose ranks would need more of the machine's memory is not made."""


@dataclass(frozen=True)
class TrialSpec:
    """What every rank trains: micro-batches of `rows` rollouts of prompt + completion tokens, padding-free."""

    arch: Architecture
    shape: LearnerShape
    rows: int
    prompt: int
    completion: int
    threads: int

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.rows * (self.prompt + self.completion)


@dataclass(frozen=True)
class Trial:
    """Seconds of one rank, all ranks at work. micro_batch_s, update_s: of a model without layers; a_layer: each adds.

    tokens: of the micro-batch.
    """

    tokens: int
    micro_batch_s: float
    micro_batch_a_layer_s: float
    update_s: float
    update_a_layer_s: float

    def micro_batch(self, layers: int) -> float:
        """Seconds of one full micro-batch: forward, backward, and the reference's forward if there is one."""
        return self.micro_batch_s + layers * self.micro_batch_a_layer_s

    def update(self, layers: int) -> float:
        """Seconds of an update beside its micro-batches: the optimiser, the collectives, the calls."""
        return self.update_s + layers * self.update_a_layer_s


def can_be_tried(arch: Architecture, shape: LearnerShape, hw: Hardware) -> bool:
    """Whether a trial can represent these learners: on this machine, within its memory, with padded rows."""
    here = hw.measured and not hw.on_gpu and hw.nodes == 1 and arch.exact
    if not here or shape.packed or shape.shared_by > 1:
        return False
    few = replace(arch, layers=min(arch.layers, max(LAYERS)))
    return shape.ranks * learner_memory(few, shape, hw).peak <= MEMORY_SHARE * hw.memory_gib * GIB


def spec_of(
    arch: Architecture, shape: LearnerShape, mean_length: float, scored_share: float, hw: Hardware
) -> TrialSpec | None:
    """The trial of a plan; None when it cannot run here.

    mean_length: of a prompt and its completion, tokens. scored_share: of the tokens, those that the head sees.
    """
    if not can_be_tried(arch, shape, hw):
        return None
    length = max(2, min(round(mean_length), shape.tokens))
    completion = max(1, min(length - 1, round(length * scored_share)))
    rows = max(1, shape.tokens // length)
    return TrialSpec(arch, shape, rows, length - completion, completion, max(1, hw.cores // shape.ranks))


@cache
def train_here(spec: TrialSpec) -> Trial:
    """Run the trial, for a minute or two. Raises AhaError when a rank fails, or after TIMEOUT_S."""
    print(
        f"calibrating: training {' and '.join(map(str, LAYERS))} layers of {spec.arch.name} here, "
        f"{spec.shape.ranks} rank(s), micro-batches of {spec.rows} x {spec.prompt + spec.completion} tokens (a "
        "minute or two)", file=sys.stderr, flush=True,
    )  # fmt: skip
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seconds = _run_ranks(spec, Path(folder))
    print(f"calibrating: took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return fit(spec.tokens, {(int(k), int(m)): s for k, of in seconds.items() for m, s in of.items()})


def fit(tokens: int, seconds: dict[tuple[int, int], float]) -> Trial:
    """seconds: (layers, micro-batches) -> a step's. Two straight lines; what noise makes negative counts as 0."""
    few, many = MICRO_BATCHES
    micro_batch = [(seconds[k, many] - seconds[k, few]) / (many - few) for k in LAYERS]
    update = [seconds[k, few] - few * g for k, g in zip(LAYERS, micro_batch, strict=True)]
    (g0, g1), (u0, u1) = _line(micro_batch), _line(update)
    return Trial(tokens, g0, g1, u0, u1)


def _line(values: list[float]) -> tuple[float, float]:
    """(value at no layers, slope) of the line through a value at each of LAYERS; neither is negative."""
    low, high = LAYERS
    slope = max(0.0, (values[1] - values[0]) / (high - low))
    return max(0.0, values[0] - low * slope), slope


def _run_ranks(spec: TrialSpec, folder: Path) -> dict[str, dict[str, float]]:
    """The times that rank 0 wrote: layers -> micro-batches -> seconds."""
    from rl.workers.cluster.ray_backend import KEEP_MEMORY
    from rl.workers.cluster.ray_calls import free_port

    command = [sys.executable, *RANK, json.dumps(asdict(spec)), str(folder), str(free_port())]
    root = Path(__file__).parents[2]
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(spec.shape.ranks):
            with (folder / f"{rank}.log").open("wb") as log:
                env = os.environ | KEEP_MEMORY
                ranks.append(
                    subprocess.Popen([*command, str(rank)], cwd=root, env=env, stdout=log, stderr=subprocess.STDOUT)
                )
        deadline = time.monotonic() + TIMEOUT_S
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            if time.monotonic() > deadline:
                raise AhaError(f"--calibrate: the learner's trial took more than {TIMEOUT_S:g} s; plan without it")
            time.sleep(0.1)
        failed = next((i for i, rank in enumerate(ranks) if rank.poll()), None)
        if failed is not None:
            said = (folder / f"{failed}.log").read_text(errors="replace").strip().splitlines()
            last = said[-1] if said else "no message"
            raise AhaError(f"--calibrate: the learner's trial failed ({last}); plan without it")
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    found: dict[str, dict[str, float]] = json.loads((folder / "seconds.json").read_text())
    return found
