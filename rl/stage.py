"""What a stage of a recipe declares, how stages name one another's outputs, and the recipe that holds them.

Loads no torch. A kind of stage is one class in one file of rl/stages/; a recipe's author imports them from rl.recipe.

Each stage names its model and its data: a Hub id, a path, a task in Python, or "@NAME", the output of an earlier stage
(its model where a model is meant, its data where data are). What all stages share is Recipe.base: machines, seed,
precision, tracking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl.config import MODEL, AskConfig, DataConfig, GRPOConfig, RewardConfig, RunConfig, TeacherConfig, knob

if TYPE_CHECKING:
    from rl.context import Inputs, StageRun

MAKES_MODEL, MAKES_DATA, MAKES_SAMPLES, MAKES_REWARD_MODEL, MAKES_NUMBERS = (
    "model", "data", "samples", "reward model", "numbers",
)  # fmt: skip
"""What "@stage" may stand for, where a model, rows, samples.jsonl, a reward model or "@stage:metric" is meant."""

RUN_FIELDS = ("sft", "prompts", "rewards", "rollout", "grpo", "evaluation")
"""Parts of a RunConfig that belong to one stage of a recipe, not to all."""

KINDS: dict[str, type[Stage]] = {}
"""Every kind of stage by its class's name, as recipe.json writes it."""


@dataclass(frozen=True)
class Stage:
    """One stage. The class says what others must know of its kind; run does the work and imports what that needs."""

    name: str = knob("", "Name of the stage and of its folder.", keyed=False)

    makes: ClassVar[frozenset[str]] = frozenset()
    """What a later stage may take from it."""
    runs_model: ClassVar[bool] = False
    """It has a field `model`, which the workers run."""

    counts_in: ClassVar[str] = ""
    """The file in which a stage that trains nothing counts what it did; "" for the others."""

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__] = cls

    @property
    def uses_machines(self) -> bool:
        """Whether it needs learners and samplers."""
        return self.runs_model

    @property
    def shares_sequences(self) -> bool:
        """Whether learner.sequence_parallel is for it: for SFT that asks no teacher."""
        return False

    @property
    def hashed_base(self) -> tuple[str, ...]:
        """The parts of Recipe.base that change what it puts out."""
        return ("seed", "model", "learner", "sampler")

    @property
    def trains_on(self) -> DataConfig | None:
        """The rows that its model learns from."""
        return None

    @property
    def held_out(self) -> DataConfig:
        """The problems that it evaluates on; without a source it evaluates on none."""
        return DataConfig()

    @property
    def kept_free_of(self) -> tuple[DataConfig, ...]:
        """The evaluation sets whose problems it left out of the data that it makes."""
        return ()

    @property
    def called_rewards(self) -> tuple[RewardConfig, ...]:
        """The rewards that it asks."""
        return ()

    @property
    def ask(self) -> AskConfig | None:
        """How its prompts are put to the model where they are not trained on."""
        return None

    @property
    def teacher(self) -> TeacherConfig:
        """The endpoint that samples in its place; without a url none does."""
        return TeacherConfig()

    @property
    def total_steps(self) -> tuple[str, int]:
        """(name of its steps in metrics.jsonl, how many there will be; 0: not known before the data are counted)."""
        return "", 0

    @property
    def samples_of(self) -> tuple[int, int]:
        """(problems, samples of each) where it samples without training; 0 problems: it does not say how many."""
        return 0, 0

    def row_sources(self) -> Iterator[str]:
        """What its rows come from: files, functions, Hub ids and other stages; "" for none."""
        yield from _data_sources(self)

    def faults(self, recipe: Recipe) -> Iterator[str]:
        """What is wrong with its settings by themselves, each as "key=value: why", without the stage's name."""
        yield from ()

    def faults_after(self, earlier: Mapping[str, Stage]) -> Iterator[str]:
        """What of its settings does not go with earlier stages, by name."""
        for i, reward in enumerate(self.called_rewards):
            ref = Reference.parse(reward.function.removeprefix(MODEL))
            scores = earlier[ref.stage].reads if ref is not None and ref.stage in earlier else ""
            if ref is not None and scores and scores != reward.model.scores:
                yield f"rewards.{i}.model.scores={reward.model.scores}: but @{ref.stage} was trained on the {scores}"

    @property
    def reads(self) -> str:
        """Which part of a response the reward model that it trains reads; "": it trains none."""
        return ""

    @property
    def balances(self) -> str:
        """By which part's length the preference pairs that it makes are balanced; "": by none, or it makes none."""
        return ""

    def check(self, recipe: Recipe, inputs: Inputs | None, cfg: RunConfig) -> None:
        """Look at what only this kind needs from outside, before anything starts. Raises BadInput.

        inputs: what its model, prompts and rewards are, as far as they are there; None without a model.
        """

    def measures(self) -> set[str]:
        """Names of all that "@stage:..." may ask of it."""
        return set()

    def run(self, at: StageRun) -> None:
        """Do the work, or what is left of it. Raises Stopped when the user asked for a stop and the state is saved."""
        raise NotImplementedError


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
            yield from references(vars(node)[f.name], f"{key}.{f.name}" if key else f.name)
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from references(item, f"{key}.{i}")
    elif isinstance(node, str) and node.removeprefix(MODEL).startswith("@"):
        yield key, node.removeprefix(MODEL)


def inputs_of(stage: Stage) -> list[str]:
    """Names of the stages that this one reads, each once, in the order they are mentioned."""
    found = (Reference.parse(text) for _, text in references(stage))
    return list(dict.fromkeys(ref.stage for ref in found if ref is not None))


def _data_sources(node: object) -> Iterator[str]:
    if isinstance(node, DataConfig):
        yield node.source
    elif dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            yield from _data_sources(vars(node)[f.name])
    elif isinstance(node, tuple):
        for item in node:
            yield from _data_sources(item)


def model_of(stage: Stage) -> str:
    """The model that a stage starts from; "" for a kind that runs none."""
    return str(vars(stage)["model"]) if "model" in vars(stage) else ""


def trained_on(recipe: Recipe, stage: Stage) -> list[DataConfig]:
    """What stages before this one trained its model on, the nearest first. References are left as they are.

    Without the mixtures that were kept free of the stage's evaluation set already.
    """
    held_out = stage.held_out
    found: list[DataConfig] = []
    while stage.runs_model and (ref := Reference.parse(model_of(stage))) is not None:
        stage = recipe[ref.stage]
        found += [stage.trains_on] if stage.trains_on is not None else []
    return [data for data in found if not _is_free_of(recipe, data, held_out)]


def _is_free_of(recipe: Recipe, data: DataConfig, held_out: DataConfig) -> bool:
    ref = Reference.parse(data.source)
    free_of = recipe[ref.stage].kept_free_of if ref is not None and not ref.file else ()
    name = (held_out.source, held_out.subset, held_out.split)
    return name in [(d.source, d.subset, d.split) for d in free_of]


# ------------------------------------------------------------------------------------------------ a stage's settings


def run_config(recipe: Recipe, stage: Stage) -> RunConfig:
    """The stage as a run of its own, with the base's machines. Its references are left as they are.

    Ranks share their sequences in those stages only that can.
    """
    values = {f.name: vars(stage)[f.name] for f in dataclasses.fields(stage)}
    parts = {name: values.get(name, vars(_NOTHING)[name]) for name in RUN_FIELDS}
    model = dataclasses.replace(recipe.base.model, path=model_of(stage))
    base = recipe.base
    if not stage.shares_sequences:
        base = dataclasses.replace(base, learner=dataclasses.replace(base.learner, sequence_parallel=1))
    return dataclasses.replace(base, name=stage.name, out=str(recipe.folder), model=model, **parts)


_NOTHING = RunConfig(grpo=GRPOConfig(steps=0))


def stage_to_dict(stage: Stage) -> dict[str, object]:
    """The stage as JSON values, its kind among them."""
    return {"kind": type(stage).__name__, **dataclasses.asdict(stage)}
