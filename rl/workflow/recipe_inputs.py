"""What a recipe needs from outside, checked before anything runs: models, tokenizers, files, functions, claims.

What an earlier stage will make is not looked for; that its stage exists is the recipe's own check (rl/recipe.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rl.config import DataConfig, PreferConfig, RewardTrainConfig, RunConfig
from rl.data.rows import refuse_missing
from rl.model.added_tokens import with_tokens
from rl.recipe import (
    HAS_MODEL,
    MAKES_MODEL,
    Build,
    Compare,
    Recipe,
    Reference,
    Reject,
    RewardTraining,
    Stage,
    is_taught,
    run_config,
    trained_on,
)
from rl.rollouts.teacher import refuse_absent
from rl.stages.compare import refuse_unmeasured
from rl.stages.reward_model import prepare_rows
from rl.types import BadInput
from rl.workflow.inputs import prepare, resolve_model, with_teachers
from rl.workflow.plan import Planned


def check_inputs(recipe: Recipe, planned: list[Planned]) -> None:
    """Load and check all that can be before a stage makes it: models, tokenizers, data, rewards. Raises BadInput."""
    for p in planned:
        if p.state == "done":
            continue
        _check_named(recipe, p.stage)
        if not isinstance(p.stage, HAS_MODEL):
            continue
        try:
            cfg = _known(recipe, p.stage)
            ask = p.stage.reject.ask if isinstance(p.stage, Reject) else None
            if ask and ask.shots_data.source.startswith("@"):
                ask = dataclasses.replace(ask, shots=0)
            there = [data for data in trained_on(recipe, p.stage) if not data.source.startswith("@")]
            inputs = prepare(cfg, samples_here=not is_taught(p.stage), ask=ask, trained_on=there)
            if isinstance(p.stage, RewardTraining) and not made_by_stages(p.stage.reward):
                prepare_rows(p.stage.reward, inputs.tokenizer, inputs.model_path, cfg.seed)
            if isinstance(p.stage, Reject) and is_taught(p.stage):
                refuse_absent(p.stage.reject.teacher)
        except BadInput as error:
            raise BadInput("\n".join(f"stage {p.stage.name}: {line}" for line in str(error).splitlines())) from error


def _known(recipe: Recipe, stage: Stage) -> RunConfig:
    """The stage as a run without the data that earlier stages will make, on the models that theirs come from."""
    cfg = run_config(recipe, stage)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path=_root_model(recipe, cfg.model.path)))
    tokens = cfg.model.add_tokens  # a stage's model has them, whichever it comes from
    cfg = with_teachers(
        cfg,
        lambda name: with_tokens(resolve_model(_root_model(recipe, name)), tokens) if name.startswith("@") else name,
    )
    if cfg.prompts.source.startswith("@"):
        cfg = dataclasses.replace(
            cfg, prompts=dataclasses.replace(cfg.prompts, source=""), grpo=dataclasses.replace(cfg.grpo, steps=0)
        )
    sft, evaluation = cfg.sft, cfg.evaluation
    if sft.data.source.startswith("@"):
        sft = dataclasses.replace(sft, steps=0, epochs=0, eval_every=0)
    if sft.eval_data.source.startswith("@"):
        sft = dataclasses.replace(sft, eval_data=DataConfig(), eval_every=0)
    if evaluation.data.source.startswith("@"):
        evaluation = dataclasses.replace(evaluation, data=dataclasses.replace(evaluation.data, source=""))
    if evaluation.shots_data.source.startswith("@"):
        evaluation = dataclasses.replace(evaluation, shots=0, shots_data=DataConfig())
    return dataclasses.replace(cfg, sft=sft, evaluation=evaluation)


def _check_named(recipe: Recipe, stage: Stage) -> None:
    """Raise BadInput for a file, a function or a measure that a stage names and that is not or will not be there."""
    try:
        for source in _sources(stage):
            if source and not source.startswith("@"):
                refuse_missing(source)
        if isinstance(stage, Compare):
            refuse_unmeasured(stage.claims, {s.name: s for s in recipe.stages})
    except BadInput as error:
        raise BadInput(f"stage {stage.name}: {error}") from error


def _sources(node: object) -> Iterator[str]:
    """What a stage's rows come from: files, functions, Hub ids and other stages; "" for none."""
    if isinstance(node, DataConfig):
        yield node.source
    elif isinstance(node, Build):
        yield from (node.function, *node.sources)
    elif isinstance(node, PreferConfig):
        yield from (node.function, *node.samples)
    elif dataclasses.is_dataclass(node):
        for f in dataclasses.fields(node):
            yield from _sources(vars(node)[f.name])
    elif isinstance(node, tuple):
        for item in node:
            yield from _sources(item)


def made_by_stages(cfg: RewardTrainConfig) -> bool:
    """Whether a stage of the recipe makes its data, so that they are not there yet."""
    return any(data.source.startswith("@") for data in (cfg.data, cfg.eval_data))


def _root_model(recipe: Recipe, model: str) -> str:
    """The model outside the recipe that this one comes from: it has the same tokenizer and shape."""
    while (ref := Reference.parse(model)) is not None:
        stage = recipe[ref.stage]
        assert isinstance(stage, MAKES_MODEL)  # the recipe's own check sees to it
        model = stage.model
    return model
