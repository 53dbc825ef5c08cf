"""A sampler of two tensor-parallel ranks, on CPUs: vLLM starts processes of its own, as it does for several GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.backend import SampleParams
from rl.config import ModelConfig, RunConfig, SamplerConfig
from rl.types import SampleRequest
from rl.workers.cluster.placement import sampler_environment
from rl.workers.sampler.sampler import Sampler
from rl.workers.sync.buckets import PolicySource, SamplerConnection
from rl.workers.sync.send import WeightSender
from tests.unit.classifiers import llama_causal

HERE = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}


class Direct:
    """Calls one sampler in this process, as learners call it through Ray."""

    def __init__(self, sampler: Sampler) -> None:
        self.init_weight_transfer_engine = sampler.init_weight_transfer_engine
        self.start_weight_update = sampler.start_weight_update
        self.update_weights = sampler.update_weights
        self.finish_weight_update = sampler.finish_weight_update


@pytest.fixture
def config(monkeypatch) -> RunConfig:
    sampler = SamplerConfig(tensor_parallel=2, max_sequences=8)
    cfg = replace(RunConfig(), model=ModelConfig(dtype="float32"), sampler=sampler)
    for name, value in (HERE | sampler_environment(cfg, "cpu") | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    return cfg


def test_both_ranks_get_the_weights_and_sample_what_the_model_would(config: RunConfig, tmp_path: Path, request) -> None:
    path = str(llama_causal(tmp_path / "model", hidden=128))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    weights = dict(model.named_parameters())
    shapes = [(name, tuple(p.shape)) for name, p in weights.items()]
    tied = {"model.embed_tokens.weight": "lm_head.weight"}
    source = PolicySource(shapes, lambda: iter(weights.items()), torch.float32, tied)

    sampler = Sampler(config, 0, path, 64, "cpu", "bucket")
    request.addfinalizer(sampler.engine.engine_core.shutdown)
    connection = SamplerConnection("bucket", Direct(sampler), "", 0, 2, 20_000)
    report = WeightSender(connection, 0, source).send(source, 1)
    assert report.num_buckets > 2
    # adopt_version compares the ranks' checksums with one another.
    assert sampler.adopt_version(1) == (report.checksum, report.num_tensors)

    prompt = [5, 6, 7, 8]
    params = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=12, stop=(), stop_token_ids=())
    finished = sampler.sample([SampleRequest(0, prompt, [1, 2, 3])], params).finished
    while 0 not in finished:
        finished |= sampler.poll().finished
    for rollout in finished[0]:
        ids = torch.tensor([prompt + rollout.token_ids_T.tolist()])
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        wanted = logprobs.gather(1, ids[0, 1:, None]).squeeze(1)[len(prompt) - 1 :]
        assert torch.allclose(torch.from_numpy(rollout.logprobs_T), wanted, atol=1e-4)
