"""Sequence parallelism (Ulysses, 2309.14509): which rank computes which tokens of a micro-batch.

learner.sequence_parallel neighbouring ranks get the same micro-batches. Each runs the model on one slice of the tokens.
Only in attention they exchange slices of the sequence for heads (rl/workers/learner/ulysses.py), so that every head
sees whole sequences. A rank's loss is that of the tokens that its slice predicts. The losses of the group's ranks add
up to the loss that one rank alone would have, and so do the gradients; the rest of the learner need not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl.types import BadInput


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's place in its group of `size` ranks. With size 1 its slice is the whole micro-batch."""

    rank: int = 0
    size: int = 1

    def padding(self, tokens: int) -> int:
        """How many tokens to add, as a sequence of their own, so that all slices are equal: 7 tokens, size 2 -> 1."""
        return -tokens % self.size

    def bounds(self, tokens: int) -> tuple[int, int]:
        """Start and stop of the slice; tokens counts the padding too. 8 tokens, size 2, rank 1 -> (4, 8)."""
        share = tokens // self.size
        return self.rank * share, (self.rank + 1) * share

    def learnt(self, index_M: np.ndarray, tokens: int) -> np.ndarray:
        """The masked-in tokens that this slice predicts: those after its first one, and the one that follows it.

        8 tokens, size 2, masked in 2, 4, 5 -> rank 0 has 2 and 4, rank 1 has 5.
        """
        start, stop = self.bounds(tokens)
        kept: np.ndarray = index_M[(index_M > start) & (index_M <= stop)]
        return kept


WHOLE = Share()


def check_heads(heads: int, kv_heads: int, size: int) -> None:
    """Raise BadInput unless each rank of a group gets equally many heads."""
    if heads % size or kv_heads % size:
        raise BadInput(
            f"learner.sequence_parallel={size}: must divide the model's {heads} attention heads and {kv_heads} "
            "key-value heads; use a divisor of both"
        )
