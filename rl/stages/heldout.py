"""Held-out accuracy of a run: measured, logged, and kept as evals/step_NNNNNN.json."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rl.backend import Task
from rl.config import OptimConfig
from rl.score import Scorer
from rl.stages.chunks import forget
from rl.stages.context import Context
from rl.stages.evaluate import EvalResult, evaluate
from rl.types import Prompt

log = logging.getLogger(__name__)


def eval_path(run_dir: Path, step: int) -> Path:
    """Where the evaluation after `step` training steps is kept."""
    return run_dir / "evals" / f"step_{step:06d}.json"


def evaluate_once(
    ctx: Context,
    step: int,
    prompts_P: Sequence[Prompt],
    scorer: Scorer,
    *,
    version: int | None = None,
    may_stop: bool = False,
) -> EvalResult:
    """Measure with the samplers' weights, which have seen `step` training steps. version: theirs, if it is not step.

    may_stop: see rl.stages.evaluate. A training loop's does not: its step is not saved yet.
    """
    with ctx.timed("evaluate"):
        result, graded_P = evaluate(ctx, prompts_P, scorer, step if version is None else version, may_stop=may_stop)
    ctx.tracker.step("eval", step, result.metrics(), graded_P)
    result.write(eval_path(ctx.run_dir, step))
    forget(ctx.run_dir)
    ctx.evaluated(ctx.run_dir)
    log.info(
        "held-out accuracy%s: pass@1 %.1f %% (standard error %.1f)%s",
        f" after {step} steps" if step else "", 100 * result.pass_at_1, 100 * result.stderr,
        "" if result.greedy is None else f", greedy {100 * result.greedy:.1f} %",
    )  # fmt: skip
    return result


def measured(ctx: Context, step: int, prompts_P: Sequence[Prompt], scorer: Scorer, version: int) -> EvalResult | None:
    """Accuracy after `step` steps: read where it is known, else measured with the weights of now, of that version.

    None: no prompts.
    """
    if not prompts_P:
        return None
    path = eval_path(ctx.run_dir, step)
    return EvalResult.read(path) if path.exists() else evaluate_once(ctx, step, prompts_P, scorer, version=version)


def evaluate_model(ctx: Context, model_path: str, prompts_P: Sequence[Prompt], scorer: Scorer) -> EvalResult:
    """Measure a model as it is. Resumes. Raises Stopped when the user asked for it."""
    ctx.tracker.resume({})
    with ctx.timed("load"):
        ctx.backend.load(Task(model_path, OptimConfig(), 0))
    with ctx.timed("sync"):
        ctx.backend.sync_weights(version=0)
    ctx.tracker.begin("eval", 1)
    return evaluate_once(ctx, 0, prompts_P, scorer, may_stop=True)
