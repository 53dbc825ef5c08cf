"""Sequence parallelism (Ulysses, 2309.14509): which tokens of a micro-batch are whose. numpy only.

learner.sequence_parallel neighbouring ranks get the same micro-batches. Each runs the model on one slice of the tokens;
only in attention they trade slices of the sequence for heads (rl/workers/learner/ulysses.py), so that every head sees
whole sequences. A rank's loss is that of the tokens which its slice predicts. The losses of a group add up to one
rank's, and so do the gradients: nothing is counted twice, and nothing else in the learner has to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl.types import BadInput


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's place in its group of `size` ranks; size 1 is all of a micro-batch."""

    rank: int = 0
    size: int = 1

    def padding(self, tokens: int) -> int:
        """Tokens to add, as a sequence of their own, until all slices are equal: 7 tokens, size 2 -> 1."""
        return -tokens % self.size

    def bounds(self, tokens: int) -> tuple[int, int]:
        """Start and stop of the slice, of the tokens with their padding: 8 tokens, size 2, rank 1 -> (4, 8)."""
        share = tokens // self.size
        return self.rank * share, (self.rank + 1) * share

    def learnt(self, index_M: np.ndarray, tokens: int) -> np.ndarray:
        """Those masked-in tokens that this slice predicts: the token after the slice is one, its first is not.

        8 tokens, size 2, masked in 2, 4, 5 -> rank 0 has 2 and 4, rank 1 has 5.
        """
        start, stop = self.bounds(tokens)
        kept: np.ndarray = index_M[(index_M > start) & (index_M <= stop)]
        return kept


WHOLE = Share()


def check_heads(heads: int, kv_heads: int, size: int) -> None:
    """Raise BadInput when the ranks of a group cannot have equal numbers of heads."""
    if heads % size or kv_heads % size:
        raise BadInput(
            f"learner.sequence_parallel={size}: the model's {heads} attention heads and {kv_heads} key-value heads do "
            "not divide by it; use a divisor of both"
        )
