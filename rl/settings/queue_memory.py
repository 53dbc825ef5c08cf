"""How much of the driver's memory the rollouts that are under way may take."""

from __future__ import annotations

from rl.config import RunConfig
from rl.types import BadInput

BYTES_OF_A_TOKEN, BYTES_OF_A_SAMPLE = 12, 2048
"""A token: its number, its logprob and about four bytes of text. A sample: its objects and its rewards."""


def queue_bytes(cfg: RunConfig) -> int:
    """What all groups under way hold in the driver when each sample is as long as it may be."""
    samples = (cfg.rollout.staleness + 1) * cfg.grpo.rollouts_per_step
    return samples * (cfg.rollout.max_new_tokens * BYTES_OF_A_TOKEN + BYTES_OF_A_SAMPLE)


def refuse_large_queue(cfg: RunConfig, memory: float) -> None:
    """Raise BadInput when the groups under way may need more than the driver's memory, bytes."""
    if cfg.grpo.steps and cfg.rollout.staleness and queue_bytes(cfg) > memory:
        samples = (cfg.rollout.staleness + 1) * cfg.grpo.rollouts_per_step
        raise BadInput(
            f"rollout.staleness={cfg.rollout.staleness}: up to {samples:,} samples of {cfg.rollout.max_new_tokens:,} "
            f"tokens are under way and may take {queue_bytes(cfg) / 2**30:.0f} GiB of the driver, which has "
            f"{memory / 2**30:.0f}; lower it, grpo.prompts_per_step or rollout.max_new_tokens"
        )
