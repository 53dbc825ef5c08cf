"""rl/workflow/recipe_inputs.py: a recipe is checked before it runs; what its stages will make is no fault, what they never will is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import recipes.tiny_model  # noqa: F401  (found while the tests stand in another folder)
from rl.config import (
    DataConfig,
    DistillConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from rl.model.added_tokens import with_tokens
from rl.recipe import GRPO, SFT, Evaluate, Mix, Recipe, Stage
from rl.types import BadInput
from rl.workflow.inputs import resolve_model
from rl.workflow.stage_folders import StageFolders

MODEL = "recipes.tiny_model:tied"
REWARDS = (RewardConfig("accuracy"),)
SHORT = RolloutConfig(max_new_tokens=8)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where models are made."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "target": str(i + 1)} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(source=str(path), template="plain")


def sft(name: str, data: DataConfig, **settings: object) -> SFT:
    return SFT(name, MODEL, SFTConfig(steps=1, data=data, **settings))  # type: ignore[arg-type]


def checked(*stages: Stage, model: ModelConfig | None = None, micro_batch_tokens: int = 8192) -> None:
    base = RunConfig(model=model or ModelConfig(), learner=LearnerConfig(micro_batch_tokens=micro_batch_tokens))
    recipe = Recipe("r", base, stages)
    StageFolders(recipe).check(StageFolders(recipe).plan())


def taught(kind: type[Stage], data: DataConfig, teacher: str) -> Stage:
    if kind is SFT:
        return sft("student", data, distill=DistillConfig(teacher=teacher))
    return GRPO("student", MODEL, data, REWARDS, SHORT, GRPOConfig(steps=1, kl_coef=0.0, teacher=teacher))


@pytest.mark.parametrize("new_tokens", [(), ("<think>",)], ids=["plain", "new_tokens"])
@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_teacher_that_an_earlier_stage_will_make_has_the_tokens_of_the_model_that_it_comes_from(
    kind: type[Stage], new_tokens: tuple[str, ...], data: DataConfig
) -> None:
    begun, big = sft("begun", data), replace(sft("big", data), model="@begun")
    checked(begun, big, taught(kind, data, "@big"), model=ModelConfig(add_tokens=new_tokens))


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_teacher_of_an_earlier_stage_with_other_tokens_is_refused_before_that_stage_runs(
    kind: type[Stage], data: DataConfig
) -> None:
    other = with_tokens(resolve_model(MODEL), ("<think>",))
    with pytest.raises(BadInput, match=r"stage student: .*teacher=.*: its tokenizer has .* they differ: '<think>'"):
        checked(replace(sft("big", data), model=other), taught(kind, data, "@big"))


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_teacher_may_be_a_model_that_python_makes_and_a_missing_one_is_named(
    kind: type[Stage], data: DataConfig
) -> None:
    checked(taught(kind, data, MODEL))
    with pytest.raises(
        BadInput, match=r"stage student: (sft\.distill|grpo)\.teacher=recipes.tiny_model:absent: no such"
    ):
        checked(taught(kind, data, "recipes.tiny_model:absent"))


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_teacher_made_for_shorter_sequences_than_the_student_learns_on_is_refused(
    kind: type[Stage], data: DataConfig
) -> None:
    teacher = Path(shutil.copytree(resolve_model(MODEL), "short"))
    settings = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 64}))
    with pytest.raises(BadInput, match=r"teacher=short: made for at most 64 tokens, .* up to 256; .*context_length=64"):
        checked(taught(kind, data, "short"))
    checked(taught(kind, data, "short"), model=ModelConfig(context_length=64))
    checked(taught(kind, data, "short"), micro_batch_tokens=64)


def test_held_out_examples_and_worked_examples_may_be_data_that_a_stage_will_make(data: DataConfig) -> None:
    mixed, made = Mix("mixed", MixConfig(parts=(MixPart(data),))), replace(data, source="@mixed")
    checked(mixed, sft("s", data, eval_data=made, eval_every=1))
    asked = EvalConfig(data=data, shots=1, shots_data=made)
    checked(mixed, Evaluate("e", MODEL, REWARDS, SHORT, asked))
    checked(mixed, GRPO("g", MODEL, data, REWARDS, SHORT, GRPOConfig(steps=1), asked))


def test_a_file_that_an_earlier_stage_will_make_is_not_looked_for_but_a_missing_one_of_the_users_is(
    data: DataConfig,
) -> None:
    first = Mix("first", MixConfig(parts=(MixPart(data),)))
    checked(first, Mix("second", MixConfig(parts=(MixPart(DataConfig(source="@first/data.jsonl")),))))
    with pytest.raises(BadInput, match=r"stage second: absent.jsonl: no such file"):
        checked(first, Mix("second", MixConfig(parts=(MixPart(DataConfig(source="absent.jsonl")),))))
