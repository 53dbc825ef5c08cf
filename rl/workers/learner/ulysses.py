"""Attention across learner ranks that share their sequences: DeepSpeed's Ulysses around our packed attention."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from deepspeed.sequence.layer import DistributedAttention
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from rl.model.attention import SEQUENCE_ATTENTION, packed_attention, refuse_other_attention
from rl.model.sequence_parallel import Share

SEQUENCE, HEADS = 1, 2
"""Dimensions of (1, T, heads, d), the shape that the ranks exchange."""


def join_sequence_group(size: int, timeout_s: float) -> Share:
    """Group every `size` neighbouring ranks and register SEQUENCE_ATTENTION for them. Call it on every rank.

    DeepSpeed's engine does not know the groups: it shards and averages over all ranks, which is what the learner's
    factor (the number of all ranks) undoes. If it knew them it would average over each group alone.
    """
    rank, group = dist.get_rank(), None
    for start in range(0, dist.get_world_size(), size):
        made = dist.new_group(list(range(start, start + size)), timeout=timedelta(seconds=timeout_s))
        if start <= rank < start + size:
            group = made

    def whole(query: Tensor, key: Tensor, value: Tensor, module: nn.Module, kwargs: dict[str, object]) -> Tensor:
        """Attention of all tokens for this rank's heads. Arguments and result: (1, T, heads / size, d)."""
        q, k, v = (x.transpose(SEQUENCE, HEADS) for x in (query, key, value))
        return packed_attention(module, q, k, v, None, **kwargs)[0]

    ulysses = DistributedAttention(whole, group, scatter_idx=HEADS, gather_idx=SEQUENCE)

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
    ) -> tuple[Tensor, None]:
        """packed_attention for this rank's tokens: (1, heads, T / size, d) -> (1, T / size, heads, d)."""
        refuse_other_attention(module, attention_mask, kwargs)
        slices = (x.transpose(SEQUENCE, HEADS) for x in (query, key, value))
        return ulysses(*slices, 0, None, module, kwargs), None

    AttentionInterface.register(SEQUENCE_ATTENTION, attention)
    return Share(rank % size, size)
