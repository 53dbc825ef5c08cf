"""Prompts in, groups with their rewards out, in one call: for evaluation and rejection sampling. A group goes to the
reward workers as soon as it arrives, while the samplers work on the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from rl.backend import RewardWorkers, SampleParams
from rl.context import Context, sample_request
from rl.data.few_shot import before
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.scorer import Scorer
from rl.types import AhaError, GradedGroup, Prompt, RewardReport, Rollout, RolloutGroup


def sample_and_grade(
    ctx: Context,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    seeds_PG: Sequence[list[int]],
    params: SampleParams,
    stats: RewardStats,
    ends: tuple[str, ...] = (),
) -> list[GradedGroup]:
    """A group with its rewards for each prompt, in order; seeds_PG: a seed for each sample.

    ends: a completion's text is cut where one of these begins, before the rewards read it. Its tokens stay.
    Raises AhaError when a group is lost.
    """
    requests = [sample_request(ctx.cfg, i, p, seeds_PG[i]) for i, p in enumerate(prompts_P)]

    def arriving() -> Iterator[tuple[int, list[Rollout]]]:
        for i, rollouts_G in ctx.backend.rollouts(requests, params):
            yield i, [replace(r, text=before(r.text, ends)) for r in rollouts_G] if ends else rollouts_G
            stats.look_at(ctx.backend.queue())  # the group is with its reward workers by now

    return grade_arriving(ctx.backend, scorer, prompts_P, arriving(), stats)


def grade_arriving(
    workers: RewardWorkers,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    arriving: Iterable[tuple[int, list[Rollout]]],
    stats: RewardStats,
) -> list[GradedGroup]:
    """sample_and_grade for rollouts that arrive from anywhere, each group as (index of its prompt, rollouts)."""
    waiting: dict[int, tuple[RolloutGroup, Callable[[], RewardReport]]] = {}
    for i, rollouts_G in arriving:
        group = RolloutGroup(prompts_P[i], rollouts_G)
        # A teacher's endpoint may leave a prompt without any answer: then there is nothing to ask the rewards.
        names = scorer.applying(group.prompt)
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
