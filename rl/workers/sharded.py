"""Loads a model cut into ZeRO-3 shards from its first tensor on, so that no rank ever holds the whole.

Inside Sharded.block transformers builds each module under deepspeed.zero.Init, which keeps this rank's share of every
parameter, and then fills one module after the other: rank 0 reads its tensors from the memory-mapped checkpoint, sends
them to all, and each keeps its share again. What is whole at a time is one module's own parameters: at most the
embedding, which takes up to three times its size while it is gathered and sent (tests/bench/load_memory.py). Adapters
are added afterwards, small and whole; deepspeed.initialize cuts them up beside the others.

All that a learner loads comes this way: policy, reference, teacher, and a reward model in training. A reward model that
scores (rl/workers/reward_model.py) has a process of its own without DeepSpeed, and is loaded whole.
A checkpoint whose tensors transformers has to merge (experts of a mixture) is merged in host memory on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import deepspeed
import torch
from torch import nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from rl.model import Backbone, Loading
from rl.types import AhaError
from rl.workers.engine_state import shard


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
