"""Dr. GRPO on Qwen2.5-Math-7B: GRPO without division by length or by the standard deviation, and without KL.

    aha run recipes/dr_grpo.py

Source: Understanding R1-Zero-Like Training (arXiv 2503.20783, github.com/sail-sg/understand-r1-zero): 8 samples,
temperature 1, learning rate 1e-6 constant, batch 128, 3,000 tokens, clip 0.2, KL 0, MATH levels 3 to 5; 43.3 on AIME
2024 after 27 hours on 8 A100 of 40 GB. A step here is one rollout batch of 128 prompts, 8 updates of 128 samples.
Hardware: one node of 8 GPUs of 80 GB: four learner ranks, four samplers.
Deliberately different: OpenR1-Math-220k's problems in place of MATH's levels 3 to 5; the difference between sampler
and learner is corrected by truncated importance weights (grpo.importance).
"""

from recipes.dapo import AIME_24, MATHS
from rl.config import (
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


def recipe() -> RunConfig:
    """Called by `aha run recipes/dr_grpo.py`."""
    return RunConfig(
        name="dr-grpo-math-7b",
        model=ModelConfig(path="Qwen/Qwen2.5-Math-7B", context_length=4096),
        prompts=MATHS,
        rewards=(RewardConfig("accuracy"),),
        # The base model's end token is not the one that ends a turn of the chat template.
        rollout=RolloutConfig(max_new_tokens=3000, stop=("<|im_end|>",)),
        grpo=GRPOConfig(
            steps=500,
            prompts_per_step=128,
            group_size=8,
            updates_per_step=8,  # 128 samples each
            loss="dr_grpo",
            advantage="group_mean",
            clip_low=0.2,
            clip_high=0.2,
            kl_coef=0.0,
            optim=OptimConfig(lr=1e-6),
        ),
        evaluation=EvalConfig(data=AIME_24, every=25, samples=16, temperature=0.6, top_p=0.95, greedy=False),
        learner=LearnerConfig(ranks=4, zero_stage=3, micro_batch_tokens=16_384, gradient_checkpointing=True),
        sampler=SamplerConfig(count=4, enforce_eager=False),
    )
