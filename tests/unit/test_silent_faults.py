"""rl/rollouts/silent_faults.py: what a step's own prompts, rollouts, batches and numbers say of silent faults."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.backend import SampleParams
from rl.config import GRPOConfig, LearnerConfig, RewardConfig, RolloutConfig, RunConfig
from rl.data.packing import pack
from rl.rollouts import silent_faults
from rl.rollouts.silent_faults import DEAD_STEPS, Draws, StepWatch, refuse_lost_rollouts, refuse_wrong_ends
from rl.types import (
    AhaError,
    GradedGroup,
    PackedBatch,
    Prompt,
    RewardPart,
    Rollout,
    RolloutGroup,
    ScoredGroup,
    StepStats,
    Verdict,
)

END = 2
PARAMS = SampleParams(1.0, 1.0, 8, (), (END, 9))
CFG = RunConfig(
    rewards=(RewardConfig("format"), RewardConfig("m:judge"), RewardConfig("soft_overlong")),
    rollout=RolloutConfig(max_new_tokens=8), grpo=GRPOConfig(kl_coef=0.0),
)  # fmt: skip


def prompt(draw: int, row: int) -> Prompt:
    return Prompt(row, draw, [1], "", "42", {})


def rollout(ids: list[int], finish: str = "stop", text: str = "a") -> Rollout:
    return Rollout(np.array(ids, np.int32), np.full(len(ids), -1, np.float32), text, finish, 1.0, 0, 0)


def scored(*ids_G: list[int], advantages: tuple[float, ...] = (), text: str = "a", **verdicts: Verdict) -> ScoredGroup:
    parts = {name: RewardPart(float(v is Verdict.CORRECT), v) for name, v in verdicts.items()}
    n = len(ids_G)
    rollouts = [rollout(ids, text=text) for ids in ids_G]
    given = list(advantages) or [1.0] * n
    return ScoredGroup(RolloutGroup(prompt(0, 0), rollouts), [0.0] * n, [parts] * n, given, [True] * n, False)


# ------------------------------------------------------------------------------------------------ the data


def test_every_prompt_in_its_turn_is_fine_over_epochs_and_from_a_cursor() -> None:
    draws = Draws({"draws": 2, "rows": 3})
    draws.look_at([prompt(2, 1), prompt(3, 0)])
    draws.look_at([prompt(4, 1), prompt(5, 2), prompt(6, 2)])


def test_a_prompt_that_is_left_out_is_named() -> None:
    draws = Draws({"draws": 0, "rows": 10})
    draws.look_at([prompt(0, 4)])
    with pytest.raises(AhaError, match=r"skipped data: prompt number 1 of the run is next, .* number 2 \(row 7\)"):
        draws.look_at([prompt(2, 7)])


def test_a_row_that_comes_twice_in_an_epoch_is_named() -> None:
    draws = Draws({"draws": 0, "rows": 3})
    draws.look_at([prompt(0, 1), prompt(1, 2)])
    with pytest.raises(AhaError, match="skipped data: row 1 comes a second time in epoch 0 of 3 rows"):
        draws.look_at([prompt(2, 1)])


# ------------------------------------------------------------------------------------------------ ends


def graded(*rollouts: Rollout) -> list[GradedGroup]:
    n = len(rollouts)
    return [GradedGroup(RolloutGroup(prompt(0, 5), list(rollouts)), [0.0] * n, [{}] * n, [True] * n)]


def test_completions_that_end_as_they_must_are_fine() -> None:
    refuse_wrong_ends(graded(rollout([3, END]), rollout([9]), rollout([3, 4], "length"), rollout([])), PARAMS)
    with_text = dataclasses.replace(PARAMS, stop=("\n\n",))
    refuse_wrong_ends(graded(rollout([3, 4])), with_text)  # a text ended it


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_completion_that_goes_on_behind_an_end_token_is_named(finish: str) -> None:
    found = graded(rollout([3, END]), rollout([3, 9, 4, END], finish))
    with pytest.raises(AhaError, match=r"wrong stop: 1 of 2 completions go on behind an end token \(tokens 2, 9\)"):
        refuse_wrong_ends(found, PARAMS)


def test_a_completion_that_stops_at_another_token_is_named() -> None:
    with pytest.raises(AhaError, match=r"wrong stop: 1 of 2 completions stopped at token 7, and the end tokens are"):
        refuse_wrong_ends(graded(rollout([3, END]), rollout([3, 7])), PARAMS)


# ------------------------------------------------------------------------------------------------ batches


def packed(groups: list[ScoredGroup], grpo: GRPOConfig = CFG.grpo) -> list[PackedBatch]:
    return pack(groups, grpo=grpo, learner=LearnerConfig(ranks=2), max_new_tokens=8, layout="rows", seed=0)


GROUPS = [scored([3, END], [4, 5, END], advantages=(1.0, 0.0)), scored([3, 4, 5, END], [6, END])]


@pytest.mark.parametrize("change", [{}, {"kl_coef": 0.1}, {"overlong": "mask"}, {"uniform_groups": "drop"}])
def test_what_was_packed_and_trained_on_is_what_counts(change: dict[str, Any]) -> None:
    cfg = dataclasses.replace(CFG, grpo=dataclasses.replace(CFG.grpo, **change))
    cut = dataclasses.replace(GROUPS[0], group=RolloutGroup(prompt(1, 1), [rollout([3, 4], "length"), rollout([9])]))
    uniform = dataclasses.replace(GROUPS[1], uniform=True, valid_G=[True, False])
    groups = [*GROUPS, cut, uniform]
    updates_U = packed(groups, cfg.grpo)
    refuse_lost_rollouts(cfg, groups, updates_U, StepStats(0, 0, 0, updates=1, tokens=updates_U[0].num_loss_tokens))
    refuse_lost_rollouts(cfg, groups, updates_U, StepStats(0, 0, 0))  # nothing to train on: no count either


def test_a_group_that_is_not_packed_is_named() -> None:
    with pytest.raises(AhaError, match=r"lost rollouts: 8 sampled tokens count in this step, and packed .* are 2"):
        refuse_lost_rollouts(CFG, GROUPS, packed(GROUPS[:1]), StepStats(0, 0, 0, updates=1, tokens=2))


@pytest.mark.parametrize("stats", [{"updates": 1}, {"skipped_updates": 1}])
def test_tokens_that_the_learner_leaves_out_are_named(stats: dict[str, int]) -> None:
    with pytest.raises(AhaError, match=r"lost rollouts: 8 sampled tokens .* the learner trained on 6"):
        refuse_lost_rollouts(CFG, GROUPS, packed(GROUPS), StepStats(0, 0, 0, tokens=6, **stats))


# ------------------------------------------------------------------------------------------------ steps


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """look(groups, stats) at the next step. .checked: versions for which the samplers were compared."""
    caplog.set_level(logging.WARNING)
    checked: list[int] = []
    monkeypatch.setattr(silent_faults, "check_update", lambda ctx, scored_P, gap, version: checked.append(version))
    found: Any = StepWatch(SimpleNamespace(cfg=CFG))  # type: ignore[arg-type]
    steps = iter(range(100))

    def look(groups: list[ScoredGroup], **stats: Any) -> None:
        updates_U = packed(groups)
        numbers = {"updates": 1, "tokens": updates_U[0].num_loss_tokens, "learning_rate": 1e-3} | stats
        found.look_at(next(steps), groups, groups, updates_U, StepStats(0.0, 0.0, **numbers))

    found.look, found.checked = look, checked
    return found


def test_a_sound_step_says_nothing_and_the_samplers_are_compared_once(watch: Any, caplog) -> None:
    for updates in (0, 1, 1):
        watch.look(GROUPS, updates=updates, metrics={"policy/weights_moved": 0.5})
    assert watch.checked == [2]  # after the first update: that of step 2
    assert caplog.text == ""


def test_an_update_that_changes_nothing_is_warned_of_once(watch: Any, caplog) -> None:
    for _ in range(3):
        watch.look(GROUPS, metrics={"policy/weights_moved": 0.0})
    assert caplog.text.count("lost update: step 1 changed no weight at learning rate 0.001") == 1
    assert caplog.text.count("lost update") == 1


def test_an_update_at_rate_0_may_change_nothing(watch: Any, caplog) -> None:
    watch.look(GROUPS, metrics={"policy/weights_moved": 0.0}, learning_rate=0.0)
    assert caplog.text == ""


def test_tensors_that_the_first_update_leaves_are_named(watch: Any, caplog) -> None:
    watch.look(GROUPS, still=("a", "b", "c", "d", "e"))
    assert "frozen layer: the first update changed nothing in a, b, c, d and 1 more" in caplog.text


def test_groups_of_one_sample_many_times_are_warned_of(watch: Any, caplog) -> None:
    same = scored([3, END], [3, END], [3, END])
    watch.look([same, scored([3, END], [4, END])])
    assert caplog.text == ""
    watch.look([same, same])
    assert "repeated samples: in step 2 each of 2 groups holds one sample 3 times" in caplog.text


def test_a_reward_that_calls_nothing_right_is_dead_after_a_few_steps(watch: Any, caplog) -> None:
    nothing = {"format": Verdict.WRONG, "judge": Verdict.UNPARSEABLE, "soft_overlong": Verdict.WRONG}
    for step in range(DEAD_STEPS + 2):
        watch.look([scored([3, END], [4, END], **nothing)] * 2)
        assert ("dead verifier judge" in caplog.text) == (step + 1 >= DEAD_STEPS)
    assert "reward judge called none of the first 12 samples right" in caplog.text
    assert caplog.text.count("dead verifier") == 1  # rewards of style say nothing of what is right


def test_a_reward_that_is_right_once_is_not_dead(watch: Any, caplog) -> None:
    watch.look([scored([3, END], [4, END], judge=Verdict.CORRECT)])
    for _ in range(DEAD_STEPS):
        watch.look([scored([3, END], [4, END], judge=Verdict.WRONG)])
    assert caplog.text == ""


@pytest.mark.parametrize(("text", "lenient"), [("it is 42.", False), ("it is 41.", True)])
def test_paid_answers_without_the_reference_are_warned_of(watch: Any, caplog, text: str, lenient: bool) -> None:
    groups = [scored([3, END], [4, END], text=text, judge=Verdict.CORRECT, format=Verdict.CORRECT)] * 8
    watch.look(groups[:7])
    assert caplog.text == ""  # too few to say
    watch.look(groups)
    assert ("lenient verifier judge: reward judge called 16 of the step's samples right, and in 16" in caplog.text) == (
        lenient
    )
    assert ("lenient" in caplog.text) == lenient
