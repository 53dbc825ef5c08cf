"""Distillation from a teacher's cached top-K logprobs: forward KL over the K tokens and one bucket for all the rest.

    KL = sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest)      p_rest = 1 - sum_k p_k, q_rest likewise

P is the teacher, Q the student: a KL of two distributions over K + 1 outcomes, so never negative, zero where they
agree, at most the full KL, and equal to it at K = V. The bucket is TRL's (_add_tail_bucket of its distillation
trainers). Without it the K probabilities add up to less than 1, and the student learns a distribution that is too sharp
(Anshumann et al. 2503.16870 on naive top-K). Within the rest nothing is learnt: each token keeps its share of it.

Axis suffixes: _M learnt tokens, _C tokens of a chunk, _D hidden size, _K cached tokens, _V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rl.config import DistillConfig
from rl.logprobs import Chunks
from rl.types import TopLogprobs


@dataclass(frozen=True)
class CachedDistillation:
    """The work of the student's head (rl.logprobs.HeadWork) where rows carry the teacher's logprobs.

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
