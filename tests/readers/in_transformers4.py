"""Reads model folders with transformers 4. Run by tests/integration/test_readers.py in a process of its own.

Arguments: the folder with transformers 4, a file with the token ids and texts as JSON, and the model folders. Into each
of these it writes read.pt: the logits, the tokens of the texts, and a rendered chat.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

asked = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
for folder in map(Path, sys.argv[3:]):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor([asked["ids"]])).logits
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(asked["chat"], tokenize=False) if tokenizer.chat_template else ""
    found = {
        "logits": logits, "dtype": model.dtype, "tokens": [tokenizer(text)["input_ids"] for text in asked["texts"]],
        "chat": chat, "version": transformers.__version__,
    }  # fmt: skip
    torch.save(found, folder / "read.pt")
