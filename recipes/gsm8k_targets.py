"""Which target teaches a student best? Three students learn the same problems from three kinds of target.

    aha run recipes/gsm8k_targets.py                       Llama-3.1-8B-Instruct, taught by a distilled R1
    aha run recipes/gsm8k_targets.py student=... teacher=...

After the GSM8K case study of a post on reasoning distillation: 1. the answer only, 2. the human's chain, 3. the
teacher's chain. Each is learnt with LoRA; in the end accuracy is compared with the length of the chain.
Hardware: one node of 8 GPUs of 80 GB; the teacher's samples take most of the time.
Deliberately different: the post's settings are not given in full, so learning rate and rank are common ones for LoRA;
targets come in R1's form, so that one parser reads all three.
"""

from __future__ import annotations

from dataclasses import replace

from recipes.targets import CLAIMS, TARGETS
from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
    SFTConfig,
)
from rl.recipe import SFT, Build, Compare, Evaluate, Recipe, Reject

GSM8K = DataConfig(
    source="openai/gsm8k", subset="main", prompt_field="question", answer_field="answer", answer_after="####",
    template="chat",
)  # fmt: skip


def recipe(
    student: str = "meta-llama/Llama-3.1-8B-Instruct",
    teacher: str = "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    problems: int = 0,
) -> Recipe:
    """Called by `aha run recipes/gsm8k_targets.py`. problems: how many of the training set; 0: all."""
    base = RunConfig(
        model=ModelConfig(context_length=4096, lora=LoraConfig(rank=16)),
        learner=LearnerConfig(ranks=4, zero_stage=3, micro_batch_tokens=16_384, gradient_checkpointing=True),
        sampler=SamplerConfig(count=1, tensor_parallel=4, enforce_eager=False),
        grpo=GRPOConfig(steps=0),
    )
    rollout = RolloutConfig(temperature=0.6, top_p=0.95, max_new_tokens=3072)
    train = replace(GSM8K, limit=problems)
    sft = SFTConfig(epochs=2, examples_per_step=64, optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=10))
    test = EvalConfig(data=replace(GSM8K, split="test", shuffle=False), samples=4, temperature=0.6, top_p=0.95)
    rewards = (RewardConfig("accuracy"), RewardConfig("format"))
    samples = Reject("teacher_samples", teacher, train, rewards[:1], rollout, RejectConfig(samples=4, keep="shortest"))
    stages = [
        stage
        for name in TARGETS
        for stage in (
            Build(name, f"recipes.targets:{name}", ("@teacher_samples",)),
            SFT(f"student_{name}", student, replace(sft, data=DataConfig(source=f"@{name}", template="chat"))),
            Evaluate(f"eval_{name}", f"@student_{name}", rewards, rollout, test),
        )
    ]
    return Recipe("gsm8k-targets", base, (samples, *stages, Compare("claims", CLAIMS)))
