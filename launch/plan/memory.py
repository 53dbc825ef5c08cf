"""The memory of a learner rank and of a sampler in bytes, term by term, as rl/workers/ and DeepSpeed 0.19 use it.

Letters as in model.py, and: P parameters, R learner ranks, T tokens of a micro-batch, M of them scored, C tokens whose
logits exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.hardware import GIB, Hardware
from launch.plan.model import Architecture
from rl.settings.precision import HALF, bytes_per_number

BUCKET_NUMBERS = 500_000_000
"""DeepSpeed's reduce_bucket_size, which the learner leaves at its default. A GPU allocates all of it at once."""
PREFETCH_NUMBERS = 50_000_000
SUB_GROUP_NUMBERS = 1_000_000_000


@dataclass(frozen=True)
class LearnerShape:
    """What a rank's memory depends on. tokens: T with padding. scored: M. chunk: C. lora: rank of the adapters, or 0.

    shared_by: the number of ranks that share a micro-batch; tokens and scored are those of one rank. offload: the
    optimiser's state and the float32 gradients are in host memory. base_is_reference: the base under adapters is the
    reference, so that there is no second copy.
    """

    dtype: str
    zero_stage: int
    ranks: int
    tokens: int
    scored: int
    chunk: int
    checkpointing: bool
    reference: bool
    packed: bool
    lora: int = 0
    shared_by: int = 1
    offload: bool = False
    base_is_reference: bool = False

    @property
    def second_copy(self) -> bool:
        """Whether the reference is a model of its own."""
        return self.reference and not (self.lora and self.base_is_reference)

    @property
    def width(self) -> int:
        """Bytes per number in compute precision."""
        return bytes_per_number(self.dtype)


@dataclass(frozen=True)
class Term:
    """One line of a memory table."""

    name: str
    num_bytes: float
    note: str = ""


@dataclass(frozen=True)
class LearnerMemory:
    """A rank's memory. The terms add up to peak. loading is a peak of its own, before training starts."""

    terms: tuple[Term, ...]
    loading: float
    limit: float

    @property
    def training(self) -> float:
        return sum(t.num_bytes for t in self.terms)

    @property
    def peak(self) -> float:
        return max(self.training, self.loading)

    @property
    def at_rest(self) -> float:
        """What it keeps between two steps."""
        return sum(t.num_bytes for t in self.terms if t.name in RESTING)

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit


RESTING = (
    "framework", "weights", "master weights", "Adam moments", "gradients", "reference", "DeepSpeed's buffers",
)  # fmt: skip


def learner_memory(arch: Architecture, shape: LearnerShape, hw: Hardware) -> LearnerMemory:
    """The peak of one learner rank: in the backward pass or after it, whichever is larger.

    On a CPU the two add up, because malloc keeps the activations' memory.
    """
    w, stage, share = shape.width, shape.zero_stage, 1.0 / max(1, shape.ranks)
    trained = arch.adapter_parameters(shape.lora) if shape.lora else arch.parameters
    frozen = arch.parameters if shape.lora else 0
    weights = w * (trained + frozen) * (share if stage == 3 else 1.0)
    separate_master = not (stage == 0 and shape.dtype == "float32") and not shape.offload
    master = 4.0 * trained * (share if stage else 1.0) if separate_master else 0.0
    moments = 0.0 if shape.offload else 8.0 * trained * (share if stage else 1.0)
    on_host = "in host memory" if shape.offload else ""
    gradients, held = _gradients(trained, shape)
    reference = w * arch.parameters * (share if stage == 3 else 1.0) if shape.second_copy else 0.0
    layers = _activations(arch, shape, hw.on_gpu)
    head = _head(arch, shape, hw.on_gpu)
    buffers = _buffers(arch, trained, shape, hw.on_gpu)
    in_backward = layers + head + held
    reduction, step = _reduction(trained, shape), _optimiser_step(trained, shape)
    kept = _malloc_keeps(hw)
    early = stage == 3 and trained > BUCKET_NUMBERS  # the bucket is full, and reduced, before backward has ended
    in_backward += reduction if early else 0.0
    slack = hw.memory.slack_share * (layers + head if kept or hw.on_gpu else head)
    terms = [
        Term("framework", hw.memory.base_gib * GIB, "libraries and device context"),
        Term("weights", weights, f"{shape.dtype}{_over(stage == 3, shape.ranks)}"),
        Term(
            "master weights",
            master,
            f"float32{_over(stage > 0, shape.ranks)}" if master else on_host or "the weights themselves",
        ),
        Term("Adam moments", moments, on_host or f"2 x float32{_over(stage > 0, shape.ranks)}"),
        Term("gradients", gradients, f"float32{_over(stage >= 2, shape.ranks)}"),
        Term("reference", reference, f"{shape.dtype}{_over(stage == 3, shape.ranks)}" if reference else
             "the base under the adapters" if shape.reference else "none"),
    ]  # fmt: skip
    after = max(reduction, step)
    if kept or in_backward >= after:
        terms += [
            Term("activations", layers, f"{shape.tokens:,} tokens" + (", recomputed" if shape.checkpointing else "")),
            Term("logits chunk", head, f"{min(shape.chunk, shape.scored):,} x {arch.vocab:,}, head's gradient"),
            Term("weights' gradients", held, "as backward leaves them, beside the float32 ones"),
        ]
    flat = after if kept or in_backward < after else reduction if early else 0.0
    terms += [Term("flat gradients", flat, "copies for the " + ("reduction" if flat == reduction else "optimiser"))]
    terms += [
        Term("DeepSpeed's buffers", buffers, "reduction bucket" + (", gathered layers" if stage == 3 else "")),
        Term("allocator", slack, "freed blocks that it keeps"),
    ]
    return LearnerMemory(tuple(terms), _loading(arch, shape, hw), _limit(hw))


def _over(sharded: bool, ranks: int) -> str:
    return f", 1/{ranks}" if sharded and ranks > 1 else ""


def _gradients(trained: int, shape: LearnerShape) -> tuple[float, float]:
    """(accumulated float32 gradients, the gradients that backward leaves on the weights)."""
    share = 1.0 / max(1, shape.ranks)
    if shape.offload:  # the float32 ones are on the host, and what backward leaves is sent there
        return 0.0, shape.width * trained * (share if shape.zero_stage >= 2 else 1.0)
    if shape.dtype in HALF:
        # ZeRO 1: BF16_Optimizer accumulates all gradients on each rank and leaves the bfloat16 ones in place.
        return (4.0 * trained, 2.0 * trained) if shape.zero_stage <= 1 else (4.0 * trained * share, 0.0)
    return (4.0 * trained if shape.zero_stage <= 1 else 4.0 * trained * share), 0.0


def layer_bytes_per_token(arch: Architecture, dtype: str, *, on_gpu: bool) -> float:
    """Bytes that one layer keeps per token for its backward pass, read off transformers' Llama with Aha's attention.

    GPU, bfloat16: each norm a float32 input, its normalised and its scaled value (8 D); q, k, v and the output (Q, K);
    gate, its activation, up and their product (I). CPU: the residual is float32 and q, k, v, gate and up each get a
    cast of their own; attention is float32 with k and v repeated to all heads.
    """
    d, q, k, i = arch.hidden, arch.q_size, arch.kv_size, arch.intermediate
    if dtype == "float32":
        return 24.0 * d + (8.0 * (q + k) if on_gpu else 16.0 * q) + 16.0 * i
    return 16.0 * d + 4.0 * (q + k) + 8.0 * i if on_gpu else 26.0 * d + 18.0 * q + 8.0 * i


def _activations(arch: Architecture, shape: LearnerShape, on_gpu: bool) -> float:
    """Activations of all layers (with recomputation: their inputs, and one layer's), and one layer's gradients."""
    kept = layer_bytes_per_token(arch, shape.dtype, on_gpu=on_gpu)
    passing = 3.0 * shape.width * arch.intermediate + 8.0 * arch.hidden
    if shape.checkpointing:
        boundary = (shape.width if on_gpu else 4.0) * arch.hidden
        return shape.tokens * (arch.layers * boundary + kept + passing)
    return shape.tokens * (arch.layers * kept + passing)


def _head(arch: Architecture, shape: LearnerShape, on_gpu: bool) -> float:
    """The larger of forward and backward of the chunked head (rl/algorithms/logprobs.py)."""
    chunk = 4.0 * min(shape.chunk, shape.scored) * arch.vocab
    hidden = (4.0 + shape.width) * shape.scored * arch.hidden
    grad = 4.0 * arch.embedding if not shape.lora else 0.0
    if on_gpu and shape.dtype in HALF:
        # Backward: logits, their bfloat16 copy, the gradient's float32 sum and one product more.
        return hidden + max(2 * chunk, 1.5 * chunk + 2 * grad)
    copy = 4.0 * arch.embedding if shape.dtype in HALF else 0.0
    return hidden + copy + max(2 * chunk, chunk + grad + (grad / 2 if copy else 0.0))


def _buffers(arch: Architecture, trained: int, shape: LearnerShape, on_gpu: bool) -> float:
    """DeepSpeed's buffers. A CPU commits only memory that is written, a GPU the whole bucket."""
    w, stage = shape.width, shape.zero_stage
    bucket = w * float(BUCKET_NUMBERS if on_gpu else min(BUCKET_NUMBERS, trained))
    if stage == 0 or (stage == 1 and shape.dtype in HALF and not shape.offload):
        # Gradients are flattened into one more tensor to be reduced, in compute precision.
        return w * float(min(trained, BUCKET_NUMBERS)) if shape.ranks > 1 else 0.0
    if stage == 3:
        layer = arch.layer_matrices + arch.layer_vectors
        return bucket + w * float(min(arch.parameters, arch.largest_tensor + layer + PREFETCH_NUMBERS))
    return bucket if stage == 2 or on_gpu else 0.0  # ZeRO 1 in float32: the bucket holds the gradients counted above


def _reduction(trained: int, shape: LearnerShape) -> float:
    """Copies that DeepSpeed makes of a bucket's gradients while it reduces them."""
    share = 1.0 / max(1, shape.ranks)
    if shape.zero_stage == 3:  # one flat tensor of all, and this rank's part of the sum
        return shape.width * float(min(trained, BUCKET_NUMBERS)) * (1.0 + share)
    if shape.zero_stage == 1 and shape.dtype == "float32" and not shape.offload:
        return 4.0 * trained * share
    return 0.0


def _optimiser_step(trained: int, shape: LearnerShape) -> float:
    """A flat copy of this rank's gradients for AdamW; BF16_Optimizer (ZeRO 1) needs none."""
    if shape.offload or shape.zero_stage == 0 or (shape.zero_stage == 1 and shape.dtype in HALF):
        return 0.0
    flat = 4.0 * trained / max(1, shape.ranks)
    return min(flat, 4.0 * SUB_GROUP_NUMBERS) if shape.zero_stage == 3 else flat


def _malloc_keeps(hw: Hardware) -> bool:
    """Whether malloc keeps freed activations: on a CPU, as the learner is told to (KEEP_MEMORY)."""
    return not hw.on_gpu


def _loading(arch: Architecture, shape: LearnerShape, hw: Hardware) -> float:
    """The whole model in float32, and then the reference beside what the policy has left. Under ZeRO-3 float32 shards
    of each (a tied head's own until it is tied) and three times the largest tensor, as it is gathered and sent: what
    tests/bench/load_memory.py found (rl/workers/learner/deepspeed_engine.py).
    """
    base = hw.memory.base_gib * GIB
    mapped = 0.0 if hw.on_gpu else 2.0 * arch.parameters  # the checkpoint's pages, in bfloat16 as most are
    share = 1.0 / max(1, shape.ranks)
    if shape.zero_stage == 3:
        shards = 4.0 * (arch.parameters + (arch.embedding if arch.tied else 0)) * share
        held = 8.0 * arch.parameters * share if shape.second_copy else 0.0
        return base + mapped + held + shards + 12.0 * arch.largest_tensor
    policy = base + mapped + 4.0 * arch.parameters
    if not shape.second_copy:
        return policy
    held = 4.0 * arch.parameters * (1.0 + share)
    return max(policy, base + mapped + held + shape.width * arch.parameters)


def _limit(hw: Hardware) -> float:
    return hw.memory_gib * GIB


@dataclass(frozen=True)
class SamplerMemory:
    """One sampler's memory on each of its devices, and how many full and mean-length sequences its cache holds."""

    terms: tuple[Term, ...]
    limit: float
    kv_bytes_per_token: float
    full_sequences: int
    mean_sequences: int
    max_sequences: int
    least: float = 0.0
    """The least that it runs in: with a cache for one sequence of full length."""

    @property
    def peak(self) -> float:
        return sum(t.num_bytes for t in self.terms)

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit and self.full_sequences >= 1


def sampler_memory(
    arch: Architecture, dtype: str, hw: Hardware, *, tensor_parallel: int, gpu_share: float, kv_cache_gib: float,
    max_sequences: int, full_length: float, mean_length: float,
) -> SamplerMemory:  # fmt: skip
    """full_length, mean_length: prompt and completion, tokens."""
    width = float(bytes_per_number(dtype))
    weights = width * arch.parameters
    if not hw.on_gpu:  # untied, and its head in float32: rl/workers/sampler/precision.py
        weights += 4.0 * arch.embedding - (0.0 if arch.tied else width * arch.embedding)
    weights /= tensor_parallel
    base = hw.memory.sampler_base_gib * GIB
    kv_token = width * arch.kv_values_per_token / tensor_parallel
    limit = hw.memory_gib * GIB
    if hw.on_gpu:
        limit *= gpu_share
        cache = max(0.0, limit - weights - base)
    else:
        cache = max(1.0, round(kv_cache_gib)) * GIB
    terms = (
        Term("framework", base, "libraries, device context, vLLM's own activations"),
        Term("weights", weights, dtype + (f", 1/{tensor_parallel}" if tensor_parallel > 1 else "")),
        Term("KV cache", cache, f"{kv_token / 1024:,.1f} KiB a token"),
    )
    return SamplerMemory(
        terms, limit, kv_token,
        full_sequences=int(cache // (kv_token * full_length)),
        mean_sequences=int(cache // (kv_token * mean_length)),
        max_sequences=max_sequences,
        least=base + weights + kv_token * full_length,
    )  # fmt: skip
