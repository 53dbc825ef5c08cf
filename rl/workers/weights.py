"""Both halves of weight sync, side by side, on vLLM's weight-transfer interface.

The trainer half gathers the policy layer group by layer group and sends it; the sampler half loads it inside vLLM's
layerwise reload (CPU layers repack their weights after loading, so a plain load would fail). Three ways:

    bucket  ours: tensors packed into buckets, carried by Ray's object store, on one machine or between nodes
    nccl    vLLM's: packed broadcast between GPUs
    ipc     vLLM's: CUDA handles between processes on one GPU

Both halves add up a checksum of every tensor. The loop compares them, and the versions, before it samples.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLWeightTransferEngine

from rl.types import AhaError, SyncReport

SyncClient: TypeAlias = VLLMWeightSyncClient
WIRE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


# ------------------------------------------------------------------------------------------------ checksums


def tensor_checksum(tensor: Tensor) -> int:
    """A checksum of the tensor's bytes: crc32 on a CPU, two position-weighted integer sums on a GPU."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.device.type == "cpu":
        return zlib.crc32(flat.view(torch.uint8).numpy().data)
    words = flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for i, part in enumerate(words.split(1 << 22)):
        wide = part.to(torch.int64)
        place = torch.arange(1, len(wide) + 1, device=flat.device, dtype=torch.int64) + i
        total += wide.sum() + (wide * place).sum()
    return int(total) & 0xFFFFFFFF


@dataclass
class Tally:
    """Sum of the checksums of named tensors. The order does not matter; names and bytes do."""

    checksum: int = 0
    num_tensors: int = 0
    num_bytes: int = 0

    def add(self, name: str, tensor: Tensor, checksum: int | None = None) -> int:
        crc = tensor_checksum(tensor) if checksum is None else checksum
        self.checksum = (self.checksum + crc * (2 * zlib.crc32(name.encode()) + 1)) & ((1 << 64) - 1)
        self.num_tensors += 1
        self.num_bytes += tensor.numel() * tensor.element_size()
        return crc


# ------------------------------------------------------------------------------------------------ trainer half


class PolicySource(WeightSource):
    """The policy's weights in the wire's dtype, a tied head repeated under its own name."""

    def __init__(
        self,
        shapes: list[tuple[str, tuple[int, ...]]],
        iterate: Callable[[], Iterator[tuple[str, Tensor]]],
        dtype: torch.dtype,
        tied: dict[str, str],
    ) -> None:
        self.shapes, self.iterate, self.dtype, self.tied = shapes, iterate, dtype, tied
        self.tally = Tally()

    def metadata(self) -> list[ParamMeta]:
        metas = []
        for name, shape in self.shapes:
            metas += [ParamMeta(n, self.dtype, shape) for n in (name, *self._copies(name))]
        return metas

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.tally = Tally()
        for name, tensor in self.iterate():
            wire = tensor.detach().to(self.dtype)
            crc = self.tally.add(name, wire)
            yield name, wire
            for copy in self._copies(name):
                self.tally.add(copy, wire, crc)
                yield copy, wire

    def _copies(self, name: str) -> list[str]:
        return [self.tied[name]] if name in self.tied else []


@dataclass
class BucketTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "bucket"
    bucket_bytes: int = 64 << 20


class BucketTrainerEngine(TrainerWeightTransferEngine[BucketTrainerInitInfo]):
    """Packs the source into buckets and hands each to the client."""

    init_info_cls = BucketTrainerInitInfo

    def __init__(self, *, client: SyncClient, source: WeightSource, is_sender: bool, bucket_bytes: int) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self.bucket_bytes = bucket_bytes
        self.version = 0
        self.num_buckets = 0

    @classmethod
    def trainer_init(
        cls, init_info: BucketTrainerInitInfo, *, client: SyncClient, source: WeightSource | None = None
    ) -> BucketTrainerEngine:
        assert source is not None
        if init_info.is_sender:
            client.init_weight_transfer_engine({})
        return cls(client=client, source=source, is_sender=init_info.is_sender, bucket_bytes=init_info.bucket_bytes)

    def send_weights(self) -> None:
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:  # under ZeRO-3 each gather is a collective
                pass
            return
        self.client.start_weight_update()
        self.num_buckets = 0
        for bucket in pack_buckets(self.source, self.bucket_bytes):
            self.client.update_weights(bucket | {"version": self.version})
            self.num_buckets += 1
        self.client.finish_weight_update(str(self.version))


def pack_buckets(pairs: Iterable[tuple[str, Tensor]], bucket_bytes: int) -> Iterator[dict[str, object]]:
    """Tensors laid end to end, at most bucket_bytes a bucket (a larger tensor has one of its own)."""
    members: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in pairs:
        num_bytes = tensor.numel() * tensor.element_size()
        if members and size + num_bytes > bucket_bytes:
            yield _bucket(members, size)
            members, size = [], 0
        # The source's tensor is valid only until the next one: copy what is kept.
        members.append((name, tensor.detach().to("cpu", copy=True)))
        size += num_bytes
    if members:
        yield _bucket(members, size)


def _bucket(members: list[tuple[str, Tensor]], size: int) -> dict[str, object]:
    data = np.empty(size, dtype=np.uint8)
    at = 0
    for _, tensor in members:
        flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        data[at : at + len(flat)] = flat
        at += len(flat)
    return {
        "names": [name for name, _ in members],
        "dtype_names": [str(t.dtype).removeprefix("torch.") for _, t in members],
        "shapes": [list(t.shape) for _, t in members],
        "checksums": [tensor_checksum(t) for _, t in members],
        "data": data,
    }


class WeightSender:
    """The learner's end: one vLLM trainer engine, pointed at the current policy."""

    def __init__(
        self, kind: str, *, rank: int, client: SyncClient, address: str, port: int, num_sampler_ranks: int,
        bucket_bytes: int,
    ) -> None:  # fmt: skip
        self.kind, self.rank, self.client, self.bucket_bytes = kind, rank, client, bucket_bytes
        self.address, self.port, self.num_sampler_ranks = address, port, num_sampler_ranks
        self.engine: TrainerWeightTransferEngine | None = None
        self.source: PolicySource | None = None

    def point(
        self,
        shapes: list[tuple[str, tuple[int, ...]]],
        iterate: Callable[[], Iterator[tuple[str, Tensor]]],
        dtype: torch.dtype,
        *,
        tied: dict[str, str],
    ) -> None:
        """Send from this policy from now on. The first call opens the connection."""
        self.source = PolicySource(shapes, iterate, dtype, tied)
        if self.engine is None:
            self.engine = WeightTransferTrainerFactory.trainer_init(
                self._init_info(), client=self.client, source=self.source
            )
        self.engine.source = self.source

    def _init_info(self) -> TrainerInitInfo:
        if self.kind == "nccl":
            return NCCLTrainerInitInfo(
                rank=self.rank, master_address=self.address, master_port=self.port,
                world_size=1 + self.num_sampler_ranks, packed_buffer_size_bytes=self.bucket_bytes,
            )  # fmt: skip
        if self.kind == "ipc":
            return IPCTrainerInitInfo(rank=self.rank, packed=True, packed_buffer_size_bytes=self.bucket_bytes)
        return BucketTrainerInitInfo(rank=self.rank, bucket_bytes=self.bucket_bytes)

    def send(self, version: int) -> SyncReport:
        """Push the weights as this version. The report's checksum is rank 0's."""
        assert self.engine is not None
        assert self.source is not None
        start = time.perf_counter()
        if isinstance(self.engine, BucketTrainerEngine):
            self.engine.version = version
        self.engine.send_weights()
        tally = self.source.tally
        buckets = self.engine.num_buckets if isinstance(self.engine, BucketTrainerEngine) else 0
        seconds = time.perf_counter() - start
        return SyncReport(version, tally.checksum, tally.num_tensors, buckets, tally.num_bytes, seconds)


# ------------------------------------------------------------------------------------------------ sampler half


@dataclass
class BucketInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: each bucket describes itself."""


@dataclass
class BucketUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: what is in it, a checksum of each tensor, the bytes, and the version they belong to."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    checksums: list[int]
    version: int
    data: np.ndarray = field(repr=False)


class BucketEngine(WeightTransferEngine[BucketInitInfo, BucketUpdateInfo]):
    """Loads buckets into a vLLM worker's model."""

    init_info_cls = BucketInitInfo
    update_info_cls = BucketUpdateInfo
    tally = Tally()

    def init_transfer_engine(self, init_info: BucketInitInfo) -> None:
        self.tally = Tally()

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.tally = Tally()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        # The base class synchronises an accelerator, which a CPU does not have.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: BucketUpdateInfo) -> None:
        self.model.load_weights(self._unpack(update_info))

    def _unpack(self, bucket: BucketUpdateInfo) -> list[tuple[str, Tensor]]:
        data = torch.from_numpy(bucket.data if bucket.data.flags.writeable else bucket.data.copy())
        tensors, at = [], 0
        columns = zip(bucket.names, bucket.dtype_names, bucket.shapes, bucket.checksums, strict=True)
        for name, dtype_name, shape, checksum in columns:
            dtype = WIRE_DTYPES[dtype_name]
            end = at + int(np.prod(shape)) * dtype.itemsize
            tensor = data[at:end].view(dtype).view(shape)
            if self.tally.add(name, tensor) != checksum:
                raise AhaError(f"weight sync: {name} of version {bucket.version} arrived damaged; nothing was sampled")
            tensors.append((name, tensor.to(self.device)))
            at = end
        return tensors

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class _Tap:
    """Stands in for the model while vLLM's own engines load into it, and counts what passes."""

    def __init__(self, model, tally: Tally) -> None:  # type: ignore[no-untyped-def]
        self.load, self.tally = model.load_weights, tally

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> object:
        def counted() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                self.tally.add(name, tensor)
                yield name, tensor

        return self.load(counted())


@contextmanager
def tapped(engine) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Count what the engine loads into its model inside the block."""
    model = engine.model
    engine.model = _Tap(model, engine.tally)
    try:
        yield
    finally:
        engine.model = model


class CheckedNCCLEngine(NCCLWeightTransferEngine):
    """vLLM's nccl engine with a tally."""

    tally = Tally()

    def start_weight_update(self) -> None:
        self.tally = Tally()
        super().start_weight_update()

    def receive_weights(self, update_info) -> None:  # type: ignore[no-untyped-def]
        with tapped(self):
            super().receive_weights(update_info)


class CheckedIPCEngine(IPCWeightTransferEngine):
    """vLLM's ipc engine with a tally."""

    tally = Tally()

    def start_weight_update(self) -> None:
        self.tally = Tally()
        super().start_weight_update()

    def receive_weights(self, update_info) -> None:  # type: ignore[no-untyped-def]
        with tapped(self):
            super().receive_weights(update_info)


ENGINES = {"bucket": BucketEngine, "nccl": CheckedNCCLEngine, "ipc": CheckedIPCEngine}


def sampler_backend(kind: str) -> str:
    """The name under which vLLM knows our sampler half of this way; registers it on first use."""
    name = f"aha_{kind}"
    if name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(name, ENGINES[kind])
    return name


def read_tally(worker) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """Runs inside a vLLM worker: (checksum, tensors) of the last update."""
    tally = worker.weight_transfer_engine.tally
    return tally.checksum, tally.num_tensors


if "bucket" not in WeightTransferTrainerFactory._registry:
    WeightTransferTrainerFactory.register_engine("bucket", BucketTrainerEngine)
