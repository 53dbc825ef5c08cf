"""Checks of whole models on a device: a small random policy in every layout, a reward model, memory and speed."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from launch.plan.hardware import find_hardware
from launch.plan.memory import LearnerShape, learner_memory
from launch.plan.model import read_config
from rl.config import LearnerConfig, LoraConfig, RewardConfig, RewardModelConfig
from rl.model.policy import ModelInput, Policy, load_policy
from rl.scoring.reward_model import RewardModel
from rl.types import MicroBatch, Prompt, Rollout, RolloutGroup
from tests.gpu.kernels import synchronize, use_this_torch
from tests.gpu.report import Figures, require


def random_model(folder: Path, *, hidden: int = 256, layers: int = 4, heads: int = 8, kv_heads: int = 2,
                 vocab: int = 2_000, dtype: torch.dtype = torch.float32) -> str:  # fmt: skip
    """A Llama with random weights, as a folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=4096,
        tie_word_embeddings=True, dtype=dtype,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return str(folder)


def batch_of(lengths: list[int], vocab: int = 2_000) -> MicroBatch:
    """Sequences of random tokens, of which the second half is learnt."""
    rng = np.random.default_rng(0)
    count = sum(lengths)
    mask = np.concatenate([np.arange(n) >= max(1, n // 2) for n in lengths]).astype(np.float32)
    return MicroBatch(
        token_ids_T=rng.integers(0, vocab, count),
        positions_T=np.concatenate([np.arange(n) for n in lengths]),
        lengths_S=np.asarray(lengths),
        completion_lengths_S=np.asarray([n - max(1, n // 2) for n in lengths]),
        loss_mask_T=mask,
        loss_weight_T=mask / mask.sum(),
        advantages_T=mask,
        labels_T=np.zeros(count, np.float32),
        sampler_logprobs_T=np.zeros(count, np.float32),
        temperature_T=np.ones(count, np.float32),
    )


# ------------------------------------------------------------------------------------------------ 5 layouts


def run(policy: Policy, batch: MicroBatch, device: str) -> tuple[Tensor, float]:
    """(logprobs, norm of the gradient) of one batch."""
    policy.zero_grad()
    logprobs, _ = policy(ModelInput.of(batch, torch.device(device)))
    logprobs.mean().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    return logprobs.detach().float().cpu(), float(norm)


def layouts(device: str) -> Figures:
    """A small model gives the same logprobs and gradients packed, in rows, on a CPU, recomputed, and with adapters."""
    figures: Figures = {"grouped heads": use_this_torch()}
    batch = batch_of([40, 3, 129, 2, 64])
    with tempfile.TemporaryDirectory() as folder:
        path = random_model(Path(folder) / "model")
        plain = LearnerConfig(layout="rows", logprob_chunk_tokens=50)
        want, norm = run(load_policy(path, plain, torch.device("cpu"), dtype=torch.float32), batch, "cpu")
        for dtype, bound in ((torch.float32, 2e-4), (torch.bfloat16, 0.1)):
            for layout in ("rows", "packed"):
                for recomputed in (False, True):
                    for lora in (0, 8):
                        learner = replace(plain, layout=layout, gradient_checkpointing=recomputed)
                        policy = load_policy(
                            path, learner, torch.device(device), dtype=dtype, lora=LoraConfig(rank=lora)
                        )
                        found, its_norm = run(policy, batch, device)
                        name = f"{str(dtype).removeprefix('torch.')}, {layout}"
                        name += (", recomputed" if recomputed else "") + (", adapters" if lora else "")
                        worst = float((found - want).abs().max())
                        figures[f"{name}: largest difference in logprob, nats"] = worst
                        require(worst < bound, f"{name}: logprobs are off by {worst:.2e} nats, above {bound:g}")
                        off = abs(its_norm / norm - 1)
                        require(lora > 0 or off < bound, f"{name}: the gradient's norm is off by {off:.1%}")
    return figures


# ------------------------------------------------------------------------------------------------ 9 reward model


def reward_model(device: str) -> Figures:
    """A reward model scores on the device as on a CPU."""
    from tests.unit.classifiers import llama_classifier

    prompt = Prompt(0, 0, [1], "how many?", "", {})
    texts = ["three of them", "no", "a long answer that says little", ""]
    rollouts = [Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), t, "stop", 1.0, 0, 0) for t in texts]
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        path = llama_classifier(Path(folder) / "model")
        for where in {"cpu", "gpu" if device == "cuda" else "cpu"}:
            reward = RewardConfig(f"model:{path}", model=RewardModelConfig(device=where, dtype="float32"))
            report = RewardModel("judge", reward, where, 2).score(RolloutGroup(prompt, rollouts))
            scores[where] = [part["judge"].score for part in report.parts_G]
    worst = max(abs(a - b) for a, b in zip(scores["cpu"], scores.get("gpu", scores["cpu"]), strict=True))
    require(len(set(scores["cpu"])) > 1, "the reward model gives every answer the same score")
    require(worst < 1e-3, f"scores differ by {worst:.2e}")
    return {"largest difference": worst}


# ------------------------------------------------------------------------------------------------ 10 speed, memory


def speed(device: str) -> Figures:
    """An update of a model of a billion random weights: its share of the measured peak, and its memory beside `plan`'s.

    Without DeepSpeed: forward, backward and AdamW on bfloat16 weights.
    """
    on_card = device == "cuda"
    figures: Figures = {"grouped heads": use_this_torch()}
    shape = {"hidden": 2048, "layers": 16, "heads": 16, "kv_heads": 4, "vocab": 32_000} if on_card else {}
    lengths = [1024] * 8 if on_card else [64] * 4
    learner = LearnerConfig(layout="packed" if on_card else "rows", logprob_chunk_tokens=1024)
    with tempfile.TemporaryDirectory() as folder:
        path = random_model(Path(folder) / "model", dtype=torch.bfloat16, **shape)
        policy = load_policy(path, learner, torch.device(device), dtype=torch.bfloat16)
        arch = read_config(Path(path))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    batch = ModelInput.of(batch_of(lengths, arch.vocab), torch.device(device))

    def update() -> None:
        optimizer.zero_grad()
        policy(batch)[0].mean().backward()
        optimizer.step()

    for _ in range(2):
        update()
    optimizer.zero_grad()
    synchronize(device)
    before = torch.cuda.memory_allocated() if on_card else 0
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    policy(batch)[0].mean().backward()
    if on_card:
        figures["peak of forward and backward, GiB"] = (torch.cuda.max_memory_allocated() - before) / 2**30
    tokens = sum(lengths)
    planned = LearnerShape("bfloat16", 1, 1, tokens, tokens // 2, 1024, False, False, packed=True)
    memory = learner_memory(arch, planned, find_hardware("H100-80G", nodes=1, gpus_per_node=1))
    terms = {term.name: term.num_bytes for term in memory.terms}
    said = sum(terms.get(name, 0.0) for name in ("activations", "logits chunk", "weights' gradients"))
    figures["the same by plan for a card, GiB"] = said / 2**30
    start = time.perf_counter()
    for _ in range(3):
        update()
    synchronize(device)
    seconds = (time.perf_counter() - start) / 3
    operations = 6.0 * arch.parameters * sum(lengths)
    peak = matmul_rate(device)
    figures |= {
        "parameters": arch.parameters, "tokens/s": sum(lengths) / seconds, "measured peak, TFLOP/s": peak / 1e12,
        "share of the peak": operations / seconds / peak,
    }  # fmt: skip
    return figures


def matmul_rate(device: str) -> float:
    """FLOP/s of a large product in bfloat16."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    synchronize(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    synchronize(device)
    return 10 * 2.0 * size**3 / (time.perf_counter() - start)
