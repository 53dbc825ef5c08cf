"""What both sides of grpo_step.py share: the settings, the reward, the phases, the result.

Needs only the standard library, because TRL's side runs in an environment that does not hold Aha.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BENCH = REPO / ".bench"
PHASES = ("rollout", "scoring", "update", "sync", "other")
"""rollout: sampling. scoring: rewards, advantages, packing, old logprobs. update: forward, backward, clipping and AdamW.
sync: learner to sampler. other: the rest of the step's wall clock."""


@dataclass(frozen=True)
class Settings:
    """One configuration, the same on both sides. The last block alone belongs to one side."""

    model: str
    model_dir: str
    prompts_file: str
    prompts_source: str
    prompts: int = 32
    group_size: int = 8
    max_prompt_tokens: int = 256
    max_new_tokens: int = 128
    temperature: float = 1.0
    learning_rate: float = 1e-6
    weight_decay: float = 0.0
    clip: float = 0.2
    max_grad_norm: float = 1.0
    kl_coef: float = 0.0
    loss: str = "grpo"
    dtype: str = "float32"
    threads: int = 2
    seed: int = 1
    steps: int = 1
    warmup_prompts: int = 2
    warmup_new_tokens: int = 8

    trl_micro_batch: int = 8
    trl_weights: str = "float32"
    trl_continuous_batching: bool = False
    aha_micro_batch_tokens: int = 4096

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group_size

    @staticmethod
    def read(path: str) -> Settings:
        return Settings(**json.loads(Path(path).read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def in_words(self) -> list[str]:
        """The settings that hold on both sides, for people."""
        return [
            f"{self.model}: {self.prompts} prompts x {self.group_size} samples, up to {self.max_new_tokens} new tokens, "
            f"one optimiser update; prompts of at most {self.max_prompt_tokens} tokens from {self.prompts_source}",
            f"float32 master weights with {self.dtype} compute (Aha's attention and logits in float32), AdamW at {self.learning_rate:g} (decay "
            f"{self.weight_decay:g}), gradient norm clipped to {self.max_grad_norm:g}, loss {self.loss} with clip "
            f"{self.clip:g}, group std, no KL and no reference model, no gradient checkpointing",
            f"temperature {self.temperature:g}, top-p 1, reward = characters of the completion / 1000, "
            f"{self.threads} threads, seed {self.seed}; {self.steps} measured step(s) a process after a warm-up step of "
            f"{self.warmup_prompts} x {self.group_size} samples of {self.warmup_new_tokens} tokens",
        ]


def length_reward(completion: str) -> float:
    """Characters / 1000. Trivial on purpose, but unequal inside nearly every group, so that all rollouts train.

    length_reward("abcd") -> 0.004
    """
    return len(completion) / 1000


def trained_rollouts(rewards: Sequence[float], group_size: int) -> int:
    """How many rollouts lie in groups whose rewards differ, the groups being neighbours.

    trained_rollouts([1, 2, 3, 3], group_size=2) -> 2
    """
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    return sum(len(group) for group in groups if len(set(group)) > 1)


def read_prompts(path: str) -> list[dict[str, str]]:
    """Rows with "prompt" (already in the model's template) and "answer"."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@dataclass
class StepResult:
    """One measured step. seconds: by phase, and "total". detail: parts of the phases, seconds."""

    seconds: dict[str, float]
    detail: dict[str, float]
    completion_tokens: int
    trained_rollouts: int
    grad_norm: float
    mean_reward: float


@dataclass
class SideResult:
    """What one process writes."""

    side: str
    versions: dict[str, str]
    steps: list[StepResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    peak_rss_mib: float = 0.0

    def write(self, path: str) -> None:
        self.peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")


class Clock:
    """Adds up wall-clock seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def wrap(self, name: str, function: Callable) -> Callable:  # type: ignore[type-arg]
        """The same function, timed under name."""

        def timed(*args, **kwargs):  # type: ignore[no-untyped-def]
            with self.time(name):
                return function(*args, **kwargs)

        return timed

    def take(self) -> dict[str, float]:
        """The sums since the last call."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def with_other(seconds: dict[str, float], total: float) -> dict[str, float]:
    """Complete a step's phases so that they add up to its total.

    with_other({"rollout": 2.0, "update": 1.0}, 3.5) -> rollout 2, scoring 0, update 1, sync 0, other 0.5, total 3.5
    """
    phases = {phase: seconds.get(phase, 0.0) for phase in PHASES}
    phases["other"] = total - sum(phases.values())
    return {**phases, "total": total}


def side_arguments() -> tuple[Settings, str]:
    """The two arguments of a side: the settings' file and the file for the result."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python {Path(sys.argv[0]).name} SETTINGS.json RESULT.json (grpo_step.py writes both)")
    return Settings.read(sys.argv[1]), sys.argv[2]
