"""GRPO on one GPU of 80 GB: Qwen2.5-7B with adapters, learner and sampler in turns. GSM8K, as in card_24gb.py.

    aha run recipes/card_80gb.py
    aha plan recipes/card_80gb.py --gpu H100-80G --gpus-per-node 1

Source: recipes/card_24gb.py. Hardware: one GPU of 80 GB and 64 GB of host memory.
Deliberately different: as there. To train all weights of a 7B model takes eight such GPUs (recipes/r1_zero.py size=7b).
"""

from recipes.card_24gb import on_one_card
from rl.config import RunConfig


def recipe() -> RunConfig:
    """Called by `aha run recipes/card_80gb.py`."""
    return on_one_card("card-80gb-7b", "Qwen/Qwen2.5-7B", lora_rank=32, micro_batch_tokens=16_384)
