"""Token logprobs without the full logits: chunked over tokens, recomputed in backward.

Axis suffixes: _T scored tokens, _D hidden size, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature)[target] and its entropy, one chunk of tokens at a time.

    The weight is kept as the Parameter object, not as a saved tensor: under ZeRO-3 its data is released after
    forward and gathered again before backward, and only the object follows that.
    """

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, temperature_T, chunk_tokens):  # type: ignore[no-untyped-def]
        num_tokens = hidden_TD.shape[0]
        logprobs_T = torch.empty(num_tokens, dtype=torch.float32, device=hidden_TD.device)
        entropy_T = torch.empty_like(logprobs_T)
        chunks = Chunks(hidden_TD, weight_VD, temperature_T, chunk_tokens)
        probs_buffer_CV = torch.empty_like(chunks.logits_buffer_CV)
        for part in chunks.parts:
            logits_CV = chunks.logits(part)
            target_logits_C = logits_CV.gather(1, targets_T[part, None]).squeeze(1)
            max_C = logits_CV.amax(dim=1)
            logits_CV.sub_(max_C[:, None])
            probs_CV = torch.exp(logits_CV, out=probs_buffer_CV[: len(logits_CV)])
            sum_C = probs_CV.sum(dim=1)
            log_sum_C = sum_C.log()
            logprobs_T[part] = target_logits_C - max_C - log_sum_C
            # H = log Z - E[logit]. The logits are shifted by their maximum, which cancels.
            entropy_T[part] = log_sum_C - probs_CV.mul_(logits_CV).sum(dim=1) / sum_C
        ctx.weight_VD, ctx.chunk_tokens = weight_VD, chunk_tokens
        ctx.save_for_backward(hidden_TD, targets_T, temperature_T)
        ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx, grad_T, _grad_entropy_T):  # type: ignore[no-untyped-def]
        hidden_TD, targets_T, temperature_T = ctx.saved_tensors
        weight_VD = ctx.weight_VD
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_TD = torch.empty_like(hidden_TD) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        chunks = Chunks(hidden_TD, weight_VD, temperature_T, ctx.chunk_tokens)
        for part in chunks.parts:
            logits_CV = chunks.logits(part)
            grad_CV = torch.softmax(logits_CV, dim=1, out=logits_CV)
            scale_C = grad_T[part] / temperature_T[part]
            grad_CV.mul_(-scale_C[:, None])
            grad_CV.scatter_add_(1, targets_T[part, None], scale_C[:, None])
            if grad_hidden_TD is not None:
                grad_hidden_TD[part] = chunks.grad_hidden(grad_CV)
            if grad_weight_VD is not None:
                chunks.add_grad_weight(grad_weight_VD, grad_CV, part)
        grad_weight = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
        return grad_hidden_TD, grad_weight, None, None, None


class Chunks:
    """Walks over tokens in chunks, through buffers made once: fresh ones would page-fault on every chunk.

    Logits are float32 products of the given hidden states and weights: rounded to bfloat16 they would be off by up to
    0.06 at a logit of 16, and sampler and learner would disagree by as much (ScaleRL and MiniMax-M1: float32 head).
    A GPU multiplies bfloat16 into float32 by itself. A CPU multiplies float32 copies, whose products float32_products
    computes at bfloat16's speed; the weight is copied once for all chunks.
    """

    def __init__(self, hidden_TD: Tensor, weight_VD: Tensor, temperature_T: Tensor, chunk_tokens: int) -> None:
        num_tokens, vocab = hidden_TD.shape[0], weight_VD.shape[0]
        self.mixed = hidden_TD.is_cuda and hidden_TD.dtype != torch.float32
        self.hidden_TD, self.weight_VD = hidden_TD, weight_VD if self.mixed else weight_VD.float()
        self.temperature_T = temperature_T
        self.parts = [slice(i, min(i + chunk_tokens, num_tokens)) for i in range(0, num_tokens, chunk_tokens)]
        self.logits_buffer_CV = hidden_TD.new_empty(min(chunk_tokens, num_tokens), vocab, dtype=torch.float32)
        self.has_temperature = bool((temperature_T != 1).any())

    def logits(self, part: slice) -> Tensor:
        """float32 logits (C, V) after temperature, in a buffer that the next call overwrites."""
        logits_CV = self.logits_buffer_CV[: part.stop - part.start]
        if self.mixed:
            torch.mm(self.hidden_TD[part], self.weight_VD.T, out_dtype=torch.float32, out=logits_CV)
        else:
            with float32_products(self.hidden_TD.dtype):
                torch.mm(self.hidden_TD[part].float(), self.weight_VD.T, out=logits_CV)
        return logits_CV.div_(self.temperature_T[part, None]) if self.has_temperature else logits_CV

    def grad_hidden(self, grad_CV: Tensor) -> Tensor:
        """grad @ weight, (C, D). A half-precision model's grad is rounded to its dtype first."""
        if self.mixed:
            return grad_CV.to(self.weight_VD.dtype) @ self.weight_VD
        with float32_products(self.hidden_TD.dtype):
            return grad_CV @ self.weight_VD

    def add_grad_weight(self, total_VD: Tensor, grad_CV: Tensor, part: slice) -> None:
        """total += grad.T @ hidden, summed in float32: not rounded to bfloat16 chunk by chunk."""
        if self.mixed:
            rounded_CV = grad_CV.to(self.hidden_TD.dtype)
            total_VD.add_(torch.mm(rounded_CV.T, self.hidden_TD[part], out_dtype=torch.float32))
        else:
            with float32_products(self.hidden_TD.dtype):
                total_VD.addmm_(grad_CV.T, self.hidden_TD[part].float())


@contextmanager
def float32_products(dtype: torch.dtype) -> Iterator[None]:
    """On a CPU, inside the block, multiply float32 matrices whose values came from this dtype.

    Of bfloat16 values the bfloat16 unit's products, summed in float32, are exact float32 products, two to three times
    as fast as the float32 unit's. oneDNN rounds the factors to bfloat16 to get there, which changes none of them.
    A CPU without such a unit ignores the setting.
    """
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16" if dtype == torch.bfloat16 else "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


def chunked_logprobs(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature_T: Tensor, chunk_tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """Logprobs of targets under softmax(hidden @ weight.T / temperature), and the entropies.

    Args: hidden_TD and weight_VD in one dtype; targets_T int64; temperature_T float32.
    Returns: (logprobs_T, entropy_T), float32, nats. Only logprobs carry a gradient; entropy is a metric.
    Memory: O(chunk_tokens x V) for logits in forward and backward, never T x V.

    Example: hidden [[1, 0]], weight [[1, 0], [0, 1]], target 0, temperature 1
        -> logprob 1 - log(e + 1) = -0.3133, entropy 0.5822.
    """
    logprobs_T, entropy_T = _ChunkedLogprobs.apply(hidden_TD, weight_VD, targets_T, temperature_T, chunk_tokens)
    return logprobs_T, entropy_T


HeadWork: TypeAlias = Callable[[Tensor, nn.Parameter, Tensor, int], tuple[Tensor, Tensor]]
"""Other work for a head: (hidden_TD, weight_VD, targets_T, chunk_tokens) -> two tensors (rl/algorithms/distill.py)."""


class LogprobHead(nn.Module):
    """An output head that returns logprobs instead of logits.

    It owns the head's Parameter under the name 'weight', so DeepSpeed's ZeRO-3 hooks gather it for this module's
    forward and backward, tied embeddings included, and state dicts keep their names.
    """

    def __init__(self, weight_VD: nn.Parameter, chunk_tokens: int) -> None:
        super().__init__()
        self.weight = weight_VD
        self.chunk_tokens = chunk_tokens

    def forward(
        self, hidden_TD: Tensor, targets_T: Tensor, temperature_T: Tensor, score: HeadWork | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logprobs_T, entropy_T); or what score makes of the hidden states, while the weight is at hand."""
        if score is not None:
            return score(hidden_TD, self.weight, targets_T, self.chunk_tokens)
        return chunked_logprobs(hidden_TD, self.weight, targets_T, temperature_T, self.chunk_tokens)
