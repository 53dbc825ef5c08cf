"""rl/stages/grpo.py: steps in which there is nothing to train on, over a backend that only counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.algorithms.learning_rate import learning_rate
from rl.config import GRPOConfig, ModelConfig, OptimConfig, RewardConfig, RolloutConfig, RunConfig
from rl.stages import grpo as stage
from rl.types import (
    MicroBatch,
    PackedBatch,
    Prompt,
    Queue,
    Rollout,
    RolloutGroup,
    ScoredGroup,
    StepStats,
    SyncReport,
)


def config(tmp_path: Path, **grpo: Any) -> RunConfig:
    cfg = GRPOConfig(
        steps=10, prompts_per_step=2, group_size=2, kl_coef=0.0, optim=OptimConfig(lr=1.0, schedule="cosine"), **grpo
    )
    return RunConfig(
        name="x", out=str(tmp_path), model=ModelConfig(path="m"), rewards=(RewardConfig("accuracy"),), grpo=cfg,
        rollout=RolloutConfig(max_new_tokens=8),
    )  # fmt: skip


def groups(step: int, *, mixed: bool, finish: str = "stop", valid: bool = True) -> list[ScoredGroup]:
    tokens, logprobs = np.array([3, 4], np.int32), np.array([-1, -1], np.float32)
    two = [Rollout(tokens, logprobs, "a", finish, 1.0, step, 0)] * 2
    advantages = [1.0, -1.0] if mixed else [0.0, 0.0]
    return [
        ScoredGroup(
            RolloutGroup(Prompt(p, 2 * step + p, [1], "", "", {}), two), [0.0, 0.0], [{}] * 2, advantages,
            [valid] * 2, not mixed,
        )
        for p in range(2)
    ]  # fmt: skip


class Counting:
    """Counts updates as the learner does, those of nothing too."""

    layout, updates = "rows", 0

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.measured: list[list[list[MicroBatch]]] = []

    def load(self, task: Any) -> str:
        self.task = task
        return "fingerprint"

    def sync_weights(self, version: int) -> SyncReport:
        return SyncReport(version, 0, 0, 0, 0, 0.0)

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        for _ in updates_U:
            self.rates.append(learning_rate(self.task.optim, self.updates, self.task.total_updates))
            self.updates += 1
        return StepStats(0.0, 0.0, self.rates[-1])

    def measure_gap(self, micro_batches_R: list[list[MicroBatch]]) -> tuple[float, float]:
        self.measured.append(micro_batches_R)
        return 0.25, 0.5

    def memory(self) -> dict[str, float]:
        return {}

    def queue(self) -> Queue:
        return Queue()


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """train(cfg, groups of each step) -> (backend, the metrics of each step)."""

    @contextmanager
    def timed(phase: str) -> Iterator[dict[str, float]]:
        yield {phase: 0.0}

    def run(cfg: RunConfig, scored_PS: list[list[ScoredGroup]]) -> tuple[Counting, list[dict[str, float]]]:
        backend, logged = Counting(), list[dict[str, float]]()
        quiet = SimpleNamespace(
            resume=lambda *a: None, begin=lambda *a: None, step=lambda name, step, metrics, *a: logged.append(metrics)
        )
        ctx = SimpleNamespace(
            cfg=cfg, backend=backend, tracker=quiet, run_dir=tmp_path, timed=timed, resume=lambda *a: 0,
            finish_step=lambda *a: None, stop=SimpleNamespace(requested=False),
        )  # fmt: skip
        monkeypatch.setattr(stage, "_sample_step", lambda ctx, queue, scorer, step: (scored_PS[step], scored_PS[step]))
        monkeypatch.setattr(stage, "Emergence", lambda *a: SimpleNamespace(step=lambda *a: {}))
        scorer: Any = SimpleNamespace(metrics=lambda scored_P: {})
        stream: Any = SimpleNamespace(state=dict, restore=None)
        stage.train_grpo(ctx, "m", stream, [], scorer)  # type: ignore[arg-type]
        return backend, logged

    return run


def test_the_learning_rate_goes_by_steps_also_where_nothing_is_trained(tmp_path: Path, train: Any) -> None:
    cfg = config(tmp_path)
    backend, logged = train(cfg, [groups(step, mixed=step not in (0, 1, 6)) for step in range(10)])
    wanted = [learning_rate(cfg.grpo.optim, update, 10) for update in range(10)]
    assert backend.rates == wanted
    assert [metrics["lr"] for metrics in logged] == wanted
    assert [metrics["gap/mean"] == 0.25 for metrics in logged] == [step in (0, 1, 6) for step in range(10)]


def test_a_step_whose_rollouts_were_all_cut_still_measures_the_gap(tmp_path: Path, train: Any) -> None:
    cfg = config(tmp_path, overlong="mask")
    backend, _ = train(cfg, [groups(step, mixed=True, finish="length") for step in range(10)])
    assert all(any(rank) for micro_batches_R in backend.measured for rank in micro_batches_R)
    assert len(backend.measured) == 10


def test_a_step_without_any_verdict_has_no_gap(tmp_path: Path, train: Any) -> None:
    backend, logged = train(config(tmp_path), [groups(step, mixed=True, valid=False) for step in range(10)])
    assert backend.measured == []
    assert all(math.isnan(metrics["gap/mean"]) for metrics in logged)


# ------------------------------------------------------------------------------------------------ uniform groups

MIXED, UNIFORM = True, False


class Draws:
    """A queue that gives groups in the order of `kinds`; asked: (how many, of which version), for each round."""

    def __init__(self, kinds: Sequence[bool]) -> None:
        self.kinds, self.asked = list(kinds), list[tuple[int, int]]()

    def take(self, count: int, version: int) -> list[ScoredGroup]:
        at = sum(taken for taken, _ in self.asked)
        self.asked.append((count, version))
        return [drawn(at + i, self.kinds[at + i]) for i in range(count)]


def drawn(number: int, mixed: bool) -> ScoredGroup:
    return replace(groups(0, mixed=mixed)[0], group=RolloutGroup(Prompt(number, number, [1], "", "", {}), []))


def sampled(kinds: Sequence[bool], **grpo: Any) -> tuple[list[int], list[int], Draws, list[int]]:
    """Numbers of (all groups of a step of three, those to train on), the queue, and the sizes that were scored."""
    queue, sizes = Draws(kinds), list[int]()

    def finish(graded_P: list[ScoredGroup]) -> list[ScoredGroup]:
        sizes.append(len(graded_P))
        return graded_P

    ctx: Any = SimpleNamespace(cfg=RunConfig(grpo=GRPOConfig(prompts_per_step=3, **grpo)))
    scorer: Any = SimpleNamespace(finish=finish)
    every, kept = stage._sample_step(ctx, queue, scorer, 7)  # type: ignore[arg-type]
    return [s.group.prompt.id for s in every], [s.group.prompt.id for s in kept], queue, sizes


@pytest.mark.parametrize("way", ["keep", "drop"])
def test_uniform_groups_that_are_kept_or_dropped_are_not_replaced(way: str) -> None:
    # What is dropped is dropped by rl/data/packing.py, so that it still counts in the step's metrics.
    every, kept, queue, _ = sampled([UNIFORM, MIXED, UNIFORM], uniform_groups=way)
    assert every == kept == [0, 1, 2]
    assert queue.asked == [(3, 7)]


def test_refill_samples_as_many_prompts_more_as_mixed_groups_are_missing_and_trains_on_mixed_ones() -> None:
    kinds = [UNIFORM, MIXED, UNIFORM, UNIFORM, MIXED, MIXED]
    every, kept, queue, sizes = sampled(kinds, uniform_groups="refill")
    assert queue.asked == [(3, 7), (2, 7), (1, 7)]
    assert every == [0, 1, 2, 3, 4, 5]
    assert kept == [1, 4, 5]
    assert sizes == [3, 5, 6], "advantages may depend on the whole batch, so all groups are scored again"


def test_refill_samples_nothing_more_where_every_group_is_mixed() -> None:
    every, kept, queue, _ = sampled([MIXED] * 3, uniform_groups="refill")
    assert every == kept == [0, 1, 2]
    assert queue.asked == [(3, 7)]


def test_refill_ends_after_its_rounds_and_trains_on_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        every, kept, queue, _ = sampled([MIXED] + [UNIFORM] * 6, uniform_groups="refill", max_refills=2)
    assert queue.asked == [(3, 7), (2, 7), (2, 7)]
    assert (len(every), kept) == (7, [0])
    assert "step 7: 1 of 3 groups are mixed after refilling" in caplog.text
