"""The hardware that workers hold: nodes and GPUs for a run's record, memory for a step's metrics."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from rl.types import Hardware

ACCELERATOR = "accelerator_type:"  # how Ray's resource that names a node's GPU model begins


def hardware_of(
    nodes: Sequence[Mapping], places: Sequence[str], bundles: Sequence[Mapping], loose: Sequence[Mapping]
) -> Hardware:
    """The nodes and GPUs of these bundles, each one worker's resources in Ray's terms: {"CPU": 1, "GPU": 0.5}.

    nodes: what ray.nodes() returns. places: the address of each bundle's node. loose: bundles whose node is not known.
    A GPU's model is the one that Ray knows of its node ("H100"), or "GPU". On an unknown node it is the cluster's only
    model, or "GPU" when there are several.
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


Held = tuple[int, int, int]
"""(process id, its resident bytes, bytes in use on its device by all processes); 0 for the last without a device."""

GIB = 2**30


def held_here() -> Held:
    """The memory of this process."""
    import torch  # not at the top: the driver imports this file too and does without torch

    used = 0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        used = total - free
    return os.getpid(), psutil.Process().memory_info().rss, used


def held_by_worker(worker) -> Held:  # type: ignore[no-untyped-def]
    """held_here, in the form that vLLM calls inside each of its workers."""
    return held_here()


@dataclass(frozen=True, slots=True)
class Rest:
    """What a worker at rest leaves of its device. Bytes; 0 without a device.

    total: the device's. free: of all processes together. kept: what this process keeps for its tensors.
    """

    total: int = 0
    free: int = 0
    kept: int = 0


def let_go() -> Rest:
    """Give back the device's memory that this process holds without need, and say what is left."""
    import torch  # see held_here

    gc.collect()
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return Rest()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return Rest(total, free, torch.cuda.memory_reserved())


def together(parts: Sequence[Held]) -> tuple[int, int]:
    """(resident bytes, bytes in use on the fullest device) of a worker with several processes, each counted once.

    [(1, 10, 0), (1, 10, 5), (2, 7, 3)] -> (17, 5)
    """
    return sum({pid: rss for pid, rss, _ in parts}.values()), max(used for *_, used in parts)


def memory_metrics(kind: str, held: Sequence[tuple[int, int]]) -> dict[str, float]:
    """memory/{kind}_gib of the largest worker of a kind, and memory/{kind}_device_gib where there is a device."""
    if not held:
        return {}
    out = {f"memory/{kind}_gib": max(rss for rss, _ in held) / GIB}
    device = max(used for _, used in held)
    return out | ({f"memory/{kind}_device_gib": device / GIB} if device else {})
