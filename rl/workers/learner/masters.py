"""Small updates of half-precision weights: dithered float32 master copies, and the share of weights that change."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
from torch import nn

from rl.workers.learner.deepspeed_engine import full_shape, shard
from rl.workers.learner.dither import dithered, uniform_of

MOST_SAMPLED = 1 << 22
"""The most weights of a rank that WeightsMoved compares after an update."""

FEWEST_COMPARED = 64
"""A tensor of which fewer are compared may stay as it is in half precision."""


@torch.no_grad()
def dither_masters(parameters: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    """Dither the float32 master copy of every trained weight (rl/workers/learner/dither.py), not the weight itself.

    parameters: (Hugging Face name, parameter). A master's value depends only on the name, the seed and the weight, not
    on the number of ranks or the ZeRO stage: each rank draws the numbers for a whole parameter and uses its part.
    """
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        weights = shard(parameter)
        size = math.prod(full_shape(parameter))
        uniform = uniform_of(name, size, seed, weights.device)
        if weights.numel() == size:
            safe_set_full_fp32_param(parameter, dithered(weights, uniform.view_as(weights)))
        else:
            start = dist.get_rank() * weights.numel()
            part = torch.zeros_like(weights, dtype=torch.float32)  # the last rank's part is padded with zeros
            own = uniform[start : start + weights.numel()]
            part.view(-1)[: own.numel()] = own
            safe_set_local_fp32_param(parameter, dithered(weights, part))


class WeightsMoved:
    """The share of this rank's trained weights that have changed since this object was made, and where none has.

    parameters: (name, parameter). Of at most MOST_SAMPLED weights, evenly spaced over all trained ones. A share above
    0.1 is then known to within 1e-3 of itself.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        named = list(parameters)
        trained = [(name, shard(p).detach().view(-1)) for name, p in named if p.requires_grad]
        adapters = any(".lora_" in name for name, _ in named)  # then the rest is frozen on purpose
        self._frozen = [] if adapters else [name for name, p in named if not p.requires_grad]
        self._names, self._parts = [name for name, _ in trained], [part for _, part in trained]
        self._stride = max(1, sum(part.numel() for part in self._parts) // MOST_SAMPLED)
        self._before = [part[:: self._stride].clone() for part in self._parts]

    def share(self) -> float:
        """Between 0 and 1."""
        self._changed = [
            int((before != part[:: self._stride]).sum()) for before, part in zip(self._before, self._parts, strict=True)
        ]
        return sum(self._changed) / max(1, sum(part.numel() for part in self._before))

    def still(self) -> tuple[str, ...]:
        """Names of the frozen tensors, and of those in which share() found none of FEWEST_COMPARED weights changed.

        An adapter's A is left out, which has no gradient while B is zero, and what stands still under adapters.
        """
        found = zip(self._names, self._changed, self._before, strict=True)
        unmoved = [n for n, k, part in found if not k and len(part) >= FEWEST_COMPARED and ".lora_A." not in n]
        return (*self._frozen, *unmoved)
