"""Parameters under the names of Hugging Face's files: one tensor an expert, as every reader of files expects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from rl.config import LoraConfig
from rl.model import disk_names
from rl.model.disk_names import DiskNames
from rl.model.lora import add_adapters, plain_weights
from tests.unit import mixtures


def names_of(hf) -> DiskNames:  # type: ignore[no-untyped-def]
    return DiskNames(hf, {name: tuple(p.shape) for name, p in hf.named_parameters()})


def on_disk(hf) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    names, found = names_of(hf), dict[str, Tensor]()
    for name, p in hf.named_parameters():
        parts = dict(names.split(name, p.data))
        assert [(n, tuple(t.shape)) for n, t in parts.items()] == names.of(name, tuple(p.shape))
        found |= parts
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def llama(*, tied: bool):  # type: ignore[no-untyped-def]
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return AutoModelForCausalLM.from_config(
        LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied)
    )


@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_names_and_tensors_are_those_of_the_file_that_transformers_writes(family: str, tmp_path: Path) -> None:
    file = load_file(mixtures.write(family, tmp_path) / "model.safetensors")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(file) > len(list(hf.named_parameters()))
    assert equal(on_disk(hf), file)
    assert equal(on_disk(mixtures.model(family)), file)


@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_a_model_read_from_a_file_with_fused_experts_goes_out_under_the_usual_names(family: str, tmp_path: Path):
    """What Aha exported before has the names in memory; transformers remembers them and would write them again."""
    hf = mixtures.model(family)
    hf.config.save_pretrained(tmp_path)
    fused = {name: p.data.clone() for name, p in hf.named_parameters()}
    save_file(fused, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert equal(on_disk(AutoModelForCausalLM.from_pretrained(tmp_path)), on_disk(hf))
    assert any(".experts.0." in name for name in on_disk(hf))


@pytest.mark.parametrize("tied", [True, False])
def test_a_dense_model_goes_out_as_it_is_without_a_copy(tied: bool) -> None:
    hf = llama(tied=tied)
    names = names_of(hf)
    for name, p in hf.named_parameters():
        assert names.of(name, tuple(p.shape)) == [(name, tuple(p.shape))]
        assert [(n, t.data_ptr()) for n, t in names.split(name, p.data)] == [(name, p.data_ptr())]
    assert names.renamed("lm_head.weight") == "lm_head.weight"


@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_merged_adapters_go_out_under_the_names_of_the_file_too(family: str, tmp_path: Path) -> None:
    file = load_file(mixtures.write(family, tmp_path) / "model.safetensors")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path)
    add_adapters(hf, LoraConfig(rank=2), seed=0)
    weights = plain_weights(hf)
    names = DiskNames(hf, {weight.name: tuple(weight.base.shape) for weight in weights})
    found = {part: t for weight in weights for part, t in names.split(weight.name, weight.merged())}
    assert equal(found, file)  # an adapter's B is zero at first


def test_names_alone_may_differ() -> None:
    router = "model.layers.1.mlp.gate.weight"
    assert names_of(mixtures.model("mixtral")).renamed(router) == "model.layers.1.block_sparse_moe.gate.weight"


def test_a_parameter_that_a_file_holds_merged_with_others_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def merging(hf, tensors: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        found, merged = {}, dict[str, list[Tensor]]()
        for name, tensor in tensors.items():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                merged.setdefault(name.replace("q_proj", "qk").replace("k_proj", "qk"), []).append(tensor)
            else:
                found[name] = tensor
        return found | {name: torch.cat(parts) for name, parts in merged.items()}

    monkeypatch.setattr(disk_names, "revert_weight_conversion", merging)
    hf = llama(tied=False)
    assert equal(on_disk(hf), {name: p.data for name, p in hf.named_parameters()})
