"""Bad input is refused before anything is started."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from recipes.tiny import recipe
from rl.algorithms.learning_rate import learning_rate
from rl.config import (
    DataConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from rl.recipe import GRPO, Recipe
from rl.settings.overrides import apply_overrides, from_json, to_json
from rl.settings.recipe_checks import check
from rl.stages.sft import _warn_of_lengths
from rl.types import BadInput
from rl.workflow.inputs import _rewardable_rows, prepare
from rl.workflow.one_folder import refuse_other_run


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return dataclasses.replace(recipe(), out=str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=/no/such/model"], "model.path=/no/such/model: no such folder"),
        (["model.path=recipes.tiny_model:missing"], "no such Python function"),
        (["model.context_length=100000"], "at most 256 tokens"),
        (["rollout.max_new_tokens=256"], "rollout.max_new_tokens=256 leaves no room for a prompt"),
        (["evaluation.max_new_tokens=300"], "evaluation.max_new_tokens=300 leaves no room for a prompt"),
        (["learner.micro_batch_tokens=50"], "cannot hold a completion of 64 tokens"),
        (["rollout.max_new_tokens=250"], "prompt"),
        (["prompts.source=/no/such.jsonl"], "no such file"),
        (["prompts.answer_field=solution"], "solution"),
        (["rewards.0.function=acuracy"], "accuracy"),
        (["grpo.updates_per_step=3"], "do not divide"),
        (["model.add_tokens=<new>", "model.lora.rank=4"], "model.lora.rank=4 trains only adapters"),
    ],
)
def test_bad_input_ends_in_one_line_that_says_what_and_where(
    cfg: RunConfig, overrides: list[str], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        prepare(apply_overrides(cfg, overrides))
    assert not cfg.run_dir.exists()


def test_good_input_is_accepted(cfg: RunConfig) -> None:
    inputs = prepare(cfg)
    assert inputs.context_length == 256
    assert len(inputs.eval_prompts) == 64


def test_a_folder_with_another_run_in_it_is_refused_but_more_steps_are_not(cfg: RunConfig) -> None:
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "resolved.json").write_text(to_json(cfg))
    refuse_other_run(apply_overrides(cfg, ["grpo.steps=99", "track.wandb=offline"]))
    with pytest.raises(BadInput, match=r"holds a run with seed=1, not 2"):
        refuse_other_run(apply_overrides(cfg, ["seed=2"]))
    assert from_json(to_json(cfg)) == cfg


def test_more_steps_are_refused_where_a_reward_counts_from_the_end(cfg: RunConfig) -> None:
    late = dataclasses.replace(cfg, rewards=(*cfg.rewards, RewardConfig("repetition", from_step=-1)))
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "resolved.json").write_text(to_json(late))
    refuse_other_run(late)
    with pytest.raises(BadInput, match=r"whose reward 'repetition' counts from the end; with 99 steps it would stop"):
        refuse_other_run(apply_overrides(late, ["grpo.steps=99"]))


def rows_file(folder: Path, *rows: dict[str, str]) -> DataConfig:
    """Rows as a file whose first line is blank, so that row 1 stands in line 2."""
    path = folder / "rows.jsonl"
    path.write_text("\n" + "\n".join(json.dumps({"prompt": "q"} | row) for row in rows))
    return DataConfig(source=str(path))


def test_rows_that_cannot_be_rewarded_are_named_by_their_line(cfg: RunConfig, tmp_path: Path) -> None:
    cfg = dataclasses.replace(cfg, rewards=(RewardConfig("accuracy"),))
    data = rows_file(tmp_path, {"answer": "4"}, {"answer": "\\boxed{}"}, {"answer": "5"})
    with pytest.raises(BadInput, match=r"1 of 3 rows cannot be rewarded: .*rows.jsonl line 3: .*no reference answer"):
        _rewardable_rows(cfg, data)


def test_rows_that_get_no_reward_are_named_too(cfg: RunConfig, tmp_path: Path) -> None:
    cfg = dataclasses.replace(cfg, rewards=(RewardConfig("accuracy", domains=("math",)),))
    data = rows_file(tmp_path, {"answer": "4", "domain": "math"}, {"answer": "\\boxed{}", "domain": "poem"})
    with pytest.raises(BadInput, match=r"1 of 2 .* line 3: no reward applies: its 'domain' is 'poem'"):
        _rewardable_rows(cfg, data)
    everything = dataclasses.replace(cfg, rewards=(*cfg.rewards, RewardConfig("format")))
    assert (
        len(_rewardable_rows(everything, data)) == 2
    )  # accuracy is not asked about the poem, whose answer it cannot read


def test_rows_that_cannot_be_rewarded_may_be_dropped_with_a_warning(
    cfg: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = dataclasses.replace(cfg, rewards=(RewardConfig("accuracy"),))
    data = rows_file(tmp_path, {"answer": "4"}, {"answer": "\\boxed{}"}, {"answer": "5"})
    with caplog.at_level(logging.WARNING):
        kept = _rewardable_rows(cfg, dataclasses.replace(data, unjudgeable="drop"))
    assert [row["answer"] for row in kept] == ["4", "5"]
    assert "1 of 3 rows" in caplog.text
    assert "line 3" in caplog.text
    none = dataclasses.replace(rows_file(tmp_path, {"answer": "\\boxed{}"}), unjudgeable="drop")
    with pytest.raises(BadInput, match="1 of 1 rows cannot be rewarded"):
        _rewardable_rows(cfg, none)


SHORT = ("model.context_length=128", "grpo.steps=0", "rollout.max_new_tokens=8")


@pytest.mark.parametrize(
    ("budget", "knob"),
    [(64, "learner.micro_batch_tokens"), (128, "model.context_length"), (4096, "model.context_length")],
)
def test_the_limit_that_an_example_is_over_is_named_and_held_out_ones_are_counted(
    cfg: RunConfig, tmp_path: Path, budget: int, knob: str, caplog: pytest.LogCaptureFixture
) -> None:
    long, short = {"prompt": "1+1=", "target": "2" * 300}, {"prompt": "1+1=", "target": "2"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (long, short, long)))
    data = DataConfig(source=str(path), template="plain")
    cfg = apply_overrides(cfg, [f"learner.micro_batch_tokens={budget}", *SHORT])
    cfg = dataclasses.replace(cfg, sft=SFTConfig(steps=1, data=data), evaluation=EvalConfig())
    with pytest.raises(BadInput, match=rf"the limit is {min(budget, 128)} .*; raise {knob}, or set overlong=drop"):
        prepare(cfg)
    inputs = prepare(dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, eval_data=data, overlong="drop")))
    assert inputs.sft_stream is not None
    assert inputs.sft_held_out is not None
    assert (inputs.sft_stream.dropped, inputs.sft_held_out.dropped) == (2, 2)
    _warn_of_lengths(inputs.sft_held_out, "held-out examples")
    assert f"2 held-out examples are longer than {min(budget, 128)} tokens ({knob}) and were dropped" in caplog.text


@pytest.mark.parametrize("budget", [64, 128, 4096])
def test_a_document_that_the_context_would_hold_is_split_with_a_warning(
    cfg: RunConfig, tmp_path: Path, budget: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "1+1=" * 60}))
    cfg = apply_overrides(cfg, [f"learner.micro_batch_tokens={budget}", *SHORT])
    data = DataConfig(source=str(path), text_field="text")
    stream = prepare(dataclasses.replace(cfg, sft=SFTConfig(steps=1, data=data), evaluation=EvalConfig())).sft_stream
    assert stream is not None
    with caplog.at_level(logging.INFO):
        _warn_of_lengths(stream)
    (record,) = caplog.records
    assert record.levelname == ("WARNING" if budget == 64 else "INFO")
    assert f"longer than {min(budget, 128)} tokens" in record.message
    assert ("learner.micro_batch_tokens" in record.message) == (budget == 64)


LONG = "1+1=" * 20


@pytest.fixture
def long_rows(tmp_path: Path) -> DataConfig:
    """A prompt of about 80 tokens, in a context of 128."""
    return dataclasses.replace(rows_file(tmp_path, {"prompt": LONG, "answer": "2"}), template="plain")


def test_an_evaluations_completions_do_not_shorten_the_training_prompts(cfg: RunConfig, long_rows: DataConfig) -> None:
    cfg = apply_overrides(cfg, ["model.context_length=128", "rollout.max_new_tokens=32", "sft.steps=0"])
    trained = dataclasses.replace(cfg, prompts=long_rows)
    inputs = prepare(apply_overrides(trained, ["evaluation.max_new_tokens=100"]))
    assert inputs.stream is not None
    held_out = dataclasses.replace(cfg, evaluation=dataclasses.replace(cfg.evaluation, data=long_rows))
    assert prepare(held_out).eval_prompts
    with pytest.raises(BadInput, match=r"raise model.context_length, or lower max_new_tokens"):
        prepare(apply_overrides(held_out, ["evaluation.max_new_tokens=100"]))


def test_training_completions_do_not_shorten_an_evaluation_that_has_a_limit_of_its_own(
    cfg: RunConfig, long_rows: DataConfig
) -> None:
    cfg = apply_overrides(cfg, ["model.context_length=128", "rollout.max_new_tokens=100", "sft.steps=0"])
    held_out = dataclasses.replace(cfg, evaluation=dataclasses.replace(cfg.evaluation, data=long_rows))
    assert prepare(apply_overrides(held_out, ["evaluation.max_new_tokens=16"])).eval_prompts
    with pytest.raises(BadInput, match=r"raise model.context_length, or lower max_new_tokens"):
        prepare(held_out)


def test_micro_batches_bound_the_prompts_of_a_stage_that_trains_on_them_and_no_other(
    cfg: RunConfig, long_rows: DataConfig
) -> None:
    small = ["model.context_length=128", "rollout.max_new_tokens=32", "learner.micro_batch_tokens=64", "sft.steps=0"]
    cfg = dataclasses.replace(apply_overrides(cfg, small), prompts=long_rows)
    with pytest.raises(BadInput, match=r"the less of model.context_length and learner.micro_batch_tokens"):
        prepare(cfg)
    sampled = apply_overrides(cfg, ["grpo.steps=0", "learner.micro_batch_tokens=8"])
    sampled = dataclasses.replace(sampled, evaluation=dataclasses.replace(sampled.evaluation, data=long_rows))
    inputs = prepare(sampled)
    assert len(inputs.prompts) == len(inputs.eval_prompts) == 1


def test_a_micro_batch_without_room_for_a_prompt_is_refused_before_the_data_are_there() -> None:
    grpo = Recipe(
        "r", RunConfig(model=ModelConfig(path="m"), learner=LearnerConfig(micro_batch_tokens=64)),
        (GRPO("zero", "m", DataConfig("@made"), (RewardConfig("accuracy"),), RolloutConfig(max_new_tokens=64)),),
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"zero.*learner.micro_batch_tokens=64 cannot hold a completion of 64 tokens"):
        check(grpo)


def test_a_reward_for_domains_that_are_not_there_and_a_model_that_is_none_are_refused(cfg: RunConfig) -> None:
    for reward, message in (
        (RewardConfig("accuracy", name="a", domains=("maths",)), "'a' is for the domains maths, but no row"),
        (RewardConfig("model:no/such/folder"), "model:no/such/folder: no model with a tokenizer there"),
    ):
        with pytest.raises(BadInput, match=message):
            prepare(dataclasses.replace(cfg, rewards=(*cfg.rewards, reward)))


def test_learning_rates_by_hand() -> None:
    cosine = OptimConfig(lr=1.0, schedule="cosine", final_lr_share=0.1)
    assert [learning_rate(cosine, u, 3) for u in range(3)] == pytest.approx([1.0, 0.55, 0.1])
    linear = dataclasses.replace(cosine, schedule="linear", warmup_steps=2)
    assert [learning_rate(linear, u, 5) for u in range(5)] == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert learning_rate(OptimConfig(lr=3.0), 1000, 10) == 3.0
