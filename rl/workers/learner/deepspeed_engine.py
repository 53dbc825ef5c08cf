"""A DeepSpeed engine's settings, its checkpoints, ZeRO-3 shards, and a check for overflow that ZeRO-3 lacks.

How Sharded loads a model under ZeRO-3 so that no rank ever holds the whole: inside Sharded.block transformers builds
every module under deepspeed.zero.Init, which keeps only this rank's shard of each parameter. It then fills one module
after the other: rank 0 reads the module's tensors from the memory-mapped checkpoint and sends them to all ranks, and
each rank keeps its shard. At any time only one module's own parameters are whole. The largest is the embedding, which
takes up to three times its size while it is gathered and sent (tests/bench/load_memory.py). LoRA adapters are added
whole afterwards, since they are small, and deepspeed.initialize shards them.

A learner loads the policy, the reference, the teacher and a reward model in training this way. A reward model that only
scores (rl/scoring/reward_model.py) runs in a process without DeepSpeed and is loaded whole. If transformers has to
merge tensors of a checkpoint (a mixture's experts), every rank merges them in host memory.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from torch import Tensor, nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from rl.config import OptimConfig, RunConfig
from rl.model.policy import Backbone, Loading
from rl.settings.precision import BFLOAT16, FLOAT16
from rl.types import AhaError

# For frozen models. A reference is refreshed and restored shard by shard. By default ZeRO-3 keeps whole copies of small
# parameters between passes, which would then still hold the old weights.
SHARDS_ONLY = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}


def engine_config(cfg: RunConfig, optim: OptimConfig | None) -> dict[str, object]:
    """DeepSpeed's settings: for the model that is trained or, without optim, for a frozen one."""
    zero: dict[str, object] = {"stage": cfg.learner.zero_stage, "overlap_comm": False}
    zero |= SHARDS_ONLY if optim is None else {}
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
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
        if cfg.learner.offload == "optimizer":
            # torch_adam holds on the host too: DeepSpeed's own AdamW would be compiled at the first start.
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return config


def free(engines: list[deepspeed.DeepSpeedEngine | None]) -> None:
    """Take engines apart and give their memory back to the system. Empties the list; None stands for no engine.

    Without destroy() an engine lives as long as the process: torch's autograd nodes hold its hooks, and its hooks hold
    it, where Python's garbage collector does not see it.
    """
    while engines:
        engine = engines.pop()
        if engine is not None:
            engine.destroy()
        del engine
    FWD_MODULE_STACK.clear()  # in which ZeRO-3 keeps the last model that it ran
    gc.collect()  # an engine and its modules refer to each other, so counting references does not free them
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # a learner on a CPU is told to keep what it frees (KEEP_MEMORY)


def save(
    engine: deepspeed.DeepSpeedEngine, folder: Path, rank: int, counters: dict[str, int], reference: nn.Module | None
) -> None:
    """Write the engine with its optimiser, the counters, the random state, and the reference if it was ever refreshed.

    Frozen parameters are left out: a base under adapters is in the model's own folder.
    """
    with _only_trained(engine.module):
        engine.save_checkpoint(str(folder), "engine", save_latest=False, exclude_frozen_parameters=True)
    state: dict[str, object] = {**counters, "rng": torch.get_rng_state()}
    if reference is not None and counters["reference_version"]:
        frozen = _frozen_names(engine.module)
        # Cloned, because DeepSpeed attaches objects of its own to its tensors, which torch.save would write too.
        state["reference"] = {
            n: shard(p).detach().clone().cpu() for n, p in reference.named_parameters() if n not in frozen
        }
    torch.save(state, folder / f"rank_{rank}.pt")


def restore(engine: deepspeed.DeepSpeedEngine, folder: Path, rank: int, reference: nn.Module | None) -> dict[str, int]:
    """Load what save wrote. Returns the counters. Raises AhaError if this rank has no checkpoint there.

    Frozen parameters stay as they are. The model's fingerprint says whether they are those of the save.
    """
    with _only_trained(engine.module):
        path, _ = engine.load_checkpoint(str(folder), "engine")
    if path is None:
        raise AhaError(f"{folder}: DeepSpeed found no checkpoint of rank {rank} there")
    state = torch.load(folder / f"rank_{rank}.pt", weights_only=True)
    torch.set_rng_state(state.pop("rng"))
    copies = state.pop("reference", {})
    if reference is not None and state["reference_version"]:
        # The policy and a refreshed reference have the same frozen parameters.
        frozen = _frozen_names(engine.module)
        base = {n: shard(p) for n, p in engine.module.named_parameters() if n in frozen}
        copy_shards(base | copies, reference)
    return state


def _frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained. A shared parameter (a tied head) has several names."""
    return {n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


@contextmanager
def _only_trained(module: nn.Module) -> Iterator[None]:
    """Inside the block the module's state dict has no frozen parameters, and strict loading does not ask for them.

    DeepSpeed's own exclude_frozen_parameters is not enough: it writes the second name of a shared parameter (a tied
    head), and what it has written can only be loaded without any check for missing names.
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
    """Copy this rank's shards, by name, into the target's parameters."""
    for name, p in target.named_parameters():
        shard(p).copy_(source[name])


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The parameter's shape before ZeRO-3 sharded it."""
    return tuple(vars(parameter).get("ds_shape", parameter.shape))


def shard(parameter: nn.Parameter) -> Tensor:
    """This rank's part of the parameter. DeepSpeed keeps a ZeRO-3 shard in an attribute of the parameter."""
    part: Tensor = vars(parameter).get("ds_tensor", parameter.data)
    return part


def check_gradients_before_stepping(engine: deepspeed.DeepSpeedEngine, stage: int) -> None:
    """Make ZeRO-3 skip updates whose gradients are not finite. ZeRO-1 and 2 always do; ZeRO-3 only in float16."""
    if stage != 3:
        return
    optimizer = engine.optimizer

    def checked(update_scale: bool = True) -> bool:
        optimizer.overflow = False
        optimizer.check_overflow()
        return optimizer._loss_scale_update_and_overflow_cleanup() if update_scale else optimizer.overflow

    optimizer._overflow_check_and_loss_scale_update = checked


class Sharded(Loading):
    """Loads a model as ZeRO-3 shards. Every rank must load the same models in the same order.

    It loads in float32 and then casts the parameters. If zero.Init were given bfloat16, it would round every tensor
    that is made while the model is built, the frequencies of the rotary embedding among them.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @contextmanager
    def block(self) -> Iterator[None]:
        # transformers keeps only a weak reference to the setting, so this variable keeps it alive until the block ends.
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
    """Cast every parameter to this dtype. deepspeed.initialize does so only for parameters that are not sharded yet."""
    for parameter in model.parameters():
        part = shard(parameter)
        part.data = part.data.to(dtype)
        parameter.data = parameter.data.to(dtype)


def refuse_whole_parameters(model: nn.Module, path: str) -> None:
    """Raise AhaError if a parameter was loaded whole, adapters aside: a large model would fill the memory."""
    whole = [n for n, p in model.named_parameters() if ".lora_" not in n and (p.numel() or "ds_tensor" not in vars(p))]
    if whole:
        raise AhaError(
            f"{path}: {len(whole)} parameters, the first of them {whole[0]}, were loaded whole under "
            "learner.zero_stage=3: this transformers or DeepSpeed does not shard what it loads; install the versions "
            "that Aha pins, or use learner.zero_stage=2"
        )
