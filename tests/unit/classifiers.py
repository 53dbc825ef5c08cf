"""Reward models of a few thousand random parameters, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

from tests.unit.conftest import byte_tokenizer

CHAT = "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
WITHOUT_THINKING = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'].split('</think>')[-1] + '</s>' }}{% endfor %}"
)


def llama_classifier(folder: Path, *, chat: str | None = CHAT, pad: bool = True, positions: int = 256) -> Path:
    """A decoder over bytes, which reads its score off the last token that is not padding."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = byte_tokenizer(chat=chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=positions, num_labels=1,
        pad_token_id=0 if pad else None, bos_token_id=1, eos_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    if not pad:
        tokenizer.pad_token = tokenizer.eos_token
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert_classifier(folder: Path, *, labels: int = 1) -> Path:
    """An encoder over characters, which reads its score off the first token; its tokenizer makes pairs."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    characters = "abcdefghijklmnopqrstuvwxyz0123456789+?.<>/"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_causal(folder: Path, *, chat: str | None = CHAT, hidden: int = 32) -> Path:
    """A decoder over bytes that writes: what a reward model is trained from."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(chat=chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
