"""Attention of learners that share their sequences: DeepSpeed's Ulysses around the packed attention."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from deepspeed.sequence.layer import DistributedAttention
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from rl.model.attention import SEQUENCE_ATTENTION, packed_attention, refuse_other_attention
from rl.model.sequence_parallel import Share

SEQUENCE, HEADS = 1, 2
"""Dimensions of (1, T, heads, d), the shape that travels."""


def join_sequence_group(size: int, timeout_s: float) -> Share:
    """Group every `size` neighbouring ranks and make SEQUENCE_ATTENTION their attention. Called on every rank.

    DeepSpeed is not told of the groups: it shards and averages over all ranks, as without them, and the learner's
    factor for that average is the number of all ranks. Told, it would average over the groups alone.
    """
    rank, group = dist.get_rank(), None
    for start in range(0, dist.get_world_size(), size):
        made = dist.new_group(list(range(start, start + size)), timeout=timedelta(seconds=timeout_s))
        if start <= rank < start + size:
            group = made

    def whole(query: Tensor, key: Tensor, value: Tensor, module: nn.Module, kwargs: dict[str, object]) -> Tensor:
        """All tokens with this rank's heads: (1, T, heads / size, d) each, and so the result."""
        q, k, v = (x.transpose(SEQUENCE, HEADS) for x in (query, key, value))
        return packed_attention(module, q, k, v, None, **kwargs)[0]

    ulysses = DistributedAttention(whole, group, scatter_idx=HEADS, gather_idx=SEQUENCE)

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
    ) -> tuple[Tensor, None]:
        """As packed_attention, of this rank's tokens alone: (1, heads, T / size, d) -> (1, T / size, heads, d)."""
        refuse_other_attention(module, attention_mask, kwargs)
        slices = (x.transpose(SEQUENCE, HEADS) for x in (query, key, value))
        return ulysses(*slices, 0, None, module, kwargs), None

    AttentionInterface.register(SEQUENCE_ATTENTION, attention)
    return Share(rank % size, size)
