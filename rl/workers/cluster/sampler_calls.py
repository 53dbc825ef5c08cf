"""The part of RayBackend that has groups sampled, beside whatever else it waits for, and takes in what samplers answer.

Samplers decode only while somebody asks them to. So every wait of the backend, for a training step, a weight sync, a
save or rewards, also looks after the samplers: it takes in what they finished, hands it on, and asks again
(ray_calls.collect). There is no thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import ray

from rl.backend import Arrived, SampleParams, SamplerReport
from rl.types import AhaError, Rollout, SampleRequest
from rl.workers.cluster.learner_calls import LearnerCalls
from rl.workers.cluster.ray_calls import ActorGone, unwrap
from rl.workers.cluster.reward_actors import RewardActors
from rl.workers.cluster.work_queue import POLL_BESIDE_S, POLL_S, Sampling
from rl.workers.sampler.sampler import SLEEPERS

log = logging.getLogger("aha.cluster")


class SamplerCalls(LearnerCalls):
    """version: of the weights that the samplers have, -1 for none. work: what they are asked for."""

    version: int
    work: Sampling
    reward_actors: RewardActors

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        self._wake(SLEEPERS)
        self.work.poll_s = POLL_BESIDE_S if self.cfg.rollout.staleness else POLL_S
        self.work.submit(requests, params, arrived)

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        done: list[tuple[int, list[Rollout]]] = []
        self.submit(requests, params, lambda group, rollouts_G: done.append((group, rollouts_G)))
        for _ in requests:
            while not done:
                self.pump()
            yield done.pop(0)

    def pump(self) -> None:
        if not self.work.polls:
            raise AhaError("the driver waits for rollouts that no sampler was asked for; this is a fault of Aha")
        self.look_at(ray.wait(list(self.work.polls), num_returns=1, timeout=5.0)[0])

    def busy(self) -> dict[str, float]:
        return self.work.meter.metrics()

    def forget_prompts(self) -> None:
        self._on_samplers([h.forget_prompts.remote() for h in self.samplers], "forget prompts")

    # -------------------------------------------------------------------------------------------- beside every wait

    def under_way(self) -> list[ray.ObjectRef]:
        return list(self.work.polls)

    def look_at(self, answered: list[ray.ObjectRef]) -> None:
        if answered and self.work.polls:
            # All others that have answered too: after a long pause none of them must look as if it had stalled.
            answered, _ = ray.wait(list(self.work.polls), num_returns=len(self.work.polls), timeout=0)
        for ref in answered:
            if ref in self.work.polls:  # else a wait inside the last one's handling has seen to it
                self._hear(ref)
        self.reward_actors.count_unanswered()
        bound = self.cfg.cluster.rollout_timeout_s
        for i in self.work.stalled(bound):
            raise AhaError(
                f"{self._sampler_names[i]} generated nothing for {bound:g} s while it had work "
                f"(cluster.rollout_timeout_s){self._silent()}; resume with the same command"
            )

    def _hear(self, ref: ray.ObjectRef) -> None:
        poll = self.work.polls.pop(ref)
        i = poll.sampler
        try:
            report: SamplerReport = unwrap(ref, self._sampler_names[i], 1.0)
        except ActorGone as gone:
            self._lost(i, gone, revived=poll.handle is not self.samplers[i])
            return
        # The last line of defence against stale weights; the sync compares checksums before.
        if report.policy_version != poll.version:
            raise AhaError(f"sampler {i} samples from weights {report.policy_version}, not {poll.version}")
        self.work.hear(i, report)
        self.work.top_up(i)

    def _lost(self, i: int, gone: ActorGone, *, revived: bool) -> None:
        """See to it that the groups of a sampler that died are sampled. revived: it was started again since."""
        if not self.ahead or revived:
            if not revived:
                self._revive(i, gone, self.version)
            self.work.start_over(i)
            return
        # The learners have newer weights by now, so the next sync starts it again.
        others = [poll.sampler for poll in self.work.polls.values() if poll.handle is self.samplers[poll.sampler]]
        if not others and not self.cfg.rollout.in_flight:
            raise AhaError(
                f"{gone}; the weights that its groups must come from are nowhere any more; resume with the same command"
            )
        log.warning("sampler %d died (%s) while the learners train; the next weight sync starts it again", i, gone)
        self.work.dead.add(i)
        self.work.queue.take_back(i, min(others, default=None))
        self.work.top_up_all()

    def _revive(self, i: int, gone: ActorGone, version: int) -> None:
        raise NotImplementedError
