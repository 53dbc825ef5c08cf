"""LoRA adapters in a vLLM engine: whether it can run them, and how they get there without a file.

vLLM multiplies by the base and by the adapter apart, as the learner does. Merged into bfloat16, an adapter's small
updates would be rounded away.
"""

from __future__ import annotations

from typing import Any

from rl.config import RunConfig
from rl.model.pretrained import load_config
from rl.types import AhaError, BadInput

NUMBER = 1
"""The adapter's number in vLLM. There is one."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM can make room for (MaxLoRARanks in vllm/config/lora.py)."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What a model's config names when it is a mixture."""


def adapter_options(cfg: RunConfig, model_path: str) -> dict[str, object]:
    """The arguments of vllm.LLM for adapters; empty where weights come merged. Raises BadInput if they must not."""
    way, rank = cfg.cluster.lora_sync, cfg.model.lora.rank
    if not rank or way == "merged":
        return {}
    fault = fault_of_adapters(rank, model_path)
    if fault and way == "adapter":
        raise BadInput(f"cluster.lora_sync=adapter: {fault}; use auto or merged")
    if fault:
        return {}
    room = next(known for known in RANKS if known >= rank)
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1, "max_cpu_loras": 1}


def fault_of_adapters(rank: int, model_path: str) -> str:
    """Why vLLM cannot run adapters of this rank on this model; "" if it can."""
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    if rank > RANKS[-1]:
        return f"vLLM takes adapters up to rank {RANKS[-1]}, and model.lora.rank={rank}"
    config = load_config(model_path)
    if any(config.to_dict().get(name) for name in EXPERTS):
        return "a mixture's weights are synced merged"
    names = [name for name in config.architectures or [] if name in ModelRegistry.models]
    if not names or not supports_lora(ModelRegistry.models[names[0]].load_model_cls()):
        return f"vLLM runs no adapters on {', '.join(config.architectures or ['a model without a known architecture'])}"
    return ""


def adapter_request() -> Any:
    """What a request carries that is to be sampled with the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(
        "policy", NUMBER, "sent as tensors"
    )  # vLLM wants a path; it reads none of an adapter that it has


def load_adapter(worker: Any, buckets: list[dict[str, Any]], scale: float, alone: bool) -> None:
    """Put the adapter in these buckets (rl/workers/sync/buckets.py) in the place of the last. Runs in a vLLM worker.

    scale: B A is multiplied by it. alone: no base came with it, so the update's checksum is the adapter's. Raises
    AhaError when a tensor arrived damaged, or belongs to a layer on which vLLM runs no adapter.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    from rl.workers.sync.buckets import Tally
    from rl.workers.sync.vllm_transfer import BucketUpdateInfo, unpack

    engine, lora = worker.weight_transfer_engine, worker.model_runner.lora_manager
    if alone:
        engine.tally = Tally(by_name=engine.tally.by_name)  # the doctor asks for the base's checksums too
    tensors = dict(pair for bucket in buckets for pair in unpack(BucketUpdateInfo(**bucket), engine.tally))
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    settings = PEFTHelper(r=rank, lora_alpha=scale * rank, target_modules=[])
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    model = LoRAModel.from_lora_tensors(NUMBER, named, settings, "cpu", lora.lora_config.lora_dtype)
    layers = lora._adapter_manager
    refuse_unknown(set(model.loras), layers.modules, layers.packed_modules)
    lora.remove_adapter(NUMBER)
    layers.add_adapter(model)
    layers.activate_adapter(NUMBER)


def refuse_unknown(adapted: set[str], layers: dict[str, Any], packed: dict[str, list[str]]) -> None:
    """Raise AhaError for adapters that vLLM would leave out without a word.

    layers: by name, those on which it runs adapters. packed: name of a fused layer -> those that it stands for.
    """
    known = {part for name in layers for part in packed.get(name, [name])}
    unknown = sorted(adapted - known)
    if unknown:
        raise AhaError(
            f"vLLM runs no adapter on {unknown[0]}{f' and {len(unknown) - 1} others' if unknown[1:] else ''}; use "
            "cluster.lora_sync=merged, or leave such layers out of model.lora.targets"
        )
