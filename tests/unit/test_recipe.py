"""rl/recipe.py, rl/workflow/stage_keys.py, rl/workflow/plan.py, launch/recipes.py: stages as data, and what a changed knob runs again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch.recipes import load
from rl.config import (
    DataConfig,
    DistillConfig,
    EvalConfig,
    GRPOConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    PreferConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from rl.recipe import GRPO, SFT, Build, Mix, Prefer, Recipe, Reject, inputs_of, run_config
from rl.settings.overrides import apply_stage_overrides, recipe_from_json, recipe_to_json
from rl.settings.recipe_checks import check
from rl.types import BadInput
from rl.workflow.stage_folders import StageFolders
from rl.workflow.stage_keys import StageKey, folder_name, stage_keys


def rows(path: Path, count: int = 4) -> str:
    path.write_text(
        "".join(json.dumps({"prompt": f"{i} + 1?", "answer": str(i + 1), "target": "x"}) + "\n" for i in range(count))
    )
    return str(path)


@pytest.fixture
def four(tmp_path: Path) -> Recipe:
    """SFT, GRPO, rejection sampling, a mixture, SFT of the mixture."""
    data = DataConfig(source=rows(tmp_path / "train.jsonl"))
    rewards = (RewardConfig("accuracy"),)
    return Recipe(
        "four",
        RunConfig(model=ModelConfig(dtype="float32")),
        (
            SFT("cold", "org/base", SFTConfig(steps=3, data=data)),
            GRPO("zero", "@cold", data, rewards, RolloutConfig(max_new_tokens=8), GRPOConfig(steps=2)),
            Reject("picks", "@zero", data, rewards, RolloutConfig(max_new_tokens=8), RejectConfig(samples=2)),
            Mix("mixed", MixConfig(parts=(MixPart(DataConfig(source="@picks")), MixPart(data)))),
            SFT("last", "org/base", SFTConfig(steps=3, data=DataConfig(source="@mixed"))),
        ),
        out=str(tmp_path / "runs"),
    )


def faults(recipe: Recipe) -> str:
    with pytest.raises(BadInput) as caught:
        check(recipe)
    return str(caught.value)


def test_a_recipe_says_what_each_stage_reads(four: Recipe) -> None:
    check(four)
    assert [inputs_of(stage) for stage in four.stages] == [[], ["cold"], ["zero"], ["picks"], ["mixed"]]


def test_json_gives_the_same_recipe_back(four: Recipe) -> None:
    assert recipe_from_json(recipe_to_json(four)) == four


def test_json_with_an_unknown_kind_is_refused(four: Recipe) -> None:
    text = recipe_to_json(four).replace('"kind": "Mix"', '"kind": "Mux"')
    with pytest.raises(BadInput, match="stage 'mixed': unknown kind 'Mux'"):
        recipe_from_json(text)


def test_a_stage_becomes_a_run_with_the_bases_machines(four: Recipe) -> None:
    cfg = run_config(four, four["zero"])
    assert (cfg.model.path, cfg.model.dtype, cfg.grpo.steps, cfg.sft.steps) == ("@cold", "float32", 2, 0)
    assert run_config(four, four["cold"]).grpo.steps == 0


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("zero", {"model": "@cald"}, "zero.model=@cald: no earlier stage has that name; did you mean @cold?"),
        ("cold", {"model": "@zero"}, "cold.model=@zero: no earlier stage has that name"),
        ("zero", {"name": "cold"}, "stage 'cold': the name is used twice"),
        ("last", {"model": "@mixed"}, "last.model=@mixed: that stage makes no model"),
        ("last", {"sft": SFTConfig(steps=3, distill=DistillConfig(teacher="@mixed"))}, "teacher=@mixed: that stage makes no model"),
        ("zero", {"grpo": GRPOConfig(steps=2, teacher="@cald")}, "zero.grpo.teacher=@cald: no earlier stage has that name"),
        ("last", {"sft": SFTConfig(steps=3, data=DataConfig(source="@cold"))}, "that stage makes no dataset"),
        ("last", {"sft": SFTConfig()}, "last.sft.steps: set steps or epochs"),
        ("zero", {"rewards": ()}, "zero.rewards: GRPO needs at least one reward"),
        ("picks", {"reject": RejectConfig(samples=0)}, "picks.reject.samples=0: must be at least 1"),
        ("picks", {"rewards": ()}, "picks.rewards: at least one must say which samples are correct"),
        ("mixed", {"mix": MixConfig()}, "mixed.mix.parts: at least one dataset"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_stage_and_key(four: Recipe, stage: str, change: dict, said: str) -> None:  # type: ignore[type-arg]
    stages = tuple(replace(s, **change) if s.name == stage else s for s in four.stages)
    assert said in faults(replace(four, stages=stages))


def test_overrides_reach_a_stage_by_name_and_the_base_otherwise(four: Recipe) -> None:
    got = apply_stage_overrides(four, ["zero.grpo.steps=7", "learner.ranks=2", "seed=5", "name=other"])
    assert (got["zero"].grpo.steps, got.base.learner.ranks, got.base.seed, got.name) == (7, 2, 5, "other")  # type: ignore[attr-defined]
    assert got["cold"] == four["cold"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("zero.grpo.stepz=7", "unknown config key 'zero.grpo.stepz'; did you mean zero.grpo.steps?"),
        ("cold.steps=7", "unknown config key 'cold.steps'; did you mean cold.sft.steps?"),
        ("cold.sft=7", "cold.sft: is a group of settings; set one of cold.sft.steps, "),
        (
            "model.path=org/m",
            "model.path=org/m: say of which stage, as cold.model=org/m; each names a model of its own",
        ),
        ("zerro.grpo.steps=7", "unknown config key 'zerro.grpo.steps'; did you mean zero.grpo.steps?"),
        ("grpo.steps=7", "say of which stage, as cold.grpo.steps=7; the stages are cold, zero"),
        ("zero=7", "zero is a stage; set one of its values"),
    ],
)
def test_an_override_that_names_nothing_is_refused_with_the_nearest(four: Recipe, override: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        apply_stage_overrides(four, [override])
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------------------ keys


def changed(before: Recipe, after: Recipe) -> list[str]:
    old, new = stage_keys(before), stage_keys(after)
    return [stage.name for stage in after.stages if old[stage.name].key != new[stage.name].key]


def test_a_knob_changes_the_keys_of_its_stage_and_of_what_follows_from_it_alone(four: Recipe) -> None:
    assert changed(four, apply_stage_overrides(four, ["mixed.mix.shuffle=false"])) == ["mixed", "last"]
    assert changed(four, apply_stage_overrides(four, ["zero.grpo.clip_high=0.3"])) == ["zero", "picks", "mixed", "last"]
    assert changed(four, apply_stage_overrides(four, ["last.sft.steps=4"])) == ["last"]


def test_where_and_how_often_change_no_key(four: Recipe) -> None:
    free = ["cluster.start_timeout_s=99", "checkpoint.every=3", "track.wandb=off", "picks.reject.chunk_prompts=3"]
    assert changed(four, apply_stage_overrides(four, [*free, "out=elsewhere"])) == []


YOUNGER = {
    "reject.teacher.model": "", "reject.teacher.send_seed": "True", "reject.teacher.without_thought": "keep",
    "reject.top_logprobs": "0",
    "sft.distill.cached": "False", "prefer.scores": "response", "prefer.max_tokens": "8192", "prefer.temperature": "0.0",
    "prefer.response_format": "json_schema", "prefer.extra": "", "grpo.uniform_by": "",
    "base.model.chat_date": "auto", "base.learner.sequence_parallel": "1", "base.learner.dither": "False",
    "base.learner.offload": "none", "base.learner.share_prompts": "auto", "base.sampler.seeded": "True",
    "reject.ask.instruction": "",
    "reject.ask.shots": "0", "reject.ask.shots_data.source": "", "reject.ask.shots_data.template": "r1_zero",
    "reject.ask.shots_data.subset": "", "reject.ask.shots_data.split": "train", "reject.ask.shots_data.limit": "0",
    "reject.ask.shots_data.prompt_field": "prompt", "reject.ask.shots_data.answer_field": "answer",
    "reject.ask.shots_data.answer_after": "", "reject.ask.shots_data.target_field": "target",
    "reject.ask.shots_data.messages_field": "", "reject.ask.shots_data.text_field": "",
    "reject.ask.shots_data.system": "", "reject.ask.shots_data.shuffle": "True",
    "reject.ask.shots_data.unjudgeable": "error", "reject.ask.shots_data.long_prompts": "error",
    "rollout.in_flight": "False", "rollout.cache": "recompute", "reject.search": "()", "environments": "()",
    "evaluation.select": "('majority',)", "evaluation.search": "()",
    "reject.ask.shot": "Question: {prompt}\nAnswer: {target}", "reject.ask.form": "{prompt}",
}  # fmt: skip
"""Settings that folders on disk may lack, with the values at which a stage does what it did without them."""
YOUNGER_EVERYWHERE = (".long_prompts", ".model.steps", ".model.aggregate")
"""The ends of such settings that are in several places."""


def test_a_younger_setting_at_its_default_is_no_part_of_a_key(four: Recipe) -> None:
    keys = stage_keys(four)
    prefer = replace(four, stages=(Prefer("pairs", PreferConfig(samples=("x.jsonl",))),))
    known = {n: v for made in (keys, stage_keys(prefer)) for key in made.values() for n, v in key.config.items()}
    assert YOUNGER.items() <= known.items()
    for key in keys.values():
        older = {n: v for n, v in key.config.items() if n not in YOUNGER and not n.endswith(YOUNGER_EVERYWHERE)}
        assert key.changes_since(StageKey(key.key, older, key.inputs)) == []
        assert key.key == hashlib.sha256(json.dumps([older, key.inputs], sort_keys=True).encode()).hexdigest()
    assert any(name.endswith("prompts.long_prompts") for name in keys["picks"].config)
    for override in (
        "picks.reject.top_logprobs=5",
        "picks.prompts.long_prompts=drop",
        "picks.reject.ask.shots=1",
        "picks.reject.teacher.model=m",
        "cold.sft.distill.cached=true",
    ):
        assert changed(four, apply_stage_overrides(four, [override]))[0] == override.partition(".")[0]


def test_what_is_shared_changes_all_that_uses_it(four: Recipe) -> None:
    assert changed(four, apply_stage_overrides(four, ["model.dtype=bfloat16"])) == [s.name for s in four.stages]


def test_dithering_changes_what_is_trained_in_half_precision_and_nothing_in_float32(four: Recipe) -> None:
    assert changed(four, apply_stage_overrides(four, ["learner.dither=false"])) == []
    half = apply_stage_overrides(four, ["model.dtype=bfloat16"])
    assert changed(half, apply_stage_overrides(half, ["learner.dither=false"])) == [s.name for s in four.stages]


def test_new_content_of_a_file_changes_the_stages_that_read_it(four: Recipe, tmp_path: Path) -> None:
    old = stage_keys(four)["cold"].key
    rows(tmp_path / "train.jsonl", count=5)
    assert stage_keys(four)["cold"].key != old


def test_new_content_of_a_file_that_a_function_builds_from_changes_the_key(four: Recipe, tmp_path: Path) -> None:
    source = rows(tmp_path / "source.jsonl")
    recipe = replace(four, stages=(Build("made", "recipes.targets:answers", (source,)),))
    old = stage_keys(recipe)["made"]
    assert list(old.inputs) == ["recipes.targets:answers", source]
    rows(tmp_path / "source.jsonl", count=5)
    assert stage_keys(recipe)["made"].changes_since(old) == [f"input {source}"]


@pytest.mark.parametrize("limits", [(0, 2), (2, 0), (4, 2), (2, 4)])
def test_a_file_that_is_read_twice_counts_by_the_most_that_is_read_of_it(
    four: Recipe, tmp_path: Path, limits: tuple[int, int]
) -> None:
    file = rows(tmp_path / "twice.jsonl", count=5)
    trained, measured = (DataConfig(source=file, limit=limit) for limit in limits)
    stage = replace(four["zero"], model="org/base", prompts=trained, evaluation=EvalConfig(data=measured))  # type: ignore[call-arg]
    recipe = replace(four, stages=(stage,))
    old = stage_keys(recipe)["zero"]
    lines = Path(file).read_text().splitlines()
    Path(file).write_text("\n".join([*lines[:3], lines[3].replace("3 + 1", "3 + 1 + 0"), lines[4]]) + "\n")
    assert stage_keys(recipe)["zero"].changes_since(old) == [f"input {file}"]


def test_a_function_changes_with_the_modules_that_it_imports_relatively(
    four: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    inner = tmp_path / "apart" / "inner"
    inner.mkdir(parents=True)
    for file, text in (
        (tmp_path / "apart" / "__init__.py", ""),
        (tmp_path / "apart" / "shared.py", "COUNT = 1\nrows = list\n"),
        (inner / "__init__.py", "from .helper import rows\n"),
        (inner / "helper.py", "from .. import shared\nfrom ..shared import COUNT, rows\n"),
        (inner / "task.py", "from . import helper\n"),
    ):
        file.write_text(text)
    for function in ("apart.inner.task:rows", "apart.inner:rows"):
        recipe = replace(four, stages=(Build("made", function),))
        for file in (inner / "helper.py", tmp_path / "apart" / "shared.py"):
            old = stage_keys(recipe)["made"].key
            file.write_text(file.read_text() + "MORE = 2\n")
            assert stage_keys(recipe)["made"].key != old, (function, file.name)


@pytest.mark.parametrize("path", ["sky_t1.py", "distill_students.py", "gsm8k_targets.py", "r1.py", "r1_mini.py"])
def test_a_whole_number_is_one_number_with_and_without_its_point(path: str) -> None:
    recipe = load(f"recipes/{path}")
    assert isinstance(recipe, Recipe)
    assert changed(recipe, recipe_from_json(recipe_to_json(recipe))) == []
    trained = next(s for s in recipe.stages if isinstance(s, SFT) and (s.sft.epochs or path == "r1_mini.py"))
    same = f"{trained.name}.sft.epochs={float(trained.sft.epochs)}"
    assert changed(recipe, apply_stage_overrides(recipe, [same, "model.lora.alpha=32"])) == []


def test_new_content_of_a_model_folder_changes_the_key(four: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    recipe = replace(four, stages=(replace(four["cold"], model=str(folder)),))  # type: ignore[call-arg]
    old = stage_keys(recipe)["cold"].key
    (folder / "config.json").write_text('{"a": 1}')
    assert stage_keys(recipe)["cold"].key != old


def test_new_content_of_a_teachers_folder_changes_the_key_and_a_stage_without_one_keeps_its_own(
    four: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    distill, grpo = DistillConfig(teacher=str(folder)), GRPOConfig(steps=2, kl_coef=0.0, teacher=str(folder))
    cold, zero = four["cold"], four["zero"]
    taught = replace(cold, sft=replace(cold.sft, distill=distill))  # type: ignore[call-arg, attr-defined]
    recipe = replace(four, stages=(taught, replace(zero, grpo=grpo), replace(four["last"], sft=cold.sft)))  # type: ignore[call-arg, attr-defined]
    old = stage_keys(recipe)
    assert str(folder) in old["cold"].inputs
    assert str(folder) in old["zero"].inputs
    (folder / "model.safetensors").write_text("other weights")
    new = stage_keys(recipe)
    assert [name for name in old if old[name].inputs != new[name].inputs] == ["cold", "zero"]
    assert [name for name in old if old[name].key != new[name].key] == ["cold", "zero"]


def test_the_plan_says_what_runs_and_why(four: Recipe) -> None:
    for i, stage in enumerate(four.stages):
        key = stage_keys(four)[stage.name]
        folder = four.folder / folder_name(i, stage, key)
        folder.mkdir(parents=True)
        record = {"key": key.key, "config": key.config, "inputs": key.inputs}
        (folder / "stage.json").write_text(json.dumps(record))
        if i < 4:
            (folder / "provenance.json").write_text("{}")
    assert [p.state for p in StageFolders(four).plan()] == ["done", "done", "done", "done", "resume"]
    changed_one = StageFolders(apply_stage_overrides(four, ["picks.reject.samples=3"]))
    text = changed_one.describe(changed_one.plan()).splitlines()
    assert text[1].endswith("done, kept")
    assert text[2].endswith("runs: reject.samples: 2 -> 3")
    assert text[3].endswith("runs: input @picks")


def made(recipe: Recipe, *begun: str) -> None:
    """The folders of a recipe whose stages are all done, but for those that were only begun."""
    for p in StageFolders(recipe).plan():
        p.folder.mkdir(parents=True, exist_ok=True)
        key = stage_keys(recipe)[p.stage.name]
        record = {"key": key.key, "config": key.config, "inputs": key.inputs}
        (p.folder / "stage.json").write_text(json.dumps(record))
        if p.stage.name not in begun:
            (p.folder / "provenance.json").write_text("{}")


def test_a_stage_put_in_or_taken_out_moves_no_other_to_another_folder(four: Recipe) -> None:
    made(four, "last")
    between = replace(four["cold"], name="between")
    longer = replace(four, stages=(four.stages[0], between, *four.stages[1:]))
    now = {p.stage.name: p for p in StageFolders(longer).plan()}
    assert {name: p.state for name, p in now.items()} == {
        "cold": "done", "between": "new", "zero": "done", "picks": "done", "mixed": "done", "last": "resume",
    }  # fmt: skip
    assert now["between"].folder.name.startswith("01-between-")
    assert now["zero"].folder.name.startswith("01-zero-")
    # Of two folders of one key, which older versions made, the one that is done counts.
    second = four.folder / now["zero"].folder.name.replace("01-", "02-")
    second.mkdir()
    (second / "stage.json").write_text((now["zero"].folder / "stage.json").read_text())
    assert {p.stage.name: p for p in StageFolders(longer).plan()}["zero"].folder == now["zero"].folder
    alone = replace(four, stages=(replace(four.stages[3], mix=MixConfig(parts=(MixPart(four["zero"].prompts),))),))  # type: ignore[attr-defined, call-arg]
    made(replace(four, stages=(four.stages[0], *alone.stages)))
    assert [p.folder.name[:9] for p in StageFolders(alone).plan() if p.state == "done"] == ["01-mixed-"]


@pytest.mark.parametrize("left", ["", "{", "[]", '{"key": "1"}'])
def test_a_stage_file_that_a_kill_left_broken_is_of_a_stage_that_is_not_done(four: Recipe, left: str) -> None:
    made(four)
    broken = StageFolders(four).plan()[4].folder
    (broken / "stage.json").write_text(left)
    assert [p.state for p in StageFolders(four).plan()] == ["done", "done", "done", "done", "resume"]
    assert StageFolders(four).plan()[4].folder == broken
    other = apply_stage_overrides(four, ["last.sft.steps=9"])
    assert [p.state for p in StageFolders(other).plan()] == ["done", "done", "done", "done", "new"]


# ------------------------------------------------------------------------------------------------ files


def test_a_parameter_of_the_recipe_is_set_by_its_name(tmp_path: Path) -> None:
    tiny = load("recipes/r1_mini.py", ["scale=tiny", "ablations=true", "zero.grpo.steps=3"])
    assert isinstance(tiny, Recipe)
    assert tiny.name == "r1-mini-tiny"
    assert tiny["zero"].grpo.steps == 3  # type: ignore[attr-defined]
    assert "journeys" in [s.name for s in tiny.stages]


def test_a_recipe_that_returns_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def recipe():\n    return 3\n")
    with pytest.raises(BadInput, match="returned int, not a RunConfig or a Recipe"):
        load(str(tmp_path / "odd.py"))


def test_touching_the_fourth_stage_of_the_miniature_reruns_what_follows_from_it_and_nothing_before() -> None:
    made = load("recipes/r1_mini.py", ["scale=tiny"])
    assert isinstance(made, Recipe)
    names = [
        "sft", "eval_sft", "eval_sft_chat", "chat_samples", "chat_pairs", "chat_rm", "final", "eval_final",
        "eval_final_chat", "claims",
    ]  # fmt: skip
    assert changed(made, apply_stage_overrides(made, ["sft.sft.steps=7"])) == names


def test_a_broken_json_recipe_and_an_unknown_scale_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    for text, said in (
        ("{", "is not JSON"),
        ("3", "expected an object"),
        ('{"name": "r", "stages": []}', "lacks 'base'"),
        ('{"grpo": {"stepz": 3}}', "unknown config key 'grpo.stepz'"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=f"{file}: .*{said}"):
            load(str(file))
    with pytest.raises(BadInput, match="scale=huge: must be one of laptop, tiny"):
        load("recipes/r1_mini.py", ["scale=huge"])
