"""The rollout queue: prompts in, graded groups out. The staleness bound is its property, not the loop's.

Bound 0 is synchronous: take() samples a step's prompts with the weights just sent, and nothing is in flight between
two calls. The reward workers get each group as it arrives, while the samplers work on the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rl.backend import RewardWorkers, SampleParams
from rl.context import Context, sample_seed
from rl.data.streams import PromptStream
from rl.scoring.scorer import Scorer
from rl.types import (
    AhaError,
    GradedGroup,
    Prompt,
    Queue,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    ScoredGroup,
)


@dataclass
class RewardStats:
    """seconds: waited for rewards after the last rollout was in. The counters: see rl.types.RewardReport.

    most: the longest queues that were seen, each when a group came back from a sampler.
    """

    seconds: float = 0.0
    killed: int = 0
    replaced: int = 0
    truncated: int = 0
    most: Queue = field(default_factory=Queue)

    def saw(self, now: Queue) -> None:
        most = self.most
        self.most = Queue(
            max(most.waiting, now.waiting),
            max(most.sampling, now.sampling),
            max(most.awaiting_rewards, now.awaiting_rewards),
        )

    def metrics(self) -> dict[str, float]:
        return {
            "seconds/rewards": self.seconds,
            "reward_calls/killed": float(self.killed),
            "reward_calls/replaced": float(self.replaced),
            "reward_calls/truncated": float(self.truncated),
            "queue/waiting_max": float(self.most.waiting),
            "queue/sampling_max": float(self.most.sampling),
            "queue/awaiting_rewards_max": float(self.most.awaiting_rewards),
        }


def sample_and_grade(
    ctx: Context,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    seeds_PG: Sequence[list[int]],
    params: SampleParams,
    stats: RewardStats,
    version: int | None = None,
    ends: tuple[str, ...] = (),
) -> list[GradedGroup]:
    """A graded group for each prompt, in order. Raises AhaError for groups that are lost or not from `version`.

    ends: where one of these begins, a completion's text ends before the rewards read it. Its tokens stay.
    """
    requests = [SampleRequest(i, p.token_ids, seeds_PG[i]) for i, p in enumerate(prompts_P)]

    def arriving() -> Iterator[tuple[int, list[Rollout]]]:
        for i, rollouts_G in ctx.backend.rollouts(requests, params):
            yield i, [replace(r, text=before(r.text, ends)) for r in rollouts_G] if ends else rollouts_G
            stats.saw(ctx.backend.queue())  # the group is with its reward workers by now

    return grade_arriving(ctx.backend, scorer, prompts_P, arriving(), stats, version)


def before(text: str, ends: Sequence[str]) -> str:
    """ "so 4\\n\\nQuestion: 3", ["\\n\\nQuestion:"] -> "so 4"; nothing of it is lost where none is in it."""
    return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]


def grade_arriving(
    workers: RewardWorkers,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    arriving: Iterable[tuple[int, list[Rollout]]],
    stats: RewardStats,
    version: int | None = None,
) -> list[GradedGroup]:
    """The same for groups that arrive from anywhere, as (place of the prompt, rollouts): its rewards begin at once."""
    waiting: dict[int, tuple[RolloutGroup, Callable[[], RewardReport]]] = {}
    for i, rollouts_G in arriving:
        group = RolloutGroup(prompts_P[i], rollouts_G)
        _refuse_strange(group, version)
        # A teacher may leave a prompt without any answer.
        asked = workers.ask_rewards(group, scorer.applying(group.prompt, version)) if rollouts_G else _nothing_to_say
        waiting[i] = (group, asked)
    missing = len(prompts_P) - len(waiting)
    if missing:
        raise AhaError(f"{missing} of {len(prompts_P)} groups never came back from the samplers; prompts lost")
    start = time.perf_counter()
    graded_P = []
    for i in range(len(prompts_P)):
        group, result = waiting[i]
        report = result()
        stats.killed += report.killed
        stats.replaced += report.replaced
        stats.truncated += report.truncated
        graded_P.append(scorer.grade(group, report.parts_G))
    stats.seconds += time.perf_counter() - start
    return graded_P


def staleness(groups_P: Sequence[ScoredGroup], version: int) -> dict[str, float]:
    """How many versions the rollouts are behind the policy that they train, by the versions that they are stamped with.

    Rollouts of versions 3, 3 and 5, trained at version 5 -> mean 4/3, max 2.
    """
    behind = [version - r.policy_version for g in groups_P for r in g.group.rollouts_G]
    return {"rollout/staleness_mean": sum(behind) / len(behind), "rollout/staleness_max": float(max(behind))}


class RolloutQueue:
    """Draws prompts from the stream and returns their groups. stats: of the takes since reset()."""

    def __init__(self, ctx: Context, stream: PromptStream, scorer: Scorer, staleness: int) -> None:
        if staleness:
            raise AhaError(f"rollout.staleness={staleness}: only 0 (synchronous) is built")
        self.ctx, self.stream, self.scorer = ctx, stream, scorer
        self.stats = RewardStats()

    def reset(self) -> None:
        self.stats = RewardStats()

    def take(self, num_prompts: int, version: int) -> list[GradedGroup]:
        """num_prompts graded groups, in the order of their draws, all sampled from `version`."""
        cfg = self.ctx.cfg
        prompts_P = self.stream.take(num_prompts)
        seeds_PG = [[sample_seed(cfg.seed, "grpo", p.draw, i) for i in range(cfg.grpo.group_size)] for p in prompts_P]
        roll = cfg.rollout
        params = self.ctx.sample_params(
            temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens
        )
        return sample_and_grade(self.ctx, self.scorer, prompts_P, seeds_PG, params, self.stats, version)


def _refuse_strange(group: RolloutGroup, version: int | None) -> None:
    """Raise AhaError for rollouts of a version that the loop did not send."""
    strange = {r.policy_version for r in group.rollouts_G} - {version}
    if version is not None and strange:
        raise AhaError(
            f"prompt {group.prompt.id}: rollouts of policy version {sorted(strange)}, but the loop sent {version}"
        )


def _nothing_to_say() -> RewardReport:
    return RewardReport([])
