"""The DeepSpeed learner in real Ray actors: what must not change a number, and what must be refused."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.backend import Task
from rl.config import GRPOConfig, OptimConfig, RunConfig
from rl.data.packing import pack
from rl.types import AhaError, PackedBatch, Prompt, Rollout, RolloutGroup, ScoredGroup, StepStats
from rl.workers.cluster.ray_backend import RayBackend
from rl.workers.cluster.ray_calls import free_port

OPTIM = OptimConfig(lr=1e-2)


def scored_groups(num: int, seed: int = 0, uniform: bool = False) -> list[ScoredGroup]:
    """Groups of 4 random completions with made-up rewards and sampler logprobs near a random model's."""
    rng = np.random.default_rng(seed)
    groups = []
    for p in range(num):
        prompt = Prompt(p, p, rng.integers(2, 40, 6).tolist(), "", "", {})
        rollouts = []
        for _ in range(4):
            length = int(rng.integers(3, 20))
            ids = rng.integers(2, 40, length).astype(np.int32)
            logprobs = np.full(length, -math.log(64), dtype=np.float32)
            rollouts.append(Rollout(ids, logprobs, "", "stop", 1.0, 0, 0))
        advantages = [0.0] * 4 if uniform else rng.normal(size=4).tolist()
        groups.append(ScoredGroup(RolloutGroup(prompt, rollouts), [0.0] * 4, [{}] * 4, advantages, [True] * 4, uniform))
    return groups


class InProcess:
    """One learner rank in the test's own process: the same class without Ray, which saves an actor's start."""

    def __init__(self, cfg: RunConfig) -> None:
        from rl.workers.learner.learner import Learner

        self.learner = Learner(cfg, 0, "cpu", cfg.learner.threads or 2)
        if not torch.distributed.is_initialized():
            self.learner.connect("127.0.0.1", free_port())
        for name in ("load", "weights_hash", "parameter_sums"):
            setattr(self, name, getattr(self.learner, name))

    def step(self, updates_U: list[PackedBatch]) -> StepStats:
        return self.learner.step([u.micro_batches_R[0] for u in updates_U])

    def save(self, folder: Path) -> None:
        self.learner.save(str(folder))

    def restore(self, folder: Path) -> None:
        self.learner.restore(str(folder))


@contextmanager
def learners(cfg: RunConfig, grpo: GRPOConfig, optim: OptimConfig = OPTIM) -> Iterator[InProcess | RayBackend]:
    """Learners alone, without a sampler: in this process for one rank, in Ray actors for more."""
    cfg = dataclasses.replace(cfg, grpo=grpo)
    task = Task(model_folder(cfg), optim, 10, grpo)
    if cfg.learner.ranks == 1:
        learner = InProcess(cfg)
        learner.load(task)
        yield learner
        return
    backend = RayBackend(cfg)
    try:
        backend.start(task.model_path, 256, samplers=False)
        backend.load(task)
        yield backend
    finally:
        backend.close()


def model_folder(cfg: RunConfig) -> str:
    from rl.workflow.inputs import resolve_model

    return resolve_model(cfg.model.path)


def with_learner(cfg: RunConfig, **changes: object) -> RunConfig:
    return dataclasses.replace(cfg, learner=dataclasses.replace(cfg.learner, **changes))


def packed(cfg: RunConfig, grpo: GRPOConfig, groups: list[ScoredGroup]) -> list[PackedBatch]:
    layout = "shared" if cfg.learner.share_prompts == "true" else cfg.learner.layout
    return pack(groups, grpo=grpo, learner=cfg.learner, max_new_tokens=24, layout=layout, seed=0)


GRPO = GRPOConfig(kl_coef=0.0, max_logprob_gap=10.0, importance="none")


def trace(cfg: RunConfig, grpo: GRPOConfig, steps: int = 3) -> tuple[list[float], list[float], dict[str, float]]:
    """Losses, gradient norms and the parameters' sums over a few steps on fixed rollouts."""
    with learners(cfg, grpo) as backend:
        stats = [backend.step(packed(cfg, grpo, scored_groups(8, seed=s))) for s in range(steps)]
        sums = backend.parameter_sums()
    return [s.loss for s in stats], [s.grad_norm for s in stats], sums


@pytest.fixture(scope="module")
def reference_trace():  # type: ignore[no-untyped-def]
    from recipes.tiny import recipe

    return trace(with_learner(recipe(), layout="rows", threads=1), GRPO)


@pytest.mark.parametrize(
    ("zero_stage", "ranks", "layout", "micro_batch_tokens"),
    [
        (0, 1, "rows", 8192),
        (1, 1, "packed", 8192),
        (1, 1, "rows", 160),
        (1, 2, "rows", 8192),
        (2, 2, "rows", 8192),
        (3, 2, "rows", 8192),
        (3, 1, "packed", 160),
        (0, 1, "shared", 8192),
        (1, 2, "shared", 60),
        (3, 2, "shared", 8192),
        (3, 2, "shared", 60),
    ],
)
def test_the_same_rollouts_train_the_same_model_under_every_zero_stage_rank_count_and_packing(
    tiny: RunConfig, reference_trace, zero_stage: int, ranks: int, layout: str, micro_batch_tokens: int
) -> None:  # type: ignore[no-untyped-def]
    cfg = with_learner(
        tiny, zero_stage=zero_stage, ranks=ranks, micro_batch_tokens=micro_batch_tokens, threads=1,
        layout="rows" if layout == "shared" else layout, share_prompts="true" if layout == "shared" else "auto",
    )  # fmt: skip
    losses, norms, sums = trace(cfg, GRPO)
    want_losses, want_norms, want_sums = reference_trace
    assert losses == pytest.approx(want_losses, abs=2e-6)
    assert norms == pytest.approx(want_norms, rel=2e-4)
    assert sums == pytest.approx(want_sums, rel=1e-4)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_every_parameter_moves_after_one_update(tiny: RunConfig, zero_stage: int) -> None:
    cfg = with_learner(tiny, zero_stage=zero_stage, layout="rows")
    with learners(cfg, GRPO) as backend:
        before = backend.parameter_sums()
        backend.step(packed(cfg, GRPO, scored_groups(8)))
        after = backend.parameter_sums()
    still = [name for name in before if before[name] == after[name]]
    assert not still


def test_tensors_without_a_gradient_are_named_and_only_those(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows")
    with learners(cfg, GRPO) as backend:
        assert isinstance(backend, InProcess)
        batch = packed(cfg, GRPO, scored_groups(8))
        assert backend.step(batch).still == ()
        attention, mlp = (backend.learner.policy.hf.model.layers[i] for i in (1, 2))
        hook = attention.self_attn.q_proj.weight.register_hook(lambda grad: grad * 0)
        for moment in backend.learner.engine.optimizer.optimizer.state.values():
            moment["exp_avg"].zero_()  # which would move the tensor without a gradient
        mlp.mlp.up_proj.weight.requires_grad_(False)
        still = backend.step(batch).still
        hook.remove()
        assert set(still) == {"model.layers.1.self_attn.q_proj.weight", "model.layers.2.mlp.up_proj.weight"}


def test_scores_are_the_logprobs_that_the_gap_is_measured_with(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows", micro_batch_tokens=160)
    with learners(cfg, GRPO) as backend:
        assert isinstance(backend, InProcess)
        batches = packed(cfg, GRPO, scored_groups(2))[0].micro_batches_R[0]
        scored = backend.learner.score(batches)
        mean, largest = backend.learner.measure_gap(batches)
    gap_M = np.concatenate(
        [np.abs(mb.sampler_logprobs_T[mb.loss_mask_T > 0] - s) for mb, s in zip(batches, scored, strict=True)]
    )
    assert len(batches) > 1
    assert (gap_M.mean(), gap_M.max()) == (pytest.approx(mean, rel=1e-5), pytest.approx(largest, rel=1e-5))


@pytest.mark.parametrize(("zero_stage", "dtype"), [(0, "float32"), (1, "float32"), (3, "float32"), (1, "bfloat16")])
def test_a_non_finite_gradient_skips_the_update_and_is_counted(tiny: RunConfig, zero_stage: int, dtype: str) -> None:
    cfg = with_learner(tiny, zero_stage=zero_stage, layout="rows")
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
    with learners(cfg, GRPO) as backend:
        clean = backend.weights_hash()
        batch = packed(cfg, GRPO, scored_groups(8))
        batch[0].micro_batches_R[0][0].advantages_T[8] = np.inf
        stats = backend.step(batch)
        assert (stats.updates, stats.skipped_updates) == (0, 1)
        assert backend.weights_hash() == clean
        stats = backend.step(packed(cfg, GRPO, scored_groups(8)))
        assert (stats.updates, stats.skipped_updates) == (1, 0)
        assert backend.weights_hash() != clean


def test_a_turn_without_work_changes_nothing(tiny: RunConfig) -> None:
    """One rollout has a gradient, so of two ranks one gets a dummy. Here one rank takes both turns."""
    groups = scored_groups(1)
    groups[0] = dataclasses.replace(groups[0], advantages_G=[0.0, 0.0, 1.0, 0.0])
    one, two = (with_learner(tiny, layout="rows", ranks=ranks) for ranks in (1, 2))
    (alone,), (shared,) = (packed(cfg, GRPO, groups) for cfg in (one, two))
    turns = [mb for rank in shared.micro_batches_R for mb in rank]
    assert [int(mb.loss_mask_T.sum()) > 0 for mb in turns].count(False) == 1
    with learners(one, GRPO) as backend:
        assert isinstance(backend, InProcess)
        assert backend.learner.measure_gap(turns) == backend.learner.measure_gap(alone.micro_batches_R[0])
        with_dummy = backend.learner.step([turns])
        backend.load(Task(model_folder(one), OPTIM, 10, GRPO))
        without = backend.learner.step([alone.micro_batches_R[0]])
    assert (with_dummy.loss, with_dummy.gap_mean, with_dummy.tokens) == (without.loss, without.gap_mean, without.tokens)


def test_sampler_logprobs_far_from_the_learners_stop_the_step_before_any_weight_moves(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows")
    strict = dataclasses.replace(GRPO, max_logprob_gap=1e-3)
    with learners(cfg, strict) as backend:
        clean = backend.weights_hash()
        with pytest.raises(AhaError, match="sampler and learner disagree"):
            backend.step(packed(cfg, strict, scored_groups(8)))
        assert backend.weights_hash() == clean


def test_several_updates_use_old_logprobs_from_before_the_first(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows")
    grpo = dataclasses.replace(GRPO, updates_per_step=4)
    with learners(cfg, grpo) as backend:
        stats = backend.step(packed(cfg, grpo, scored_groups(8)))
    assert stats.updates == 4
    # The first update's ratios are 1; later ones have moved away from the policy that scored the rollouts.
    assert stats.metrics["max/ratio"] > 1.01


def test_the_reference_stays_put_and_is_refreshed_when_due(tiny: RunConfig) -> None:
    cfg = with_learner(tiny, layout="rows")
    grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=2)
    with learners(cfg, grpo) as backend:
        kl = [backend.step(packed(cfg, grpo, scored_groups(8, seed=s))).metrics["kl"] for s in range(3)]
    assert kl[0] == pytest.approx(0.0, abs=1e-7)
    assert kl[1] > 1e-5
    assert kl[2] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("zero_stage", "dtype"), [(0, "float32"), (1, "float32"), (2, "bfloat16"), (3, "float32")])
def test_the_next_model_finds_nothing_of_the_one_before_in_memory(tiny: RunConfig, zero_stage: int, dtype: str) -> None:
    cfg = with_learner(tiny, zero_stage=zero_stage, layout="rows")
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
    grpo = dataclasses.replace(GRPO, kl_coef=0.1)
    with learners(cfg, grpo) as backend:
        assert isinstance(backend, InProcess)
        backend.step(packed(cfg, grpo, scored_groups(8)))
        learner = backend.learner
        assert learner.reference is not None
        models = {"policy": learner.policy, "reference": learner.reference, "optimiser": learner.engine.optimizer}
        old = {name: weakref.ref(model) for name, model in models.items()}
        old["a weight"] = weakref.ref(next(learner.policy.parameters()))
        del models
        learner.load(learner.task)
        assert [name for name, model in old.items() if model() is not None] == []
        backend.step(packed(cfg, grpo, scored_groups(8)))


@pytest.mark.parametrize(("zero_stage", "ranks", "dtype"), [(1, 1, "bfloat16"), (3, 2, "float32")])
def test_a_restored_learner_goes_on_bit_for_bit(
    tiny: RunConfig, tmp_path, zero_stage: int, ranks: int, dtype: str
) -> None:  # type: ignore[no-untyped-def]
    cfg = with_learner(tiny, zero_stage=zero_stage, ranks=ranks, layout="rows", threads=1)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
    grpo = dataclasses.replace(GRPO, kl_coef=0.1, ref_refresh_steps=1)
    batches = [packed(cfg, grpo, scored_groups(8, seed=s)) for s in range(3)]
    with learners(cfg, grpo) as backend:
        for batch in batches[:2]:
            backend.step(batch)
        backend.save(tmp_path)
        backend.step(batches[2])
        want = backend.weights_hash()
    with learners(cfg, grpo) as backend:
        backend.restore(tmp_path)
        backend.step(batches[2])
        assert backend.weights_hash() == want
