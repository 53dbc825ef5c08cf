"""A recipe of several stages, as data. Loads no torch.

Each stage names its model and its data: a Hub id, a path, a task in Python, or "@NAME", the output of an earlier stage
(its model where a model is meant, its data where data are). What all stages share is Recipe.base: machines, seed,
precision, tracking. Overrides reach a stage by its name ("zero.grpo.steps=10"), and everything else in the base
("learner.ranks=2").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rl.config import (
    MODEL,
    DataConfig,
    EvalConfig,
    GRPOConfig,
    MixConfig,
    PreferConfig,
    RejectConfig,
    RewardConfig,
    RewardTrainConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
    knob,
)


@dataclass(frozen=True)
class Stage:
    """What every stage has: a name, unique in its recipe."""

    name: str = knob("", "Name of the stage and of its folder.")


@dataclass(frozen=True)
class SFT(Stage):
    """Supervised fine-tuning. Output: a model."""

    model: str = knob("", "Model to start from: id, folder or @stage.")
    sft: SFTConfig = knob(SFTConfig, "Examples, steps, optimiser.")


@dataclass(frozen=True)
class GRPO(Stage):
    """Reinforcement learning. Output: a model, its rollouts, and held-out accuracy where evaluation.data is set."""

    model: str = knob("", "Model to start from: id, folder or @stage.")
    prompts: DataConfig = knob(DataConfig, "Training prompts.")
    rewards: tuple[RewardConfig, ...] = knob((), "Parts of the reward.")
    rollout: RolloutConfig = knob(RolloutConfig, "Sampling for training.")
    grpo: GRPOConfig = knob(GRPOConfig, "GRPO.")
    evaluation: EvalConfig = knob(EvalConfig, "Held-out evaluation before, during and after.")


@dataclass(frozen=True)
class Reject(Stage):
    """Rejection sampling. Output: a dataset of the samples kept, and every sample with the reason."""

    model: str = knob(
        "", "Model to sample from: id, folder or @stage. With reject.teacher: whose tokenizer and template are used."
    )
    prompts: DataConfig = knob(DataConfig, "Prompts to sample.")
    rewards: tuple[RewardConfig, ...] = knob((), "What judges the samples; the first says which are correct.")
    rollout: RolloutConfig = knob(RolloutConfig, "How to sample.")
    reject: RejectConfig = knob(RejectConfig, "How many, and which are kept.")


@dataclass(frozen=True)
class Mix(Stage):
    """Datasets made into one: quotas, deduplication, decontamination, order. Output: a dataset and its manifest."""

    mix: MixConfig = knob(MixConfig, "The parts.")


@dataclass(frozen=True)
class Build(Stage):
    """A dataset made by a function in Python. Output: a dataset.

    The function gets one argument, {name: rows of that source}, and returns rows or an iterable of them.
    """

    function: str = knob("", "'module:function'.")
    sources: tuple[str, ...] = knob((), "Datasets that it reads: @stage, @stage/file.jsonl, or a path.")


@dataclass(frozen=True)
class Prefer(Stage):
    """Preference pairs from samples, by a judge or a rule. Output: a dataset of prompt, chosen, rejected, domain."""

    prefer: PreferConfig = knob(PreferConfig, "The samples, the judge, and which pairs are kept.")


@dataclass(frozen=True)
class RewardTraining(Stage):
    """Training of a reward model on preference pairs or labels. Output: a reward model, and its held-out accuracy.

    A later stage's reward names it as "model:@stage". All its weights are trained: model.lora is for policies.
    """

    model: str = knob("", "Model to start from: id, folder or @stage.")
    reward: RewardTrainConfig = knob(RewardTrainConfig, "Rows, loss, steps, optimiser.")


@dataclass(frozen=True)
class Evaluate(Stage):
    """Held-out evaluation of a model. Output: numbers."""

    model: str = knob("", "Model to evaluate: id, folder or @stage.")
    rewards: tuple[RewardConfig, ...] = knob((), "What judges the samples; the first says which are correct.")
    rollout: RolloutConfig = knob(RolloutConfig, "Stop texts and the completion limit.")
    evaluation: EvalConfig = knob(EvalConfig, "Problems and how to sample.")


@dataclass(frozen=True)
class Claim:
    """left - right > 0, said in words. Both are "@stage:metric" of an evaluation, or a number as text."""

    text: str = knob("", "The claim, as a sentence.")
    left: str = knob("", "@stage:metric that should be the larger one.")
    right: str = knob("0", "@stage:metric, or a number.")
    at_least: float = knob(0.0, "The difference must exceed this.")
    z: float = knob(2.0, "By so many of its standard errors.", lo=0)


@dataclass(frozen=True)
class Compare(Stage):
    """Claims put to the test. Output: a table."""

    claims: tuple[Claim, ...] = knob((), "What is claimed.")


@dataclass(frozen=True)
class Export(Stage):
    """A folder for others: weights, template, generation settings and model card."""

    model: str = knob("", "Model to export: @stage.")


KINDS: dict[str, type[Stage]] = {
    k.__name__: k for k in (SFT, GRPO, Reject, Mix, Build, Prefer, RewardTraining, Evaluate, Compare, Export)
}
MAKES_MODEL = (SFT, GRPO)
MAKES_DATA = (Reject, Mix, Build, Prefer)
HAS_MODEL = (SFT, GRPO, Reject, RewardTraining, Evaluate)
"""Stages that run a model on the workers; a rejection stage with a teacher only borrows its tokenizer."""
RUN_FIELDS = ("sft", "prompts", "rewards", "rollout", "grpo", "evaluation")


@dataclass(frozen=True)
class Recipe:
    """Stages in the order they run. base: machines and all that the stages share; its own stage settings are unused."""

    name: str
    base: RunConfig
    stages: tuple[Stage, ...]
    out: str = "runs"

    def __getitem__(self, name: str) -> Stage:
        return next(s for s in self.stages if s.name == name)

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name


# ------------------------------------------------------------------------------------------------ references


@dataclass(frozen=True)
class Reference:
    """ "@stage", "@stage/file" or "@stage:metric"."""

    stage: str
    file: str = ""
    metric: str = ""

    @staticmethod
    def parse(text: str) -> Reference | None:
        """None for what is no reference."""
        if not text.startswith("@"):
            return None
        stage, colon, metric = text[1:].partition(":")
        if colon:
            return Reference(stage, metric=metric)
        stage, _, file = stage.partition("/")
        return Reference(stage, file=file)


def references(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every reference in a stage; of a reward "model:@stage" the part after the colon."""
    if dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            yield from references(getattr(node, f.name), f"{key}.{f.name}" if key else f.name)
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from references(item, f"{key}.{i}")
    elif isinstance(node, str) and node.removeprefix(MODEL).startswith("@"):
        yield key, node.removeprefix(MODEL)


def is_taught(stage: Stage) -> bool:
    """Whether a teacher's endpoint samples in the stage's place, so that it starts no machines."""
    return isinstance(stage, Reject) and bool(stage.reject.teacher.url)


def inputs_of(stage: Stage) -> list[str]:
    """Names of the stages that this one reads, each once, in the order they are mentioned."""
    found = (Reference.parse(text) for _, text in references(stage))
    return list(dict.fromkeys(ref.stage for ref in found if ref is not None))


def trained_on(recipe: Recipe, stage: Stage) -> list[DataConfig]:
    """What stages before this one trained its model on, the nearest first. References are left as they are.

    Without the mixtures that were kept free of the stage's evaluation set already.
    """
    held_out = stage.evaluation.data if isinstance(stage, Evaluate | GRPO) else DataConfig()
    found: list[DataConfig] = []
    while isinstance(stage, HAS_MODEL) and (ref := Reference.parse(stage.model)) is not None:
        stage = recipe[ref.stage]
        found += [stage.sft.data] if isinstance(stage, SFT) else [stage.prompts] if isinstance(stage, GRPO) else []
    return [data for data in found if not _is_free_of(recipe, data, held_out)]


def _is_free_of(recipe: Recipe, data: DataConfig, held_out: DataConfig) -> bool:
    ref = Reference.parse(data.source)
    mixed = recipe[ref.stage] if ref is not None and not ref.file else None
    name = (held_out.source, held_out.subset, held_out.split)
    return isinstance(mixed, Mix) and name in [(d.source, d.subset, d.split) for d in mixed.mix.against]


def run_config(recipe: Recipe, stage: Stage) -> RunConfig:
    """The stage as a run of its own, with the base's machines. Its references are left as they are.

    Ranks share their sequences in those stages only that can (shares_sequences).
    """
    values = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    parts = {name: values.get(name, vars(_NOTHING)[name]) for name in RUN_FIELDS}
    model = dataclasses.replace(recipe.base.model, path=str(values.get("model", "")))
    base = recipe.base if shares_sequences(stage) else _unshared(recipe.base)
    return dataclasses.replace(base, name=stage.name, out=str(recipe.folder), model=model, **parts)


def shares_sequences(stage: Stage) -> bool:
    """Whether learner.sequence_parallel is for the stage: SFT that asks no teacher."""
    return isinstance(stage, SFT) and not (stage.sft.distill.teacher or stage.sft.distill.cached)


def _unshared(cfg: RunConfig) -> RunConfig:
    return dataclasses.replace(cfg, learner=dataclasses.replace(cfg.learner, sequence_parallel=1))


_NOTHING = RunConfig(grpo=GRPOConfig(steps=0))


# ------------------------------------------------------------------------------------------------ overrides, json


def stage_to_dict(stage: Stage) -> dict[str, object]:
    """The stage as JSON values, its kind among them."""
    return {"kind": type(stage).__name__, **dataclasses.asdict(stage)}
