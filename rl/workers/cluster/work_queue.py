"""Which sampler gets which groups, and which are done. Imports no Ray: the samplers' handles are given to it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rl.backend import Arrived, SampleParams, SamplerReport
from rl.config import RunConfig
from rl.types import SampleRequest

NUMBER_BITS = 40
"""A group has an address of its own among all under way: its submission's number, then its own in so many bits."""
OWN_NUMBER = (1 << NUMBER_BITS) - 1
POLL_S, POLL_BESIDE_S = 0.5, 0.1
"""Seconds of a call to a sampler; and where learners work meanwhile, whose next weight sync waits for its end."""


class WorkQueue:
    """The groups that wait for a sampler, and those that each sampler has.

    With sampler.deterministic every sampler has a queue of its own: group number i goes to sampler i mod n, whatever
    their speeds. Otherwise all share one queue, and each takes a new group when it has finished one, so that none is
    idle while another has a backlog.
    """

    def __init__(self, cfg: RunConfig, requests: Sequence[SampleRequest] = ()) -> None:
        n = cfg.sampler.count
        self.running: list[dict[int, SampleRequest]] = [{} for _ in range(n)]
        self.deterministic, self.max_sequences = cfg.sampler.deterministic, cfg.sampler.max_sequences
        shared: list[SampleRequest] = []
        self.queues: list[list[SampleRequest]] = [[] if self.deterministic else shared for _ in range(n)]
        self.add(requests)

    def add(self, requests: Sequence[SampleRequest]) -> None:
        n = len(self.queues)
        for request in requests:
            self.queues[(request.group & OWN_NUMBER) % n].append(request)
        per_group = max((len(r.seeds_G) for r in requests), default=1)
        under_way = self.waiting + self.sampling
        # The most groups that a sampler has. One more than it decodes at once keeps its batch full until the next call.
        self.depth = under_way if self.deterministic else self.max_sequences // per_group + 1
        if not self.deterministic:
            # Nor more than its share, so that each sampler has work also where one could take all.
            self.depth = min(self.depth, -(-under_way // n))

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

    def take_back(self, i: int, heir: int | None = None) -> None:
        """Put the groups of a sampler that died back at the front of its queue, or of its heir's, in order."""
        back = sorted(self.running[i].values(), key=lambda r: r.group)
        self.running[i] = {}
        if heir is not None and self.deterministic:
            back, self.queues[i] = back + self.queues[i], []
        self.queues[i if heir is None else heir][:0] = back


class BusyMeter:
    """For how long each sampler has had work since the last metrics()."""

    def __init__(self, samplers: int) -> None:
        self._busy, self._since, self._start = [0.0] * samplers, [math.inf] * samplers, time.monotonic()

    def mark(self, i: int, *, works: bool) -> None:
        """Whether sampler i has work from now on."""
        now = time.monotonic()
        self._busy[i] += max(0.0, now - self._since[i])
        self._since[i] = now if works else math.inf

    def metrics(self) -> dict[str, float]:
        for i, since in enumerate(self._since):
            self.mark(i, works=since < math.inf)
        busy, now = sum(self._busy) / len(self._busy), time.monotonic()
        whole, self._start, self._busy = now - self._start, now, [0.0] * len(self._busy)
        return {"samplers/busy_s": busy, "samplers/idle_share": max(0.0, 1 - busy / whole) if whole else 0.0}


@dataclass(frozen=True, slots=True)
class Poll:
    """A call to a sampler. handle: of the process that it went to. version: of the weights that it must answer from."""

    sampler: int
    handle: Any
    version: int


class Sampling:
    """The samplers at work on what they are asked for, each asked again as soon as it has answered.

    polls: the call that is under way at each sampler with work -> whom it was put to. samplers(): their handles; the
    backend replaces those of samplers that died. version(): of the weights that they have. dead: samplers that are
    asked for nothing until the next weight sync has started them again. poll_s: about the seconds for which a sampler
    decodes before it answers.
    """

    def __init__(self, cfg: RunConfig, samplers: Callable[[], Sequence[Any]], version: Callable[[], int]) -> None:
        self.polls: dict[Any, Poll] = {}
        self.dead: set[int] = set()
        self.queue = WorkQueue(cfg)
        self._samplers, self._version = samplers, version
        self._submissions: dict[int, tuple[SampleParams, Arrived, list[int]]] = {}
        self._numbers = itertools.count()
        self._steps = [-1] * cfg.sampler.count
        self._progress = [time.monotonic()] * cfg.sampler.count
        self._held, self.poll_s = False, POLL_S
        self.meter = BusyMeter(cfg.sampler.count)

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        """Have these groups sampled. arrived(group's own number, its rollouts) is called for each when it is done."""
        submission = next(self._numbers)
        self._submissions[submission] = (params, arrived, [len(requests)])
        self.queue.add([replace(r, group=submission << NUMBER_BITS | r.group) for r in requests])
        self.top_up_all()

    def top_up_all(self) -> None:
        """Top up every sampler that has not been asked yet."""
        asked = {poll.sampler for poll in self.polls.values()}
        for i in range(len(self._samplers())):
            if i not in asked:
                self.top_up(i)

    def top_up(self, i: int) -> None:
        """Give a sampler the groups that it can start now, and ask for those that it finishes."""
        if self._held or i in self.dead:
            return
        idle = not self.queue.running[i]
        work = self.queue.next_for(i)
        self.meter.mark(i, works=bool(self.queue.running[i]))
        if not self.queue.running[i]:
            return
        if idle:
            self._progress[i] = time.monotonic()
        by_submission = itertools.groupby(work, key=lambda r: r.group >> NUMBER_BITS)
        parts = [(list(requests), self._submissions[submission][0]) for submission, requests in by_submission]
        first, more = (parts[0], parts[1:]) if parts else (([], None), [])
        handle = self._samplers()[i]
        self.polls[handle.sample.remote(*first, more, self.poll_s)] = Poll(i, handle, self._version())

    def hear(self, i: int, report: SamplerReport) -> None:
        """File the groups in a sampler's answer."""
        if report.decode_steps != self._steps[i]:
            self._steps[i], self._progress[i] = report.decode_steps, time.monotonic()
        for address, rollouts_G in report.finished.items():
            self.queue.done(i, address)
            submission = address >> NUMBER_BITS
            _, arrived, left = self._submissions[submission]
            left[0] -= 1
            if not left[0]:
                del self._submissions[submission]
            arrived(address & OWN_NUMBER, rollouts_G)

    def start_over(self, i: int) -> None:
        """Give a sampler that was started again the groups that died with it."""
        self.queue.take_back(i)
        self.top_up(i)
        self._progress[i] = time.monotonic()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """In the block, a weight sync, no sampler is asked for anything."""
        self._held = True
        for i in range(len(self._progress)):
            self.meter.mark(i, works=False)
        try:
            yield
        finally:
            self._held = False
        self.dead.clear()
        self._progress = [time.monotonic()] * len(self._progress)

    def stalled(self, limit_s: float) -> list[int]:
        """Samplers that have had work and decoded nothing for longer than limit_s."""
        now = time.monotonic()
        asked = [] if self._held else [poll.sampler for poll in self.polls.values()]
        return [i for i in asked if now - self._progress[i] > limit_s]
