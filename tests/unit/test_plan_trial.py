"""What `aha plan --calibrate` makes of a trial on this machine: which are made, the lines they give, a step of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.plan import trial as plan_trial
from launch.plan.hardware import find_hardware, this_machine
from launch.plan.memory import LearnerShape
from launch.plan.model import find_architecture
from launch.plan.time import Passes, update_time
from launch.plan.trial import LAYERS, MICRO_BATCHES, Trial, fit, spec_of, train_here
from rl.types import AhaError

SMOL = find_architecture("HuggingFaceTB/SmolLM2-135M-Instruct")
SHAPE = LearnerShape(
    dtype="bfloat16", zero_stage=1, ranks=1, tokens=2048, scored=1024, chunk=1024, checkpointing=False, reference=False,
    packed=False,
)  # fmt: skip
HERE = replace(this_machine(), measured=True, memory_gib=24.0, cores=2)
WORK = Passes(tokens=8192, scored=4096, mean_length=128, forwards=0, updates=2, micro_batches=4)


def test_a_trial_has_the_plans_micro_batches():
    spec = spec_of(SMOL, SHAPE, 128.0, 0.5, HERE)
    assert spec is not None
    assert (spec.rows, spec.prompt, spec.completion, spec.tokens, spec.threads) == (16, 64, 64, 2048, 2)
    two = spec_of(SMOL, replace(SHAPE, ranks=2, zero_stage=3), 128.0, 1.0, HERE)
    assert two is not None
    assert (two.prompt, two.completion, two.threads) == (1, 127, 1)


@pytest.mark.parametrize(
    ("arch", "shape", "hw"),
    [
        (SMOL, SHAPE, replace(HERE, measured=False)),
        (SMOL, SHAPE, replace(HERE, nodes=2)),
        (SMOL, SHAPE, replace(HERE, memory_gib=2.0)),
        (SMOL, SHAPE, replace(find_hardware("H100-80G", nodes=1, gpus_per_node=8), measured=True)),
        (SMOL, replace(SHAPE, packed=True), HERE),
        (SMOL, replace(SHAPE, shared_by=2), HERE),
        (replace(SMOL, model_type="deepseek_v3"), SHAPE, HERE),
    ],
)
def test_what_cannot_be_tried_here_is_not(arch, shape, hw):
    assert spec_of(arch, shape, 128.0, 0.5, hw) is None


def test_a_trial_of_more_ranks_than_fit_is_not_made():
    assert spec_of(SMOL, SHAPE, 128.0, 0.5, replace(HERE, memory_gib=4.5)) is not None
    assert spec_of(SMOL, replace(SHAPE, ranks=2), 128.0, 0.5, replace(HERE, memory_gib=4.5)) is None


def test_the_lines_give_back_what_is_linear_in_layers_and_micro_batches():
    seconds = {(k, m): (0.5 + 0.25 * k) + m * (1.0 + 2.0 * k) for k in LAYERS for m in MICRO_BATCHES}
    trial = fit(2048, seconds)
    assert (trial.micro_batch_s, trial.micro_batch_a_layer_s) == pytest.approx((1.0, 2.0))
    assert (trial.update_s, trial.update_a_layer_s) == pytest.approx((0.5, 0.25))
    assert (trial.micro_batch(10), trial.update(10)) == pytest.approx((21.0, 3.0))


def test_noise_makes_no_time_negative():
    trial = fit(2048, {(1, 1): 1.0, (1, 3): 3.3, (3, 1): 0.9, (3, 3): 3.0})
    assert min(trial.micro_batch_s, trial.micro_batch_a_layer_s, trial.update_s, trial.update_a_layer_s) >= 0.0
    assert trial.micro_batch(30) == pytest.approx(1.15)


def test_a_step_is_its_micro_batches_and_updates_of_all_layers():
    trial = Trial(2048, micro_batch_s=1.0, micro_batch_a_layer_s=0.5, update_s=0.25, update_a_layer_s=0.125)
    time = update_time(SMOL, SHAPE, WORK, HERE, trial)
    layers = SMOL.layers
    assert time.gradient_s == pytest.approx(4 * (1.0 + 0.5 * layers))
    assert time.optimiser_s == pytest.approx(2 * (0.25 + 0.125 * layers))
    assert time.forward_only_s == time.communication_s == 0.0
    # Micro-batches that are half full take half the time.
    half = update_time(SMOL, SHAPE, replace(WORK, tokens=4096), HERE, trial)
    assert half.gradient_s == pytest.approx(time.gradient_s / 2)


def test_a_reference_is_in_the_trial_and_old_logprobs_are_a_forward_more():
    trial = Trial(2048, 1.0, 0.5, 0.0, 0.0)
    with_reference = replace(SHAPE, reference=True)
    one = update_time(SMOL, with_reference, replace(WORK, forwards=1), HERE, trial)
    two = update_time(SMOL, with_reference, replace(WORK, forwards=2), HERE, trial)
    assert one.forward_only_s == 0.0
    assert one.gradient_s == two.gradient_s
    assert 0.15 < two.forward_only_s / two.gradient_s < 0.25


def test_a_trial_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(plan_trial, "TIMEOUT_S", 60.0)
    spec = spec_of(SMOL, SHAPE, 90.0, 0.5, HERE)
    assert spec is not None
    monkeypatch.setattr(plan_trial, "RANK", ("-c", "import sys; print('something'); sys.exit('no such thing')"))
    with pytest.raises(AhaError, match=r"the learner's trial failed \(no such thing\); plan without it"):
        train_here(spec)


def test_a_trial_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(plan_trial, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(plan_trial, "RANK", ("-c", "import time; time.sleep(60)"))
    spec = spec_of(SMOL, SHAPE, 100.0, 0.5, HERE)
    assert spec is not None
    with pytest.raises(AhaError, match=r"took more than 0\.2 s"):
        train_here(spec)
