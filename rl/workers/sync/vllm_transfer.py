"""Weight sync through vLLM's weight-transfer interface: the engines inside the sampler, and vLLM's trainer engines.

send.py lists the three ways, and buckets.py says what a bucket is. The sampler's engines add up a checksum of every
tensor that they load. RayBackend compares it with the learner's before anything is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
)

from rl.settings.precision import torch_dtype
from rl.types import AhaError
from rl.workers.sync.buckets import PolicySource, SamplerConnection, Tally

# ------------------------------------------------------------------------------------------------ trainer half


class _Source(WeightSource):
    """A PolicySource in the form that vLLM's trainer engines read."""

    def __init__(self, policy: PolicySource) -> None:
        self.policy = policy

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, self.policy.dtype, shape) for name, shape in self.policy.names_and_shapes()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.policy)


@contextmanager
def same_stream() -> Iterator[None]:
    """Set the thread's CUDA stream back to what it was before the block.

    vLLM replaces the default stream by one of its own the first time it is asked for the current one. The learner's
    other work is ordered by the stream that it has used so far.
    """
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.current_stream()
    try:
        yield
    finally:
        after = torch.cuda.current_stream()
        if after != before:
            before.wait_stream(after)
            torch.cuda.set_stream(before)


class TrainerEngine:
    """vLLM's trainer engine for nccl or ipc. Made on every rank; rank 0 talks to the client."""

    def __init__(self, connection: SamplerConnection, rank: int, source: PolicySource) -> None:
        with same_stream():
            self.engine = WeightTransferTrainerFactory.trainer_init(
                trainer_info(connection, rank, source), client=connection.client, source=_Source(source)
            )

    def send(self, source: PolicySource) -> None:
        self.engine.source = _Source(source)
        with same_stream():
            self.engine.send_weights()

    def close(self) -> None:
        self.engine.shutdown()


def trainer_info(connection: SamplerConnection, rank: int, source: PolicySource) -> TrainerInitInfo:
    """What vLLM's trainer engine starts with."""
    if connection.kind == "nccl":
        return NCCLTrainerInitInfo(
            rank=rank, master_address=connection.address, master_port=connection.port,
            world_size=1 + connection.sampler_ranks, packed_buffer_size_bytes=connection.bucket_bytes,
        )  # fmt: skip
    # Here a tensor must fit into the buffer; the other ways give a larger one a buffer of its own.
    buffer_bytes = max(connection.bucket_bytes, source.largest_bytes)
    return IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=buffer_bytes)


# ------------------------------------------------------------------------------------------------ sampler half


@dataclass
class BucketInitInfo(WeightTransferInitInfo):
    """Empty, because each bucket describes itself."""


@dataclass
class BucketUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: each tensor's name, dtype, shape and checksum, the bytes of all, and the version of the weights."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    checksums: list[int]
    version: int
    data: np.ndarray = field(repr=False)


def unpack(bucket: BucketUpdateInfo, tally: Tally) -> list[tuple[str, Tensor]]:
    """A bucket's tensors, added to the tally. Raises AhaError for one that is not what the learner sent."""
    data = torch.from_numpy(bucket.data if bucket.data.flags.writeable else bucket.data.copy())
    tensors, at = [], 0
    columns = zip(bucket.names, bucket.dtype_names, bucket.shapes, bucket.checksums, strict=True)
    for name, dtype_name, shape, checksum in columns:
        dtype = torch_dtype(dtype_name)
        end = at + int(np.prod(shape)) * dtype.itemsize
        tensor = data[at:end].view(dtype).view(shape)
        if tally.add(name, tensor) != checksum:
            raise AhaError(f"weight sync: {name} of version {bucket.version} arrived damaged; nothing was sampled")
        tensors.append((name, tensor))
        at = end
    return tensors


class BucketEngine(WeightTransferEngine[BucketInitInfo, BucketUpdateInfo]):
    """Loads buckets into a vLLM worker's model.

    It does so inside vLLM's layerwise reload. A plain load would fail, because a CPU's layers repack their weights once
    they are loaded.
    """

    init_info_cls = BucketInitInfo
    update_info_cls = BucketUpdateInfo
    tally = Tally()

    def init_transfer_engine(self, init_info: BucketInitInfo) -> None:
        """Nothing to do. The last update's tally stays, since `aha doctor` reads it after learners connect again."""

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.tally = Tally()
        if self.device.type == "cpu":
            forget_expert_kernels(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        # The base class synchronises an accelerator, which a CPU does not have.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: BucketUpdateInfo) -> None:
        tensors = unpack(update_info, self.tally)
        self.model.load_weights((name, tensor.to(self.device)) for name, tensor in tensors)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to do, as nothing is held between updates."""


def forget_expert_kernels(model: nn.Module) -> None:
    """Let a mixture's experts be packed again when new weights are in.

    vLLM up to 0.32 packs them for its CPU kernel only where there is no kernel yet. An update would copy plain weights
    into packed storage of the same size, and the sampler would compute with scrambled experts. On a GPU the kernel is
    part of captured graphs and packs nothing: leave it alone there.
    """
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    for module in model.modules():
        if isinstance(module, RoutedExperts) and isinstance(module.quant_method, UnquantizedFusedMoEMethod):
            module.quant_method.moe_kernel = None


class _CountingModel:
    """Stands in for the model while one of vLLM's own engines loads into it, and adds each tensor to the tally."""

    def __init__(self, model, tally: Tally) -> None:  # type: ignore[no-untyped-def]
        self.load, self.tally = model.load_weights, tally

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> object:
        def counted() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                self.tally.add(name, tensor)
                yield name, tensor

        return self.load(counted())


class _Counting:
    """Put before one of vLLM's own engines, it adds up what each update loads."""

    tally = Tally()
    model: Any

    def start_weight_update(self) -> None:
        self.tally = Tally()
        super().start_weight_update()  # type: ignore[misc]

    def receive_weights(self, update_info) -> None:  # type: ignore[no-untyped-def]
        model = self.model
        self.model = _CountingModel(model, self.tally)
        try:
            super().receive_weights(update_info)  # type: ignore[misc]
        finally:
            self.model = model


class CountingNCCLEngine(_Counting, NCCLWeightTransferEngine):
    """vLLM's nccl engine with a tally."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        self.shutdown()  # of the stage before: vLLM would leave its communicator open
        super().init_transfer_engine(init_info)


class CountingIPCEngine(_Counting, IPCWeightTransferEngine):
    """vLLM's ipc engine with a tally."""


ENGINES = {"bucket": BucketEngine, "nccl": CountingNCCLEngine, "ipc": CountingIPCEngine}


def sampler_backend(kind: str) -> str:
    """The name under which vLLM knows our engine for this kind of transfer, in a process that has registered them."""
    return f"aha_{kind}"


def register_engines() -> None:
    """Let vLLM know our engines in this process, if it does not yet."""
    for kind, engine in ENGINES.items():
        if sampler_backend(kind) not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(sampler_backend(kind), engine)


def read_tally(worker) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """(checksum, number of tensors) of the last update. Runs inside a vLLM worker."""
    tally = worker.weight_transfer_engine.tally
    return tally.checksum, tally.num_tensors
