"""Makes what both sides of grpo_step.py read: the small model, and the prompts in a model's template.

Run in Aha's environment: python tests/bench/prepare.py small|smollm2 OUT COUNT MAX_PROMPT_TOKENS
writes OUT/prompts.jsonl and, for small, OUT/model; prints one JSON line {"model_dir", "prompts_source", "parameters"}.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from common import REPO
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

GSM8K = REPO.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
SMOLLM2 = REPO / "models" / "SmolLM2-135M-Instruct"
SMALL_VOCABULARY = 2048


def questions() -> tuple[list[dict[str, str]], str]:
    """Question and answer rows, and where they come from."""
    if GSM8K.exists():
        rows = [json.loads(line) for line in GSM8K.read_text().splitlines()[:1000]]
        return [
            {"question": r["question"], "answer": r["answer"].split("####")[-1].strip()} for r in rows
        ], f"GSM8K train ({GSM8K.relative_to(REPO.parent)})"
    rng = random.Random(0)
    made = []
    for _ in range(1000):
        name, thing = rng.choice(["Ann", "Ben", "Cleo", "Dev"]), rng.choice(["apples", "coins", "books", "stamps"])
        a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
        text = (
            f"{name} has {a} {thing} and buys {b} more at the market on Monday. On Tuesday {name} is given {c} bags with "
            f"{b} {thing} in each of them. How many {thing} does {name} have in the end?"
        )
        made.append({"question": text, "answer": str(a + b + c * b)})
    return made, f"a procedural task ({GSM8K} is absent)"


def make_small_model(folder: Path, texts: list[str]) -> None:
    """A Llama of 3 million random parameters, tied embeddings, with a byte-level BPE tokenizer trained on texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>"]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=SMALL_VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SMALL_VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    model, out, count, max_prompt_tokens = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    out.mkdir(parents=True, exist_ok=True)
    rows, source = questions()
    model_dir = out / "model" if model == "small" else SMOLLM2
    if model == "small":
        make_small_model(model_dir, [row["question"] for row in rows])
    elif not (model_dir / "model.safetensors").exists():
        raise SystemExit(f"{model_dir}: not there; fetch it with: python launch/fetch_model.py")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    chosen = []
    for row in rows:
        if tokenizer.chat_template:
            message = [{"role": "user", "content": row["question"]}]
            prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        else:
            prompt = f"Question: {row['question']}\nAnswer:"
        if len(tokenizer(prompt)["input_ids"]) <= max_prompt_tokens:
            chosen.append({"prompt": prompt, "answer": row["answer"]})
        if len(chosen) == count:
            break
    (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir)).num_parameters()
    lengths = [len(tokenizer(row["prompt"])["input_ids"]) for row in chosen]
    source += f", {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.0f} on average"
    print(json.dumps({"model_dir": str(model_dir), "prompts_source": source, "parameters": parameters}))


if __name__ == "__main__":
    main()
