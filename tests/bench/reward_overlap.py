"""Does a slow reward make a GRPO step longer? The same steps with and without a reward that waits 1 s per sample.

    .venv/bin/python tests/bench/reward_overlap.py [--steps 2] [--wait 1.0]

SmolLM2, 16 prompts x 8 samples of up to 40 tokens, 16 sequences decoded at once, so that rollouts come one after
another and last longer than the wait. Steps with and without the wait alternate in one run on one set of machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recipes.quickstart import recipe
from rl.backend import SampleParams, Task
from rl.config import RewardConfig, RunConfig
from rl.context import sample_seed
from rl.data.packing import pack
from rl.data.rows import load_rows
from rl.data.streams import PromptStream
from rl.data.templates import end_token_ids
from rl.model.pretrained import load_tokenizer
from rl.scoring.scorer import Scorer
from rl.types import RolloutGroup, SampleRequest

NAME = "reward_overlap:slow_length"


def slow_length(completion: str, *, wait_s: float = 0.0, **columns: object) -> float:
    """Characters / 1000, after a wait, as for an LLM judge somewhere else."""
    time.sleep(wait_s)
    return len(completion) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each kind")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds for each sample")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from rl.workers.cluster.ray_backend import RayBackend

    base = recipe()
    cfg = dataclasses.replace(
        base,
        rewards=(RewardConfig(NAME, options=(f"wait_s={args.wait}",)),),
        sampler=dataclasses.replace(base.sampler, max_sequences=16),
        scoring=dataclasses.replace(base.scoring, processes=16),
        grpo=dataclasses.replace(base.grpo, prompts_per_step=16),
    )
    slow = RayBackend(cfg)
    try:
        slow.start(cfg.model.path, cfg.model.context_length)
        slow.load(Task(cfg.model.path, cfg.grpo.optim, 100, cfg.grpo))
        slow.sync_weights(0)
        steps = Steps(cfg, slow)
        for waits in (False, True):  # warm-up: of the workers, and of the reward processes, which start once a run
            steps.run(waits=waits)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(args.steps):
            for waits in (False, True):
                rollout, total = steps.run(waits=waits)
                seconds[waits].append(total)
                print(
                    f"{'with' if waits else 'without'} the wait: rollouts {rollout:.1f} s, step {total:.1f} s",
                    flush=True,
                )
    finally:
        slow.close()
    without, with_wait = (statistics.median(seconds[waits]) for waits in (False, True))
    print(f"median step without {without:.1f} s, with {with_wait:.1f} s: {with_wait / without - 1:+.1%}")


class Steps:
    """Steps on the same prompts and seeds; without the wait, rewards are counted here and now."""

    def __init__(self, cfg: RunConfig, backend) -> None:  # type: ignore[no-untyped-def]
        self.cfg, self.backend, self.version = cfg, backend, 0
        self.tokenizer = load_tokenizer(cfg.model.path)
        self.slow = Scorer(cfg.rewards, cfg.grpo)
        self.quick = Scorer((RewardConfig(NAME),), cfg.grpo)
        self.rows = load_rows(cfg.prompts)

    def run(self, *, waits: bool) -> tuple[float, float]:
        """(seconds of sampling, seconds of the step)."""
        cfg = self.cfg
        prompts_P = PromptStream(self.rows, cfg.prompts, self.tokenizer, cfg.seed, 400).take(cfg.grpo.prompts_per_step)
        seeds = [[sample_seed(cfg.seed, p.draw, i) for i in range(cfg.grpo.group_size)] for p in prompts_P]
        requests = [SampleRequest(i, p.token_ids, s) for i, (p, s) in enumerate(zip(prompts_P, seeds, strict=True))]
        params = SampleParams(1.0, 1.0, cfg.rollout.max_new_tokens, (), tuple(end_token_ids(self.tokenizer)))
        start = time.perf_counter()
        waiting = {}
        for i, rollouts_G in self.backend.rollouts(requests, params):
            group = RolloutGroup(prompts_P[i], rollouts_G)
            waiting[i] = (group, self.backend.ask_rewards(group) if waits else None)
        rollout = time.perf_counter() - start
        graded_P = [
            self.slow.grade(group, verdicts().parts_G) if verdicts else self.quick.grade(group)
            for group, verdicts in (waiting[i] for i in range(len(prompts_P)))
        ]
        updates_U = pack(
            self.quick.finish(graded_P), grpo=cfg.grpo, learner=cfg.learner, max_new_tokens=cfg.rollout.max_new_tokens,
            layout=self.backend.layout, seed=0,
        )  # fmt: skip
        self.backend.step(updates_U)
        self.version += 1
        self.backend.sync_weights(self.version)
        return rollout, time.perf_counter() - start


if __name__ == "__main__":
    main()
