"""Evaluates a model on held-out problems, without training it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rl.config import EnvironmentConfig, EvalConfig, RewardConfig, RolloutConfig, knob
from rl.context import StageRun
from rl.evaluation.evaluate import evaluate_model
from rl.evaluation.result import measured_names
from rl.stage import MAKES_NUMBERS, Recipe, Stage


@dataclass(frozen=True)
class Evaluate(Stage):
    """Evaluate a model on held-out problems. Output: numbers."""

    model: str = knob("", "Model to evaluate: id, folder or @stage.")
    rewards: tuple[RewardConfig, ...] = knob((), "Rewards that the samples get; the first says which are correct.")
    rollout: RolloutConfig = knob(RolloutConfig, "Stop texts and the completion limit.")
    evaluation: EvalConfig = knob(EvalConfig, "Problems and how to sample.")
    environments: tuple[EnvironmentConfig, ...] = knob((), "What answers the model between turns.", before=())

    makes = frozenset({MAKES_NUMBERS})
    runs_model = True

    @property
    def samples_of(self) -> tuple[int, int]:
        return self.evaluation.data.limit, self.evaluation.samples + int(self.evaluation.greedy)

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if not self.rewards and not self.environments:
            yield "rewards: at least one must say which samples are correct, for example RewardConfig('accuracy')"

    def measures(self) -> set[str]:
        return measured_names(self.evaluation)

    def run(self, at: StageRun) -> None:
        inputs = at.inputs
        assert inputs is not None
        assert inputs.scorer is not None
        evaluate_model(at.ctx, inputs.model_path, inputs.eval_prompts, inputs.scorer)
