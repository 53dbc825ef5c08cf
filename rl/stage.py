"""What a stage of a recipe declares, how a stage names the outputs of earlier ones, and the recipe that holds them.

Loads no torch. Each kind of stage is a class in a file of rl/stages/; authors of recipes import them from rl.recipe.

A stage names its model and its data by a Hub id, a path, a Python task, or "@NAME": the model or the data that the
earlier stage NAME made. All stages share Recipe.base: machines, seed, precision, tracking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from rl.config import MODEL, AskConfig, DataConfig, EvalConfig, GRPOConfig, RewardConfig, RunConfig, TeacherConfig, knob

MAKES_MODEL, MAKES_DATA, MAKES_SAMPLES, MAKES_REWARD_MODEL, MAKES_NUMBERS = (
    "model", "data", "samples", "reward model", "numbers",
)  # fmt: skip
"""What a kind of stage can make, and so what "@stage" (or "@stage:metric", for numbers) can refer to."""

RUN_FIELDS = ("sft", "prompts", "rewards", "environments", "rollout", "grpo", "evaluation")
"""The parts of a RunConfig that each stage of a recipe has for itself."""

KINDS: dict[str, type[Stage]] = {}
"""Every kind of stage, by the name of its class, which recipe.json uses."""


@dataclass(frozen=True)
class Stage:
    """One stage. The properties tell the other rooms what they must know of its kind, so none of them asks which kind
    it is. run does the work, and imports what the work needs.
    """

    name: str = knob("", "Name of the stage and of its folder.", keyed=False)

    makes: ClassVar[frozenset[str]] = frozenset()
    """What a later stage may use of it."""
    runs_model: ClassVar[bool] = False
    """Whether it has a field `model`, which workers run."""

    counts_in: ClassVar[str] = ""
    """The file with the counts of a stage that trains nothing; "" for the others."""

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__] = cls

    @property
    def uses_machines(self) -> bool:
        """Whether it needs learners and samplers."""
        return self.runs_model

    @property
    def shares_sequences(self) -> bool:
        """Whether learner.sequence_parallel applies to it: to SFT without a teacher."""
        return False

    @property
    def hashed_base(self) -> tuple[str, ...]:
        """The parts of Recipe.base that change its output."""
        return ("seed", "model", "learner", "sampler")

    @property
    def trains_on(self) -> DataConfig | None:
        """The rows that its model is trained on; None for a stage that trains no model on rows."""
        return None

    @property
    def held_out(self) -> DataConfig:
        """The problems that it evaluates on: those of its field `evaluation`. Without a source there are none."""
        return _own(self, "evaluation", EvalConfig()).data

    @property
    def kept_free_of(self) -> tuple[DataConfig, ...]:
        """The evaluation sets whose problems it leaves out of the data that it makes."""
        return ()

    @property
    def called_rewards(self) -> tuple[RewardConfig, ...]:
        """The rewards that it calls: those of its field `rewards`."""
        no_rewards: tuple[RewardConfig, ...] = ()
        return _own(self, "rewards", no_rewards)

    @property
    def asked_code(self) -> tuple[str, ...]:
        """Functions of rewards/ beside its rewards whose code changes its output, each as "module:function"."""
        return ()

    @property
    def ask(self) -> AskConfig | None:
        """How its prompts are put to the model, where the model is not trained on them."""
        return None

    @property
    def teacher(self) -> TeacherConfig:
        """The endpoint that samples instead of its model; without a url there is none."""
        return TeacherConfig()

    @property
    def total_steps(self) -> tuple[str, int]:
        """(name of its steps in metrics.jsonl, their number; 0 when that depends on the number of rows)."""
        return "", 0

    @property
    def evaluates_every(self) -> tuple[str, int]:
        """(the setting that asks for evaluations during training, their distance in steps; 0: none are asked for)."""
        return "", 0

    @property
    def samples_of(self) -> tuple[int, int]:
        """(problems, samples of each) of a stage that samples without training; 0 problems: all of the data."""
        return 0, 0

    def row_sources(self) -> Iterator[str]:
        """Where its rows come from: files, functions, Hub ids and other stages; "" for none."""
        yield from _data_sources(self)

    def faults(self, recipe: Recipe) -> Iterator[str]:
        """What is wrong with its own settings, each as "key=value: why", without the stage's name."""
        yield from ()

    def faults_after(self, earlier: Mapping[str, Stage]) -> Iterator[str]:
        """Which of its settings do not fit those of earlier stages (name -> stage)."""
        for i, reward in enumerate(self.called_rewards):
            ref = Reference.parse(reward.function.removeprefix(MODEL))
            scores = earlier[ref.stage].reads if ref is not None and ref.stage in earlier else ""
            if ref is not None and scores and scores != reward.model.scores:
                yield f"rewards.{i}.model.scores={reward.model.scores}: but @{ref.stage} was trained on the {scores}"
            if ref is not None and scores and earlier[ref.stage].scores_steps != bool(reward.model.steps):
                steps = earlier[ref.stage].scores_steps
                yield f"rewards.{i}.model.steps={reward.model.steps}: but @{ref.stage} scores " + (
                    "steps; name the texts that end one" if steps else "whole responses; leave it empty"
                )

    @property
    def reads(self) -> str:
        """The part of a response that its reward model reads; "" when it trains no reward model."""
        return ""

    @property
    def scores_steps(self) -> bool:
        """Whether it trains a process reward model, which scores the steps of a response."""
        return False

    @property
    def balances(self) -> str:
        """The part of a response by whose length its preference pairs are balanced; "" when none are."""
        return ""

    def check(self, recipe: Recipe, inputs: Any, cfg: RunConfig) -> None:
        """Check, before anything starts, what only this kind needs from outside. Raises BadInput.

        inputs: its model, prompts and rewards (rl.context.Inputs), as far as they exist yet; None for a stage that runs
        no model.
        """

    def measures(self) -> set[str]:
        """The metrics that "@stage:metric" may name."""
        return set()

    def run(self, at: Any) -> None:
        """Do the work, or what is left of it. Raises Stopped once a stop that the user asked for is safe.

        at: an rl.context.StageRun. Its class knows what a stage is, so it is not named here: imports only go down.
        """
        raise NotImplementedError


_T = TypeVar("_T")


def _own(stage: Stage, field: str, default: _T) -> _T:
    """The value of the stage's field; the default for a kind of stage that has no such field."""
    return cast(_T, vars(stage).get(field, default))


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they run. base: what they share; its own RUN_FIELDS are not used."""

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
        """None when the text is not a reference."""
        if not text.startswith("@"):
            return None
        stage, colon, metric = text[1:].partition(":")
        if colon:
            return Reference(stage, metric=metric)
        stage, _, file = stage.partition("/")
        return Reference(stage, file=file)


def references(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every reference in a stage. Of a reward "model:@stage", the text is "@stage"."""
    if dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            yield from references(vars(node)[f.name], f"{key}.{f.name}" if key else f.name)
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from references(item, f"{key}.{i}")
    elif isinstance(node, str) and node.removeprefix(MODEL).startswith("@"):
        yield key, node.removeprefix(MODEL)


def inputs_of(stage: Stage) -> list[str]:
    """Names of the stages that this one reads, each once, in the order in which it names them."""
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
    """The model that a stage starts from; "" for a stage that runs none."""
    return str(vars(stage)["model"]) if "model" in vars(stage) else ""


def trained_on(recipe: Recipe, stage: Stage) -> list[DataConfig]:
    """What earlier stages trained this stage's model on, the nearest first. References are left as they are.

    Mixtures that were kept free of this stage's evaluation set already are left out.
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
    """The stage as a run of its own, with the machines of the base. References are left as they are."""
    values = {f.name: vars(stage)[f.name] for f in dataclasses.fields(stage)}
    parts = {name: values.get(name, vars(_UNUSED)[name]) for name in RUN_FIELDS}
    model = dataclasses.replace(recipe.base.model, path=model_of(stage))
    base = recipe.base
    if not stage.shares_sequences:  # only some stages can split a sequence among ranks
        base = dataclasses.replace(base, learner=dataclasses.replace(base.learner, sequence_parallel=1))
    return dataclasses.replace(base, name=stage.name, out=str(recipe.folder), model=model, **parts)


_UNUSED = RunConfig(grpo=GRPOConfig(steps=0))
"""The parts that a kind of stage does not have: no GRPO, no SFT, no prompts."""


def stage_to_dict(stage: Stage) -> dict[str, object]:
    """The stage as JSON values, with its kind."""
    return {"kind": type(stage).__name__, **dataclasses.asdict(stage)}
