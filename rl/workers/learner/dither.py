"""Float32 master copies that are dithered, so that small updates of bfloat16 weights are not lost. Pure functions.

The weights of a released checkpoint are bfloat16 numbers, so their float32 copies lie in the middle of each number's
rounding cell. An AdamW update of 1e-6 is far smaller than half a cell (2e-3 of the weight in bfloat16). Nearly every
weight therefore rounds back to what it was, and the model that computes does not change, update after update, until
the masters have moved half a cell. If the masters start spread uniformly over their cells, an update of size d changes
the share d / cell of the weights: from the first update on, as much as rounding lets through on average.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def dithered(weights: Tensor, uniform: Tensor) -> Tensor:
    """Float32 values that round to the given bfloat16 or float16 weights, spread over their rounding cells.

    uniform: float32 of the same shape, the place in the cell from the end nearer to zero (0) to the far end (1). Zeros,
    infinities and NaNs stay as they are.

    Example: bfloat16 1.0 has neighbours 0.99609375 and 1.0078125, so its cell reaches from 0.998046875 to 1.00390625;
    uniform 0.5 -> 1.0009765625.
    """
    bits = weights.contiguous().view(torch.int16)
    nearer, farther = (bits - 1).view(weights.dtype).float(), (bits + 1).view(weights.dtype).float()
    exact = weights.float()
    low, high = (exact + nearer) / 2, (exact + farther) / 2
    spread = low + (high - low) * uniform
    # Some values round to a neighbour all the same: the very end of a cell may, and zero and the largest number have a
    # neighbour on one side only. Those weights keep their exact value.
    return torch.where(spread.to(weights.dtype) == weights, spread, exact)


def uniform_of(name: str, count: int, seed: int, device: torch.device) -> Tensor:
    """float32 (count,) in 0..1 for the parameter of this name, the same on every rank."""
    digest = hashlib.sha256(f"dither:{seed}:{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator, device=device)
