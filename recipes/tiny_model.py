"""Small models made here: a Llama of about a million parameters over characters, with random weights and a tokenizer
of its own; smaller students of it and of SmolLM2.

Used as model.path="recipes.tiny_model:tied" or ":untied". Torch is imported only when a model is made.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rl.types import BadInput

CHARACTERS = "0123456789 abcdefghijklmnopqrstuvwxyz:,.?+=<>/"
END, PAD = "<|end|>", "<|pad|>"


def tied() -> Path:
    """The folder of a model whose output head is its embedding."""
    return make(Path("models/tiny-tied"), tie=True)


def untied() -> Path:
    """The folder of a model with a head of its own."""
    return make(Path("models/tiny-untied"), tie=False)


def quick() -> Path:
    """The folder of a model that learns within a few hundred steps to copy from its prompt, its weights being wide."""
    return make(Path("models/tiny-quick"), tie=True, wide=True)


def student() -> Path:
    """The folder of a model of half of quick's layers, with the same tokenizer."""
    return make(Path("models/tiny-quick-student"), tie=True, layers=2, wide=True)


def student_of_smollm() -> Path:
    """The folder of SmolLM2-135M-Instruct without its layers 12 to 19: a smaller student of the same family.

    Of a block of eight layers this one is missed least, by the loss on r1_mini's documents. (Every third layer left out
    is a model that has to learn its language again.)
    """
    source, folder = Path("models/SmolLM2-135M-Instruct"), Path("models/SmolLM2-22-layers")
    if (folder / "model.safetensors").exists():
        return folder
    if not source.is_dir():
        raise BadInput(f"{source}: no such folder; bash launch/quickstart.sh fetches it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    layers = list(model.model.layers)
    kept = layers[: len(layers) * 2 // 5] + layers[len(layers) * 2 // 3 :]
    for place, layer in enumerate(kept):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    _write(model, AutoTokenizer.from_pretrained(source), folder)
    return folder


def make(folder: Path, *, tie: bool, layers: int = 4, hidden: int = 128, wide: bool = False) -> Path:
    """Write the model into folder, once. The weights depend on nothing but this code.

    wide: weights as large as their fan-in asks for (std 1/sqrt(hidden)), and embeddings as large as what the layers
    add to them. Llama's own 0.02 is for far wider models: with it, one of this size takes many times as long to learn.
    """
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        if wide:
            for weight in model.parameters():
                if weight.dim() == 2:
                    torch.nn.init.normal_(weight, std=hidden**-0.5)
            torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    _write(model, tokenizer, folder)
    return folder


def _write(model, tokenizer, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """The model's folder, whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def make_tokenizer():  # type: ignore[no-untyped-def]
    """One token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {character: i for i, character in enumerate([END, PAD, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=PAD)
