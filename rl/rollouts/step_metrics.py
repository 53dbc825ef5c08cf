"""Metrics of one step: the time of its rewards, the length of its queues, the age of its rollouts, its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rl.data.versions import spans, versions_T
from rl.types import PackedBatch, Queue, RewardReport, ScoredGroup


@dataclass
class RewardStats:
    """seconds: waited for rewards after the last rollout had arrived. killed, replaced, truncated: sums over the groups
    (rl.types.RewardReport). longest: the longest queues, looked at whenever a group came back from a sampler. ready:
    groups that were there, sampled, when the learners asked for them.
    """

    seconds: float = 0.0
    killed: int = 0
    replaced: int = 0
    truncated: int = 0
    longest: Queue = field(default_factory=Queue)
    ready: int = 0

    def add(self, report: RewardReport) -> None:
        self.killed += report.killed
        self.replaced += report.replaced
        self.truncated += report.truncated

    def look_at(self, queue: Queue) -> None:
        self.longest = Queue(
            max(self.longest.waiting, queue.waiting),
            max(self.longest.sampling, queue.sampling),
            max(self.longest.awaiting_rewards, queue.awaiting_rewards),
        )

    def metrics(self) -> dict[str, float]:
        return {
            "seconds/rewards": self.seconds,
            "reward_calls/killed": float(self.killed),
            "reward_calls/replaced": float(self.replaced),
            "reward_calls/truncated": float(self.truncated),
            "queue/waiting_max": float(self.longest.waiting),
            "queue/sampling_max": float(self.longest.sampling),
            "queue/awaiting_rewards_max": float(self.longest.awaiting_rewards),
        }


def staleness(groups_P: Sequence[ScoredGroup], version: int) -> dict[str, float]:
    """How many versions older than the policy that they train the rollouts are.

    Rollouts of versions 3, 3 and 5, trained at version 5 -> mean 4/3, max 2.
    """
    behind = [version - r.policy_version for g in groups_P for r in g.group.rollouts_G]
    return {"rollout/staleness_mean": sum(behind) / len(behind), "rollout/staleness_max": float(max(behind))}


def version_metrics(groups_P: Sequence[ScoredGroup], version: int, updates_per_step: int = 1) -> dict[str, float]:
    """How old the tokens are that this version trains on, where they may be older. updates_per_step: a version is so
    many optimiser updates younger than the one before it.

    Two rollouts trained at version 5, of 4 tokens from 3, and of 2 from 4 and 2 from 5 -> a token is 10/8 steps old (5
    updates, with 4 a step), a rollout has 1.5 versions, and 2/8 of the tokens are fresh.
    """
    rollouts = [r for g in groups_P for r in g.group.rollouts_G]
    behind_T = version - np.concatenate([versions_T(r) for r in rollouts])
    return {
        "rollout/staleness_tokens": (age := float(behind_T.mean()) if len(behind_T) else 0.0),
        "rollout/staleness_updates": age * updates_per_step,
        "rollout/versions_mean": float(np.mean([len(spans(r)) for r in rollouts])),
        "rollout/fresh_share": float(np.mean(behind_T == 0)) if len(behind_T) else 0.0,
    }


def batch_metrics(updates_U: Sequence[PackedBatch]) -> dict[str, float]:
    """Sums over the updates of a step; the shares are their means."""
    return {
        "batch/tokens": float(sum(u.num_tokens for u in updates_U)),
        "batch/loss_tokens": float(sum(u.num_loss_tokens for u in updates_U)),
        "batch/skipped_rollouts": float(sum(u.num_skipped for u in updates_U)),
        "batch/padding_share": float(np.mean([u.padding_share for u in updates_U])),
        "batch/shared_share": float(np.mean([u.shared_share for u in updates_U])),
        "batch/micro_batches": float(sum(len(rank) for u in updates_U for rank in u.micro_batches_R)),
    }
