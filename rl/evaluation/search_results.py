"""What searches come to: of each problem, whether the answer is right, and the tokens that it took.

Axis suffixes: _P problems, _G the solutions of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rl.backend import SampleParams
from rl.config import SearchConfig
from rl.context import Context
from rl.evaluation.consensus import answer_classes, correct_share
from rl.evaluation.result import correct_of
from rl.evaluation.searching import Found, Searcher
from rl.evaluation.selection import weighted_majority
from rl.scoring.scorer import Scorer
from rl.types import GradedGroup, Prompt, RewardReport, RolloutGroup

Searched = dict[str, list[float]]
"""Of each problem: "correct" (the best solution by score; of budgets, the mean over the samples), "vote" (weighed by
the scores; of budgets, the majority), "tokens" (all that the answer took, in tokens of the model; of budgets, a
sample's)."""


def run_searches(
    ctx: Context,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    params: SampleParams,
    version: int,
    ends: tuple[str, ...],
    sizes: Mapping[str, float],
    *,
    may_stop: bool,
) -> dict[str, Searched]:
    """SearchConfig.label -> what the search measured. sizes: reward model -> its size as a multiple of the policy's."""
    out = {}
    for cfg in ctx.cfg.evaluation.search:
        searcher = Searcher(ctx, cfg, params, f"search {cfg.label}", ends)
        with ctx.timed("search"):
            found_P = searcher.run(prompts_P, version, may_stop=may_stop)
            out[cfg.label] = _measured(ctx, scorer, prompts_P, cfg, found_P, sizes.get(cfg.scorer, 0.0))
    return out


def _measured(
    ctx: Context,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    cfg: SearchConfig,
    found_P: Sequence[Found],
    size: float,
) -> Searched:
    groups_P = [RolloutGroup(prompt, found.rollouts) for prompt, found in zip(prompts_P, found_P, strict=True)]
    reward_P = [scorer.deciding(prompt) for prompt in prompts_P]
    waiting: list[Callable[[], RewardReport]] = [
        ctx.backend.ask_rewards(group, [name] if name else [])
        for group, name in zip(groups_P, reward_P, strict=True)
    ]  # fmt: skip
    graded_P = [
        GradedGroup(group, [], result().parts_G, []) for group, result in zip(groups_P, waiting, strict=True)
    ]  # fmt: skip
    correct_PG = [correct_of(graded, name) for graded, name in zip(graded_P, reward_P, strict=True)]
    verified_P = [name in scorer.accuracies for name in reward_P]
    classes_PG = answer_classes(groups_P, correct_PG, verified_P)
    scores_PG = [found.scores if cfg.by_steps else [1.0] * len(found.rollouts) for found in found_P]
    votes = (
        [weighted_majority(*of_one) for of_one in zip(classes_PG, correct_PG, scores_PG, strict=True)]
        if classes_PG
        else []
    )
    each = 1 if cfg.by_steps else cfg.expand
    return {
        "correct": [correct_G[0] if cfg.by_steps else correct_share(correct_G) for correct_G in correct_PG],
        "vote": votes,
        "tokens": [f.read_again / each + f.generated / each + size * f.scored for f in found_P],
    }
