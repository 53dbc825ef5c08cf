"""Sky-T1's recipe: 17,000 reasoning traces make a reasoning model of Qwen2.5-32B-Instruct, by SFT alone.

    aha run recipes/sky_t1.py

Source: NovaSky's Sky-T1-32B-Preview: 17k traces by QwQ-32B-Preview, rejection sampled; 3 epochs, learning rate 1e-5,
batch 96; 19 hours on 8 H100, about 450 dollars.
Hardware: two nodes of 8 GPUs of 80 GB.
Deliberately different: twice the GPUs, since nothing is offloaded here and `aha plan` wants 97 GiB a rank with eight;
packing instead of padding; the schedule falls to a tenth by cosine; traces of more than 16,384 tokens are left out and
counted.
"""

from __future__ import annotations

from rl.config import DataConfig, GRPOConfig, LearnerConfig, ModelConfig, OptimConfig, RunConfig, SFTConfig
from rl.recipe import SFT, Recipe

DATA = "NovaSky-AI/Sky-T1_data_17k"
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


def recipe() -> Recipe:
    """Called by `aha run recipes/sky_t1.py`."""
    sft = SFTConfig(
        epochs=3, examples_per_step=96, overlong="drop",
        data=DataConfig(source="recipes.sky_t1:traces", messages_field="messages", template="chat"),
        optim=OptimConfig(lr=1e-5, schedule="cosine", final_lr_share=0.1),
    )  # fmt: skip
    base = RunConfig(
        model=ModelConfig(context_length=16_384),
        learner=LearnerConfig(ranks=16, zero_stage=3, micro_batch_tokens=16_384, gradient_checkpointing=True),
        grpo=GRPOConfig(steps=0),
    )
    return Recipe("sky-t1", base, (SFT("student", "Qwen/Qwen2.5-32B-Instruct", sft),))


def traces() -> list[dict[str, object]]:
    """The published conversations under the names role and content."""
    from datasets import load_dataset

    rows: list[dict[str, object]] = []
    for row in load_dataset(DATA, split="train"):
        turns = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        rows.append({"messages": [*system, *turns]})
    return rows
