"""Overlapped mode on the real loop, with the trainer's own packing and loss in this process: a run that was killed at
any moment and started again ends with the weights of one that nobody touched.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from recipes.tiny import recipe
from rl.backend import Arrived, SampleParams
from rl.config import CheckpointConfig, EvalConfig, RewardConfig, RunConfig, TrackConfig
from rl.types import PackedBatch, SampleRequest, StepStats, SyncReport
from rl.workflow.run import run
from tests.unit.pretend import PretendBackend
from tests.unit.test_agreement import ROOT


class Killed(BaseException):
    """The process is gone."""


class Beside(PretendBackend):
    """Samples in an order of its own, part of it while the learner trains. dies_at: which of its calls never ends."""

    def __init__(self, cfg: RunConfig, dies_at: int, seed: int) -> None:
        super().__init__(cfg)
        self.calls, self.dies_at, self.random = 0, dies_at, random.Random(seed)
        self.trained: list[set[int]] = []

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        super().submit(requests, params, arrived)
        self.random.shuffle(self.submitted)

    def pump(self) -> None:
        self._call()
        super().pump()

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        for _ in range(self.random.randint(0, len(self.submitted))):
            self.pump()
        self._call()
        return super().step(updates_U)

    def sync_weights(self, version: int) -> SyncReport:
        self._call()
        assert not self.submitted, "weights were sent while groups were being sampled"
        return super().sync_weights(version)

    def save(self, folder: Path) -> None:
        super().save(folder)
        self._call()


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    tiny = recipe()
    return dataclasses.replace(
        tiny,
        out=str(tmp_path / "runs"),
        rewards=(RewardConfig("tests.integration.helpers:digit_share"),),
        prompts=dataclasses.replace(tiny.prompts, limit=40),
        sft=dataclasses.replace(tiny.sft, steps=0),
        grpo=dataclasses.replace(tiny.grpo, steps=5, prompts_per_step=2, group_size=3, kl_coef=0.0),
        rollout=dataclasses.replace(tiny.rollout, max_new_tokens=8, staleness=1),
        evaluation=EvalConfig(),
        checkpoint=CheckpointConfig(every=2),
        track=TrackConfig(wandb="off"),
    )


def weights(cfg: RunConfig) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((cfg.run_dir / "model").glob("*.safetensors")))


def ran(cfg: RunConfig, dies_at: int = 0, seed: int = 0) -> Beside:
    made: list[Beside] = []

    def make(cfg: RunConfig) -> Beside:
        made.append(Beside(cfg, dies_at, seed))
        return made[-1]

    start: Callable[..., object] = run
    start(cfg, make)
    return made[-1]


def test_a_run_that_is_killed_at_any_call_ends_with_the_same_weights(cfg: RunConfig) -> None:
    calls = ran(cfg).calls
    undisturbed = weights(cfg)
    assert calls > 15
    synchronous = dataclasses.replace(cfg, name="synchronous", rollout=dataclasses.replace(cfg.rollout, staleness=0))
    ran(synchronous)
    assert weights(synchronous) != undisturbed, "a batch of the version before is another batch"
    for dies_at in range(2, calls, 3):
        killed = dataclasses.replace(cfg, name=f"killed-{dies_at}")
        with pytest.raises(Killed):
            ran(killed, dies_at, seed=dies_at)
        ran(killed, seed=1000 + dies_at)
        assert weights(killed) == undisturbed, f"killed at call {dies_at} of {calls}"
