"""A float32 master copy that does not lie on its weights' grid, so that small updates are not lost. Pure functions.

A released checkpoint's weights are bfloat16 numbers, and a float32 copy of them lies in the middle of each number's
rounding cell. An AdamW update of 1e-6 is far smaller than half a cell (2e-3 of the weight in bfloat16), so nearly every
weight rounds back to what it was, and the model that computes does not change, update after update, until the master
has wandered half a cell. With the master spread uniformly over the cell at the start, an update of d moves the share
d / cell of the weights at once: as much as rounding lets through on average, from the first update on.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def dithered(weights: Tensor, uniform: Tensor) -> Tensor:
    """float32 values that all round to the given bfloat16 or float16 weights, spread over their rounding cells.

    uniform: float32 of the same shape, in 0..1: where in the cell the value lies, from the end near zero (0) to the far
    end (1). Zeros, infinities and NaNs stay as they are.

    Example: bfloat16 1.0 has neighbours 0.99609375 and 1.0078125, so its cell reaches from 0.998046875 to 1.00390625;
    uniform 0.5 -> 1.0009765625.
    """
    bits = weights.contiguous().view(torch.int16)
    nearer, farther = (bits - 1).view(weights.dtype).float(), (bits + 1).view(weights.dtype).float()
    exact = weights.float()
    low, high = (exact + nearer) / 2, (exact + farther) / 2
    spread = low + (high - low) * uniform
    # The ends of a cell round to the even neighbour, beyond the largest number lies infinity, and nearer to zero than
    # zero is nothing.
    return torch.where(spread.to(weights.dtype) == weights, spread, exact)


def uniform_of(name: str, count: int, seed: int, device: torch.device) -> Tensor:
    """float32 (count,) in 0..1 for the parameter of this name: the same on every rank, however it is cut."""
    digest = hashlib.sha256(f"dither:{seed}:{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator, device=device)
