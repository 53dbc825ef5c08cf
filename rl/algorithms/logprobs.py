"""Logprobs of tokens, computed one chunk of tokens at a time: the logits of all tokens never exist at once.

Axis suffixes: _T tokens whose logprobs are wanted, _C tokens of one chunk, _D hidden size, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn


class Chunks:
    """Logits of one chunk of tokens after another, and the gradients that follow from the gradient of the logits.

    Logits are float32 products of the hidden states and the weight. Rounded to bfloat16 they would be off by up to
    0.06 at a logit of 16, and sampler and learner would disagree by as much (ScaleRL and MiniMax-M1: float32 head).
    A GPU multiplies bfloat16 into float32 by itself. A CPU multiplies float32 copies, which float32_products makes as
    fast as bfloat16; the weight is copied once for all chunks.
    """

    def __init__(
        self, hidden_TD: Tensor, weight_VD: Tensor, chunk_tokens: int, temperature_T: Tensor | None = None,
        first_CV: Tensor | None = None,  # the first chunk's logits, up to a number for each row, if they are there
    ) -> None:  # fmt: skip
        num_tokens, vocab = hidden_TD.shape[0], weight_VD.shape[0]
        self.mixed = hidden_TD.is_cuda and hidden_TD.dtype != torch.float32
        self.hidden_TD, self.weight_VD = hidden_TD, weight_VD if self.mixed else weight_VD.float()
        # Dividing by 1 changes nothing, so a temperature of 1 everywhere saves a pass over the logits.
        self.temperature_T = temperature_T if temperature_T is not None and (temperature_T != 1).any() else None
        self.parts = [slice(i, min(i + chunk_tokens, num_tokens)) for i in range(0, num_tokens, chunk_tokens)]
        # One buffer for all chunks: the system would have to map the pages of a new one each time.
        rows, self.first_CV = min(chunk_tokens, num_tokens), first_CV
        self.logits_buffer_CV = hidden_TD.new_empty(rows, vocab, dtype=torch.float32) if first_CV is None else first_CV

    def logits(self, part: slice) -> Tensor:
        """float32 logits (C, V) after temperature, in a buffer that the next call overwrites."""
        logits_CV = self.logits_buffer_CV[: part.stop - part.start]
        if self.mixed:
            torch.mm(self.hidden_TD[part], self.weight_VD.T, out_dtype=torch.float32, out=logits_CV)
        else:
            with float32_products(self.hidden_TD.dtype):
                torch.mm(self.hidden_TD[part].float(), self.weight_VD.T, out=logits_CV)
        return logits_CV if self.temperature_T is None else logits_CV.div_(self.temperature_T[part, None])

    def gradients(
        self, needs: Sequence[bool], grad_logits: Callable[[slice, Tensor], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by the hidden states and by the weight, None where needs says that one is not wanted.

        The weight's is float32; autograd rounds what a backward() returns to the dtype of the input.
        grad_logits(part, logits_CV) returns the gradient by hidden @ weight.T (C, V) and may overwrite the logits.
        """
        grad_hidden_TD = torch.empty_like(self.hidden_TD) if needs[0] else None
        grad_weight_VD = torch.zeros_like(self.weight_VD, dtype=torch.float32) if needs[1] else None
        for part in self.parts:
            there = self.first_CV if part.start == 0 else None
            grad_CV, hidden_CD = grad_logits(part, self.logits(part) if there is None else there), self.hidden_TD[part]
            if self.mixed:
                grad_CV = grad_CV.to(hidden_CD.dtype)
            with float32_products(hidden_CD.dtype):
                if grad_hidden_TD is not None:
                    grad_hidden_TD[part] = grad_CV @ self.weight_VD
                # Chunks are added up in float32: a bfloat16 sum would lose the small ones.
                if grad_weight_VD is not None and self.mixed:
                    grad_weight_VD.add_(torch.mm(grad_CV.T, hidden_CD, out_dtype=torch.float32))
                elif grad_weight_VD is not None:
                    grad_weight_VD.addmm_(grad_CV.T, hidden_CD.float())
        return grad_hidden_TD, grad_weight_VD


@contextmanager
def float32_products(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block a CPU may use its bfloat16 unit to multiply float32 matrices whose values come from bfloat16.

    oneDNN then rounds the factors to bfloat16, which changes no such value, and adds up in float32: two to three times
    as fast. Values of another dtype go through the float32 unit. A CPU without a bfloat16 unit ignores the setting.
    """
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16" if dtype == torch.bfloat16 else "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


class _ChunkedLogprobs(torch.autograd.Function):
    """See chunked_logprobs. Backward computes the logits again, those of the first chunk aside, which forward leaves.

    The weight is kept as the Parameter object, not as a saved tensor: under ZeRO-3 its data is released after
    forward and gathered again before backward, and only the object follows that.
    """

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, temperature_T, chunk_tokens):  # type: ignore[no-untyped-def]
        logprobs_T = torch.empty(len(hidden_TD), dtype=torch.float32, device=hidden_TD.device)
        entropy_T = torch.empty_like(logprobs_T)
        chunks = Chunks(hidden_TD, weight_VD, chunk_tokens, temperature_T)
        probs_buffer_CV = torch.empty_like(chunks.logits_buffer_CV)
        for part in reversed(chunks.parts):  # the first one last: its logits stay in the buffer
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
        ctx.first_CV = chunks.logits_buffer_CV if any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden_TD, targets_T, temperature_T)
        ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx, grad_T, _grad_entropy_T):  # type: ignore[no-untyped-def]
        hidden_TD, targets_T, temperature_T = ctx.saved_tensors

        def grad_logits(part: slice, logits_CV: Tensor) -> Tensor:
            scale_C = grad_T[part] / temperature_T[part]
            grad_CV = torch.softmax(logits_CV, dim=1, out=logits_CV).mul_(-scale_C[:, None])
            return grad_CV.scatter_add_(1, targets_T[part, None], scale_C[:, None])

        chunks = Chunks(hidden_TD, ctx.weight_VD, ctx.chunk_tokens, temperature_T, ctx.first_CV)
        ctx.first_CV = None  # is overwritten now, so a second backward computes all
        return *chunks.gradients(ctx.needs_input_grad, grad_logits), None, None, None


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


TensorPair: TypeAlias = tuple[Tensor, Tensor]
HeadWork: TypeAlias = Callable[[Tensor, nn.Parameter, Tensor, int], TensorPair]
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
        self, hidden_TD: Tensor, targets_T: Tensor, temperature_T: Tensor, work: HeadWork | None = None
    ) -> TensorPair:
        """(logprobs_T, entropy_T); or the result of other work, which must run while ZeRO-3 has gathered the weight."""
        if work is not None:
            return work(hidden_TD, self.weight, targets_T, self.chunk_tokens)
        return chunked_logprobs(hidden_TD, self.weight, targets_T, temperature_T, self.chunk_tokens)
