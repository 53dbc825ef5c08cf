"""Small tokenizers, built here in milliseconds: unit tests need no model and no network."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def byte_tokenizer(*, begin: bool = False, end: str | None = "</s>", chat: str | None = CHAT_TEMPLATE):
    """One token a byte, so that every text can be written; ids 0 <pad>, 1 <s>, 2 </s>.

    begin: put <s> before every text and </s> after it unless asked not to, as Llama's tokenizer does with its own.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(specials + alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    if begin:
        core.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token=end)
    tokenizer.chat_template = chat
    return tokenizer


def char_tokenizer(alphabet: str, unknown: str | None = None):
    """One token a character of alphabet. Other characters become the unknown token or, without one, vanish."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "</s>", *([unknown] if unknown else []), *alphabet]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token=unknown))
    core.add_special_tokens(["<pad>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token=unknown)


@pytest.fixture(scope="session")
def tokenizer():
    """Byte tokenizer with an end token and a chat template; it adds no begin token."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_byte_tokenizer() -> Callable:
    return byte_tokenizer


@pytest.fixture(scope="session")
def make_char_tokenizer() -> Callable:
    return char_tokenizer
