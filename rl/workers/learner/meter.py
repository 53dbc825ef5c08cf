"""What a learner measures while it trains: seconds by phase, and metric sums over micro-batches and ranks."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist
from torch import Tensor

from rl.types import AhaError


class Clock:
    """Seconds by phase, as in `with clock("update"): ...`. The time of an inner phase does not count for the outer."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[tuple[str, float]] = []

    def __call__(self, phase: str) -> Clock:
        self._next = phase
        return self

    def __enter__(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self._count(now)
        self._stack.append((self._next, now))

    def __exit__(self, *exc: object) -> None:
        now = time.perf_counter()
        self._count(now)
        self._stack.pop()
        if self._stack:
            self._stack[-1] = (self._stack[-1][0], now)

    def _count(self, now: float) -> None:
        phase, since = self._stack[-1]
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of all ranks' values. Call it on every rank."""
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


class Totals:
    """Sums of the loss and of metrics over micro-batches; of metrics named max/... the largest value instead."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.sums: dict[str, Tensor] = {}

    def add(self, loss: float, metrics: dict[str, Tensor]) -> None:
        self.loss += loss
        for name, value in metrics.items():
            seen = self.sums.get(name)
            if seen is None:
                self.sums[name] = value.detach().double().cpu()
            elif name.startswith("max/"):
                self.sums[name] = torch.maximum(seen, value.detach().double().cpu())
            else:
                self.sums[name] = seen + value.detach().double().cpu()

    def merge(self, other: Totals) -> None:
        self.add(other.loss, other.sums)

    def reduce(self, device: torch.device) -> tuple[float, dict[str, float]]:
        """(loss summed over ranks, metrics of all ranks). Call it on every rank.

        Metrics are means over tokens, except max/... (the largest value) and "tokens" (their number).
        """
        if not self.sums:
            return 0.0, {}
        names = sorted(self.sums)
        sums = torch.stack([torch.tensor(self.loss, dtype=torch.float64), *(self.sums[n] for n in names)]).to(device)
        peaks = sums.clone()
        dist.all_reduce(sums)
        dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
        tokens = max(1.0, float(sums[1 + names.index("tokens")]))
        metrics = {}
        for i, name in enumerate(names, start=1):
            peak = float(peaks[i])
            metrics[name] = peak if name.startswith("max/") else float(sums[i]) / (1.0 if name == "tokens" else tokens)
        loss = float(sums[0])
        return (loss if math.isfinite(loss) else float("nan")), metrics


def checked_gap(metrics: dict[str, float], limit: float) -> tuple[float, float]:
    """(mean, largest) |sampler - learner logprob| of the fresh tokens, nats: those sampled by the weights that are here
    now, for others differ with reason. NaN when there is none. Takes its numbers out of the metrics.

    metrics: "gap" and "fresh" as means over all tokens. Raises AhaError when the mean is above the limit.
    """
    mean, largest, fresh = (metrics.pop(name) for name in ("gap", "max/gap", "fresh"))
    if not fresh:
        return math.nan, math.nan
    mean /= fresh
    if not mean <= limit:
        raise AhaError(
            f"sampler and learner disagree: mean |logprob difference| {mean:.2e} nats (largest {largest:.2e}) is "
            f"above the limit of {limit:g}; the sampler's weights, temperature or template are not "
            "the learner's. No weight was updated. Look at the last weight sync, or raise grpo.max_logprob_gap"
        )
    return mean, largest
