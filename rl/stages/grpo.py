"""The GRPO loop. DeepSeekMath (2402.03300) section 4.1; DeepSeek-R1 (2501.12948v2) section 2.1."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rl.backend import Task
from rl.config import DataConfig, EnvironmentConfig, EvalConfig, GRPOConfig, RewardConfig, RolloutConfig, knob
from rl.context import Context, StageRun
from rl.data.packing import pack
from rl.data.streams import PromptStream
from rl.evaluation.emergence import Emergence
from rl.evaluation.evaluate import ensure_evaluated, evaluate_once
from rl.evaluation.result import measured_names
from rl.evaluation.style import share_in_language
from rl.records.tracker import stats_metrics
from rl.rollouts.agreement import gap_of
from rl.rollouts.queue import RolloutQueue
from rl.rollouts.silent_faults import StepWatch
from rl.rollouts.step_metrics import batch_metrics, staleness
from rl.scoring.routing import accuracies
from rl.scoring.scorer import Scorer
from rl.stage import MAKES_MODEL, MAKES_NUMBERS, Recipe, Stage
from rl.types import Prompt, ScoredGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GRPO(Stage):
    """Reinforcement learning. Output: a model, its rollouts, and held-out accuracy where evaluation.data is set."""

    model: str = knob("", "Model to start from: id, folder or @stage.")
    prompts: DataConfig = knob(DataConfig, "Training prompts.")
    rewards: tuple[RewardConfig, ...] = knob((), "Parts of the reward.")
    rollout: RolloutConfig = knob(RolloutConfig, "Sampling for training.")
    grpo: GRPOConfig = knob(GRPOConfig, "GRPO.")
    evaluation: EvalConfig = knob(EvalConfig, "Held-out evaluation before, during and after.")
    environments: tuple[EnvironmentConfig, ...] = knob((), "What answers the model between turns.", before=())

    makes = frozenset({MAKES_MODEL, MAKES_NUMBERS})
    runs_model = True

    @property
    def trains_on(self) -> DataConfig:
        return self.prompts

    @property
    def total_steps(self) -> tuple[str, int]:
        return "grpo", self.grpo.steps

    @property
    def evaluates_every(self) -> tuple[str, int]:
        return "evaluation.every", self.evaluation.every if self.evaluation.data.source else 0

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if not self.grpo.steps:
            yield "grpo.steps: must be at least 1"

    def measures(self) -> set[str]:
        return measured_names(self.evaluation)

    def run(self, at: StageRun) -> None:
        inputs = at.inputs
        assert inputs is not None
        assert inputs.stream is not None
        assert inputs.scorer is not None
        train_grpo(at.ctx, inputs.model_path, inputs.stream, inputs.eval_prompts, inputs.scorer)
        at.ctx.export(at.model_folder)


def train_grpo(
    ctx: Context, model_path: str, stream: PromptStream, eval_prompts: Sequence[Prompt], scorer: Scorer
) -> None:
    """Train from model_path, or go on from the newest checkpoint. Evaluates before and after, given eval_prompts."""
    cfg, backend, roll = ctx.cfg, ctx.backend, ctx.cfg.rollout
    g = replace(cfg.grpo, old_logprobs=cfg.old_logprobs)
    with ctx.timed("load"):
        fingerprint = backend.load(Task(model_path, g.optim, g.total_updates, g, model_path, g.teacher))
    queue = RolloutQueue(ctx, stream, scorer)
    start = ctx.resume("grpo", fingerprint, queue, g.steps)
    if start:
        queue.load(ctx.store("grpo").path(start))
    # SFT is done by now, so all of its steps stay: 10**9 is more than it can have.
    ctx.tracker.resume({"sft": 10**9, "grpo": start, "eval": start + 1 if start else 0})
    with ctx.timed("sync"):
        backend.sync_weights(version=start)  # at the first step too: a broken path fails before any training
    # A run that was killed before its first checkpoint evaluates again: tracker.resume dropped its record of it.
    if eval_prompts and start == 0:
        evaluate_once(ctx, 0, eval_prompts, scorer)
    ensure_evaluated(ctx, 0, eval_prompts, scorer, version=start)
    watch = StepWatch(ctx)
    emergence = Emergence(ctx.run_dir, start, share_in_language, accuracies(cfg.rewards))
    ctx.tracker.begin("grpo", g.steps, start)
    for step in range(start, g.steps):
        queue.reset()
        with ctx.timed("rollout") as rollout_seconds:
            scored_P, kept_P = _sample_step(ctx, queue, scorer, step)
        updates_U = pack(
            kept_P, grpo=g, learner=cfg.learner, max_new_tokens=roll.max_new_tokens,
            layout=backend.layout, seed=cfg.seed + step, version=step if roll.staleness else None,
        )  # fmt: skip
        with ctx.timed("update") as update_seconds:
            stats = backend.step(updates_U)  # empty updates count too: the learning rate follows their number
        if not any(rank for update in updates_U for rank in update.micro_batches_R):
            log.info("step %d: no rollout has a gradient; nothing to train on", step)
            stats.gap_mean, stats.gap_max = gap_of(ctx, scored_P, step if roll.staleness else None)
        with ctx.timed("rollout") as rest_seconds:
            queue.settle()
        rollout_seconds["rollout"] += rest_seconds["rollout"]
        with ctx.timed("sync") as sync_seconds:
            report = backend.sync_weights(version=step + 1)
        watch.look_at(step, scored_P, kept_P, updates_U, stats)
        metrics = scorer.metrics(scored_P) | stats_metrics(stats) | batch_metrics(updates_U)
        metrics |= {"sync/megabytes": report.num_bytes / 1e6, "groups/trained": float(len(kept_P))}
        metrics |= {f"seconds/{k}": s for k, s in (rollout_seconds | update_seconds | sync_seconds).items()}
        metrics |= queue.stats.metrics() | staleness(scored_P, step) | backend.memory()
        metrics |= emergence.step(step, scored_P) | queue.metrics(scored_P, step)
        ctx.tracker.step("grpo", step, metrics, scored_P)
        _finish_step(ctx, step + 1, queue, fingerprint, eval_prompts, scorer)
    queue.close()
    ensure_evaluated(ctx, g.steps, eval_prompts, scorer, version=g.steps)


def _sample_step(
    ctx: Context, queue: RolloutQueue, scorer: Scorer, step: int
) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
    """(all groups that were sampled, those to train on).

    With uniform_groups=refill more prompts are sampled in place of uniform groups (DAPO's dynamic sampling).
    """
    g = ctx.cfg.grpo
    graded_P = queue.take(g.prompts_per_step, version=step)
    scored_P = scorer.finish(graded_P)
    if g.uniform_groups != "refill":
        return scored_P, scored_P
    for _ in range(g.max_refills):
        missing = g.prompts_per_step - sum(not s.uniform for s in scored_P)
        if missing <= 0:
            break
        graded_P = graded_P + queue.take(missing, version=step)
        scored_P = scorer.finish(graded_P)  # all of them again: an advantage may depend on the whole batch
    mixed_P = [s for s in scored_P if not s.uniform]
    if len(mixed_P) < g.prompts_per_step:
        log.info("step %d: %d of %d groups are mixed after refilling", step, len(mixed_P), g.prompts_per_step)
    return scored_P, mixed_P[: g.prompts_per_step]


def _finish_step(
    ctx: Context, done: int, queue: RolloutQueue, fingerprint: str, eval_prompts: Sequence[Prompt], scorer: Scorer
) -> None:
    """Evaluate and save after `done` steps, where that is due. Raises Stopped when the user asked for a stop."""
    cfg, last = ctx.cfg, done == ctx.cfg.grpo.steps
    score = None
    if eval_prompts and (last or (cfg.evaluation.every and done % cfg.evaluation.every == 0)):
        score = evaluate_once(ctx, done, eval_prompts, scorer).pass_at_1
    ctx.finish_step("grpo", done, cfg.grpo.steps, queue, fingerprint, score)
