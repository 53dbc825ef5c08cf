"""rl/model/older_names.py: what is saved has the names that transformers 4 looks for. Read by it: tests/integration/test_readers.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rl.export.folder import Sampling, export_folder
from rl.model.older_names import complete, with_older_names
from rl.model.pretrained import load_tokenizer
from rl.model.writer import ModelWriter
from tests.readers.families import CHAT, TEXTS, config_of, model_of, sentencepiece_source


def written(name: str) -> dict:
    config = config_of(name)
    return with_older_names(config, json.loads(config.to_json_string()))


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("name", "theta", "scaling"),
    [
        ("llama", 5e5, None),
        ("llama3", 5e5, {"rope_type": "llama3", **LLAMA3}),
        ("linear", 5e3, {"rope_type": "linear", "factor": 2.0}),
        ("dynamic", 5e3, {"rope_type": "dynamic", "factor": 2.0}),
        ("yarn", 1e6, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
        ("qwen3", 1e6, None),
        ("gemma3", 3e6, {"rope_type": "linear", "factor": 8.0}),
        ("phi3-partial", 2e4, None),
    ],
)
def test_rope_has_its_older_names_too(name: str, theta: float, scaling: object):
    found = written(name)
    assert (found["rope_theta"], found["rope_scaling"]) == (theta, scaling)
    assert found["rope_parameters"]


def test_phi3_keeps_the_three_keys_that_its_older_config_allows_and_the_rest_outside():
    found = written("phi3-long")
    assert set(found["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    assert found["rope_scaling"]["type"] == "longrope"
    assert found["original_max_position_embeddings"] == 16


def test_names_of_one_family_alone():
    assert written("gemma3")["rope_local_base_freq"] == 3e4
    neox = written("gpt-neox")
    assert (neox["rotary_emb_base"], neox["rotary_pct"], neox["partial_rotary_factor"]) == (2e4, 0.5, 0.5)
    assert written("stablelm")["partial_rotary_factor"] == 0.5


def test_a_setting_that_was_renamed_has_both_names():
    from transformers import GraniteMoeHybridConfig, Qwen3MoeConfig

    mixture = Qwen3MoeConfig(num_experts=7)
    found = with_older_names(mixture, json.loads(mixture.to_json_string()))
    assert found["num_experts"] == found["num_local_experts"] == 7
    granite = GraniteMoeHybridConfig(num_hidden_layers=2, layer_types=["attention", "mamba"])
    plain = json.loads(granite.to_json_string())
    assert plain["layer_types"] == ["full_attention", "linear_attention"]
    assert with_older_names(granite, plain)["layer_types"] == ["attention", "mamba"]


def test_the_configs_of_a_models_parts_are_completed_too():
    from transformers import Gemma3Config

    config = Gemma3Config(text_config=config_of("gemma3").to_dict())
    config.text_config.dtype = torch.bfloat16
    text = with_older_names(config, json.loads(config.to_json_string()))["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"], text["torch_dtype"]) == (3e6, 3e4, "bfloat16")


@pytest.mark.parametrize("name", ["llama", "llama3", "yarn", "gemma3", "phi3-long", "gpt-neox", "deepseek"])
def test_transformers_5_reads_the_same_config_as_before(name: str, tmp_path: Path):
    from transformers import AutoConfig

    def rope(folder: Path) -> dict:
        found = AutoConfig.from_pretrained(folder).rope_parameters
        return {k: v for k, v in found.items() if k != "type"}

    config_of(name).save_pretrained(tmp_path)
    before = rope(tmp_path)
    complete(tmp_path)
    assert rope(tmp_path) == before
    once = (tmp_path / "config.json").read_text()
    complete(tmp_path)
    assert (tmp_path / "config.json").read_text() == once


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_source(tmp_path_factory.mktemp("hub") / "llama")


@pytest.fixture(scope="module")
def saved(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("saved") / "model", model_of("llama")
    writer = ModelWriter(folder)
    for name, parameter in model.named_parameters():
        writer.add(name, parameter.to(torch.bfloat16))
    writer.close(model.config, str(source))
    return folder


def test_a_written_model_has_both_names_of_its_dtype(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")


def test_the_files_that_training_does_not_change_come_with_the_model(source: Path, saved: Path):
    for name in (
        "tokenizer.model",
        "special_tokens_map.json",
        "generation_config.json",
        "preprocessor_config.json",
        "LICENSE",
    ):
        assert (saved / name).read_bytes() == (source / name).read_bytes()
    assert not (saved / "README.md").exists()  # the model card of another model


def test_the_saved_tokenizer_is_one_that_transformers_4_knows_and_writes_the_tokens_of_training(
    source: Path, saved: Path
):
    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<|turn|>"]
    assert "extra_special_tokens" not in config
    assert {token["content"]: token["special"] for token in config["added_tokens_decoder"].values()} == {
        "<unk>": True, "<s>": True, "</s>": True, "<|turn|>": True,
    }  # fmt: skip
    before, after = load_tokenizer(str(source)), load_tokenizer(str(saved))
    assert [after(text).input_ids for text in TEXTS] == [before(text).input_ids for text in TEXTS]
    assert before(TEXTS[0]).input_ids[0] == before.bos_token_id
    assert after.get_vocab() == before.get_vocab()
    assert after.apply_chat_template(CHAT, tokenize=False) == before.apply_chat_template(CHAT, tokenize=False)


def test_an_export_of_a_folder_without_the_older_names_gets_them(source: Path, tmp_path: Path):
    model = model_of("llama3")
    model.save_pretrained(tmp_path / "old")
    load_tokenizer(str(source)).save_pretrained(tmp_path / "old")
    assert "rope_theta" not in json.loads((tmp_path / "old" / "config.json").read_text())
    out = export_folder(tmp_path / "old", tmp_path / "out", ollama=False, sampling=Sampling())
    config = json.loads((out / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]["rope_type"]) == (5e5, "llama3")
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_model_with_added_tokens_keeps_the_files_of_its_source_and_names_the_new_tokens(source: Path, tmp_path: Path):
    from rl.model.added_tokens import with_tokens

    model_of("llama").save_pretrained(source)
    folder = Path(with_tokens(str(source), ["<think>"], tmp_path))
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert added["313"] == {
        "content": "<think>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False,
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 5e5
