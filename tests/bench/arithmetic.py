"""How much arithmetic a GRPO update needs, and how fast this machine multiplies matrices of the model's shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoConfig

from rl.settings.precision import torch_dtype
from rl.types import MicroBatch, PackedBatch


@dataclass(frozen=True)
class Sizes:
    """A decoder's sizes: hidden, all query heads, all key-value heads, the MLP's inner one, layers, vocabulary."""

    hidden: int
    queries: int
    keys: int
    inner: int
    layers: int
    vocabulary: int

    @staticmethod
    def of(model: str) -> Sizes:
        c = AutoConfig.from_pretrained(model)
        head = c.to_dict().get("head_dim") or c.hidden_size // c.num_attention_heads
        return Sizes(
            c.hidden_size, head * c.num_attention_heads, head * c.num_key_value_heads, c.intermediate_size,
            c.num_hidden_layers, c.vocab_size,
        )  # fmt: skip

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's linear parts."""
        d, q, k, i = self.hidden, self.queries, self.keys, self.inner
        return [(d, q), (d, k), (d, k), (q, d), (d, i), (d, i), (i, d)]


def computed(mb: MicroBatch) -> tuple[np.ndarray, int]:
    """(the positions of the tokens that a micro-batch computes, padding left out; its learnt tokens)."""
    positions_T = mb.positions_T
    if mb.shared_S is not None:
        positions_T = positions_T[positions_T >= np.repeat(mb.shared_S, mb.lengths_S)]
    return positions_T, int(mb.loss_mask_T.sum())


def needed_flops(sizes: Sizes, updates_U: Sequence[PackedBatch]) -> float:
    """Operations of forward and backward (three times forward) that these updates need, of products and attention.

    Nothing is padded and nothing computed again; a prompt counts as often as the packing computes it.
    """
    flops = 0.0
    for mb in (mb for update in updates_U for rank in update.micro_batches_R for mb in rank):
        positions_N, learnt = computed(mb)
        layer = 2.0 * sum(a * b for a, b in sizes.matrices) * len(positions_N)
        layer += 4.0 * sizes.queries * float((positions_N + 1).sum())
        flops += 3.0 * (sizes.layers * layer + 2.0 * sizes.hidden * sizes.vocabulary * learnt)
    return flops


def peak_flops(sizes: Sizes, dtype: str, tokens: int, seconds: float = 0.3) -> float:
    """The best rate, operations a second, of a product of a layer's shapes: forward, and both of backward."""
    best, kind = 0.0, torch_dtype(dtype)
    for inputs, outputs in sorted(set(sizes.matrices)):
        x, w, g = (torch.randn(*s, dtype=kind) for s in ((tokens, inputs), (outputs, inputs), (tokens, outputs)))
        for a, b in ((x, w.T), (g, w), (g.T, x)):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                torch.mm(a, b)
                best = max(best, 2.0 * tokens * inputs * outputs / (time.perf_counter() - start))
    return best
