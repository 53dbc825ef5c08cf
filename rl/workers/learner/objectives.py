"""The loss of one micro-batch: of GRPO, of supervised examples, of distillation, or of a reward model.

Axis suffixes: _T tokens of the micro-batch, _M its masked-in tokens, _E the teacher's hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rl.algorithms.distill import CachedDistillation, Distillation, hidden_states, teacher_advantage
from rl.algorithms.policy_loss import logprob_gap, nll_loss, policy_loss
from rl.algorithms.reward_loss import reward_loss
from rl.backend import Task
from rl.config import DistillConfig, GRPOConfig
from rl.model.lora import without_adapters
from rl.model.policy import Backbone, ModelInput, Policy
from rl.types import MicroBatch, TopLogprobs
from rl.workers.learner.meter import Clock


@dataclass(frozen=True, slots=True)
class Models:
    """The models that a loss needs.

    engine: DeepSpeed's wrapper of the policy; a forward pass through it keeps gradients. reference, teacher: frozen;
    None where the task has none. base_is_reference: the policy without its adapters is the reference.
    gathered(parameters): a context in which they are whole on this rank.
    """

    engine: nn.Module
    policy: Backbone
    reference: Policy | None
    teacher: Policy | None
    base_is_reference: bool
    gathered: Callable[[list[nn.Parameter]], AbstractContextManager[object]]


def micro_batch_loss(
    task: Task, models: Models, mb: MicroBatch, batch: ModelInput, old_M: Tensor | None, clock: Clock
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass of the policy. Returns (this micro-batch's share of the update's loss, metric sums).

    batch: mb on the device. old_M: the policy's logprobs before the first update of the rollout batch; None in that
    first update, where they are the logprobs of this very pass.
    """
    with clock("reference"):
        ref_M = _reference_logprobs(models, batch)
    if task.reward is not None:
        scores_M = models.engine(batch)
        labels_M, weight_M = _masked_in(mb.labels_T, batch), _masked_in(mb.loss_weight_T, batch)
        return reward_loss(task.reward.kind, scores_M, labels_M, weight_M)
    if task.grpo is None:
        return _sft_loss(task, models, mb, batch, clock)
    return _grpo_loss(task.grpo, models, mb, batch, old_M, ref_M, clock)


def _masked_in(x_T: np.ndarray, batch: ModelInput) -> Tensor:
    """The masked-in tokens' values of an array over all tokens, on the batch's device."""
    return torch.from_numpy(np.ascontiguousarray(x_T)).to(batch.index_M.device)[batch.index_M]


def _grpo_loss(
    grpo: GRPOConfig,
    models: Models,
    mb: MicroBatch,
    batch: ModelInput,
    old_M: Tensor | None,
    ref_M: Tensor | None,
    clock: Clock,
) -> tuple[Tensor, dict[str, Tensor]]:
    weight_M, mask_M = _masked_in(mb.loss_weight_T, batch), _masked_in(mb.loss_mask_T, batch)
    logprobs_M, entropy_M = models.engine(batch)
    sampler_M = _masked_in(mb.sampler_logprobs_T, batch)
    on_policy_M = logprobs_M.detach() if old_M is None else old_M
    advantages_M, teacher_metrics = _advantages(
        grpo, models, batch, _masked_in(mb.advantages_T, batch), on_policy_M, clock
    )
    loss, metrics = policy_loss(
        grpo,
        logprobs_T=logprobs_M,
        old_logprobs_T=sampler_M if grpo.old_logprobs == "sampler" else on_policy_M,
        sampler_logprobs_T=sampler_M,
        ref_logprobs_T=ref_M,
        advantages_T=advantages_M,
        loss_mask_T=mask_M,
        loss_weight_T=weight_M,
        sequence_T=_masked_in(mb.sequence_T, batch),
        entropy_T=entropy_M,
    )
    fresh_M = mask_M if mb.fresh_T is None else mask_M * _masked_in(mb.fresh_T, batch)
    counted_M = fresh_M * (weight_M > 0)
    gap = logprob_gap(sampler_M * counted_M, logprobs_M.detach() * counted_M)
    return loss, metrics | teacher_metrics | gap | {"fresh": fresh_M.sum()}


def _advantages(
    grpo: GRPOConfig, models: Models, batch: ModelInput, advantages_M: Tensor, old_M: Tensor, clock: Clock
) -> tuple[Tensor, dict[str, Tensor]]:
    """The advantages, with the teacher's term added if there is a teacher, and its metric sums."""
    if models.teacher is None:
        return advantages_M, {}
    with clock("teacher"), torch.no_grad():
        teacher_M = models.teacher(batch)[0]
    added_M = teacher_advantage(teacher_M, old_M, grpo.teacher_coef)
    return advantages_M + added_M, {"teacher_kl": (old_M - teacher_M).detach().sum()}


def _sft_loss(
    task: Task, models: Models, mb: MicroBatch, batch: ModelInput, clock: Clock
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative log likelihood of the masked-in tokens or, with a teacher, the divergence from the teacher there."""
    weight_M, mask_M, distill = _masked_in(mb.loss_weight_T, batch), _masked_in(mb.loss_mask_T, batch), task.distill
    if distill is not None and distill.cached:
        loss, parts_2M = models.engine(batch, cached_distillation(distill, mb.teacher, weight_M))
    elif models.teacher is None:
        return nll_loss(models.engine(batch)[0], mask_M, weight_M)
    else:
        assert distill is not None
        with clock("teacher"), torch.no_grad():
            hidden_ME = models.teacher(batch, hidden_states)[0]
        head = models.teacher.hf.get_output_embeddings().weight
        with models.gathered([head]):
            loss, parts_2M = models.engine(batch, Distillation(distill, hidden_ME, head.data, weight_M))
    sums = parts_2M.sum(dim=1)
    return loss, {"tokens": mask_M.sum().float(), "divergence": sums[0], "nll": sums[1]}


def cached_distillation(cfg: DistillConfig, top: TopLogprobs | None, weight_M: Tensor) -> CachedDistillation:
    """The stored logprobs of a micro-batch as tensors on the device of the weights; top may be None without any weight.

    Raises ValueError unless there is one position for each learnt token.
    """
    if top is None:
        top = TopLogprobs(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
    if len(top.ids_NK) != len(weight_M):
        raise ValueError(f"{len(top.ids_NK)} positions with cached logprobs for {len(weight_M)} learnt tokens")
    ids_MK = torch.from_numpy(top.ids_NK.astype(np.int64)).to(weight_M.device)
    return CachedDistillation(cfg, ids_MK, torch.from_numpy(top.logprobs_NK).to(weight_M.device), weight_M)


@torch.no_grad()
def _reference_logprobs(models: Models, batch: ModelInput) -> Tensor | None:
    if models.reference is not None:
        logprobs_M: Tensor = models.reference(batch)[0]
        return logprobs_M
    if not models.base_is_reference:
        return None
    with without_adapters(models.policy):
        base_M: Tensor = models.engine(batch)[0].detach()
    return base_M
