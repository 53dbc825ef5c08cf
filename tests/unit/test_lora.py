"""Adapters: merged equals applied, only they train, and the model without them is the base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rl.config import LearnerConfig, LoraConfig
from rl.model.lora import PlainWeight, plain_weights, without_adapters
from rl.model.policy import ModelInput, Policy, load_policy
from rl.types import BadInput

CPU = torch.device("cpu")
LORA = LoraConfig(rank=4, alpha=16)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=request.param, initializer_range=0.2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def batch() -> ModelInput:
    lengths = torch.tensor([9, 5])
    positions_T = torch.cat([torch.arange(n) for n in lengths.tolist()])
    index_M = torch.nonzero(positions_T).squeeze(1)
    ids_T = torch.randint(64, (14,), generator=torch.Generator().manual_seed(1))
    return ModelInput(ids_T, positions_T, lengths, index_M, torch.ones(len(index_M)))


def policy_of(folder: Path, lora: LoraConfig = LORA, seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
    return load_policy(str(folder), LearnerConfig(layout="rows"), CPU, dtype=dtype, lora=lora, seed=seed)


def moved(policy: Policy) -> Policy:
    """The policy with adapters that are far from zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return policy


@torch.no_grad()
def logprobs(policy: Policy) -> torch.Tensor:
    return policy(batch())[0]


def test_merged_equals_applied(folder: Path, tmp_path: Path) -> None:
    policy = moved(policy_of(folder))
    plain = LlamaForCausalLM.from_pretrained(folder)
    names = {name for name, _ in plain.named_parameters()}
    merged = {w.name: w.merged() for w in plain_weights(policy.hf)}
    assert set(merged) == names
    plain.load_state_dict(merged, strict=False)
    plain.save_pretrained(tmp_path)
    want, base = logprobs(policy), logprobs(policy_of(folder, LoraConfig()))
    torch.testing.assert_close(logprobs(policy_of(tmp_path, LoraConfig())), want, rtol=0, atol=1e-5)
    assert (want - base).abs().mean() > 0.1


def test_the_merge_is_the_base_plus_the_scaled_product() -> None:
    vec = [nn.Parameter(torch.tensor(x)) for x in ([[1.0, 0.0]], [[1.0, 2.0]], [[3.0]])]
    assert PlainWeight("w", vec[0], (vec[1], vec[2]), scale=0.5).merged().tolist() == [[2.5, 3.0]]


def test_new_adapters_change_nothing_and_every_linear_layer_but_the_head_has_them(folder: Path) -> None:
    policy = policy_of(folder)
    assert torch.equal(logprobs(policy), logprobs(policy_of(folder, LoraConfig())))
    adapted = {w.name for w in plain_weights(policy.hf) if w.adapters is not None}
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(adapted) == 3 * len(projections)
    assert all(name.split(".")[-2] in projections for name in adapted)


def test_only_the_adapters_train(folder: Path) -> None:
    policy = moved(policy_of(folder))
    policy(batch())[0].sum().backward()
    for name, p in policy.named_parameters():
        assert p.requires_grad == ("lora_" in name), name
        assert (p.grad is not None) == ("lora_" in name), name
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_adapters_the_policy_is_its_base_to_the_last_bit_and_then_itself_again(folder, dtype) -> None:
    policy = moved(policy_of(folder, dtype=dtype))
    before = logprobs(policy)
    with without_adapters(policy):
        assert torch.equal(logprobs(policy), logprobs(policy_of(folder, LoraConfig(), dtype=dtype)))
    assert torch.equal(logprobs(policy), before)
    with pytest.raises(RuntimeError), without_adapters(policy):
        raise RuntimeError
    assert torch.equal(logprobs(policy), before)


def test_the_first_adapters_depend_on_the_seed_alone(folder: Path) -> None:
    def adapters(seed: int) -> list[torch.Tensor]:
        return [p.detach() for name, p in policy_of(folder, seed=seed).named_parameters() if "lora_A" in name]

    first = adapters(1)
    state = torch.get_rng_state()
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, adapters(1), strict=True))
    assert not torch.equal(first[0], adapters(2)[0])
    torch.set_rng_state(state)
    policy_of(folder, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_named_targets_are_adapted_alone_and_unknown_ones_are_refused(folder: Path) -> None:
    some = policy_of(folder, dataclasses.replace(LORA, targets=("q_proj", "v_proj")))
    assert sum(w.adapters is not None for w in plain_weights(some.hf)) == 6
    with pytest.raises(BadInput, match=r"model\.lora\.targets=z_proj"):
        policy_of(folder, dataclasses.replace(LORA, targets=("z_proj",)))


def test_the_scale_is_alpha_over_rank(folder: Path) -> None:
    scales = {w.scale for w in plain_weights(policy_of(folder).hf) if w.adapters is not None}
    assert scales == {4.0}
