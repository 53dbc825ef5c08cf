"""Where the time of a GRPO update goes, as shares of it and as a ratio to the speed of matrix products. See README.md.

.venv/bin/python tests/bench/learner_profile.py [--shapes quickstart|step] [--dtype auto|float32|bfloat16]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from arithmetic import Sizes, needed_flops, peak_flops
from torch.profiler import ProfilerActivity, profile

from rl.backend import Task
from rl.config import GRPOConfig, LearnerConfig, ModelConfig, OptimConfig, RunConfig
from rl.data.packing import pack
from rl.settings.precision import Machine, cpu_unit
from rl.types import PackedBatch, Prompt, Rollout, RolloutGroup, ScoredGroup
from rl.workers.cluster.ray_backend import KEEP_MEMORY
from rl.workers.cluster.ray_calls import free_port
from rl.workers.learner.learner import Learner

SHAPES = {  # prompts, samples of each, tokens of a prompt, of a completion, micro_batch_tokens
    "quickstart": (8, 8, (40, 60), (15, 40), 3072),
    "step": (32, 8, (60, 200), (64, 128), 4096),
    "smallest": (2, 2, (4, 6), (3, 5), 64),
}
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::_addmm_activation"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "_backward_for_cpu"),
    "softmax and exp of logits": ("aten::_softmax", "aten::exp", "aten::exp_", "aten::amax", "aten::sub_"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::index_select", "aten::index_copy_", "aten::fill_"),
    "optimiser": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach_norm"),
}
"""Operations by kind; any other is "the rest": sums and products of single numbers, and Python."""


def groups_of(shapes: str, vocabulary: int) -> list[ScoredGroup]:
    """Groups of random tokens, so that every rollout counts."""
    prompts, samples, (least, most), (shortest, longest), _ = SHAPES[shapes]
    rng, made = np.random.default_rng(0), []
    for p in range(prompts):
        prompt = Prompt(p, p, rng.integers(0, vocabulary, rng.integers(least, most + 1)).tolist(), "", "", {})
        rollouts = []
        for _ in range(samples):
            ids = rng.integers(0, vocabulary, rng.integers(shortest, longest + 1)).astype(np.int32)
            rollouts.append(Rollout(ids, np.full(len(ids), -10.0, np.float32), "", "stop", 1.0, 0, 0))
        advantages = rng.normal(size=samples).tolist()
        group = RolloutGroup(prompt, rollouts)
        made.append(ScoredGroup(group, [0.0] * samples, [{}] * samples, advantages, [True] * samples, False))
    return made


def shares(learner: Learner, updates_U: Sequence[PackedBatch]) -> dict[str, float]:
    """Kind of operation -> its share of the time of an update."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(learner, updates_U)
    seconds: dict[str, float] = defaultdict(float)
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    for event in found.key_averages():
        attention = event.key.startswith("aten::_scaled_dot_product")
        seconds["attention" if attention else kind_of.get(event.key, "the rest")] += event.self_cpu_time_total
    return {kind: seconds[kind] / sum(seconds.values()) for kind in (*KINDS, "the rest")}


def step(learner: Learner, updates_U: Sequence[PackedBatch]) -> float:
    """Seconds of one update."""
    start = time.perf_counter()
    learner.step([update.micro_batches_R[0] for update in updates_U])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--shapes", choices=tuple(SHAPES), default="quickstart")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--pairs", type=int, default=3, help="updates with and without shared prompts, alternately")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():  # malloc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    dtype = Machine("cpu", cpu_unit()).dtype if args.dtype == "auto" else args.dtype
    sizes, budget = Sizes.of(args.model), SHAPES[args.shapes][-1]
    cfg = RunConfig(
        model=ModelConfig(path=args.model, dtype=dtype),
        grpo=GRPOConfig(kl_coef=0.0, max_logprob_gap=1e9, importance="none"),
        learner=LearnerConfig(micro_batch_tokens=budget, threads=args.threads),
    )
    learner = Learner(cfg, 0, "cpu", args.threads)
    learner.connect("127.0.0.1", free_port())
    learner.load(Task(args.model, OptimConfig(lr=1e-8), 1000, cfg.grpo))
    groups = groups_of(args.shapes, sizes.vocabulary)
    batches = {
        layout: pack(groups, grpo=cfg.grpo, learner=cfg.learner, max_new_tokens=512, layout=layout, seed=0)
        for layout in ("rows", "shared")
    }
    for updates_U in batches.values():
        step(learner, updates_U)  # not counted
    seconds: dict[str, list[float]] = {layout: [] for layout in batches}
    peaks = []
    for _ in range(args.pairs):
        peaks.append(peak_flops(sizes, dtype, min(budget, 2048)))
        for layout, updates_U in batches.items():
            seconds[layout].append(step(learner, updates_U))
    peak, needed = max(peaks), needed_flops(sizes, batches["shared"])
    ratios = [rows / shared for rows, shared in zip(seconds["rows"], seconds["shared"], strict=True)]
    print(f"{args.model}, {args.shapes}, {dtype} (bfloat16 unit: {cpu_unit() or 'none'}), {args.threads} threads")
    print(f"matrix products of a layer's shapes: {peak / 1e9:.0f} GFLOP/s at best")
    print(f"an update needs {needed / 1e9:.0f} GFLOP with prompts shared: {needed / peak:.2f} s at that rate")
    parts = {layout: shares(learner, updates_U) for layout, updates_U in batches.items()}
    print(f"{'':28}{'rows':>10}{'shared':>10}")
    for kind in parts["rows"]:
        print(f"{kind:28}" + "".join(f"{parts[layout][kind]:>10.1%}" for layout in batches))
    medians = {layout: statistics.median(s) for layout, s in seconds.items()}
    print(f"{'seconds of an update':28}" + "".join(f"{s:>10.2f}" for s in medians.values()))
    print(f"{'times what it needs':28}" + "".join(f"{s * peak / needed:>10.2f}" for s in medians.values()))
    own = [needed_flops(sizes, updates_U) / medians[layout] / peak for layout, updates_U in batches.items()]
    print(f"{'share of the peak':28}" + "".join(f"{share:>10.0%}" for share in own))
    print(f"without / with shared prompts: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
