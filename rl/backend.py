"""What a stage can ask of the machines. RayBackend (rl.workers.cluster.ray_backend) implements it with Ray actors, unit
tests in their own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from rl.config import DistillConfig, EnvironmentConfig, GRPOConfig, OptimConfig, RewardTrainConfig, RunConfig
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
    """What the learners train. With grpo: GRPO. With reward: a reward model. With neither: SFT.

    Paths are Hugging Face folders or ids. reference_path: the model that the KL penalty compares with; "" for the model
    at model_path. teacher_path: a frozen model to distil from. SFT distils as `distill` says, GRPO on the policy's own
    samples. total_updates: optimiser updates until the end of the learning-rate schedule.
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
class Frame:
    """Tokens around an environment's answers to one turn: before the first, between two, after the last."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AroundAnswers:
    """An environment, and how its answers are put to the model: those of reply(), and those of tools.

    stop: texts that end a turn, beside SampleParams.stop.
    """

    environment: EnvironmentConfig
    reply: Frame
    tool: Frame
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleParams:
    """How to sample.

    temperature: 0 is greedy. stop: texts that end a completion. stop_token_ids: tokens that end a completion and are
    its last token. only: the tokens that may be sampled; empty for all (`aha doctor` forces the end token this way).
    top_logprobs: how many of the likeliest tokens at each position to return in Rollout.top. salt: requests share
    cached prompts with those of the same salt alone. environments: those that SampleRequest.environment means.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    only: tuple[int, ...] = ()
    top_logprobs: int = 0
    salt: str = ""
    environments: tuple[AroundAnswers, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplerReport:
    """A sampler's answer to poll: finished groups (address -> rollouts) and how it stands.

    decode_steps: how many it has made since it started. Each adds a token to every sequence that is being sampled.
    """

    finished: dict[int, list[Rollout]]
    running: int
    decode_steps: int
    policy_version: int


Arrived = Callable[[int, list[Rollout]], None]
"""Called with a group's address and its rollouts, once they are all there."""


class RewardWorkers(Protocol):
    """Rewards alone, for a stage that starts no learners and no samplers.

    rl.scoring.reward_processes.LocalRewardWorker implements it.
    """

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        """Ask the named rewards about a group. Returns a function that waits, within a bound, for their report."""

    def close(self) -> None:
        """Stop every worker."""


class Backend(Protocol):
    """Learners, samplers and rewards. Every wait is bounded. A failure raises AhaError and names the worker.

    num_ranks: learner ranks. layout: how the learners want sequences laid out, "rows", "packed" or "shared"; known
    for a task once it is loaded. sent: the report of the last weight sync.
    """

    num_ranks: int
    layout: str
    sent: SyncReport

    def start(self, model_path: str, context_length: int) -> None:
        """Start every worker. Samplers take the architecture from model_path, and weights from the first sync."""

    def adopt(self, cfg: RunConfig) -> None:
        """Go on with the next stage's settings. Rewards may change; learners and samplers keep running as they are."""

    def load(self, task: Task) -> str:
        """Load the task's models into the learners. Returns a hash that tells one model from another."""

    def sync_weights(self, version: int) -> SyncReport:
        """Send the learners' weights to every sampler as this version, and check that they arrived.

        No rollout may be running, unless rollout.in_flight: then those that run go on with the new weights.
        """

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (request.group, its rollouts) as groups finish, in any order."""

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        """Have groups sampled beside all else. arrived(request.group, its rollouts) is called for each as it finishes,
        in any order, from within whatever later call waits for something.
        """

    def pump(self) -> None:
        """Wait until a sampler has said something. Raises AhaError when none was asked."""

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        """Ask the named rewards about a group. Returns a function that waits, within a bound, for their report."""

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        """Train: one optimiser update for each batch. What was submitted is sampled meanwhile."""

    def train(self, updates_U: Sequence[PackedBatch]) -> Callable[[], StepStats]:
        """Begin what step does. Returns a function that waits for the end of it."""

    def measure_gap(self, micro_batches_R: list[list[MicroBatch]]) -> tuple[float, float]:
        """(mean, largest) |sampler logprob - learner logprob| in nats, without training."""

    def score(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        """The learners' logprobs, float32 (M,), of the tokens in each micro-batch's loss mask, by rank."""

    def forget_prompts(self) -> None:
        """Empty the samplers' caches of prompts. No rollout may be running."""

    def mean_nll(self, micro_batches_R: list[list[MicroBatch]]) -> float:
        """Mean negative log likelihood of the tokens with loss_mask_T 1, in nats, without training."""

    def publish(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics on the cluster's Prometheus gauges, unless track.gauges is off."""

    def queue(self) -> Queue:
        """How many groups are waiting, sampling and scoring now. Answers at once and may be called from any thread."""

    def busy(self) -> dict[str, float]:
        """samplers/busy_s: for how many of the seconds since the last call the samplers had work, their mean.
        samplers/idle_share: the rest, as a share of that time.
        """

    def hardware(self) -> Hardware:
        """The nodes and GPUs that the workers hold now. Answers at once."""

    def memory(self) -> dict[str, float]:
        """GiB of the largest learner rank and the largest sampler, by metric name. Empty when a worker has died.

        memory/learner_gib, memory/sampler_gib: resident memory of its processes.
        memory/learner_device_gib, memory/sampler_device_gib: what all processes together use on its GPU; only on GPUs.
        """

    def scores(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        """The scores that a reward model in training gives, float32 (M,), for each rank's micro-batches."""

    def save(self, folder: Path) -> None:
        """Write the learners' whole state, optimiser included, into an existing folder."""

    def restore(self, folder: Path) -> None:
        """Load what save wrote."""

    def export(self, folder: Path) -> None:
        """Write the policy in Hugging Face format."""

    def weights_hash(self) -> str:
        """sha256 of the full weights."""

    def close(self) -> None:
        """Stop every worker."""
