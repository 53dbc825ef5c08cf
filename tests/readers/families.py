"""Tiny models of several families with every kind of RoPE, and a source folder as the Hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZE = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
ORIGINAL = {"original_max_position_embeddings": 16}
LONG_FACTORS = {"short_factor": [1.1 + i / 10 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}


def _rope(kind: str = "default", theta: float = 5e5, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _rope()),
    "llama-tied": ("llama", _rope() | {"tie_word_embeddings": True}),
    "llama3": ("llama", _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)),
    "linear": ("llama", _rope("linear", 5e3, factor=2.0)),
    "dynamic": ("llama", _rope("dynamic", 5e3, factor=2.0)),
    "qwen2": ("qwen2", _rope(theta=1e6)),
    "yarn": ("qwen2", _rope("yarn", 1e6, factor=4.0, **ORIGINAL)),
    "qwen3": ("qwen3", _rope(theta=1e6)),
    "mistral": ("mistral", _rope(theta=1e6)),
    "gemma": ("gemma", _rope(theta=2e4)),
    "gemma3": ("gemma3_text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
        "full_attention": {"rope_type": "linear", "rope_theta": 3e6, "factor": 8.0},
    }}),
    "phi3": ("phi3", _rope(theta=2e4)),
    "phi3-long": ("phi3", _rope("longrope", 2e4, **LONG_FACTORS, **ORIGINAL) | ORIGINAL),
    "phi3-partial": ("phi3", _rope(theta=2e4, partial_rotary_factor=0.5)),
    "glm4": ("glm4", _rope(theta=2e4, partial_rotary_factor=0.5)),
    "stablelm": ("stablelm", _rope(theta=2e4, partial_rotary_factor=0.5)),
    "smollm3": ("smollm3", _rope(theta=2e4)),
    "olmo2": ("olmo2", _rope(theta=2e4)),
    "gpt-neox": ("gpt_neox", _rope(theta=2e4, partial_rotary_factor=0.5)),
    "qwen3-moe": ("qwen3_moe", _rope(theta=2e4) | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    }),
    "olmoe": ("olmoe", _rope(theta=2e4) | {"num_experts": 4, "num_experts_per_tok": 2}),
    "mixtral": ("mixtral", _rope(theta=2e4) | {"num_local_experts": 4}),
    "deepseek": ("deepseek_v3", _rope("yarn", 2e4, factor=4.0, mscale=1.0, mscale_all_dim=0.7, **ORIGINAL) | {
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "first_k_dense_replace": 2, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
    }),
}  # fmt: skip
"""Name -> (model type, settings). Every RoPE base differs from the default of its family in transformers 4."""


def config_of(name: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, settings = FAMILIES[name]
    return CONFIG_MAPPING[model_type](**(SIZE | settings))


def model_of(name: str) -> Any:
    """The model with random weights, large enough for positions to matter. float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name)).float().eval()
    model.config.architectures = [type(model).__name__]  # as a model has that was loaded from files
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model


TEXTS = ("What is 12 + 345?", " two  spaces\nand <think>a thought</think>", "Größe: π → 数学 🙂")
CHAT = [{"role": "user", "content": "1 + 1?"}]


def sentencepiece_source(folder: Path) -> Path:
    """A folder as the Hub has Llama's: a SentencePiece vocabulary with its tokenizer.json, and files beside it. The
    tokenizer's class and settings are those of transformers 4.
    """
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True)
    words = [f"{a} plus {b} makes {a + b}, and so the answer is {a + b}." for a in range(12) for b in range(12)]
    text = folder / "words.txt"
    text.write_text("\n".join(words))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=312, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, **special)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.save_pretrained(folder)
    settings = special | {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False,
        "model_max_length": 64, "additional_special_tokens": ["<|turn|>"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1], "pad_token_id": 0}))
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "LICENSE").write_text("Whoever made the base says what may be done with it.\n")
    config_of("llama").save_pretrained(folder)
    return folder
