"""Countdown, TinyZero's task: reach a number from three or four others. Qwen2.5-3B learns it by RL alone.

    aha run recipes/countdown.py

Sources: TinyZero (github.com/Jiayi-Pan/TinyZero) for the task, the model and the two lengths; nano-aha-moment
(github.com/McGill-NLP/nano-aha-moment) for GRPO on it: 16 prompts x 4 samples, learning rate 1e-6, KL 0.001, 1,024 new
tokens, 1,000 steps, about 60 % in the end.
Hardware: two GPUs of 80 GB, or one of 141 GB, on which learner and sampler take turns.
Deliberately different: TinyZero's own script is PPO with a critic; nano-aha-moment sums the loss over tokens and pays
half for half of the form, here each sample counts alike and the form is R1's, paid whole or not; problems are made
here, not downloaded; top-p is 1; what the sampler and the learner differ in is corrected by truncated importance
weights (grpo.importance).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from fractions import Fraction

from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
)

TRAIN, HELD_OUT = 50_000, 128
HELD_OUT_PERCENT = 5


def recipe() -> RunConfig:
    """Called by `aha run recipes/countdown.py`."""
    return RunConfig(
        name="countdown-3b",
        model=ModelConfig(path="Qwen/Qwen2.5-3B", context_length=2048),
        prompts=DataConfig(source="recipes.countdown:train"),
        rewards=(RewardConfig("countdown", options=("use_all=true",)), RewardConfig("format")),
        rollout=RolloutConfig(max_new_tokens=1024),
        grpo=GRPOConfig(
            steps=1000,
            prompts_per_step=16,
            group_size=4,
            kl_coef=0.001,
            ref_refresh_steps=0,
            optim=OptimConfig(lr=1e-6),
        ),
        evaluation=EvalConfig(data=DataConfig(source="recipes.countdown:held_out"), every=50, samples=1),
        learner=LearnerConfig(zero_stage=1, micro_batch_tokens=16_384, gradient_checkpointing=True),
        sampler=SamplerConfig(enforce_eager=False),
    )


def train() -> list[dict[str, object]]:
    """Solvable problems of three and four numbers to train on."""
    return problems(TRAIN, "train")


def held_out() -> list[dict[str, object]]:
    """Problems that share no set of numbers with those of train()."""
    return problems(HELD_OUT, "eval")


def problems(count: int, split: str) -> list[dict[str, object]]:
    """count solvable problems, half with three numbers and half with four. split: "train" or "eval"."""
    rng = random.Random(f"countdown {split}")
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        numbers = sorted(rng.randint(1, 99) for _ in range(3 + len(rows) % 2))
        if _held_out(numbers) != (split == "eval"):
            continue
        target = _reachable(numbers, rng)
        if target is None:
            continue
        rng.shuffle(numbers)
        question = (
            f"Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic "
            "operations (+, -, *, /) and each number can only be used once"
        )
        rows.append({"prompt": question, "answer": str(target), "target": str(target), "numbers": numbers})
    return rows


def _held_out(numbers: list[int]) -> bool:
    return int(hashlib.sha256(repr(numbers).encode()).hexdigest()[:8], 16) % 100 < HELD_OUT_PERCENT


def _reachable(numbers: list[int], rng: random.Random) -> int | None:
    """A whole number from 10 to 100 that some order of the numbers and signs gives, drawn by rng."""
    order = rng.sample(numbers, len(numbers))
    found = set()
    for signs in itertools.product("+-*/", repeat=len(order) - 1):
        value = Fraction(order[0])
        for sign, number in zip(signs, order[1:], strict=True):
            value = {
                "+": value + number, "-": value - number, "*": value * number, "/": value / number,
            }[sign]  # fmt: skip
        if value.denominator == 1 and 10 <= value <= 100:
            found.add(int(value))
    return rng.choice(sorted(found)) if found else None
