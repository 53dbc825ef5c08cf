"""Which node and which GPUs each learner rank and each sampler gets. Arithmetic alone: `aha plan` uses it without Ray.

Apart, every worker has GPUs of its own. Colocated, learners and samplers share GPUs and take turns: a sampler of n GPUs
has those of n neighbouring learner ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rl.config import RunConfig
from rl.types import BadInput


@dataclass(frozen=True)
class Seat:
    """One worker's place. bundle: the reservation that it belongs to; a bundle is always on one node. gpus: which of
    the bundle's GPUs it sees, counted from 0; none on CPUs.
    """

    bundle: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Arrangement:
    """The seats of all learner ranks and of all samplers, in order. On GPUs there is one bundle for each node."""

    learners: tuple[Seat, ...]
    samplers: tuple[Seat, ...]

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Learners first, as RayBackend counts its workers."""
        return (*self.learners, *self.samplers)

    @property
    def bundles(self) -> int:
        return 1 + max(seat.bundle for seat in self.seats)

    def gpus_in(self, bundle: int) -> int:
        return len({gpu for seat in self.seats if seat.bundle == bundle for gpu in seat.gpus})


def is_colocated(cfg: RunConfig, gpus: int) -> bool:
    """Whether learners and samplers share devices. gpus: of the whole cluster, 0 where the workers run on CPUs."""
    cluster = cfg.cluster
    if cluster.colocated != "auto":
        return cluster.colocated == "true"
    one_each = cfg.learner.ranks == cfg.sampler.count * cfg.sampler.tensor_parallel == 1
    return cluster.weight_transfer == "ipc" or (gpus == 1 and one_each and cluster.weight_transfer != "nccl")


def transfer_of(cfg: RunConfig, *, on_gpu: bool, colocated: bool) -> str:
    """How weights reach the samplers: bucket, nccl or ipc. Raises BadInput for nccl and ipc on CPUs."""
    kind = cfg.cluster.weight_transfer
    if kind == "auto":
        return "bucket" if not on_gpu else "ipc" if colocated else "nccl"
    if kind != "bucket" and not on_gpu:
        raise BadInput(f"cluster.weight_transfer={kind} needs GPUs; use bucket or auto")
    return kind


def gpus_needed(cfg: RunConfig, *, colocated: bool) -> int:
    """GPUs of all learner ranks and samplers."""
    samplers = cfg.sampler.count * cfg.sampler.tensor_parallel
    return max(cfg.learner.ranks, samplers) if colocated else cfg.learner.ranks + samplers


def arrange(cfg: RunConfig, gpus_N: Sequence[int], *, colocated: bool) -> Arrangement:
    """Seats on nodes with so many GPUs each; an empty gpus_N means CPUs. Raises BadInput when they do not suffice.

    What a person would choose: as few nodes as possible, the learners packed, a sampler's GPUs on one node, and the
    samplers on nodes without learners where there are enough of those.
    """
    ranks, samplers, width = cfg.learner.ranks, cfg.sampler.count, cfg.sampler.tensor_parallel
    if colocated:
        refuse_unpaired(cfg)
    if not gpus_N:
        apart = 0 if colocated else ranks
        on_cpus = tuple(Seat(apart + i) for i in range(samplers))
        return Arrangement(tuple(Seat(i // width if colocated else i) for i in range(ranks)), on_cpus)
    homes = _together(gpus_N, samplers, width) if colocated else _apart(gpus_N, ranks, samplers, width)
    if homes is None:
        raise BadInput(_too_few(cfg, gpus_N, colocated=colocated))
    return _seated(*homes, width, colocated=colocated)


def refuse_unpaired(cfg: RunConfig) -> None:
    """Raise BadInput when colocated workers do not pair: every GPU then has one learner rank and one sampler's part."""
    ranks, samplers, width = cfg.learner.ranks, cfg.sampler.count, cfg.sampler.tensor_parallel
    if ranks != samplers * width:
        raise BadInput(
            f"colocated, each learner rank shares its GPU with a sampler, but learner.ranks={ranks} and "
            f"sampler.count={samplers} x sampler.tensor_parallel={width} do not pair: make them equal, or use "
            "cluster.colocated=false"
        )


def refuse_turns(cfg: RunConfig, *, colocated: bool) -> None:
    """Raise BadInput when workers that take turns on their devices are to sample and train at the same time."""
    if colocated and cfg.rollout.staleness:
        raise BadInput(
            f"rollout.staleness={cfg.rollout.staleness}: learners and samplers share devices here and take turns "
            f"(cluster.colocated={cfg.cluster.colocated}), so nothing can be sampled beside the training; use "
            "rollout.staleness=0, or a cluster with GPUs for both"
        )


def _apart(gpus_N: Sequence[int], ranks: int, samplers: int, width: int) -> tuple[list[int], list[int]] | None:
    """(node of each learner rank, node of each sampler), or None when the GPUs do not suffice."""
    largest_first = sorted(range(len(gpus_N)), key=lambda n: -gpus_N[n])
    for node in reversed(largest_first):
        if gpus_N[node] >= ranks + samplers * width:
            return [node] * ranks, [node] * samplers
    for order in (largest_first, largest_first[::-1]):
        free = list(gpus_N)
        learners = _fill(free, ranks, 1, order)
        if learners is not None:
            away = _fill(free, samplers, width, [node for node in order if node not in learners])
            if away is not None:
                return learners, away
    free = list(gpus_N)
    learners = _fill(free, ranks, 1, largest_first)
    beside = _fill(free, samplers, width, largest_first)
    if learners is not None and beside is not None:
        return learners, beside
    # Learners leave remainders that are too small for a sampler's GPUs. Samplers first: learners fit in anywhere.
    free = list(gpus_N)
    first = _fill(free, samplers, width, largest_first[::-1])
    learners = _fill(free, ranks, 1, largest_first)
    return None if first is None or learners is None else (learners, first)


def _together(gpus_N: Sequence[int], samplers: int, width: int) -> tuple[list[int], list[int]] | None:
    """As _apart, for samplers that each share the GPUs of `width` neighbouring learner ranks."""
    largest_first = sorted(range(len(gpus_N)), key=lambda n: -gpus_N[n])
    smallest = [node for node in reversed(largest_first) if gpus_N[node] >= samplers * width][:1]
    homes = _fill(list(gpus_N), samplers, width, smallest or largest_first)
    return None if homes is None else ([node for node in homes for _ in range(width)], homes)


def _fill(free: list[int], units: int, width: int, nodes: Iterable[int]) -> list[int] | None:
    """The node of each unit of `width` GPUs, one node after the other; None when they do not fit.

    Takes the GPUs out of `free` (free GPUs of each node). free [4, 8], 3 units of 3, nodes [0, 1] -> [0, 1, 1]
    """
    homes: list[int] = []
    for node in nodes:
        here = min(units - len(homes), free[node] // width)
        free[node] -= here * width
        homes += [node] * here
    return homes if len(homes) == units else None


def _seated(learners: list[int], samplers: list[int], width: int, *, colocated: bool) -> Arrangement:
    """Seats on these nodes: the GPUs of a node one after the other, the learners' first."""
    bundle_of = {node: i for i, node in enumerate(dict.fromkeys([*learners, *samplers]))}
    next_gpu = dict.fromkeys(bundle_of, 0)

    def seat(node: int, gpus: int) -> Seat:
        first = next_gpu[node]
        next_gpu[node] += gpus
        return Seat(bundle_of[node], tuple(range(first, first + gpus)))

    for_learners = tuple(seat(node, 1) for node in learners)
    if not colocated:
        return Arrangement(for_learners, tuple(seat(node, width) for node in samplers))
    shared = [for_learners[i * width : (i + 1) * width] for i in range(len(samplers))]
    return Arrangement(for_learners, tuple(Seat(of[0].bundle, tuple(s.gpus[0] for s in of)) for of in shared))


def _too_few(cfg: RunConfig, gpus_N: Sequence[int], *, colocated: bool) -> str:
    ranks, samplers, width = cfg.learner.ranks, cfg.sampler.count, cfg.sampler.tensor_parallel
    need, have = gpus_needed(cfg, colocated=colocated), sum(gpus_N)
    nodes = f" (nodes with {', '.join(map(str, gpus_N))})" if len(gpus_N) > 1 else ""
    said = f"the cluster has {_count(have, 'GPU')}{nodes}"
    if width > max(gpus_N):
        return f"{said}, but sampler.tensor_parallel={width} needs {width} on one node; lower it"
    workers = f"{_count(ranks, 'learner rank')} and {_count(samplers, 'sampler')}"
    workers += f" of {width} GPUs" if width > 1 else ""
    if need <= have:
        return f"{said}, and {workers} need {need}, but no nodes have room for a sampler's GPUs together; lower either"
    lower = "lower learner.ranks and sampler.count together" if colocated else "lower learner.ranks or sampler.count"
    shared = gpus_needed(cfg, colocated=True)
    if not colocated and shared <= have and ranks == samplers * width:
        lower += f", or let them share GPUs and take turns: cluster.colocated=true needs {shared}"
    return f"{said}, but {workers} need {need}; {lower}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
