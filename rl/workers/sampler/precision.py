"""What makes a vLLM engine on a CPU as precise as the learner; both then round to bfloat16 at the same places.

On a GPU vLLM's fused kernels stay as they are; only the head multiplies in float32 there too (head_dtype).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm import ir

PROVIDER = "aha"


def engine_options(dtype: str, *, on_gpu: bool) -> dict[str, object]:
    """Arguments for vllm.LLM."""
    # The head multiplies in float32, as the learner's does: see rl/algorithms/logprobs.py.
    overrides: dict[str, object] = {"head_dtype": "float32"}
    if on_gpu:
        return {"hf_overrides": overrides}
    # A CPU engine would leave a tied head on its old weights; untied, the head is sent explicitly.
    overrides["tie_word_embeddings"] = False
    if dtype == "float32":
        return {"hf_overrides": overrides}
    _register()
    return {"hf_overrides": overrides, "ir_op_priority": {"fused_add_rms_norm": [PROVIDER, "native"]}}


def _register() -> None:
    """Tell vLLM of add_and_norm, once in a process."""
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
    """Runs inside a vLLM CPU worker of a bfloat16 model, whose output head multiplies in float32 (head_dtype).

    Left in bfloat16, vLLM casts the whole head again for every token it decodes. Updates are copied into this tensor.
    The head's is the model's only float32 product, so its speed-up (rl.algorithms.logprobs.float32_products) is on
    throughout.
    """
    head = worker.get_model().lm_head
    head.weight = nn.Parameter(head.weight.float(), requires_grad=False)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
