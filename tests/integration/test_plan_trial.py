"""`aha plan --calibrate` trains the real learner for a few steps, ranks and all."""

from __future__ import annotations

from dataclasses import replace

from launch.plan.hardware import this_machine
from launch.plan.memory import LearnerShape
from launch.plan.model import Architecture
from launch.plan.time import Passes, update_time
from launch.plan.trial import spec_of, train_here


def test_two_ranks_of_zero_3_are_tried_here_and_a_step_is_reckoned_from_them() -> None:
    arch = Architecture("small", "made up", "llama", 64, 128, 8, 4, 2, 16, 128, True, 256)
    shape = LearnerShape(
        dtype="float32", zero_stage=3, ranks=2, tokens=256, scored=128, chunk=128, checkpointing=False, reference=True,
        packed=False,
    )  # fmt: skip
    hw = replace(this_machine(), measured=True)
    spec = spec_of(arch, shape, 32.0, 0.5, hw)
    assert spec is not None
    trial = train_here(spec)
    assert trial.tokens == 256
    assert trial.micro_batch_s + trial.micro_batch_a_layer_s > 0
    work = Passes(tokens=1024, scored=512, mean_length=32, forwards=1, updates=1, micro_batches=2)
    time = update_time(arch, shape, work, hw, trial)
    assert time.gradient_s == 2 * trial.micro_batch(8)
    assert 0 < time.seconds < 60
