"""rl/config.py and rl/settings/overrides.py: overrides, ranges, batch arithmetic, resolved.json."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import replace

import pytest

from rl.config import (
    DataConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    RewardConfig,
    RunConfig,
)
from rl.settings.all_settings import all_keys, describe
from rl.settings.config_checks import validate
from rl.settings.overrides import apply_overrides, from_json, to_json
from rl.types import BadInput


def good() -> RunConfig:
    """A config without a fault."""
    return RunConfig(
        model=ModelConfig(path="models/small"),
        rewards=(RewardConfig("accuracy"), RewardConfig("format", 0.5)),
        grpo=GRPOConfig(prompts_per_step=6, group_size=4, updates_per_step=3),
    )


def faults(cfg: RunConfig) -> list[str]:
    with pytest.raises(BadInput) as caught:
        validate(cfg)
    return str(caught.value).split("\n")


def refusal(*overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        apply_overrides(good(), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def config_classes(cls: type = RunConfig) -> set[type]:
    """cls and every config class that its fields can hold."""
    found = {cls}
    for hint in typing.get_type_hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                found |= config_classes(typing.cast(type, part))
    return found


# ------------------------------------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("grpo.group_size=16", lambda cfg: cfg.grpo.group_size == 16),
        ("grpo.steps=10_400", lambda cfg: cfg.grpo.steps == 10_400),
        (" grpo.optim.lr = 3e-6 ", lambda cfg: cfg.grpo.optim.lr == 3e-6),
        ("grpo.clip_high=10", lambda cfg: cfg.grpo.clip_high == 10 and type(cfg.grpo.clip_high) is float),
        ("prompts.shuffle=False", lambda cfg: cfg.prompts.shuffle is False),
        ("prompts.shuffle=yes", lambda cfg: cfg.prompts.shuffle is True),
        ("prompts.template=a={prompt}, b=", lambda cfg: cfg.prompts.template == "a={prompt}, b="),
        ("rollout.stop=</answer>,User:", lambda cfg: cfg.rollout.stop == ("</answer>", "User:")),
        ("rollout.stop=", lambda cfg: cfg.rollout.stop == ()),
        ("rewards.1.weight=0.25", lambda cfg: [r.weight for r in cfg.rewards] == [1.0, 0.25]),
        ("prompts.subset=", lambda cfg: cfg.prompts.subset == ""),
    ],
)
def test_an_override_is_read_as_its_fields_type(override, read):
    assert read(apply_overrides(good(), [override]))


def test_overrides_apply_in_order_and_change_nothing_else():
    before = good()
    after = apply_overrides(before, ["seed=7", "grpo.group_size=8", "seed=9"])
    assert after == replace(before, seed=9, grpo=replace(before.grpo, group_size=8))
    assert before == good()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("grpo.group_sise=4", "unknown config key 'grpo.group_sise'; did you mean grpo.group_size?"),
        ("group_size=4", "unknown config key 'group_size'; did you mean grpo.group_size?"),
        ("rewards.2.weight=1", "unknown config key 'rewards.2.weight'; did you mean rewards."),
        ("rewards.first.weight=1", "unknown config key 'rewards.first.weight'; did you mean rewards."),
        ("seed.x=1", "unknown config key 'seed.x'; did you mean seed?"),
        ("qqqq=1", "unknown config key 'qqqq'; see: aha run RECIPE --help"),
        ("seed", "override 'seed': expected key=value, for example grpo.group_size=16"),
        ("seed=one", "seed=one: expected a whole number"),
        ("seed=1.5", "seed=1.5: expected a whole number"),
        ("grpo.optim.lr=fast", "grpo.optim.lr=fast: expected a number"),
        ("prompts.shuffle=maybe", "prompts.shuffle=maybe: expected true or false"),
        ("checkpoint=1", "checkpoint: is a group of settings; set one of checkpoint.every, checkpoint.keep"),
        ("rewards=accuracy", "rewards: set its parts by number, for example rewards.0.function="),
        ("evaluation.search=beam", "evaluation.search: has no parts; name them in the recipe"),
    ],
)
def test_an_override_that_cannot_be_applied_says_why_and_names_the_nearest(override, fault):
    assert refusal(override).startswith(fault)


def test_every_key_can_be_overridden_with_its_own_value():
    cfg = good()
    for key in all_keys(cfg):
        value: object = cfg
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        assert apply_overrides(cfg, [f"{key}={text}"]) == cfg, key


# ------------------------------------------------------------------------------------------------ checks


def test_a_config_without_faults_passes():
    validate(good())


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("grpo.group_size=0", "grpo.group_size=0: must be at least 1. Samples per prompt"),
        ("grpo.updates_per_step=0", "grpo.updates_per_step=0: must be at least 1."),
        ("rollout.top_p=1.5", "rollout.top_p=1.5: must be between 0.01 and 1. Probability mass of nucleus sampling"),
        ("rollout.temperature=0", "rollout.temperature=0.0: must be between 0.01 and 5."),
        ("grpo.optim.lr=nan", "grpo.optim.lr=nan: is not a number"),
        ("learner.zero_stage=4", "learner.zero_stage=4: must be between 0 and 3."),
        (
            "grpo.loss=drgrpo",
            "grpo.loss=drgrpo: must be one of grpo, dr_grpo, dapo, gspo, cispo; did you mean dr_grpo?",
        ),
        ("model.path=", "model.path: name a Hugging Face id or a folder"),
        ("name=a/b", "name='a/b': must be a folder name without '/'"),
        ("name=", "name='': must be a folder name"),
        ("grpo.dual_clip=0.5", "grpo.dual_clip=0.5: must be above 1, or 0 for off"),
        ("rollout.top_p=0.9 grpo.old_logprobs=sampler", "rollout.top_p below 1 cuts the tail"),
        ("rollout.top_p=0.9", "rollout.top_p=0.9: the sampler's logprobs then cover the likeliest tokens alone"),
        ("grpo.kl_estimator=k1", "grpo.kl_estimator=k1: as a loss, its gradient is 0 in the mean"),
        ("grpo.loss=cispo grpo.dual_clip=3", "grpo.dual_clip=3: cispo has no such clip"),
        (
            "grpo.old_logprobs=sampler grpo.importance=sequence_mask",
            "grpo.importance=sequence_mask: old_logprobs=",
        ),
        ("grpo.uniform_groups=drop", "grpo.uniform_groups=drop would drop those groups' KL too"),
        ("grpo.group_size=1", "grpo.group_size=1: a group of one has no advantage"),
        (
            "learner.zero_stage=0 model.dtype=bfloat16",
            "learner.zero_stage=0: DeepSpeed keeps no float32 copy of bfloat16 weights there and does not start; use "
            "learner.zero_stage=1, or model.dtype=float32",
        ),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_it(override, fault):
    lines = faults(apply_overrides(good(), override.split()))
    assert len(lines) == 1
    assert lines[0].startswith(fault)


@pytest.mark.parametrize(
    "override",
    [
        "rollout.top_p=1",
        "rollout.top_p=0.01 grpo.max_logprob_gap=9",
        "grpo.kl_estimator=k1 grpo.kl_coef=0",
        "learner.zero_stage=0 model.dtype=float32",
        "seed=0",
    ],
)
def test_both_ends_of_a_range_are_allowed(override):
    validate(apply_overrides(good(), override.split()))


def test_faults_in_the_parts_of_a_list_are_found():
    part = DataConfig(limit=-1)
    assert faults(replace(good(), prompts=part)) == [
        "prompts.limit=-1: must be at least 0. Use only the first rows of the source; 0 takes all."
    ]


def test_all_faults_are_told_at_once_one_a_line():
    cfg = apply_overrides(good(), ["model.path=", "grpo.group_size=0", "rollout.top_p=2", "model.dtype=int4"])
    keys = [line.split("=")[0].split(":")[0] for line in faults(cfg)]
    assert sorted(keys) == ["grpo.group_size", "model.dtype", "model.path", "rollout.top_p"]


def test_updates_that_do_not_divide_the_rollouts_are_refused_with_the_arithmetic():
    (line,) = faults(apply_overrides(good(), ["grpo.updates_per_step=5"]))
    assert line.startswith("grpo: 6 prompts x 4 samples = 24 rollouts do not divide into updates_per_step=5")


def test_fewer_rollouts_in_an_update_than_learner_ranks_are_refused():
    assert good().grpo.rollouts_per_step // good().grpo.updates_per_step == 8
    validate(replace(good(), learner=LearnerConfig(ranks=8)))
    (line,) = faults(replace(good(), learner=LearnerConfig(ranks=9)))
    assert line.startswith("grpo: 8 rollouts per update are fewer than learner.ranks=9")


def test_grpo_needs_a_reward_and_sft_alone_does_not():
    (line,) = faults(replace(good(), rewards=()))
    assert line.startswith("rewards: GRPO needs at least one reward")
    validate(apply_overrides(replace(good(), rewards=()), ["grpo.steps=0"]))


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["sft.steps=5", "sft.epochs=2"], "sft.steps=5 and sft.epochs=2: set one of the two"),
        (["sft.eval_every=5"], "sft.eval_every=5 needs held-out examples"),
        (
            ["grpo.teacher=x", "grpo.uniform_groups=drop", "grpo.kl_coef=0"],
            "grpo.uniform_groups=drop would drop the teacher's signal",
        ),
        (["sft.distill.divergence=kl"], "sft.distill.divergence=kl: must be one of forward, reverse, jsd"),
    ],
)
def test_settings_of_sft_and_distillation_that_contradict_each_other_are_refused(overrides, start):
    (line,) = faults(apply_overrides(good(), overrides))
    assert line.startswith(start)


def test_the_batch_arithmetic_is_said_in_words():
    assert good().batch_arithmetic() == (
        "6 prompts x 4 samples = 24 rollouts per step, 3 optimiser updates of 8 rollouts, "
        "in micro-batches of at most 4096 tokens on 1 learner rank"
    )


def test_the_default_logprob_gap_depends_on_the_precision():
    assert good().gap_limit == 0.05
    assert apply_overrides(good(), ["model.dtype=float32"]).gap_limit == 1e-3
    assert apply_overrides(good(), ["grpo.max_logprob_gap=0.2"]).gap_limit == 0.2


# ------------------------------------------------------------------------------------------------ json and help


def test_a_config_survives_json():
    cfg = apply_overrides(good(), ["rollout.stop=a,b", "grpo.optim.lr=3e-6", "prompts.template=ü {prompt}"])
    assert from_json(to_json(cfg)) == cfg
    assert from_json(to_json(RunConfig())) == RunConfig()


def test_a_saved_config_with_an_unknown_key_is_refused():
    saved = json.loads(to_json(good()))
    saved["grpo"]["group_sise"] = 4
    with pytest.raises(BadInput, match=r"unknown config key 'grpo\.group_sise' in the saved config"):
        from_json(json.dumps(saved))


def test_a_whole_number_saved_for_a_fraction_is_read_as_one():
    saved = json.loads(to_json(good()))
    saved["rewards"][0]["weight"] = 2
    weight = from_json(json.dumps(saved)).rewards[0].weight
    assert (weight, type(weight)) == (2.0, float)


def test_no_config_can_be_written_to():
    assert len(config_classes()) > 10
    for cls in config_classes():
        first = dataclasses.fields(cls)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), first, 1)


def test_every_field_has_a_sentence_and_a_default_inside_its_range():
    for cls in config_classes():
        for f in dataclasses.fields(cls):
            where = f"{cls.__name__}.{f.name}"
            text = f.metadata.get("help", "")
            assert text.endswith("."), f"{where} has no sentence: {text!r}"
            assert "\n" not in text, where
            value = getattr(cls(), f.name)
            if f.metadata["choices"]:
                assert value in f.metadata["choices"], where
            if f.metadata["lo"] is not None:
                assert value >= f.metadata["lo"], where
            if f.metadata["hi"] is not None:
                assert value <= f.metadata["hi"], where


def test_no_field_is_called_batch_size():
    assert not [key for key in all_keys(good()) if "batch_size" in key]


def test_help_lists_every_key_with_its_value_and_choices():
    described = {key: (value, text) for key, value, text in describe(good())}
    assert sorted(described) == sorted(all_keys(good()))
    assert described["rewards.1.weight"][0] == "0.5"
    assert described["grpo.loss"][1].endswith("One of: grpo, dr_grpo, dapo, gspo, cispo.")


def test_a_text_keeps_the_spaces_of_its_own():
    cfg = apply_overrides(
        good(), ["rollout.stop=\n\n,Q: ", "prompts.template={prompt} ", " grpo.steps = 3", "track.wandb=off"]
    )
    assert cfg.rollout.stop == ("\n\n", "Q: ")
    assert cfg.prompts.template == "{prompt} "
    assert cfg.grpo.steps == 3
