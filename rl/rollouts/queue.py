"""The rollout queue: prompts go in, groups with their rewards come out in the order of their draws. How stale they may
be is its property.

At most (staleness + 1) x prompts_per_step groups are under way: waiting, being sampled, being judged, or being trained
on. So no group has more than `staleness` steps of others before it, and none is older when it is trained on: nothing is
ever dropped, and what is trained on has the lengths of what was drawn. With staleness 0 a step's prompts are sampled
with the weights that were just sent, and nothing runs between two calls of take(). Else samplers and rewards go on in
whatever the driver waits for (Backend.submit).
"""

from __future__ import annotations

from collections.abc import Sequence

from rl.context import sample_request, sample_seed
from rl.rollouts.silent_faults import refuse_wrong_ends
from rl.rollouts.step_metrics import RewardStats, version_metrics
from rl.rollouts.under_way import Entry, UnderWay
from rl.rollouts.waiting import refuse_old
from rl.types import GradedGroup, Prompt, ScoredGroup


class RolloutQueue(UnderWay):
    """Draws prompts from the stream and returns their groups. stats: of all takes since reset()."""

    def reset(self) -> None:
        self.stats = RewardStats()
        if self.roll.staleness:
            self.ctx.backend.busy()  # what the samplers did before, as in an evaluation, belongs to no step

    def take(self, num_prompts: int, version: int) -> list[GradedGroup]:
        """The groups of the num_prompts oldest draws, for the step that trains the weights of this version."""
        self._fill(num_prompts, version)
        oldest_P = list(self.entries.values())[:num_prompts]
        self.stats.ready += sum(entry.grade is not None for entry in oldest_P)
        graded_P = self.graded(oldest_P)
        refuse_wrong_ends(graded_P, self.params)
        for graded in graded_P:
            refuse_old(graded.group, version, self.roll.staleness)
            del self.entries[graded.group.prompt.draw]
        return graded_P

    def settle(self) -> None:
        """Before new weights are sent: unless they may come in mid-sample, wait for all that is being sampled."""
        if not self.roll.in_flight:
            self.wait_for_samples(list(self.entries.values()))

    def close(self) -> None:
        """Let the samplers finish what no step will train on: only refilled steps may leave any."""
        self.wait_for_samples(list(self.entries.values()))
        self.entries.clear()

    def metrics(self, scored_P: Sequence[ScoredGroup], version: int) -> dict[str, float]:
        """Of a step whose rollouts were sampled beside the training: how old they are, and who waited for whom."""
        if not self.roll.staleness:
            return {}
        counts = {"queue/ready": float(self.stats.ready), "queue/under_way": float(len(self.entries) + len(scored_P))}
        ages = version_metrics(scored_P, version, self.ctx.cfg.grpo.updates_per_step)
        return ages | counts | self.ctx.backend.busy()

    def _fill(self, num_prompts: int, version: int) -> None:
        """Hand prompts to the samplers until as many are under way as may be."""
        g = self.ctx.cfg.grpo
        count = max(0, self.roll.staleness * g.prompts_per_step + num_prompts - len(self.entries))
        if self.roll.staleness and g.uniform_groups != "refill":
            count = min(count, g.steps * g.prompts_per_step - self.draws.next)  # no later step would train on them
        prompts_P = self.stream.take(count)
        self.draws.look_at(prompts_P)
        for prompt in prompts_P:
            later = -(-(len(self.entries) + 1 - num_prompts) // g.prompts_per_step)
            self.entries[prompt.draw] = Entry(prompt, version, version + max(0, later))
        if prompts_P:
            requests = [sample_request(self.ctx.cfg, p.draw, p, self._seeds(p)) for p in prompts_P]
            self.ctx.backend.submit(requests, self.params, self.arrived)

    def _seeds(self, prompt: Prompt) -> list[int]:
        cfg = self.ctx.cfg
        return [sample_seed(cfg.seed, "grpo", prompt.draw, i) for i in range(cfg.grpo.group_size)]
