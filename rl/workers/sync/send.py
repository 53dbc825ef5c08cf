"""The learner's end of a weight sync: it gathers the policy layer by layer and sends it to the samplers in one of these
ways:

    bucket  tensors packed into buckets, through Ray's object store, on one machine or between nodes
    nccl    vLLM's trainer engine: packed broadcast between GPUs
    ipc     vLLM's trainer engine: CUDA handles between processes that share a GPU

vLLM is imported only for nccl and ipc: its import takes longer than all else that a learner starts with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rl.types import SyncReport
from rl.workers.sync.buckets import PolicySource, SyncClient, pack_buckets

if TYPE_CHECKING:
    from rl.workers.sync.vllm_transfer import TrainerEngine


class WeightSender:
    """Sends a policy to the samplers behind a client. `point` says which policy, `send` sends it."""

    def __init__(
        self, kind: str, *, rank: int, client: SyncClient, address: str, port: int, num_sampler_ranks: int,
        bucket_bytes: int,
    ) -> None:  # fmt: skip
        self.kind, self.rank, self.client, self.bucket_bytes = kind, rank, client, bucket_bytes
        self.address, self.port, self.num_sampler_ranks = address, port, num_sampler_ranks
        self.source: PolicySource | None = None
        self.engine: TrainerEngine | None = None

    def point(
        self,
        shapes: list[tuple[str, tuple[int, ...]]],
        iterate: Callable[[], Iterator[tuple[str, Tensor]]],
        dtype: torch.dtype,
        *,
        tied: dict[str, str],
    ) -> None:
        """Send from this policy from now on. The first call opens the connection."""
        first, self.source = self.source is None, PolicySource(shapes, iterate, dtype, tied)
        if self.kind == "bucket":
            if first and self.rank == 0:
                self.client.init_weight_transfer_engine({})
            return
        from rl.workers.sync.vllm_transfer import TrainerEngine

        if self.engine is None:
            self.engine = TrainerEngine(
                self.kind, self.source, self.client, rank=self.rank, address=self.address, port=self.port,
                num_sampler_ranks=self.num_sampler_ranks, bucket_bytes=self.bucket_bytes,
            )  # fmt: skip
        self.engine.point(self.source)

    def send(self, version: int) -> SyncReport:
        """Send the weights as this version. Call it on every rank, as under ZeRO-3 the ranks gather weights together.

        Only rank 0 talks to the samplers, and only its report's checksum is compared with theirs.
        """
        assert self.source is not None
        start = time.perf_counter()
        buckets = self._send_buckets(self.source, version) if self.engine is None else self.engine.send()
        tally, seconds = self.source.tally, time.perf_counter() - start
        return SyncReport(version, tally.checksum, tally.num_tensors, buckets, tally.num_bytes, seconds)

    def _send_buckets(self, source: PolicySource, version: int) -> int:
        if self.rank != 0:
            for _ in source:  # takes part in gathering
                pass
            return 0
        self.client.start_weight_update()
        count = 0
        for bucket in pack_buckets(source, self.bucket_bytes):
            self.client.update_weights(bucket | {"version": version})
            count += 1
        self.client.finish_weight_update(str(version))
        return count
