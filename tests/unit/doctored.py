"""A patient without workers, for unit tests of the doctor: the tiny recipe's inputs and a backend that only calls rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.doctor.exam import Exam
from recipes.tiny import recipe
from rl.config import DataConfig, RewardConfig, RunConfig
from rl.context import Inputs
from rl.data.rows import load_rows
from rl.data.sft_examples import ExampleStream
from rl.data.streams import PromptStream
from rl.scoring.reward_functions import RewardFunctions
from rl.types import RewardReport, RolloutGroup


class InProcessRewards:
    """Calls the rewards in this process, as the reward workers do in theirs."""

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self.reward_functions = RewardFunctions(rewards)

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        return lambda: RewardReport(self.reward_functions.call_all(group, names))


def patient(tokenizer, *, model: Path = Path(), **changes: object) -> Exam:
    """An exam of the tiny recipe with these changes. model: a folder with the model's own files."""
    cfg: RunConfig = dataclasses.replace(recipe(), **changes)
    limited: DataConfig = dataclasses.replace(cfg.prompts, limit=40)
    stream = PromptStream(load_rows(limited), cfg.prompts, tokenizer, cfg.seed, 10_000)
    sft = ExampleStream(load_rows(limited), cfg.sft.data, tokenizer, cfg.seed, 10_000) if cfg.sft.enabled else None
    inputs = Inputs(str(model), tokenizer, 10_000, stream, [], [], sft, [], None)
    exam = Exam(cfg, inputs, lambda cfg: None)  # type: ignore[arg-type, return-value]
    exam.backend = InProcessRewards(cfg.rewards)  # type: ignore[assignment]
    return exam
