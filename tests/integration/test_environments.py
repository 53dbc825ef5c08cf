"""Several turns with a real sampler and a real learner: the tokens, their logprobs, and a run killed and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes.guess import recipe
from rl.backend import SampleParams, Task
from rl.config import RunConfig
from rl.environments.rendering import around_answers
from rl.records.rollout_files import rollouts_path
from rl.rollouts.agreement import score_groups
from rl.types import Prompt, RolloutGroup, SampleRequest
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow import inputs
from rl.workflow.run import run


def small(folder: Path, name: str) -> RunConfig:
    cfg = recipe()
    return dataclasses.replace(
        cfg,
        name=name,
        out=str(folder),
        sft=dataclasses.replace(cfg.sft, steps=30),
        grpo=dataclasses.replace(cfg.grpo, steps=2, prompts_per_step=4, group_size=4, uniform_groups="keep"),
        evaluation=dataclasses.replace(cfg.evaluation, data=dataclasses.replace(cfg.evaluation.data, limit=3)),
        learner=dataclasses.replace(cfg.learner, threads=1),
        checkpoint=dataclasses.replace(cfg.checkpoint, every=1),
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    cfg = small(tmp_path_factory.mktemp("games"), "played")
    run(cfg, RayBackend)
    return cfg


def test_a_runs_trajectories_are_what_was_sampled_and_what_was_answered(played: RunConfig) -> None:
    rows = pq.read_table(rollouts_path(played.run_dir, "grpo", 1)).to_pylist()
    prepared = inputs.prepare(played)
    several = [row for row in rows if sum(row["sampled"]) < len(row["sampled"])]
    assert len(rows) == 16
    assert len(several) > 4
    for row in several:
        sampled_T, ids_T = np.array(row["sampled"]), np.array(row["token_ids"])
        assert row["tokens"] == sampled_T.sum()
        assert not np.array(row["logprobs"])[~sampled_T].any()
        assert sampled_T[0]
        assert sampled_T[-1]
        text = prepared.tokenizer.decode(ids_T)
        answers = prepared.tokenizer.decode(ids_T[~sampled_T])
        assert set(answers.replace("higher:", "").replace("lower:", "").replace("say a number:", "")) == {" "}
        assert text.startswith(row["completion"].split("\n")[0])


def test_the_learners_logprobs_of_every_turn_are_the_samplers(played: RunConfig) -> None:
    """In float32, to 1e-5, over trajectories of three turns and more."""
    prepared = inputs.prepare(played)
    cfg = dataclasses.replace(played, model=dataclasses.replace(played.model, path=str(played.run_dir / "model")))
    backend = RayBackend(cfg)
    try:
        model = str(played.run_dir / "model")
        backend.start(model, prepared.context_length)
        backend.load(Task(model, cfg.grpo.optim, 1, cfg.grpo, model))
        backend.sync_weights(version=0)
        ends = (int(prepared.tokenizer.eos_token_id),)
        around = around_answers(cfg.environments, "plain", prepared.tokenizer)
        params = SampleParams(1.0, 1.0, 40, (), ends, environments=around)
        ids = prepared.tokenizer("game 1: guess 1 to 15:", add_special_tokens=False).input_ids
        row = {"number": 8}
        request = SampleRequest(0, ids, list(range(8)), (0, row, 1))
        [(_, rollouts_G)] = backend.rollouts([request], params)
        group = RolloutGroup(Prompt(0, 0, ids, "", "8", row), rollouts_G)
        [scored_G] = score_groups(backend.score, cfg, backend.layout, [group])
    finally:
        backend.close()
    assert max(len(r.episode.turns) for r in rollouts_G if r.episode) >= 5
    for rollout, learner_T in zip(rollouts_G, scored_G, strict=True):
        assert len(learner_T) == rollout.num_sampled
        assert np.abs(learner_T - rollout.at_sampled(rollout.logprobs_T)).max() < 1e-5
