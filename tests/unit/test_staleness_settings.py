"""What is refused of rollouts that are sampled beside the training, and what such rollouts change in a step's numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.config import GRPOConfig, LearnerConfig, RunConfig
from rl.data.packing import pack
from rl.rollouts import silent_faults
from rl.rollouts.silent_faults import DEAD_STEPS, MOST_UNSEEN
from rl.settings.config_checks import validate
from rl.settings.overrides import apply_overrides, to_json
from rl.types import AhaError, BadInput, Prompt, Rollout, RolloutGroup, ScoredGroup, StepStats
from rl.workers.cluster.arrangement import refuse_turns
from rl.workers.learner.meter import checked_gap
from rl.workflow.one_folder import refuse_other_run
from tests.unit.test_config import faults, good
from tests.unit.test_silent_faults import watch  # noqa: F401


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("rollout.in_flight=true", "rollout.in_flight=true: with rollout.staleness=0 nothing is drawn while weights"),
        ("rollout.staleness=2", "rollout.staleness=2: batches that one version samples whole are one step old at most"),
        ("rollout.staleness=65 rollout.in_flight=true", "rollout.staleness=65: must be between 0 and 64."),
        ("rollout.staleness=1 rollout.cache=keep", "rollout.cache=keep: weights change in mid-sample only with"),
        (
            "rollout.staleness=1 grpo.old_logprobs=learner grpo.importance=none",
            "grpo.importance=none with old_logprobs=learner and rollout.staleness=1: nothing corrects for the age of "
            "the rollouts, and training collapses (elsewhere, one step old: 2 of 128",
        ),
        (
            "rollout.staleness=1 grpo.importance=token_mask",
            "grpo.importance=token_mask: old_logprobs=sampler, which rollout.staleness=1 chooses, leaves nothing to",
        ),
        ("rollout.staleness=1 rollout.top_p=0.9", "rollout.top_p below 1 cuts the tail of the sampler's logprobs"),
        ("rollout.staleness=1 cluster.colocated=true", "rollout.staleness=1: with cluster.colocated=true learners and"),
    ],
)
def test_what_cannot_go_on_side_by_side_is_one_line_before_anything_starts(override: str, fault: str) -> None:
    lines = faults(apply_overrides(good(), override.split()))
    assert len(lines) == 1, lines
    assert lines[0].startswith(fault)


@pytest.mark.parametrize(
    "override",
    [
        "rollout.staleness=1", "rollout.staleness=4 rollout.in_flight=true",
        "rollout.staleness=2 rollout.in_flight=true rollout.cache=keep",
        "rollout.staleness=1 grpo.old_logprobs=learner", "rollout.staleness=1 grpo.importance=none",
        "rollout.staleness=1 grpo.old_logprobs=learner grpo.importance=token_mask", "grpo.importance=none",
        "rollout.staleness=1 grpo.uniform_groups=refill grpo.kl_coef=0",
    ],
)  # fmt: skip
def test_what_can_is_no_fault(override: str) -> None:
    validate(apply_overrides(good(), override.split()))


@pytest.mark.parametrize(
    ("override", "whose"),
    [
        ("", "learner"), ("rollout.staleness=1", "sampler"), ("rollout.staleness=3 rollout.in_flight=true", "sampler"),
        ("rollout.staleness=1 grpo.old_logprobs=learner", "learner"), ("grpo.old_logprobs=sampler", "sampler"),
    ],
)  # fmt: skip
def test_auto_is_the_samplers_logprobs_where_rollouts_may_be_old(override: str, whose: str) -> None:
    assert apply_overrides(good(), override.split()).old_logprobs == whose


def test_workers_that_turn_out_to_take_turns_are_refused_too() -> None:
    cfg = apply_overrides(good(), ["rollout.staleness=1"])
    refuse_turns(cfg, colocated=False)
    refuse_turns(good(), colocated=True)
    with pytest.raises(
        BadInput, match=r"^rollout\.staleness=1: learners and samplers share devices here and take turns"
    ):
        refuse_turns(cfg, colocated=True)


def test_a_folder_that_was_begun_before_auto_goes_on(tmp_path: Path) -> None:
    cfg = dataclasses.replace(good(), out=str(tmp_path))
    cfg.run_dir.mkdir(parents=True)
    begun = json.loads(to_json(cfg))
    begun["grpo"]["old_logprobs"] = "learner"
    (cfg.run_dir / "resolved.json").write_text(json.dumps(begun))
    refuse_other_run(cfg)
    with pytest.raises(BadInput, match=r"rollout\.staleness=0, not 1"):
        refuse_other_run(apply_overrides(cfg, ["rollout.staleness=1"]))
    with pytest.raises(BadInput, match=r"grpo\.old_logprobs=learner, not sampler"):
        refuse_other_run(apply_overrides(cfg, ["grpo.old_logprobs=sampler"]))


def test_auto_is_in_keys_what_the_default_was_and_a_set_value_never_the_same() -> None:
    field = next(f for f in dataclasses.fields(GRPOConfig) if f.name == "old_logprobs")
    keys = [field.metadata["in_key"](value) for value in ("auto", "learner", "sampler")]
    assert keys[0] == "learner"
    assert len(set(keys)) == 3


# ------------------------------------------------------------------------------------------------ the gap check


def test_the_gap_is_that_of_fresh_tokens_alone() -> None:
    # 8 tokens, of which 2 are fresh and differ by 1e-4 together: 5e-5 each.
    metrics = {"gap": 1e-4 / 8, "max/gap": 9e-5, "fresh": 2 / 8, "entropy": 1.0}
    mean, largest = checked_gap(metrics, 1e-3)
    assert (mean, largest) == (pytest.approx(5e-5), 9e-5)
    assert metrics == {"entropy": 1.0}
    with pytest.raises(AhaError, match=r"sampler and learner disagree: mean \|logprob difference\| 4\.00e-03"):
        checked_gap({"gap": 1e-3, "max/gap": 1.0, "fresh": 0.25}, 1e-3)
    with pytest.raises(AhaError, match="sampler and learner disagree"):
        checked_gap({"gap": math.nan, "max/gap": math.nan, "fresh": 1.0}, 1e-3)


def test_without_a_fresh_token_there_is_no_gap_and_no_error() -> None:
    assert all(math.isnan(number) for number in checked_gap({"gap": 0.0, "max/gap": 0.0, "fresh": 0.0}, 1e-3))


def test_steps_of_older_rollouts_alone_are_looked_at_now_and_then(watch: Any, monkeypatch) -> None:  # noqa: F811
    looks: list[int] = []
    monkeypatch.setattr(silent_faults, "check_gap", lambda ctx, scored_P: (looks.append(len(looks)), (1e-6, 2e-6))[1])
    seen = StepStats(0.0, 0.0, 0.0, 1e-7, 1e-7)
    for step in range(2 * MOST_UNSEEN + 3):
        stats = dataclasses.replace(seen, gap_mean=math.nan, gap_max=math.nan) if step != 2 else seen
        watch._look_at_gap([one_group()], stats)
        assert math.isnan(stats.gap_mean) == (step not in (2, 2 + MOST_UNSEEN, 2 + 2 * MOST_UNSEEN))
    assert len(looks) == 2


def one_group() -> ScoredGroup:
    def rollout(versions: list[int]) -> Rollout:
        later = tuple((i, v) for i, v in enumerate(versions) if i and v != versions[i - 1])
        n = len(versions)
        arrays = np.arange(n, dtype=np.int32), -np.ones(n, np.float32)
        return Rollout(*arrays, "", "stop", 1.0, versions[0], 0, later_versions=later)

    group = RolloutGroup(Prompt(0, 0, [7, 8], "", "", {}), [rollout([1, 1, 2, 3]), rollout([3, 3, 3]), rollout([2])])
    return ScoredGroup(group, [0.0] * 3, [{}] * 3, [1.0, -1.0, 0.5], [True] * 3, False)


@pytest.mark.parametrize("layout", ["rows", "packed", "shared"])
def test_a_micro_batch_says_which_tokens_the_trained_weights_sampled(layout: str) -> None:
    grpo, learner = GRPOConfig(prompts_per_step=1, group_size=3), LearnerConfig(micro_batch_tokens=64)
    given: dict[str, Any] = {"grpo": grpo, "learner": learner, "max_new_tokens": 8, "layout": layout, "seed": 0}
    (batch,) = pack([one_group()], version=3, **given)
    fresh = [int(mb.fresh_T[mb.loss_mask_T > 0].sum()) for mb in batch.micro_batches_R[0] if mb.fresh_T is not None]
    assert sum(fresh) == 4
    for mb in batch.micro_batches_R[0]:
        assert mb.fresh_T is not None
        assert not mb.fresh_T[mb.loss_mask_T == 0].any()
    (batch,) = pack([one_group()], **given)
    assert all(mb.fresh_T is None for mb in batch.micro_batches_R[0])


# ------------------------------------------------------------------------------------------------ nothing to learn


def test_refilled_steps_that_find_no_mixed_group_end_the_run_by_name(watch: Any) -> None:  # noqa: F811
    cfg: RunConfig = watch._cfg
    watch._cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, uniform_groups="refill"))
    uniform = dataclasses.replace(one_group(), uniform=True)
    for _ in range(DEAD_STEPS - 1):
        watch._refuse_barren(0, [uniform] * 6, [])
    watch._refuse_barren(5, [uniform] * 6, [one_group()])
    for step in range(6, 5 + DEAD_STEPS):
        watch._refuse_barren(step, [uniform] * 6, [])
    with pytest.raises(AhaError, match=rf"nothing to learn: in steps 7 to 9 all {6 * DEAD_STEPS} groups were uniform"):
        watch._refuse_barren(8, [uniform] * 6, [])


def test_uniform_groups_that_are_kept_end_nothing(watch: Any) -> None:  # noqa: F811
    for step in range(DEAD_STEPS + 1):
        watch._refuse_barren(step, [dataclasses.replace(one_group(), uniform=True)], [])
