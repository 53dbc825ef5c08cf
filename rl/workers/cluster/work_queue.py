"""Which sampler gets which groups, and which are done. Imports no Ray: the samplers' handles are given to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rl.backend import SampleParams
from rl.config import RunConfig
from rl.types import Rollout, SampleRequest, SamplerReport


class WorkQueue:
    """The groups of one rollout: those that wait for a sampler, and those that each sampler has.

    With sampler.deterministic every sampler has a queue of its own: request i goes to sampler i mod n, whatever their
    speeds. Otherwise all share one queue, and each takes a new group when it has finished one, so that none is idle
    while another has a backlog.
    """

    def __init__(self, cfg: RunConfig, requests: Sequence[SampleRequest]) -> None:
        n = cfg.sampler.count
        self.running: list[dict[int, SampleRequest]] = [{} for _ in range(n)]
        self.deterministic = cfg.sampler.deterministic
        self.queues = [list(requests[i::n]) for i in range(n)] if self.deterministic else [list(requests)] * n
        per_group = max((len(r.seeds_G) for r in requests), default=1)
        # The most groups that a sampler has. One more than it decodes at once keeps its batch full until the next call.
        self.depth = len(requests) if self.deterministic else cfg.sampler.max_sequences // per_group + 1
        # Nor more than its share, so that each sampler has work also where one could take all.
        self.depth = min(self.depth, -(-len(requests) // n))

    def next_for(self, i: int) -> list[SampleRequest]:
        """Take out what sampler i can start now."""
        work = []
        while self.queues[i] and len(self.running[i]) < self.depth:
            request = self.queues[i].pop(0)
            self.running[i][request.group] = request
            work.append(request)
        return work

    @property
    def waiting(self) -> int:
        """Groups that no sampler has yet."""
        # By identity: samplers that share one queue must count it once.
        return sum(len(queue) for queue in {id(queue): queue for queue in self.queues}.values())

    @property
    def sampling(self) -> int:
        """Groups that a sampler has."""
        return sum(len(running) for running in self.running)

    def done(self, i: int, group: int) -> None:
        del self.running[i][group]

    def take_back(self, i: int) -> None:
        """Put the groups of a sampler that died back at the front of its queue, in order."""
        self.queues[i][:0] = sorted(self.running[i].values(), key=lambda r: r.group)
        self.running[i] = {}


class Sampling:
    """Samplers that work off a queue.

    polls: the call that is under way at each sampler with work -> its index. samplers: the backend's own list of
    handles, where it replaces those of samplers that died.
    """

    def __init__(self, queue: WorkQueue, params: SampleParams, samplers: Sequence[Any]) -> None:
        self.polls: dict[Any, int] = {}
        self._queue, self._params, self._samplers = queue, params, samplers
        self._steps = [-1] * len(samplers)
        self._progress = [time.monotonic()] * len(samplers)
        for i in range(len(samplers)):
            self.top_up(i)

    def top_up(self, i: int) -> None:
        """Give a sampler the groups that it can start now, and ask for those that it finishes."""
        work = self._queue.next_for(i)
        if self._queue.running[i]:
            self.polls[self._samplers[i].sample.remote(work, self._params)] = i

    def finished(self, i: int, report: SamplerReport) -> Iterator[tuple[int, list[Rollout]]]:
        """(group, its rollouts) of each group in a sampler's answer."""
        if report.decode_steps != self._steps[i]:
            self._steps[i], self._progress[i] = report.decode_steps, time.monotonic()
        for group, rollouts_G in report.finished.items():
            self._queue.done(i, group)
            yield group, rollouts_G

    def start_over(self, i: int) -> None:
        """Give a sampler that was started again the groups that died with it."""
        self._queue.take_back(i)
        self.top_up(i)
        self._progress[i] = time.monotonic()

    def stalled(self, limit_s: float) -> list[int]:
        """Samplers that have had work and decoded nothing for longer than limit_s."""
        now = time.monotonic()
        return [i for i in self.polls.values() if now - self._progress[i] > limit_s]
