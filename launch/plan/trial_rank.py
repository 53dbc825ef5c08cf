"""One rank of a trial (trial.py): the real learner on models of a few layers.

python -m launch.plan.trial_rank SPEC FOLDER PORT RANK

Rank 0 writes seconds.json into FOLDER: {layers: {micro-batches: seconds of a step}}.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from launch.plan.memory import LearnerShape
from launch.plan.model import Architecture
from launch.plan.trial import LAYERS, MICRO_BATCHES, TrialSpec
from rl.backend import Task
from rl.config import GRPOConfig, LearnerConfig, LoraConfig, ModelConfig, OptimConfig, RunConfig
from rl.data.packing import pack
from rl.types import PackedBatch, Prompt, Rollout, RolloutGroup, ScoredGroup
from rl.workers.learner.learner import Learner

STEPS = 3
"""Steps that are timed, after one that is not; their median counts."""


def main() -> None:
    spec = _parse(sys.argv[1])
    folder, port, rank = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    cfg = config_of(spec)
    learner = Learner(cfg, rank, "cpu", spec.threads)
    learner.connect("127.0.0.1", port)
    found: dict[int, dict[int, float]] = {}
    for layers in LAYERS:
        path = folder / str(layers)
        if rank == 0:
            write_model(replace(spec.arch, layers=layers), path)
        dist.barrier()
        learner.load(Task(str(path), OptimConfig(lr=1e-6), 100, cfg.grpo))
        found[layers] = {count: _step_seconds(learner, spec, cfg, rank, count) for count in MICRO_BATCHES}
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(found))
    dist.barrier()


def _step_seconds(learner: Learner, spec: TrialSpec, cfg: RunConfig, rank: int, micro_batches: int) -> float:
    seconds = []
    for seed in range(STEPS + 1):
        batches = batches_of(spec, cfg, micro_batches, seed)
        dist.barrier()
        begin = time.perf_counter()
        learner.step([batch.micro_batches_R[rank] for batch in batches])
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def _parse(text: str) -> TrialSpec:
    fields = json.loads(text)
    return TrialSpec(**fields | {"arch": Architecture(**fields["arch"]), "shape": LearnerShape(**fields["shape"])})


def config_of(spec: TrialSpec) -> RunConfig:
    shape = spec.shape
    return RunConfig(
        model=ModelConfig(dtype=shape.dtype, lora=LoraConfig(rank=shape.lora)),
        grpo=GRPOConfig(kl_coef=0.001 if shape.reference else 0.0, max_logprob_gap=1000.0, importance="none"),
        learner=LearnerConfig(
            ranks=shape.ranks, zero_stage=shape.zero_stage, micro_batch_tokens=max(8, spec.tokens), layout="rows",
            logprob_chunk_tokens=shape.chunk, gradient_checkpointing=shape.checkpointing,
        ),
    )  # fmt: skip


def batches_of(spec: TrialSpec, cfg: RunConfig, micro_batches: int, seed: int) -> list[PackedBatch]:
    """Rollouts that fill exactly so many micro-batches of every rank."""
    groups = random_groups(
        spec.rows * micro_batches * spec.shape.ranks, 1, spec.prompt, spec.completion, spec.arch.vocab, seed
    )
    return pack(groups, grpo=cfg.grpo, learner=cfg.learner, max_new_tokens=spec.completion, layout="rows", seed=0)


def random_groups(groups: int, size: int, prompt: int, completion: int, vocab: int, seed: int) -> list[ScoredGroup]:
    """Groups of `size` rollouts with random tokens, in which all prompts and all completions are equally long.

    So every micro-batch is full, and steps do not differ by chance.
    """
    rng = np.random.default_rng(seed)
    logprobs = np.full(completion, -math.log(vocab), np.float32)
    made = []
    for p in range(groups):
        asked = Prompt(p, p, rng.integers(0, vocab, prompt).tolist(), "", "", {})
        samples = [
            Rollout(rng.integers(0, vocab, completion).astype(np.int32), logprobs, "", "stop", 1.0, 0, 0)
            for _ in range(size)
        ]
        advantages = rng.normal(size=size).tolist()
        group = RolloutGroup(asked, samples)
        made.append(ScoredGroup(group, [0.0] * size, [{}] * size, advantages, [True] * size, False))
    return made


def write_model(arch: Architecture, folder: Path) -> None:
    """A Llama of these shapes with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=arch.vocab, hidden_size=arch.hidden, intermediate_size=arch.intermediate,
        num_hidden_layers=arch.layers, num_attention_heads=arch.heads, num_key_value_heads=arch.kv_heads,
        head_dim=arch.head_dim, max_position_embeddings=max(arch.context, 4096), tie_word_embeddings=arch.tied,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
