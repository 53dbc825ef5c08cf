"""Which sampler gets which groups, and which of them are done. Loads no Ray: it calls handles that it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rl.backend import SampleParams
from rl.config import RunConfig
from rl.types import Rollout, SampleRequest, SamplerReport


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


class Sampling:
    """Samplers at work on a feed. polls: of each sampler that has work, the reply that is waited for.

    samplers: Ray's handles of them, in the backend's own list: a dead one may be replaced there.
    """

    def __init__(self, feed: Feed, params: SampleParams, samplers: Sequence[Any]) -> None:
        self.polls: dict[Any, int] = {}
        self._feed, self._params, self._samplers = feed, params, samplers
        self._tokens = [-1] * len(samplers)
        self._progress = [time.monotonic()] * len(samplers)
        for i in range(len(samplers)):
            self.top_up(i)

    def top_up(self, i: int) -> None:
        """Give a sampler as much as it decodes at once, and ask it for what it finishes."""
        work = self._feed.next_for(i)
        if self._feed.running[i]:
            self.polls[self._samplers[i].sample.remote(work, self._params)] = i

    def finished(self, i: int, report: SamplerReport) -> Iterator[tuple[int, list[Rollout]]]:
        """The groups of a sampler's reply."""
        if report.tokens_generated != self._tokens[i]:
            self._tokens[i], self._progress[i] = report.tokens_generated, time.monotonic()
        for group, rollouts_G in report.finished.items():
            self._feed.done(i, group)
            yield group, rollouts_G

    def start_over(self, i: int) -> None:
        """Give a sampler that was started again the groups that were lost with it."""
        self._feed.take_back(i)
        self.top_up(i)
        self._progress[i] = time.monotonic()

    def stalled(self, limit_s: float) -> list[int]:
        """Samplers that have work and generated nothing for longer than that."""
        now = time.monotonic()
        return [i for i in self.polls.values() if now - self._progress[i] > limit_s]
