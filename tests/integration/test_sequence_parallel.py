"""Ranks that share their sequences train as one rank does: DeepSpeed's Ulysses in the real learner."""

from __future__ import annotations

import numpy as np
import pytest

from rl.config import LoraConfig, RunConfig
from rl.data.sft_examples import pack_examples
from rl.types import Example, PackedBatch
from tests.integration.ranks import run_ranks
from tests.integration.test_sft import LORA, examples, sft_task, tiny_learner

CASES: dict[str, tuple[dict[str, object], bool]] = {
    "zero 0": ({"zero_stage": 0}, False),
    "zero 1": ({"zero_stage": 1}, False),
    "zero 2, several micro-batches": ({"zero_stage": 2, "micro_batch_tokens": 150}, False),
    "zero 3, recomputed": ({"zero_stage": 3, "gradient_checkpointing": True}, False),
    "zero 3, adapters": ({"zero_stage": 3}, True),
}
Trace = tuple[list[float], list[float], float, dict[str, float], int]


def config(changes: dict[str, object], lora: bool, ranks: int, shared: int) -> RunConfig:
    learner = {"layout": "packed", "ranks": ranks, "sequence_parallel": shared} | changes
    return tiny_learner(LORA if lora else LoraConfig(), **learner)


def batch_of(cfg: RunConfig, seed: int) -> PackedBatch:
    """Documents of several lengths; in the last batch all that is learnt stands in the first slice."""
    made = examples(7, seed)
    if seed == 2:
        rng = np.random.default_rng(seed)
        made = [Example(rng.integers(2, 40, 101).tolist(), [0] * 3 + [1] * 9 + [0] * 89)]
    return pack_examples(made, learner=cfg.learner, layout="packed")


def traces(rank: int, port: int, cases: dict[str, tuple[dict[str, object], bool]], ranks: int, shared: int):  # type: ignore[no-untyped-def]
    """Name -> losses and gradient norms of three steps, an evaluation loss, the weights' sums, tokens learnt."""
    from rl.workers.learner.learner import Learner

    found: dict[str, Trace] = {}
    for name, (changes, lora) in cases.items():
        cfg = config(changes, lora, ranks, shared)
        learner = Learner(cfg, rank, "cpu", 1)
        learner.connect("127.0.0.1", port)
        learner.load(sft_task(cfg))
        stats = [learner.step([batch_of(cfg, seed).micro_batches_R[rank]]) for seed in range(3)]
        nll = learner.mean_nll(batch_of(cfg, 9).micro_batches_R[rank])
        sums = learner.parameter_sums()
        found[name] = [s.loss for s in stats], [s.grad_norm for s in stats], nll, sums, sum(s.tokens for s in stats)
    return found


def assert_equal(got: Trace, want: Trace) -> None:
    assert got[4] == want[4]  # every learnt token was counted once
    assert got[0] == pytest.approx(want[0], abs=2e-5)
    assert got[1] == pytest.approx(want[1], rel=5e-4)
    assert got[2] == pytest.approx(want[2], abs=2e-5)
    assert got[3] == pytest.approx(want[3], rel=1e-4)


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Trace]:
    return run_ranks(traces, 1, CASES, 1, 1)[0]


def test_two_ranks_that_share_their_sequences_train_as_one_rank(one_rank: dict[str, Trace]) -> None:
    two = run_ranks(traces, 2, CASES, 2, 2)
    for name in CASES:
        assert_equal(two[0][name], one_rank[name])
        assert two[1][name] == two[0][name]
    losses = one_rank["zero 1"][0]
    assert losses[1] != pytest.approx(losses[0], abs=1e-3)


def test_two_groups_of_two_ranks_train_as_one_rank(one_rank: dict[str, Trace]) -> None:
    cases = {name: CASES[name] for name in ("zero 2, several micro-batches", "zero 3, adapters")}
    for found in run_ranks(traces, 4, cases, 4, 2):
        for name in cases:
            assert_equal(found[name], one_rank[name])
