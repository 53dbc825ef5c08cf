"""A learner's full weights on their way out: to the samplers, to disk, or into sums and hashes.

Their names are those of Hugging Face's files (rl/model/disk_names.py). Under ZeRO-3 they are gathered from all ranks,
one layer at a time (gather_groups).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from rl.backend import Task
from rl.config import RunConfig
from rl.model.disk_names import DiskNames
from rl.model.lora import PlainWeight, adapter_scale, adapter_weights, base_weights, plain_weights
from rl.model.policy import Backbone, Policy
from rl.model.writer import ModelWriter
from rl.settings.precision import torch_dtype
from rl.types import SyncReport
from rl.workers.learner.deepspeed_engine import full_shape
from rl.workers.sync.buckets import AdapterSource, PolicySource, SamplerConnection
from rl.workers.sync.send import WeightSender


class WeightReader(ABC):
    """The half of a learner that only reads weights. Call every method on every rank, in the same order."""

    cfg: RunConfig
    task: Task
    rank: int
    device: torch.device
    policy: Backbone
    reference: Policy | None
    base_is_reference: bool
    sender: WeightSender | None
    known_names: tuple[Backbone, DiskNames] | None = None
    adapters_apart: bool = False
    """The samplers run adapters beside the base, so they are not merged into what is sent."""

    @abstractmethod
    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        """Inside the block these parameters are whole on every rank."""

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name in files, full tensor with adapters merged) of every tensor that a file of the model holds."""
        yield from self._named_as_in_files(plain_weights(self.policy.hf))

    def base_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The same without adapters."""
        yield from self._named_as_in_files(base_weights(self.policy.hf))

    def adapter_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every adapter's two matrices."""
        yield from gather_groups(adapter_weights(self.policy.hf), self._gathered)

    def _named_as_in_files(self, weights: Sequence[PlainWeight]) -> Iterator[tuple[str, Tensor]]:
        names = self.disk_names()
        for name, tensor in gather_groups(weights, self._gathered):
            yield from names.split(name, tensor)

    def disk_names(self) -> DiskNames:
        if self.known_names is None or self.known_names[0] is not self.policy:
            shapes = {weight.name: full_shape(weight.base) for weight in plain_weights(self.policy.hf)}
            self.known_names = self.policy, DiskNames(self.policy.hf, shapes)
        return self.known_names[1]

    def frozen_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name in memory, full tensor) of the parameters that are not trained, without adapters."""
        weights = plain_weights(self.policy.hf)
        frozen = [PlainWeight(weight.name, weight.base) for weight in weights if not weight.base.requires_grad]
        yield from gather_groups(frozen, self._gathered)

    def connect_samplers(self, connection: SamplerConnection) -> None:
        if self.sender is not None:
            self.sender.close()
        self.adapters_apart = connection.adapters and bool(adapter_weights(self.policy.hf))
        self.sender = WeightSender(connection, self.rank, self._source())

    def send_weights(self, version: int) -> SyncReport:
        """Send the policy's weights to every connected sampler as this version."""
        assert self.sender is not None
        return self.sender.send(self._source(), version, self._adapter_source())

    def _adapter_source(self) -> AdapterSource | None:
        """The adapters, where the samplers run them; else they are merged into what _source yields."""
        if not self.adapters_apart:
            return None
        hf, dtype = self.policy.hf, torch_dtype(self.cfg.model.dtype)
        shapes = [(weight.name, full_shape(weight.base)) for weight in adapter_weights(hf)]
        return AdapterSource(shapes, self.adapter_parameters, dtype, adapter_scale(hf))

    def _source(self) -> PolicySource:
        names = self.disk_names()
        # A CPU sampler runs with untied embeddings, so it must be sent a tied head too, or its head would go stale.
        tied = self.policy.tied_names() if self.device.type == "cpu" else {}
        tied = {names.renamed(name): names.renamed(other) for name, other in tied.items()}
        weights = plain_weights(self.policy.hf)
        shapes = [part for weight in weights for part in names.of(weight.name, full_shape(weight.base))]
        iterate = self.base_parameters if self.adapters_apart else self.full_parameters
        return PolicySource(shapes, iterate, torch_dtype(self.cfg.model.dtype), tied)

    def export(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder. Rank 0 writes; the others take part in gathering."""
        writer = ModelWriter(Path(folder)) if self.rank == 0 else None
        for name, tensor in self.full_parameters():
            if writer is not None:
                writer.add(name, tensor.to(torch_dtype(self.cfg.model.dtype)))
        if writer is not None:
            writer.close(self.policy.hf.config, self.task.model_path)

    def weights_hash(self) -> str:
        """sha256 of the full parameters, in order."""
        digest = hashlib.sha256()
        for name, tensor in self.full_parameters():
            add_to_hash(digest, name, tensor)
        return digest.hexdigest()

    def parameter_sums(self) -> dict[str, float]:
        """Name -> sum of a parameter's absolute values: whether it has changed shows in it."""
        return _sums(self.full_parameters())

    def reference_sums(self) -> dict[str, float]:
        """parameter_sums of the reference, which may be the base under the policy's adapters; empty without one."""
        if self.base_is_reference:
            weights = base_weights(self.policy.hf)
        else:
            weights = plain_weights(self.reference.hf) if self.reference is not None else []
        return _sums(gather_groups(weights, self._gathered))


def _sums(parameters: Iterator[tuple[str, Tensor]]) -> dict[str, float]:
    return {name: float(tensor.detach().double().abs().sum()) for name, tensor in parameters}


def add_to_hash(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add a parameter's name and bytes to the digest."""
    digest.update(name.encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def gather_groups(
    weights: Sequence[PlainWeight], gathered: Callable[[list[nn.Parameter]], AbstractContextManager[object]]
) -> Iterator[tuple[str, Tensor]]:
    """(name in memory, full tensor with adapters merged) of every weight, gathered one group at a time.

    A group is all weights whose names agree up to their first number ("model.layers.3."), so that no rank ever holds
    the whole model. Use a tensor before you take the next: it may be freed then.
    """
    groups: dict[str, list[PlainWeight]] = {}
    for weight in weights:
        parts = weight.name.split(".")
        digits = [i for i, part in enumerate(parts) if part.isdigit()]
        key = ".".join(parts[: digits[0] + 1]) if digits else weight.name
        groups.setdefault(key, []).append(weight)
    for members in groups.values():
        with gathered([p for weight in members for p in weight.parameters]):
            for weight in members:
                yield weight.name, weight.merged()
