"""Which sampler gets which groups."""

from __future__ import annotations

from collections.abc import Sequence

from rl.config import RunConfig
from rl.types import SampleRequest


class Feed:
    """The work queue: which sampler has which groups."""

    def __init__(self, cfg: RunConfig, requests: Sequence[SampleRequest]) -> None:
        n = cfg.sampler.count
        self.by_group = {r.group: r for r in requests}
        self.running: list[dict[int, SampleRequest]] = [{} for _ in range(n)]
        self.deterministic = cfg.sampler.deterministic
        self.queues = [list(requests[i::n]) for i in range(n)] if self.deterministic else [list(requests)] * n
        per_group = max((len(r.seeds_G) for r in requests), default=1)
        # One group more than fits at once keeps the decode batch full while the next reply travels.
        self.depth = len(requests) if self.deterministic else cfg.sampler.max_sequences // per_group + 1

    def next_for(self, i: int) -> list[SampleRequest]:
        work = []
        while self.queues[i] and len(self.running[i]) < self.depth:
            request = self.queues[i].pop(0)
            self.running[i][request.group] = request
            work.append(request)
        return work

    @property
    def waiting(self) -> int:
        """Groups that no sampler has yet. Samplers that share one queue count it once."""
        return sum(len(queue) for queue in {id(queue): queue for queue in self.queues}.values())

    @property
    def sampling(self) -> int:
        return sum(len(running) for running in self.running)

    def done(self, i: int, group: int) -> None:
        del self.running[i][group]

    def take_back(self, i: int) -> None:
        """Put a lost sampler's groups back in front of its queue, in order."""
        self.queues[i][:0] = sorted(self.running[i].values(), key=lambda r: r.group)
        self.running[i] = {}
