"""What the workers run on and what they hold: nodes and GPUs for a run's record, memory for a step's metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import psutil

from rl.types import Hardware

ACCELERATOR = "accelerator_type:"


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


Held = tuple[int, int, int]
"""Process id, its resident bytes, and the bytes in use on its device by whomever; 0 where it has no device."""

GIB = 2**30


def held_here() -> Held:
    """What this process holds."""
    import torch  # here: the driver loads this file too

    used = 0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        used = total - free
    return os.getpid(), psutil.Process().memory_info().rss, used


def held_by_worker(worker) -> Held:  # type: ignore[no-untyped-def]
    """Runs inside a vLLM worker."""
    return held_here()


def together(parts: Sequence[Held]) -> tuple[int, int]:
    """(resident bytes of all processes, each once; the fullest device) of a worker with several processes.

    [(1, 10, 0), (1, 10, 5), (2, 7, 3)] -> (17, 5)
    """
    return sum({pid: rss for pid, rss, _ in parts}.values()), max(used for *_, used in parts)


def memory_metrics(kind: str, held: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Of the workers of a kind, the largest, GiB. The device's is left out where there is none."""
    if not held:
        return {}
    out = {f"memory/{kind}_gib": max(rss for rss, _ in held) / GIB}
    device = max(used for _, used in held)
    return out | ({f"memory/{kind}_device_gib": device / GIB} if device else {})
