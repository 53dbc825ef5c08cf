"""How many seconds a step takes, by phase: from the rates in gpus.toml, or from a trial on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.hardware import Hardware
from launch.plan.memory import LearnerShape, layer_bytes_per_token
from launch.plan.model import Architecture
from launch.plan.trial import Trial

ACTIVATION_PASSES = 6.0
"""On a CPU: how often what a layer keeps of a token goes through memory (written and read forward, both backward)."""
LOGIT_PASSES = 10.0
"""The same for a row of logits: maximum, shift, exp, sum, entropy forward; softmax and its gradient backward."""
ADAM_BYTES = 36.0
"""A parameter's update in float32: norm and clipping of its gradient, AdamW's reads and writes."""


@dataclass(frozen=True)
class Passes:
    """What a step computes. tokens: of all ranks, padding included. scored: the tokens that the head sees.

    forwards: passes without gradients (reference, old logprobs). updates: of the optimiser. micro_batches: of one rank.
    """

    tokens: float
    scored: float
    mean_length: float
    forwards: int
    updates: int
    micro_batches: int


@dataclass(frozen=True)
class UpdateTime:
    """Learner seconds of one step."""

    gradient_s: float
    forward_only_s: float
    optimiser_s: float
    communication_s: float

    @property
    def seconds(self) -> float:
        return self.gradient_s + self.forward_only_s + self.optimiser_s + self.communication_s


def update_time(
    arch: Architecture, shape: LearnerShape, work: Passes, hw: Hardware, trial: Trial | None = None
) -> UpdateTime:
    """The time of one step on all ranks, which share the tokens evenly. On CPUs, the ranks of a node share its cores.

    trial: the times of a few layers here, which include the reference and messages; they are scaled up.
    """
    ranks = max(1, shape.ranks)
    devices = ranks if hw.on_gpu else min(ranks, hw.nodes)
    rate = hw.flops(shape.dtype) * hw.efficiency.train_flops * devices
    copy = hw.memory_bandwidth * hw.efficiency.copy_bandwidth * devices
    forward = arch.layer_flops(work.tokens, work.mean_length) + arch.head_flops(work.scored)
    # Backward costs two forwards, plus one more of the head and of recomputed layers.
    gradient = 3.0 * forward + arch.head_flops(work.scored)
    if shape.checkpointing:
        gradient += arch.layer_flops(work.tokens, work.mean_length)
    if trial is not None and work.micro_batches:
        full = work.tokens / (ranks * trial.tokens)
        seconds = full * trial.micro_batch(arch.layers)
        others = (work.forwards - int(shape.reference)) * forward / (gradient + int(shape.reference) * forward)
        return UpdateTime(seconds, others * seconds, work.updates * trial.update(arch.layers), 0.0)
    gradient_s, forward_s = gradient / rate, work.forwards * forward / rate
    if not hw.on_gpu:
        activations = arch.layers * layer_bytes_per_token(arch, shape.dtype, on_gpu=False) * work.tokens
        logits = 4.0 * arch.vocab * work.scored
        gradient_s += (ACTIVATION_PASSES * activations + LOGIT_PASSES * logits) / copy
        gradient_s += _float32_attention(arch, work, hw, devices)
        forward_s += work.forwards * (activations + LOGIT_PASSES / 2 * logits) / copy
    trained = arch.adapter_parameters(shape.lora) if shape.lora else arch.parameters
    updated = trained if shape.zero_stage == 0 else trained / ranks
    on_device = 1.0 if hw.on_gpu else max(1.0, ranks / hw.nodes)
    optimiser = work.updates * ADAM_BYTES * updated * on_device / (hw.memory_bandwidth * hw.efficiency.copy_bandwidth)
    # Each micro-batch adds its gradients to the float32 ones: two reads and one write.
    adding = work.micro_batches * 3 * 4.0 * trained * on_device / (hw.memory_bandwidth * hw.efficiency.copy_bandwidth)
    return UpdateTime(gradient_s, forward_s, optimiser + adding, _communication(arch, trained, shape, work, hw))


def _float32_attention(arch: Architecture, work: Passes, hw: Hardware, devices: int) -> float:
    """The additional cost of attention on a CPU, which computes it in float32 and does not skip the masked half."""
    operations = 3.0 * arch.layers * 4.0 * arch.q_size * work.mean_length * work.tokens
    return operations / (hw.fp32 * hw.efficiency.train_flops * devices)


def _communication(arch: Architecture, trained: int, shape: LearnerShape, work: Passes, hw: Hardware) -> float:
    """Gradients are reduced once an update (ZeRO 2 and 3: with every micro-batch); ZeRO 3 gathers weights each pass."""
    ranks = shape.ranks
    if ranks < 2:
        return 0.0
    ring = (ranks - 1) / ranks / hw.wire(ranks)
    reduced, whole = shape.width * float(trained), shape.width * float(arch.parameters)
    if shape.zero_stage < 2:
        return work.updates * 2 * reduced * ring + (work.updates * reduced * ring if shape.zero_stage else 0.0)
    once = work.micro_batches * reduced * ring
    if shape.zero_stage == 2:
        return once + work.updates * reduced * ring
    gathers = work.micro_batches * (2 + work.forwards + int(shape.checkpointing))
    return once + gathers * whole * ring


@dataclass(frozen=True)
class SyncTime:
    """One weight sync: the bytes for each sampler, the seconds of the wire alone, and the estimate in seconds."""

    num_bytes: float
    wire_s: float
    seconds: float
    buckets: int
    way: str


def sync_time(
    arch: Architecture, shape: LearnerShape, hw: Hardware, *, way: str, bucket_mib: int, samplers: int
) -> SyncTime:
    """The time of one sync. way: nccl, ipc or bucket. Checksums on both sides and unpacking count as copies."""
    head = arch.embedding if not hw.on_gpu and arch.tied else 0
    size = shape.width * float(arch.parameters + head)
    copy = hw.memory_bandwidth * hw.efficiency.copy_bandwidth
    buckets = max(1, round(size / (bucket_mib << 20)))
    if way == "ipc":
        wire = size / copy
    elif way == "nccl":
        wire = size / hw.wire(shape.ranks + samplers)
    else:
        wire = size * samplers / hw.memory_bandwidth
    gathered = shape.width * float(arch.parameters) / hw.wire(shape.ranks) if shape.zero_stage == 3 else 0.0
    copies = (6.0 if way == "bucket" else 3.0) * size / copy
    fixed = hw.efficiency.sync_s + buckets * hw.efficiency.bucket_s
    return SyncTime(size, wire, wire + copies + (gathered if shape.ranks > 1 else 0.0) + fixed, buckets, way)
