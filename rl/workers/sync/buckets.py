"""What a weight sync sends: named tensors in the model's dtype, packed into buckets, each tensor with a checksum.

Both ends (send.py in the learner, vllm_transfer.py in the sampler) also add up the checksums of all tensors. This file
imports neither Ray nor vLLM.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class SyncClient(Protocol):
    """Calls the samplers during a weight sync. The methods are those of vLLM's VLLMWeightSyncClient."""

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: object) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...

    def load_adapter(self, buckets: list[dict[str, object]], scale: float, *, alone: bool) -> None:
        """Ours: buckets of a LoRA adapter. alone: the base was not sent before it in this sync."""


@dataclass(frozen=True)
class SamplerConnection:
    """How a learner reaches the samplers. kind: bucket, nccl or ipc (send.py).

    address, port: where the GPUs of nccl meet. sampler_ranks: all samplers' GPUs. bucket_bytes: the most in one bucket.
    adapters: the samplers run LoRA adapters, so that the base is sent once and after that the adapter alone.
    """

    kind: str
    client: SyncClient
    address: str
    port: int
    sampler_ranks: int
    bucket_bytes: int
    adapters: bool = False


MASK = (1 << 64) - 1
"""Checksums are sums modulo 2^64."""
CHUNK = {"cpu": 1 << 14}
"""Words summed at once, elsewhere 1 << 22; the sum does not depend on it. On a CPU so few that torch uses one thread:
with several, which wait for one another, it took fifty times as long on a busy machine.
"""


def tensor_checksum(tensor: Tensor) -> int:
    """A checksum of the tensor's bytes, the same on every device.

    The bytes are read as 64-bit words, the last one filled up with zeros: the sum of word i times 2i + 1, modulo 2^64.
    """
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:
        data = data.clone()  # words must begin at multiples of eight
    whole = len(data) // 8 * 8
    words = data[:whole].view(torch.int64)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    at = 1
    for part in words.split(CHUNK.get(data.device.type, 1 << 22)):
        total += (part * torch.arange(at, at + 2 * len(part), 2, device=data.device)).sum()
        at += 2 * len(part)
    if whole < len(data):
        last = torch.zeros(8, dtype=torch.uint8, device=data.device)
        last[: len(data) - whole] = data[whole:]
        total += last.view(torch.int64)[0] * at
    return int(total) & MASK


@dataclass
class Tally:
    """The sum of the checksums of named tensors. It depends on names and bytes, not on their order."""

    checksum: int = 0
    num_tensors: int = 0
    num_bytes: int = 0
    by_name: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor, checksum: int | None = None) -> int:
        found = tensor_checksum(tensor) if checksum is None else checksum
        self.checksum = (self.checksum + found * (2 * zlib.crc32(name.encode()) + 1)) & MASK
        self.by_name[name] = found
        self.num_tensors += 1
        self.num_bytes += tensor.numel() * tensor.element_size()
        return found


class PolicySource:
    """The policy's weights in the dtype in which they are sent. Iterate on every rank; it adds up the tally.

    shapes: (Hugging Face name, full shape). iterate: yields (name, full tensor) in that order; a tensor is valid until
    the next one. tied: name -> a second name under which its tensor is sent again (a tied head).
    """

    def __init__(
        self,
        shapes: list[tuple[str, tuple[int, ...]]],
        iterate: Callable[[], Iterator[tuple[str, Tensor]]],
        dtype: torch.dtype,
        tied: dict[str, str],
    ) -> None:
        self.shapes, self.iterate, self.dtype, self.tied = shapes, iterate, dtype, tied
        self.tally = Tally()

    def names_and_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of what iteration will yield, in the same order."""
        return [(n, shape) for name, shape in self.shapes for n in (name, *self._copies(name))]

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest tensor on its way."""
        return max(math.prod(shape) for _, shape in self.shapes) * self.dtype.itemsize

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.tally = Tally()
        for name, tensor in self.iterate():
            wire = tensor.detach().to(self.dtype)
            checksum = self.tally.add(name, wire)
            yield name, wire
            for copy in self._copies(name):
                self.tally.add(copy, wire, checksum)
                yield copy, wire

    def _copies(self, name: str) -> list[str]:
        return [self.tied[name]] if name in self.tied else []


class AdapterSource(PolicySource):
    """A LoRA adapter's tensors. scale: what a product of its two matrices is multiplied by."""

    def __init__(
        self,
        shapes: list[tuple[str, tuple[int, ...]]],
        iterate: Callable[[], Iterator[tuple[str, Tensor]]],
        dtype: torch.dtype,
        scale: float,
    ) -> None:
        super().__init__(shapes, iterate, dtype, {})
        self.scale = scale


# ------------------------------------------------------------------------------------------------ buckets


def pack_buckets(source: PolicySource, bucket_bytes: int) -> Iterator[dict[str, object]]:
    """Tensors laid end to end in buckets of at most bucket_bytes. A larger tensor has a bucket of its own."""
    members: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in source:
        num_bytes = tensor.numel() * tensor.element_size()
        if members and size + num_bytes > bucket_bytes:
            yield _bucket(members, size, source.tally)
            members, size = [], 0
        # A copy, because the source's tensor is valid only until the next one.
        members.append((name, tensor.detach().to("cpu", copy=True)))
        size += num_bytes
    if members:
        yield _bucket(members, size, source.tally)


def _bucket(members: list[tuple[str, Tensor]], size: int, tally: Tally) -> dict[str, object]:
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
        "checksums": [tally.by_name[name] for name, _ in members],  # of the learner's tensors, before they were copied
        "data": data,
    }
