"""Low-rank adapters (LoRA, 2106.09685) through peft, and the plain Hugging Face weights that they stand for.

A layer with weight W computes W x + scale * B (A x), scale = alpha / rank. Exports hold W + scale * B A under W's own
name, a plain model. Samplers that run adapters (rl/workers/sampler/adapters.py) get W once and A and B after that, the
others that sum too. In bfloat16 the sum is rounded, while the learner adds the two products unrounded. The difference
is part of the sampler-learner gap, which every step measures.

Adapters are on linear layers alone (rl/model/lora_targets.py says which). Experts of a mixture are 3-D tensors and stay
as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from rl.config import LoraConfig
from rl.model.lora_targets import adapted_layers, fused_experts, shown
from rl.types import BadInput

log = logging.getLogger(__name__)

ADAPTER = "default"


def add_adapters(hf: PreTrainedModel, cfg: LoraConfig, seed: int) -> None:
    """Put adapters into the model and freeze all else. A is random by seed and B is zero, so nothing changes at first.

    Raises BadInput when one of cfg.targets means no layer that can have an adapter.
    """
    import peft

    layers = adapted_layers(hf, cfg.targets)
    before = {name for name, _ in hf.named_parameters()}
    settings = peft.LoraConfig(r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=0.0, target_modules=layers, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, hf, adapter_name=ADAPTER)
        except ValueError as error:
            raise BadInput(f"model.lora.targets={','.join(cfg.targets)}: {' '.join(str(error).split())}") from error
    refuse_unmerged(hf, before, layers)


def say_what_adapts(hf: PreTrainedModel, cfg: LoraConfig) -> None:
    """Warn that the experts of a mixture stay as they are: all-linear means its linear layers alone."""
    experts = fused_experts(hf)
    if experts:
        log.warning(
            "model.lora.targets=%s: the adapters are on %s; the experts (%s) are 3-D tensors, have none and stay as "
            "they are",
            ",".join(cfg.targets), shown(adapted_layers(hf, cfg.targets)), ", ".join(experts),
        )  # fmt: skip


def refuse_unmerged(hf: nn.Module, before: set[str], layers: list[str]) -> None:
    """Raise BadInput unless every adapter is merged into one of the model's weights.

    before: the names of its parameters before it got adapters. layers: those that should have one each. An adapter that
    is not merged would train and reach neither samplers nor exports.
    """
    weights = plain_weights(hf)
    names = {weight.name for weight in weights}
    merged = {weight.name.removesuffix(".weight") for weight in weights if weight.adapters}
    wrong = sorted((names ^ before) | (merged ^ set(layers)))
    if wrong:
        raise BadInput(
            f"model.lora: the adapters of {', '.join(wrong[:4])}{' and more' if wrong[4:] else ''} cannot be merged "
            f"into the weights of {type(hf).__name__}, so they would reach neither samplers nor exports; name other "
            "layers in model.lora.targets, or train all weights with model.lora.rank=0"
        )


@dataclass(frozen=True)
class PlainWeight:
    """A parameter under its Hugging Face name, with the adapters A (r, in) and B (out, r) that change it, if any."""

    name: str
    base: nn.Parameter
    adapters: tuple[nn.Parameter, nn.Parameter] | None = None
    scale: float = 0.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.base, *(self.adapters or ())]

    def merged(self) -> Tensor:
        """W, or W + scale * B A in float32. Under ZeRO-3 all its parameters must be gathered.

        W [[1, 0]], A [[1, 2]], B [[3]], scale 0.5 -> [[2.5, 3]].
        """
        if self.adapters is None:
            return self.base.data
        a, b = (p.data.float() for p in self.adapters)
        return torch.addmm(self.base.data.float(), b, a, alpha=self.scale)


def plain_weights(hf: nn.Module) -> list[PlainWeight]:
    """Every parameter that the model had before it got adapters, in its order."""
    weights = []
    for name, parameter in hf.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer_name, inside, rest = name.partition(".base_layer.")
        if inside and rest == "weight":
            layer = hf.get_submodule(layer_name)
            adapters = (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)  # type: ignore[index, union-attr]
            scale = layer.scaling[ADAPTER]  # type: ignore[index]
            weights.append(PlainWeight(f"{layer_name}.weight", parameter, adapters, scale))  # type: ignore[arg-type]
        else:
            weights.append(PlainWeight(name.replace(".base_layer.", "."), parameter))
    return weights


def base_weights(hf: nn.Module) -> list[PlainWeight]:
    """plain_weights without what the adapters add."""
    return [PlainWeight(weight.name, weight.base) for weight in plain_weights(hf)]


def adapter_weights(hf: nn.Module) -> list[PlainWeight]:
    """Every adapter's A and B: "model.layers.0.mlp.up_proj.lora_A.weight"."""
    adapted = [(weight.name.removesuffix("weight"), weight.adapters) for weight in plain_weights(hf) if weight.adapters]
    return [
        PlainWeight(f"{name}lora_{ab}.weight", p) for name, pair in adapted for ab, p in zip("AB", pair, strict=True)
    ]


def adapter_scale(hf: nn.Module) -> float:
    """alpha / rank, which all adapters share."""
    return next(weight.scale for weight in plain_weights(hf) if weight.adapters)


@contextmanager
def without_adapters(hf: nn.Module) -> Iterator[None]:
    """Inside the block the model computes as its frozen base does: what adapters add is multiplied by 0.

    They are still computed, since ZeRO-3 needs the same layers in the same order on every pass.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in hf.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.set_scale(ADAPTER, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(ADAPTER, 1.0)
