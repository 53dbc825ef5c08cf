"""Dithered master weights in the real DeepSpeed: the model that computes is the same, and a resume does not dither again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rl.config import OptimConfig, RunConfig
from tests.integration.dithered_ranks import masters_of
from tests.integration.ranks import run_ranks
from tests.integration.test_learner import GRPO, learners, model_folder, packed, scored_groups, with_learner

OPTIM = OptimConfig(lr=1e-6)


def in_bfloat16(cfg: RunConfig, **learner: object) -> RunConfig:
    cfg = with_learner(cfg, layout="rows", threads=1, **learner)
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype="bfloat16"))


@pytest.fixture(scope="module")
def masters_of_zero_1():  # type: ignore[no-untyped-def]
    from recipes.tiny import recipe

    return run_ranks(masters_of, 1, in_bfloat16(recipe()), model_folder(recipe()))[0]


@pytest.mark.parametrize(("zero_stage", "ranks"), [(1, 2), (2, 2), (3, 1), (3, 3)])
def test_masters_are_the_same_under_every_zero_stage_and_rank_count(
    tiny: RunConfig, masters_of_zero_1: dict[str, np.ndarray], zero_stage: int, ranks: int
) -> None:
    cfg = in_bfloat16(tiny, zero_stage=zero_stage, ranks=ranks)
    for found in run_ranks(masters_of, ranks, cfg, model_folder(cfg)):
        assert found.keys() == masters_of_zero_1.keys()
        for name, master in masters_of_zero_1.items():
            np.testing.assert_array_equal(found[name], master, err_msg=name)


def test_the_model_that_computes_and_what_it_exports_do_not_change(tiny: RunConfig, tmp_path: Path) -> None:
    files, hashes, masters, losses = [], [], [], []
    for dither in (True, False):
        cfg = in_bfloat16(tiny, dither=dither)
        with learners(cfg, GRPO) as backend:
            backend.learner.export(str(tmp_path / str(dither)))  # type: ignore[union-attr]
            files.append((tmp_path / str(dither) / "model.safetensors").read_bytes())
            hashes.append(backend.weights_hash())
            masters.append(backend.learner.master_sums())  # type: ignore[union-attr]
            losses.append(backend.step(packed(cfg, GRPO, scored_groups(8))).loss)
    assert files[0] == files[1]
    assert hashes[0] == hashes[1]
    assert losses[0] == losses[1]
    trained = [name for name in masters[0] if "norm" not in name]  # norms are all 1: their sums need not differ much
    assert all(masters[0][name] != masters[1][name] for name in trained)


def test_a_restored_learner_has_the_masters_of_the_save_and_not_newly_dithered_ones(
    tiny: RunConfig, tmp_path: Path
) -> None:
    cfg = in_bfloat16(tiny)
    with learners(cfg, GRPO) as backend:
        backend.step(packed(cfg, GRPO, scored_groups(8)))
        backend.save(tmp_path)
        saved = backend.learner.master_sums()  # type: ignore[union-attr]
    other = dataclasses.replace(cfg, seed=cfg.seed + 1)
    with learners(other, GRPO) as backend:
        assert backend.learner.master_sums() != saved  # type: ignore[union-attr]
        backend.restore(tmp_path)
        assert backend.learner.master_sums() == saved  # type: ignore[union-attr]


def test_a_small_update_moves_weights_only_where_masters_are_dithered(tiny: RunConfig) -> None:
    moved = {}
    for dither in (True, False):
        cfg = in_bfloat16(tiny, dither=dither)
        with learners(cfg, GRPO, OPTIM) as backend:
            stats = backend.step(packed(cfg, GRPO, scored_groups(8)))
            moved[dither] = stats.metrics["policy/weights_moved"]
    assert moved[True] > 1.5 * moved[False]
    cfg = with_learner(tiny, layout="rows", threads=1)  # float32
    with learners(cfg, GRPO, OPTIM) as backend:
        assert backend.step(packed(cfg, GRPO, scored_groups(8))).metrics["policy/weights_moved"] > 0.99
