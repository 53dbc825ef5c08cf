"""The memory that a machine with GPUs needs beside them: to load the model, and for what is kept there."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.hardware import GIB, Hardware
from launch.plan.memory import LearnerShape
from launch.plan.model import Architecture

PROCESS_GIB = 3.0
"""What a learner or a sampler holds in host memory with its libraries and CUDA's context."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the fullest machine at its peak. note: what they are made of."""

    num_bytes: float
    note: str


def host_memory(
    arch: Architecture, shape: LearnerShape, hw: Hardware, *, samplers: int, sleeping: float = 0.0
) -> HostMemory:
    """samplers: how many GPUs sample, all samplers together. sleeping: bytes of weights that a sleeping sampler has
    moved to the host from each of its GPUs.

    Up to ZeRO-2 every rank reads the whole model in float32 into host memory before it goes to the GPU. Under ZeRO-3
    rank 0 reads one tensor at a time, at most three times as large as the largest (rl/workers/learner). An offloaded
    optimiser keeps a float32 copy of what is trained, its gradients and its two moments there, shared among the ranks.
    """
    ranks = min(shape.ranks, hw.devices_per_node)
    processes = min(shape.ranks + samplers, hw.devices_per_node)
    if shape.zero_stage == 3:
        loading, what = 12.0 * arch.largest_tensor, "one float32 tensor at a time"
    else:
        loading, what = 4.0 * arch.parameters * ranks, f"the float32 model of each of {ranks} ranks; ZeRO-3 reads less"
    trained = arch.adapter_parameters(shape.lora) if shape.lora else arch.parameters
    kept = 16.0 * trained * ranks / shape.ranks if shape.offload else 0.0
    asleep = sleeping * min(samplers, hw.devices_per_node)
    note = f"while loading: {what}" if loading >= kept else "the optimiser, while training"
    note += "; weights of sleeping samplers" if asleep else ""
    return HostMemory(max(loading, kept) + asleep + processes * PROCESS_GIB * GIB, note)
