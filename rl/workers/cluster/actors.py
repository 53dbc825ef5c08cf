"""What runs inside the learners' Ray actors: a rank, and its way to the samplers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import ray

from rl.backend import Task
from rl.config import RunConfig
from rl.types import MicroBatch, StepStats, SyncReport
from rl.workers.cluster.hardware import held_by_worker, held_here, together
from rl.workers.cluster.ray_calls import collect, free_port, use_interface_of
from rl.workers.sampler.sampler import Sampler


class LearnerHost:
    """A learner rank in a Ray actor. The engine is imported here, so that the driver never loads it."""

    def __init__(self, cfg: RunConfig, rank: int, device: str, threads: int) -> None:
        from rl.workers.learner.learner import Learner

        self.learner = Learner(cfg, rank, device, threads)

    def endpoint(self) -> tuple[str, int, int]:
        """This node's address and two free ports."""
        return ray.util.get_node_ip_address(), free_port(), free_port()

    def connect(self, address: str, port: int) -> None:
        use_interface_of(ray.util.get_node_ip_address())
        self.learner.connect(address, port)

    def load(self, task: Task) -> str:
        return self.learner.load(task)

    def connect_samplers(self, client: RaySyncClient, kind: str, address: str, port: int, sampler_ranks: int) -> None:
        self.learner.connect_samplers(client, kind, address, port, sampler_ranks)

    def send_weights(self, version: int) -> SyncReport:
        return self.learner.send_weights(version)

    def step(self, updates_U: list[list[MicroBatch]]) -> StepStats:
        return self.learner.step(updates_U)

    def measure_gap(self, micro_batches: list[MicroBatch]) -> tuple[float, float]:
        return self.learner.measure_gap(micro_batches)

    def mean_nll(self, micro_batches: list[MicroBatch]) -> float:
        return self.learner.mean_nll(micro_batches)

    def scores(self, micro_batches: list[MicroBatch]) -> list[np.ndarray]:
        return self.learner.scores(micro_batches)

    def save(self, folder: str) -> None:
        self.learner.save(folder)

    def restore(self, folder: str) -> None:
        self.learner.restore(folder)

    def export(self, folder: str) -> None:
        self.learner.export(folder)

    def weights_hash(self) -> str:
        return self.learner.weights_hash()

    def parameter_sums(self) -> dict[str, float]:
        return self.learner.parameter_sums()

    def memory(self) -> tuple[int, int]:
        """Resident bytes, and those in use on the device."""
        return together([held_here()])


class SamplerHost(Sampler):
    """A sampler in a Ray actor, which talks to others from its node's address."""

    def __init__(self, *args: Any) -> None:
        address = ray.util.get_node_ip_address()
        use_interface_of(address)
        os.environ.setdefault("VLLM_HOST_IP", address)
        super().__init__(*args)

    def memory(self) -> tuple[int, int]:
        """Resident bytes of the engine's processes, and those in use on its fullest device."""
        return together([held_here(), *self.llm.collective_rpc(held_by_worker)])


class RaySyncClient:
    """Drives the samplers' half of a weight sync from inside the learner. Buckets overlap: two may be under way."""

    def __init__(self, handles: list[ray.actor.ActorHandle], names: list[str], timeout_s: float) -> None:
        self.handles, self.names, self.timeout_s = handles, names, timeout_s
        self.pending: list[list[ray.ObjectRef]] = []

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        self._wait([h.init_weight_transfer_engine.remote(init_info) for h in self.handles])

    def start_weight_update(self) -> None:
        self.pending = []
        self._wait([h.start_weight_update.remote() for h in self.handles])

    def update_weights(self, update_info: object) -> None:
        shared = ray.put(update_info)
        self.pending.append([h.update_weights.remote(shared) for h in self.handles])
        while len(self.pending) > 2:
            self._wait(self.pending.pop(0))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        while self.pending:
            self._wait(self.pending.pop(0))
        self._wait([h.finish_weight_update.remote(str(weight_version)) for h in self.handles])

    def _wait(self, refs: list[ray.ObjectRef]) -> None:
        collect(refs, self.names, self.timeout_s, "take a bucket of weights")
