"""The rollout queue: prompts go in, groups with their rewards come out. How stale they may be is its property.

With bound 0 it is synchronous: take() samples a step's prompts with the weights that were just sent, and nothing runs
between two calls. A group goes to the reward workers as soon as it arrives, while the samplers work on the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from rl.backend import RewardWorkers, SampleParams
from rl.context import Context, sample_seed
from rl.data.few_shot import before
from rl.data.streams import PromptStream
from rl.rollouts.silent_faults import Draws, refuse_wrong_ends
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.scorer import Scorer
from rl.types import AhaError, GradedGroup, Prompt, RewardReport, Rollout, RolloutGroup, SampleRequest


class RolloutQueue:
    """Draws prompts from the stream and returns their groups. stats: of all takes since reset()."""

    def __init__(self, ctx: Context, stream: PromptStream, scorer: Scorer, staleness: int) -> None:
        if staleness:
            raise AhaError(f"rollout.staleness={staleness}: only 0 (synchronous) is built")
        self.ctx, self.stream, self.scorer = ctx, stream, scorer
        self.draws = Draws(stream.state())
        self.stats = RewardStats()

    def reset(self) -> None:
        self.stats = RewardStats()

    def take(self, num_prompts: int, version: int) -> list[GradedGroup]:
        """The groups of the next num_prompts prompts, in the order of their draws, all sampled from `version`."""
        cfg, roll = self.ctx.cfg, self.ctx.cfg.rollout
        prompts_P = self.stream.take(num_prompts)
        self.draws.look_at(prompts_P)
        seeds_PG = [[sample_seed(cfg.seed, "grpo", p.draw, i) for i in range(cfg.grpo.group_size)] for p in prompts_P]
        params = self.ctx.sample_params(
            temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens
        )
        graded_P = sample_and_grade(self.ctx, self.scorer, prompts_P, seeds_PG, params, self.stats, version)
        refuse_wrong_ends(graded_P, params)
        return graded_P


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
    """A group with its rewards for each prompt, in order; seeds_PG: a seed for each sample.

    ends: a completion's text is cut where one of these begins, before the rewards read it. Its tokens stay.
    Raises AhaError when a group is lost, or was sampled from another version than the one given.
    """
    requests = [SampleRequest(i, p.token_ids, seeds_PG[i]) for i, p in enumerate(prompts_P)]

    def arriving() -> Iterator[tuple[int, list[Rollout]]]:
        for i, rollouts_G in ctx.backend.rollouts(requests, params):
            yield i, [replace(r, text=before(r.text, ends)) for r in rollouts_G] if ends else rollouts_G
            stats.look_at(ctx.backend.queue())  # the group is with its reward workers by now

    return grade_arriving(ctx.backend, scorer, prompts_P, arriving(), stats, version)


def grade_arriving(
    workers: RewardWorkers,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    arriving: Iterable[tuple[int, list[Rollout]]],
    stats: RewardStats,
    version: int | None = None,
) -> list[GradedGroup]:
    """sample_and_grade for rollouts that arrive from anywhere, each group as (index of its prompt, rollouts)."""
    waiting: dict[int, tuple[RolloutGroup, Callable[[], RewardReport]]] = {}
    for i, rollouts_G in arriving:
        group = RolloutGroup(prompts_P[i], rollouts_G)
        refuse_other_versions(group, version)
        # A teacher's endpoint may leave a prompt without any answer: then there is nothing to ask the rewards.
        names = scorer.applying(group.prompt, version)
        waiting[i] = (group, workers.ask_rewards(group, names) if rollouts_G else lambda: RewardReport([]))
    if missing := len(prompts_P) - len(waiting):
        raise AhaError(f"{missing} of {len(prompts_P)} groups never came back from the samplers; prompts lost")
    start = time.perf_counter()
    graded_P = []
    for group, result in (waiting[i] for i in range(len(prompts_P))):
        report = result()
        stats.add(report)
        graded_P.append(scorer.grade(group, report.parts_G))
    stats.seconds += time.perf_counter() - start
    return graded_P


def refuse_other_versions(group: RolloutGroup, version: int | None) -> None:
    """Raise AhaError for rollouts of other weights than those that the loop sent; None: of any."""
    others = {r.policy_version for r in group.rollouts_G} - {version}
    if version is not None and others:
        raise AhaError(
            f"prompt {group.prompt.id}: rollouts of policy version {sorted(others)}, but the loop sent {version}"
        )
