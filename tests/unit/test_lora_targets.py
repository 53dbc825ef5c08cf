"""model.lora.targets: each name that means no linear layer is refused before anything starts, with what the model has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from recipes.tiny import recipe
from rl.config import LearnerConfig, LoraConfig, RunConfig
from rl.model import lora
from rl.model.lora import plain_weights, refuse_unmerged
from rl.model.lora_targets import adapted_layers, fused_experts
from rl.model.policy import load_policy, refuse_model
from rl.settings.overrides import apply_overrides
from rl.types import BadInput
from rl.workflow.inputs import prepare
from tests.unit import mixtures

ROOT = Path(__file__).resolve().parents[2]


def llama(*, tied: bool = True):  # type: ignore[no-untyped-def]
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied)
        )


def refusal(*targets: str, tied: bool = True) -> str:
    with pytest.raises(BadInput) as error:
        adapted_layers(llama(tied=tied), targets)
    return str(error.value)


@pytest.mark.parametrize(
    ("target", "near"),
    [
        (" v_proj", "v_proj"), ("v_porj", "v_proj"), ("[q_proj", "q_proj"), ("o_proj]", "o_proj"),
        ("'k_proj'", "k_proj"), ("Q_PROJ", "q_proj"), ("all_linear", "all-linear"), ("All-Linear", "all-linear"),
        ("model.layer.0.q_proj", "q_proj"), ("q_proj.weights", "q_proj"), (".*", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_target_that_matches_nothing_is_named_with_the_nearest_layer_and_all_there_are(target: str, near: str):
    text = refusal("q_proj", target)
    quoted = target if target.replace("_", "").replace(".", "").replace("-", "").isalnum() else repr(target)
    assert text.startswith(f"model.lora.targets={quoted}: there is no such layer in LlamaForCausalLM.")
    assert ("Did you mean" in text) == bool(near)
    assert f"Did you mean {near}?" in text or not near
    assert "Its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in text
    assert "\n" not in text


def test_every_target_that_matches_nothing_is_named() -> None:
    lines = refusal("[q_proj", "v_proj]", "k_proj").splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"model.lora.targets={t!r}" for t in ("[q_proj", "v_proj]")]


def test_all_linear_stands_alone_and_no_targets_are_refused() -> None:
    assert "stands alone; leave it out, or 'q_proj', 'z'" in refusal("all-linear", "q_proj", "z")
    assert "no layer is named" in refusal()


def test_a_block_is_named_with_the_linear_layers_in_it() -> None:
    assert "=mlp: it is a LlamaMLP, with the linear layers down_proj, gate_proj, up_proj in it" in refusal("mlp")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("target", "what"), [("lm_head", "the output head"), ("model.embed_tokens", "the embedding")])
def test_embedding_and_head_are_refused_with_the_reason(target: str, what: str, tied: bool) -> None:
    text = refusal("q_proj", target, tied=tied)
    both = " (embedding and head are one tensor here)" if tied else ""
    assert f"={target}: it is {what}{both}: logprobs, samplers and exports take its plain weight" in text
    assert "model.lora.rank=0" in text


def test_parts_of_names_mean_what_ends_in_them_and_whole_names_one_layer() -> None:
    hf = llama()
    assert len(adapted_layers(hf, ["all-linear"])) == 14
    assert adapted_layers(hf, ["self_attn.q_proj"]) == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert adapted_layers(hf, ["model.layers.1.mlp.up_proj"]) == ["model.layers.1.mlp.up_proj"]


def test_a_linear_layer_that_shares_its_weight_has_no_adapter() -> None:
    hf = llama()
    first, second = (layer.self_attn for layer in hf.model.layers)
    second.q_proj.weight = first.q_proj.weight
    for targets in (["all-linear"], ["q_proj"]):
        with pytest.raises(BadInput, match=r"layers\.0\.self_attn\.q_proj.* is one tensor with .*layers\.1"):
            adapted_layers(hf, targets)


def test_layers_that_only_look_linear_are_refused() -> None:
    """GPT-2's Conv1D holds its weight transposed, so the merged weight would be another."""
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(BadInput, match="no linear layer besides its head"):
        adapted_layers(hf, ["all-linear"])
    with pytest.raises(BadInput, match="no linear layer besides its head"):
        adapted_layers(hf, ["c_attn"])


# ------------------------------------------------------------------------------------------------ mixtures


@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_all_linear_leaves_the_experts_alone_and_every_adapter_is_merged(family: str, tmp_path: Path, caplog) -> None:
    folder = str(mixtures.write(family, tmp_path))
    names = {name for name, _ in AutoModelForCausalLM.from_pretrained(folder).named_parameters()}
    policy = load_policy(
        folder, LearnerConfig(layout="rows"), torch.device("cpu"), dtype=torch.float32, lora=LoraConfig(rank=2)
    )
    weights = plain_weights(policy.hf)
    assert {weight.name for weight in weights} == names
    adapted = {weight.name.split(".")[-2] for weight in weights if weight.adapters}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * sum(weight.adapters is not None for weight in weights)
    refuse_model(folder, LearnerConfig(), gpu=False, lora=LoraConfig(rank=2))
    assert "the experts (mlp.experts.down_proj, mlp.experts.gate_up_proj) are 3-D tensors" in caplog.text


@pytest.mark.parametrize("target", ["experts", "gate_up_proj", "mlp.experts.down_proj", "gate_proj", "gate"])
def test_experts_and_routers_as_targets_are_refused_with_what_they_are(target: str) -> None:
    hf = mixtures.model("qwen3_moe")
    assert fused_experts(hf) == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    with pytest.raises(BadInput) as error:
        adapted_layers(hf, ["q_proj", target])
    kinds = {"experts": "it is a Qwen3MoeExperts", "gate": "it is a Qwen3MoeTopKRouter", "gate_proj": "no such layer"}
    assert kinds.get(target, "it is a parameter of 3 dimensions") in str(error.value)
    assert "its experts (mlp.experts.down_proj, mlp.experts.gate_up_proj) are 3-D tensors" in str(error.value)


def test_adapters_that_would_be_merged_nowhere_are_refused() -> None:
    """peft's own all-linear wraps a mixture's experts, whose weights then have names that the model never had."""
    hf = mixtures.model("qwen3_moe")
    before, layers = {name for name, _ in hf.named_parameters()}, adapted_layers(hf, ["all-linear"])
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules="all-linear"), hf, adapter_name="default")
    with pytest.raises(BadInput, match=r"the adapters of .*mlp\.experts.* cannot be merged .*rank=0"):
        refuse_unmerged(hf, before, layers)


def test_a_model_whose_adapters_would_be_merged_nowhere_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    config = peft.LoraConfig  # let peft choose
    monkeypatch.setattr(peft, "LoraConfig", lambda **given: config(**(given | {"target_modules": "all-linear"})))
    with pytest.raises(BadInput, match=r"mlp\.experts.* cannot be merged"):
        lora.add_adapters(mixtures.model("qwen3_moe"), LoraConfig(rank=2), seed=0)


def test_a_layer_that_got_no_adapter_is_refused() -> None:
    hf = mixtures.model("qwen3_moe")
    before = {name for name, _ in hf.named_parameters()}
    with pytest.raises(BadInput, match=r"the adapters of model\.layers\.0\.self_attn\.q_proj cannot be merged"):
        refuse_unmerged(hf, before, ["model.layers.0.self_attn.q_proj"])


# ------------------------------------------------------------------------------------------------ before the start


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)  # where the tiny model is, or is made
    cfg = recipe()
    return dataclasses.replace(cfg, prompts=dataclasses.replace(cfg.prompts, limit=40))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("q_proj,v_porj", "=v_porj:"),
        ("[q_proj,v_proj]", "='[q_proj':"),
        ("all-linear,q_proj", "=all-linear:"),
        ('"q_proj"," v_proj"', "=' v_proj':"),
        ("lm_head", "=lm_head: it is the output head"),
    ],
)
def test_what_was_typed_is_refused_before_any_machine_starts(tiny: RunConfig, text: str, named: str) -> None:
    typed = apply_overrides(tiny, [f"model.lora.targets={text}", "model.lora.rank=4"])
    with pytest.raises(BadInput) as error:
        prepare(typed)
    assert f"model.lora.targets{named}" in str(error.value)


def test_a_stage_that_only_evaluates_is_checked_too(tiny: RunConfig) -> None:
    still = dataclasses.replace(tiny.grpo, steps=0), dataclasses.replace(tiny.sft, steps=0)
    bad = dataclasses.replace(tiny.model, lora=LoraConfig(rank=4, targets=("z_proj",)))
    with pytest.raises(BadInput, match="targets=z_proj: there is no"):
        prepare(dataclasses.replace(tiny, grpo=still[0], sft=still[1], model=bad))


@pytest.mark.parametrize(
    ("loss", "family", "said"), [("grpo", "olmoe", True), ("gspo", "olmoe", False), ("grpo", "", False)]
)
def test_gspo_is_recommended_for_a_mixture(tiny: RunConfig, tmp_path: Path, caplog, loss: str, family: str, said: bool):
    path = str(mixtures.write(family, tmp_path)) if family else tiny.model.path
    model, grpo = dataclasses.replace(tiny.model, path=path), dataclasses.replace(tiny.grpo, loss=loss)
    prepare(dataclasses.replace(tiny, model=model, grpo=grpo))
    assert ("grpo.loss=gspo weighs whole sequences" in caplog.text) == said
