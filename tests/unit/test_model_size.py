"""rl/model/size.py"""

from pathlib import Path

from rl.model.size import multiplied_parameters
from tests.unit.classifiers import llama_causal, llama_classifier


def layers(hidden: int, *, key_values: int) -> int:
    """Two layers: query and output, key and value, three matrices of an MLP of twice the width, two norms; and a norm."""
    matrices = 2 * hidden * hidden + 2 * hidden * key_values + 3 * hidden * 2 * hidden
    return 2 * (matrices + 2 * hidden) + hidden


def test_a_token_is_multiplied_by_the_head_and_not_by_the_embeddings(tmp_path: Path):
    vocabulary = 3 + 256
    causal = multiplied_parameters(str(llama_causal(tmp_path / "causal")))
    assert causal == layers(32, key_values=32) + vocabulary * 32  # its head is its embedding
    classifier = multiplied_parameters(str(llama_classifier(tmp_path / "classifier")))
    assert classifier == layers(16, key_values=16) + 16  # one number a token
