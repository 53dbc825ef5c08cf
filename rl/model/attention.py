"""The learner's own attention functions, registered with transformers under their names.

Also the check that these functions and the layouts compute for a model what transformers would; other models are
refused by name. The check needs no weights: rl/model/policy.py makes it when it loads a model, and the driver makes it
on the meta device before any machine is started.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from rl.model.shared_prompts import Sharing, shared_attention
from rl.types import BadInput

PACKED_ATTENTION, ROWS_ATTENTION = "aha_packed", "aha_rows"
SEQUENCE_ATTENTION = "aha_sequence"
"""The attention of ranks that share their sequences; rl/workers/learner/ulysses.py registers it."""
OWN_ATTENTION = (PACKED_ATTENTION, ROWS_ATTENTION, SEQUENCE_ATTENTION)


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of one long row.

    query (1, heads, T, d), key and value (1, kv_heads, T, d); among kwargs cu_seq_lens_q (S + 1,) int32, and the length
    of the longest sequence as max_length_q.
    Returns ((1, T, heads, d), None). A GPU in half precision uses PyTorch's varlen kernel. Everything else, such as the
    tests on a CPU, goes through a loop over the sequences, which computes the same.
    """
    refuse_other_attention(module, attention_mask, kwargs)
    if isinstance(sharing := kwargs.get("sharing"), Sharing):
        return _shared(query, key, value, sharing, kwargs), None
    cu_seq_lens = kwargs["cu_seq_lens_q"]
    assert isinstance(cu_seq_lens, Tensor)
    assert query.shape[0] == 1
    scaling = kwargs.get("scaling")
    window = kwargs.get("sliding_window")
    scale = scaling if isinstance(scaling, float) else None
    longest = kwargs.get("max_length_q")
    if not isinstance(longest, int):
        longest = int(cu_seq_lens.diff().max())  # waits for the GPU, so the learner says it
    if isinstance(window, int) and longest > window:
        raise BadInput(f"packed layout: sequences longer than the model's sliding window of {window} tokens")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        grouped: dict[str, Any] = {} if q.shape[1] == k.shape[1] else {"enable_gqa": True}
        out = varlen_attn(
            q, k, v, cu_seq_lens, cu_seq_lens, longest, longest, scale=scale, window_size=(-1, 0), **grouped
        )
        assert isinstance(out, Tensor)
        return out[None], None
    parts = []
    bounds = cu_seq_lens.tolist()
    for start, end in itertools.pairwise(bounds):
        q, k, v = (x[:, :, start:end].float() for x in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True))
    return torch.cat(parts, dim=2).to(query.dtype).transpose(1, 2), None


def rows_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Causal attention over right-padded rows on a CPU: (B, heads, T, d) -> (B, T, heads, d).

    Computes in float32 whatever the inputs are: with PyTorch's bfloat16 backward for CPUs, attention over rows of 37
    tokens took six times as long, and nine tenths of a training step.
    """
    refuse_other_attention(module, attention_mask, kwargs)
    if isinstance(sharing := kwargs.get("sharing"), Sharing):
        return _shared(query, key, value, sharing, kwargs), None
    scaling = kwargs.get("scaling")
    window = kwargs.get("sliding_window")
    if isinstance(window, int) and query.shape[2] > window:
        raise BadInput(f"rows layout: sequences longer than the model's sliding window of {window} tokens")
    out = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True,
        scale=scaling if isinstance(scaling, float) else None, enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return out.to(query.dtype).transpose(1, 2), None


def _shared(query: Tensor, key: Tensor, value: Tensor, sharing: Sharing, settings: dict[str, object]) -> Tensor:
    """Attention of sequences that share prompts, each computed once: (1, heads, N, d) -> (1, N, heads, d)."""
    window, scaling = settings.get("sliding_window"), settings.get("scaling")
    if isinstance(window, int) and sharing.longest > window:
        raise BadInput(f"shared prompts: sequences longer than the model's sliding window of {window} tokens")
    return shared_attention(query, key, value, sharing, scaling if isinstance(scaling, float) else None)


def _no_mask(*args: object, **kwargs: object) -> None:
    """Our attention functions are causal and know where sequences end, so transformers need not make a mask."""


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(ROWS_ATTENTION, rows_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
AttentionMaskInterface.register(ROWS_ATTENTION, _no_mask)
AttentionMaskInterface.register(SEQUENCE_ATTENTION, _no_mask)


def attention_name(layout: str, device: torch.device) -> str:
    """The name, in transformers, of the attention for a learner's model."""
    return PACKED_ATTENTION if layout == "packed" else ROWS_ATTENTION if device.type == "cpu" else "sdpa"


PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers (transformers' layer_types) in which a token attends to all earlier tokens of its sequence, or to the
last ones. The attention functions refuse a sequence that is longer than the sliding window.
"""
RECURRENT_LAYERS = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
"""Kinds that carry a state along the row, which is right only where each sequence has a row of its own."""
OTHER_ATTENTION = ("s_aux", "softcap", "position_bias", "indices", "block_indices")
"""Arguments that transformers gives to an attention function when a model needs more than softmax(q k) v: attention
sinks, capped scores, position biases such as ALiBi, a choice of keys."""

DISPATCH = "ALL_ATTENTION_FUNCTIONS"
"""transformers' table of attention functions, ours included. Only models whose file imports it use its functions."""


def recurrent_layers(hf: PreTrainedModel) -> list[str]:
    """The kinds of the model's layers that carry a state along the row."""
    kinds = set(hf.config.get_text_config().to_dict().get("layer_types") or ())
    return sorted(kinds & RECURRENT_LAYERS) or (["recurrent layers"] if hf._is_stateful else [])


def why_not_shared(hf: PreTrainedModel) -> str:
    """Why this model cannot compute a shared prompt once, as the end of a sentence; "" where it can.

    Sequences that lie in one row must meet in an attention function of ours and nowhere else.
    """
    if recurrent := recurrent_layers(hf):
        return f"{type(hf).__name__} has {', '.join(recurrent)}"
    name = hf.config._attn_implementation
    return "" if name in (PACKED_ATTENTION, ROWS_ATTENTION) else f"the learner uses the attention {name!r}"


def refuse_unsound(hf: PreTrainedModel, layout: str, *, own_attention: bool) -> None:
    """Raise BadInput for a model whose logprobs or exports would be silently wrong.

    own_attention: the model uses an attention function of ours, which gets no mask, not one of transformers'.
    """
    name = type(hf).__name__
    parameters = {name for name, _ in hf.named_parameters(remove_duplicate=False)}
    buffers = [name for name in hf.state_dict() if name not in parameters]
    if buffers:
        raise BadInput(
            f"{name}: {buffers[0]} is in its files but is not a parameter, so it would reach neither the samplers "
            "nor an export; choose a model without such buffers"
        )
    kinds = set(hf.config.get_text_config().to_dict().get("layer_types") or ())
    recurrent = recurrent_layers(hf)
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
        raise BadInput(f"{name}: the learner's attention cannot compute {', '.join(other)}; choose another model")


def refuse_other_attention(module: nn.Module, mask: Tensor | None, settings: dict[str, object]) -> None:
    """Raise BadInput when a model asks an attention function of ours for more than causal softmax attention."""
    found = [name for name in OTHER_ATTENTION if settings.get(name) is not None]
    if mask is not None or found:
        what = ", ".join(found) or "a mask of its own"
        raise BadInput(f"{type(module).__name__}: the learner's attention cannot compute {what}; choose another model")
