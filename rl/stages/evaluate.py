"""Held-out evaluation through the samplers: greedy, and pass@1 as the mean over k samples with its standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rl.backend import SampleParams
from rl.score import Scorer
from rl.stages.context import Context, sample_seed
from rl.stages.rollouts import ScoringStats, sample_and_grade
from rl.types import GradedGroup, Prompt, Verdict


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Shares from 0 to 1. correct_P: of each problem, the share of its k samples that are correct."""

    pass_at_1: float
    stderr: float
    greedy: float | None
    truncated: float
    length_mean: float
    correct_P: list[float]

    def metrics(self) -> dict[str, float]:
        out = {"pass@1": self.pass_at_1, "stderr": self.stderr, "truncated_share": self.truncated}
        out["rollout/length_mean"] = self.length_mean
        return out if self.greedy is None else out | {"greedy": self.greedy}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> EvalResult:
        return EvalResult(**json.loads(path.read_text()))


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Mean over problems and its standard error, s / sqrt(n) with Bessel's s: problems are the sample.

    Example: [0, 1, 1, 0] -> (0.5, 0.2887).
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, float("nan")
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def evaluate(ctx: Context, prompts_P: Sequence[Prompt], scorer: Scorer) -> tuple[EvalResult, list[GradedGroup]]:
    """Sample k completions of each problem (and one greedily) with the samplers' current weights, and judge them.

    A sample counts as correct when the first reward's verdict says so; one without a verdict counts as not correct.
    The seeds do not depend on the step, so two evaluations differ by their weights alone.
    """
    cfg = ctx.cfg.evaluation
    max_new_tokens = cfg.max_new_tokens or ctx.cfg.rollout.max_new_tokens
    params = ctx.sample_params(temperature=cfg.temperature, top_p=cfg.top_p, max_new_tokens=max_new_tokens)
    graded_P = _sample(ctx, prompts_P, scorer, cfg.samples, params)
    correct_P = [_correct_share(g, scorer) for g in graded_P]
    pass_at_1, stderr = mean_and_stderr(correct_P)
    greedy = None
    if cfg.greedy:
        params = ctx.sample_params(temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)
        greedy_P = [_correct_share(g, scorer) for g in _sample(ctx, prompts_P, scorer, 1, params)]
        greedy = sum(greedy_P) / len(greedy_P)
    rollouts = [r for g in graded_P for r in g.group.rollouts_G]
    result = EvalResult(
        pass_at_1=pass_at_1,
        stderr=stderr,
        greedy=greedy,
        truncated=sum(r.truncated for r in rollouts) / len(rollouts),
        length_mean=sum(len(r.token_ids_T) for r in rollouts) / len(rollouts),
        correct_P=correct_P,
    )
    return result, graded_P


def _sample(
    ctx: Context, prompts_P: Sequence[Prompt], scorer: Scorer, k: int, params: SampleParams
) -> list[GradedGroup]:
    seeds_PG = [[sample_seed(ctx.cfg.seed, "eval", p.id, j) for j in range(k)] for p in prompts_P]
    return sample_and_grade(ctx, scorer, prompts_P, seeds_PG, params, ScoringStats())


def _correct_share(graded: GradedGroup, scorer: Scorer) -> float:
    name = scorer.names[0]
    verdicts = [parts[name].verdict if name in parts else None for parts in graded.parts_G]
    return sum(v == Verdict.CORRECT for v in verdicts) / len(verdicts)
