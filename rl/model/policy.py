"""Load, run and save a Hugging Face causal LM for training.

The forward pass takes whole sequences laid end to end (a MicroBatch) and returns the logprobs of the masked-in tokens
only. Two layouts compute the same numbers: "rows" (each sequence a padded row, for CPUs) and "packed" (one long row in
which attention stays inside each sequence, for GPUs). In either a micro-batch may say which sequences share a prompt;
it is then computed once (rl/model/shared_prompts.py).

Axis suffixes: _T tokens of a micro-batch, _M masked-in tokens, _S sequences, _D hidden size.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from rl.algorithms.logprobs import HeadWork, LogprobHead
from rl.config import LearnerConfig, LoraConfig
from rl.model.attention import OWN_ATTENTION, SEQUENCE_ATTENTION, attention_name, refuse_unsound, why_not_shared
from rl.model.lora import add_adapters, say_what_adapts
from rl.model.pretrained import load_config, refuse_heads
from rl.model.sequence_parallel import WHOLE, Share
from rl.model.shared_prompts import Sharing, check_shared
from rl.types import AhaError, BadInput, MicroBatch

# Settings of models that scale their logits, which LogprobHead would silently leave out.
UNSUPPORTED_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


# ------------------------------------------------------------------------------------------------ the models


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A MicroBatch as tensors on the learner's device. index_M: where the masked-in tokens of this rank are.

    bounds: start and stop of the tokens that this rank runs; None: all of them (rl/model/sequence_parallel.py).
    sharing: which tokens are computed once for several sequences; None: each sequence has its own.
    """

    token_ids_T: Tensor
    positions_T: Tensor
    lengths_S: Tensor
    index_M: Tensor
    temperature_M: Tensor
    bounds: tuple[int, int] | None = None
    sharing: Sharing | None = None

    @staticmethod
    def of(batch: MicroBatch, device: torch.device, share: Share = WHOLE) -> ModelInput:
        index_M = np.flatnonzero(batch.loss_mask_T)
        if (batch.positions_T[index_M] == 0).any():
            raise ValueError("loss_mask_T is set on the first token of a sequence, which nothing predicts")
        ids_T, positions_T, lengths_S, bounds = batch.token_ids_T, batch.positions_T, batch.lengths_S, None
        sharing = None
        if batch.shared_S is not None:
            check_shared(ids_T, lengths_S, batch.shared_S)
            sharing = Sharing(lengths_S, batch.shared_S, device)
        if share.size > 1:
            if padding := share.padding(len(ids_T)):
                ids_T = np.append(ids_T, np.zeros(padding, ids_T.dtype))
                positions_T = np.append(positions_T, np.arange(padding, dtype=positions_T.dtype))
                lengths_S = np.append(lengths_S, np.asarray([padding], lengths_S.dtype))
            index_M = share.learnt(index_M, len(ids_T))
            bounds = share.bounds(len(ids_T))
        put = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device)  # noqa: E731
        temperature_M = batch.temperature_T[index_M]
        return ModelInput(
            put(ids_T), put(positions_T), put(lengths_S), put(index_M), put(temperature_M), bounds, sharing
        )


class Backbone(nn.Module):
    """A decoder and a way to read its hidden states at the masked-in tokens of a MicroBatch, or just before them."""

    def __init__(self, hf: PreTrainedModel, layout: str) -> None:
        super().__init__()
        refuse_unsound(hf, layout, own_attention=hf.config._attn_implementation in OWN_ATTENTION)
        self.hf = hf
        self.layout = layout
        self.why_not_shared = why_not_shared(hf)

    def hidden_at(self, batch: ModelInput, offset: int) -> Tensor:
        """(M, D): the hidden states `offset` tokens after (-1: before) the masked-in ones."""
        backbone = self.hf.base_model
        if batch.sharing is not None and not self.why_not_shared:
            return self._hidden_once(batch, batch.sharing, offset)
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
            # The padding is right of the tokens and attention is causal, so no token sees it and no mask is needed.
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

    def _hidden_once(self, batch: ModelInput, sharing: Sharing, offset: int) -> Tensor:
        """hidden_at with each shared prompt computed once."""
        used = sharing.calls
        hidden_ND = self.hf.base_model(
            input_ids=batch.token_ids_T[None, sharing.computed_N],
            position_ids=batch.positions_T[None, sharing.computed_N],
            use_cache=False,
            sharing=sharing,
        ).last_hidden_state[0]
        if sharing.calls == used:
            raise AhaError(
                f"{type(self.hf).__name__} does not tell its attention which prompts are shared, so sequences would "
                "see each other; use learner.share_prompts=false"
            )
        hidden_MD: Tensor = hidden_ND.index_select(0, sharing.row_T[batch.index_M + offset])
        return hidden_MD

    def tied_names(self) -> dict[str, str]:
        """For a model with tied embeddings: name of the shared parameter -> its other name, that of the head."""
        head = self.hf.get_output_embeddings()
        if head is None or head.weight is not self.hf.get_input_embeddings().weight:
            return {}
        names = {name for name, p in self.hf.named_parameters(remove_duplicate=False) if p is head.weight}
        own = {name for name, p in self.hf.named_parameters() if p is head.weight}
        return {next(iter(own)): next(iter(names - own))}


class Policy(Backbone):
    """A causal LM. Its forward returns (logprobs_M, entropy_M) of the masked-in tokens, float32, nats."""

    def __init__(self, hf: PreTrainedModel, layout: str, chunk_tokens: int) -> None:
        super().__init__(hf, layout)
        head = hf.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise BadInput(f"{type(hf).__name__}: its output head must be a linear layer without bias")
        for name in UNSUPPORTED_LOGIT_SETTINGS:
            if hf.config.to_dict().get(name) not in (None, 1, 1.0):
                raise BadInput(f"{type(hf).__name__}: scales its logits by {name}, which is not supported")
        hf.set_output_embeddings(LogprobHead(head.weight, chunk_tokens))

    def forward(self, batch: ModelInput, work: HeadWork | None = None) -> tuple[Tensor, Tensor]:
        """(logprobs_M, entropy_M), or the result of other work on the hidden states that predict the tokens."""
        head = self.hf.get_output_embeddings()
        hidden_MD = self.hidden_at(batch, offset=-1).to(head.weight.dtype)
        result: tuple[Tensor, Tensor] = head(hidden_MD, batch.token_ids_T[batch.index_M], batch.temperature_M, work)
        return result


# ------------------------------------------------------------------------------------------------ load


BackboneT = TypeVar("BackboneT", bound=Backbone)


class Loading:
    """How a model's weights come into memory. Here each is whole; in rl/workers/learner/deepspeed_engine.py they are
    sharded over the ranks.
    """

    def block(self) -> AbstractContextManager[object]:
        """The context in which from_pretrained runs."""
        return nullcontext()

    def filling(self, parameter: nn.Parameter) -> AbstractContextManager[object]:
        """Inside the block the parameter is whole, and values written into it stay afterwards."""
        return nullcontext()

    def finish(self, model: Backbone, path: str) -> None:
        """Called once, when the model is complete with its adapters."""


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
    """A Policy from a Hugging Face folder or id, on the device, with adapters (random by seed) if lora.rank is set."""
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


def refuse_model(path: str, learner: LearnerConfig, *, gpu: bool, lora: LoraConfig | None = None) -> None:
    """Raise BadInput for a model that load_policy would refuse, or for adapters that it cannot have.

    Makes the layers without memory for weights.
    """
    device = torch.device("cuda" if gpu else "cpu")
    layout = resolve_layout(learner, device)
    with torch.device("meta"):
        try:
            hf = AutoModelForCausalLM.from_config(load_config(path), attn_implementation=attention_name(layout, device))
        except ValueError as error:
            raise BadInput(f"model.path={path}: cannot be trained ({str(error).splitlines()[0]})") from error
        if lora is not None and lora.rank:
            say_what_adapts(hf, lora)
            add_adapters(hf, lora, seed=0)
    policy = Policy(hf, layout, learner.logprob_chunk_tokens)
    if learner.share_prompts == "true" and policy.why_not_shared:
        raise BadInput(f"learner.share_prompts=true: {policy.why_not_shared}; use auto or false")


def make_ready(model: BackboneT, learner: LearnerConfig, device: torch.device) -> BackboneT:
    """Turn dropout off, add up layers in float32 on a CPU, set gradient checkpointing, and move to the device."""
    # A sampler has no dropout, so with it the learner's logprobs would not be the sampler's.
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

    The sampler on a CPU does the same (rl/workers/sampler/precision.py). With the usual sum, rounded to bfloat16 after
    every layer, the gap between sampler and learner was 0.020 nats instead of 0.013, for SmolLM2 after a short SFT.
    """
    hf.get_input_embeddings().register_forward_hook(lambda module, args, output: output.float())
    for module in hf.base_model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda linear, args: (args[0].to(linear.weight.dtype), *args[1:]))
