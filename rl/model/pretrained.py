"""A Hugging Face model's config and tokenizer: all that the driver needs, without the model's code or weights."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer
from transformers.configuration_utils import PretrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import cached_file

from rl.config import ModelConfig
from rl.model.hub import reach_hub
from rl.model.sequence_parallel import check_heads
from rl.types import BadInput

log = logging.getLogger(__name__)


def load_config(path: str) -> PretrainedConfig:
    """The model's config. Raises BadInput when path is neither a folder with a model nor a known id."""
    reach_hub(path)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"model.path={path}: there is no model ({_first_line(error)})") from error


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises BadInput when there is none."""
    reach_hub(path)
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"model.path={path}: there is no tokenizer ({_first_line(error)})") from error


def source_file(path: str, name: str) -> Path | None:
    """A file of a model's folder or id. None where the model has no such file, or where it cannot be fetched."""
    found = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None


def generation_file(path: str) -> Path | None:
    """The generation_config.json of a model's folder or id. None where the model has none; None with a warning where it
    cannot be fetched.
    """
    try:
        found = cached_file(path, "generation_config.json", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        log.warning("%s: no generation_config.json, so end tokens may be missing (%s)", path, _first_line(error))
        return None
    return Path(found) if found else None


@functools.lru_cache(maxsize=64)
def generation_ends(path: str) -> tuple[int, ...]:
    """The end tokens that the model's generation_config.json names: none, one or several."""
    file = generation_file(path) if path else None
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file else None
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


def context_length(model: ModelConfig, config: PretrainedConfig) -> int:
    """Prompt plus completion limit, tokens."""
    own = positions(config)
    if model.context_length > own:
        raise BadInput(f"model.context_length={model.context_length}: the model was made for at most {own} tokens")
    return model.context_length or own


def positions(config: PretrainedConfig) -> int:
    """The longest sequence that the model was made for, tokens. In a model of several parts, that of the text part."""
    return int(config.get_text_config().max_position_embeddings)


EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""The names of the number of experts in the configs of transformers' families."""


def is_mixture(config: PretrainedConfig) -> bool:
    """Whether the model routes each token to some of many experts."""
    text = config.get_text_config().to_dict()
    return any((text.get(name) or 1) > 1 for name in EXPERT_COUNTS)


def refuse_heads(config: PretrainedConfig, sequence_parallel: int) -> None:
    """Raise BadInput for a model whose attention heads cannot be divided among the ranks that share its sequences."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    check_heads(heads, text.to_dict().get("num_key_value_heads") or heads, sequence_parallel)


CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes that vLLM's attention on a CPU has kernels for (CPUAttentionBackend.get_supported_head_sizes)."""


def refuse_head_size(path: str) -> None:
    """Raise BadInput for a model whose attention a CPU sampler cannot compute. vLLM itself fails at the first token."""
    config = load_config(path).get_text_config()
    size = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
    if size not in CPU_HEAD_SIZES:
        raise BadInput(
            f"model.path={path}: its attention heads have size {size}, and vLLM on a CPU has sizes "
            f"{', '.join(map(str, CPU_HEAD_SIZES))}; choose another model, or a GPU"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
