"""A game of several turns, in minutes on a CPU: guess a number from 1 to 15, told higher or lower after each guess.

The model has a million parameters and starts from random weights. SFT on games of a poor player teaches it the form;
GRPO teaches it to win, and to need fewer turns. It is tested on numbers that no training game had.
"""

import random
import re

from rl.config import (
    CheckpointConfig,
    DataConfig,
    EnvironmentConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    SFTConfig,
    TrackConfig,
)

NUMBERS, HELD_OUT, TURNS = range(1, 16), (3, 8, 13), 6
ASKED, AROUND = "game {}: guess 1 to 15:", " {reply}:"
Row = dict[str, object]


class Guess:
    """Higher or lower. A win earns more the fewer guesses it took."""

    def reset(self, number: int, **row: object) -> None:
        self.number, self.guesses, self.won = number, 0, False

    def reply(self, text: str) -> str | None:
        found = re.fullmatch(r"\s*(\d+)\s*", text)
        self.guesses += 1
        self.won = bool(found) and int(found[1]) == self.number
        if self.won:
            return None
        return "say a number" if not found else "higher" if int(found[1]) < self.number else "lower"

    def get_reward(self) -> float:
        return 1.0 - 0.1 * (self.guesses - 1) if self.won else 0.0


def games(numbers: list[int], first: int, count: int) -> list[Row]:
    """Games by their number, the secret ones in turn."""
    secret = [numbers[i % len(numbers)] for i in range(count)]
    return [
        {"prompt": ASKED.format(first + i), "answer": str(number), "number": number} for i, number in enumerate(secret)
    ]


def train() -> list[Row]:
    """2,000 games with the numbers to train on."""
    return games([n for n in NUMBERS if n not in HELD_OUT], 1_000, 2_000)


def held_out() -> list[Row]:
    """90 games with the other numbers."""
    return games(list(HELD_OUT), 5_000, 90)


def played() -> list[Row]:
    """4,000 games of a player who minds the answers half of the time, as text to learn."""
    player, texts = random.Random(0), []
    for row in train() * 2:
        low, high, text, game = 1, 15, str(row["prompt"]), Guess()
        game.reset(int(str(row["number"])))
        for _ in range(TURNS):
            guess = player.randint(low, high) if player.random() < 0.5 else player.randint(1, 15)
            text += f"{guess}<|end|>"
            told = game.reply(str(guess))
            if told is None:
                break
            low, high = (max(low, guess + 1), high) if told == "higher" else (low, min(high, guess - 1))
            text += AROUND.format(reply=told)
        texts.append({"text": text})
    return texts


def recipe() -> RunConfig:
    """Called by `aha run recipes/guess.py`."""
    train_data = DataConfig(source="recipes.guess:train", template="plain")
    return RunConfig(
        name="guess",
        model=ModelConfig(path="recipes.tiny_model:quick", dtype="float32"),
        prompts=train_data,
        environments=(
            EnvironmentConfig(
                "recipes.guess:Guess", call="text", max_turns=TURNS, max_reply_tokens=16, timeout_s=10, frame=AROUND
            ),
        ),
        rollout=RolloutConfig(max_new_tokens=40),
        sft=SFTConfig(
            steps=150,
            examples_per_step=32,
            data=DataConfig(source="recipes.guess:played", text_field="text"),
            optim=OptimConfig(lr=2e-3, warmup_steps=10),
        ),
        grpo=GRPOConfig(
            steps=40, prompts_per_step=16, group_size=8, kl_coef=0.0, clip_high=0.28, optim=OptimConfig(lr=3e-4)
        ),
        evaluation=EvalConfig(
            data=DataConfig(source="recipes.guess:held_out", template="plain"), every=10, samples=2, temperature=1.0
        ),
        learner=LearnerConfig(micro_batch_tokens=8192),
        sampler=SamplerConfig(kv_cache_gib=1.0),
        checkpoint=CheckpointConfig(every=20),
        track=TrackConfig(wandb="off"),
    )
