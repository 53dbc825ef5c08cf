"""What the workers hold in memory, for a step's metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence

import psutil

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
