"""The CPUs and GPUs that Ray keeps for a run's workers, and the actors that are started on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl.config import RunConfig
from rl.workers.cluster.arrangement import arrange
from rl.workers.cluster.placement import Bundle, bundles_of, refuse_too_small
from rl.workers.cluster.ray_calls import QUIET, collect, node_of_bundles, offline

log = logging.getLogger("aha.cluster")


class Reservation:
    """Holds the resources of all workers together. Raises BadInput when the cluster is too small.

    gpus_N: of each node with GPUs; empty for CPUs. models: what reward models need beside the workers. nodes: of each
    bundle. places: the node of each worker, learners first. gpu_ids: of each bundle.
    """

    def __init__(
        self, cfg: RunConfig, gpus_N: Sequence[int], models: Sequence[Bundle], bound: float, *, colocated: bool
    ) -> None:
        self.cpus = cfg.cluster.cpus_per_worker
        self.arranged = arrange(cfg, gpus_N, colocated=colocated)
        self.bundles = bundles_of(cfg, self.arranged)
        refuse_too_small(cfg, self.bundles, models)
        self.group = placement_group(self.bundles, strategy="PACK")
        collect([self.group.ready()], ["the placement group"], bound, "get its resources")
        self.find_places()
        self.gpu_ids = _gpu_ids(self.group, self.bundles, bound)
        if gpus_N:
            log.info("; ".join(self._in_words()))

    def find_places(self) -> None:
        """Ask Ray again: when a node dies, it puts that node's bundles on others."""
        self.nodes = node_of_bundles(self.group)
        self.places = [self.nodes[seat.bundle] for seat in self.arranged.seats]

    def actor(self, cls: type, index: int, threads: int, env: Mapping[str, str]) -> ray.actor.ActorClass:
        """The class as a Ray actor in the place of the worker with this index, learners first.

        Its GPUs are in its environment and not in Ray's books: see _gpu_ids.
        """
        seat = self.arranged.seats[index]
        gpus = ",".join(self.gpu_ids[seat.bundle][gpu] for gpu in seat.gpus)
        env = {**env, "CUDA_VISIBLE_DEVICES": gpus} if gpus else dict(env)
        return ray.remote(cls).options(
            num_cpus=self.cpus,
            num_gpus=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=seat.bundle),
            runtime_env={"env_vars": QUIET | offline() | {"OMP_NUM_THREADS": str(threads)} | env},
        )

    def _in_words(self) -> list[str]:
        """One phrase for each worker: "learner rank 0 on GPU 3 of node 10.0.0.1"."""
        words = []
        for kind, seats in (("learner rank", self.arranged.learners), ("sampler", self.arranged.samplers)):
            for i, seat in enumerate(seats):
                gpus = ", ".join(self.gpu_ids[seat.bundle][gpu] for gpu in seat.gpus)
                words.append(f"{kind} {i} on GPU {gpus} of node {self.nodes[seat.bundle]}")
        return words

    def release(self) -> None:
        remove_placement_group(self.group)


def _gpu_ids(group: PlacementGroup, bundles: Sequence[Bundle], bound: float) -> list[list[str]]:
    """Which GPUs Ray reserved for each bundle, under the names that CUDA_VISIBLE_DEVICES takes.

    Asked of Ray by a task that takes the whole bundle for a moment, since the workers themselves ask Ray for no GPU:
    Ray cannot give the same GPU to two workers when one of them has several.
    """
    asked = [i for i, bundle in enumerate(bundles) if bundle.get("GPU")]
    ask = ray.remote(_visible_gpus)
    refs = [
        ask.options(
            num_cpus=0,
            num_gpus=bundles[i]["GPU"],
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            runtime_env={"env_vars": QUIET},
        ).remote()
        for i in asked
    ]
    found = dict(zip(asked, collect(refs, [f"bundle {i}" for i in asked], bound, "say which GPUs it has"), strict=True))
    return [found.get(i, []) for i in range(len(bundles))]


def _visible_gpus() -> list[str]:
    ids = [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids()["GPU"]]
    return sorted(ids, key=lambda gpu: (len(gpu), gpu))  # "10" after "9"
