"""Tiny mixtures of experts with random weights, of the three families that transformers, vLLM and Aha all know."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, PretrainedConfig, Qwen3MoeConfig
from transformers.modeling_utils import PreTrainedModel

from recipes.tiny_model import make_tokenizer

EXPERTS = 8
SHAPE = {
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "num_experts_per_tok": 2, "bos_token_id": None, "initializer_range": 0.2,
    "tie_word_embeddings": False,
}  # fmt: skip


def config(family: str) -> PretrainedConfig:
    """family: qwen3_moe, olmoe or mixtral."""
    tokenizer = make_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if family == "qwen3_moe":
        own = {"num_experts": EXPERTS, "moe_intermediate_size": 32, "head_dim": 32, "norm_topk_prob": True}
        return Qwen3MoeConfig(**SHAPE, **ends, **own)  # type: ignore[arg-type]
    if family == "olmoe":
        return OlmoeConfig(**SHAPE, **ends, num_experts=EXPERTS, intermediate_size=32)  # type: ignore[arg-type]
    return MixtralConfig(**SHAPE, **ends, num_local_experts=EXPERTS, intermediate_size=32)  # type: ignore[arg-type]


FAMILIES = ("qwen3_moe", "olmoe", "mixtral")


def model(family: str, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config(family))


def write(family: str, folder: Path) -> Path:
    """The folder with the model as transformers saves it, and the tiny recipe's tokenizer."""
    model(family).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
