"""What `aha doctor` asks of the machines beyond what a run asks. launch.doctor.machines.ExaminedBackend implements
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from rl.backend import Backend
from rl.types import MicroBatch


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the cluster. Sizes in bytes.

    roles: its workers ("learner rank 0", "sampler 1"). versions: package -> version, with "python" and "aha", a hash
    of our own source. disk_free: where the run's folder lies. sees_folder: the file that the driver wrote there is
    there. shm_total, shm_free: /dev/shm. object_store: Ray's.
    """

    address: str
    roles: tuple[str, ...]
    versions: dict[str, str]
    disk_free: int
    sees_folder: bool
    shm_total: int
    shm_free: int
    object_store: int


@dataclass(frozen=True, slots=True)
class Reached:
    """One TCP connection between two nodes. fault: why there was none, or ""."""

    source: str
    target: str
    seconds: float
    fault: str


@dataclass(frozen=True, slots=True)
class SyncedTensors:
    """Checksums by Hugging Face name, in the dtype that travels.

    learner: every parameter, a tied head under its own name too. received: what the sampler's last update brought.
    resident: what stands in the sampler's model now, where it is kept under that name: embedding, head, norms.
    """

    learner: dict[str, int]
    received: dict[str, int]
    resident: dict[str, int]


class Examined(Backend, Protocol):
    """A backend that answers a doctor."""

    restarts: int

    @property
    def revives(self) -> bool:
        """Whether a sampler that dies is started again; where it is not, the run stops and resumes."""

    def nodes(self, folder: Path, token: str) -> list[NodeReport]:
        """A report of every node. token: the text of the file `folder`/token that the driver wrote."""

    def ports(self) -> list[Reached]:
        """TCP connections between nodes, each to the next and to the first, on free ports."""

    def score(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        """The learners' logprobs of each micro-batch's masked-in tokens, by rank."""

    def master_sums(self) -> dict[str, float]:
        """Name -> sum of the absolute values of each parameter's float32 master copy."""

    def reference_sums(self) -> dict[str, float]:
        """Name -> sum of the absolute values of each of the reference's parameters; empty without a reference."""

    def synced_tensors(self) -> list[SyncedTensors]:
        """Of each sampler, after a weight sync."""

    def kill_sampler(self, index: int) -> None:
        """End a sampler's process at once."""
