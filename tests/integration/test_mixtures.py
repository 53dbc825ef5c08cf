"""Mixtures of experts through the real learner, weight sync and sampler: both compute the same, update after update."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rl.backend import SampleParams, Task
from rl.config import GRPOConfig, OptimConfig, RunConfig
from rl.data.packing import pack
from rl.types import PackedBatch, Prompt, RolloutGroup, SampleRequest, ScoredGroup
from rl.workers.cluster.ray_backend import RayBackend
from tests.integration.conftest import shortened
from tests.unit import mixtures

PROMPTS, SAMPLES, NEW_TOKENS = 3, 4, 24
FILE_NAMES = {
    "qwen3_moe": "model.layers.1.mlp.experts.7.gate_proj.weight",
    "olmoe": "model.layers.1.mlp.experts.7.gate_proj.weight",
    "mixtral": "model.layers.1.block_sparse_moe.experts.7.w1.weight",
}


class Patient:
    """A started backend with a mixture. updates: of the optimiser so far, each far larger than a run's."""

    def __init__(self, family: str, cfg: RunConfig, folder: Path) -> None:
        self.family, self.cfg, self.folder = family, cfg, folder
        self.backend = RayBackend(cfg)
        self.version = -1

    def start(self) -> None:
        grpo, backend = self.cfg.grpo, self.backend
        backend.start(str(self.folder), 128)
        backend.load(Task(str(self.folder), grpo.optim, 3, grpo))

    def sampled(self) -> PackedBatch:
        """The weights sent, and new samples from them."""
        self.version += 1
        self.backend.sync_weights(self.version)
        requests = [
            SampleRequest(p, [5 + p, 9, 12, 7], [1000 * self.version + SAMPLES * p + i for i in range(SAMPLES)])
            for p in range(PROMPTS)
        ]
        params = SampleParams(1.0, 1.0, NEW_TOKENS, (), (0,))
        found = dict(self.backend.rollouts(requests, params))
        groups = [
            ScoredGroup(
                RolloutGroup(Prompt(r.group, r.group, r.prompt_token_ids, "", "", {}), found[r.group]),
                [0.0] * SAMPLES, [{}] * SAMPLES, [1.0, -0.5, 0.25, 0.75], [True] * SAMPLES, False,
            )
            for r in requests
        ]  # fmt: skip
        options = {"max_new_tokens": NEW_TOKENS, "layout": self.backend.layout, "seed": 0}
        return pack(groups, grpo=self.cfg.grpo, learner=self.cfg.learner, **options)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=mixtures.FAMILIES)
def patient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    out = tmp_path_factory.mktemp(request.param)
    cfg = shortened(out / "runs")
    optim = OptimConfig(lr=1e-2, warmup_steps=0, schedule="constant")
    grpo = GRPOConfig(steps=3, kl_coef=0.0, optim=optim, max_logprob_gap=10.0, importance="none")
    found = Patient(request.param, dataclasses.replace(cfg, grpo=grpo), mixtures.write(request.param, out / "model"))
    try:
        found.start()
        yield found
    finally:
        found.backend.close()


def test_sampler_and_learner_agree_before_and_after_one_and_three_updates(patient: Patient, tmp_path: Path) -> None:
    backend, gaps = patient.backend, []
    batch = patient.sampled()
    old = batch
    gaps.append(backend.measure_gap(batch.micro_batches_R)[1])
    before = backend.parameter_sums()
    for steps in (1, 2):
        for _ in range(steps):
            assert backend.step([batch]).updates == 1
        batch = patient.sampled()
        gaps.append(backend.measure_gap(batch.micro_batches_R)[1])
    assert max(gaps) < 1e-5, gaps
    # What was sampled before the updates tells how far the weights went: agreement after them is no accident.
    assert backend.measure_gap(old.micro_batches_R)[0] > 0.05
    after = backend.parameter_sums()
    experts = [name for name in after if ".experts." in name]
    assert FILE_NAMES[patient.family] in experts
    assert len(experts) == 2 * 3 * mixtures.EXPERTS
    assert [name for name in after if after[name] == before[name]] == []
    # What the run leaves has the names of the model's own files, and is the model that sampled.
    backend.export(tmp_path / "out")
    written, first = load_file(tmp_path / "out" / "model.safetensors"), load_file(patient.folder / "model.safetensors")
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in first.items()}
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    mb = batch.micro_batches_R[0][0]
    start = 0
    for length in mb.lengths_S:
        at = slice(start, start + int(length))
        ids, told = torch.from_numpy(mb.token_ids_T[at].astype(np.int64)), mb.sampler_logprobs_T[at]
        with torch.no_grad():
            logprobs = hf(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
        sampled = mb.loss_mask_T[at][1:] > 0
        assert np.abs(logprobs - told[1:])[sampled].max() < 1e-5
        start += int(length)
