"""How large a model is, by what a token costs it."""

from __future__ import annotations

import functools

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rl.model.pretrained import load_config


@functools.lru_cache(maxsize=16)
def multiplied_parameters(path: str) -> int:
    """The parameters that each token is multiplied by: all but the input embeddings, and the head, tied or not.

    A forward pass costs twice as many operations a token. Builds the model without its numbers, from its config alone.
    """
    config = load_config(path)
    classifies = any(kind.endswith("ForSequenceClassification") for kind in config.architectures or [])
    with torch.device("meta"):
        model = (AutoModelForSequenceClassification if classifies else AutoModelForCausalLM).from_config(config)
    head = model.get_output_embeddings()
    embedded = model.get_input_embeddings()
    tied = head is not None and head.weight is embedded.weight
    return int(model.num_parameters()) - (0 if tied else int(embedded.weight.numel()))
