"""Settings of a wrong type are refused, whichever way they come in; what is accepted is what was meant.

The ways in: the command line, a recipe in Python (of one run or of stages), JSON, and the arguments of its function.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch.recipes import load, parameters
from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LoraConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    OptimConfig,
    PreferConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from rl.recipe import GRPO, SFT, Build, Mix, Prefer, Recipe, Reject
from rl.settings.all_settings import field_types
from rl.settings.config_checks import validate
from rl.settings.overrides import (
    apply_overrides,
    apply_stage_overrides,
    from_json,
    recipe_from_json,
    recipe_to_json,
    to_json,
)
from rl.settings.recipe_checks import check
from rl.types import BadInput

ROOT = Path(__file__).parents[2]


def good(**parts: typing.Any) -> RunConfig:
    """A config without a fault, but for those of the parts given."""
    fine = RunConfig(
        model=ModelConfig(path="models/small"),
        rewards=(RewardConfig("accuracy"),),
        grpo=GRPOConfig(prompts_per_step=4, group_size=4),
    )
    return replace(fine, **parts)


def staged() -> Recipe:
    """A recipe of several stages without a fault."""
    data = DataConfig(source="rows.jsonl")
    rewards = (RewardConfig("accuracy"),)
    stages = (
        SFT("cold", "org/base", SFTConfig(steps=3, data=data)),
        GRPO("zero", "@cold", data, rewards, RolloutConfig(), GRPOConfig(steps=2)),
        Reject("picks", "@zero", data, rewards, RolloutConfig(), RejectConfig()),
        Mix("mixed", MixConfig(parts=(MixPart(DataConfig(source="@picks")),))),
        Prefer("pairs", PreferConfig(samples=("@picks",), function="a:b")),
    )
    return Recipe("r", RunConfig(), stages)


def faults_of(act: Callable[[], object]) -> list[str]:
    """The faults, one a line."""
    with pytest.raises(BadInput) as caught:
        act()
    return str(caught.value).split("\n")


# ------------------------------------------------------------------------------------------------ the command line

LISTED = "expected a list of texts"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("grpo.steps=1_000", 1000), ("grpo.steps=+7", 7), ("grpo.steps= 7 ", 7), ("grpo.steps = 7", 7), ("rewards.0.from_step=-25", -25),
        ("grpo.optim.lr=1e-6", 1e-6), ("grpo.optim.lr=1E-6", 1e-6), ("grpo.clip_high=10", 10.0), ("grpo.clip_high=.28", 0.28), ("grpo.clip_high=16.", 16.0),
        ("rewards.0.weight=-0.5", -0.5), ("reject.min_score=-1e9", None),
        ("prompts.shuffle=false", False), ("prompts.shuffle=0", False), ("prompts.shuffle=No", False), ("prompts.shuffle=YES", True),
        ("prompts.subset=", ""), ('prompts.subset=""', ""), ("prompts.subset=True", "True"), ("prompts.subset=7", "7"), ("prompts.subset=none", "none"),
        ('prompts.subset="null"', "null"), ('prompts.subset="None"', "None"), ("grpo.importance=none", "none"),
        (r'prompts.system="two\nlines"', "two\nlines"), ("prompts.system=two\nlines", "two\nlines"), (r'prompts.system="\\n"', r"\n"),
        (r"evaluation.instruction=put it in \boxed{}", r"put it in \boxed{}"), ('prompts.system="quoted"', "quoted"), ('prompts.system=say "yes"', 'say "yes"'),
        ("prompts.system= indented", " indented"), ("prompts.system = indented", "indented"), ("prompts.template={prompt}, b=", "{prompt}, b="),
        ("rollout.stop=", ()), ("rollout.stop=[]", ()), ("rollout.stop=a", ("a",)), ("rollout.stop=a,b", ("a", "b")), ("rollout.stop=\n\n,Q: ", ("\n\n", "Q: ")),
        ('rollout.stop=["a,b", "c"]', ("a,b", "c")), ('rollout.stop="a,b"', ("a,b",)), ('rollout.stop="a,b",c', ("a,b", "c")), ('rollout.stop=c,"a,b"', ("c", "a,b")),
        ('rollout.stop="a", "b"', ("a", "b")), (r'rollout.stop="\n"', ("\n",)), (r'rollout.stop=["\n", "User:"]', ("\n", "User:")), ('rollout.stop="null"', ("null",)),
        ("rollout.stop= ", (" ",)), ('rollout.stop=" "', (" ",)), ("rollout.stop=[INST],[/INST]", ("[INST]", "[/INST]")), ("rollout.stop=(a|b)", ("(a|b)",)), ("rollout.stop=3", ("3",)),
        ("evaluation.pass_at=1,2", (1, 2)), ("evaluation.pass_at=1, 2", (1, 2)), ("evaluation.pass_at=[1, 2]", (1, 2)), ("evaluation.pass_at=", ()),
        ("rewards.0.options=percent=lenient,a=b", ("percent=lenient", "a=b")), ('rewards.0.options=["names=[\\"a\\", \\"b\\"]"]', ('names=["a", "b"]',)),
        ("model.lora.targets=q_proj,v_proj", ("q_proj", "v_proj")),
    ],
)  # fmt: skip
def test_what_is_typed_is_what_was_meant(override: str, value: object) -> None:
    key = override.partition("=")[0].strip()
    if key.startswith("reject"):
        got: object = apply_stage_overrides(staged(), [f"picks.{override}"])["picks"].reject.min_score  # type: ignore[attr-defined]
        assert got == -1e9
        return
    got = apply_overrides(good(), [override])
    for part in key.split("."):
        got = got[int(part)] if isinstance(got, tuple) else vars(got)[part]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        # whole numbers
        ("grpo.steps=2.5", "grpo.steps=2.5: expected a whole number"),
        ("grpo.steps=2.0", "grpo.steps=2.0: expected a whole number; in digits: 2"),
        ("grpo.steps=16.", "grpo.steps=16.: expected a whole number; in digits: 16"),
        ("grpo.steps=1e3", "grpo.steps=1e3: expected a whole number; in digits: 1000"),
        ("grpo.steps=0x10", "grpo.steps=0x10: expected a whole number"),
        ("grpo.steps=１６", "grpo.steps=１６: expected a whole number"),
        ("grpo.steps=1__0", "grpo.steps=1__0: expected a whole number"),
        ("grpo.steps=_1", "grpo.steps=_1: expected a whole number"),
        ("grpo.steps=1 000", "grpo.steps=1 000: expected a whole number"),
        ("grpo.steps=1,000", "grpo.steps=1,000: expected a whole number"),
        ("grpo.steps=true", "grpo.steps=true: expected a whole number"),
        ("grpo.steps=", "grpo.steps=: expected a whole number"),
        ("grpo.steps=None", "grpo.steps=None: expected a whole number"),
        ('grpo.steps="16"', 'grpo.steps="16": expected a whole number'),
        ("grpo.steps=" + "9" * 5000, "grpo.steps=9999"),
        # numbers
        ("grpo.optim.lr=１", "grpo.optim.lr=１: expected a number"),
        ("grpo.optim.lr=1e999", "grpo.optim.lr=1e999: expected a number"),
        ("grpo.optim.lr=1e-6f", "grpo.optim.lr=1e-6f: expected a number"),
        ("grpo.optim.lr=0x1p-3", "grpo.optim.lr=0x1p-3: expected a number"),
        ("grpo.optim.lr=null", "grpo.optim.lr=null: expected a number"),
        ("grpo.optim.lr=true", "grpo.optim.lr=true: expected a number"),
        ("grpo.clip_high=1,5", "grpo.clip_high=1,5: expected a number"),
        # true and false
        ("prompts.shuffle=off", "prompts.shuffle=off: expected true or false"),
        ("prompts.shuffle=", "prompts.shuffle=: expected true or false"),
        ("prompts.shuffle=None", "prompts.shuffle=None: expected true or false"),
        ("prompts.shuffle=１", "prompts.shuffle=１: expected true or false"),
        ('prompts.shuffle="false"', 'prompts.shuffle="false": expected true or false'),
        # texts
        ("prompts.system=None", 'prompts.system=None: expected a text; write "" for an empty text, or "None"'),
        ("prompts.system=null", 'prompts.system=null: expected a text; write "" for an empty text, or "null"'),
        (r"prompts.system=a\nb", r'prompts.system=a\nb: expected a text; write "a\nb" in double quotes'),
        (r"prompts.system=a\tb", r'prompts.system=a\tb: expected a text; write "a\tb" in double quotes'),
        (r"prompts.system=a\\b", r'prompts.system=a\\b: expected a text; write "a\\b" in double quotes'),
        (r"prompts.system=\u00e9", r'prompts.system=\u00e9: expected a text; write "\u00e9" in double quotes'),
        ('prompts.system="a', 'prompts.system="a: expected a text; it begins like a text in double quotes'),
        ("prompts.system='a'", "prompts.system='a': expected a text; quotes are double"),
        # lists
        ("rollout.stop=, ", f"rollout.stop=, : {LISTED}; an item is empty"),
        ("rollout.stop=,", f"rollout.stop=,: {LISTED}; an item is empty"),
        ("rollout.stop=a,,b", f"rollout.stop=a,,b: {LISTED}; an item is empty"),
        ("rollout.stop=a,", f"rollout.stop=a,: {LISTED}; an item is empty"),
        ("rollout.stop=a, b", f"rollout.stop=a, b: {LISTED}; leave out the spaces beside the commas"),
        ("rollout.stop=a ,b", f"rollout.stop=a ,b: {LISTED}; leave out the spaces beside the commas"),
        (r"rollout.stop=\n", rf'rollout.stop=\n: {LISTED}; of its item \n: expected a text; write "\n" in double quotes'),
        ("rollout.stop=a,null", f"rollout.stop=a,null: {LISTED}; of its item null: expected a text"),
        ("rollout.stop=None", f"rollout.stop=None: {LISTED}; write nothing after the = for no items"),
        ('rollout.stop=["a", "b"', f'rollout.stop=["a", "b": {LISTED}; in brackets it is read as JSON'),
        ("rollout.stop=['a', 'b']", f"rollout.stop=['a', 'b']: {LISTED}; in brackets it is read as JSON"),
        ("rollout.stop=('a', 'b')", f"rollout.stop=('a', 'b'): {LISTED}; in brackets it is read as JSON"),
        ("rollout.stop=[1, 2]", f"rollout.stop=[1, 2]: {LISTED}; in brackets it is read as JSON"),
        ('rollout.stop="a,b', f'rollout.stop="a,b: {LISTED}; of its item "a: expected a text'),
        ("rollout.stop='a','b'", f"rollout.stop='a','b': {LISTED}; of its item 'a': expected a text; quotes are double"),
        ("model.lora.targets=q_proj, v_proj", f"model.lora.targets=q_proj, v_proj: {LISTED}; leave out the spaces"),
        ("evaluation.pass_at=1,2.5", "evaluation.pass_at=1,2.5: expected a list of whole numbers; of its item 2.5"),
        ("evaluation.pass_at=1,,2", "evaluation.pass_at=1,,2: expected a list of whole numbers; an item is empty"),
        ("evaluation.pass_at=1,", "evaluation.pass_at=1,: expected a list of whole numbers; an item is empty"),
        ("evaluation.pass_at=[1, true]", "evaluation.pass_at=[1, true]: expected a list of whole numbers"),
        # keys
        ("rewards.0=accuracy", "rewards.0: is a group of settings"),
        ("rewards.００.weight=2", "unknown config key 'rewards.００.weight'"),
        ("rewards.00.weight=2", "unknown config key 'rewards.00.weight'; did you mean rewards.0.weight?"),
        ("rewards.².weight=2", "unknown config key 'rewards.².weight'"),
        ("rewards.-1.weight=2", "unknown config key 'rewards.-1.weight'"),
        ("=3", "unknown config key ''"),
    ],
)  # fmt: skip
def test_an_override_of_another_type_is_one_line_with_key_value_and_what_is_wanted(override: str, fault: str) -> None:
    (line,) = faults_of(lambda: apply_overrides(good(), [override]))
    assert line.startswith(fault)
    assert len(line) < 600


def test_a_stages_override_is_checked_like_a_runs() -> None:
    overrides = [
        "zero.grpo.steps=1e3",
        "picks.reject.correct=off",
        "mixed.mix.parts.0.quota=2.5",
        "learner.ranks=two",
        "name=None",
        "zero.rollout.stop=, ",
    ]
    assert [line.split(";")[0] for line in faults_of(lambda: apply_stage_overrides(staged(), overrides))] == [
        "zero.grpo.steps=1e3: expected a whole number",
        "picks.reject.correct=off: expected true or false",
        "mixed.mix.parts.0.quota=2.5: expected a whole number",
        "learner.ranks=two: expected a whole number",
        "name=None: expected a text",
        "zero.rollout.stop=, : expected a list of texts",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["name", "out", "seed", "zero.grpo.steps"])
def test_a_stages_override_without_a_value_is_refused(word: str) -> None:
    """`out` alone set the folder to the empty text."""
    (line,) = faults_of(lambda: apply_stage_overrides(staged(), [word]))
    assert line.endswith(": expected key=value, for example grpo.group_size=16")


@pytest.mark.parametrize("name", ["makes", "runs_model", "counts_in"])
def test_what_a_stages_class_declares_of_its_kind_is_no_setting(name: str) -> None:
    (line,) = faults_of(lambda: apply_stage_overrides(staged(), [f"zero.{name}=1"]))
    assert line.startswith(f"unknown config key 'zero.{name}'")
    saved = json.loads(recipe_to_json(staged()))
    saved["stages"][1][name] = 1
    (line,) = faults_of(lambda: recipe_from_json(json.dumps(saved)))
    assert line.startswith(f"unknown config key 'zero.{name}' in the saved config")


@pytest.mark.parametrize("key", ["rollout.stop", "evaluation.stop"])
def test_an_empty_stop_text_is_refused(key: str) -> None:
    cfg = apply_overrides(good(), [f'{key}=["a", ""]'])
    assert faults_of(lambda: validate(cfg)) == [
        f"{key}: one of its texts is empty, which would end every completion; leave it out"
    ]


# ------------------------------------------------------------------------------------------------ a recipe in Python


@pytest.mark.parametrize(
    ("cfg", "fault"),
    [
        # whole numbers
        (good(grpo=GRPOConfig(steps=2.5)), "grpo.steps=2.5: expected a whole number"),
        (good(grpo=GRPOConfig(steps=2.0)), "grpo.steps=2.0: expected a whole number; write 2"),
        (good(grpo=GRPOConfig(steps=1e3)), "grpo.steps=1000.0: expected a whole number; write 1000"),
        (good(grpo=GRPOConfig(steps="16")), "grpo.steps='16': expected a whole number; write 16"),
        (good(grpo=GRPOConfig(steps="many")), "grpo.steps='many': expected a whole number"),
        (good(grpo=GRPOConfig(steps=True)), "grpo.steps=True: expected a whole number; write 1"),
        (good(grpo=GRPOConfig(steps=None)), "grpo.steps=None: expected a whole number"),
        (good(grpo=GRPOConfig(steps=np.int64(4))), "grpo.steps=np.int64(4): expected a whole number; write 4"),
        (good(seed=(1,)), "seed=(1,): expected a whole number"),
        # numbers
        (good(grpo=GRPOConfig(optim=OptimConfig(lr="1e-6"))), "grpo.optim.lr='1e-6': expected a number; write 1e-06"),
        (good(grpo=GRPOConfig(clip_high=10**400)), "grpo.clip_high=1000"),
        (good(grpo=GRPOConfig(optim=OptimConfig(lr=None))), "grpo.optim.lr=None: expected a number"),
        (good(grpo=GRPOConfig(optim=OptimConfig(lr=True))), "grpo.optim.lr=True: expected a number; write 1"),
        (good(grpo=GRPOConfig(clip_high=np.float32(0.5))), "grpo.clip_high=np.float32(0.5): expected a number; write 0.5"),
        # true and false
        (good(prompts=DataConfig(shuffle="false")), "prompts.shuffle='false': expected True or False; write False"),
        (good(prompts=DataConfig(shuffle="no")), "prompts.shuffle='no': expected True or False; write False"),
        (good(prompts=DataConfig(shuffle=0)), "prompts.shuffle=0: expected True or False; write False"),
        (good(prompts=DataConfig(shuffle=None)), "prompts.shuffle=None: expected True or False"),
        # texts
        (good(prompts=DataConfig(source=Path("a/b"))), "prompts.source=PosixPath('a/b'): expected a text; write 'a/b'"),
        (good(out=Path("runs")), "out=PosixPath('runs'): expected a text; write 'runs'"),
        (good(prompts=DataConfig(subset=3)), "prompts.subset=3: expected a text; write '3'"),
        (good(prompts=DataConfig(system=None)), "prompts.system=None: expected a text"),
        (good(prompts=DataConfig(source=b"a")), "prompts.source=b'a': expected a text"),
        (good(prompts=DataConfig(source=("a", "b"))), "prompts.source=('a', 'b'): expected a text"),
        (good(grpo=GRPOConfig(loss=3)), "grpo.loss=3: expected a text; write '3'"),
        # lists
        (good(rollout=RolloutConfig(stop="###")), "rollout.stop='###': expected a tuple of texts; write ('###',)"),
        (good(rollout=RolloutConfig(stop=["###"])), "rollout.stop=['###']: expected a tuple of texts; write ('###',)"),
        (good(rollout=RolloutConfig(stop=("a", 3))), "rollout.stop=('a', 3): expected a tuple of texts"),
        (good(rollout=RolloutConfig(stop=("a", None))), "rollout.stop=('a', None): expected a tuple of texts"),
        (good(rollout=RolloutConfig(stop=None)), "rollout.stop=None: expected a tuple of texts"),
        (good(model=ModelConfig("m", lora=LoraConfig(targets="q_proj"))), "model.lora.targets='q_proj': expected a tuple of texts; write ('q_proj',)"),
        (good(evaluation=EvalConfig(pass_at=2)), "evaluation.pass_at=2: expected a tuple of whole numbers; write (2,)"),
        (good(evaluation=EvalConfig(pass_at=(1, 2.0))), "evaluation.pass_at=(1, 2.0): expected a tuple of whole numbers"),
        (good(evaluation=EvalConfig(pass_at="1,2")), "evaluation.pass_at='1,2': expected a tuple of whole numbers; write (1, 2)"),
        (good(rewards=(RewardConfig("accuracy", options="percent=lenient"),)), "rewards.0.options='percent=lenient': expected a tuple of texts; write ('percent=lenient',)"),
        # groups of settings
        (good(rewards=[RewardConfig("accuracy")]), "rewards=[RewardConfig(...)]: expected a tuple of RewardConfig; write (RewardConfig(...),)"),
        (good(rewards=RewardConfig("accuracy")), "rewards=RewardConfig(...): expected a tuple of RewardConfig; write (RewardConfig(...),)"),
        (good(rewards=("accuracy",)), "rewards.0='accuracy': expected RewardConfig"),
        (good(rewards=(RewardConfig("accuracy"), DataConfig())), "rewards.1=DataConfig(...): expected RewardConfig"),
        (good(rewards=None), "rewards=None: expected a tuple of RewardConfig"),
        (good(grpo={"steps": 3}), "grpo={'steps': 3}: expected GRPOConfig"),
        (good(grpo=None), "grpo=None: expected GRPOConfig"),
        (good(grpo=GRPOConfig), "grpo=<class 'rl.config.GRPOConfig'>: expected GRPOConfig"),
        (good(model="org/model"), "model='org/model': expected ModelConfig"),
        (good(sft=SFTConfig(data=RolloutConfig())), "sft.data=RolloutConfig(...): expected DataConfig"),
    ],
)  # fmt: skip
def test_a_recipes_value_of_another_type_is_one_line_with_key_value_and_what_is_wanted(
    cfg: RunConfig, fault: str
) -> None:
    (line,) = faults_of(lambda: validate(cfg))
    assert line.startswith(fault)


@pytest.mark.parametrize(
    "cfg",
    [
        good(grpo=GRPOConfig(prompts_per_step=4, group_size=4, kl_coef=0, clip_high=10)),
        good(grpo=GRPOConfig(prompts_per_step=4, group_size=4, clip_high=np.float64(0.28))),
        good(rollout=RolloutConfig(stop=())),
        good(evaluation=EvalConfig(pass_at=(1, 2))),
    ],
)
def test_a_whole_number_where_a_fraction_may_stand_and_numpys_float_which_is_pythons_are_accepted(
    cfg: RunConfig,
) -> None:
    validate(cfg)
    assert from_json(to_json(cfg)) == cfg


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_no_one_can_calculate_with_are_refused_from_each_way_in(value: float) -> None:
    """Infinity passed where a setting has no upper bound, and resolved.json was then no JSON."""
    cfg = good(grpo=GRPOConfig(prompts_per_step=4, group_size=4, clip_high=value))
    for made in (cfg, apply_overrides(good(), [f"grpo.clip_high={value}"]), from_json(to_json(cfg))):
        (line,) = faults_of(lambda made=made: validate(made))  # type: ignore[misc]
        assert line.startswith(f"grpo.clip_high={value}: is not a number")


def test_types_and_ranges_are_told_together_and_what_does_not_fit_together_only_when_both_are_right() -> None:
    cfg = good(
        prompts=DataConfig(shuffle="no"),
        rollout=RolloutConfig(stop="x", top_p=2.0),
        grpo=GRPOConfig(steps="3", group_size=1),
    )
    keys = ["prompts.shuffle", "rollout.stop", "grpo.steps", "rollout.top_p"]
    assert [line.partition("=")[0] for line in faults_of(lambda: validate(cfg))] == keys


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (SFT("cold", Path("org/base"), SFTConfig(steps=3)), "cold.model=PosixPath('org/base'): expected a text; write 'org/base'"),
        (SFT("cold", "org/base", SFTConfig(steps="3")), "cold.sft.steps='3': expected a whole number; write 3"),
        (SFT("cold", "org/base", {"steps": 3}), "cold.sft={'steps': 3}: expected SFTConfig"),
        (Reject("cold", "org/base", rewards=[RewardConfig("accuracy")]), "cold.rewards=[RewardConfig(...)]: expected a tuple of RewardConfig"),
        (Reject("cold", "org/base", rewards=(RewardConfig("accuracy"),), reject=RejectConfig(correct="false")), "cold.reject.correct='false': expected True or False; write False"),
        (Mix("cold", MixConfig(parts=[MixPart()])), "cold.mix.parts=[MixPart(...)]: expected a tuple of MixPart; write (MixPart(...),)"),
        (Mix("cold", MixConfig(parts=(MixPart(quota=2.5),))), "cold.mix.parts.0.quota=2.5: expected a whole number"),
        (Mix("cold", MixConfig(parts=(MixPart(),), against=DataConfig())), "cold.mix.against=DataConfig(...): expected a tuple of DataConfig; write (DataConfig(...),)"),
        (Build("cold", "a:b", "rows.jsonl"), "cold.sources='rows.jsonl': expected a tuple of texts; write ('rows.jsonl',)"),
        (Prefer("cold", PreferConfig(samples="@x", function="a:b")), "cold.prefer.samples='@x': expected a tuple of texts; write ('@x',)"),
        (SFTConfig(), "stages.0=SFTConfig(...): expected Stage"),
        ("cold", "stages.0='cold': expected Stage"),
    ],
)  # fmt: skip
def test_a_stages_value_of_another_type_is_one_line(stage: typing.Any, fault: str) -> None:
    (line,) = faults_of(lambda: check(Recipe("r", RunConfig(), (stage,))))
    assert line.startswith(fault)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"stages": list(staged().stages)}, "stages=[SFT(...), GRPO(...), Reject(...), Mix(...), Prefer(...)]: expected a tuple of Stage"),
        ({"stages": staged().stages[0]}, "stages=SFT(...): expected a tuple of Stage; write (SFT(...),)"),
        ({"base": {}}, "base={}: expected RunConfig"),
        ({"base": RunConfig(seed="7")}, "seed='7': expected a whole number; write 7"),
        ({"base": RunConfig(learner=None)}, "learner=None: expected LearnerConfig"),
        ({"name": 7}, "name=7: expected a text; write '7'"),
        ({"out": Path("runs")}, "out=PosixPath('runs'): expected a text; write 'runs'"),
    ],
)  # fmt: skip
def test_a_recipe_of_stages_is_checked_itself(change: dict[str, typing.Any], fault: str, tmp_path: Path) -> None:
    (line,) = faults_of(lambda: check(replace(staged(), **change)))
    assert line.startswith(fault)


def test_a_fault_of_the_base_is_told_once_and_not_for_each_stage() -> None:
    recipe = replace(staged(), base=apply_overrides(RunConfig(), ["learner.ranks=0"]))
    assert faults_of(lambda: check(recipe)) == ["learner.ranks=0: must be at least 1. Data-parallel learner processes."]


def test_a_stage_without_a_model_is_one_fault() -> None:
    stage = SFT("cold", "", SFTConfig(steps=3))
    assert faults_of(lambda: check(Recipe("r", RunConfig(), (stage,)))) == [
        "cold.model: name a Hugging Face id, a folder, or @stage"
    ]


def test_what_each_stage_has_of_its_own_is_not_checked_in_the_base_which_leaves_it_unused() -> None:
    check(replace(staged(), base=good(grpo=GRPOConfig(steps="3", group_size=0))))


# ------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("prompts.shuffle", "false", 'prompts.shuffle="false": expected true or false; write false'),
        ("prompts.shuffle", 0, "prompts.shuffle=0: expected true or false; write false"),
        ("prompts.shuffle", None, "prompts.shuffle=null: expected true or false"),
        ("grpo.steps", 2.5, "grpo.steps=2.5: expected a whole number"),
        ("grpo.steps", 2.0, "grpo.steps=2.0: expected a whole number; write 2"),
        ("grpo.steps", "16", 'grpo.steps="16": expected a whole number; write 16'),
        ("grpo.steps", True, "grpo.steps=true: expected a whole number; write 1"),
        ("grpo.steps", None, "grpo.steps=null: expected a whole number"),
        ("grpo.optim.lr", "1e-6", 'grpo.optim.lr="1e-6": expected a number; write 1e-06'),
        ("grpo.optim.lr", None, "grpo.optim.lr=null: expected a number"),
        ("grpo.optim.lr", False, "grpo.optim.lr=false: expected a number; write 0"),
        ("prompts.system", None, "prompts.system=null: expected a text"),
        ("prompts.system", 3, 'prompts.system=3: expected a text; write "3"'),
        ("prompts.system", ["a"], 'prompts.system=["a"]: expected a text'),
        ("rollout.stop", "###", 'rollout.stop="###": expected a list of texts; write ["###"]'),
        ("rollout.stop", None, "rollout.stop=null: expected a list of texts"),
        ("rollout.stop", ["a", 3], 'rollout.stop=["a", 3]: expected a list of texts'),
        ("rollout.stop", {"a": 1}, 'rollout.stop={"a": 1}: expected a list of texts'),
        ("evaluation.pass_at", [1, 2.0], "evaluation.pass_at=[1, 2.0]: expected a list of whole numbers"),
        ("evaluation.pass_at", 2, "evaluation.pass_at=2: expected a list of whole numbers; write [2]"),
        ("rewards", {"function": "accuracy"}, 'rewards={"function": "accuracy"}: expected a list of objects'),
        ("rewards", ["accuracy"], 'rewards.0="accuracy": expected an object'),
        ("rewards.0", None, "rewards.0=null: expected an object"),
        ("rewards.0.weight", "2", 'rewards.0.weight="2": expected a number; write 2'),
        ("rewards.0.options", "a=1", 'rewards.0.options="a=1": expected a list of texts; write ["a=1"]'),
        ("grpo.clip_high", 10**400, "grpo.clip_high=1000"),
        ("grpo", None, "grpo=null: expected an object"),
        ("grpo", [], "grpo=[]: expected an object"),
        ("grpo", 3, "grpo=3: expected an object"),
        ("grpo.group_sise", 4, "unknown config key 'grpo.group_sise' in the saved config; did you mean grpo.group_size?"),
        ("group_size", 4, "unknown config key 'group_size' in the saved config; did you mean grpo.group_size?"),
        ("gpro", {}, "unknown config key 'gpro' in the saved config; did you mean grpo?"),
        ("rewards.0.wieght", 4, "unknown config key 'rewards.0.wieght' in the saved config; did you mean rewards.0.weight?"),
    ],
)  # fmt: skip
def test_a_saved_value_of_another_type_is_one_line_from_a_run_and_from_a_stage(
    key: str, value: object, fault: str
) -> None:
    def put(tree: typing.Any) -> None:
        *path, last = key.split(".")
        for part in path:
            tree = tree[int(part)] if isinstance(tree, list) else tree[part]
        tree[int(last) if isinstance(tree, list) else last] = value

    saved = json.loads(to_json(good()))
    put(saved)
    (line,) = faults_of(lambda: from_json(json.dumps(saved)))
    assert line.startswith(fault)
    if key.split(".")[0] in ("rewards", "rollout", "grpo", "evaluation", "prompts"):
        whole = json.loads(recipe_to_json(staged()))
        put(whole["stages"][1])
        (line,) = faults_of(lambda: recipe_from_json(json.dumps(whole)))
        assert line.startswith(
            fault.replace(f"'{key}", f"'zero.{key}").replace("mean ", "mean zero.")
            if "unknown" in fault
            else f"zero.{fault}"
        )


def test_all_faults_of_a_saved_config_are_told_together() -> None:
    saved = {
        "grpo": {"steps": "3", "group_sise": 4},
        "rewards": [{"weight": None, "nmae": "x"}],
        "sead": 1,
        "prompts": {"shuffle": "no"},
    }
    keys = ["'sead'", "'grpo.group_sise'", "'rewards.0.nmae'", "prompts.shuffle", "rewards.0.weight", "grpo.steps"]
    lines = faults_of(lambda: from_json(json.dumps(saved)))
    assert len(lines) == len(keys)
    assert all(any(key in line for line in lines) for key in keys)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"seed": 1, "seed": 2}', "the key 'seed' is given twice"),
        ('{"grpo": {"steps": 1, "steps": 2}}', "the key 'steps' is given twice"),
        ('{"seed": ' + "9" * 5000 + "}", "is not JSON: "),
        ('{"seed": 1', "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        ("[]", "expected an object, not list"),
    ],
)
def test_a_saved_text_that_is_no_single_config_is_refused(text: str, fault: str) -> None:
    (line,) = faults_of(lambda: from_json(text))
    assert fault in line


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"extra": 1}, "unknown config key 'extra' in the saved recipe"),
        ({"stage": []}, "unknown config key 'stage' in the saved recipe; did you mean stages?"),
        ({"stages": None}, "stages=null: expected a list of objects"),
        ({"stages": ["x"]}, "stage '': unknown kind ''"),
        ({"stages": [{"kind": "Mux", "name": "m"}]}, "stage 'm': unknown kind 'Mux'; there are Build, Compare"),
        ({"base": None}, "base=null: expected an object"),
        ({"base": {"learner": {"rank": 2}}}, "unknown config key 'base.learner.rank' in the saved config; did you mean base.learner.ranks?"),
        ({"base": {"learner": {"ranks": "2"}}}, 'learner.ranks="2": expected a whole number; write 2'),
        ({"name": None}, "name=null: expected a text"),
    ],
)  # fmt: skip
def test_a_saved_recipe_is_checked_itself(change: dict[str, object], fault: str) -> None:
    (line,) = faults_of(lambda: recipe_from_json(json.dumps(json.loads(recipe_to_json(staged())) | change)))
    assert line.startswith(fault)


def test_an_old_runs_file_is_read_where_settings_are_absent_numbers_whole_or_infinite() -> None:
    old = json.loads(to_json(good()))
    del old["grpo"]["clip_low"], old["scoring"], old["rewards"][0]["domains"]
    old["grpo"] |= {"kl_coef": 0, "clip_high": float("inf")}
    cfg = from_json(json.dumps(old))
    assert (cfg.grpo.clip_low, cfg.scoring, cfg.rewards[0].domains) == (0.2, RunConfig().scoring, ())
    assert (cfg.grpo.kl_coef, type(cfg.grpo.kl_coef), cfg.grpo.clip_high) == (0.0, float, float("inf"))


# ------------------------------------------------------------------------------------------------ a recipe's function


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Write a recipe with these parameters; its run's system message is what it was given."""

    def write(parameters: str, names: str = "value") -> str:
        file = tmp_path / "mine.py"
        file.write_text(
            textwrap.dedent(f"""
            from __future__ import annotations
            import enum
            from pathlib import Path
            from typing import TYPE_CHECKING, Any, Literal, Optional
            from rl.config import DataConfig, ModelConfig, RewardConfig, RunConfig
            if TYPE_CHECKING:
                from nowhere import Unknown

            class Size(enum.Enum):
                SMALL = 1
                BIG = 2

            def recipe({parameters}):
                prompts = DataConfig(system=repr(({names},)))
                return RunConfig(model=ModelConfig("m"), rewards=(RewardConfig("accuracy"),), prompts=prompts)
            """)
        )
        return str(file)

    return write


def given(path: str, *overrides: str) -> str:
    made = load(path, overrides)
    assert isinstance(made, RunConfig)
    return made.prompts.system


@pytest.mark.parametrize(
    ("parameter", "override", "got"),
    [
        ("value: bool = False", "value=false", "(False,)"), ("value: bool = True", "value=0", "(False,)"), ("value: bool = False", "value=True", "(True,)"),
        ("value: str = 'small'", "value=false", "('false',)"), ("value: str", "value=big", "('big',)"), ("value: int = 1", "value=1_000", "(1000,)"),
        ("value: float = 1", "value=3", "(3.0,)"), ("value: float | None = None", "value=none", "(None,)"), ("value: Optional[float] = 2", "value=null", "(None,)"),
        ("value: float | None = None", "value=1e-6", "(1e-06,)"), ("value: Literal['tiny', 'laptop'] = 'tiny'", "value=laptop", "('laptop',)"),
        ("value: Size = Size.SMALL", "value=BIG", "(<Size.BIG: 2>,)"), ("value: tuple[str, ...] = ()", "value=a,b", "(('a', 'b'),)"), ("value: list[int] = []", "value=1,2", "([1, 2],)"),
        ("value: Path = Path()", "value=a/b", "(PosixPath('a/b'),)"), ("value, /", "value=a", "('a',)"), ("value: bool = False, /", "value=false", "(False,)"),
        ("*, value: int", "value=3", "(3,)"), ("value=1", "value=3", "(3,)"), ("value=False", "value=no", "(False,)"), ("value=None", "value=text", "('text',)"),
        ("value=None", "value=[1]", "([1],)"), ("value: Unknown = False", "value=false", "(False,)"), ("value: str | None = None", 'value="none"', "('none',)"),
    ],
)  # fmt: skip
def test_an_argument_is_read_as_its_parameters_type(
    recipe: Callable[..., str], parameter: str, override: str, got: str
) -> None:
    assert given(recipe(parameter), override) == got


@pytest.mark.parametrize(
    ("parameter", "override", "fault"),
    [
        ("value: bool = False", "value=off", "value=off: expected true or false"),
        ("value: bool | None = None", "value=off", "value=off: expected true or false or null"),
        ("value: int = 1", "value=2.5", "value=2.5: expected a whole number"),
        ("value: int | None = None", "value=2.5", "value=2.5: expected a whole number or null"),
        ("value: float | None = None", "value=fast", "value=fast: expected a number or null"),
        ("value: float | None = None", "value=", "value=: expected a number or null"),
        ("value: float = 1.0", "value=nan", "value=nan: expected a number"),
        ("value: Literal['tiny', 'laptop'] = 'tiny'", "value=laptp", "value=laptp: expected one of tiny, laptop; did you mean laptop?"),
        ("value: Size = Size.SMALL", "value=huge", "value=huge: expected one of SMALL, BIG"),
        ("value: tuple[int, ...] = ()", "value=1,x", "value=1,x: expected a list of whole numbers"),
        ("value: dict[str, int] = {}", "value=a", "value=a: expected a JSON object"),
        ("value: str | None = None", "value=none", "value=none: expected a text or null; write null, or \"none\" in double quotes"),
        ("value: str = ''", "value=None", "value=None: expected a text; write \"\" for an empty text"),
        ("value=False", "value=off", "value=off: expected true or false"),
        ("value=1", "value=True", "value=True: expected a whole number"),
        ("value=1", "value=[1]", "value=[1]: expected a whole number"),
        ("value=None", "value=False", "value=False: expected JSON or a text"),
        ("value", "other=1", "value: recipe() needs it; write value=..., JSON or a text"),
        ("value: int, /", "seed=1", "value: recipe() needs it; write value=..., a whole number"),
        ("value: any = 1", "value=1", "value=1: expected <built-in function any>; <built-in function any> is no type that a text can be read as"),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_one_line(
    recipe: Callable[..., str], parameter: str, override: str, fault: str
) -> None:
    (line,) = faults_of(lambda: load(recipe(parameter), [override]))
    assert line.startswith(fault)


@pytest.mark.parametrize(
    ("parameters", "overrides", "got"),
    [
        ("a, b=2, /, c=3, *d, e=4, **f", ["a=1", "c=5", "e=6"], "(1, 2, 5, (), 6, {})"),
        ("a=1, b=2, /, c=3, *d, e=4, **f", ["b=7"], "(1, 7, 3, (), 4, {})"),
    ],
)
def test_positional_parameters_are_set_by_name_and_those_of_many_are_not(
    recipe: Callable[..., str], parameters: str, overrides: list[str], got: str
) -> None:
    path = recipe(parameters, "a, b, c, d, e, f")
    assert given(path, *overrides) == got
    for many in ("d=1", "f=1"):
        assert faults_of(lambda many=many: load(path, [*overrides, many]))[0].startswith(
            f"unknown config key '{many[0]}'"
        )  # type: ignore[misc]


def test_all_faults_of_arguments_and_then_of_settings_are_told_together(recipe: Callable[..., str]) -> None:
    path = recipe("fast: bool = False, scale: int = 1, must: str = ''", "fast, scale")
    assert [
        line.partition(":")[0] for line in faults_of(lambda: load(path, ["fast=maybe", "scale=x", "seed=one"]))
    ] == [
        "fast=maybe",
        "scale=x",
    ]
    lines = faults_of(lambda: load(path, ["seed=one", "grpo.group_size=0", "grpo.stepz=3", "faxt=true"]))
    assert [line.partition(":")[0] for line in lines[:1]] == ["seed=one"]
    assert lines[1] == "unknown config key 'grpo.stepz'; did you mean grpo.steps?"
    assert lines[2] == "unknown config key 'faxt'; did you mean fast?"
    assert lines[3].startswith("grpo.group_size=0: must be at least 1")
    assert len(lines) == 4


def test_a_recipes_own_faults_are_told_with_those_of_its_ranges(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from rl.config import *\n"
        "def recipe():\n"
        "    return RunConfig(model=ModelConfig('m'), rewards=[RewardConfig('accuracy')], grpo=GRPOConfig(group_size=0))\n"
    )
    lines = faults_of(lambda: load(str(file), ["rewards.0.weight=2"]))
    assert [line.partition(":")[0] for line in lines] == ["rewards=[RewardConfig(...)]", "grpo.group_size=0"]


def test_a_parameter_without_a_default_is_shown_without_one(recipe: Callable[..., str]) -> None:
    assert parameters(recipe("value, other=3, *many, **more")) == {"value": "", "other": "3"}


def test_the_command_line_tells_all_faults_and_starts_nothing(recipe: Callable[..., str]) -> None:
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "run",
        recipe("value: int = 1"),
        "seed=one",
        "rollout.stop=, ",
        "prompts.shuffle=off",
        "--check",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert [line.partition(";")[0] for line in done.stderr.splitlines()] == [
        "aha: seed=one: expected a whole number",
        "aha: rollout.stop=, : expected a list of texts",
        "aha: prompts.shuffle=off: expected true or false",
    ]


def test_help_behind_a_recipe_says_how_values_are_written(recipe: Callable[..., str]) -> None:
    for option in ("--help", "--settings"):
        command = [sys.executable, "-m", "launch.cli", "run", recipe("value: int = 1"), option]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert """rollout.stop='["a,b", "c"]'""" in done.stdout
        assert r"""prompts.system='"two\nlines"'""" in done.stdout


def loaded_with(path: str) -> str:
    """What a new interpreter has of pydantic and rl.recipe after it has loaded the recipe at path."""
    code = f"import sys; from launch.recipes import load; load({path!r}); print(*{{'pydantic', 'rl.recipe'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_recipe_that_needs_no_reading_loads_without_pydantic() -> None:
    assert loaded_with("recipes/r1_mini.py") == "rl.recipe"


def test_json_with_stages_loads_every_kind_of_stage_and_json_of_one_run_loads_none(tmp_path: Path) -> None:
    run, stages = tmp_path / "resolved.json", tmp_path / "recipe.json"
    run.write_text(to_json(good()))
    stages.write_text(recipe_to_json(staged()))
    assert loaded_with(str(run)) == ""
    assert loaded_with(str(stages)) == "rl.recipe"


def test_every_settings_type_is_one_that_is_checked() -> None:
    """Texts, whole numbers, numbers, true or false, lists of the first two, and groups of settings."""
    from tests.unit.test_config import config_classes

    kinds: set[object] = set()
    for top in (RunConfig, *(type(s) for s in staged().stages)):
        for cls in config_classes(top):
            kinds |= {hint for hint in field_types(cls).values() if not dataclasses.is_dataclass(hint)}
    plain = {kind for kind in kinds if not dataclasses.is_dataclass((*typing.get_args(kind), None)[0])}
    assert plain == {bool, int, float, str, tuple[str, ...], tuple[int, ...]}
