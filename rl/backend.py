"""What a stage may ask of the machines. rl.workers.cluster.ray_backend.RayBackend implements it; unit tests use one
in-process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from rl.config import DistillConfig, GRPOConfig, OptimConfig, RewardTrainConfig, RunConfig
from rl.types import (
    Hardware,
    MicroBatch,
    PackedBatch,
    Queue,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    StepStats,
    SyncReport,
)


@dataclass(frozen=True, slots=True)
class Task:
    """What the learners are set up for: GRPO, a reward model, or else SFT. Paths are Hugging Face folders or ids.

    teacher_path: a frozen model to distil from; in SFT as distill says, in GRPO on the policy's own samples.
    """

    model_path: str
    optim: OptimConfig
    total_updates: int
    grpo: GRPOConfig | None = None
    reference_path: str = ""
    teacher_path: str = ""
    distill: DistillConfig | None = None
    reward: RewardTrainConfig | None = None


@dataclass(frozen=True, slots=True)
class SampleParams:
    """How to sample. temperature 0 is greedy; stop_token_ids end a completion and belong to it.

    only: tokens that may be sampled; empty: all. `aha doctor` forces the end token with it.
    top_logprobs: so many of each token's likeliest alternatives come back in Rollout.top; 0: none.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    only: tuple[int, ...] = ()
    top_logprobs: int = 0


class RewardWorkers(Protocol):
    """Rewards alone, for a stage that starts no machines: rl.scoring.reward_processes.LocalRewardWorker, for one."""

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        """Ask these rewards about a group; the result waits, within a bound, for what they say."""

    def close(self) -> None:
        """Stop every worker."""


class Backend(Protocol):
    """Learners and samplers. Every wait inside is bounded; a failure raises AhaError and names who did not answer."""

    num_ranks: int
    layout: str

    def start(self, model_path: str, context_length: int) -> None:
        """Start every worker. Samplers take the model's architecture from model_path and wait for weights."""

    def adopt(self, cfg: RunConfig) -> None:
        """Go on with the next stage's settings: new rewards; the workers stay. Their own settings must be the same."""

    def load(self, task: Task) -> str:
        """Set the learners up; returns the model's fingerprint."""

    def sync_weights(self, version: int) -> SyncReport:
        """Push the learners' weights to every sampler, as this version, and check that they arrived."""

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (request.group, its rollouts) as groups finish, in any order."""

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        """Ask these rewards about a group; the result waits, within a bound, for what they say."""

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        """Train: one optimiser update for each batch."""

    def measure_gap(self, micro_batches_R: list[list[MicroBatch]]) -> tuple[float, float]:
        """Mean and largest |sampler - learner logprob|, nats, without training."""

    def mean_nll(self, micro_batches_R: list[list[MicroBatch]]) -> float:
        """Mean negative log likelihood of the learnt tokens, nats, without training."""

    def publish(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's numbers where the machines are watched, unless track.gauges is off."""

    def queue(self) -> Queue:
        """Where the groups under way are; at once, and from any thread."""

    def hardware(self) -> Hardware:
        """The nodes and GPUs that the workers hold now; at once."""

    def memory(self) -> dict[str, float]:
        """memory/learner_gib and memory/sampler_gib, of the largest of each; with a device also memory/..._device_gib.

        The first is resident memory, the second what is in use on the device by all. Empty when a worker is gone.
        """

    def scores(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        """What a reward model says of each micro-batch of each rank, float32 (M,), without training."""

    def save(self, folder: Path) -> None:
        """Write the learners' whole state into an existing folder."""

    def restore(self, folder: Path) -> None:
        """Load what save wrote."""

    def export(self, folder: Path) -> None:
        """Write the policy in Hugging Face format."""

    def weights_hash(self) -> str:
        """sha256 of the full weights."""

    def close(self) -> None:
        """Stop every worker."""
