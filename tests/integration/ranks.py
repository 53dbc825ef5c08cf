"""Learner ranks as plain processes over gloo, without Ray: for what the ranks say to each other."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable

TIMEOUT_S = 900.0


def run_ranks(work: Callable[..., object], ranks: int, *args: object) -> list:
    """What work(rank, port, *args) returns on each rank, in order. Raises RuntimeError with a rank's own error.

    work: a function of a module, which is loaded once and then forked: importing DeepSpeed takes longer than most work.
    """
    from rl.workers.cluster.ray_calls import free_port

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, "rl.workers.learner.learner", "rl.workers.learner.ulysses"])
    results = context.Queue()
    port = free_port()
    processes = [context.Process(target=_rank, args=(work, r, port, results, args)) for r in range(ranks)]
    for process in processes:
        process.start()
    found: dict[int, object] = {}
    try:
        while len(found) < ranks:
            rank, error, result = results.get(timeout=TIMEOUT_S)
            if error:
                raise RuntimeError(f"rank {rank}: {error}")
            found[rank] = result
    except queue.Empty:
        raise RuntimeError(f"only ranks {sorted(found)} answered within {TIMEOUT_S:g} s") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [found[rank] for rank in range(ranks)]


def _rank(work: Callable[..., object], rank: int, port: int, results, args: tuple) -> None:  # type: ignore[no-untyped-def]
    try:
        results.put((rank, "", work(rank, port, *args)))
    except BaseException as error:
        results.put((rank, f"{type(error).__name__}: {error}", None))
        raise
