"""The rollout queue: prompts in, graded groups out. The staleness bound is its property, not the loop's.

Bound 0 is synchronous: take() samples a step's prompts with the weights just sent, and nothing is in flight between
two calls. Groups are graded as they arrive, while the samplers work on the rest.
"""

from __future__ import annotations

import time

from rl.data import PromptStream
from rl.score import Scorer
from rl.stages.context import Context, sample_seed
from rl.types import AhaError, GradedGroup, RolloutGroup, SampleRequest


class RolloutQueue:
    """Draws prompts from the stream and returns their groups.

    scoring_seconds: time spent in rewards during the last take, most of it while samplers were decoding.
    """

    def __init__(self, ctx: Context, stream: PromptStream, scorer: Scorer, staleness: int) -> None:
        if staleness:
            raise AhaError(f"rollout.staleness={staleness}: only 0 (synchronous) is built")
        self.ctx, self.stream, self.scorer = ctx, stream, scorer
        self.scoring_seconds = 0.0

    def take(self, num_prompts: int, version: int) -> list[GradedGroup]:
        """num_prompts graded groups, in the order of their draws, all sampled from `version`."""
        cfg = self.ctx.cfg
        prompts_P = self.stream.take(num_prompts)
        by_draw = {p.draw: p for p in prompts_P}
        requests = [
            SampleRequest(
                p.draw, p.token_ids, [sample_seed(cfg.seed, "grpo", p.draw, i) for i in range(cfg.grpo.group_size)]
            )
            for p in prompts_P
        ]
        roll = cfg.rollout
        params = self.ctx.sample_params(
            temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens
        )
        self.scoring_seconds = 0.0
        graded: dict[int, GradedGroup] = {}
        for draw, rollouts_G in self.ctx.backend.rollouts(requests, params):
            group = RolloutGroup(by_draw[draw], rollouts_G)
            _refuse_strange(group, version)
            start = time.perf_counter()
            graded[draw] = self.scorer.grade(group)
            self.scoring_seconds += time.perf_counter() - start
        missing = set(by_draw) - set(graded)
        if missing:
            raise AhaError(f"{len(missing)} of {num_prompts} groups never came back from the samplers; prompts lost")
        return [graded[p.draw] for p in prompts_P]


def _refuse_strange(group: RolloutGroup, version: int) -> None:
    """Raise AhaError for rollouts of a version that the loop did not send."""
    strange = {r.policy_version for r in group.rollouts_G} - {version}
    if strange:
        raise AhaError(
            f"prompt {group.prompt.id}: rollouts of policy version {sorted(strange)}, but the loop sent {version}"
        )
