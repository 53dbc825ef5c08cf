"""Every benchmark starts and runs its smallest case: what nobody runs for weeks would break without a sound."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 420.0
NOT_COMMANDS = {"common", "aha_side", "trl_side", "prepare", "arithmetic"}
"""Parts of grpo_step.py and learner_profile.py, which run them."""
SMALLEST = {
    "async_kills": "--help",  # these three take minutes at their smallest
    "async_learning": "--help",
    "async_step": "--help",
    "data_memory": "--rows 40 --words 20 --kinds jsonl dictionaries",
    "grpo_step": "--model small --only aha --rounds 1 --steps 1 --prompts 2 --max-new-tokens 8 --wait-for-quiet 0",
    "kill_matrix": "--victims sampler --moments rollout --signals KILL --fresh",
    "learner_profile": "--model models/tiny-tied --shapes smallest --pairs 1",
    "load_memory": "--case whole 0 1 29573 --model models/tiny-tied --dtype float32",
    "plan_accuracy": "--only 3M --steps 1 --no-calibrate",
    "planted_faults": "--only 'stale head'",
    "precision": "--seeds 1 --lr 1e-5 --precisions float32 --steps 2 --start-steps 2",
    "reward_overlap": "--help",  # its smallest case needs SmolLM2 and minutes
    "rewards_throughput": "--data nowhere",
    "soak": "--steps 6 --first 2",
    "verdicts": "--data nowhere --pairs 200",
    "scoring_memory": "--case chunked 64 --vocabulary 256 --hidden 16",
}
NUMBERS_MAY_MISS = {"plan_accuracy": {0, 1}}
"""Of a machine that runs tests beside it, the plan's times are not to be had: then the benchmark ends with 1."""


def benchmarks() -> list[str]:
    return sorted(p.stem for p in (ROOT / "tests" / "bench").glob("*.py") if p.stem not in NOT_COMMANDS)


def test_every_benchmark_has_a_smallest_case() -> None:
    assert benchmarks() == sorted(SMALLEST)


@pytest.mark.parametrize("name", benchmarks())
def test_a_benchmark_runs_its_smallest_case(name: str) -> None:
    command = [sys.executable, f"tests/bench/{name}.py", *shlex.split(SMALLEST[name])]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode in NUMBERS_MAY_MISS.get(name, {0}), said
    assert done.stdout.strip(), said
