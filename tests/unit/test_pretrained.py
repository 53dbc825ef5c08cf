"""Models that the workers cannot use are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

from rl.pretrained import CPU_HEAD_SIZES, refuse_head_size
from rl.types import BadInput


def saved(folder: Path, **settings: int) -> str:
    LlamaConfig(vocab_size=8, hidden_size=96, num_hidden_layers=1, **settings).save_pretrained(folder)
    return str(folder)


def test_heads_that_a_cpu_sampler_cannot_decode_are_refused_with_their_size(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"heads have 24 values.*32, 64"):
        refuse_head_size(saved(tmp_path, num_attention_heads=4))


def test_a_head_size_of_its_own_counts_before_the_quotient(tmp_path: Path) -> None:
    refuse_head_size(saved(tmp_path, num_attention_heads=4, head_dim=32))
    assert 96 // 4 not in CPU_HEAD_SIZES
