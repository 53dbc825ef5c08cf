"""Rejection sampling from a search in place of plain samples: reject.search.

What a search ends with is no sample of the policy, so RL may not train on it. SFT may.
Axis suffixes: _P prompts, _G samples of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rl.backend import SampleParams
from rl.config import RejectConfig, SearchConfig
from rl.context import Context
from rl.evaluation.searching import Searcher
from rl.rollouts.grading import grade_arriving
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.scorer import Scorer
from rl.settings.config_checks import search_faults
from rl.types import GradedGroup, Prompt, Rollout


class SearchSource:
    """Searches with the model at model_path. Its samples are the solutions that a search ends with, the best first."""

    def __init__(self, ctx: Context, model_path: str, scorer: Scorer, cfg: SearchConfig, ends: tuple[str, ...]) -> None:
        self._ctx, self._scorer, self._cfg, self._ends = ctx, scorer, cfg, ends
        ctx.load_to_sample(model_path)

    def sample(
        self, prompts_P: Sequence[Prompt], seeds_PG: Sequence[list[int]], params: SampleParams, stats: RewardStats
    ) -> list[GradedGroup]:
        """A graded group for each prompt, in order. The seeds of a search are its own, from the paths of its nodes."""
        params = replace(params, stop=(*params.stop, *self._ends))
        searcher = Searcher(self._ctx, self._cfg, params, f"reject {self._cfg.label}", self._ends)

        def arriving() -> Iterator[tuple[int, list[Rollout]]]:
            for i, found in enumerate(searcher.find(prompts_P)):
                yield i, found.rollouts

        return grade_arriving(self._ctx.backend, self._scorer, prompts_P, arriving(), stats)

    def failures(self, prompt: Prompt) -> Sequence[str]:
        return ()


def faults(cfg: RejectConfig) -> Iterator[str]:
    """What is wrong with reject.search, or does not go with it."""
    yield from search_faults("reject.search", cfg.search)
    if len(cfg.search) > 1:
        yield f"reject.search: one search makes the samples, not {len(cfg.search)}"
    if cfg.search and cfg.teacher.url:
        yield "reject.search: a teacher behind an endpoint cannot be searched; use one of the two"
    if cfg.search and cfg.top_logprobs:
        yield "reject.top_logprobs: the tokens of a search are not the model's samples; use one of the two"
