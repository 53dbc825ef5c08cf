"""How Ray is started and waited for: every wait is bounded, and its error names the workers that did not answer."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl.backend import Task
from rl.config import RunConfig
from rl.settings.precision import CPU_UNITS, Machine, cpu_unit
from rl.types import AhaError, BadInput
from rl.workers.cluster.head_watch import watch_head

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's prestarted workers have no runtime environment. All of ours have one, so they would never be used.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Ray starts its workers with niceness 15, which starves them beside any other process on the machine.
    "RAY_worker_niceness": "0",
}
"""Environment variables of every process that Ray starts for us."""
CONNECT_LIMIT_S = 2.0
"""How long a node may take to accept a connection before it counts as silent."""


WATCH_INTERVAL_S = 5.0
"""How often a wait looks after what it watches."""


class ActorGone(AhaError):
    """A worker's process died."""


class Unanswered(AhaError):
    """A worker did not answer within the bound of a wait."""


def start_ray(cfg: RunConfig) -> bool:
    """Join the cluster at cluster.address or RAY_ADDRESS, or start one here. Returns whether one was started."""
    os.environ |= {k: v for k, v in QUIET.items() if k not in os.environ}
    if ray.is_initialized():
        return False
    address = cfg.cluster.address or os.environ.get("RAY_ADDRESS", "")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **common)
        else:
            # Without "local" Ray would join a cluster that somebody else has started on this machine.
            ray.init("local", include_dashboard=False, num_cpus=os.cpu_count(), object_store_memory=2 << 30, **common)
    except Exception as error:  # Ray raises a bare Exception when a node does not come up in time
        raise BadInput(f"cluster.address={address or 'local'}: Ray did not start or answer ({error})") from error
    # Ray has replaced our handler by its own, which would end the run without a checkpoint.
    signal.signal(signal.SIGTERM, on_sigterm)
    watch_head(ray.get_runtime_context().gcs_address, ray.is_initialized)
    return not address


def offline() -> dict[str, str]:
    """The environment variables with which a worker finds models where this process does."""
    return {k: os.environ[k] for k in ("HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN") if k in os.environ}


def find_device(cfg: RunConfig) -> str:
    """ "cpu" or "gpu". Raises BadInput if cluster.device is gpu and the cluster has none."""
    gpus = ray.cluster_resources().get("GPU", 0)
    if cfg.cluster.device == "gpu" and not gpus:
        raise BadInput("cluster.device=gpu: the Ray cluster has no GPU; use cluster.device=cpu or join another cluster")
    return cfg.cluster.device if cfg.cluster.device != "auto" else ("gpu" if gpus else "cpu")


def cluster_machine(cfg: RunConfig) -> Machine:
    """The hardware that the workers will run on. On CPUs every node is asked for its bfloat16 unit."""
    device = find_device(cfg)
    if device == "gpu":
        return Machine(device)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    ask = ray.remote(cpu_unit)
    refs = [
        ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    names = [f"node {node['NodeManagerAddress']}" for node in nodes]
    units = collect(refs, names, cfg.cluster.start_bound_s(device), "say what CPU it has")
    # The slowest unit is the one that all have; a node without any leaves none.
    return Machine(device, max(units, key=lambda unit: CPU_UNITS.index(unit)) if units and all(units) else "")


class Beside(Protocol):
    """Calls that go on beside a wait, and are looked after in it."""

    def under_way(self) -> list[ray.ObjectRef]:
        """Those calls."""

    def look_at(self, answered: list[ray.ObjectRef]) -> None:
        """Take in what was answered, and see to it that the others go on."""


def collect(
    refs: list[ray.ObjectRef],
    names: list[str],
    bound: float,
    doing: str,
    *,
    keep_gone: bool = False,
    watch: Callable[[], None] | None = None,
    beside: Beside | None = None,
) -> list:
    """All results, in order. Raises Unanswered, with the names of those that are missing, after `bound` seconds.

    names: of the workers that were called. doing: what they do, for the error: "{name} did not {doing} within 60 s".
    Raises at the first failure: when one rank fails, its peers wait for it in a collective and would not answer either.
    With keep_gone a worker's death is no failure: its result is the ActorGone, and the others are waited for.
    watch: called every WATCH_INTERVAL_S meanwhile; what it raises ends the wait. beside: what goes on meanwhile.
    """
    start = time.monotonic()
    deadline, next_watch = start + bound, start + WATCH_INTERVAL_S
    pending = dict(zip(refs, names, strict=True))
    results: dict[ray.ObjectRef, object] = {}
    while pending:
        others = [] if beside is None else beside.under_way()
        until = min(deadline, next_watch) if watch is not None or others else deadline
        ready, _ = ray.wait([*pending, *others], num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if beside is not None and others:
            beside.look_at([ref for ref in ready if ref not in pending])
        now = time.monotonic()
        if not any(ref in pending for ref in ready) and now >= deadline:
            raise Unanswered(f"{', '.join(pending.values())} did not {doing} within {bound:g} s")
        if now >= next_watch:
            next_watch = now + WATCH_INTERVAL_S
            if watch is not None:
                watch()
        for ref in (ref for ref in ready if ref in pending):
            try:
                results[ref] = unwrap(ref, pending.pop(ref), 60.0)
            except ActorGone as gone:
                if not keep_gone:
                    raise
                results[ref] = gone
    return [results[ref] for ref in refs]


def wait_for_any(refs: list[ray.ObjectRef], seconds: float, beside: Beside | None) -> list[ray.ObjectRef]:
    """Those of the calls that are answered, as soon as one is; none after so many seconds. beside: see collect."""
    deadline = time.monotonic() + seconds
    while True:
        others = [] if beside is None else beside.under_way()
        left = max(0.0, deadline - time.monotonic())
        interval = min(left, WATCH_INTERVAL_S) if others else left
        ready, _ = ray.wait([*refs, *others], num_returns=1, timeout=interval)
        if beside is not None and others:
            beside.look_at([ref for ref in ready if ref not in refs])
        ready = [ref for ref in ready if ref in refs]
        if ready or time.monotonic() >= deadline:
            return ready


class SyncWatch:
    """Asks samplers again and again whether something went wrong in a weight sync, for use as collect's watch.

    A learner that sends through NCCL waits for all samplers in one collective. It would not hear of a sampler that left
    it with an error, and the wait would end with nothing but its bound. A sampler that waits there too does not answer.
    """

    def __init__(self, samplers: list[ray.actor.ActorHandle], names: list[str]) -> None:
        self._samplers = dict(zip(names, samplers, strict=True))
        self._asked: dict[ray.ObjectRef, str] = {}

    def __call__(self) -> None:
        if self._asked:
            for ref in ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0]:
                self._hear(ref, self._asked.pop(ref))
        for name in self._samplers.keys() - set(self._asked.values()):
            self._asked[self._samplers[name].fault_of_sync.remote()] = name

    def _hear(self, ref: ray.ObjectRef, name: str) -> None:
        try:
            fault = unwrap(ref, name, 60.0)
        except ActorGone as gone:
            raise AhaError(f"{gone}; resume with the same command") from gone
        if fault:
            raise AhaError(f"{name} could not take the weights: {fault}")


def unwrap(ref: ray.ObjectRef, name: str, bound: float):  # type: ignore[no-untyped-def]
    """The result of a call that has finished. An AhaError that the worker raised is raised again with the same text."""
    try:
        return ray.get(ref, timeout=bound)
    except RayActorError as error:
        raise ActorGone(f"{name} died: {_last_line(error)}; its log is in Ray's session folder") from error
    except GetTimeoutError as error:
        raise AhaError(f"the result of {name} did not arrive within {bound:g} s") from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AhaError):
            raise type(cause)(str(cause)) from error
        raise AhaError(f"{name} failed: {type(cause).__name__}: {_last_line(cause)}") from error


def node_of_bundles(group: PlacementGroup) -> list[str]:
    """The address of the node that holds each bundle now."""
    addresses = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in ray.nodes()}
    homes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return [addresses.get(homes[i], "unknown") for i in sorted(homes)]


def most_on_one_node(places: list[str]) -> int:
    """How many bundles the fullest node holds. ["a", "b", "a"] -> 2"""
    return max(places.count(place) for place in places)


def silent_nodes(actors: dict[str, str]) -> str:
    """The end of an error's sentence: which nodes do not answer, and which actors are on them. "" when all answer.

    actors: name -> address of the node.
    """
    ports: dict[str, list[int]] = {}
    for node in ray.nodes():
        if node["Alive"] or node["NodeManagerAddress"] in actors.values():
            ports.setdefault(node["NodeManagerAddress"], []).append(node["NodeManagerPort"])
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = dict(
            zip(ports, pool.map(lambda a: any(_accepts_connection(a, p) for p in ports[a]), ports), strict=True)
        )
    clauses = []
    for address in sorted(a for a, answered in answers.items() if not answered):
        there = [name.removesuffix(f" on node {address}") for name, node in actors.items() if node == address]
        clauses.append(
            f"; node {address} ({', '.join(there) or 'no worker'}) does not answer: its link or machine is down"
        )
    return "".join(clauses)


def _accepts_connection(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), CONNECT_LIMIT_S):
            return True
    except OSError:
        return False


def seen_from_anywhere(path: str) -> str:
    """A folder's absolute path, because workers may run in another folder. Other names as they are."""
    return str(Path(path).absolute()) if path and Path(path).is_dir() else path


def models_seen_from_anywhere(task: Task) -> Task:
    """The task with absolute paths of its models."""
    return dataclasses.replace(
        task,
        model_path=seen_from_anywhere(task.model_path),
        reference_path=seen_from_anywhere(task.reference_path),
        teacher_path=seen_from_anywhere(task.teacher_path),
    )


def interface_of(address: str) -> str:
    """The name of this machine's network interface with that address; "" when none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address.partition("%")[0] == address for a in addresses):
            return name
    return ""


def use_interface_of(address: str) -> None:
    """Let gloo and NCCL in this process use the interface with that address, unless the user has named another.

    By default gloo takes the interface that the host's name resolves to, often the loopback, and NCCL the first one.
    """
    name = interface_of(address)
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # "=": exactly this name, not a prefix


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
