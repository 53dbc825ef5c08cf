"""Ray's rough edges, in one place: how it starts, and waits that are bounded and say who did not answer."""

from __future__ import annotations

import logging
import os
import socket
import time

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rl.config import RunConfig
from rl.types import AhaError, BadInput

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
    # Ray starts its workers with niceness 15: beside any other process on the machine they would starve.
    "RAY_worker_niceness": "0",
}


class ActorGone(AhaError):
    """A worker's process died."""


def start_ray(cfg: RunConfig) -> bool:
    """Join the cluster at cluster.address (or RAY_ADDRESS), else start one here. Returns whether it was started."""
    os.environ |= {k: v for k, v in QUIET.items() if k not in os.environ}
    if ray.is_initialized():
        return False
    address = cfg.cluster.address or os.environ.get("RAY_ADDRESS", "")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(include_dashboard=False, num_cpus=os.cpu_count(), object_store_memory=2 << 30, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"cluster.address={address or 'local'}: Ray did not start or answer ({error})") from error
    return not address


def find_device(cfg: RunConfig) -> str:
    gpus = ray.cluster_resources().get("GPU", 0)
    if cfg.cluster.device == "gpu" and not gpus:
        raise BadInput("cluster.device=gpu: the Ray cluster has no GPU; use cluster.device=cpu or join another cluster")
    return cfg.cluster.device if cfg.cluster.device != "auto" else ("gpu" if gpus else "cpu")


def collect(refs: list[ray.ObjectRef], names: list[str], bound: float, doing: str) -> list:
    """All results, in order, within the bound; else an AhaError that names who did not answer.

    Ends at the first failure: after one rank's, its peers would wait for it in a collective.
    """
    deadline = time.monotonic() + bound
    pending = dict(zip(refs, names, strict=True))
    results: dict[ray.ObjectRef, object] = {}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AhaError(f"{', '.join(pending.values())} did not {doing} within {bound:g} s")
        for ref in ready:
            results[ref] = unwrap(ref, pending.pop(ref), 60.0)
    return [results[ref] for ref in refs]


def unwrap(ref: ray.ObjectRef, name: str, bound: float):  # type: ignore[no-untyped-def]
    """The result of a finished call; a worker's own AhaError keeps its text."""
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


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
