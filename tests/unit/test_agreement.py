"""rl/rollouts/agreement.py: whether samplers compute with an update, by numbers and in whole runs with planted faults."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest

from recipes.tiny import recipe
from rl.config import CheckpointConfig, EvalConfig, ModelConfig, RewardConfig, RunConfig, TrackConfig
from rl.rollouts.agreement import Agreement, agreement, common_tokens, score_groups
from rl.types import AhaError, Prompt, Rollout, RolloutGroup
from rl.workflow.run import run
from tests.unit import mixtures
from tests.unit.pretend import PretendBackend

ROOT = Path(__file__).resolve().parents[2]
FLOAT32 = RunConfig(model=ModelConfig(dtype="float32"))
BFLOAT16 = RunConfig(model=ModelConfig(dtype="bfloat16"))


def rollout(ids: list[int], logprobs: list[float]) -> Rollout:
    return Rollout(np.array(ids, np.int32), np.array(logprobs, np.float32), "", "stop", 1.0, 0, 0)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("one", "other", "n"), [([3, 4, 5], [3, 4, 6, 7], 2), ([3], [3, 4], 1), ([3, 4], [3, 4], 2), ([5], [6], 0)]
)
def test_common_tokens(one: list[int], other: list[int], n: int) -> None:
    assert common_tokens(np.array(one), np.array(other)) == n


def test_what_moved_and_what_is_missed_are_of_the_tokens_drawn_alike_and_the_gap_is_of_all() -> None:
    old = [rollout([1, 2, 3], [-1.0, -1.0, -1.0]), rollout([4], [-2.0])]
    new = [rollout([1, 2, 9], [-1.5, -1.0, -3.0]), rollout([4], [-2.0])]
    found = agreement(old, new, [np.array([-1.5, -1.25, -4.0]), np.array([-2.5])])
    assert found == Agreement(tokens=4, gap=pytest.approx(1.75 / 4), common=3, moved=0.5, missed=0.25)


def fault(cfg: RunConfig, *, gap: float, moved: float, missed: float, before: float, common: int = 32) -> str:
    return Agreement(64, gap, common, moved, missed).fault(cfg, before)


def test_a_sampler_that_has_the_update_is_not_accused() -> None:
    assert fault(FLOAT32, gap=5e-7, moved=0.02, missed=4e-7, before=4e-7) == ""
    assert fault(BFLOAT16, gap=0.015, moved=0.05, missed=0.012, before=0.013) == ""
    assert fault(BFLOAT16, gap=0.002, moved=1e-4, missed=9e-4, before=0.0) == ""  # rounding alone
    assert fault(FLOAT32, gap=3e-6, moved=1e-6, missed=2e-6, before=1e-7) == ""  # nothing to speak of moved


def test_a_sampler_without_the_update_is_accused_long_before_the_gap_limit() -> None:
    said = fault(FLOAT32, gap=2e-4, moved=2e-4, missed=2e-4, before=4e-7)
    assert "moved the learner's logprobs by 2.0e-04 nats, and the sampler's miss them by 2.0e-04" in said
    assert fault(FLOAT32, gap=4e-5, moved=2e-4, missed=4e-5, before=4e-7)  # a fifth of it is missing
    assert fault(BFLOAT16, gap=0.04, moved=0.05, missed=0.045, before=0.01)


def test_a_gap_above_the_limit_of_the_precision_is_a_fault_whatever_moved() -> None:
    assert "the limit is 0.001" in fault(FLOAT32, gap=0.002, moved=0.0, missed=0.0, before=0.0, common=0)
    assert "the limit is 0.05" in fault(BFLOAT16, gap=0.06, moved=0.0, missed=0.0, before=0.0, common=0)
    assert "the limit" in fault(FLOAT32, gap=math.nan, moved=0.0, missed=0.0, before=0.0)


def test_few_tokens_or_an_unknown_gap_before_accuse_nobody() -> None:
    numbers = {"gap": 2e-4, "moved": 2e-4, "missed": 2e-4}
    assert fault(FLOAT32, **numbers, before=4e-7, common=7) == ""
    assert fault(FLOAT32, **numbers, before=math.nan) == ""


def test_each_sample_gets_the_learners_logprobs_of_its_own_tokens() -> None:
    """Whatever the micro-batches are; an empty completion has none."""
    groups = [
        RolloutGroup(Prompt(p, p, [7] * (p + 1), "", "", {}), [rollout(ids, [0.0] * len(ids)) for ids in ids_G])
        for p, ids_G in enumerate([[[10, 11, 12], [13]], [[], [14, 15]]])
    ]
    learner = dataclasses.replace(FLOAT32.learner, micro_batch_tokens=8, ranks=2)

    def score(batch_R):  # type: ignore[no-untyped-def]
        return [[-mb.token_ids_T[mb.loss_mask_T > 0].astype(np.float32) for mb in mine] for mine in batch_R]

    found = score_groups(score, dataclasses.replace(FLOAT32, learner=learner), "rows", groups)
    assert [[part.tolist() for part in group] for group in found] == [[[-10, -11, -12], [-13]], [[], [-14, -15]]]


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The tiny recipe, shortened to two steps."""
    monkeypatch.chdir(ROOT)  # where the tiny model is, or is made
    tiny = recipe()
    return dataclasses.replace(
        tiny,
        out=str(tmp_path / "runs"),
        rewards=(RewardConfig("tests.integration.helpers:digit_share"),),
        prompts=dataclasses.replace(tiny.prompts, limit=40),
        sft=dataclasses.replace(tiny.sft, steps=0),
        grpo=dataclasses.replace(tiny.grpo, steps=2, prompts_per_step=4, group_size=4),
        rollout=dataclasses.replace(tiny.rollout, max_new_tokens=12),
        evaluation=EvalConfig(),
        checkpoint=CheckpointConfig(every=1),
        track=TrackConfig(wandb="off"),
    )


class Counting(PretendBackend):
    """Counts how often samples are asked for, and how often prompts are to be forgotten."""

    asked = forgotten = 0

    def rollouts(self, requests, params):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super().rollouts(requests, params)

    def submit(self, requests, params, arrived) -> None:  # type: ignore[no-untyped-def]
        self.asked += 1
        super().submit(requests, params, arrived)

    def forget_prompts(self) -> None:
        self.forgotten += 1


def ran(cfg: RunConfig, **plants: object) -> tuple[Counting, list[dict[str, float]]]:
    backends: list[Counting] = []

    def make(cfg: RunConfig) -> Counting:
        backends.append(Counting(cfg, **plants))
        return backends[-1]

    run(cfg, make)  # type: ignore[arg-type]
    return backends[0], [json.loads(line) for line in (cfg.run_dir / "metrics.jsonl").read_text().splitlines()]


def with_rate(cfg: RunConfig, lr: float) -> RunConfig:
    return dataclasses.replace(
        cfg, grpo=dataclasses.replace(cfg.grpo, optim=dataclasses.replace(cfg.grpo.optim, lr=lr))
    )


def test_a_sound_run_is_looked_at_once_and_again_after_a_resume(cfg: RunConfig, caplog) -> None:
    caplog.set_level(logging.INFO, "rl")
    backend, _ = ran(cfg)
    assert (backend.asked, backend.forgotten) == (3, 1)  # two steps, and the look after the first update
    assert caplog.text.count("the samplers compute with version") == 1
    longer = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, steps=4))
    backend, _ = ran(longer)
    assert (backend.asked, backend.forgotten) == (3, 1)
    assert "the samplers compute with version 3" in caplog.text


def test_the_look_changes_neither_samples_nor_weights(cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, rows = ran(cfg)
    monkeypatch.setattr("rl.rollouts.silent_faults.check_update", lambda *args, **settings: None)
    other = dataclasses.replace(cfg, out=f"{cfg.out}-other")
    unseen, other_rows = ran(other)
    assert unseen.asked == looked.asked - 1
    assert looked.weights_hash() == unseen.weights_hash()
    assert [row["loss"] for row in rows] == [row["loss"] for row in other_rows]


@pytest.mark.parametrize(("plant", "lr"), [("lm_head", 1e-6), ("layers.2.mlp.down_proj", 1e-6), (".", 1e-4)])
def test_a_sampler_that_keeps_old_weights_stops_the_run_after_the_first_update(cfg: RunConfig, plant: str, lr: float):
    """At 1e-6 the gap stays below the limit, so the step's own check would say nothing."""
    with pytest.raises(AhaError, match=r"weight sync 1: every tensor arrived, but the samplers compute with other"):
        ran(with_rate(cfg, lr), keeps=plant)


@pytest.mark.parametrize("plants", [{"keeps": "experts"}, {"scrambles": "experts"}], ids=["frozen", "scrambled"])
def test_experts_that_stay_or_are_scrambled_stop_the_run(cfg: RunConfig, tmp_path: Path, plants) -> None:  # type: ignore[no-untyped-def]
    model = dataclasses.replace(cfg.model, path=str(mixtures.write("qwen3_moe", tmp_path / "model")))
    with pytest.raises(AhaError, match=r"weight sync 1: every tensor arrived, but the samplers compute with other"):
        ran(dataclasses.replace(cfg, model=model), **plants)


def test_a_sound_mixture_is_not_accused(cfg: RunConfig, tmp_path: Path) -> None:
    model = dataclasses.replace(cfg.model, path=str(mixtures.write("qwen3_moe", tmp_path / "model")))
    _, rows = ran(dataclasses.replace(cfg, model=model))
    assert len(rows) == 2
