"""aha run --check: what a stage names and is not there is told before anything starts, also of stages without a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rl.config import (
    DataConfig,
    EvalConfig,
    MixConfig,
    MixPart,
    PreferConfig,
    RewardConfig,
    RewardTrainConfig,
    RunConfig,
    SFTConfig,
)
from rl.recipe import SFT, Build, Claim, Compare, Evaluate, Mix, Prefer, Recipe, RewardTraining, Stage
from rl.settings.overrides import apply_stage_overrides
from rl.settings.recipe_checks import check
from rl.types import BadInput
from rl.workflow.stage_folders import StageFolders
from rl.workflow.stage_keys import stage_keys

TASK = "recipes.r1_tasks:chat_train"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A function, a mixture and pairs: what they read is there."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "1 + 1?", "answer": "2", "target": "2"}) + "\n")
    data = DataConfig(source=str(file))
    stages = (
        Build("made", "recipes.targets:answers", (str(file), TASK)),
        Mix("mixed", MixConfig(parts=(MixPart(data), MixPart(DataConfig(source=TASK))), against=(data,))),
        Prefer("pairs", PreferConfig(samples=(str(file),), function="recipes.r1_preferences:right_greeting")),
    )
    return Recipe("r", RunConfig(), stages, out=str(tmp_path / "runs"))


def refusal(recipe: Recipe) -> str:
    with pytest.raises(BadInput) as caught:
        StageFolders(recipe).check(StageFolders(recipe).plan())
    return str(caught.value)


def test_files_and_functions_that_are_there_are_accepted_and_none_is_called(recipe: Recipe) -> None:
    StageFolders(recipe).check(StageFolders(recipe).plan())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("made.sources=none.jsonl", "stage made: none.jsonl: no such file"),
        ("made.sources=recipes.r1_tasks:chat_trains", "stage made: recipes.r1_tasks:chat_trains: recipes.r1_tasks has no function chat_trains"),
        ("made.function=recipes.targets:answer", "stage made: recipes.targets:answer: recipes.targets has no function answer"),
        ("mixed.mix.parts.0.data.source=none.jsonl", "stage mixed: none.jsonl: no such file"),
        ("mixed.mix.parts.1.data.source=recipes.r1_tasks:chats", "stage mixed: recipes.r1_tasks:chats: recipes.r1_tasks has no function chats"),
        ("mixed.mix.against.0.source=none.parquet", "stage mixed: none.parquet: no such file"),
        ("pairs.prefer.function=recipes.r1_preferences:greetingz", "stage pairs: recipes.r1_preferences:greetingz: recipes.r1_preferences has no function greetingz"),
        ("pairs.prefer.samples=none.jsonl", "stage pairs: none.jsonl: no such file"),
    ],
)  # fmt: skip
def test_what_a_stage_without_a_model_names_and_is_not_there_is_told(recipe: Recipe, override: str, said: str) -> None:
    assert refusal(apply_stage_overrides(recipe, [override])) == said


def test_a_file_that_a_stage_with_a_model_names_is_told_also_where_its_other_data_are_made(recipe: Recipe) -> None:
    student = SFT("s", "org/m", SFTConfig(steps=1, data=DataConfig("@mixed"), eval_data=DataConfig("none.jsonl")))
    assert refusal(replace(recipe, stages=(*recipe.stages, student))) == "stage s: none.jsonl: no such file"


# ------------------------------------------------------------------------------------------------ claims


def claimed(recipe: Recipe, left: str, right: str = "0", **asked: object) -> Recipe:
    """The recipe with an evaluation, a reward model and a claim; both stages count as done."""
    evaluation = EvalConfig(data=DataConfig(TASK), samples=4, **asked)  # type: ignore[arg-type]
    stages: tuple[Stage, ...] = (
        *recipe.stages,
        Evaluate("e", "org/m", (RewardConfig("accuracy"),), evaluation=evaluation),
        RewardTraining("rm", "org/m", RewardTrainConfig(data=DataConfig("@pairs"))),
        Compare("claims", (Claim("it does", left, right),)),
    )
    made = replace(recipe, stages=stages)
    for p in StageFolders(made).plan():
        if p.stage.name in ("e", "rm"):
            p.folder.mkdir(parents=True, exist_ok=True)
            key = stage_keys(made)[p.stage.name]
            record = {"key": key.key, "config": key.config, "inputs": key.inputs}
            (p.folder / "stage.json").write_text(json.dumps(record))
            (p.folder / "provenance.json").write_text("{}")
    return made


@pytest.mark.parametrize("left", ["@e:pass@1", "@e:before/pass@4", "@e:cons", "@e:cons@4", "@e:language", "@e:greedy",
                                  "@rm:accuracy", "0.5", "@e:truncated_share", "@e:thought/length_mean"])  # fmt: skip
def test_a_claim_of_what_its_stage_will_measure_is_accepted(recipe: Recipe, left: str) -> None:
    made = claimed(recipe, left)
    StageFolders(made).check(StageFolders(made).plan())


@pytest.mark.parametrize(("left", "said"), [
    ("@e:passs@1", "stage claims: @e:passs@1: stage e does not measure that; it measures answer/length_mean, "),
    ("@e:pass@3", "stage claims: @e:pass@3: stage e does not measure that"),
    ("@e:cons@8", "stage claims: @e:cons@8: stage e does not measure that"),
    ("@rm:pass@1", "stage claims: @rm:pass@1: stage rm does not measure that; it measures accuracy, "),
])  # fmt: skip
def test_a_claim_of_what_no_stage_will_measure_is_told_before_anything_runs(
    recipe: Recipe, left: str, said: str
) -> None:
    assert said in refusal(claimed(recipe, left))
    assert said in refusal(claimed(recipe, "1", left))


@pytest.mark.parametrize(("left", "said"), [
    ("@e", "claims.claims.0.left=@e: name something that stage measures, for example @e:pass@1"),
    ("pass@1", "claims.claims.0.left=pass@1: is neither a number nor @stage:metric"),
])  # fmt: skip
def test_a_claim_without_a_measure_is_refused_when_the_recipe_is_read(recipe: Recipe, left: str, said: str) -> None:
    made = claimed(recipe, "@e:pass@1")
    with pytest.raises(BadInput) as caught:
        check(apply_stage_overrides(made, [f"claims.claims.0.left={left}"]))
    assert str(caught.value) == said
