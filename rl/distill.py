"""Distillation by distribution: the student's next-token distribution is drawn to a frozen teacher's.

Hinton et al. 1503.02531; divergences as in GKD (2306.13649). Both models read the same tokens and need one tokenizer.

Axis suffixes: _M learnt tokens, _C tokens of a chunk, _D the student's hidden size, _E the teacher's, _V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.config import DistillConfig
from rl.logprobs import Chunks


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

    loss_weight_M: of each token, the denominator inside (rl/batch.py).
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
