"""A doctor's whole round on a sound patient, and on patients with one planted fault each (tests/unit/pretend.py)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from launch.doctor import exam
from launch.doctor.all_checks import AllChecks
from launch.doctor.check import Check, Outcome, all_passed, summary
from recipes.tiny import recipe
from rl.config import RewardConfig, RunConfig
from rl.types import SyncReport
from tests.unit.pretend import HEAD, PretendBackend

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch) -> RunConfig:
    monkeypatch.chdir(ROOT)  # where the tiny model is, or is made
    monkeypatch.setattr(exam, "PROMPTS", 2)
    tiny = recipe()
    return dataclasses.replace(
        tiny,
        out=str(tmp_path / "runs"),
        rollout=dataclasses.replace(tiny.rollout, max_new_tokens=12),
        grpo=dataclasses.replace(tiny.grpo, group_size=4),
        prompts=dataclasses.replace(tiny.prompts, limit=40),
        sft=dataclasses.replace(tiny.sft, data=dataclasses.replace(tiny.sft.data, limit=40)),
    )


def examined(cfg: RunConfig, **plants: object) -> dict[str, Check]:
    rounds = AllChecks(cfg, lambda cfg: PretendBackend(cfg, **plants))  # type: ignore[arg-type, return-value]
    return {check.name: check for check in rounds.checks()}


def only_failure(checks: dict[str, Check]) -> Check:
    failures = [check for check in checks.values() if check.outcome is Outcome.FAILED]
    assert len(failures) == 1, [(c.name, c.measured) for c in failures]
    return failures[0]


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_a_sound_patient_passes_every_check_with_every_loss_and_nothing_is_left_behind(
    cfg: RunConfig, loss: str
) -> None:
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, loss=loss))
    checks = examined(cfg)
    skipped = [name for name, check in checks.items() if check.outcome is Outcome.SKIPPED]
    assert skipped == ["the run's checkpoints"]
    assert [(c.name, c.measured) for c in checks.values() if c.outcome is Outcome.FAILED] == []
    assert not cfg.run_dir.exists()


def test_a_stale_output_head_is_named(cfg: RunConfig) -> None:
    checks = examined(cfg, stale_head=True)
    assert checks["weights arrive"].outcome is Outcome.FAILED
    assert f"stand in the sampler with other bytes: {HEAD}" in checks["weights arrive"].measured
    assert "keeps old weights there" in checks["weights arrive"].cause
    # It began with a random head, so the logprobs never agreed either.
    assert checks["logprobs"].outcome is Outcome.FAILED


def test_one_frozen_layer_is_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, frozen="layers.2."))
    assert check.name == "update"
    assert "(in model.layers.2: 9)" in check.measured
    assert "frozen" in check.cause


def test_an_update_that_changes_almost_no_weight_is_a_warning_and_no_failure(cfg: RunConfig) -> None:
    checks = examined(cfg, moved=0.0004)
    assert [name for name, check in checks.items() if check.outcome is Outcome.WARNED] == ["weights move"]
    assert "0.04 % of the float32 weights" in checks["weights move"].measured
    assert "higher learning rate" in checks["weights move"].remedy
    assert all_passed(list(checks.values()))
    assert "1 warned (weights move), 0 failed" in summary(list(checks.values()))


def test_a_sampler_that_does_not_stop_at_the_end_token_is_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, deaf_to_stop=True))
    assert check.name == "sampler stops"
    assert "wrote 4 of at most 4 tokens" in check.measured
    assert "wrong stop_token_ids" in check.cause


def test_a_loss_divided_by_each_micro_batchs_own_count_is_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, per_micro_batch=True))
    assert check.name == "loss"
    assert "divided by the wrong count" in check.cause


def test_a_loss_that_is_the_same_for_every_cut_but_half_of_what_it_must_be_is_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, loss_factor=0.5))
    assert check.name == "loss"
    assert "0.5 times as large" in check.measured


def test_identical_samples_in_a_group_are_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, one_seed=True))
    assert check.name == "samples differ"
    assert "every group holds 4 times one sample" in check.measured
    assert "one seed" in check.cause


def test_raw_logprobs_instead_of_processed_ones_are_named_although_the_recipe_samples_at_1(cfg: RunConfig) -> None:
    assert cfg.rollout.temperature == 1.0
    checks = examined(cfg, raw=True)
    failed = {name for name, check in checks.items() if check.outcome is Outcome.FAILED}
    assert failed == {"logprobs", "killed sampler returns"}
    assert "raw logprobs" in checks["logprobs"].cause
    assert "processed_logprobs" in checks["logprobs"].remedy


def test_a_prompt_that_the_sampler_sees_otherwise_than_the_learner_fails_with_a_table_by_position(
    cfg: RunConfig,
) -> None:
    checks = examined(cfg, other_prompt=True)
    assert checks["logprobs"].outcome is Outcome.FAILED
    assert checks["logprobs"].table[0] == ("position", "tokens", "mean", "max")
    assert [row[0] for row in checks["logprobs"].table[1:3]] == ["1", "2 to 4"]


def test_a_reference_that_moves_with_the_policy_is_named(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, moving_reference=True))
    assert check.name == "reference stays"
    assert "shares tensors" in check.cause


def test_a_load_that_leaves_the_optimiser_behind_is_found_though_the_weights_are_equal(cfg: RunConfig) -> None:
    check = only_failure(examined(cfg, forgets=True))
    assert check.name == "checkpoint loads equal"
    assert "the optimiser's state" in check.cause


def test_a_template_that_differs_is_named_and_hides_nothing_else(cfg: RunConfig) -> None:
    other = dataclasses.replace(cfg.sft, data=dataclasses.replace(cfg.sft.data, template="{prompt} "))
    checks = examined(dataclasses.replace(cfg, sft=other))
    assert only_failure(checks).name == "template"
    assert len(checks) > 20


def test_dead_and_raising_verifiers_are_named_one_by_one(cfg: RunConfig) -> None:
    dead, raising = (RewardConfig(f"tests.unit.test_doctor_rewards:{name}") for name in ("always_zero", "raises"))
    checks = examined(dataclasses.replace(cfg, rewards=(*cfg.rewards, dead, raising)))
    assert checks["reward accuracy"].outcome is Outcome.PASSED
    assert checks["reward always_zero"].outcome is Outcome.FAILED
    assert checks["reward raises"].outcome is Outcome.FAILED


def test_a_checkpoint_of_the_run_with_a_flipped_byte_is_named_and_the_run_is_not_touched(cfg: RunConfig) -> None:
    from rl.records.checkpoint import CheckpointMeta, CheckpointStore

    store = CheckpointStore(cfg.run_dir / "checkpoints" / "grpo", keep=2)
    partial = store.begin(5)
    (partial / "rank_0.pt").write_bytes(bytes(100))
    path = store.commit(partial, CheckpointMeta(5, {}, "", 1, 1, None, {}))
    (path / "rank_0.pt").write_bytes(bytes(99) + b"\1")
    check = only_failure(examined(cfg))
    assert check.name == "the run's checkpoints"
    assert "rank_0.pt is not what was saved" in check.measured
    assert json.loads((path / "meta.json").read_text())["step"] == 5
    assert [p.name for p in cfg.run_dir.iterdir()] == ["checkpoints"]


# ------------------------------------------------------------------------------------------------ in flight


class StalePrompts(PretendBackend):
    """Weights that find samples half drawn do not reach what it computes for prompts that it has seen."""

    def sync_weights(self, version: int) -> SyncReport:
        if not self.submitted:
            return super().sync_weights(version)
        self.version = version
        return self.sent


@pytest.mark.parametrize(("kind", "outcome"), [(PretendBackend, Outcome.PASSED), (StalePrompts, Outcome.FAILED)])
def test_prompts_that_are_cached_around_an_update_are_computed_with_the_new_weights(
    cfg: RunConfig, kind: type[PretendBackend], outcome: Outcome
) -> None:
    cfg = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, staleness=1, in_flight=True))
    rounds = AllChecks(cfg, kind)  # type: ignore[arg-type]
    checks = {check.name: check for check in rounds.checks()}
    forgotten = checks.pop("old prompts are forgotten")
    assert forgotten.outcome is outcome, forgotten.measured
    assert "differ from the learner by" in forgotten.measured
    assert [c.name for c in checks.values() if c.outcome is Outcome.FAILED] == []
