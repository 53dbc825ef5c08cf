"""New tokens: a copy of the model that has them, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rl.model.added_tokens import refuse_other_tokenizer, with_tokens
from rl.types import BadInput

NEW = ("<think>", "</think>")


@pytest.fixture(params=[(True, 0), (False, 0), (False, 1), (True, 5)], ids=["tied", "untied", "one_spare", "spare"])
def model(request, tmp_path: Path, make_byte_tokenizer) -> str:
    """A model over bytes, its embedding tied or not, with spare rows or none."""
    tie, spare = request.param
    tokenizer = make_byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tie,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def weights(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    loaded = AutoModelForCausalLM.from_pretrained(path)
    return loaded.get_input_embeddings().weight.detach(), loaded.get_output_embeddings().weight.detach()


def test_each_new_token_is_one_token_and_begins_as_the_mean_of_the_others(model: str, tmp_path: Path) -> None:
    made = with_tokens(model, NEW, tmp_path / "models")
    old, new = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(made)
    size = len(old)
    assert new("a<think>b</think>").input_ids == [*old("a").input_ids, size, *old("b").input_ids, size + 1]
    assert new.decode([size], skip_special_tokens=True) == "<think>"
    assert new.chat_template == old.chat_template
    for before, after in zip(weights(model), weights(made), strict=True):
        assert torch.equal(after[:size], before[:size])
        mean = before[:size].mean(dim=0)
        assert torch.allclose(after[size], mean, atol=1e-6)
        assert torch.equal(after[size], after[size + 1])
        assert len(after) == max(len(before), size + 2)
        assert torch.equal(after[size + 2 :], before[size + 2 :])
    loaded = AutoModelForCausalLM.from_pretrained(made)
    assert loaded.config.vocab_size == len(weights(made)[0])
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == AutoModelForCausalLM.from_pretrained(model).config.tie_word_embeddings


def test_the_copy_is_made_once_and_again_only_for_other_tokens_or_another_model(model: str, tmp_path: Path) -> None:
    home = tmp_path / "models"
    first = Path(with_tokens(model, NEW, home))
    marked = first / "mark"
    marked.touch()
    assert with_tokens(model, NEW, home) == str(first)
    assert marked.exists()
    assert with_tokens(model, ("<think>",), home) != str(first)
    (Path(model) / "model.safetensors").touch()
    assert with_tokens(model, NEW, home) != str(first)
    assert not list(home.glob("*.partial"))


def test_a_model_that_has_the_tokens_is_used_as_it_is(model: str, tmp_path: Path) -> None:
    home = tmp_path / "models"
    made = with_tokens(model, NEW, home)
    assert with_tokens(made, NEW, home) == made
    assert with_tokens(made, ("</think>",), home) == made
    assert with_tokens(model, (), home) == model


def test_bad_tokens_and_missing_models_are_refused(model: str, tmp_path: Path) -> None:
    for tokens in (("<a>", "<a>"), ("<a>", " ")):
        with pytest.raises(BadInput, match="is empty or named twice"):
            with_tokens(model, tokens, tmp_path)
    with pytest.raises(BadInput, match="there is no tokenizer"):
        with_tokens(str(tmp_path / "nothing"), NEW, tmp_path)


def test_new_tokens_are_refused_where_only_adapters_train_before_anything_is_written(
    model: str, tmp_path: Path
) -> None:
    home = tmp_path / "models"
    with pytest.raises(
        BadInput, match=r"model.add_tokens=</think>: .*model.lora.rank=8 .*First .*, then train adapters on"
    ):
        with_tokens(with_tokens(model, ("<think>",), home), NEW, tmp_path / "more", lora_rank=8)
    assert not (tmp_path / "more").exists()
    made = with_tokens(model, NEW, home)
    assert with_tokens(made, NEW, home, lora_rank=8) == made  # a stage of full weights may have learnt them


def test_a_teacher_with_the_students_tokens_is_accepted_and_another_is_refused(model: str, tmp_path: Path) -> None:
    student = AutoTokenizer.from_pretrained(model)
    refuse_other_tokenizer("sft.distill.teacher", model, student)
    other = with_tokens(model, ("<think>",), tmp_path / "models")
    with pytest.raises(BadInput) as caught:
        refuse_other_tokenizer("sft.distill.teacher", other, student)
    assert "'<think>' is number 259 there and missing here" in str(caught.value)
    assert "train on its text instead" in str(caught.value)
    with pytest.raises(BadInput, match=r"grpo\.teacher=.*nothing: there is no tokenizer"):
        refuse_other_tokenizer("grpo.teacher", str(tmp_path / "nothing"), student)
