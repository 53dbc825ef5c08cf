"""The learner's end of a weight sync: it gathers the policy layer by layer and sends it to the samplers in one of these
ways:

    bucket  tensors packed into buckets, through Ray's object store, on one machine or between nodes
    nccl    vLLM's trainer engine: packed broadcast between GPUs
    ipc     vLLM's trainer engine: CUDA handles between processes that share a GPU

vLLM is imported only for nccl and ipc: its import takes longer than all else that a learner starts with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rl.types import SyncReport
from rl.workers.sync.buckets import PolicySource, SamplerConnection, pack_buckets

if TYPE_CHECKING:
    from rl.workers.sync.vllm_transfer import TrainerEngine


class WeightSender:
    """Sends the policy to the samplers. Opens the connection when it is made, on every rank."""

    def __init__(self, connection: SamplerConnection, rank: int, source: PolicySource) -> None:
        self.connection, self.rank = connection, rank
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

    def send(self, source: PolicySource, version: int) -> SyncReport:
        """Send the weights as this version. Call it on every rank, as under ZeRO-3 the ranks gather weights together.

        Only rank 0 talks to the samplers, and only its report's checksum is compared with theirs.
        """
        start = time.perf_counter()
        buckets = 0  # vLLM's engines have none of ours
        if self.engine is not None:
            self.engine.send(source)
        elif self.rank == 0:
            buckets = self._send_buckets(source, version)
        else:
            for _ in source:  # takes part in gathering
                pass
        tally, seconds = source.tally, time.perf_counter() - start
        return SyncReport(version, tally.checksum, tally.num_tensors, buckets, tally.num_bytes, seconds)

    def _send_buckets(self, source: PolicySource, version: int) -> int:
        client = self.connection.client
        client.start_weight_update()
        count = 0
        for bucket in pack_buckets(source, self.connection.bucket_bytes):
            client.update_weights(bucket | {"version": version})
            count += 1
        client.finish_weight_update(str(version))
        return count
