"""See GRPO happen on two CPU cores: a model of 135 million parameters learns to add three numbers step by step.

A short SFT cold start teaches the <think> and <answer> form on a few worked examples, as R1's cold start does; GRPO
with accuracy and format rewards does the rest. Neither trains on the held-out sums.
"""

from rl.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)

TEMPLATE = "{prompt}\n"


def recipe() -> RunConfig:
    """Called by `aha run recipes/quickstart.py`."""
    return RunConfig(
        name="quickstart",
        model=ModelConfig(path="models/SmolLM2-135M-Instruct", context_length=512),
        prompts=DataConfig(source="recipes.tasks:three_numbers_train", template=TEMPLATE),
        rewards=(RewardConfig("accuracy"), RewardConfig("format", weight=0.2)),
        rollout=RolloutConfig(max_new_tokens=48),
        sft=SFTConfig(
            steps=5,
            examples_per_step=16,
            data=DataConfig(source="recipes.tasks:three_numbers_train", template=TEMPLATE, limit=96),
            optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=1),
        ),
        grpo=GRPOConfig(
            steps=10,
            prompts_per_step=8,
            group_size=8,
            clip_high=0.28,
            kl_coef=0.0,
            uniform_groups="drop",
            optim=OptimConfig(lr=1.5e-5),
        ),
        evaluation=EvalConfig(
            data=DataConfig(source="recipes.tasks:three_numbers_eval", template=TEMPLATE, limit=60), every=0, samples=4
        ),
        learner=LearnerConfig(micro_batch_tokens=1024),
        checkpoint=CheckpointConfig(every=5, keep=1),
    )
