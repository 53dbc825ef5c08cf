"""How a model's parameters are named in Hugging Face's files, which is how they are sent, exported and hashed.

transformers 5 holds a mixture's experts in memory as one 3-D tensor a layer (mlp.experts.gate_up_proj), and some parts
under other names than in files (Mixtral's block_sparse_moe is mlp). Older transformers, GGUF conversion and vLLM's
loaders all read the names of the files, one tensor an expert. For most models both are the same.

                                                    in memory                       in files
    Mixtral, 8 experts, hidden size D, width F      mlp.experts.gate_up_proj        block_sparse_moe.experts.0.w1.weight
                                                    (8, 2 F, D)                     (F, D), and 15 more
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import PreTrainedModel

Shape = tuple[int, ...]


class DiskNames:
    """The names and tensors in files that each of a model's parameters becomes. shapes: of the parameters, by name."""

    def __init__(self, hf: PreTrainedModel, shapes: Mapping[str, Shape]) -> None:
        self._hf = hf
        # How the model's own file was named does not count: an export of ours may have held the names in memory.
        vars(hf).pop("_weight_conversions", None)
        empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        together = self._reverted(empty)
        self._parts: dict[str, dict[str, Shape]] = {}
        for name, tensor in empty.items():
            parts = {part: tuple(t.shape) for part, t in self._reverted({name: tensor}).items()}
            # A parameter that only together with others becomes a tensor of a file keeps its name: the readers know
            # that one too.
            whole = all(part in together and tuple(together[part].shape) == shape for part, shape in parts.items())
            if whole and parts != {name: tuple(tensor.shape)}:
                self._parts[name] = parts

    def of(self, name: str, shape: Shape) -> list[tuple[str, Shape]]:
        """(name, shape) of each tensor that the parameter becomes, in the order of split()."""
        return list(self._parts.get(name, {name: shape}).items())

    def split(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The same tensors."""
        if name not in self._parts:
            yield name, tensor
        else:
            yield from self._reverted({name: tensor}).items()

    def renamed(self, name: str) -> str:
        """The name in files of a parameter that is not divided, also of one with two names (a tied head)."""
        return next(iter(self._reverted({name: torch.empty(1, 1, device="meta")})))

    def _reverted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = revert_weight_conversion(self._hf, tensors)
        return found
