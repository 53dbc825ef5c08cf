"""Which run of a recipe with several stages the doctor checks: the first one with GRPO."""

from __future__ import annotations

from dataclasses import replace

from rl.config import MODEL, EvalConfig, RunConfig
from rl.recipe import GRPO, SFT, Recipe, Reference, Stage, references, run_config
from rl.settings.config_checks import validate
from rl.stage import MAKES_MODEL, model_of
from rl.types import BadInput


def examined_run(recipe: Recipe) -> RunConfig:
    """The first GRPO stage whose prompts exist already, on the model with which its chain of stages began.

    The SFT stage before it becomes the SFT of this run, if its examples exist too, so that templates and end tokens are
    compared. What only earlier stages will make (reward models, a teacher, evaluation data) is left out.
    Raises BadInput when there is no such stage.
    """
    ready = [s for s in recipe.stages if isinstance(s, GRPO) and not _made_by_stages(s.prompts.source)]
    if not ready:
        raise BadInput(f"{recipe.name}: doctor examines GRPO, and no GRPO stage has prompts that are there already")
    stage = ready[0]
    model, sft = _beginning(recipe, stage)
    cfg = run_config(recipe, stage)
    cfg = replace(
        cfg,
        name=f"{stage.name}-doctor",
        model=replace(cfg.model, path=model),
        rewards=tuple(r for r in cfg.rewards if not _made_by_stages(r.function.removeprefix(MODEL))),
    )
    if _made_by_stages(cfg.grpo.teacher):
        cfg = replace(cfg, grpo=replace(cfg.grpo, teacher=""))
    if list(references(cfg.evaluation)) or not cfg.evaluation.data.source:
        cfg = replace(cfg, evaluation=EvalConfig(data=replace(cfg.prompts, limit=8), contamination="off"))
    if sft is not None and not list(references(sft)):
        cfg = replace(cfg, sft=sft.sft)
    validate(cfg)
    return cfg


def _made_by_stages(text: str) -> bool:
    return Reference.parse(text) is not None


def _beginning(recipe: Recipe, stage: GRPO) -> tuple[str, SFT | None]:
    """(the model that the stage's chain of models began with, the nearest SFT stage of that chain)."""
    model, sft = stage.model, None
    while (found := Reference.parse(model)) is not None:
        before: Stage = recipe[found.stage]
        if MAKES_MODEL not in before.makes:
            raise BadInput(f"{recipe.name}.{stage.name}: its model comes from {before.name}, which makes none")
        if isinstance(before, SFT) and sft is None:
            sft = before
        model = model_of(before)
    # The machinery of an SFT stage that itself starts from another stage's model is the same.
    return model, replace(sft, model=model) if sft is not None else None
