"""Held-out evaluation through the samplers: pass@1 as the mean over k samples with its standard error, pass@k, cons@k,
lengths of thought and answer, and the rates of truncation, format and language.

R1's protocol (V2 D.1) is a choice of settings: recipes/benchmarks.py. Axis suffixes: _P problems, _G samples of one.

Also: held-out accuracy of a run: measured, logged, and kept as evals/step_NNNNNN.json.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rl.backend import SampleParams
from rl.context import Context, sample_seed
from rl.data.few_shot import shot_stop
from rl.evaluation import resumable
from rl.evaluation.consensus import correct_share
from rl.evaluation.decline import Decline, decline
from rl.evaluation.metrics import default_ks, mean_and_stderr
from rl.evaluation.result import Choosing, EvalResult, correct_of, summarise
from rl.evaluation.resumable import forget
from rl.evaluation.search_results import run_searches
from rl.evaluation.style import measure_style
from rl.rollouts.grading import sample_and_grade
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.routing import model_path
from rl.scoring.scorer import Scorer
from rl.types import AhaError, BadInput, GradedGroup, Prompt, RewardPart, Verdict

log = logging.getLogger(__name__)


def evaluate(
    ctx: Context, prompts_P: Sequence[Prompt], scorer: Scorer, version: int = 0, *, may_stop: bool = False
) -> tuple[EvalResult, list[GradedGroup]]:
    """Sample k completions of each problem (and one greedily) with the samplers' current weights, and reward them.

    A sample counts as correct when the first reward that applies to its problem says so. One without a verdict (the
    reward timed out, failed or said nothing) is left out of its problem's mean, counted, and warned of; AhaError when
    none has one.
    The seeds do not depend on the step, so two evaluations differ by their weights alone.
    A long one resumes, and does not go on with a dead reward (rl/evaluation/resumable.py). version: of the weights.
    may_stop: it may raise Stopped, to be resumed.
    """
    cfg = ctx.cfg.evaluation
    max_new_tokens = cfg.max_new_tokens or ctx.cfg.rollout.max_new_tokens
    params = ctx.sample_params(temperature=cfg.temperature, top_p=cfg.top_p, max_new_tokens=max_new_tokens)
    ends = shot_stop(cfg.ask)
    params = replace(params, stop=(*params.stop, *cfg.stop, *ends))
    long = resumable.count(ctx.cfg, len(prompts_P) * cfg.samples * max_new_tokens) > 1

    def sample(k: int, params: SampleParams) -> list[GradedGroup]:
        seeds_PG = [[sample_seed(ctx.cfg.seed, "eval", p.id, j) for j in range(k)] for p in prompts_P]
        if long:
            return resumable.sample_chunks(ctx, scorer, prompts_P, seeds_PG, params, version, ends, may_stop=may_stop)
        return sample_and_grade(ctx, scorer, prompts_P, seeds_PG, params, RewardStats(), ends=ends)

    graded_P = sample(cfg.samples, params)
    choosing = _choosing(ctx, scorer)
    searched = {}
    if cfg.search:
        searched = run_searches(ctx, scorer, prompts_P, params, version, ends, choosing.sizes, may_stop=may_stop)
    greedy_P: list[GradedGroup] = []
    if cfg.greedy:
        greedy_P = sample(1, replace(params, temperature=0.0, top_p=1.0))
    reward_P = [scorer.deciding(p) for p in prompts_P]
    without_verdict = _warn_of_missing_verdicts([*graded_P, *greedy_P], [*reward_P, *(reward_P if greedy_P else [])])
    _warn_of_unreadable(graded_P, reward_P)
    greedy_share_P = [correct_share(correct_of(g, name)) for g, name in zip(greedy_P, reward_P, strict=False)]
    style = measure_style([g.group for g in graded_P], [g.parts_G for g in graded_P], ctx.tokenizer)
    greedy = mean_and_stderr(greedy_share_P)[0] if greedy_P else None
    ks = cfg.pass_at or default_ks(cfg.samples)
    result = summarise(
        graded_P, reward_P, ks, greedy=greedy, style=style, without_verdict=without_verdict,
        verified=scorer.accuracies, choosing=choosing,
    )  # fmt: skip
    return replace(result, searched=searched), graded_P


def _choosing(ctx: Context, scorer: Scorer) -> Choosing:
    """How answers are chosen among the samples, with the sizes of the reward models that choose."""
    select = ctx.cfg.evaluation.select
    scorers = {*select, *(search.scorer for search in ctx.cfg.evaluation.search)}
    models = {name: reward for name, reward in scorer.models.items() if name in scorers}
    if not models:
        return Choosing(select)
    from rl.model.size import multiplied_parameters  # loads torch

    # The tokenizer was loaded from the model's own folder, whatever the recipe calls the model.
    own = multiplied_parameters(ctx.tokenizer.name_or_path)
    return Choosing(
        select,
        frozenset(name for name, reward in models.items() if reward.model.output == "logit" and not reward.model.steps),
        {name: multiplied_parameters(model_path(reward)) / own for name, reward in models.items()},
    )


def _warn_of_missing_verdicts(graded_P: Sequence[GradedGroup], reward_P: Sequence[str]) -> int:
    """How many samples have no verdict. Raises AhaError when that is all of them."""
    parts: list[tuple[int, str, RewardPart | None]] = [
        (g.group.prompt.id, reward, p.get(reward))
        for g, reward in zip(graded_P, reward_P, strict=True)
        for p in g.parts_G
    ]
    silent = [(i, reward, part) for i, reward, part in parts if part is None or not part.verdict.is_valid]
    if silent:
        shown = "; ".join(
            f"problem {i}: {reward or 'no reward'}: " + (f"{part.verdict}, {part.reason}" if part else "does not apply")
            for i, reward, part in silent[:: -(-len(silent) // 3)]
        )
        text = f"evaluation: no verdict on {len(silent)} of {len(parts)} samples: {shown}"
        if len(silent) == len(parts):
            raise AhaError(f"{text}. Mend the reward, or the rows that it is asked about")
        log.warning("%s. They are left out of their problems' means", text)
    return len(silent)


def _warn_of_unreadable(graded_P: Sequence[GradedGroup], reward_P: Sequence[str]) -> None:
    """Most samples without an answer that can be read: then the numbers tell of the form and not of the answers."""
    found = [
        (rollout, p[reward])
        for g, reward in zip(graded_P, reward_P, strict=True)
        for rollout, p in zip(g.group.rollouts_G, g.parts_G, strict=True)
        if reward in p
    ]
    unreadable = [(rollout, part) for rollout, part in found if part.verdict == Verdict.UNPARSEABLE]
    if len(unreadable) > len(found) / 2:
        log.warning(
            "evaluation: %d of %d samples have no readable answer and count as wrong, %d of them cut at the limit; the "
            "first: %s. Say how to answer (evaluation.instruction), or raise the limit (evaluation.max_new_tokens)",
            len(unreadable), len(found), sum(rollout.truncated for rollout, _ in unreadable), unreadable[0][1].reason,
        )  # fmt: skip


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

    may_stop: see rl.evaluation.evaluate. A training loop's does not: its step is not saved yet.
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
    if step:
        fall = decline_until(ctx.run_dir, step)
        ctx.tracker.warn(str(fall) if fall else "")
    return result


def decline_until(run_dir: Path, step: int) -> Decline | None:
    """Whether accuracy has fallen in training, by the evaluations after at most `step` steps."""
    files = sorted(eval_path(run_dir, 0).parent.glob("step_*.json"))
    steps = [number for file in files if (number := int(file.stem.removeprefix("step_"))) <= step]
    found = {number: read_evaluation(run_dir, number) for number in steps}
    return decline({number: result.correct_P for number, result in found.items() if result})


def ensure_evaluated(
    ctx: Context, step: int, prompts_P: Sequence[Prompt], scorer: Scorer, version: int
) -> EvalResult | None:
    """Accuracy after `step` steps: read from its file, else measured now if the weights (of `version`) still are those.

    None without prompts and, with a warning, when it can be neither read nor measured.
    """
    if not prompts_P:
        return None
    found = read_evaluation(ctx.run_dir, step)
    if found is not None:
        return found
    if step != version:
        log.warning("the accuracy after %d steps cannot be measured again: the weights have changed since", step)
        return None
    ctx.tracker.forget("eval", step)
    return evaluate_once(ctx, step, prompts_P, scorer)


def read_evaluation(run_dir: Path, step: int) -> EvalResult | None:
    """The evaluation after `step` steps; None where it has no file or, with a warning, where the file is damaged."""
    path = eval_path(run_dir, step)
    try:
        return EvalResult.read(path, "it is left out") if path.exists() else None
    except BadInput as error:
        log.warning("%s", error)
        return None


def evaluate_model(ctx: Context, model_path: str, prompts_P: Sequence[Prompt], scorer: Scorer) -> EvalResult:
    """Measure a model as it is. Resumes. Raises Stopped when the user asked for it."""
    ctx.tracker.resume({})
    ctx.load_to_sample(model_path)
    ctx.tracker.begin("eval", 1)
    return evaluate_once(ctx, 0, prompts_P, scorer, may_stop=True)
