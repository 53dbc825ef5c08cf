"""A model folder that others than transformers 5 can read: transformers 4, vLLM, converters to GGUF.

transformers 5 writes a few settings under new names alone, and tokenizers under names of classes that came with it. An
older reader then takes its own default without a word, for RoPE a base of 10000, or refuses the tokenizer. So the older
names are written beside the new ones, the tokenizer gets a class that both know, and files of the source that
transformers 5 leaves behind are kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.model.pretrained import load_config, load_tokenizer, source_file

if TYPE_CHECKING:
    from transformers.configuration_utils import PretrainedConfig

KEPT_FILES = (
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json", "added_tokens.json", "special_tokens_map.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md",
)  # fmt: skip
"""Files of a source that its model still needs elsewhere, or that must come with it. Training changes none of them."""
RENAMED = ("num_experts",)
"""Settings that transformers 5 writes under another name: this one as num_local_experts, for Qwen3-MoE."""
OLD_LAYERS = {"linear_attention": "mamba", "full_attention": "attention"}
"""Names of layers that transformers 4 still has for one family; transformers 5 reads both."""
FULL, SLIDING, ORIGINAL = "full_attention", "sliding_attention", "original_max_position_embeddings"


def complete(folder: Path, source: str = "") -> None:
    """Make a folder that transformers 5 has written readable by others. Done twice, it changes nothing more.

    source: the folder or id of the model that this one was made from, for files that were left behind; "" for none.
    """
    path = folder / "config.json"
    _write(path, with_older_names(load_config(str(folder)), _read(path)))
    for file in (source_file(source, name) for name in KEPT_FILES if source):
        if file is not None and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        _write(path, older_tokenizer(folder, _read(path)))


# ------------------------------------------------------------------------------------------------ config.json


def with_older_names(config: PretrainedConfig, written: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the older names beside the new ones, in the configs of a model's parts too.

    {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}} gains
    {"torch_dtype": "bfloat16", "rope_theta": 5e5, "rope_scaling": null}.
    """
    from transformers.configuration_utils import PretrainedConfig

    found = dict(written)
    for name, part in vars(config).items():
        if isinstance(part, PretrainedConfig) and isinstance(found.get(name), dict):
            found[name] = with_older_names(part, found[name])
    if found.get("dtype") is not None:
        found["torch_dtype"] = found["dtype"]
    names = type(config).attribute_map
    found |= {old: found[names[old]] for old in RENAMED if names.get(old) in found}
    if found.get("model_type") == "granitemoehybrid":
        found["layer_types"] = [OLD_LAYERS.get(kind, kind) for kind in found["layer_types"]]
    return found | older_rope(found)


def older_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE settings of config.json as transformers 4 had them, from rope_parameters; {} for a model without."""
    rope = config.get("rope_parameters") or {}
    model_type = str(config.get("model_type", ""))
    by_layer = {name: values for name, values in rope.items() if isinstance(values, dict)}
    main = by_layer.get(FULL, next(iter(by_layer.values()))) if by_layer else rope
    if "rope_theta" not in main:
        return {}
    found = {"rope_theta": main["rope_theta"], "rope_scaling": _older_scaling(main, model_type)}
    if "partial_rotary_factor" in main:
        found["partial_rotary_factor"] = main["partial_rotary_factor"]
    if ORIGINAL in main and main.get("rope_type") == "longrope":
        found[ORIGINAL] = main[ORIGINAL]
    if SLIDING in by_layer:
        found["rope_local_base_freq"] = by_layer[SLIDING]["rope_theta"]
    if model_type.startswith("gpt_neox"):
        found |= {"rotary_emb_base": main["rope_theta"], "rotary_pct": main.get("partial_rotary_factor", 1.0)}
    return found


def _older_scaling(rope: Mapping[str, Any], model_type: str) -> dict[str, Any] | None:
    """rope_scaling; None for RoPE that is not scaled."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    elsewhere = {"rope_theta", "partial_rotary_factor", "rope_type", "type"}
    if model_type.startswith("phi3"):  # exactly type, short_factor and long_factor, or transformers 4 refuses the model
        return {"type": kind, **{k: v for k, v in rope.items() if k not in {*elsewhere, ORIGINAL}}}
    return {"rope_type": kind, **{k: v for k, v in rope.items() if k not in elsewhere}}


# ------------------------------------------------------------------------------------------------ the tokenizer


def older_tokenizer(folder: Path, written: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json for transformers 4: a class that takes tokenizer.json as it stands, so that every text has
    the tokens of training, and the added tokens, which a vocabulary in another file lacks.
    """
    found = dict(written)
    if (folder / "tokenizer.json").is_file():
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    found.pop("backend", None)
    if isinstance(found.get("extra_special_tokens"), list):  # where transformers 4 expects names with tokens, and fails
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    added = load_tokenizer(str(folder)).added_tokens_decoder
    found["added_tokens_decoder"] = {str(number): _token(token) for number, token in sorted(added.items())}
    return found


def _token(token: Any) -> dict[str, Any]:
    """A tokenizers.AddedToken as tokenizer_config.json has it."""
    return {
        "content": token.content, "lstrip": token.lstrip, "normalized": token.normalized, "rstrip": token.rstrip,
        "single_word": token.single_word, "special": token.special,
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
