"""DAPO on Qwen2.5-Math-7B: clip-higher, dynamic sampling, token-level loss, overlong filter and penalty, no KL.

    aha run recipes/dapo.py

Source: DAPO (arXiv 2503.14476): 512 prompts x 16 samples, 16 updates a batch, clip 0.2/0.28, AdamW 1e-6 after a warm-up
of 20 rollout batches; completions that use the last 4,096 of 20,480 tokens lose up to one point. Its main model is
Qwen2.5-32B.
Hardware: one node of 8 GPUs of 80 GB: four learner ranks, four samplers.
Deliberately different: a correct answer is worth 2 and a wrong one 0, where DAPO has 1 and -1 (the same advantages, as
they are normalised); Qwen2.5-Math-7B's context is 4,096 tokens, so all lengths are scaled down in proportion; the
difference between sampler and learner is corrected by truncated importance weights (grpo.importance).
"""

from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
)

MATHS = DataConfig(
    source="open-r1/OpenR1-Math-220k", prompt_field="problem", answer_field="answer", template="chat",
    unjudgeable="drop", long_prompts="drop",
)  # fmt: skip
AIME_24 = DataConfig(
    source="HuggingFaceH4/aime_2024", prompt_field="problem", answer_field="answer", template="chat", shuffle=False
)


def recipe() -> RunConfig:
    """Called by `aha run recipes/dapo.py`."""
    return RunConfig(
        name="dapo-math-7b",
        model=ModelConfig(path="Qwen/Qwen2.5-Math-7B", context_length=4096),
        prompts=MATHS,
        rewards=(
            RewardConfig("accuracy", weight=2.0),
            RewardConfig("soft_overlong", options=("max_tokens=3072", "cache_tokens=614")),
        ),
        # The base model's end token is not the one that ends a turn of the chat template.
        rollout=RolloutConfig(max_new_tokens=3072, stop=("<|im_end|>",)),
        grpo=GRPOConfig(
            steps=200,
            prompts_per_step=512,
            group_size=16,
            updates_per_step=16,
            loss="dapo",
            clip_low=0.2,
            clip_high=0.28,
            kl_coef=0.0,
            uniform_groups="refill",
            uniform_by="accuracy",
            overlong="mask",
            optim=OptimConfig(lr=1e-6, warmup_steps=320),
        ),
        evaluation=EvalConfig(data=AIME_24, every=10, samples=32, temperature=1.0, top_p=0.7, greedy=False),
        learner=LearnerConfig(ranks=4, zero_stage=3, micro_batch_tokens=16_384, gradient_checkpointing=True),
        sampler=SamplerConfig(count=4, enforce_eager=False),
    )
