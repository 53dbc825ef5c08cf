"""The whole path in about a minute: a million-parameter model from random weights, SFT, then GRPO.

It learns to reverse four digits. The integration tests run it. It is too small to show more than that the parts fit.
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
    SamplerConfig,
    SFTConfig,
    TrackConfig,
)


def recipe() -> RunConfig:
    """Called by `aha run recipes/tiny.py`. model.path=recipes.tiny_model:untied has a head of its own."""
    train = DataConfig(source="recipes.tasks:tiny_train", template="plain")
    return RunConfig(
        name="tiny",
        model=ModelConfig(path="recipes.tiny_model:tied", dtype="float32"),
        prompts=train,
        rewards=(RewardConfig("accuracy"), RewardConfig("format", weight=0.2)),
        rollout=RolloutConfig(max_new_tokens=64),
        sft=SFTConfig(steps=150, examples_per_step=64, data=train, optim=OptimConfig(lr=3e-3, warmup_steps=10)),
        grpo=GRPOConfig(
            steps=10, prompts_per_step=16, group_size=8, kl_coef=0.001, clip_high=0.28, optim=OptimConfig(lr=1e-4)
        ),
        evaluation=EvalConfig(
            data=DataConfig(source="recipes.tasks:tiny_eval", template="plain", limit=64), every=5, samples=4
        ),
        learner=LearnerConfig(micro_batch_tokens=8192),
        sampler=SamplerConfig(kv_cache_gib=1.0),
        checkpoint=CheckpointConfig(every=5),
        track=TrackConfig(wandb="off"),
    )
