"""Distillation by distribution: the student's next-token distribution is drawn to a frozen teacher's.

Hinton et al. 1503.02531; divergences as in GKD (2306.13649). Both models read the same tokens and need one tokenizer.

Axis suffixes: _M learnt tokens, _C tokens of a chunk, _D the student's hidden size, _E the teacher's, _V vocabulary.

Distillation from a teacher's cached top-K logprobs: forward KL over the K tokens and one bucket for all the rest.

    KL = sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest)      p_rest = 1 - sum_k p_k, q_rest likewise

P is the teacher, Q the student: a KL of two distributions over K + 1 outcomes, so never negative, zero where they
agree, at most the full KL, and equal to it at K = V. The bucket is TRL's (_add_tail_bucket of its distillation
trainers). Without it the K probabilities add up to less than 1, and the student learns a distribution that is too sharp
(Anshumann et al. 2503.16870 on naive top-K). Within the rest nothing is learnt: each token keeps its share of it.

Axis suffixes: _M learnt tokens, _C tokens of a chunk, _D hidden size, _K cached tokens, _V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.algorithms.logprobs import Chunks
from rl.config import DistillConfig
from rl.types import TopLogprobs


def divergence(kind: str, student_CV: Tensor, teacher_CV: Tensor, beta: float = 0.5) -> Tensor:
    """Divergence (C,) of two distributions given as logprobs, nats. P is the teacher, Q the student.

        forward   KL(P || Q) = sum P (log P - log Q)      covers all that the teacher does
        reverse   KL(Q || P)                              keeps to what the teacher does most
        jsd       beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q      GKD eq. 1; bounded

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

    Minus the one-sample estimate of the reverse KL at that token, taken as its advantage with no discount, so that
    only the token itself is charged (K. Lu and Thinking Machines Lab, "On-Policy Distillation", 2025).

    Teacher -2, student -0.5, coef 1 -> -1.5: a token that the student likes and the teacher does not.
    """
    return coef * (teacher_T - student_T).detach()


@dataclass(frozen=True)
class Distillation:
    """What the student's head needs to compare itself with the teacher; called by LogprobHead in place of its own work.

    loss_weight_M: of each token, the denominator inside (rl/data/packing.py).
    """

    cfg: DistillConfig
    teacher_hidden_ME: Tensor
    teacher_weight_VE: Tensor
    loss_weight_M: Tensor

    def __call__(
        self, hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """(sum of weight * (divergence + nll_coef * nll), and (2, M): divergence and NLL of each token)."""
        loss, parts_2M = _ChunkedDivergence.apply(hidden_MD, weight_VD, targets_M, self, chunk)
        return loss, parts_2M


class _ChunkedDivergence(torch.autograd.Function):
    """The loss and its gradient, one chunk of tokens at a time: never the logits of a whole micro-batch.

    The gradient is taken in the forward pass, while both models' logits exist. So the teacher's head (which ZeRO-3
    shards) is needed once, and backward only scales what was found.
    """

    @staticmethod
    def forward(ctx, hidden_MD, weight_VD, targets_M, to: Distillation, chunk_tokens):  # type: ignore[no-untyped-def]
        ones_M = torch.ones_like(to.loss_weight_M)
        student = Chunks(hidden_MD, weight_VD, ones_M, chunk_tokens)
        teacher = Chunks(to.teacher_hidden_ME, to.teacher_weight_VE, ones_M, chunk_tokens)
        # Models of one family differ in how many rows pad their vocabulary: those that both have are compared.
        vocab = min(len(weight_VD), len(to.teacher_weight_VE))
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_MD = torch.zeros_like(hidden_MD) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        loss = hidden_MD.new_zeros((), dtype=torch.float32)
        parts_2M = hidden_MD.new_zeros(2, len(hidden_MD), dtype=torch.float32)
        for part in student.parts:
            teacher_CV = torch.log_softmax(teacher.logits(part)[:, :vocab], dim=1)
            logits_CV = student.logits(part)[:, :vocab].detach().requires_grad_()
            with torch.enable_grad():
                student_CV = torch.log_softmax(logits_CV, dim=1)
                divergence_C = divergence(to.cfg.divergence, student_CV, teacher_CV, to.cfg.jsd_beta)
                nll_C = -student_CV.gather(1, targets_M[part, None]).squeeze(1)
                part_loss = (to.loss_weight_M[part] * (divergence_C + to.cfg.nll_coef * nll_C)).sum()
                (grad_CV,) = torch.autograd.grad(part_loss, logits_CV)
            loss += part_loss.detach()
            parts_2M[:, part] = torch.stack([divergence_C.detach(), nll_C.detach()])
            grad_CV = F.pad(grad_CV, (0, len(weight_VD) - vocab))
            if grad_hidden_MD is not None:
                grad_hidden_MD[part] = student.grad_hidden(grad_CV)
            if grad_weight_VD is not None:
                student.add_grad_weight(grad_weight_VD, grad_CV, part)
        ctx.grad_hidden_MD, ctx.grad_weight_VD, ctx.dtype = grad_hidden_MD, grad_weight_VD, weight_VD.dtype
        ctx.mark_non_differentiable(parts_2M)
        return loss, parts_2M

    @staticmethod
    def backward(ctx, grad, _grad_parts):  # type: ignore[no-untyped-def]
        grad_hidden = None if ctx.grad_hidden_MD is None else ctx.grad_hidden_MD * grad
        grad_weight = None if ctx.grad_weight_VD is None else (ctx.grad_weight_VD * grad).to(ctx.dtype)
        return grad_hidden, grad_weight, None, None, None


def hidden_states(
    hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Given to a teacher's head: leave the hidden states as they are. Returned twice, since a head returns two."""
    return hidden_MD, hidden_MD


@dataclass(frozen=True)
class CachedDistillation:
    """The work of the student's head (rl.algorithms.logprobs.HeadWork) where rows carry the teacher's logprobs.

    ids_MK: int64, no token twice in a row. logprobs_MK: float32, nats. loss_weight_M: the denominator inside.
    """

    cfg: DistillConfig
    ids_MK: Tensor
    logprobs_MK: Tensor
    loss_weight_M: Tensor

    @staticmethod
    def of(cfg: DistillConfig, top: TopLogprobs | None, loss_weight_M: Tensor) -> CachedDistillation:
        """For a micro-batch's cached logprobs; None is right where it has no learnt token. Raises ValueError."""
        count, device = len(loss_weight_M), loss_weight_M.device
        if top is None:
            top = TopLogprobs(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
        if len(top.ids_NK) != count:
            raise ValueError(f"{len(top.ids_NK)} positions with cached logprobs for {count} learnt tokens")
        ids_MK = torch.from_numpy(top.ids_NK.astype(np.int64)).to(device)
        return CachedDistillation(cfg, ids_MK, torch.from_numpy(top.logprobs_NK).to(device), loss_weight_M)

    def __call__(
        self, hidden_MD: Tensor, weight_VD: nn.Parameter, targets_M: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """(sum of weight * (divergence + nll_coef * nll), and (2, M): divergence and NLL of each token).

        Raises ValueError for ids beyond the student's vocabulary.
        """
        if self.ids_MK.numel() and int(self.ids_MK.max()) >= len(weight_VD):
            raise ValueError(
                f"the teacher's token {int(self.ids_MK.max())} is not among the student's {len(weight_VD)}"
            )
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
    """(2, M): divergence and NLL of each token. Chunked over tokens; the logits are computed again in backward.

    With z the student's logits and Z their logsumexp, the gradient of a token's divergence by z_v is q_v - p_v for the
    K tokens, and q_v - p_rest exp(z_v - Z_rest) for the others.
    """

    @staticmethod
    def forward(ctx, hidden_MD, weight_VD, targets_M, ids_MK, logprobs_MK, chunk_tokens):  # type: ignore[no-untyped-def]
        parts_2M = hidden_MD.new_zeros(2, len(hidden_MD), dtype=torch.float32)
        chunks = Chunks(hidden_MD, weight_VD, torch.ones_like(parts_2M[0]), chunk_tokens)
        rest_M = rest_mass(logprobs_MK, len(weight_VD))
        for part in chunks.parts:
            logits_CV, ids_CK, teacher_CK, rest_C = chunks.logits(part), ids_MK[part], logprobs_MK[part], rest_M[part]
            all_C = logits_CV.logsumexp(dim=1)
            parts_2M[1, part] = all_C - logits_CV.gather(1, targets_M[part, None]).squeeze(1)
            student_CK = logits_CV.gather(1, ids_CK) - all_C[:, None]
            log_rest_C = logits_CV.scatter_(1, ids_CK, -torch.inf).logsumexp(dim=1) - all_C
            p_CK = teacher_CK.exp()
            # 0 log 0 is 0, on both sides.
            known_C = torch.where(p_CK > 0, p_CK * (teacher_CK - student_CK), 0.0).sum(dim=1)
            parts_2M[0, part] = known_C + torch.where(rest_C > 0, rest_C * (rest_C.log() - log_rest_C), 0.0)
        ctx.weight_VD, ctx.chunk_tokens = weight_VD, chunk_tokens
        ctx.save_for_backward(hidden_MD, targets_M, ids_MK, logprobs_MK, rest_M)
        return parts_2M

    @staticmethod
    def backward(ctx, grad_2M):  # type: ignore[no-untyped-def]
        hidden_MD, targets_M, ids_MK, logprobs_MK, rest_M = ctx.saved_tensors
        weight_VD = ctx.weight_VD
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_MD = torch.empty_like(hidden_MD) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        chunks = Chunks(hidden_MD, weight_VD, torch.ones_like(rest_M), ctx.chunk_tokens)
        for part in chunks.parts:
            logits_CV, ids_CK, p_CK, rest_C = chunks.logits(part), ids_MK[part], logprobs_MK[part].exp(), rest_M[part]
            by_divergence_C, by_nll_C = grad_2M[0, part], grad_2M[1, part]
            # Rounding may leave the teacher's mass a little off 1; the student's is pulled to the same.
            pull_C = by_divergence_C * (p_CK.sum(dim=1) + rest_C) + by_nll_C
            grad_CV = torch.softmax(logits_CV, dim=1).mul_(pull_C[:, None])
            grad_CV.scatter_add_(1, ids_CK, -by_divergence_C[:, None] * p_CK)
            grad_CV.scatter_add_(1, targets_M[part, None], -by_nll_C[:, None])
            if ids_CK.shape[1] < len(weight_VD):
                share_CV = torch.softmax(logits_CV.scatter_(1, ids_CK, -torch.inf), dim=1)
                grad_CV.sub_(share_CV.mul_((by_divergence_C * rest_C)[:, None]))
            if grad_hidden_MD is not None:
                grad_hidden_MD[part] = chunks.grad_hidden(grad_CV)
            if grad_weight_VD is not None:
                chunks.add_grad_weight(grad_weight_VD, grad_CV, part)
        grad_weight = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
        return grad_hidden_MD, grad_weight, None, None, None, None
