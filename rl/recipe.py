"""A recipe of several stages, as data. Loads no torch.

Each stage names its model and its data: a Hub id, a path, a task in Python, or "@NAME", the output of an earlier stage
(its model where a model is meant, its data where data are). What all stages share is Recipe.base: machines, seed,
precision, tracking. Overrides reach a stage by its name ("zero.grpo.steps=10"), and everything else in the base
("learner.ranks=2").
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterator, Sequence
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
from rl.settings import all_keys, apply_overrides, build, describe, validate, value_faults
from rl.types import BadInput


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
ADDRESS = re.compile(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?")
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


# ------------------------------------------------------------------------------------------------ checks


def check(recipe: Recipe) -> None:
    """Check names, references and every setting. Raises BadInput with all the faults, one a line."""
    faults: list[str] = []
    earlier: dict[str, Stage] = {}
    if not recipe.name or "/" in recipe.name:
        faults.append(f"name={recipe.name!r}: must be a folder name without '/'")
    shared = recipe.base.learner.sequence_parallel
    if shared > 1 and not any(shares_sequences(stage) for stage in recipe.stages):
        faults.append(f"learner.sequence_parallel={shared}: no stage is SFT without a teacher, which it is for; use 1")
    for stage in recipe.stages:
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            faults.append(f"stage {stage.name!r}: a name has letters, digits, - and _ only")
        if stage.name in earlier:
            faults.append(f"stage {stage.name!r}: the name is used twice")
        faults += [f"{stage.name}.{fault}" for fault in _reference_faults(stage, earlier)]
        faults += [f"{stage.name}.{fault}" for fault in _scores_faults(stage, earlier)]
        faults += [f"{stage.name}.{fault}" for fault in _own_faults(recipe, stage)]
        earlier[stage.name] = stage
    if faults:
        raise BadInput("\n".join(faults))


def _reference_faults(stage: Stage, earlier: dict[str, Stage]) -> Iterator[str]:
    for key, text in references(stage):
        ref = Reference.parse(text)
        assert ref is not None
        if ref.stage not in earlier:
            near = difflib.get_close_matches(ref.stage, earlier, n=1)
            hint = f"; did you mean @{near[0]}?" if near else ""
            yield f"{key}={text}: no earlier stage has that name{hint}"
        elif key in ("model", "sft.distill.teacher", "grpo.teacher") and not isinstance(
            earlier[ref.stage], MAKES_MODEL
        ):
            yield f"{key}={text}: that stage makes no model"
        elif key.endswith("source") and not ref.file and not isinstance(earlier[ref.stage], MAKES_DATA):
            yield f"{key}={text}: that stage makes no dataset; name one of its files as @{ref.stage}/FILE"
        elif key.startswith("rewards.") and not isinstance(earlier[ref.stage], RewardTraining):
            yield f"{key}={MODEL}{text}: that stage trains no reward model"
        elif key.startswith("prefer.samples") and not ref.file and not isinstance(earlier[ref.stage], Reject):
            yield f"{key}={text}: that stage samples nothing; name one of its files as @{ref.stage}/FILE"
        elif ref.metric and not isinstance(earlier[ref.stage], Evaluate | GRPO | RewardTraining):
            yield f"{key}={text}: that stage measures nothing"
        elif isinstance(stage, Compare) and not ref.metric:
            yield f"{key}={text}: name what that stage measures, as @{ref.stage}:pass@1"


def _scores_faults(stage: Stage, earlier: dict[str, Stage]) -> Iterator[str]:
    """A reward model reads the part of a response that it was trained on, and its pairs are balanced by that part."""

    def made_by(text: str) -> tuple[str, Stage | None]:
        ref = Reference.parse(text)
        return (ref.stage, earlier.get(ref.stage)) if ref else ("", None)

    if isinstance(stage, RewardTraining):
        name, pairs = made_by(stage.reward.data.source)
        if isinstance(pairs, Prefer) and pairs.prefer.balance_lengths and pairs.prefer.scores != stage.reward.scores:
            yield (
                f"reward.scores={stage.reward.scores}: but @{name} balances the lengths of another part; set "
                f"{name}.prefer.scores={stage.reward.scores}"
            )
    if isinstance(stage, GRPO | Reject | Evaluate):
        for i, reward in enumerate(stage.rewards):
            name, trained = made_by(reward.function.removeprefix(MODEL))
            if isinstance(trained, RewardTraining) and trained.reward.scores != reward.model.scores:
                yield (
                    f"rewards.{i}.model.scores={reward.model.scores}: but @{name} was trained on the "
                    f"{trained.reward.scores}"
                )


def _own_faults(recipe: Recipe, stage: Stage) -> Iterator[str]:
    yield from value_faults(stage)
    if isinstance(stage, HAS_MODEL):
        if not stage.model:
            yield "model: name a Hugging Face id, a folder, or @stage"
        try:
            validate(run_config(recipe, stage))
        except BadInput as error:
            yield from (line for line in str(error).splitlines() if not line.startswith("model.path"))
    if isinstance(stage, SFT) and not stage.sft.enabled:
        yield "sft.steps: set steps or epochs"
    if isinstance(stage, GRPO) and not stage.grpo.steps:
        yield "grpo.steps: must be at least 1"
    if isinstance(stage, Reject | Evaluate) and not stage.rewards:
        yield "rewards: at least one must say which samples are correct, for example RewardConfig('accuracy')"
    if isinstance(stage, Reject) and (stage.reject.teacher.url or stage.reject.teacher.model):
        yield from _teacher_faults(stage)
    if isinstance(stage, Reject) and stage.reject.ask.shots:
        yield from _shot_faults(stage.reject)
    if (
        isinstance(stage, Reject)
        and stage.reject.top_logprobs
        and (stage.rollout.temperature, stage.rollout.top_p) != (1, 1)
    ):
        yield "reject.top_logprobs: what a student learns is the distribution at rollout.temperature=1 and top_p=1"
    if isinstance(stage, Mix) and not stage.mix.parts:
        yield "mix.parts: at least one dataset"
    if isinstance(stage, Prefer):
        yield from _prefer_faults(stage.prefer)
    if isinstance(stage, RewardTraining):
        yield from _reward_faults(stage.reward)
    if isinstance(stage, Compare):
        yield from _claim_faults(stage)
    if isinstance(stage, Build) and ":" not in stage.function:
        yield f"function={stage.function}: expected 'module:function'"


def _claim_faults(stage: Compare) -> Iterator[str]:
    for i, claim in enumerate(stage.claims):
        for side, text in (("left", claim.left), ("right", claim.right)):
            try:
                float("0" if text.startswith("@") else text)
            except ValueError:
                yield f"claims.{i}.{side}={text}: is neither a number nor @stage:metric"


def _shot_faults(cfg: RejectConfig) -> Iterator[str]:
    if not cfg.ask.shots_data.source:
        yield f"reject.ask.shots={cfg.ask.shots}: name the rows to draw them from in reject.ask.shots_data.source"
    if cfg.top_logprobs:
        yield "reject.top_logprobs: with reject.ask.shots a sample's text ends before its tokens do; use one of the two"


def _prefer_faults(cfg: PreferConfig) -> Iterator[str]:
    if not cfg.samples:
        yield "prefer.samples: name at least one stage that samples"
    if bool(cfg.function) == bool(cfg.base_url):
        yield "prefer: set function (a rule) or base_url (a judge), one of the two"
    if cfg.base_url and not cfg.judge:
        yield "prefer.judge: name the judge's model"
    if cfg.function and ":" not in cfg.function:
        yield f"prefer.function={cfg.function}: expected 'module:function'"


def _reward_faults(cfg: RewardTrainConfig) -> Iterator[str]:
    if not cfg.data.source:
        yield "reward.data.source: no preference data"
    if not cfg.steps and not cfg.epochs:
        yield "reward.steps: set steps or epochs"
    if not cfg.eval_data.source and not cfg.held_out_share:
        yield "reward.held_out_share=0: accuracy needs held-out rows; or set reward.eval_data.source"


def _teacher_faults(stage: Reject) -> Iterator[str]:
    teacher = stage.reject.teacher
    if not ADDRESS.fullmatch(teacher.url):
        yield f"reject.teacher.url={teacher.url}: expected an address, as https://host/v1"
    if not teacher.model:
        yield "reject.teacher.model: name the endpoint's model"
    if stage.rollout.stop:
        yield "rollout.stop: an endpoint leaves the stop text out of its answer; use none with a teacher"
    if stage.reject.top_logprobs:
        yield "reject.top_logprobs: an endpoint's logprobs are not stored; sample a model of your own for them"
    models = [r.function for r in stage.rewards if r.function.startswith("model:")]
    if models:
        yield f"rewards: {models[0]}: a reward model needs machines, and a stage with a teacher starts none"


# ------------------------------------------------------------------------------------------------ overrides, json


def apply_stage_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """ "zero.grpo.steps=10" sets a stage's value, "name=" and "out=" the recipe's, anything else the base's."""
    for item in overrides:
        key, _, value = item.partition("=")
        head, _, rest = key.strip().partition(".")
        names = [s.name for s in recipe.stages]
        if head in ("name", "out") and not rest:
            renamed = {"name": recipe.name, "out": recipe.out} | {head: value.strip()}
            recipe = dataclasses.replace(recipe, name=renamed["name"], out=renamed["out"])
        elif head in names:
            if not rest:
                raise BadInput(f"{item}: {head} is a stage; set one of its values, for example {head}.grpo.steps=10")
            i = names.index(head)
            stage = apply_overrides(recipe.stages[i], [item.partition(".")[2]], f"{head}.")
            recipe = dataclasses.replace(recipe, stages=(*recipe.stages[:i], stage, *recipe.stages[i + 1 :]))
        elif key.strip() == "model.path":
            say = f"say of which stage, as {names[0]}.model={value}; each names a model of its own"
            raise BadInput(f"{item}: {say}")
        elif head in RUN_FIELDS:
            raise BadInput(f"{item}: say of which stage, as {names[0]}.{item}; the stages are {', '.join(names)}")
        elif rest and head not in {k.partition(".")[0] for k in all_keys(recipe.base)}:
            near = difflib.get_close_matches(head, names, n=1)
            hint = f"; did you mean {near[0]}.{rest}?" if near else f"; the stages are {', '.join(names)}"
            raise BadInput(f"unknown config key {key!r}{hint}")
        else:
            recipe = dataclasses.replace(recipe, base=apply_overrides(recipe.base, [item]))
    return recipe


def staged_settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Every knob as (dotted key, value, sentence): the stages' by their names, then the base's."""
    rows = [(f"{s.name}.{key}", value, text) for s in recipe.stages for key, value, text in describe(s)]
    unused = ("model.path", "name", "out")
    shared = [r for r in describe(recipe.base) if r[0] not in unused and r[0].partition(".")[0] not in RUN_FIELDS]
    return rows + shared


def recipe_to_json(recipe: Recipe) -> str:
    """The whole recipe as JSON text; recipe_from_json reads it back."""
    stages = [stage_to_dict(stage) for stage in recipe.stages]
    tree = {"name": recipe.name, "out": recipe.out, "base": dataclasses.asdict(recipe.base), "stages": stages}
    return json.dumps(tree, indent=2) + "\n"


def stage_to_dict(stage: Stage) -> dict[str, object]:
    """The stage as JSON values, its kind among them."""
    return {"kind": type(stage).__name__, **dataclasses.asdict(stage)}


def recipe_from_json(text: str) -> Recipe:
    """Read what recipe_to_json wrote. Raises BadInput on unknown keys and kinds."""
    tree = json.loads(text)
    stages = []
    for item in tree["stages"]:
        if item.get("kind") not in KINDS:
            raise BadInput(
                f"stage {item.get('name')!r}: unknown kind {item.get('kind')!r}; there are {', '.join(KINDS)}"
            )
        rest = {key: value for key, value in item.items() if key != "kind"}
        stages.append(typing.cast(Stage, build(KINDS[item["kind"]], rest)))
    base = typing.cast(RunConfig, build(RunConfig, tree["base"]))
    return Recipe(tree["name"], base, tuple(stages), tree["out"])
