"""Writes a model's weights as a Hugging Face folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers.configuration_utils import PretrainedConfig

from rl.model.older_names import complete
from rl.model.pretrained import generation_file, load_tokenizer


class ModelWriter:
    """Writes a Hugging Face folder shard by shard, so that the whole model is never in memory at once.

    Call add() with whole tensors in any order, then close(), which writes the index, the config and the tokenizer,
    and makes them readable by others than transformers 5 (rl/model/older_names.py).
    """

    def __init__(self, folder: Path, max_shard_bytes: int = 2 << 30) -> None:
        self.folder, self.max_shard_bytes = folder, max_shard_bytes
        self.pending: dict[str, Tensor] = {}
        self.shards: list[list[str]] = []
        self.total_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if (
            self.pending
            and sum(t.numel() * t.element_size() for t in self.pending.values()) + size > self.max_shard_bytes
        ):
            self._flush()
        # A copy: the caller may reuse the tensor's memory before the shard is written.
        self.pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
        self.total_bytes += size

    def _flush(self) -> None:
        save_file(self.pending, self.folder / f"part-{len(self.shards)}.safetensors", metadata={"format": "pt"})
        self.shards.append(list(self.pending))
        self.pending = {}

    def close(self, config: PretrainedConfig, source: str) -> None:
        """source: the model's folder or id, for its tokenizer and generation settings.

        The config's dtype becomes that of the tensors, which transformers loads by default.
        """
        config = copy.deepcopy(config)
        config.dtype = next(reversed(self.pending.values())).dtype
        self._flush()
        count = len(self.shards)
        weight_map: dict[str, str] = {}
        # The names of Hugging Face's shards hold their number, which is known only now.
        for i, names in enumerate(self.shards):
            final = "model.safetensors" if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors"
            (self.folder / f"part-{i}.safetensors").rename(self.folder / final)
            weight_map |= dict.fromkeys(names, final)
        if count > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        config.save_pretrained(self.folder)
        load_tokenizer(source).save_pretrained(self.folder)
        generation = generation_file(source)
        if generation:
            (self.folder / generation.name).write_bytes(generation.read_bytes())
        complete(self.folder, source)
