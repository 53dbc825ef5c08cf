"""A long evaluation is sampled in chunks of problems: each is rewarded and on disk before the next begins, and after a
kill those that are there are not sampled again.

    evals/partial/<hash>.parquet    a chunk's samples, as rollouts/ has them, with logprobs in full precision

The hash is of all that a chunk comes from: weights, settings, problems, seeds and rewards. So what was sampled with
others is never taken for it. The folder goes when the evaluation is on disk.
Axis suffixes: _P problems, _G the samples of one problem.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rewards import REWARDS
from rl.backend import SampleParams
from rl.config import RunConfig
from rl.context import Context
from rl.data.content_hash import path_hash
from rl.records.rollout_files import read_rollouts, write_rollouts
from rl.rollouts.grading import sample_and_grade
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.scorer import Scorer
from rl.types import GradedGroup, Prompt, Stopped

log = logging.getLogger(__name__)
CHUNK_TOKENS = 1 << 24
"""Room for completions, tokens of a sampler: 512 samples of 32,768, or 16,384 of 1,024. Up to 2.2 times that is one
chunk."""


def count(cfg: RunConfig, tokens: int) -> int:
    """Chunks of an evaluation whose completions have room for so many tokens in all: the root of its size.

    At a chunk's end the samplers run empty, which costs about half the time of a full batch. With the root, that and
    what a kill costs both become a smaller share the longer the evaluation is. One sampler, 32,768 tokens: AIME x 64
    -> 2, MATH-500 x 16 -> 4, x 64 -> 8. With four samplers half as many.
    """
    return max(1, round(math.sqrt(tokens / (CHUNK_TOKENS * cfg.sampler.count))))


def folder(run_dir: Path) -> Path:
    return run_dir / "evals" / "partial"


def forget(run_dir: Path) -> None:
    """Remove what would resume an evaluation."""
    shutil.rmtree(folder(run_dir), ignore_errors=True)


def sample_chunks(
    ctx: Context,
    scorer: Scorer,
    prompts_P: Sequence[Prompt],
    seeds_PG: Sequence[list[int]],
    params: SampleParams,
    version: int,
    ends: tuple[str, ...] = (),
    *,
    may_stop: bool,
) -> list[GradedGroup]:
    """A graded group for each problem, in order, from the weights of this version. Resumes.

    ends: of the stop texts in params those that are no part of a sample.
    may_stop: raise Stopped between two chunks when the user asked for it. Raises AhaError for a reward that says
    nothing of most samples of a chunk (Scorer.stop_if_silent); that chunk is sampled again.
    """
    tokens = sum(map(len, seeds_PG)) * params.max_new_tokens
    size = -(-len(prompts_P) // count(ctx.cfg, tokens))
    done: list[GradedGroup] = []
    for at in range(0, len(prompts_P), size):
        chunk_P, chunk_PG = prompts_P[at : at + size], seeds_PG[at : at + size]
        name = _hash(ctx.cfg, chunk_P, chunk_PG, params, version, ctx.backend.sent.checksum)
        path = folder(ctx.run_dir) / f"{name}.parquet"
        resumed = path.exists()
        if not resumed:
            apart = replace(params, salt=name)  # it is the same whatever prompts were cached before it
            graded_P = sample_and_grade(ctx, scorer, chunk_P, chunk_PG, apart, RewardStats(), ends=ends)
            scorer.stop_if_silent(graded_P)
            write_rollouts(path, version, graded_P, full_precision=True)
        names_P = [scorer.applying(p) for p in chunk_P]
        done += [scorer.grade(group, parts_G) for group, parts_G in read_rollouts(path, chunk_P, names_P)]
        so_far = f"{len(done)} of {len(prompts_P)} problems"
        log.info("evaluation: %s%s", so_far, ", these sampled before" if resumed else "")
        if may_stop and ctx.stop.requested and len(done) < len(prompts_P):
            raise Stopped(f"stopped after {so_far}; the same command goes on from there")
    return done


def _hash(
    cfg: RunConfig,
    prompts_P: Sequence[Prompt],
    seeds_PG: Sequence[list[int]],
    params: SampleParams,
    version: int,
    weights: int,
) -> str:
    rewards = [(asdict(reward), path_hash(REWARDS.get(reward.function, reward.function))) for reward in cfg.rewards]
    machines = asdict(cfg.model), asdict(cfg.sampler)
    parts = [version, weights, asdict(params), machines, rewards, seeds_PG, [asdict(p) for p in prompts_P]]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
