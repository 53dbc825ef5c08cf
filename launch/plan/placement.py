"""Where a run's workers are placed, in words: which learner rank and which sampler on which GPU of which node."""

from __future__ import annotations

from collections.abc import Sequence

from launch.plan.hardware import Hardware
from rl.config import RunConfig
from rl.types import BadInput
from rl.workers.cluster.arrangement import Arrangement, Seat, arrange, is_colocated

CLUSTERS = ((1,), (2,), (8,), (8, 8))
"""GPUs of each node, of the clusters that `aha plan --placement` shows."""


def placement_lines(cfg: RunConfig, hw: Hardware) -> list[str]:
    """One line for each node of the plan's hardware; none on CPUs, or where the workers do not fit."""
    if not hw.on_gpu:
        return []
    try:
        return in_words(_arranged(cfg, [hw.devices_per_node] * hw.nodes))
    except BadInput:
        return []  # the plan's problems say why


def placement_table(cfg: RunConfig) -> list[str]:
    """The same on each of CLUSTERS, or why the workers do not fit there."""
    lines = []
    for gpus_N in CLUSTERS:
        name = f"{len(gpus_N)} x {gpus_N[0]}" if len(gpus_N) > 1 else str(gpus_N[0])
        lines.append(f"{name} GPU{'s' if sum(gpus_N) > 1 else ''}")
        try:
            lines += [f"  {line}" for line in in_words(_arranged(cfg, gpus_N))]
        except BadInput as error:
            lines.append(f"  {error}")
    return lines


def _arranged(cfg: RunConfig, gpus_N: Sequence[int]) -> Arrangement:
    return arrange(cfg, gpus_N, colocated=is_colocated(cfg, sum(gpus_N)))


def in_words(arranged: Arrangement) -> list[str]:
    """["node 1: learner ranks 0-3 on GPU 0-3; samplers 0-1 on GPU 4-5, 6-7"]"""
    lines = []
    for bundle in range(arranged.bundles):
        parts = [
            _workers(kind, [(i, seat) for i, seat in enumerate(seats) if seat.bundle == bundle])
            for kind, seats in (("learner rank", arranged.learners), ("sampler", arranged.samplers))
        ]
        lines.append(f"node {bundle + 1}: {'; '.join(part for part in parts if part)}")
    return lines


def _workers(kind: str, seated: list[tuple[int, Seat]]) -> str:
    if not seated:
        return ""
    numbers = _range([i for i, _ in seated])
    wide = any(len(seat.gpus) > 1 for _, seat in seated)
    gpus = ", ".join(_range(seat.gpus) for _, seat in seated) if wide else _range([s.gpus[0] for _, s in seated])
    return f"{kind}{'s' if len(seated) > 1 else ''} {numbers} on GPU {gpus}"


def _range(numbers: Sequence[int]) -> str:
    """[4, 5, 6] -> "4-6"; [4] -> "4". They follow one another."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
