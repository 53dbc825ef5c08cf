"""Learner and sampler that share devices and take turns, as on one GPU: on a CPU vLLM ignores its calls to sleep and to
wake, so the numbers must be those of a run apart.
"""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import ray

from rl.config import RewardConfig, RunConfig
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow.run import run


class Counting(RayBackend):
    """Counts its samplers' calls of vLLM when it closes."""

    counted: tuple[int, int] = (-1, -1)

    def close(self) -> None:
        refs = [h.__ray_call__.remote(lambda sampler: (sampler.sleeps, sampler.wakes)) for h in self.samplers]
        (Counting.counted,) = set(ray.get(refs, timeout=60))
        super().close()


def weights_of(cfg: RunConfig) -> str:
    run(cfg, Counting)
    files = sorted((cfg.run_dir / "model").glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.fixture
def short(tiny: RunConfig) -> RunConfig:
    return dataclasses.replace(
        tiny,
        sft=dataclasses.replace(tiny.sft, steps=2, examples_per_step=4),
        rewards=(RewardConfig("tests.integration.helpers:digit_share"),),
    )


def test_a_colocated_run_takes_turns_and_ends_with_the_weights_of_a_run_apart(short: RunConfig) -> None:
    apart = weights_of(dataclasses.replace(short, name="apart"))
    assert Counting.counted == (0, 0)
    cluster = dataclasses.replace(short.cluster, colocated="true")
    assert weights_of(dataclasses.replace(short, name="colocated", cluster=cluster)) == apart
    # Asleep for the SFT, for each of two GRPO steps, and while the learner scores the samples that show whether the first
    # update was taken over. Weights and cache awake for what comes before the first step and after each: an evaluation,
    # those samples, two rollouts.
    assert Counting.counted == (4, 8)
