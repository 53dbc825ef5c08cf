"""Which architectures a learner's layouts and attention compute as transformers does. Others are refused by name.

What is asked are facts of the model, so that it needs no weights: rl/model.py asks when it loads one, and the driver
asks a model on the meta device before any machine is started.
"""

from __future__ import annotations

import sys

from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from rl.types import BadInput

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers (transformers' layer_types) that look at nothing but the sequence's own keys, all or the last ones.

Sequences longer than a sliding window are refused when they come.
"""
RECURRENT_LAYERS = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
"""Kinds that carry a state along the row: right where each sequence has a row of its own."""
OTHER_ATTENTION = ("s_aux", "softcap", "position_bias", "indices", "block_indices")
"""What transformers hands to an attention function that computes something else than softmax(q k) v: attention sinks,
capped scores, ALiBi and its like, chosen keys."""

DISPATCH = "ALL_ATTENTION_FUNCTIONS"
"""transformers' table of attention functions, ours among them: models that import it call what it holds."""


def refuse_unsound(hf: PreTrainedModel, layout: str, *, own_attention: bool) -> None:
    """Raise BadInput for a model whose logprobs or exports would be wrong without a word.

    own_attention: its attention is one of ours, which see no mask, and not one of transformers'.
    """
    name = type(hf).__name__
    parameters = {name for name, _ in hf.named_parameters(remove_duplicate=False)}
    buffers = [name for name in hf.state_dict() if name not in parameters]
    if buffers:
        raise BadInput(
            f"{name}: {buffers[0]} is part of its files but no trained parameter, and would reach neither the samplers "
            "nor an export; take a model without such buffers"
        )
    kinds = set(hf.config.get_text_config().to_dict().get("layer_types") or ())
    recurrent = sorted(kinds & RECURRENT_LAYERS) or (["recurrent layers"] if hf._is_stateful else [])
    if recurrent and layout == "packed":
        raise BadInput(
            f"{name}: {', '.join(recurrent)} would carry its state from one sequence to the next in the packed layout; "
            "set learner.layout=rows and learner.sequence_parallel=1"
        )
    other = sorted(kinds - PLAIN_LAYERS - RECURRENT_LAYERS)
    other += sorted(name for name in parameters if "sink" in name)[:1]
    if not (hf._supports_attention_backend or DISPATCH in vars(sys.modules[type(hf).__module__])):
        other.append("attention of its own (as with ALiBi)")
    if own_attention and other:
        raise BadInput(
            f"{name}: {', '.join(other)} is nothing that the learner's attention computes; take another model"
        )


def refuse_other_attention(module: nn.Module, mask: Tensor | None, settings: dict[str, object]) -> None:
    """Raise BadInput when a model asks an attention function of ours for more than causal softmax attention."""
    found = [name for name in OTHER_ATTENTION if settings.get(name) is not None]
    if mask is not None or found:
        what = ", ".join(found) or "a mask of its own"
        raise BadInput(f"{type(module).__name__}: {what} is nothing that the learner's attention computes")
