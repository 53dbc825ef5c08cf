"""Small models made here: a Llama of about a million parameters over characters, with random weights and a tokenizer
of its own; smaller students of it and of SmolLM2.

Used as model.path="recipes.tiny_model:tied" or ":untied". Torch is imported only when a model is made.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from rl.types import AhaError, BadInput

CHARACTERS = "0123456789 abcdefghijklmnopqrstuvwxyz:,.?+=<>/"
WAIT_S = 600.0
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
    return _once(folder, functools.partial(_without_middle_layers, source))


def _without_middle_layers(source: Path):  # type: ignore[no-untyped-def]
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
    return model, AutoTokenizer.from_pretrained(source)


def make(folder: Path, *, tie: bool, layers: int = 4, hidden: int = 128, wide: bool = False) -> Path:
    """The folder, with the model written into it. The weights depend on nothing but this code.

    wide: weights as large as their fan-in asks for (std 1/sqrt(hidden)), and embeddings as large as what the layers
    add to them. Llama's own 0.02 is for far wider models: with it, one of this size takes many times as long to learn.
    """
    return _once(folder, functools.partial(_llama, tie=tie, layers=layers, hidden=hidden, wide=wide))


def _llama(*, tie: bool, layers: int, hidden: int, wide: bool):  # type: ignore[no-untyped-def]
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
    return model, tokenizer


def _once(folder: Path, build: Callable[[], tuple]) -> Path:
    """The folder, whole or not at all, with what build() makes: (model, tokenizer).

    Of processes that want it at the same time one makes it and the others wait, at most WAIT_S; then AhaError.
    """
    made = folder / "model.safetensors"
    if made.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=WAIT_S):
            if not made.exists():
                partial = folder.with_name(folder.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                for part in build():
                    part.save_pretrained(partial)
                if not (partial / made.name).exists():  # transformers saves a model on rank 0 alone
                    raise AhaError(
                        f"{folder}: nothing was written here; make the model before a process group is joined"
                    )
                partial.rename(folder)
    except Timeout as error:
        raise AhaError(
            f"{folder}: another process has been making this model for {WAIT_S:g} s; look what it does"
        ) from error
    return folder


def make_tokenizer():  # type: ignore[no-untyped-def]
    """One token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {character: i for i, character in enumerate([END, PAD, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=PAD)
