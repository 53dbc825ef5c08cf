"""Load, run and save a Hugging Face causal LM for training.

The forward pass takes whole sequences laid end to end (a MicroBatch) and returns the logprobs of the masked-in
tokens alone. Two layouts compute the same numbers: "rows" (each sequence a padded row, for CPUs) and "packed" (one
long row with attention kept inside each sequence, for GPUs).

Axis suffixes: _T tokens of a micro-batch, _M masked-in tokens, _S sequences, _D hidden size.
"""

from __future__ import annotations

import copy
import itertools
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from rl.architecture import refuse_other_attention, refuse_unsound
from rl.config import LearnerConfig, LoraConfig
from rl.logprobs import HeadWork, LogprobHead
from rl.lora import add_adapters
from rl.pretrained import generation_file, load_config, load_tokenizer, refuse_heads
from rl.sequence import WHOLE, Share
from rl.types import BadInput, MicroBatch

PACKED_ATTENTION, ROWS_ATTENTION = "aha_packed", "aha_rows"
SEQUENCE_ATTENTION = "aha_sequence"
"""Of ranks that share their sequences; rl/workers/ulysses.py registers it."""
OWN_ATTENTION = (PACKED_ATTENTION, ROWS_ATTENTION, SEQUENCE_ATTENTION)
# Scalings of the logits that an output head of ours would leave out without a word.
UNSUPPORTED_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


# ------------------------------------------------------------------------------------------------ attention


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of one long row.

    query (1, heads, T, d), key and value (1, kv_heads, T, d); cu_seq_lens_q (S + 1,) int32 among kwargs.
    Returns ((1, T, heads, d), None). On a GPU in half precision through PyTorch's varlen kernel; else a loop over
    sequences, which gives the same numbers and is what the tests run on a CPU.
    """
    refuse_other_attention(module, attention_mask, kwargs)
    cu_seq_lens = kwargs["cu_seq_lens_q"]
    assert isinstance(cu_seq_lens, Tensor)
    assert query.shape[0] == 1
    scaling = kwargs.get("scaling")
    window = kwargs.get("sliding_window")
    scale = scaling if isinstance(scaling, float) else None
    if isinstance(window, int) and int(cu_seq_lens.diff().max()) > window:
        raise BadInput(f"packed layout: sequences longer than the model's sliding window of {window} tokens")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        longest = int(cu_seq_lens.diff().max())
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        same_heads = q.shape[1] == k.shape[1]
        out = varlen_attn(
            q, k, v, cu_seq_lens, cu_seq_lens, longest, longest,
            scale=scale, window_size=(-1, 0), enable_gqa=not same_heads,
        )  # fmt: skip
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

    Computed in float32 whatever the inputs: PyTorch's bfloat16 backward for CPUs took six times longer on rows of 37
    tokens, and nine tenths of a training step with it.
    """
    refuse_other_attention(module, attention_mask, kwargs)
    scaling = kwargs.get("scaling")
    window = kwargs.get("sliding_window")
    if isinstance(window, int) and query.shape[2] > window:
        raise BadInput(f"rows layout: sequences longer than the model's sliding window of {window} tokens")
    out = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True,
        scale=scaling if isinstance(scaling, float) else None, enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return out.to(query.dtype).transpose(1, 2), None


def _no_mask(*args: object, **kwargs: object) -> None:
    """Both ways of attention are causal and know where sequences end; they need no mask."""


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(ROWS_ATTENTION, rows_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
AttentionMaskInterface.register(ROWS_ATTENTION, _no_mask)
AttentionMaskInterface.register(SEQUENCE_ATTENTION, _no_mask)


# ------------------------------------------------------------------------------------------------ the models


@dataclass(frozen=True, slots=True)
class ScoreInput:
    """A MicroBatch as tensors on the learner's device.

    bounds: the slice of its tokens that this rank runs, whose masked-in tokens are in index_M; None: all of them.
    """

    token_ids_T: Tensor
    positions_T: Tensor
    lengths_S: Tensor
    index_M: Tensor
    temperature_M: Tensor
    bounds: tuple[int, int] | None = None

    @staticmethod
    def of(batch: MicroBatch, device: torch.device, share: Share = WHOLE) -> ScoreInput:
        index_M = np.flatnonzero(batch.loss_mask_T)
        if (batch.positions_T[index_M] == 0).any():
            raise ValueError("loss_mask_T is set on the first token of a sequence, which nothing predicts")
        ids_T, positions_T, lengths_S, bounds = batch.token_ids_T, batch.positions_T, batch.lengths_S, None
        if share.size > 1:
            if padding := share.padding(len(ids_T)):
                ids_T = np.append(ids_T, np.zeros(padding, ids_T.dtype))
                positions_T = np.append(positions_T, np.arange(padding, dtype=positions_T.dtype))
                lengths_S = np.append(lengths_S, np.asarray([padding], lengths_S.dtype))
            index_M = share.learnt(index_M, len(ids_T))
            bounds = share.bounds(len(ids_T))
        put = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device)  # noqa: E731
        temperature_M = batch.temperature_T[index_M]
        return ScoreInput(put(ids_T), put(positions_T), put(lengths_S), put(index_M), put(temperature_M), bounds)


class Backbone(nn.Module):
    """A decoder whose hidden states are read at the masked-in tokens of a MicroBatch, or before them."""

    def __init__(self, hf: PreTrainedModel, layout: str) -> None:
        super().__init__()
        refuse_unsound(hf, layout, own_attention=hf.config._attn_implementation in OWN_ATTENTION)
        self.hf = hf
        self.layout = layout

    def hidden_at(self, batch: ScoreInput, offset: int) -> Tensor:
        """(M, D): the hidden states `offset` tokens after (-1: before) the masked-in ones."""
        backbone = self.hf.base_model
        if self.layout == "packed":
            cu_seq_lens = F.pad(batch.lengths_S.cumsum(0), (1, 0)).to(torch.int32)
            longest = int(batch.lengths_S.max())
            start, stop = batch.bounds or (0, len(batch.token_ids_T))
            hidden_TD = backbone(
                input_ids=batch.token_ids_T[None, start:stop], position_ids=batch.positions_T[None, start:stop],
                use_cache=False,
                cu_seq_lens_q=cu_seq_lens, cu_seq_lens_k=cu_seq_lens, max_length_q=longest, max_length_k=longest,
            ).last_hidden_state[0]  # fmt: skip
            at_M = batch.index_M + offset - start
        else:
            # Padding stands right of the tokens and attention is causal, so no token sees it and no mask is needed.
            longest = int(batch.lengths_S.max())
            rows_T = torch.repeat_interleave(
                torch.arange(len(batch.lengths_S), device=batch.index_M.device), batch.lengths_S
            )
            flat_T = rows_T * longest + batch.positions_T
            ids = batch.token_ids_T.new_zeros(len(batch.lengths_S) * longest)
            ids[flat_T] = batch.token_ids_T
            hidden = backbone(input_ids=ids.view(-1, longest), use_cache=False).last_hidden_state
            hidden_TD = hidden.reshape(-1, hidden.shape[-1])
            at_M = flat_T[batch.index_M] + offset
        hidden_MD: Tensor = hidden_TD[at_M]
        return hidden_MD

    def tied_names(self) -> dict[str, str]:
        """Parameter name -> the name of the head that shares it, for a model with tied embeddings."""
        head = self.hf.get_output_embeddings()
        if head is None or head.weight is not self.hf.get_input_embeddings().weight:
            return {}
        names = {name for name, p in self.hf.named_parameters(remove_duplicate=False) if p is head.weight}
        own = {name for name, p in self.hf.named_parameters() if p is head.weight}
        return {next(iter(own)): next(iter(names - own))}


class Policy(Backbone):
    """A causal LM whose forward returns (logprobs_M, entropy_M) of the masked-in tokens, float32, nats."""

    def __init__(self, hf: PreTrainedModel, layout: str, chunk_tokens: int) -> None:
        super().__init__(hf, layout)
        head = hf.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise BadInput(f"{type(hf).__name__}: the output head must be a linear layer without bias")
        for name in UNSUPPORTED_LOGIT_SETTINGS:
            if hf.config.to_dict().get(name) not in (None, 1, 1.0):
                raise BadInput(f"{type(hf).__name__}: logits scaled by {name} are not supported")
        hf.set_output_embeddings(LogprobHead(head.weight, chunk_tokens))

    def forward(self, batch: ScoreInput, score: HeadWork | None = None) -> tuple[Tensor, Tensor]:
        """(logprobs_M, entropy_M), or what score makes of the hidden states that predict the masked-in tokens."""
        head = self.hf.get_output_embeddings()
        hidden_MD = self.hidden_at(batch, offset=-1).to(head.weight.dtype)
        result: tuple[Tensor, Tensor] = head(hidden_MD, batch.token_ids_T[batch.index_M], batch.temperature_M, score)
        return result


# ------------------------------------------------------------------------------------------------ load


BackboneT = TypeVar("BackboneT", bound=Backbone)


class Loading:
    """How a model's weights come into memory: here each of them whole. rl/workers/sharded.py has the other way."""

    def block(self) -> AbstractContextManager[object]:
        """from_pretrained runs inside it."""
        return nullcontext()

    def filling(self, parameter: nn.Parameter) -> AbstractContextManager[object]:
        """Inside the block the parameter is whole, and what is written into it stays."""
        return nullcontext()

    def finish(self, model: Backbone, path: str) -> None:
        """Called once with the model, adapters and all."""


UNSHARDED = Loading()


def resolve_layout(learner: LearnerConfig, device: torch.device) -> str:
    """learner.layout, with 'auto' decided for this device."""
    return learner.layout_on(gpu=device.type == "cuda")


def load_policy(
    path: str,
    learner: LearnerConfig,
    device: torch.device,
    *,
    dtype: torch.dtype,
    lora: LoraConfig | None = None,
    seed: int = 0,
    loading: Loading = UNSHARDED,
) -> Policy:
    """A Policy from a Hugging Face folder or id, on the device; with adapters (random by seed) where lora asks."""
    layout = resolve_layout(learner, device)
    attention = attention_name(layout, device)
    if learner.sequence_parallel > 1:
        refuse_heads(load_config(path), learner.sequence_parallel)
        attention = SEQUENCE_ATTENTION
    with loading.block():
        hf = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention)
    if lora is not None and lora.rank:
        add_adapters(hf, lora, seed)
    policy = make_ready(Policy(hf, layout, learner.logprob_chunk_tokens), learner, device)
    loading.finish(policy, path)
    return policy


def refuse_model(path: str, learner: LearnerConfig, *, gpu: bool) -> None:
    """Raise BadInput for a model that load_policy would refuse. Makes its layers without weights."""
    device = torch.device("cuda" if gpu else "cpu")
    layout = resolve_layout(learner, device)
    with torch.device("meta"):
        try:
            hf = AutoModelForCausalLM.from_config(load_config(path), attn_implementation=attention_name(layout, device))
        except ValueError as error:
            raise BadInput(f"model.path={path}: cannot be trained here ({str(error).splitlines()[0]})") from error
    Policy(hf, layout, learner.logprob_chunk_tokens)


def attention_name(layout: str, device: torch.device) -> str:
    """The attention of a learner's model, by its name in transformers."""
    return PACKED_ATTENTION if layout == "packed" else ROWS_ATTENTION if device.type == "cpu" else "sdpa"


def make_ready(model: BackboneT, learner: LearnerConfig, device: torch.device) -> BackboneT:
    """Dropout off, sums in float32 on a CPU, gradient checkpointing where asked; then on the device."""
    for module in model.hf.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if device.type == "cpu":
        _keep_residual_in_float32(model.hf)
    if learner.gradient_checkpointing:
        model.hf.gradient_checkpointing_enable({"use_reentrant": False})
        model.hf.train()  # from_pretrained leaves evaluation mode, in which transformers recomputes nothing
    return model.to(device)


def _keep_residual_in_float32(hf: PreTrainedModel) -> None:
    """Add up the layers' outputs in float32; each linear layer still multiplies in its weight's dtype.

    The sampler on a CPU does the same (rl/workers/precision.py). With the sum rounded to bfloat16 after every layer, as
    is usual, sampler and learner were half as far apart again: 0.020 nats against 0.013 for SmolLM2 after a short SFT.
    """
    hf.get_input_embeddings().register_forward_hook(lambda module, args, output: output.float())
    for module in hf.base_model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda linear, args: (args[0].to(linear.weight.dtype), *args[1:]))


# ------------------------------------------------------------------------------------------------ save


class ModelWriter:
    """Writes a Hugging Face folder shard by shard, so that the whole model is never in memory at once.

    add() takes full tensors in any order; close() writes the index, config and tokenizer.
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
