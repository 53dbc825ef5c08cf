"""Whether sampler and learner compute with the same weights: a few tokens, sampled and then scored.

A weight sync's checksums say what arrived at a sampler, not what it computes with. A tied head that keeps its old
weights, experts that are packed once and never again, a layer that an update does not reach: all tensors arrive, and
the samples come from another model. Each step's gap (grpo.max_logprob_gap) would tell when such a sampler is far off.
Soon after the start it is near, because small updates move little. So what an update moved is looked at by itself:

    sampled again, with the seeds of the step and the new weights, a completion begins with the same tokens as before.
    moved    how far the learner's logprobs of these tokens are now from what the sampler said before the update
    missed   how far they are from what the sampler says now

A sampler that has the update misses by as little as it did before. One that has it not, or not all, misses by a good
part of what moved.

Axis suffixes: _P groups, _G samples, _T tokens, _R learner ranks.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.config import RunConfig
from rl.context import Context
from rl.data.packing import pack
from rl.types import AhaError, MicroBatch, Rollout, RolloutGroup, SampleRequest, ScoredGroup

log = logging.getLogger(__name__)

PROMPTS, SAMPLES, TOKENS = 2, 2, 32
"""What is sampled after an update: prompts (at least one a sampler), samples of each, tokens of each."""
FEWEST = 8
"""Tokens that must be the same before and after an update to say what it moved."""
GREW, SHARE = 4.0, 0.01
"""A sampler lacks an update when it misses by over GREW times its gap before and by over SHARE of what moved."""
NOTHING = {"float32": 1e-5}
"""A miss that is never a fault, nats; NOTHING_ELSE in other precisions."""
NOTHING_ELSE = 1e-3


# ------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class Agreement:
    """Sampler and learner on the same tokens after an update, nats.

    gap: mean |sampler - learner| of all tokens. common: tokens that the sampler drew before the update too; moved,
    missed: medians over these.
    """

    tokens: int
    gap: float
    common: int
    moved: float
    missed: float

    def fault(self, cfg: RunConfig, gap_before: float) -> str:
        """What shows that the sampler computes with other weights; "" when nothing does.

        gap_before: mean |sampler - learner| before the update.
        """
        if not self.gap <= cfg.gap_limit:
            return (
                f"on {self.tokens} tokens sampled after it, sampler and learner differ by {self.gap:.1e} nats in the "
                f"mean; the limit is {cfg.gap_limit:g}"
            )
        nothing = NOTHING.get(cfg.model.dtype, NOTHING_ELSE)
        if self.common >= FEWEST and self.missed > max(GREW * gap_before + nothing, SHARE * self.moved):
            return (
                f"the update moved the learner's logprobs by {self.moved:.1e} nats, and the sampler's miss them by "
                f"{self.missed:.1e}; before the update they differed by {gap_before:.1e} (medians over {self.common} "
                "tokens)"
            )
        return ""


def agreement(old_G: Sequence[Rollout], new_G: Sequence[Rollout], learner_G: Sequence[np.ndarray]) -> Agreement:
    """old_G, new_G: the same samples before and after the update. learner_G: the learner's logprobs of the latter."""
    gaps, moved, missed = [], [], []
    for old, new, learner_T in zip(old_G, new_G, learner_G, strict=True):
        n = common_tokens(old.token_ids_T, new.token_ids_T)
        gap_T = np.abs(learner_T - new.logprobs_T)
        gaps.append(gap_T)
        missed.append(gap_T[:n])
        moved.append(np.abs(learner_T[:n] - old.logprobs_T[:n]))
    every, before, after = (np.concatenate(parts) for parts in (gaps, moved, missed))
    medians = (float(np.median(part)) if len(part) else math.nan for part in (before, after))
    return Agreement(len(every), float(every.mean()), len(after), *medians)


def common_tokens(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two completions have in common from the start. [3, 4, 5], [3, 4, 6, 7] -> 2."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n


# ------------------------------------------------------------------------------------------------ on the machines


def check_update(ctx: Context, scored_P: Sequence[ScoredGroup], gap_before: float, version: int) -> None:
    """Sample a little from the weights of this version and compare. scored_P: sampled just before the update.

    Raises AhaError when a sampler computes with other weights than the learner. Samples and weights of
    the run stay as they would be without this check: each request has a seed of its own, and the samplers forget the
    prompts that they saw here.
    """
    count = max(PROMPTS, ctx.cfg.sampler.count)
    before_P = [RolloutGroup(s.group.prompt, s.group.rollouts_G[:SAMPLES]) for s in scored_P[:count]]
    before_P = [group for group in before_P if group.rollouts_G]
    with ctx.timed("check"):
        after_P = _sampled_again(ctx, before_P)
        ctx.backend.forget_prompts()
        learner_PG = score_groups(ctx.backend.score, ctx.cfg, ctx.backend.layout, after_P)
    old_G, new_G = ([r for group in groups for r in group.rollouts_G] for groups in (before_P, after_P))
    found = agreement(old_G, new_G, [logprobs_T for group in learner_PG for logprobs_T in group])
    if fault := found.fault(ctx.cfg, gap_before):
        raise AhaError(
            f"weight sync {version}: every tensor arrived, but the samplers compute with other weights: {fault}. Their "
            "rollouts would come from another model. `aha doctor` with this recipe says which part; the last good "
            "checkpoint is untouched"
        )
    log.info(
        "the samplers compute with version %d: it moved the learner's logprobs by %.1e nats, and theirs miss them by "
        "%.1e (medians over %d tokens)",
        version, found.moved, found.missed, found.common,
    )  # fmt: skip


def check_gap(ctx: Context, scored_P: Sequence[ScoredGroup]) -> tuple[float, float]:
    """(mean, largest) sampler-learner gap of a few samples that are drawn now, of a step's prompts, for steps whose own
    tokens are all of older weights. Raises AhaError as the learner does when it is too large.
    """
    groups_P = [RolloutGroup(s.group.prompt, s.group.rollouts_G[:SAMPLES]) for s in scored_P[:PROMPTS]]
    with ctx.timed("check"):
        sampled_P = _sampled_again(ctx, groups_P)
        return ctx.backend.measure_gap(micro_batches(ctx.cfg, ctx.backend.layout, sampled_P))


def _sampled_again(ctx: Context, groups_P: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The same samples, with the samplers' present weights and at most TOKENS tokens."""
    roll = ctx.cfg.rollout
    requests = [
        SampleRequest(i, group.prompt.token_ids, [r.seed for r in group.rollouts_G]) for i, group in enumerate(groups_P)
    ]
    params = ctx.sample_params(
        temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=min(roll.max_new_tokens, TOKENS)
    )
    params = dataclasses.replace(params, salt="check")  # prompts that are cached here are nobody else's
    found = dict(ctx.backend.rollouts(requests, params))
    return [RolloutGroup(group.prompt, found[i]) for i, group in enumerate(groups_P)]


def gap_of(ctx: Context, scored_P: Sequence[ScoredGroup], version: int | None = None) -> tuple[float, float]:
    """(mean, largest) sampler-learner gap on a few rollouts, for a step that trains on none; NaN without a verdict.

    version: the learner's, where rollouts may be of others, whose tokens do not count.
    """
    groups_P = [s.group for s in scored_P if any(s.valid_G)][:4]
    batch_R = micro_batches(ctx.cfg, ctx.backend.layout, groups_P, version)
    return ctx.backend.measure_gap(batch_R) if any(batch_R) else (math.nan, math.nan)


# ------------------------------------------------------------------------------------------------ scoring


def score_groups(score, cfg: RunConfig, layout: str, groups_P: Sequence[RolloutGroup]) -> list[list[np.ndarray]]:  # type: ignore[no-untyped-def]
    """The learner's logprobs of each sample's tokens. score: Backend.score."""
    batch_R = micro_batches(cfg, layout, groups_P)
    found: dict[int, np.ndarray] = {}
    for mine, scored in zip(batch_R, score(batch_R), strict=True):
        for mb, logprobs_M in zip(mine, scored, strict=True):
            number_M = mb.advantages_T[mb.loss_mask_T > 0].astype(int)
            found |= {number: logprobs_M[number_M == number] for number in dict.fromkeys(number_M.tolist())}
    empty, number, out = np.zeros(0, np.float32), 0, []
    for group in groups_P:
        size = len(group.rollouts_G)
        out.append([found.get(number + i + 1, empty) for i in range(size)])
        number += size
    return out


def micro_batches(
    cfg: RunConfig, layout: str, groups_P: Sequence[RolloutGroup], version: int | None = None
) -> list[list[MicroBatch]]:
    """All the groups' samples, by rank. A sample's advantage is its number, from 1."""
    scored, number = [], 1
    for group in groups_P:
        size = len(group.rollouts_G)
        numbers = [float(number + i) for i in range(size)]
        scored.append(ScoredGroup(group, [0.0] * size, [{}] * size, numbers, [True] * size, False))
        number += size
    one_update = dataclasses.replace(cfg.grpo, updates_per_step=1, overlong="keep")
    most = max(cfg.rollout.max_new_tokens, 1)
    batches_U = pack(
        scored, grpo=one_update, learner=cfg.learner, max_new_tokens=most, layout=layout, seed=0, version=version
    )
    return batches_U[0].micro_batches_R
