"""TRL's side of grpo_step.py: GRPO steps through trl.GRPOTrainer, its methods timed from outside.

TRL generates with transformers, because its vLLM mode does not run on a CPU. The settings are chosen for speed on
two cores (see README.md): all rollouts of a step in one generate call, no gradient checkpointing (TRL's default has it),
fused AdamW, no pass for the old logprobs (TRL leaves it out when generation and update coincide), and
Settings.trl_micro_batch.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from importlib.metadata import version

import torch
from common import (
    Clock,
    Settings,
    SideResult,
    StepResult,
    length_reward,
    read_prompts,
    side_arguments,
    trained_rollouts,
    with_other,
)
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Rewards:
    """The reward function as TRL calls it; it keeps what the last step sampled."""

    __name__ = "length"

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.rewards: list[float] = []

    def __call__(self, completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        self.tokens = [len(ids) for ids in completion_ids]
        self.rewards = [length_reward(text) for text in completions]
        return self.rewards


class Probe(TrainerCallback):
    """Times the trainer's methods and collects one StepResult a step."""

    def __init__(self, rewards: Rewards, group_size: int) -> None:
        self.clock, self.rewards, self.group_size = Clock(), rewards, group_size
        self.steps: list[StepResult] = []
        self.started = 0.0
        self.grad_norm = 0.0

    def attach(self, trainer: GRPOTrainer) -> None:
        wrap = self.clock.wrap
        trainer._generate = wrap("generate", trainer._generate)
        trainer._calculate_rewards = wrap("rewards", trainer._calculate_rewards)
        trainer._generate_and_score_completions = wrap("generate_and_score", trainer._generate_and_score_completions)
        trainer.compute_loss = wrap("forward", trainer.compute_loss)
        trainer.accelerator.backward = wrap("backward", trainer.accelerator.backward)
        clip = wrap("clip", trainer.accelerator.clip_grad_norm_)

        def clip_and_keep(*args: object, **kwargs: object) -> object:
            norm = clip(*args, **kwargs)
            self.grad_norm = float(norm)
            return norm

        trainer.accelerator.clip_grad_norm_ = clip_and_keep
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, optimizer=None, **_):  # type: ignore[no-untyped-def]
        optimizer.step = self.clock.wrap("adamw", optimizer.step)

    def on_step_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.clock.take()
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        total = time.perf_counter() - self.started
        detail = self.clock.take()
        seconds = {
            "rollout": detail["generate"],
            "scoring": detail["generate_and_score"] - detail["generate"],
            "update": sum(detail[part] for part in ("forward", "backward", "clip", "adamw")),
        }
        rewards = self.rewards.rewards
        self.steps.append(
            StepResult(
                seconds=with_other(seconds, total),
                detail=detail,
                completion_tokens=sum(self.rewards.tokens),
                trained_rollouts=trained_rollouts(rewards, self.group_size),
                grad_norm=self.grad_norm,
                mean_reward=sum(rewards) / len(rewards),
            )
        )


def run_steps(settings: Settings, out: str) -> list[StepResult]:
    """settings.steps GRPO steps with a fresh trainer, on the first settings.prompts prompts."""
    rows = [{"prompt": row["prompt"]} for row in read_prompts(settings.prompts_file)[: settings.prompts]]
    tokenizer = AutoTokenizer.from_pretrained(settings.model_dir, padding_side="left")
    micro_batch = min(settings.trl_micro_batch, settings.rollouts)
    rewards = Rewards()
    trainer = GRPOTrainer(
        model=settings.model_dir,
        reward_funcs=rewards,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=settings.dtype == "bfloat16",
            model_init_kwargs={"dtype": settings.trl_weights},  # master weights; the compute is autocast to bf16
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=settings.rollouts // micro_batch,
            num_generations=settings.group_size,
            generation_batch_size=settings.rollouts,
            max_completion_length=settings.max_new_tokens,
            max_steps=settings.steps,
            temperature=settings.temperature,
            top_p=1.0,
            top_k=0,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optim="adamw_torch_fused",
            beta=settings.kl_coef,
            epsilon=settings.clip,
            loss_type=settings.loss,
            scale_rewards="group",
            gradient_checkpointing=False,
            use_transformers_continuous_batching=settings.trl_continuous_batching,
            shuffle_dataset=False,
            seed=settings.seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_num_workers=0,
        ),
    )
    probe = Probe(rewards, settings.group_size)
    probe.attach(trainer)
    trainer.train()
    return probe.steps


def main() -> None:
    settings, result_path = side_arguments()
    torch.set_num_threads(settings.threads)
    names = ("trl", "transformers", "torch", "accelerate")
    result = SideResult("trl", {name: version(name) for name in names})
    way = "continuous batching" if settings.trl_continuous_batching else "generate() on all rollouts at once"
    result.notes = [f"micro-batches of {settings.trl_micro_batch} rollouts", f"{settings.trl_weights} weights", way]
    with tempfile.TemporaryDirectory() as out:
        if settings.warmup_prompts:
            warmup = dataclasses.replace(
                settings, prompts=settings.warmup_prompts, max_new_tokens=settings.warmup_new_tokens, steps=1
            )
            run_steps(warmup, out)
        result.steps = run_steps(settings, out)
    result.write(result_path)


if __name__ == "__main__":
    main()
