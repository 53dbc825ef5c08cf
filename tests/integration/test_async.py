"""Sampling and training at the same time, with Ray, vLLM and DeepSpeed: new weights in mid-sample, kills, resumes."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pandas
import pytest

from rl.backend import SampleParams, Task
from rl.config import CheckpointConfig, RunConfig
from rl.data.versions import versions_T
from rl.rollouts.agreement import score_groups
from rl.types import Prompt, Rollout, RolloutGroup
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow import inputs
from tests.bench.async_kills import audit
from tests.integration.test_learner import OPTIM, packed, scored_groups
from tests.integration.test_run import _run_and_kill, requests_for

LONG = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=96, stop=(), stop_token_ids=())


def in_mode(cfg: RunConfig, staleness: int, *, in_flight: bool, cache: str = "recompute") -> RunConfig:
    roll = dataclasses.replace(cfg.rollout, staleness=staleness, in_flight=in_flight, cache=cache)
    return dataclasses.replace(cfg, rollout=roll)


def test_new_weights_find_samples_half_drawn_and_every_token_is_of_the_version_that_it_carries(tiny: RunConfig) -> None:
    path = inputs.resolve_model("recipes.tiny_model:tied")
    grpo = dataclasses.replace(tiny.grpo, kl_coef=0.0, max_logprob_gap=10.0)
    learner = dataclasses.replace(tiny.learner, layout="rows")
    cfg = in_mode(dataclasses.replace(tiny, grpo=grpo, learner=learner), 1, in_flight=True)
    backend = RayBackend(cfg)
    first: dict[int, list[Rollout]] = {}
    requests = requests_for(8, 4, length=150)  # longer than a block of the prefix cache
    try:
        backend.start(path, 256)
        backend.load(Task(path, dataclasses.replace(OPTIM, lr=1e-2), 10, grpo))
        backend.sync_weights(0)
        backend.submit(requests, LONG, first.__setitem__)
        backend.step(packed(cfg, grpo, scored_groups(8, seed=1)))  # samplers decode meanwhile
        backend.sync_weights(1)
        again = dict(backend.rollouts(requests, dataclasses.replace(LONG, max_new_tokens=8)))
        while len(first) < len(requests):
            backend.pump()
        found = {kind: gaps(backend, cfg, requests, groups) for kind, groups in (("first", first), ("again", again))}
    finally:
        backend.close()
    versions = Counter(v for _, v in found["first"])
    assert set(versions) == {0, 1}, versions
    new = [gap for gap, version in (*found["first"], *found["again"]) if version == 1]
    old = [gap for gap, version in found["first"] if version == 0]
    assert max(new) < 1e-4, "tokens of new weights agree with the learner, which has those weights"
    assert np.mean(old) > 10 * np.mean(new), "the update was large enough to see"


def gaps(backend: RayBackend, cfg: RunConfig, requests, found) -> list[tuple[float, int]]:  # type: ignore[no-untyped-def]
    """(|sampler - learner| logprob, version) of every token."""
    groups = [
        RolloutGroup(Prompt(i, i, requests[i].prompt_token_ids, "", "", {}), found[i]) for i in range(len(requests))
    ]
    scored = score_groups(backend.score, cfg, "rows", groups)
    pairs = [
        (r, s) for group, of in zip(groups, scored, strict=True) for r, s in zip(group.rollouts_G, of, strict=True)
    ]
    return [
        pair
        for r, learner_T in pairs
        for pair in zip(np.abs(r.logprobs_T - learner_T).tolist(), versions_T(r).tolist(), strict=True)
    ]


# ------------------------------------------------------------------------------------------------ kill and resume


@pytest.fixture
def cfg(tiny: RunConfig) -> RunConfig:
    return dataclasses.replace(
        tiny,
        grpo=dataclasses.replace(tiny.grpo, steps=6, prompts_per_step=3),
        evaluation=dataclasses.replace(tiny.evaluation, data=dataclasses.replace(tiny.evaluation.data, source="")),
        checkpoint=CheckpointConfig(every=2),
    )


def weights(cfg: RunConfig) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((cfg.run_dir / "model").glob("*.safetensors")))


def test_an_overlapped_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    cfg: RunConfig, tmp_path: Path
) -> None:
    undisturbed = in_mode(dataclasses.replace(cfg, name="undisturbed"), 1, in_flight=False)
    _run_and_kill(undisturbed, tmp_path, None, random.Random(1))
    killed = in_mode(dataclasses.replace(cfg, name="killed"), 1, in_flight=False)
    for when in ("grpo", "grpo-saving", "grpo"):
        assert _run_and_kill(killed, tmp_path, when, random.Random(2)) == 1
    _run_and_kill(killed, tmp_path, None, random.Random(3))
    assert weights(killed) == weights(undisturbed)
    assert audit(killed.run_dir, 6, 3, 1, cfg.seed) == ""


def test_an_asynchronous_run_that_is_killed_trains_on_each_draw_once_and_in_order(
    cfg: RunConfig, tmp_path: Path
) -> None:
    killed = in_mode(cfg, 2, in_flight=True)
    for when in ("grpo", "grpo-saving"):
        assert _run_and_kill(killed, tmp_path, when, random.Random(4)) == 1
    _run_and_kill(killed, tmp_path, None, random.Random(5))
    assert audit(killed.run_dir, 6, 3, 2, cfg.seed) == ""
    frames = [pandas.read_parquet(p) for p in sorted((killed.run_dir / "rollouts").glob("step_*.parquet"))]
    ages = [step - version for step, frame in enumerate(frames) for version in frame["policy_version"]]
    assert max(ages) == 2
    assert (killed.run_dir / "model").is_dir()
