"""Which layers model.lora.targets mean in a model. Each target that means none is refused, with what the model has.

A target is the last part of a layer's name or more of it: q_proj, self_attn.q_proj, model.layers.3.self_attn.q_proj.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn
from transformers.modeling_utils import PreTrainedModel

from rl.types import BadInput

ALL_LINEAR = "all-linear"
KEY = "model.lora.targets"
PLAIN = re.compile(r"[\w.-]+")
"""A target that an error can show as it is; others are put in quotes, so that a space or a bracket is seen."""
SHOWN = 12
"""The most names of layers in an error."""


def adapted_layers(hf: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """The names of the linear layers that the targets mean, in the model's order. It has no adapters yet.

    Raises BadInput that names every target for which there is no adapter, one a line.
    """
    linear = linear_layers(hf)
    if not linear:
        raise BadInput(f"model.lora.rank: {type(hf).__name__} has no linear layer besides its head; train all weights")
    if not targets:
        raise BadInput(f"{KEY}: no layer is named; use {ALL_LINEAR}, or some of {shown(linear)}")
    faults = [fault for target in targets if (fault := _fault(hf, linear, targets, target))]
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    if ALL_LINEAR in targets:
        return linear
    return [name for name in linear if any(_means(target, name) for target in targets)]


def linear_layers(hf: PreTrainedModel) -> list[str]:
    """What all-linear means: every linear layer but the output head."""
    head = hf.get_output_embeddings()
    return [name for name, module in hf.named_modules() if isinstance(module, nn.Linear) and module is not head]


def fused_experts(hf: PreTrainedModel) -> list[str]:
    """The last parts of the names of a mixture's experts, which are one 3-D tensor a layer: mlp.experts.down_proj.

    Adapters do not change them.
    """
    names = [
        f"{owner}.{name}"
        for owner, module in hf.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and not isinstance(module, nn.Conv1d)
    ]
    return sorted({".".join(part for part in name.split(".")[-3:] if not part.isdigit()) for name in names})


def _fault(hf: PreTrainedModel, linear: Sequence[str], targets: Sequence[str], target: str) -> str:
    """Why a target is refused; "" when it means linear layers whose weights are theirs alone."""
    given = f"{KEY}={target if PLAIN.fullmatch(target) else repr(target)}:"
    if target == ALL_LINEAR:
        others = ", ".join(repr(other) for other in targets if other != ALL_LINEAR)
        if others:
            return f"{given} it means every linear layer but the head, so it stands alone; leave it out, or {others}"
        return _shared_fault(hf, linear, given)
    ends = _ends_fault(hf, target)
    if ends:
        return f"{given} {ends}"
    meant = [name for name in linear if _means(target, name)]
    if meant:
        return _shared_fault(hf, meant, given)
    return f"{given} {_what_it_is(hf, target)}{_near(linear, target)} {_what_there_is(hf, linear)}"


def _ends_fault(hf: PreTrainedModel, target: str) -> str:
    """A target that means the embedding or the head."""
    tied = hf.get_output_embeddings() is not None and (
        hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    )
    for module, what in ((hf.get_input_embeddings(), "the embedding"), (hf.get_output_embeddings(), "the output head")):
        name = next((n for n, m in hf.named_modules() if module is not None and m is module), None)
        if name is not None and _means(target, name):
            both = " (embedding and head are one tensor here)" if tied else ""
            return (
                f"it is {what}{both}: logprobs, samplers and exports take its plain weight, so it has no adapter. "
                "Leave it out, or train all weights with model.lora.rank=0"
            )
    return ""


def _shared_fault(hf: PreTrainedModel, meant: Sequence[str], given: str) -> str:
    """Linear layers that share their weight with another module: merging one's adapter would change the other."""
    names_of: dict[int, list[str]] = {}
    for name, parameter in hf.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    for name in meant:
        shared = names_of[id(hf.get_submodule(name).weight)]
        if len(shared) > 1:
            return f"{given} the weight of {name} is one tensor with {', '.join(shared)}, so it has no adapter"
    return ""


def _what_it_is(hf: PreTrainedModel, target: str) -> str:
    for name, module in hf.named_modules():
        if name and _means(target, name):
            inside = sorted({n.rsplit(".", 1)[-1] for n, m in module.named_modules() if n and isinstance(m, nn.Linear)})
            within = f", with the linear layers {', '.join(inside)} in it" if inside else ""
            return f"it is a {type(module).__name__}{within}, not a linear layer."
    for name, parameter in hf.named_parameters():
        if _means(target, name):
            return f"it is a parameter of {parameter.dim()} dimensions, not a linear layer."
    return f"there is no such layer in {type(hf).__name__}."


def _near(linear: Sequence[str], target: str) -> str:
    """ " Did you mean q_proj?", or nothing."""
    known = [*dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear), ALL_LINEAR]
    bare = target.strip(" []()'\"").lower().removesuffix(".weight").removesuffix(".weights").rsplit(".", 1)[-1]
    near = difflib.get_close_matches(bare, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _what_there_is(hf: PreTrainedModel, linear: Sequence[str]) -> str:
    experts = fused_experts(hf)
    without = f"; its experts ({', '.join(experts)}) are 3-D tensors, which have no adapters" if experts else ""
    return f"Its linear layers are {shown(linear)}{without}"


def shown(linear: Sequence[str]) -> str:
    """The last parts of the layers' names, each once."""
    names = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")


def _means(target: str, name: str) -> bool:
    return bool(target) and (name == target or name.endswith(f".{target}"))
