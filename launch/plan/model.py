"""A model's architecture as the plan needs it: parameters, floating-point operations, bytes per token. No torch.

Letters: D hidden size, I MLP size, L layers, V vocabulary, Q = heads x head size, K = key-value heads x head size.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from rl.types import BadInput

TABLE = Path(__file__).with_name("models.toml")
LAYOUTS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are laid out as counted here: attention with q, k, v and o, and an MLP of three matrices."""


@dataclass(frozen=True)
class Architecture:
    """The shapes of a decoder. source: where the figures were read. exact: whether this layer layout is known here."""

    name: str
    source: str
    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int = 0
    given_parameters: int = 0
    given_active: int = 0
    given_kv_values: int = 0

    @property
    def exact(self) -> bool:
        return self.model_type in LAYOUTS

    @property
    def q_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Numbers in one layer's weight matrices: q and o (D Q each), k and v (D K each), gate, up and down (D I)."""
        return 2 * self.hidden * (self.q_size + self.kv_size) + 3 * self.hidden * self.intermediate

    @property
    def layer_vectors(self) -> int:
        """Norm weights of a layer, and the biases (Qwen2) or head norms (Qwen3) of its attention."""
        extra = {"qwen2": self.q_size + 2 * self.kv_size, "qwen3": 2 * self.head_dim}.get(self.model_type, 0)
        return 2 * self.hidden + extra

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        layers = self.layers * (self.layer_matrices + self.layer_vectors)
        return self.given_parameters or layers + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def active(self) -> int:
        """Parameters of the layers that one token uses: no embedding, no head, and only the chosen experts."""
        if self.given_active:
            return self.given_active - 2 * self.embedding
        return self.layers * self.layer_matrices

    @property
    def largest_tensor(self) -> int:
        return max(self.embedding, self.hidden * self.intermediate)

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that the KV cache keeps for one token."""
        return self.given_kv_values or 2 * self.layers * self.kv_size

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA on every linear layer but the head: rank x (inputs + outputs) each."""
        d, i, q, k = self.hidden, self.intermediate, self.q_size, self.kv_size
        return self.layers * rank * (2 * (d + q) + 2 * (d + k) + 3 * (d + i))

    def layer_flops(self, tokens: float, mean_length: float) -> float:
        """Floating-point operations of the layers' forward pass: 2 per weight and token, and causal attention.

        Attention: q k and its product with v, 2 Q operations each per earlier token: 4 Q x length / 2 per token.
        """
        return tokens * (2.0 * self.active + self.layers * 2.0 * self.q_size * mean_length)

    def head_flops(self, tokens: float) -> float:
        """Floating-point operations of the output head's forward pass over these tokens."""
        return 2.0 * self.embedding * tokens


def find_architecture(path: str) -> Architecture:
    """The architecture of a model, from a local folder's config.json, a recipe's own 'module:function', or the table.

    Raises BadInput when none of them knows it.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return read_config(folder)
    known = _table()
    if path in known:
        return known[path]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.3) if path else []
    at_end = [name for name in known if name.rsplit("/", 1)[-1] == folder.name]
    if at_end:  # a folder that is not fetched yet, as models/SmolLM2-135M-Instruct
        return known[at_end[0]]
    hint = f"; the nearest it knows is {near[0]}" if near else ""
    raise BadInput(
        f"model.path={path}: no folder with a config.json, and not among the models that aha plan knows{hint}. Fetch "
        "at least its config.json into a folder, or add it to launch/plan/models.toml"
    )


def read_config(folder: Path) -> Architecture:
    """The architecture that a folder's config.json describes. Raises BadInput when it lacks a figure."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise BadInput(f"{file}: is not JSON ({error})") from error
    return _build(config, str(folder), str(file))


@cache
def _table() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    table = tomllib.loads(TABLE.read_text())
    positions = {name: {"max_position_embeddings": number} for name, number in table["positions"].items()}
    for row in table["model"]:
        for name in row["ids"]:
            found[name] = _build(row | positions.get(name, {}), name, row["source"])
    return found


def _build(config: dict[str, object], name: str, source: str) -> Architecture:
    def number(key: str, otherwise: int | None = None) -> int:
        value = config.get(key)
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, int):
            raise BadInput(f"{source}: has no {key}; aha plan needs a decoder's config.json")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Architecture(
        name=name,
        source=source,
        model_type=str(config.get("model_type", "")),
        hidden=hidden,
        intermediate=number("intermediate_size"),
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", hidden // heads),
        vocab=number("vocab_size"),
        tied=bool(cast(bool, config.get("tie_word_embeddings", False))),
        context=number("max_position_embeddings", 0),
        given_parameters=number("parameters", 0),
        given_active=number("active_parameters", 0),
        given_kv_values=number("kv_values_per_token", 0),
    )
