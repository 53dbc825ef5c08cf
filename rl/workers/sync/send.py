"""The learner's end of a weight sync: it gathers the policy layer by layer and sends it to the samplers in one of these
ways:

    bucket  tensors packed into buckets, through Ray's object store, on one machine or between nodes
    nccl    vLLM's trainer engine: packed broadcast between GPUs
    ipc     vLLM's trainer engine: CUDA handles between processes that share a GPU

A LoRA adapter goes in buckets through Ray whatever the way, after the base, which is sent once for each connection.

vLLM is imported only for nccl and ipc: its import takes longer than all else that a learner starts with.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rl.types import SyncReport
from rl.workers.sync.buckets import MASK, AdapterSource, PolicySource, SamplerConnection, pack_buckets

if TYPE_CHECKING:
    from rl.workers.sync.vllm_transfer import TrainerEngine


class WeightSender:
    """Sends the policy to the samplers. Opens the connection when it is made, on every rank."""

    def __init__(self, connection: SamplerConnection, rank: int, source: PolicySource) -> None:
        self.connection, self.rank = connection, rank
        self.has_base = False  # whether the samplers have the base under the adapters
        self.engine: TrainerEngine | None = None
        if connection.kind != "bucket":
            from rl.workers.sync.vllm_transfer import TrainerEngine

            self.engine = TrainerEngine(connection, rank, source)
        elif rank == 0:
            connection.client.init_weight_transfer_engine({})

    def close(self) -> None:
        """Let go of the connection, so that another can be opened."""
        if self.engine is not None:
            self.engine.close()

    def send(self, source: PolicySource, version: int, adapter: AdapterSource | None = None) -> SyncReport:
        """Send the weights as this version. Call it on every rank, as under ZeRO-3 the ranks gather weights together.

        With an adapter `source` is the base, which the samplers keep. Only rank 0 talks to the samplers, and only its
        report's checksum is compared with theirs.
        """
        start = time.perf_counter()
        base = SyncReport(version, 0, 0, 0, 0, 0.0)
        if adapter is None or not self.has_base:
            base = self._send_weights(source, version)
        report = base if adapter is None else self._send_adapter(adapter, base)
        self.has_base = True
        return replace(report, seconds=time.perf_counter() - start)

    def _send_adapter(self, adapter: AdapterSource, base: SyncReport) -> SyncReport:
        """Send the adapter after the base, or alone. Returns the report of both."""
        buckets = [b | {"version": base.version} for b in pack_buckets(adapter, self.connection.bucket_bytes)]
        if self.rank == 0:
            self.connection.client.load_adapter(buckets, adapter.scale, alone=self.has_base)
        tally = adapter.tally
        return SyncReport(
            base.version, (base.checksum + tally.checksum) & MASK, base.num_tensors + tally.num_tensors,
            base.num_buckets + len(buckets), base.num_bytes + tally.num_bytes, 0.0,
        )  # fmt: skip

    def _send_weights(self, source: PolicySource, version: int) -> SyncReport:
        buckets = 0  # vLLM's engines have none of ours
        if self.engine is not None:
            self.engine.send(source)
        elif self.rank == 0:
            buckets = self._send_buckets(source, version)
        else:
            for _ in source:  # takes part in gathering
                pass
        tally = source.tally
        return SyncReport(version, tally.checksum, tally.num_tensors, buckets, tally.num_bytes, 0.0)

    def _send_buckets(self, source: PolicySource, version: int) -> int:
        client = self.connection.client
        client.start_weight_update()
        count = 0
        for bucket in pack_buckets(source, self.connection.bucket_bytes):
            client.update_weights(bucket | {"version": version})
            count += 1
        client.finish_weight_update(str(version))
        return count
