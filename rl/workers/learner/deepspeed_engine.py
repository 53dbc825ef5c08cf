"""A DeepSpeed engine's settings and state: shards, what is saved and restored, and a check that ZeRO-3 lacks.

Sharded loads a model cut into ZeRO-3 shards from its first tensor on, so that no rank ever holds the whole.

Inside Sharded.block transformers builds each module under deepspeed.zero.Init, which keeps this rank's share of every
parameter, and then fills one module after the other: rank 0 reads its tensors from the memory-mapped checkpoint, sends
them to all, and each keeps its share again. What is whole at a time is one module's own parameters: at most the
embedding, which takes up to three times its size while it is gathered and sent (tests/bench/load_memory.py). Adapters
are added afterwards, small and whole; deepspeed.initialize cuts them up beside the others.

All that a learner loads comes this way: policy, reference, teacher, and a reward model in training. A reward model that
scores (rl/scoring/reward_model.py) has a process of its own without DeepSpeed, and is loaded whole.
A checkpoint whose tensors transformers has to merge (experts of a mixture) is merged in host memory on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from rl.config import OptimConfig, RunConfig
from rl.model.policy import Backbone, Loading
from rl.settings.precision import BFLOAT16, FLOAT16
from rl.types import AhaError

# The reference is refreshed and restored shard by shard, so ZeRO-3 must not keep full copies of it between passes: by
# default it does for small parameters, and those would go on with the old weights.
SHARDS_ONLY = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}


class Engine(Protocol):
    """What is asked of a DeepSpeed engine here."""

    module: nn.Module
    optimizer: Any

    def save_checkpoint(
        self, save_dir: str, tag: str, *, save_latest: bool, exclude_frozen_parameters: bool
    ) -> object: ...

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, object]: ...


def engine_config(cfg: RunConfig, optim: OptimConfig | None) -> dict[str, object]:
    """DeepSpeed's settings for the policy or, without optim, for a frozen model."""
    zero: dict[str, object] = {"stage": cfg.learner.zero_stage, "overlap_comm": False}
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero | (SHARDS_ONLY if optim is None else {}),
        "bf16": {"enabled": cfg.model.dtype == BFLOAT16},
        "fp16": {"enabled": cfg.model.dtype == FLOAT16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if optim is not None:
        adam = {"lr": optim.lr, "betas": [optim.beta1, optim.beta2], "eps": optim.eps,
                "weight_decay": optim.weight_decay, "torch_adam": True, "fused": True}  # fmt: skip
        config |= {"gradient_clipping": optim.max_grad_norm, "optimizer": {"type": "AdamW", "params": adam}}
    return config


def save(engine: Engine, folder: Path, rank: int, counters: dict[str, int], reference: nn.Module | None) -> None:
    """Write engine and optimiser, the counters, the random state and a reference that has moved (reference_version).

    Of the engine's model and of the reference only what is trained: the base under adapters is in the model's folder.
    """
    with _only_trained(engine.module):
        engine.save_checkpoint(str(folder), "engine", save_latest=False, exclude_frozen_parameters=True)
    state: dict[str, object] = {**counters, "rng": torch.get_rng_state()}
    if reference is not None and counters["reference_version"]:
        frozen = _frozen_names(engine.module)
        # A clone: DeepSpeed hangs objects of its own on its tensors.
        state["reference"] = {
            n: shard(p).detach().clone().cpu() for n, p in reference.named_parameters() if n not in frozen
        }
    torch.save(state, folder / f"rank_{rank}.pt")


def restore(engine: Engine, folder: Path, rank: int, reference: nn.Module | None) -> dict[str, int]:
    """Load what save wrote; returns the counters. Raises AhaError when there is no checkpoint of this rank.

    The frozen parameters stay as they are: that the base is the one of the save shows in the model's fingerprint.
    """
    with _only_trained(engine.module):
        path, _ = engine.load_checkpoint(str(folder), "engine")
    if path is None:
        raise AhaError(f"{folder}: DeepSpeed found no checkpoint of rank {rank} there")
    state = torch.load(folder / f"rank_{rank}.pt", weights_only=True)
    torch.set_rng_state(state.pop("rng"))
    copies = state.pop("reference", {})
    if reference is not None and state["reference_version"]:
        # A reference that was refreshed stands on the policy's base.
        frozen = _frozen_names(engine.module)
        base = {n: shard(p) for n, p in engine.module.named_parameters() if n in frozen}
        copy_shards(base | copies, reference)
    return state


def _frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained, under every name that a shared one has."""
    return {n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


@contextmanager
def _only_trained(module: nn.Module) -> Iterator[None]:
    """Inside the block the module's state dict has no frozen parameter, and loading one, still strict, misses none.

    DeepSpeed's own exclude_frozen_parameters leaves in a shared parameter's second name, a tied head, and loads what
    it wrote only without looking for missing names at all.
    """
    frozen = _frozen_names(module)

    def drop(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def allow(module: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]

    hooks = [module.register_state_dict_post_hook(drop), module.register_load_state_dict_post_hook(allow)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def copy_shards(source: dict[str, Tensor], target: nn.Module) -> None:
    """Copy this rank's parts, by name, into the target's parameters."""
    for name, p in target.named_parameters():
        shard(p).copy_(source[name])


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The parameter's shape before ZeRO-3 sharded it."""
    return tuple(vars(parameter).get("ds_shape", parameter.shape))


def shard(parameter: nn.Parameter) -> Tensor:
    """This rank's part of the parameter: DeepSpeed keeps a ZeRO-3 shard in an attribute of its own."""
    part: Tensor = vars(parameter).get("ds_tensor", parameter.data)
    return part


def check_gradients_before_stepping(engine: Engine, stage: int) -> None:
    """Make ZeRO-3 look for non-finite gradients in every precision, as ZeRO-1 and 2 do; it does so in float16 only."""
    if stage != 3:
        return
    optimizer = engine.optimizer

    def checked(update_scale: bool = True) -> bool:
        optimizer.overflow = False
        optimizer.check_overflow()
        return optimizer._loss_scale_update_and_overflow_cleanup() if update_scale else optimizer.overflow

    optimizer._overflow_check_and_loss_scale_update = checked


class Sharded(Loading):
    """Loads ZeRO-3 shards in float32, then casts the parameters to the model's dtype. Every rank must load the same
    models in the same order.

    In float32 whatever the model's precision: asked for bfloat16, zero.Init rounds every tensor that is made while the
    model is built, the rotary embedding's frequencies among them.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @contextmanager
    def block(self) -> Iterator[None]:
        # transformers keeps only a weak reference: the setting must have a name until the block ends.
        setting = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
        assert setting.is_zero3()
        try:
            yield
        finally:
            unset_hf_deepspeed_config()

    def filling(self, parameter: nn.Parameter) -> AbstractContextManager[object]:
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)

    def finish(self, model: Backbone, path: str) -> None:
        refuse_whole_parameters(model, path)
        cast_shards(model, self.dtype)


@torch.no_grad()
def cast_shards(model: nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter this dtype, as deepspeed.initialize does for those that are not sharded yet."""
    for parameter in model.parameters():
        part = shard(parameter)
        part.data = part.data.to(dtype)
        parameter.data = parameter.data.to(dtype)


def refuse_whole_parameters(model: nn.Module, path: str) -> None:
    """Raise AhaError when a loaded parameter, an adapter's aside, is whole: a large model would fill the memory."""
    whole = [n for n, p in model.named_parameters() if ".lora_" not in n and (p.numel() or "ds_tensor" not in vars(p))]
    if whole:
        raise AhaError(
            f"{path}: {len(whole)} parameters, the first of them {whole[0]}, were loaded whole under "
            "learner.zero_stage=3: this transformers or DeepSpeed does not shard what it loads; install the versions "
            "that Aha pins, or use learner.zero_stage=2"
        )
