"""Checks what a recipe reads from outside, before anything runs: models, tokenizers, files, functions, claims.

What earlier stages will make cannot be looked at yet. That those stages exist is checked with the settings
(rl/settings/recipe_checks.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rl.config import DataConfig, RunConfig
from rl.data.rows import refuse_missing
from rl.model.added_tokens import with_tokens
from rl.stage import Recipe, Reference, Stage, model_of, run_config, trained_on
from rl.types import BadInput
from rl.workflow.inputs import prepare, resolve_model, with_teachers


def check_inputs(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Load and check the models, tokenizers, data and rewards that no stage has to make first. Raises BadInput.

    stages: those of the recipe that are not done.
    """
    for stage in stages:
        try:
            for source in stage.row_sources():
                if source and not source.startswith("@"):
                    refuse_missing(source)
            cfg = _known(recipe, stage)
            ask = stage.ask
            if ask and ask.shots_data.source.startswith("@"):
                ask = dataclasses.replace(ask, shots=0)
            there = [data for data in trained_on(recipe, stage) if not data.source.startswith("@")]
            inputs = (
                prepare(cfg, samples_here=stage.uses_machines, ask=ask, trained_on=there) if stage.runs_model else None
            )
            stage.check(recipe, inputs, cfg)
        except BadInput as error:
            raise BadInput("\n".join(f"stage {stage.name}: {line}" for line in str(error).splitlines())) from error


def _known(recipe: Recipe, stage: Stage) -> RunConfig:
    """The stage as a run that can be checked now: without data that earlier stages will make, and with the outer model
    that its own model will descend from.
    """
    cfg = run_config(recipe, stage)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, path=_root_model(recipe, cfg.model.path)))
    tokens = cfg.model.add_tokens  # whichever stage makes the model, it has these tokens
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


def _root_model(recipe: Recipe, model: str) -> str:
    """The model outside the recipe that this one descends from. It has the same tokenizer and shape."""
    while (ref := Reference.parse(model)) is not None:
        model = model_of(recipe[ref.stage])
    return model
