"""LoRA adapters that travel apart from the base: vLLM runs them as the learner does, and only they are sent again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import ray

from rl.backend import Task
from rl.config import LoraConfig, RunConfig
from rl.model.pretrained import load_config
from rl.types import Rollout
from rl.workers.cluster.ray_backend import RayBackend
from rl.workflow import inputs
from tests.integration.test_learner import OPTIM, packed, scored_groups
from tests.integration.test_run import PARAMS, _sampled, requests_for

LORA = LoraConfig(rank=4, alpha=8)


def synced(cfg: RunConfig, path: str) -> tuple[float, list[int], dict[int, list[Rollout]]]:
    """(gap after two updates and their syncs, bytes of each sync, greedy samples of the last weights)."""
    grpo = cfg.grpo
    backend = RayBackend(cfg)
    try:
        backend.start(path, 256)
        backend.load(Task(path, OPTIM, 10, grpo))
        sizes = [backend.sync_weights(0).num_bytes]
        for version in (1, 2):
            backend.step(packed(cfg, grpo, scored_groups(8, seed=version)))
            sizes.append(backend.sync_weights(version).num_bytes)
        gap = backend.measure_gap(packed(cfg, grpo, _sampled(backend))[0].micro_batches_R)[0]
        ray.kill(backend.samplers[0])  # a new sampler needs the base again
        samples = dict(backend.rollouts(requests_for(4, 2), dataclasses.replace(PARAMS, temperature=0.0)))
        assert backend.restarts == 1
        after = backend.measure_gap(packed(cfg, grpo, _sampled(backend))[0].micro_batches_R)[0]
        assert after == pytest.approx(gap, rel=0.5)
    finally:
        backend.close()
    return gap, sizes, samples


@pytest.mark.parametrize(("model", "dtype", "limit"), [("tied", "float32", 1e-4), ("untied", "bfloat16", 0.02)])
def test_a_sampler_with_the_adapter_samples_as_one_with_merged_weights(
    tiny: RunConfig, model: str, dtype: str, limit: float
) -> None:
    path = inputs.resolve_model(f"recipes.tiny_model:{model}")
    assert load_config(path).num_hidden_layers == 4
    cfg = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, dtype=dtype, lora=LORA),
        grpo=dataclasses.replace(tiny.grpo, kl_coef=0.0, max_logprob_gap=10.0),
        learner=dataclasses.replace(tiny.learner, layout="rows"),
    )
    found = {}
    for way in ("adapter", "merged"):
        found[way] = synced(dataclasses.replace(cfg, cluster=dataclasses.replace(cfg.cluster, lora_sync=way)), path)
    gap, sizes, samples = found["adapter"]
    merged_gap, merged_sizes, merged_samples = found["merged"]
    assert gap < limit
    assert gap <= merged_gap * 1.5 + 1e-6  # apart is no worse than merged, which rounds
    whole = merged_sizes[0]
    assert merged_sizes == [whole] * 3
    # Seven layers of each block have A and B: rank x (inputs + outputs) numbers.
    adapter = sum(
        4 * (i + o) for i, o in [(128, 128), (128, 64), (128, 64), (128, 128), (128, 384), (128, 384), (384, 128)]
    )
    assert sizes[1:] == [4 * adapter * (4 if dtype == "float32" else 2)] * 2
    assert sizes[0] == whole + sizes[1]
    same, differences = 0, []
    for group, rollouts in samples.items():
        for one, other in zip(rollouts, merged_samples[group], strict=True):
            if one.token_ids_T.tolist() == other.token_ids_T.tolist():
                same += 1
                differences.append(np.abs(one.logprobs_T - other.logprobs_T).mean())
    assert same >= 4
    assert np.mean(differences) < limit
