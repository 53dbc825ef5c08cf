"""Makes a vLLM engine on a CPU as precise as the learner: both round to bfloat16 at the same places.

On a GPU vLLM's fused kernels stay as they are, and only the head multiplies in float32 (head_dtype).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm import ir

PROVIDER = "aha"
"""The name under which vLLM knows our implementation of its fused_add_rms_norm."""


def engine_options(dtype: str, *, on_gpu: bool) -> dict[str, object]:
    """The arguments of vllm.LLM that set precision."""
    # The head multiplies in float32 because the learner's does: see rl/algorithms/logprobs.py.
    overrides: dict[str, object] = {"head_dtype": "float32"}
    if on_gpu:
        return {"hf_overrides": overrides}
    # On a CPU a tied head would keep its old weights after a sync. Untied, it is sent as a tensor of its own.
    overrides["tie_word_embeddings"] = False
    if dtype == "float32":
        return {"hf_overrides": overrides}
    return {"hf_overrides": overrides, "ir_op_priority": {"fused_add_rms_norm": [PROVIDER, "native"]}}


def register_add_and_norm() -> None:
    """Let vLLM know add_and_norm in this process, if it does not yet."""
    if PROVIDER in ir.ops.fused_add_rms_norm.impls:
        return

    def supports_args(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return weight is not None and variance_size is None

    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=supports_args)(add_and_norm)


def add_and_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """(RMSNorm(x + residual) in x's dtype, x + residual in float32): the residual is never rounded between layers.

    x (T, D) in half precision; x_residual (T, D) the same in the first layer, float32 after it.
    """
    assert weight is not None
    total = x_residual.float() + x
    scale = torch.rsqrt(total.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return (total * scale).mul_(weight.float()).to(x.dtype), total


def widen_head(worker) -> None:  # type: ignore[no-untyped-def]
    """Keep the output head in float32. Runs inside a vLLM CPU worker of a half-precision model with head_dtype=float32.

    Otherwise vLLM casts the whole head to float32 again for every token. Weight syncs copy into this tensor. The model
    has no other float32 product, so the faster form of it (rl.algorithms.logprobs.float32_products) can stay on.
    """
    head = worker.get_model().lm_head
    head.weight = nn.Parameter(head.weight.float(), requires_grad=False)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
