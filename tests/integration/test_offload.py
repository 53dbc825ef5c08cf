"""The optimiser in host memory (learner.offload=optimizer): another path through DeepSpeed, the same numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rl.config import OptimConfig, RunConfig
from tests.integration.test_learner import GRPO, learners, packed, scored_groups, trace, with_learner


def offloaded(cfg: RunConfig, **learner: object) -> RunConfig:
    return with_learner(cfg, layout="rows", threads=1, offload="optimizer", **learner)


@pytest.fixture(scope="module")
def reference_trace():  # type: ignore[no-untyped-def]
    from recipes.tiny import recipe

    return trace(with_learner(recipe(), layout="rows", threads=1), GRPO)


@pytest.mark.parametrize(("zero_stage", "ranks", "micro_batch_tokens"), [(1, 1, 160), (2, 2, 8192), (3, 1, 160)])
def test_an_offloaded_optimiser_trains_the_same_model(
    tiny: RunConfig, reference_trace, zero_stage: int, ranks: int, micro_batch_tokens: int
) -> None:  # type: ignore[no-untyped-def]
    cfg = offloaded(tiny, zero_stage=zero_stage, ranks=ranks, micro_batch_tokens=micro_batch_tokens)
    losses, norms, sums = trace(cfg, GRPO)
    want_losses, want_norms, want_sums = reference_trace
    assert losses == pytest.approx(want_losses, abs=2e-6)
    assert norms == pytest.approx(want_norms, rel=2e-4)
    assert sums == pytest.approx(want_sums, rel=1e-4)


def test_in_bfloat16_the_masters_on_the_host_are_dithered_and_move_as_those_on_the_device(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows", threads=1)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype="bfloat16"))
    found = []
    for one in (cfg, offloaded(cfg)):
        with learners(one, GRPO, OptimConfig(lr=1e-4)) as backend:
            before = backend.learner.master_sums()  # type: ignore[union-attr]
            stats = backend.step(packed(one, GRPO, scored_groups(8)))
            after = backend.learner.master_sums()  # type: ignore[union-attr]
            found.append((before, stats.metrics["policy/weights_moved"], after))
    (before, moved, after), (host_before, host_moved, host_after) = found
    assert host_before == before
    assert host_moved == pytest.approx(moved, rel=0.02)
    assert host_after == pytest.approx(after, rel=1e-5)
    assert all(host_after[name] != host_before[name] for name in before)


def test_an_offloaded_learner_goes_on_from_what_it_saved(tiny: RunConfig, tmp_path: Path) -> None:
    cfg = offloaded(tiny)
    with learners(cfg, GRPO) as backend:
        backend.step(packed(cfg, GRPO, scored_groups(8, seed=1)))
        backend.save(tmp_path)
        backend.step(packed(cfg, GRPO, scored_groups(8, seed=2)))
        want = backend.weights_hash()
    with learners(cfg, GRPO) as backend:
        backend.restore(tmp_path)
        backend.step(packed(cfg, GRPO, scored_groups(8, seed=2)))
        assert backend.weights_hash() == want


def test_the_optimisers_state_is_in_host_memory(tiny: RunConfig) -> None:
    for cfg, away in ((with_learner(tiny, layout="rows", threads=1), False), (offloaded(tiny), True)):
        with learners(cfg, GRPO) as backend:
            assert backend.learner.engine.optimizer.cpu_offload == away  # type: ignore[union-attr]


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_gradient_that_is_not_finite_changes_nothing(tiny: RunConfig, zero_stage: int) -> None:
    cfg = offloaded(tiny, zero_stage=zero_stage)
    batch = packed(cfg, GRPO, scored_groups(8))
    batch[0].micro_batches_R[0][0].advantages_T[8] = float("inf")
    with learners(cfg, GRPO) as backend:
        before = backend.weights_hash()
        stats = backend.step(batch)
        assert (stats.updates, stats.skipped_updates) == (0, 1)
        assert backend.weights_hash() == before
        assert backend.step(packed(cfg, GRPO, scored_groups(8))).updates == 1
        assert backend.weights_hash() != before
