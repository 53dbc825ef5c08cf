"""R1-Zero at full scale: RL alone, on a base model, with rule rewards and R1's plain template.

    aha run recipes/r1_zero.py size=32b        size=7b for the smaller one

Source: DeepSeek-R1 (arXiv 2501.12948v2), section 2 and B.4.1 (the 32B run on Qwen2.5-32B); its settings by name below.
Hardware: 6 nodes of 8 GPUs of 80 GB for 32b (32 learner ranks, 16 GPUs of samplers), one such node for 7b.
Deliberately different: R1's prompts are not public, so the prompts are those of OpenR1-Math-220k. The clip ratio of
R1-Zero is undisclosed; PPO's 0.2 is used, and AdamW's usual settings. The difference between sampler and learner
is corrected by truncated importance weights. A step here is one rollout batch of 16 updates, so 25 steps are R1's 400.
The paper found pure RL to fail on a dense 7B model of its own; for 7b it is an experiment.
"""

from recipes.benchmarks import AIME
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
)
from rl.types import BadInput

MODELS = {"7b": "Qwen/Qwen2.5-7B", "32b": "Qwen/Qwen2.5-32B"}
PROMPTS = DataConfig(
    source="open-r1/OpenR1-Math-220k", prompt_field="problem", answer_field="answer", template="r1_zero",
    unjudgeable="drop", long_prompts="drop",
)  # fmt: skip


def zero_grpo(lr: float = 2e-6, steps: int = 650) -> GRPOConfig:
    """R1's: 512 questions x 16 samples, 16 updates on each batch, KL 0.001, a new reference every 400 updates.

    The learning rate of 2e-6 is that of the 32B run (B.4.1). 650 rollout batches are R1-Zero's 10,400 updates.
    """
    return GRPOConfig(
        steps=steps,
        prompts_per_step=512,
        group_size=16,
        updates_per_step=16,
        kl_coef=0.001,
        ref_refresh_steps=400,
        optim=OptimConfig(lr=lr),
    )


def recipe(size: str = "32b") -> RunConfig:
    """Called by `aha run recipes/r1_zero.py`. size: 7b or 32b."""
    if size not in MODELS:
        raise BadInput(f"size={size}: must be one of {', '.join(MODELS)}")
    large = size == "32b"
    return RunConfig(
        name=f"r1-zero-{size}",
        model=ModelConfig(path=MODELS[size], context_length=32_768 + 1024),
        prompts=PROMPTS,
        rewards=(RewardConfig("accuracy"), RewardConfig("format")),  # equal weights: V2 eq. 4
        rollout=RolloutConfig(temperature=1.0, max_new_tokens=32_768),
        grpo=zero_grpo(),
        evaluation=EvalConfig(
            data=AIME_ZERO, every=25, samples=16, temperature=0.6, top_p=0.95, greedy=False
        ),
        learner=LearnerConfig(
            ranks=32 if large else 4, zero_stage=3, micro_batch_tokens=34_816, gradient_checkpointing=True
        ),
        sampler=SamplerConfig(count=4, tensor_parallel=4 if large else 1, enforce_eager=False),
        checkpoint=CheckpointConfig(every=5),
    )  # fmt: skip


AIME_ZERO = DataConfig(
    source=AIME.source, split=AIME.split, prompt_field=AIME.prompt_field, answer_field=AIME.answer_field,
    template="r1_zero", shuffle=False,
)  # fmt: skip
