"""What runs inside the learners' and samplers' Ray actors, and the learner's way to the samplers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from rl.config import RunConfig
from rl.workers.cluster.hardware import held_by_worker, held_here, together
from rl.workers.cluster.ray_calls import collect, free_port, use_interface_of
from rl.workers.sampler.sampler import Sampler

T = TypeVar("T")


class LearnerHost:
    """One learner rank in a Ray actor."""

    def __init__(self, cfg: RunConfig, rank: int, device: str, threads: int) -> None:
        use_interface_of(ray.util.get_node_ip_address())
        # Imported here because the driver loads this file too, and DeepSpeed takes it seconds to import.
        from rl.workers.learner.learner import Learner

        self.learner = Learner(cfg, rank, device, threads)

    def endpoint(self) -> tuple[str, int, int]:
        """This node's address and two free ports: for the learners' process group and for the weight transfer."""
        return ray.util.get_node_ip_address(), free_port(), free_port()

    def call(self, work: Callable[..., T], *args: object) -> T:
        """work(learner, *args), run in this process."""
        return work(self.learner, *args)

    def memory(self) -> tuple[int, int]:
        """(resident bytes of this process, bytes in use on its device)."""
        return together([held_here()])


class SamplerHost(Sampler):
    """One sampler in a Ray actor."""

    def __init__(self, *args: Any) -> None:
        address = ray.util.get_node_ip_address()
        use_interface_of(address)
        os.environ.setdefault("VLLM_HOST_IP", address)
        super().__init__(*args)

    def memory(self) -> tuple[int, int]:
        """(resident bytes of the engine's processes, bytes in use on its fullest device)."""
        return together([held_here(), *self.llm.collective_rpc(held_by_worker)])


class RaySyncClient:
    """Calls the samplers from inside a learner during a weight sync. Implements rl.workers.sync.buckets.SyncClient.

    gpus_each: of one sampler. under_way: how many calls of update_weights may be unanswered when another is asked for.
    pass_over_dead: go on with the other samplers when one has died. RayBackend notices the death when the sync has
    ended. If the learner stopped in the middle of a sync instead, the other ranks would wait for it in a collective.
    """

    def __init__(
        self,
        handles: list[ray.actor.ActorHandle],
        names: list[str],
        timeout_s: float,
        *,
        pass_over_dead: bool,
        gpus_each: int = 1,
        under_way: int = 2,
    ) -> None:
        self.handles, self.names, self.timeout_s, self.pass_over_dead = handles, names, timeout_s, pass_over_dead
        self.gpus_each, self.under_way = gpus_each, under_way
        self.pending: list[list[ray.ObjectRef]] = []

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        self._wait([h.init_weight_transfer_engine.remote(self._for(i, init_info)) for i, h in enumerate(self.handles)])

    def _for(self, i: int, init_info: dict[str, object]) -> dict[str, object]:
        """What sampler i starts with. With nccl each GPU has a rank, and vLLM's offset is that of the first sampler."""
        offset = init_info.get("rank_offset")
        return init_info | ({"rank_offset": offset + i * self.gpus_each} if isinstance(offset, int) else {})

    def start_weight_update(self) -> None:
        self.pending = []
        self._wait([h.start_weight_update.remote() for h in self.handles])

    def update_weights(self, update_info: object) -> None:
        """Send one bucket. With two under way the learner packs the next while the samplers load."""
        shared = ray.put(update_info)
        self.pending.append([h.update_weights.remote(shared) for h in self.handles])
        while len(self.pending) > self.under_way:
            self._wait(self.pending.pop(0))

    def load_adapter(self, buckets: list[dict[str, object]], scale: float, *, alone: bool) -> None:
        shared = ray.put(buckets)
        self._wait([h.load_adapter.remote(shared, scale, alone) for h in self.handles])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        while self.pending:
            self._wait(self.pending.pop(0))
        self._wait([h.finish_weight_update.remote(str(weight_version)) for h in self.handles])

    def _wait(self, refs: list[ray.ObjectRef]) -> None:
        collect(refs, self.names, self.timeout_s, "take a bucket of weights", keep_gone=self.pass_over_dead)
