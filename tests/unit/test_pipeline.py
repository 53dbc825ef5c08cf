"""Bad input is refused before anything is started."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from recipes.tiny import recipe
from rl.config import OptimConfig, RunConfig
from rl.pipeline import _refuse_other_run, prepare
from rl.schedule import learning_rate
from rl.settings import apply_overrides, from_json, to_json
from rl.types import BadInput


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
        (["rollout.max_new_tokens=256"], "leaves no room for a prompt"),
        (["learner.micro_batch_tokens=50"], "cannot hold a completion of 64 tokens"),
        (["rollout.max_new_tokens=250"], "prompt"),
        (["prompts.source=/no/such.jsonl"], "no such file"),
        (["prompts.answer_field=solution"], "solution"),
        (["rewards.0.function=acuracy"], "accuracy"),
        (["grpo.updates_per_step=3"], "do not divide"),
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
    _refuse_other_run(apply_overrides(cfg, ["grpo.steps=99", "track.wandb=offline"]))
    with pytest.raises(BadInput, match=r"holds a run with seed=1, not 2"):
        _refuse_other_run(apply_overrides(cfg, ["seed=2"]))
    assert from_json(to_json(cfg)) == cfg


def test_learning_rates_by_hand() -> None:
    cosine = OptimConfig(lr=1.0, schedule="cosine", final_lr_share=0.1)
    assert [learning_rate(cosine, u, 3) for u in range(3)] == pytest.approx([1.0, 0.55, 0.1])
    linear = dataclasses.replace(cosine, schedule="linear", warmup_steps=2)
    assert [learning_rate(linear, u, 5) for u in range(5)] == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert learning_rate(OptimConfig(lr=3.0), 1000, 10) == 3.0
