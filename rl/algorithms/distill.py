"""Distillation: the student's distribution of the next token is drawn to a frozen teacher's (Hinton et al. 1503.02531).

Both models read the same tokens, so they need one tokenizer. P is the teacher, Q the student. The teacher may run
beside the student (Distillation), or its K likeliest tokens are stored with the rows (CachedDistillation): forward KL
over the K tokens and one bucket for all the rest,

    KL = sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest)      p_rest = 1 - sum_k p_k, q_rest likewise

This is a KL of two distributions over K + 1 outcomes: never negative, zero where they agree, at most the full KL, and
equal to it at K = V. Without the bucket the K probabilities add up to less than 1, and the student's distribution
becomes too sharp (Anshumann et al. 2503.16870 on naive top-K). TRL's _add_tail_bucket is the same bucket. The student
learns nothing about tokens within the rest: each keeps its share of it.

Axis suffixes: _M learnt tokens, _C tokens of a chunk, _D the student's hidden size, _E the teacher's, _K stored tokens,
_V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.algorithms.logprobs import Chunks, TensorPair
from rl.config import DistillConfig


def divergence(kind: str, student_CV: Tensor, teacher_CV: Tensor, beta: float = 0.5) -> Tensor:
    """Divergence (C,) of two distributions given as logprobs, nats.

        forward   KL(P || Q) = sum P (log P - log Q)      the student covers all that the teacher does
        reverse   KL(Q || P)                              the student keeps to what the teacher does most
        jsd       beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q      GKD 2306.13649 eq. 1; bounded

    P [1/2, 1/2], Q [1/4, 3/4]: forward .14384, reverse .13081, jsd with beta 1/2 .03382, with beta 1/4 .02605.
    """
    if kind == "forward":
        return _kl(teacher_CV, student_CV)
    if kind == "reverse":
        return _kl(student_CV, teacher_CV)
    if kind == "jsd":
        mixed_CV = torch.logaddexp(teacher_CV + math.log(beta), student_CV + math.log1p(-beta))
        return beta * _kl(teacher_CV, mixed_CV) + (1 - beta) * _kl(student_CV, mixed_CV)
    raise ValueError(f"unknown divergence {kind!r}")


def _kl(p_CV: Tensor, q_CV: Tensor) -> Tensor:
    return (p_CV.exp() * (p_CV - q_CV)).sum(dim=-1)


def teacher_advantage(teacher_T: Tensor, student_T: Tensor, coef: float) -> Tensor:
    """On-policy distillation: coef * (log P - log Q) of each token that the student sampled, without gradient.

    It is minus the one-sample estimate of the reverse KL at that token, and serves as the token's own advantage: later
    tokens do not add to it (K. Lu and Thinking Machines Lab, "On-Policy Distillation", 2025).

    Teacher -2, student -0.5, coef 1 -> -1.5: a token that the student likes and the teacher does not.
    """
    return coef * (teacher_T - student_T).detach()


@dataclass(frozen=True)
class Distillation:
    """Work for the student's head (rl.algorithms.logprobs.HeadWork): compare it with a teacher that runs beside it.

    loss_weight_M: each token's weight in the loss, which holds the denominator (rl/data/packing.py).
    Returns (sum of weight * (divergence + nll_coef * nll), and (2, M): divergence and NLL of each token).
    """

    cfg: DistillConfig
    teacher_hidden_ME: Tensor
    teacher_weight_VE: Tensor
    loss_weight_M: Tensor

    def __call__(self, hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk: int) -> TensorPair:
        loss, parts_2M = _ChunkedDivergence.apply(hidden_MD, weight_VD, targets_M, self, chunk)
        return loss, parts_2M


class _ChunkedDivergence(torch.autograd.Function):
    """The loss and its gradient, one chunk of tokens at a time: never the logits of a whole micro-batch.

    Forward takes the gradient too, while both models' logits exist. So the teacher's head, which ZeRO-3 shards, is
    gathered once, and backward only multiplies.
    """

    @staticmethod
    def forward(ctx, hidden_MD, weight_VD, targets_M, work: Distillation, chunk_tokens):  # type: ignore[no-untyped-def]
        teacher = Chunks(work.teacher_hidden_ME, work.teacher_weight_VE, chunk_tokens)
        # Models of one family pad their vocabulary with different numbers of rows: compare the tokens that both have.
        vocab = min(len(weight_VD), len(work.teacher_weight_VE))
        loss = hidden_MD.new_zeros((), dtype=torch.float32)
        parts_2M = hidden_MD.new_zeros(2, len(hidden_MD), dtype=torch.float32)

        def grad_logits(part: slice, logits_CV: Tensor) -> Tensor:
            teacher_CV = torch.log_softmax(teacher.logits(part)[:, :vocab], dim=1)
            logits_CV = logits_CV[:, :vocab].detach().requires_grad_()
            with torch.enable_grad():
                student_CV = torch.log_softmax(logits_CV, dim=1)
                divergence_C = divergence(work.cfg.divergence, student_CV, teacher_CV, work.cfg.jsd_beta)
                nll_C = -student_CV.gather(1, targets_M[part, None]).squeeze(1)
                part_loss = (work.loss_weight_M[part] * (divergence_C + work.cfg.nll_coef * nll_C)).sum()
                (grad_CV,) = torch.autograd.grad(part_loss, logits_CV)
            loss.add_(part_loss.detach())
            parts_2M[:, part] = torch.stack([divergence_C.detach(), nll_C.detach()])
            return F.pad(grad_CV, (0, len(weight_VD) - vocab))

        ctx.gradients = Chunks(hidden_MD, weight_VD, chunk_tokens).gradients(ctx.needs_input_grad, grad_logits)
        ctx.mark_non_differentiable(parts_2M)
        return loss, parts_2M

    @staticmethod
    def backward(ctx, grad, _grad_parts):  # type: ignore[no-untyped-def]
        return *(None if x is None else x * grad for x in ctx.gradients), None, None, None


def hidden_states(hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk: int) -> TensorPair:
    """Work for a teacher's head: leave the hidden states as they are. Returned twice, since a head returns two."""
    return hidden_MD, hidden_MD


@dataclass(frozen=True)
class CachedDistillation:
    """Work for the student's head where the rows carry the teacher's logprobs. It returns what Distillation does.

    ids_MK: int64, no token twice in a row. logprobs_MK: float32, nats.
    """

    cfg: DistillConfig
    ids_MK: Tensor
    logprobs_MK: Tensor
    loss_weight_M: Tensor

    def __call__(self, hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk: int) -> TensorPair:
        """Raises ValueError for token ids beyond the student's vocabulary."""
        if self.ids_MK.numel() and (largest := int(self.ids_MK.max())) >= len(weight_VD):
            raise ValueError(f"the teacher's token {largest} is not among the student's {len(weight_VD)}")
        parts_2M = _ChunkedTopK.apply(hidden_MD, weight_VD, targets_M, self.ids_MK, self.logprobs_MK, chunk)
        loss = (self.loss_weight_M * (parts_2M[0] + self.cfg.nll_coef * parts_2M[1])).sum()
        return loss, parts_2M.detach()


def rest_mass(logprobs_MK: Tensor, vocab: int) -> Tensor:
    """p_rest (M,) of the teacher: what its K probabilities leave of 1; 0 where K is the vocabulary or rounding says so.

    log [.5, .25] of 3 tokens -> .25; of 2 tokens -> 0.
    """
    if logprobs_MK.shape[1] >= vocab:
        return logprobs_MK.new_zeros(len(logprobs_MK))
    return (1 - logprobs_MK.exp().sum(dim=1)).clamp(min=0)


class _ChunkedTopK(torch.autograd.Function):
    """(2, M): divergence and NLL of each token, one chunk at a time. Backward computes the logits again.

    With z the student's logits and Z their logsumexp, the gradient of a token's divergence by z_v is q_v - p_v for the
    K tokens, and q_v - p_rest exp(z_v - Z_rest) for the others.
    """

    @staticmethod
    def forward(ctx, hidden_MD, weight_VD, targets_M, ids_MK, logprobs_MK, chunk_tokens):  # type: ignore[no-untyped-def]
        parts_2M = hidden_MD.new_zeros(2, len(hidden_MD), dtype=torch.float32)
        chunks = Chunks(hidden_MD, weight_VD, chunk_tokens)
        rest_M = rest_mass(logprobs_MK, len(weight_VD))
        for part in chunks.parts:
            logits_CV, ids_CK, teacher_CK, rest_C = chunks.logits(part), ids_MK[part], logprobs_MK[part], rest_M[part]
            all_C = logits_CV.logsumexp(dim=1)
            parts_2M[1, part] = all_C - logits_CV.gather(1, targets_M[part, None]).squeeze(1)
            student_CK = logits_CV.gather(1, ids_CK) - all_C[:, None]
            log_rest_C = logits_CV.scatter_(1, ids_CK, -torch.inf).logsumexp(dim=1) - all_C
            p_CK = teacher_CK.exp()
            # 0 log 0 is 0, both for the K tokens and for the rest.
            known_C = torch.where(p_CK > 0, p_CK * (teacher_CK - student_CK), 0.0).sum(dim=1)
            parts_2M[0, part] = known_C + torch.where(rest_C > 0, rest_C * (rest_C.log() - log_rest_C), 0.0)
        ctx.weight_VD, ctx.chunk_tokens = weight_VD, chunk_tokens
        ctx.save_for_backward(hidden_MD, targets_M, ids_MK, logprobs_MK, rest_M)
        return parts_2M

    @staticmethod
    def backward(ctx, grad_2M):  # type: ignore[no-untyped-def]
        hidden_MD, targets_M, ids_MK, logprobs_MK, rest_M = ctx.saved_tensors

        def grad_logits(part: slice, logits_CV: Tensor) -> Tensor:
            ids_CK, p_CK, (by_divergence_C, by_nll_C) = ids_MK[part], logprobs_MK[part].exp(), grad_2M[:, part]
            # Rounding may leave the teacher's mass a little off 1; the student's is pulled to the same.
            pull_C = by_divergence_C * (p_CK.sum(dim=1) + rest_M[part]) + by_nll_C
            grad_CV = torch.softmax(logits_CV, dim=1).mul_(pull_C[:, None])
            grad_CV.scatter_add_(1, ids_CK, -by_divergence_C[:, None] * p_CK)
            grad_CV.scatter_add_(1, targets_M[part, None], -by_nll_C[:, None])
            if ids_CK.shape[1] < logits_CV.shape[1]:
                share_CV = torch.softmax(logits_CV.scatter_(1, ids_CK, -torch.inf), dim=1)
                grad_CV.sub_(share_CV.mul_((by_divergence_C * rest_M[part])[:, None]))
            return grad_CV

        chunks = Chunks(hidden_MD, ctx.weight_VD, ctx.chunk_tokens)
        return *chunks.gradients(ctx.needs_input_grad, grad_logits), None, None, None, None
