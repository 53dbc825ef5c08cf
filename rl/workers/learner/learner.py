"""The learner: one data-parallel rank of a DeepSpeed engine that trains a Policy or a reward model.

DeepSpeed scales gradients in two hidden ways: backward() divides by the number of accumulation steps, and gradients are
averaged over the ranks. Both would change the loss, whose whole denominator the packer has put into the loss weights
already. So the loss is multiplied by the number of ranks, scale_wrt_gas is off, and the learner itself marks the last
micro-batch of an update (the accumulation boundary).
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn

from rl.algorithms.learning_rate import learning_rate
from rl.algorithms.policy_loss import logprob_gap, nll_loss
from rl.backend import Task
from rl.config import LoraConfig, RunConfig
from rl.model.classifier import load_trainee
from rl.model.policy import UNSHARDED, Backbone, ModelInput, Policy, load_policy
from rl.model.sequence_parallel import WHOLE
from rl.settings.precision import HALF, torch_dtype
from rl.types import BadInput, MicroBatch, StepStats
from rl.workers.learner import deepspeed_engine
from rl.workers.learner.deepspeed_engine import (
    Sharded,
    check_gradients_before_stepping,
    copy_shards,
    engine_config,
    free,
    full_shape,
    shard,
)
from rl.workers.learner.masters import WeightsMoved, dither_masters
from rl.workers.learner.meter import Clock, Totals, checked_gap, mean_over_ranks
from rl.workers.learner.objectives import Models, micro_batch_loss
from rl.workers.learner.weights_out import WeightReader, add_to_hash


class Learner(WeightReader):
    """One rank. Call every method on every rank, in the same order: most of them wait for the other ranks.

    updates: optimiser updates since load. share: which slice of each sequence this rank computes (all of it, unless
    learner.sequence_parallel is above 1). reference_version: `updates` when the reference was last copied from the
    policy, 0 for never.
    """

    def __init__(self, cfg: RunConfig, rank: int, device: str, threads: int) -> None:
        self.cfg, self.rank = cfg, rank
        self.loading = Sharded(torch_dtype(cfg.model.dtype)) if cfg.learner.zero_stage == 3 else UNSHARDED
        self.device = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
        torch.set_num_threads(max(1, threads))
        torch.manual_seed(cfg.seed)
        self.updates = 0
        self.reference: Policy | None = None
        self.reference_version = 0
        self.teacher: Policy | None = None
        self.sender = None
        self.share = WHOLE

    def connect(self, address: str, port: int) -> None:
        """Join the learners' process group, in which no collective waits longer than cluster.step_timeout_s."""
        ranks = self.cfg.learner.ranks
        # DeepSpeed would compile this at the first start, for a minute or more. Only tensor-parallel inference uses it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # DeepSpeed reads these although the arguments below say the same.
        os.environ |= {
            "MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(self.rank),
            "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0",
        }  # fmt: skip
        deepspeed.init_distributed(
            dist_backend="nccl" if self.device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            init_method=f"tcp://{address}:{port}",
            rank=self.rank,
            world_size=ranks,
            timeout=timedelta(seconds=self.cfg.cluster.step_timeout_s),
            verbose=False,
        )
        if self.cfg.learner.sequence_parallel > 1:
            from rl.workers.learner.ulysses import join_sequence_group

            self.share = join_sequence_group(self.cfg.learner.sequence_parallel, self.cfg.cluster.step_timeout_s)

    # -------------------------------------------------------------------------------------------- set-up

    def load(self, task: Task) -> str:
        """Build the engine, and the reference and the teacher if the task has them. Returns the model's fingerprint."""
        self._free_models()
        cached = task.distill is not None and task.distill.cached
        if self.share.size > 1 and (task.grpo or task.reward or task.teacher_path or cached):
            raise BadInput(f"learner.sequence_parallel={self.share.size} is for SFT without a teacher; use 1")
        self.task = task
        dtype = torch_dtype(self.cfg.model.dtype)
        # In float32: DeepSpeed makes its float32 master copy from it, then casts the module to the model's dtype.
        policy = self._load_trained(torch.float32)
        self.engine, _, _, _ = deepspeed.initialize(
            model=policy,
            model_parameters=[p for p in policy.parameters() if p.requires_grad],
            config=engine_config(self.cfg, self.task.optim),
        )
        check_gradients_before_stepping(self.engine, self.cfg.learner.zero_stage)
        if self.cfg.learner.dither and self.cfg.model.dtype in HALF:
            dither_masters(self.engine.module.hf.named_parameters(), self.cfg.seed)
        self.policy: Backbone = self.engine.module
        self.updates = 0
        self.frozen_engines: list[deepspeed.DeepSpeedEngine] = []
        self.base_is_reference = self._needs_reference() and self._base_stays_reference()
        if self._needs_reference() and not self.base_is_reference:
            path = task.reference_path or task.model_path
            self.reference = self._freeze(self._load_policy(path, dtype, self.cfg.model.lora))
        if task.teacher_path:
            self.teacher = self._freeze(self._load_policy(task.teacher_path, dtype, LoraConfig()))
        self.reference_version = 0
        return self.fingerprint()

    def why_not_shared(self) -> str:
        """Why the task's models cannot compute a group's prompt once, as the end of a sentence; "" where they can."""
        models = [m for m in (self.policy, self.reference, self.teacher) if m is not None]
        return next((m.why_not_shared for m in models if m.why_not_shared), "")

    def _free_models(self) -> None:
        """Free the models of an earlier task before the next are built: together they need twice the memory."""
        self.reference = self.teacher = None
        engines = [vars(self).pop("engine", None), *vars(self).pop("frozen_engines", ())]
        for name in ("policy", "known_names"):
            vars(self).pop(name, None)
        free(engines)

    def _load_trained(self, dtype: torch.dtype) -> Backbone:
        if self.task.reward is None:
            return self._load_policy(self.task.model_path, dtype, self.cfg.model.lora)
        path, learner = self.task.model_path, self.cfg.learner
        return load_trainee(path, learner, self.device, dtype=dtype, seed=self.cfg.seed, loading=self.loading)

    def _load_policy(self, path: str, dtype: torch.dtype, lora: LoraConfig) -> Policy:
        cfg = self.cfg
        return load_policy(path, cfg.learner, self.device, dtype=dtype, lora=lora, seed=cfg.seed, loading=self.loading)

    def _needs_reference(self) -> bool:
        return self.task.grpo is not None and self.task.grpo.kl_coef > 0

    def _base_stays_reference(self) -> bool:
        """Whether the base under the LoRA adapters is the reference in every step, so that no second copy is needed."""
        task = self.task
        assert task.grpo is not None
        refreshed = 0 < task.grpo.ref_refresh_steps < task.total_updates
        same = task.reference_path in ("", task.model_path)
        return self.cfg.model.lora.rank > 0 and same and not refreshed

    def _freeze(self, policy: Policy) -> Policy:
        """The model without gradients. Under ZeRO-3 it is sharded as the policy is."""
        policy.requires_grad_(False)
        if self.cfg.learner.zero_stage == 3:
            engine, _, _, _ = deepspeed.initialize(model=policy, config=engine_config(self.cfg, None))
            self.frozen_engines.append(engine)
            return engine.module
        return policy

    def fingerprint(self) -> str:
        """Hash of all parameters' names and shapes and of the frozen parameters' values.

        A run resumes only if it is unchanged. Checkpoints hold no frozen parameters, so another base under the same
        adapters would go unnoticed without their values.
        """
        shapes = [(name, tuple(full_shape(p))) for name, p in self.policy.hf.named_parameters()]
        digest = hashlib.sha256(repr(shapes).encode())
        for name, tensor in self.frozen_parameters():
            add_to_hash(digest, name, tensor)
        return digest.hexdigest()[:16]

    # -------------------------------------------------------------------------------------------- training

    def step(self, updates_U: list[list[MicroBatch]]) -> StepStats:
        """Train on one rollout batch. updates_U: this rank's micro-batches of each optimiser update.

        Raises AhaError, before any weight has changed, if sampler and learner disagree on the logprobs by more than
        cfg.gap_limit.
        """
        clock = Clock()
        grpo = self.task.grpo
        old_UM: list[list[Tensor]] | None = None
        if grpo is not None and grpo.old_logprobs != "sampler" and len(updates_U) > 1:
            # Before any update: all updates of the batch compare with the policy that the first one starts from.
            with clock("scoring"):
                old_UM = [[self._score(mb) for mb in micro_batches] for micro_batches in updates_U]
        total = Totals()
        gap = (float("nan"), float("nan"))
        losses, moved = list[float](), list[float]()
        norms, rate, skipped = [], 0.0, 0
        for u, micro_batches in enumerate(updates_U):
            if self._refresh_is_due():
                self._refresh_reference()
            rate = learning_rate(self.task.optim, self.updates, self.task.total_updates)
            self.updates += 1  # also of an update without data, so that the learning-rate schedule goes on
            if not micro_batches:
                continue
            totals = Totals()
            for i, micro_batch in enumerate(micro_batches):
                old = old_UM[u][i] if old_UM is not None else None
                self.engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
                with clock("update"):
                    totals.add(*self._accumulate(micro_batch, old, clock))
            loss, metrics = totals.reduce(self.device)
            if not losses and grpo is not None:  # in later updates the policy is no longer the one that sampled
                gap = checked_gap(metrics, self.cfg.gap_limit)
            with clock("update"):
                weights_moved = WeightsMoved(self.policy.hf.named_parameters())
                applied, norm = self._apply(rate)
                moved.append(weights_moved.share())
            skipped += not applied
            losses.append(loss)
            norms.append(norm)
            total.merge(totals)
        _, metrics = total.reduce(self.device)
        tokens = int(metrics.pop("tokens", 0))
        for name in ("gap", "max/gap", "fresh"):  # these are over all updates; StepStats has those of the first alone
            metrics.pop(name, None)
        if moved:
            metrics["policy/weights_moved"] = mean_over_ranks(float(np.mean(moved)), self.device)
        return StepStats(
            loss=float(np.mean(losses)) if losses else 0.0,
            grad_norm=float(np.mean(norms)) if norms else 0.0,
            learning_rate=rate,
            gap_mean=gap[0],
            gap_max=gap[1],
            updates=len(losses) - skipped,
            skipped_updates=skipped,
            tokens=tokens,
            metrics=metrics,
            seconds=clock.seconds,
            still=weights_moved.still() if moved and applied else (),
        )

    def _accumulate(self, mb: MicroBatch, old_M: Tensor | None, clock: Clock) -> tuple[float, dict[str, Tensor]]:
        """Forward and backward of one micro-batch. Returns its share of the loss and its metric sums."""
        batch = ModelInput.of(mb, self.device, self.share)
        models = Models(self.engine, self.policy, self.reference, self.teacher, self.base_is_reference, self._gathered)
        loss, metrics = micro_batch_loss(self.task, models, mb, batch, old_M, clock)
        self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        return float(loss.detach()), metrics

    def _apply(self, rate: float) -> tuple[bool, float]:
        """One optimiser update. Returns (whether it was applied, gradient norm); NaN if a gradient is not finite."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        norm = None
        if self.cfg.learner.zero_stage == 0 and self.cfg.model.dtype == "float32":
            # Without ZeRO and in float32 DeepSpeed's engine steps a plain optimiser, which neither looks for gradients
            # that are not finite nor reports a norm. Gradients are averaged already, so all ranks decide alike.
            norm = float(
                torch.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
            )
            if not math.isfinite(norm):
                self.engine.zero_grad()
                return False, float("nan")
        self.engine.step()
        applied = bool(self.engine.was_step_applied())
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return applied, float(norm) if norm is not None and applied else float("nan")

    @torch.no_grad()
    def _score(self, mb: MicroBatch) -> Tensor:
        return self.engine(ModelInput.of(mb, self.device, self.share))[0].detach()

    def score(self, micro_batches: list[MicroBatch]) -> list[np.ndarray]:
        """Logprobs of each micro-batch's masked-in tokens, float32 (M,), at each token's own temperature."""
        return [self._score(mb).float().cpu().numpy() for mb in micro_batches]

    def measure_gap(self, micro_batches: list[MicroBatch]) -> tuple[float, float]:
        """(mean, largest) |sampler logprob - learner logprob| on these micro-batches in nats, without training."""
        totals = Totals()
        for mb in micro_batches:
            index = np.flatnonzero(mb.loss_mask_T)
            sampler_M = torch.from_numpy(mb.sampler_logprobs_T[index]).to(self.device)
            fresh_M = torch.ones(len(index)) if mb.fresh_T is None else torch.from_numpy(mb.fresh_T[index])
            fresh_M = fresh_M.to(self.device)
            gap = logprob_gap(sampler_M * fresh_M, self._score(mb) * fresh_M)
            totals.add(0.0, gap | {"tokens": torch.tensor(float(len(index))), "fresh": fresh_M.sum()})
        _, metrics = totals.reduce(self.device)
        return checked_gap(metrics, self.cfg.gap_limit)

    @torch.no_grad()
    def mean_nll(self, micro_batches: list[MicroBatch]) -> float:
        """Mean negative log likelihood of the masked-in tokens of all ranks' micro-batches, nats, without training."""
        totals = Totals()
        for mb in micro_batches:
            logprobs_M = self._score(mb)
            totals.add(0.0, nll_loss(logprobs_M, torch.ones_like(logprobs_M), torch.zeros_like(logprobs_M))[1])
        return totals.reduce(self.device)[1].get("nll", 0.0)

    @torch.no_grad()
    def scores(self, micro_batches: list[MicroBatch]) -> list[np.ndarray]:
        """A reward model's score of each masked-in token, float32 (M,), for each micro-batch, without training."""
        return [self.engine(ModelInput.of(mb, self.device)).float().cpu().numpy() for mb in micro_batches]

    def _refresh_is_due(self) -> bool:
        every = self.task.grpo.ref_refresh_steps if self.task.grpo is not None else 0
        return self.reference is not None and every > 0 and self.updates > 0 and self.updates % every == 0

    def _refresh_reference(self) -> None:
        assert self.reference is not None
        copy_shards({name: shard(p) for name, p in self.policy.named_parameters()}, self.reference)
        self.reference_version = self.updates

    # -------------------------------------------------------------------------------------------- disk

    def save(self, folder: str) -> None:
        """Write this rank's engine, optimiser, counters, reference and random state into an existing folder."""
        counters = {"updates": self.updates, "reference_version": self.reference_version}
        deepspeed_engine.save(self.engine, Path(folder), self.rank, counters, self.reference)

    def restore(self, folder: str) -> None:
        """Load what save wrote. The number of ranks and the ZeRO stage must be those of the save."""
        counters = deepspeed_engine.restore(self.engine, Path(folder), self.rank, self.reference)
        self.updates, self.reference_version = counters["updates"], counters["reference_version"]

    def master_sums(self) -> dict[str, float]:
        """Name -> sum of a parameter's absolute values, of its float32 master copy if it has one. Adapters included.

        It shows updates that are too small to change the bfloat16 weights.
        """
        sums = {}
        for name, parameter in self.policy.hf.named_parameters():
            master = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
            with self._gathered([parameter]):
                sums[name] = float((parameter if master is None else master).detach().double().abs().sum())
        return sums

    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        if self.cfg.learner.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(parameters)
