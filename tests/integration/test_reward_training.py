"""A reward model trained by two DeepSpeed ranks: the losses of plain torch, and a folder that scores as it was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import cast

import pytest

from rl.backend import Backend
from rl.config import LearnerConfig, OptimConfig, RewardTrainConfig, RunConfig
from rl.context import Context, Stop
from rl.model.pretrained import load_tokenizer
from rl.records.tracker import Tracker
from rl.scoring.reward_model_text import load_encoder
from rl.stages.reward_model import HeldOut, held_out_path, train_reward_model
from rl.workers.cluster.ray_backend import RayBackend
from tests.unit.classifiers import llama_causal
from tests.unit.test_reward_training import TorchLearners, rows_file

STEPS = 16


def trained(cfg: RunConfig, backend: Backend, model: str, data: RewardTrainConfig) -> tuple[Path, list[float]]:
    """(the reward model's folder, the loss of each update)."""
    with Tracker(cfg.run_dir, cfg.track, name="r") as tracker:
        ctx = Context(cfg, backend, load_tokenizer(model), tracker, Stop(), 256)
        folder = train_reward_model(ctx, model, data)
    records = [json.loads(line) for line in (cfg.run_dir / "metrics.jsonl").read_text().splitlines()]
    return folder, [record["loss"] for record in records if record["stage"] == "reward"]


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 1), (2, 3)])
def test_the_learners_train_a_reward_model_like_plain_torch(
    tiny: RunConfig, tmp_path: Path, ranks: int, zero_stage: int
) -> None:
    model = str(llama_causal(tmp_path / "model"))
    data = RewardTrainConfig(
        data=rows_file(tmp_path / "pairs.jsonl"), rows_per_step=16, steps=STEPS, held_out_share=0.25,
        optim=OptimConfig(lr=3e-3, max_grad_norm=0.0),
    )  # fmt: skip
    learner = LearnerConfig(micro_batch_tokens=400, ranks=ranks, zero_stage=zero_stage, threads=1, layout="rows")
    cfg = dataclasses.replace(
        tiny,
        name="ray",
        rewards=(),
        learner=learner,
        model=dataclasses.replace(tiny.model, path=model, dtype="float32"),
    )
    plain = dataclasses.replace(cfg, name="torch", learner=dataclasses.replace(learner, ranks=1))
    _, want = trained(plain, cast(Backend, TorchLearners()), model, data)
    backend = RayBackend(cfg)
    try:
        backend.start(model, 256, samplers=False)
        folder, losses = trained(cfg, backend, model, data)
    finally:
        backend.close()
    assert losses == pytest.approx(want, abs=2e-3)
    assert losses[-1] < 0.7 * losses[0]
    results = [HeldOut.read(held_out_path(run.run_dir, STEPS)) for run in (cfg, plain)]
    assert results[0].accuracy == results[1].accuracy > 0.9
    assert results[0].margin == pytest.approx(results[1].margin, rel=0.05)
    load_encoder(str(folder))  # what a run with this reward model checks first
