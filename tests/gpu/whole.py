"""vLLM on the card, and a whole run with Ray, vLLM and DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rl.backend import SampleParams
from rl.config import LearnerConfig, ModelConfig, RunConfig, SamplerConfig
from rl.model.policy import ModelInput, load_policy
from rl.types import Rollout, SampleRequest
from rl.workers.sampler.sampler import Sampler
from rl.workers.sync.buckets import PolicySource, SamplerConnection
from rl.workers.sync.send import WeightSender
from tests.gpu.kernels import use_this_torch
from tests.gpu.models import batch_of, random_model
from tests.gpu.report import Figures, Skipped, require
from tests.unit.conftest import byte_tokenizer

PROMPT = [5, 6, 7, 8]
VOCAB = 32_000


class Direct:
    """Calls one sampler in this process, as learners call it through Ray."""

    def __init__(self, sampler: Sampler) -> None:
        self.init_weight_transfer_engine = sampler.init_weight_transfer_engine
        self.start_weight_update = sampler.start_weight_update
        self.update_weights = sampler.update_weights
        self.finish_weight_update = sampler.finish_weight_update


def needs(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")


def sampler(device: str) -> Figures:
    """vLLM gets the weights undamaged in buckets, and its logprobs are the learner's; its speed with and without seeds."""
    needs("vllm")
    on_card = device == "cuda"
    groups, tokens = (64, 128) if on_card else (2, 8)
    dtype = "bfloat16" if on_card else "float32"
    figures: Figures = {"grouped heads": use_this_torch()}
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if not on_card:
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    settings = SamplerConfig(gpu_memory_share=0.3, max_sequences=256)
    cfg = replace(RunConfig(), model=ModelConfig(dtype=dtype), sampler=settings)
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden": 1024, "layers": 12, "heads": 16} if on_card else {"layers": 2, "heads": 4}
        path = random_model(Path(folder) / "model", vocab=VOCAB, **shape)
        byte_tokenizer().save_pretrained(path)
        learner = LearnerConfig(layout="packed" if on_card else "rows")
        policy = load_policy(path, learner, torch.device(device), dtype=getattr(torch, dtype))
        made = Sampler(cfg, 0, path, 512, "gpu" if on_card else "cpu", "bucket")
        weights = dict(policy.hf.named_parameters())
        shapes = [(name, tuple(p.shape)) for name, p in weights.items()]
        tied = {} if on_card else policy.tied_names()
        source = PolicySource(shapes, lambda: iter(weights.items()), getattr(torch, dtype), tied)
        sent = WeightSender(SamplerConnection("bucket", Direct(made), "", 0, 1, 8 << 20), 0, source).send(source, 1)
        require(made.adopt_version(1) == (sent.checksum, sent.num_tensors), "the weights arrived damaged")
        rates = {}
        for seeded in (True, False, True, False):  # the first of each warms up
            made.cfg = replace(cfg, sampler=replace(settings, seeded=seeded))
            start = time.perf_counter()
            rollouts = drawn(made, groups, tokens)
            rates[seeded] = sum(len(r.token_ids_T) for r in rollouts) / (time.perf_counter() - start)
        gap = largest_gap(policy, rollouts[0], device)
    require(gap < (0.2 if on_card else 1e-3), f"vLLM's logprobs are off by up to {gap:.2e} nats")
    return figures | {
        "largest gap of a sample, nats": gap, "tokens/s with seeds": rates[True], "tokens/s without": rates[False]
    }  # fmt: skip


def drawn(made: Sampler, groups: int, tokens: int) -> list[Rollout]:
    """Four samples of each group."""
    params = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=tokens, stop=(), stop_token_ids=())
    requests = [SampleRequest(i, PROMPT, [4 * i + k for k in range(4)]) for i in range(groups)]
    finished = made.sample(requests, params).finished
    while len(finished) < groups:
        finished |= made.poll().finished
    return [rollout for i in range(groups) for rollout in finished[i]]


@torch.no_grad()
def largest_gap(policy, rollout: Rollout, device: str) -> float:  # type: ignore[no-untyped-def]
    """The largest difference between vLLM's logprobs of a sample and the learner's."""
    ids = np.concatenate([PROMPT, rollout.token_ids_T])
    batch = batch_of([len(ids)])
    mask = (np.arange(len(ids)) >= len(PROMPT)).astype(np.float32)
    batch = replace(batch, token_ids_T=ids, loss_mask_T=mask)
    logprobs, _ = policy(ModelInput.of(batch, torch.device(device)))
    return float((logprobs.cpu() - torch.from_numpy(rollout.logprobs_T)).abs().max())


def tiny_recipe(device: str) -> Figures:
    """recipes/tiny.py runs on the card, which learner and sampler share: SFT, syncs, sampling, GRPO, checkpoints."""
    needs("ray", "vllm", "deepspeed")
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"out={folder}", "grpo.steps=2", "sft.steps=20", "evaluation.data.limit=8"]
        settings += ["model.dtype=bfloat16", "cluster.device=gpu"] if device == "cuda" else []
        start = time.monotonic()
        command = [sys.executable, "-m", "launch.cli", "run", "recipes/tiny.py", *settings]
        done = subprocess.run(command, capture_output=True, text=True)
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        require(done.returncode == 0, f"aha run ended with {done.returncode}: {' '.join(last)}")
        rows = [json.loads(line) for line in (Path(folder) / "tiny" / "metrics.jsonl").read_text().splitlines()]
    gaps = [gap for row in rows if (gap := row.get("gap/mean")) is not None]  # a step of SFT has none
    require(bool(gaps), "the run logged no gap between sampler and learner")
    return {"seconds": time.monotonic() - start, "steps with a gap": len(gaps), "largest mean gap, nats": max(gaps)}
