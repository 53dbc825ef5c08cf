"""Which run the doctor examines of a recipe of several stages."""

from __future__ import annotations

import dataclasses

import pytest

from launch.doctor.recipe_run import examined_run
from recipes.tiny import recipe as tiny
from rl.config import RewardConfig
from rl.recipe import GRPO, SFT, Recipe
from rl.types import BadInput

CFG = tiny()


def staged(*stages: SFT | GRPO) -> Recipe:
    return Recipe("staged", dataclasses.replace(CFG, rewards=()), stages)


COLD = SFT("cold", CFG.model.path, CFG.sft)
ZERO = GRPO("zero", "@cold", CFG.prompts, CFG.rewards, CFG.rollout, CFG.grpo, CFG.evaluation)


def test_the_first_grpo_stage_is_examined_on_the_model_that_its_chain_began_with_and_with_its_sft() -> None:
    cfg = examined_run(staged(COLD, ZERO))
    assert cfg.model.path == "recipes.tiny_model:tied"
    assert cfg.sft == CFG.sft
    assert cfg.prompts == CFG.prompts
    assert cfg.name == "zero-doctor"


def test_what_only_earlier_stages_will_make_is_left_out() -> None:
    late = dataclasses.replace(ZERO, rewards=(*CFG.rewards, RewardConfig("model:@helpful")))
    made = dataclasses.replace(
        COLD, sft=dataclasses.replace(CFG.sft, data=dataclasses.replace(CFG.sft.data, source="@x"))
    )
    late = dataclasses.replace(late, grpo=dataclasses.replace(CFG.grpo, teacher="@cold"))
    cfg = examined_run(staged(made, late))
    assert cfg.rewards == CFG.rewards
    assert cfg.grpo == CFG.grpo
    assert not cfg.sft.enabled


def test_a_recipe_without_a_grpo_stage_that_is_ready_is_refused() -> None:
    later = dataclasses.replace(ZERO, prompts=dataclasses.replace(CFG.prompts, source="@picks"))
    with pytest.raises(BadInput, match="no GRPO stage has prompts"):
        examined_run(staged(COLD, later))


def test_the_miniature_of_the_whole_recipe_has_a_stage_to_examine() -> None:
    from recipes.r1_mini import recipe

    cfg = examined_run(recipe(scale="tiny"))
    assert not cfg.model.path.startswith("@")
    assert [r.function for r in cfg.rewards][:1] == ["accuracy"]
