"""Measures this machine for `aha plan --calibrate`: matrix products and a copy. Runs as a process of its own.

    python -m launch.plan.calibrate THREADS

prints one JSON line: {"bf16": FLOP/s, "fp32": FLOP/s, "copy": bytes/s copied}. The best of several rounds counts,
because other work on the machine can only slow a round down.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

ROUNDS, SECONDS_EACH = 5, 1.5
# Rows and columns as a layer of some hundred million parameters has them: 2,048 tokens, 1,024 to 4,096.
TOKENS, INPUTS, OUTPUTS = 2048, 1024, 4096
COPY_BYTES = 256 << 20


def best_rate(work: float, run: Callable[[], object]) -> float:
    """work / the time of the fastest round, after one round that does not count."""
    run()
    best, started, rounds = float("inf"), time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - started < SECONDS_EACH:
        begin = time.perf_counter()
        run()
        best, rounds = min(best, time.perf_counter() - begin), rounds + 1
    return work / best


def main() -> None:
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    rates = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = torch.randn(TOKENS, INPUTS).to(dtype), torch.randn(OUTPUTS, INPUTS).to(dtype)
        rates[name] = best_rate(2.0 * TOKENS * INPUTS * OUTPUTS, lambda a=a, b=b: torch.nn.functional.linear(a, b))  # type: ignore[misc]
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    rates["copy"] = best_rate(float(COPY_BYTES), lambda: target.copy_(source))
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
