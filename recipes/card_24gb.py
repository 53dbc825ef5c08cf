"""GRPO on one GPU of 24 GB: learner and sampler take turns on it. GSM8K, with R1-Zero's prompt and rewards.

    aha run recipes/card_24gb.py                 Qwen2.5-1.5B, adapters alone are trained (LoRA)
    aha run recipes/card_24gb.py model=0.5b      Qwen2.5-0.5B, all weights are trained
    aha plan recipes/card_24gb.py --gpu RTX4090-24G --gpus-per-node 1

Source: DeepSeek-R1 (arXiv 2501.12948v2) for prompt, rewards and KL; GSM8K (2110.14168). The learning rates are common
ones: ten times as high for adapters as for all weights.
Hardware: one GPU of 24 GB and 32 GB of host memory.
Deliberately different: steps of 256 short rollouts instead of R1's 8,192 long ones, so that a step takes minutes.
"""

from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
)
from rl.types import BadInput


def gsm8k(split: str, limit: int = 0) -> DataConfig:
    """Problems of GSM8K in R1-Zero's template."""
    return DataConfig(
        source="openai/gsm8k", subset="main", split=split, prompt_field="question", answer_field="answer",
        answer_after="####", template="r1_zero", limit=limit,
    )  # fmt: skip


def on_one_card(name: str, model: str, lora_rank: int, micro_batch_tokens: int) -> RunConfig:
    """200 steps of 32 problems x 8 samples. lora_rank: of the adapters; 0 trains all weights."""
    return RunConfig(
        name=name,
        model=ModelConfig(path=model, context_length=1536, lora=LoraConfig(rank=lora_rank, alpha=2.0 * lora_rank)),
        prompts=gsm8k("train"),
        rewards=(RewardConfig("accuracy"), RewardConfig("format")),
        rollout=RolloutConfig(max_new_tokens=1024),
        grpo=GRPOConfig(
            steps=200,
            prompts_per_step=32,
            group_size=8,
            ref_refresh_steps=0,  # so that the base under adapters stays the reference, and no second copy is held
            optim=OptimConfig(lr=1e-5 if lora_rank else 1e-6, warmup_steps=5),
        ),
        evaluation=EvalConfig(data=gsm8k("test", limit=200), every=50, samples=1),
        learner=LearnerConfig(micro_batch_tokens=micro_batch_tokens, gradient_checkpointing=True),
        sampler=SamplerConfig(max_sequences=128, enforce_eager=False),
    )


def recipe(model: str = "1.5b") -> RunConfig:
    """Called by `aha run recipes/card_24gb.py`. model: 1.5b with adapters, or 0.5b whole."""
    if model not in ("1.5b", "0.5b"):
        raise BadInput(f"model={model}: must be 1.5b or 0.5b")
    if model == "0.5b":
        return on_one_card("card-24gb-0.5b", "Qwen/Qwen2.5-0.5B", lora_rank=0, micro_batch_tokens=8192)
    return on_one_card("card-24gb-1.5b", "Qwen/Qwen2.5-1.5B", lora_rank=32, micro_batch_tokens=8192)
