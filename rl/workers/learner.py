"""The learner: one data-parallel rank of a DeepSpeed engine that trains a Policy. The only file that imports deepspeed.

Two scalings hide in DeepSpeed: backward() divides by the accumulation steps, and gradients are averaged over ranks.
Here the packer has put the whole denominator into the loss weights, so the loss is multiplied by the world size,
scale_wrt_gas is off, and the accumulation boundary is marked by hand.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rl.backend import Task
from rl.config import RunConfig
from rl.loss import nll_loss, policy_loss
from rl.model import ModelWriter, Policy, ScoreInput, load_policy
from rl.schedule import learning_rate
from rl.types import AhaError, MicroBatch, StepStats, SyncReport
from rl.workers.gather import gather_groups

if TYPE_CHECKING:
    from rl.workers.weights import SyncClient, WeightSender

# The reference is refreshed and restored shard by shard, so ZeRO-3 must not keep full copies of it between passes: by
# default it does for small parameters, and those would go on with the old weights.
SHARDS_ONLY = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Learner:
    """One rank. Every method is called on every rank, in the same order: most hold collectives."""

    def __init__(self, cfg: RunConfig, rank: int, device: str, threads: int) -> None:
        self.cfg, self.rank = cfg, rank
        self.device = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
        torch.set_num_threads(max(1, threads))
        torch.manual_seed(cfg.seed)
        self.updates = 0
        self.reference: Policy | None = None
        self.reference_version = 0
        self.sender: WeightSender | None = None

    def connect(self, address: str, port: int) -> None:
        """Join the learners' process group. Bounded by cluster.start_timeout_s."""
        ranks = self.cfg.learner.ranks
        # DeepSpeed reads these even when it is told everything by argument.
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

    # -------------------------------------------------------------------------------------------- set-up

    def load(self, task: Task) -> str:
        """Build the engine (and the reference, when the KL needs one). Returns the model's fingerprint."""
        self.task = task
        dtype = DTYPES[self.cfg.model.dtype]
        # DeepSpeed keeps float32 master weights and casts the module itself.
        policy = load_policy(task.model_path, self.cfg.learner, self.device, dtype=torch.float32)
        if self.cfg.learner.zero_stage == 0 and dtype == torch.float32:
            policy = policy.to(dtype)
        self.engine, _, _, _ = deepspeed.initialize(model=policy, config=self._ds_config(train=True))
        _check_gradients_before_stepping(self.engine, self.cfg.learner.zero_stage)
        self.policy: Policy = self.engine.module
        self.updates = 0
        self.reference = None
        needs_reference = task.grpo is not None and task.grpo.kl_coef > 0
        if needs_reference:
            self.reference = self._load_reference(task.reference_path or task.model_path, dtype)
        self.reference_version = 0
        return self.fingerprint()

    def _load_reference(self, path: str, dtype: torch.dtype) -> Policy:
        reference = load_policy(path, self.cfg.learner, self.device, dtype=dtype)
        reference.requires_grad_(False)
        if self.cfg.learner.zero_stage == 3:
            engine, _, _, _ = deepspeed.initialize(model=reference, config=self._ds_config(train=False))
            self.reference_engine = engine
            return engine.module
        return reference

    def _ds_config(self, *, train: bool) -> dict[str, object]:
        optim, stage = self.task.optim, self.cfg.learner.zero_stage
        config: dict[str, object] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": optim.max_grad_norm,
            "zero_optimization": {"stage": stage, "overlap_comm": False} | ({} if train else SHARDS_ONLY),
            "bf16": {"enabled": self.cfg.model.dtype == "bfloat16"},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        if train:
            adam = {"lr": optim.lr, "betas": [optim.beta1, optim.beta2], "eps": optim.eps,
                    "weight_decay": optim.weight_decay, "torch_adam": True, "fused": True}  # fmt: skip
            config["optimizer"] = {"type": "AdamW", "params": adam}
        return config

    def fingerprint(self) -> str:
        """Hash of the parameters' names and shapes: tells one architecture from another."""
        shapes = [(name, tuple(full_shape(p))) for name, p in self.policy.hf.named_parameters()]
        return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]

    # -------------------------------------------------------------------------------------------- training

    def step(self, updates_U: list[list[MicroBatch]]) -> StepStats:
        """Train on one rollout batch: for each update, this rank's micro-batches.

        Raises AhaError when sampler and learner disagree on the logprobs by more than the limit, before any weight
        has moved.
        """
        clock = _Clock()
        grpo = self.task.grpo
        old_UM: list[list[Tensor]] | None = None
        if grpo is not None and grpo.old_logprobs == "learner" and len(updates_U) > 1:
            with clock("scoring"):
                old_UM = [[self._score(mb) for mb in micro_batches] for micro_batches in updates_U]
        total = _Totals()
        gap = (float("nan"), float("nan"))
        losses, norms, rate, skipped = [], [], 0.0, 0
        for u, micro_batches in enumerate(updates_U):
            if self._refresh_is_due():
                self._refresh_reference()
            rate = learning_rate(self.task.optim, self.updates, self.task.total_updates)
            self.updates += 1
            if not micro_batches:
                continue
            totals = _Totals()
            for i, micro_batch in enumerate(micro_batches):
                old = old_UM[u][i] if old_UM is not None else None
                self.engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
                with clock("update"):
                    totals.add(*self._accumulate(micro_batch, old, clock))
            loss, metrics = totals.reduce(self.device)
            if u == 0 and grpo is not None:
                gap = self._check_gap(metrics)
            with clock("update"):
                applied, norm = self._apply(rate)
            skipped += not applied
            losses.append(loss)
            norms.append(norm)
            total.merge(totals)
        _, metrics = total.reduce(self.device)
        tokens = int(metrics.pop("tokens", 0))
        for name in ("gap", "max/gap"):  # of the first update alone it says what it should: later ones have moved on
            metrics.pop(name, None)
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
        )

    def _accumulate(self, mb: MicroBatch, old_M: Tensor | None, clock: _Clock) -> tuple[float, dict[str, Tensor]]:
        """Forward and backward of one micro-batch. Returns its share of the loss and its metric sums."""
        batch = ScoreInput.of(mb, self.device)
        take = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(self.device)[batch.index_M]  # noqa: E731
        weight_M, mask_M = take(mb.loss_weight_T), take(mb.loss_mask_T)
        grpo = self.task.grpo
        ref_M = None
        if self.reference is not None:
            with clock("reference"), torch.no_grad():
                ref_M = self.reference(batch)[0]
        logprobs_M, entropy_M = self.engine(batch)
        if grpo is None:
            loss, metrics = nll_loss(logprobs_M, mask_M, weight_M)
        else:
            sampler_M = take(mb.sampler_logprobs_T)
            on_policy_M = logprobs_M.detach() if old_M is None else old_M
            loss, metrics = policy_loss(
                grpo,
                logprobs_T=logprobs_M,
                old_logprobs_T=sampler_M if grpo.old_logprobs == "sampler" else on_policy_M,
                sampler_logprobs_T=sampler_M,
                ref_logprobs_T=ref_M,
                advantages_T=take(mb.advantages_T),
                loss_mask_T=mask_M,
                loss_weight_T=weight_M,
                sequence_T=take(mb.sequence_T),
                entropy_T=entropy_M,
            )
            gap_M = (sampler_M - logprobs_M.detach()).abs() * (mask_M * (weight_M > 0))
            metrics["gap"] = gap_M.sum()
            metrics["max/gap"] = gap_M.max()
        self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        return float(loss.detach()), metrics

    def _apply(self, rate: float) -> tuple[bool, float]:
        """One optimiser update at this learning rate. Returns whether it was applied and the gradient norm."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        norm = None
        if self.cfg.learner.zero_stage == 0 and self.cfg.model.dtype == "float32":
            # The bare optimiser neither looks for non-finite gradients nor reports a norm. Gradients are averaged
            # already, so every rank sees the same.
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

    def _check_gap(self, metrics: dict[str, float]) -> tuple[float, float]:
        mean, largest = metrics.pop("gap"), metrics.pop("max/gap")
        if not mean <= self.cfg.gap_limit:
            raise AhaError(
                f"sampler and learner disagree: mean |logprob difference| {mean:.2e} nats (largest {largest:.2e}) is "
                f"above the limit of {self.cfg.gap_limit:g}; the sampler's weights, temperature or template are not "
                "the learner's. No weight was updated. Look at the last weight sync, or raise grpo.max_logprob_gap"
            )
        return mean, largest

    @torch.no_grad()
    def _score(self, mb: MicroBatch) -> Tensor:
        return self.engine(ScoreInput.of(mb, self.device))[0].detach()

    def measure_gap(self, micro_batches: list[MicroBatch]) -> tuple[float, float]:
        """Mean and largest |sampler - learner logprob| on these micro-batches, nats, without training."""
        totals = _Totals()
        for mb in micro_batches:
            index = np.flatnonzero(mb.loss_mask_T)
            gap_M = (torch.from_numpy(mb.sampler_logprobs_T[index]).to(self.device) - self._score(mb)).abs()
            counted = {"gap": gap_M.sum(), "max/gap": gap_M.max(), "tokens": torch.tensor(float(len(gap_M)))}
            totals.add(0.0, counted)
        _, metrics = totals.reduce(self.device)
        return self._check_gap(metrics)

    def _refresh_is_due(self) -> bool:
        every = self.task.grpo.ref_refresh_steps if self.task.grpo is not None else 0
        return self.reference is not None and every > 0 and self.updates > 0 and self.updates % every == 0

    def _refresh_reference(self) -> None:
        assert self.reference is not None
        with torch.no_grad():
            for policy_p, ref_p in zip(self.policy.parameters(), self.reference.parameters(), strict=True):
                _shard(ref_p).copy_(_shard(policy_p))
        self.reference_version = self.updates

    # -------------------------------------------------------------------------------------------- weights out

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor), gathered by layer group under ZeRO-3. Iterate on every rank."""
        named = [(name, p) for name, p in self.policy.hf.named_parameters()]
        yield from gather_groups(named, self._gathered)

    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        if self.cfg.learner.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(parameters)

    def connect_samplers(self, client: SyncClient, kind: str, address: str, port: int, num_sampler_ranks: int) -> None:
        """Open the way to the samplers through vLLM's weight-transfer interface."""
        from rl.workers.weights import WeightSender  # here, since importing vLLM takes seconds

        self.sender = WeightSender(
            kind,
            rank=self.rank,
            client=client,
            address=address,
            port=port,
            num_sampler_ranks=num_sampler_ranks,
            bucket_bytes=self.cfg.cluster.bucket_mib << 20,
        )
        self._point_sender()

    def _point_sender(self) -> None:
        assert self.sender is not None
        # A CPU sampler runs with untied embeddings, so a tied head travels explicitly: left to itself it goes stale.
        tied = self.policy.tied_names() if self.device.type == "cpu" else {}
        shapes = [(name, tuple(full_shape(p))) for name, p in self.policy.hf.named_parameters()]
        self.sender.point(shapes, self.full_parameters, DTYPES[self.cfg.model.dtype], tied=tied)

    def send_weights(self, version: int) -> SyncReport:
        """Push the policy's weights to every sampler as this version."""
        assert self.sender is not None
        self._point_sender()
        return self.sender.send(version)

    # -------------------------------------------------------------------------------------------- disk

    def save(self, folder: str) -> None:
        """Write engine, optimiser, counters, reference and random states of this rank into an existing folder."""
        self.engine.save_checkpoint(folder, tag="engine", save_latest=False)
        state = {"updates": self.updates, "reference_version": self.reference_version, "rng": torch.get_rng_state()}
        if self.reference is not None and self.reference_version:
            # A clone: DeepSpeed hangs objects of its own on its tensors.
            state["reference"] = {n: _shard(p).detach().clone().cpu() for n, p in self.reference.named_parameters()}
        torch.save(state, Path(folder) / f"rank_{self.rank}.pt")

    def restore(self, folder: str) -> None:
        """Load what save wrote. The number of ranks and the ZeRO stage must be those of the save."""
        path, _ = self.engine.load_checkpoint(folder, tag="engine")
        if path is None:
            raise AhaError(f"{folder}: DeepSpeed found no checkpoint of rank {self.rank} there")
        state = torch.load(Path(folder) / f"rank_{self.rank}.pt", weights_only=True)
        self.updates, self.reference_version = state["updates"], state["reference_version"]
        torch.set_rng_state(state["rng"])
        if self.reference is not None and self.reference_version:
            with torch.no_grad():
                for name, p in self.reference.named_parameters():
                    _shard(p).copy_(state["reference"][name])

    def export(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder (rank 0 writes, all ranks gather)."""
        writer = ModelWriter(Path(folder)) if self.rank == 0 else None
        for name, tensor in self.full_parameters():
            if writer is not None:
                writer.add(name, tensor.to(DTYPES[self.cfg.model.dtype]))
        if writer is not None:
            writer.close(self.policy.hf.config, self.task.model_path)

    def weights_hash(self) -> str:
        """sha256 over the full parameters, in order."""
        digest = hashlib.sha256()
        for name, tensor in self.full_parameters():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def parameter_sums(self) -> dict[str, float]:
        """Name -> sum of the absolute values, for the check that every parameter moves."""
        return {name: float(tensor.detach().double().abs().sum()) for name, tensor in self.full_parameters()}


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The parameter's shape before ZeRO-3 sharded it."""
    return tuple(vars(parameter).get("ds_shape", parameter.shape))


def _shard(parameter: nn.Parameter) -> Tensor:
    """This rank's part of the parameter: DeepSpeed keeps a ZeRO-3 shard in an attribute of its own."""
    shard: Tensor = vars(parameter).get("ds_tensor", parameter.data)
    return shard


def _check_gradients_before_stepping(engine: deepspeed.DeepSpeedEngine, stage: int) -> None:
    """Make ZeRO-3 look for non-finite gradients in every precision, as ZeRO-1 and 2 do; it does so in float16 only."""
    if stage != 3:
        return
    optimizer = engine.optimizer

    def checked(update_scale: bool = True) -> bool:
        optimizer.overflow = False
        optimizer.check_overflow()
        return optimizer._loss_scale_update_and_overflow_cleanup() if update_scale else optimizer.overflow

    optimizer._overflow_check_and_loss_scale_update = checked


class _Clock:
    """Seconds by phase. An inner phase's time is not counted in the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[tuple[str, float]] = []

    def __call__(self, phase: str) -> _Clock:
        self._next = phase
        return self

    def __enter__(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self._count(now)
        self._stack.append((self._next, now))

    def __exit__(self, *exc: object) -> None:
        now = time.perf_counter()
        self._count(now)
        self._stack.pop()
        if self._stack:
            self._stack[-1] = (self._stack[-1][0], now)

    def _count(self, now: float) -> None:
        phase, since = self._stack[-1]
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since


class _Totals:
    """Metric sums of micro-batches; names that start with max/ keep the largest."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.sums: dict[str, Tensor] = {}

    def add(self, loss: float, metrics: dict[str, Tensor]) -> None:
        self.loss += loss
        for name, value in metrics.items():
            seen = self.sums.get(name)
            if seen is None:
                self.sums[name] = value.detach().double().cpu()
            elif name.startswith("max/"):
                self.sums[name] = torch.maximum(seen, value.detach().double().cpu())
            else:
                self.sums[name] = seen + value.detach().double().cpu()

    def merge(self, other: _Totals) -> None:
        self.add(other.loss, other.sums)

    def reduce(self, device: torch.device) -> tuple[float, dict[str, float]]:
        """Loss summed over ranks; metrics as means over the tokens of all ranks, 'tokens' as their number."""
        if not self.sums:
            return 0.0, {}
        names = sorted(self.sums)
        sums = torch.stack([torch.tensor(self.loss, dtype=torch.float64), *(self.sums[n] for n in names)]).to(device)
        peaks = sums.clone()
        dist.all_reduce(sums)
        dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
        tokens = max(1.0, float(sums[1 + names.index("tokens")]))
        metrics = {}
        for i, name in enumerate(names, start=1):
            peak = float(peaks[i])
            metrics[name] = peak if name.startswith("max/") else float(sums[i]) / (1.0 if name == "tokens" else tokens)
        loss = float(sums[0])
        return (loss if math.isfinite(loss) else float("nan")), metrics
