from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rl.config import LearnerConfig
from rl.model.lora import plain_weights
from rl.model.policy import ModelInput, load_policy
from rl.model.writer import ModelWriter

CPU = torch.device("cpu")
LENGTHS = (9, 30, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deep and narrow model with weights large enough for its layers to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    model = LlamaForCausalLM(config).bfloat16().float()  # values that bfloat16 holds exactly
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def batch() -> ModelInput:
    """Three sequences end to end; every token but each first is scored."""
    generator = torch.Generator().manual_seed(1)
    positions_T = torch.cat([torch.arange(n) for n in LENGTHS])
    index_M = torch.nonzero(positions_T).squeeze(1)
    token_ids_T = torch.randint(64, (sum(LENGTHS),), generator=generator)
    return ModelInput(token_ids_T, positions_T, torch.tensor(LENGTHS), index_M, torch.ones(len(index_M)))


def plain_logprobs(model: LlamaForCausalLM, batch: ModelInput) -> Tensor:
    """One sequence at a time through the Hugging Face model, full float32 logits."""
    bounds = [0, *itertools.accumulate(LENGTHS)]
    parts = []
    for start, end in itertools.pairwise(bounds):
        ids_T = batch.token_ids_T[start:end]
        hidden_TD = model.model(input_ids=ids_T[None]).last_hidden_state[0]
        logits_TV = hidden_TD.float() @ model.lm_head.weight.float().T
        parts.append(torch.log_softmax(logits_TV[:-1], dim=-1).gather(1, ids_T[1:, None]).squeeze(1))
    return torch.cat(parts)


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_each_layout_scores_as_the_hugging_face_model_does_one_sequence_at_a_time(
    folder: Path, batch: ModelInput, layout: str
) -> None:
    policy = load_policy(str(folder), LearnerConfig(layout=layout), CPU, dtype=torch.float32)
    with torch.no_grad():
        want = plain_logprobs(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), batch)
        torch.testing.assert_close(policy(batch)[0], want, rtol=0, atol=2e-5)


def test_in_bfloat16_the_sum_of_the_layers_keeps_float32_and_linear_layers_multiply_bfloat16(
    folder: Path, batch: ModelInput
) -> None:
    policy = load_policy(str(folder), LearnerConfig(layout="rows"), CPU, dtype=torch.bfloat16)
    seen: dict[str, Tensor] = {}
    backbone = policy.hf.base_model
    backbone.norm.register_forward_pre_hook(lambda module, args: seen.update(sum=args[0]))
    backbone.layers[5].mlp.up_proj.register_forward_hook(lambda module, args, out: seen.update(product=out))
    policy(batch)[0].sum().backward()
    assert seen["product"].dtype == torch.bfloat16
    assert seen["sum"].dtype == torch.float32
    assert (seen["sum"] != seen["sum"].bfloat16()).float().mean() > 0.9
    gradient = backbone.layers[0].mlp.up_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_written_model_loads_in_the_dtype_of_its_tensors_whatever_the_learner_loaded_it_in(
    folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokens")
    policy = load_policy(str(folder), LearnerConfig(layout="rows"), CPU, dtype=torch.float32)
    writer = ModelWriter(tmp_path / "out", max_shard_bytes=1 << 15)
    for weight in plain_weights(policy.hf):
        writer.add(weight.name, weight.merged().to(torch.bfloat16))
    writer.close(policy.hf.config, str(tmp_path / "tokens"))
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert written.dtype == written.config.dtype == torch.bfloat16
    assert policy.hf.config.dtype == torch.float32  # the learner's own
