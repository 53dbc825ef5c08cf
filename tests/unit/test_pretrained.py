"""Models that the workers cannot use are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import DeepseekV3Config, Gemma3Config, LlamaConfig, Mistral3Config, PretrainedConfig, Qwen3_5Config

from rl.config import ModelConfig
from rl.model.pretrained import CPU_HEAD_SIZES, context_length, is_mixture, refuse_head_size
from rl.types import BadInput
from tests.unit import mixtures


def saved(folder: Path, **settings: int) -> str:
    LlamaConfig(vocab_size=8, hidden_size=96, num_hidden_layers=1, **settings).save_pretrained(folder)
    return str(folder)


def test_heads_that_a_cpu_sampler_cannot_decode_are_refused_with_their_size(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"heads have size 24.*32, 64"):
        refuse_head_size(saved(tmp_path, num_attention_heads=4))


@pytest.mark.parametrize("made_of_parts", [Gemma3Config, Mistral3Config, Qwen3_5Config])
def test_a_model_of_several_parts_has_the_context_of_its_text_part(made_of_parts: type[PretrainedConfig]) -> None:
    config = made_of_parts()
    own = config.get_text_config().max_position_embeddings
    assert context_length(ModelConfig(), config) == own > 1000
    assert context_length(ModelConfig(context_length=512), config) == 512
    with pytest.raises(BadInput, match=f"at most {own} tokens"):
        context_length(ModelConfig(context_length=own + 1), config)


def test_a_head_size_of_its_own_counts_before_the_quotient(tmp_path: Path) -> None:
    refuse_head_size(saved(tmp_path, num_attention_heads=4, head_dim=32))
    assert 96 // 4 not in CPU_HEAD_SIZES


def test_mixtures_of_experts_are_known_from_their_config() -> None:
    assert all(is_mixture(mixtures.config(family)) for family in mixtures.FAMILIES)
    assert is_mixture(DeepseekV3Config())
    assert not is_mixture(LlamaConfig())
    assert not is_mixture(Gemma3Config())
