"""Checks of a recipe of several stages: names, references between stages, and every stage's settings.

Loads no torch, and reads no file: rl/workflow/recipe_inputs.py checks what a recipe needs from outside.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from rl.config import MODEL
from rl.settings.all_settings import settings_of_recipe
from rl.settings.config_checks import range_faults, refuse, relation_faults, type_faults
from rl.stage import (
    MAKES_DATA,
    MAKES_MODEL,
    MAKES_NUMBERS,
    MAKES_REWARD_MODEL,
    MAKES_SAMPLES,
    Recipe,
    Reference,
    Stage,
    model_of,
    references,
    run_config,
)


def check(recipe: Recipe, faults: Sequence[str] = ()) -> None:
    """Check types, names, references and every setting. Raises BadInput with all the faults, one a line.

    faults: what was found to be wrong before. Whether values fit together is checked once each has its type.
    """
    settings = list(settings_of_recipe(recipe))
    wrong = [*faults, *type_faults(settings)]
    refuse([*wrong, *range_faults(settings), *([] if wrong else _stage_faults(recipe))])


def _stage_faults(recipe: Recipe) -> list[str]:
    faults: list[str] = []
    earlier: dict[str, Stage] = {}
    if not recipe.name or "/" in recipe.name:
        faults.append(f"name={recipe.name!r}: must be a folder name without '/'")
    shared = recipe.base.learner.sequence_parallel
    if shared > 1 and not any(stage.shares_sequences for stage in recipe.stages):
        faults.append(f"learner.sequence_parallel={shared}: no stage is SFT without a teacher, which it is for; use 1")
    for stage in recipe.stages:
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            faults.append(f"stage {stage.name!r}: a name has letters, digits, - and _ only")
        if stage.name in earlier:
            faults.append(f"stage {stage.name!r}: the name is used twice")
        faults += [f"{stage.name}.{fault}" for fault in _reference_faults(stage, earlier)]
        faults += [f"{stage.name}.{fault}" for fault in stage.faults_after(earlier)]
        faults += [f"{stage.name}.{fault}" for fault in _own_faults(recipe, stage)]
        earlier[stage.name] = stage
    return faults


def _reference_faults(stage: Stage, earlier: dict[str, Stage]) -> Iterator[str]:
    for key, text in references(stage):
        ref = Reference.parse(text)
        assert ref is not None
        if ref.stage not in earlier:
            near = difflib.get_close_matches(ref.stage, earlier, n=1)
            hint = f"; did you mean @{near[0]}?" if near else ""
            yield f"{key}={text}: no earlier stage has that name{hint}"
            continue
        makes = earlier[ref.stage].makes
        if key in ("model", "sft.distill.teacher", "grpo.teacher") and MAKES_MODEL not in makes:
            yield f"{key}={text}: that stage makes no model"
        elif key.endswith("source") and not ref.file and MAKES_DATA not in makes:
            yield f"{key}={text}: that stage makes no dataset; name one of its files as @{ref.stage}/FILE"
        elif key.startswith("rewards.") and MAKES_REWARD_MODEL not in makes:
            yield f"{key}={MODEL}{text}: that stage trains no reward model"
        elif key.startswith("prefer.samples") and not ref.file and MAKES_SAMPLES not in makes:
            yield f"{key}={text}: that stage samples nothing; name one of its files as @{ref.stage}/FILE"
        elif ref.metric and MAKES_NUMBERS not in makes:
            yield f"{key}={text}: that stage measures nothing"


def _own_faults(recipe: Recipe, stage: Stage) -> Iterator[str]:
    if stage.runs_model:
        if not model_of(stage):
            yield "model: name a Hugging Face id, a folder, or @stage"
        # A stage names its model in `model`, so what model.path lacks is said above.
        yield from (f for f in relation_faults(run_config(recipe, stage)) if not f.startswith("model.path"))
    yield from stage.faults(recipe)
