"""Backend calls that only `aha doctor` uses. launch.doctor.machines.RayDoctorBackend implements them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rl.backend import Backend


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the cluster. Sizes are in bytes.

    roles: its workers ("learner rank 0", "sampler 1"). versions: package -> version; "aha" is a hash of Aha's source.
    disk_free: on the disk of the run's folder. sees_folder: whether the node sees the file that the driver wrote there.
    shm_total, shm_free: of /dev/shm. object_store: the size of Ray's.
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
    """An attempt at a TCP connection between two nodes. fault: why it failed; "" when it did not."""

    source: str
    target: str
    seconds: float
    fault: str


@dataclass(frozen=True, slots=True)
class SyncedTensors:
    """Checksums by Hugging Face name, in the dtype in which weights are sent.

    learner: of every parameter, also of a tied head under its own name. received: of what the sampler received last.
    resident: of what the sampler's model holds now, as far as it keeps those names (embedding, head, norms).
    """

    learner: dict[str, int]
    received: dict[str, int]
    resident: dict[str, int]


class DoctorBackend(Backend, Protocol):
    """A backend with the calls of the doctor."""

    restarts: int

    @property
    def revives(self) -> bool:
        """Whether a sampler that dies is started again. If not, the run stops, and resumes with the same command."""

    def nodes(self, folder: Path, token: str) -> list[NodeReport]:
        """A report of every node. token: the text of the file `folder`/token that the driver wrote."""

    def ports(self) -> list[Reached]:
        """Try TCP connections on free ports, from each node to the next and to the first."""

    def master_sums(self) -> dict[str, float]:
        """Name -> sum of the absolute values of each parameter's float32 master copy."""

    def reference_sums(self) -> dict[str, float]:
        """Name -> sum of the absolute values of each of the reference's parameters; empty without a reference."""

    def synced_tensors(self) -> list[SyncedTensors]:
        """The checksums of each sampler after a weight sync."""

    def kill_sampler(self, index: int) -> None:
        """Kill a sampler's process."""
