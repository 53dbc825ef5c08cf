"""A game of several turns, in minutes on a CPU: guess one of 15 numbers, told higher or lower after each guess.

The model has a million parameters and starts from random weights. SFT on games of a poor player teaches it the form;
GRPO teaches it to win, and to need fewer turns. It is tested on secret numbers that no training game of that range had.
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

LOWEST, SPAN, TURNS = range(1, 7), 14, 6
ASKED, AROUND = "game {}: guess {} to {}:", " {reply}:"
Row = dict[str, object]


class Guess:
    """Higher or lower. A win earns more the fewer guesses it took."""

    def reset(self, number: int, **row: object) -> None:
        self.number, self.guesses, self.won = number, 0, False

    def reply(self, text: str) -> str | None:
        found = re.fullmatch(r"\s*(\d+)\s*", text)
        self.guesses += 1
        if found is None:
            return "say a number"
        self.won = int(found[1]) == self.number
        return None if self.won else "higher" if int(found[1]) < self.number else "lower"

    def get_reward(self) -> float:
        return 1.0 - 0.1 * (self.guesses - 1) if self.won else 0.0


def games(pairs: list[tuple[int, int]], first: int, count: int) -> list[Row]:
    """Games by their number. pairs: (lowest, secret), taken in turn."""
    chosen = [pairs[i % len(pairs)] for i in range(count)]
    return [
        {"prompt": ASKED.format(first + i, low, low + SPAN), "answer": str(secret), "low": low, "number": secret}
        for i, (low, secret) in enumerate(chosen)
    ]


def every_pair(*, held_out: bool) -> list[tuple[int, int]]:
    """(lowest, secret) of one side, mixed. A secret held out with one lowest number is trained on with others."""
    pairs = [(low, low + above) for low in LOWEST for above in range(SPAN + 1)]
    side = [(low, secret) for low, secret in pairs if ((low + secret) % 5 == 0) == held_out]
    return random.Random(1).sample(side, len(side))


def train() -> list[Row]:
    """2,000 games to train on."""
    return games(every_pair(held_out=False), 1_000, 2_000)


def held_out() -> list[Row]:
    """96 games with pairs of lowest number and secret that no training game has."""
    return games(every_pair(held_out=True), 5_000, 96)


def played() -> list[Row]:
    """4,000 games of a player who minds the answers half of the time, as text to learn."""
    player, rows = random.Random(0), train() * 2
    return [{"text": one_game(row, player)} for row in rows]


def one_game(row: Row, player: random.Random) -> str:
    low, secret = int(str(row["low"])), int(str(row["number"]))
    high, text, game = low + SPAN, str(row["prompt"]), Guess()
    first, last = low, high
    game.reset(secret)
    for _ in range(TURNS):
        guess = player.randint(low, high) if player.random() < 0.5 else player.randint(first, last)
        text += f"{guess}<|end|>"
        told = game.reply(str(guess))
        if told is None:
            break
        low, high = (max(low, guess + 1), high) if told == "higher" else (low, min(high, guess - 1))
        text += AROUND.format(reply=told)
    return text


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
