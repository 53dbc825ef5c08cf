"""What the plan counts on: gradient checkpointing recomputes the layers in backward."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rl.config import LearnerConfig
from rl.model.policy import load_policy


def forwards_of_a_layer(folder: str, *, checkpointing: bool) -> int:
    """How often the first layer runs in one forward and backward."""
    policy = load_policy(
        folder, LearnerConfig(gradient_checkpointing=checkpointing), torch.device("cpu"), dtype=torch.float32
    )
    ran = []
    backbone = policy.hf.base_model
    backbone.layers[0].mlp.register_forward_pre_hook(lambda module, args: ran.append(1))
    backbone(input_ids=torch.arange(8)[None], use_cache=False).last_hidden_state.sum().backward()
    return len(ran)


def test_a_layer_runs_again_in_backward_when_asked_to(tmp_path):
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert forwards_of_a_layer(str(tmp_path), checkpointing=False) == 1
    assert forwards_of_a_layer(str(tmp_path), checkpointing=True) == 2
