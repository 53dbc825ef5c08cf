"""What the rollout queue refuses, and the groups that wait in a checkpoint for the steps that will train on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.config import RolloutConfig
from rl.data.versions import spans
from rl.records.rollout_files import read_rollouts, write_rollouts
from rl.scoring.scorer import Scorer
from rl.types import AhaError, BadInput, GradedGroup, Prompt, RolloutGroup

WAITING = "waiting_rollouts.parquet"
"""In a checkpoint: groups that older weights than its own have sampled."""


# ------------------------------------------------------------------------------------------------ versions


def refuse_other_versions(group: RolloutGroup, version: int, *, in_flight: bool = False) -> None:
    """Raise AhaError for rollouts of other weights than those that the loop sent, or, in flight, of older ones."""
    found = {v for r in group.rollouts_G for _, v in spans(r)}
    others = sorted(v for v in found if v < version or (v > version and not in_flight))
    if others:
        raise AhaError(f"prompt {group.prompt.id}: rollouts of policy version {others}, but the loop sent {version}")


def refuse_old(group: RolloutGroup, version: int, staleness: int) -> None:
    """Raise AhaError for a group with a sample whose first token is older than the bound."""
    oldest = min((r.policy_version for r in group.rollouts_G), default=version)
    if version - oldest > staleness:
        raise AhaError(
            f"prompt {group.prompt.id}: sampled by policy version {oldest} and trained on at {version}, which "
            f"rollout.staleness={staleness} rules out; this is a fault of rl/rollouts/queue.py"
        )


# ------------------------------------------------------------------------------------------------ checkpoints


def mode_of(roll: RolloutConfig) -> dict[str, int]:
    """How rollouts and training go on beside each other, for a checkpoint's cursor."""
    return {"staleness": roll.staleness, "in_flight": int(roll.in_flight)}


def refuse_other_mode(roll: RolloutConfig, cursor: dict[str, int]) -> None:
    """Raise BadInput for the cursor of a checkpoint that was written in another mode."""
    for name, now in mode_of(roll).items():
        if cursor.get(name, 0) != now:
            raise BadInput(
                f"cannot resume: the checkpoint was written with rollout.{name}={cursor.get(name, 0)}, not {now}: what "
                "was under way would be lost or repeated. Use that setting, or another name=... for a new run"
            )


def write_waiting(checkpoint: Path, graded_P: Sequence[GradedGroup]) -> None:
    """Write the groups, each number as it is, into a checkpoint that is being made."""
    write_rollouts(checkpoint / WAITING, 0, graded_P, full_precision=True)


def read_waiting(checkpoint: Path, scorer: Scorer, prompts_P: Sequence[Prompt]) -> list[GradedGroup]:
    """What write_waiting wrote; prompts_P: the groups' prompts."""
    found = read_rollouts(checkpoint / WAITING, prompts_P, [scorer.names] * len(prompts_P))
    return [scorer.grade(group, parts_G) for group, parts_G in found]
