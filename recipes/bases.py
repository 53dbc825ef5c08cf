"""Base models as DeepSeek's students need them: with positions, or a chat template, that the published ones lack.

Each is the published weights under other settings, downloaded once into models/. Used as a stage's model, as
"recipes.bases:qwen_math_7b".
"""

from __future__ import annotations

import json
from pathlib import Path

from rl.types import BadInput

POSITIONS, ROPE_THETA = 32_768, 300_000.0
"""As in open-r1/Qwen2.5-Math-7B-RoPE-300k."""


def qwen_math_1_5b() -> Path:
    """The folder of Qwen2.5-Math-1.5B with 32,768 positions and a rotary base of 300,000, for its 4,096 and 10,000."""
    return _changed("Qwen/Qwen2.5-Math-1.5B", {"max_position_embeddings": POSITIONS, "rope_theta": ROPE_THETA})


def qwen_math_7b() -> Path:
    """The same of Qwen2.5-Math-7B."""
    return _changed("Qwen/Qwen2.5-Math-7B", {"max_position_embeddings": POSITIONS, "rope_theta": ROPE_THETA})


def llama_8b() -> Path:
    """The folder of Llama-3.1-8B, a base without a chat template, with the tokenizer of Llama-3.1-8B-Instruct.

    The tokens are the same; a turn ends with <|eot_id|>.
    """
    return _changed("meta-llama/Llama-3.1-8B", {}, tokenizer="meta-llama/Llama-3.1-8B-Instruct")


def _changed(base: str, settings: dict[str, object], tokenizer: str = "") -> Path:
    """models/<name>-student: the base with other settings in its config.json, and another's tokenizer if named.

    Raises BadInput when the base cannot be downloaded.
    """
    folder = Path("models") / f"{Path(base).name}-student"
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from transformers import AutoTokenizer

    partial = folder.with_name(folder.name + ".partial")
    try:
        snapshot_download(base, local_dir=partial, allow_patterns=["*.json", "*.txt", "*.safetensors"])
        if tokenizer:
            AutoTokenizer.from_pretrained(tokenizer).save_pretrained(partial)
    except OSError as error:
        raise BadInput(f"{base}: cannot be downloaded ({str(error).strip().splitlines()[0]})") from error
    config = partial / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings, indent=2))
    partial.rename(folder)
    return folder
