"""Under ZeRO-3 models are loaded in shards: at no time is more of one whole than one tensor, and nothing else changes.

What the ranks do is in sharded_ranks.py; they need no Ray.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any, TypeAlias

import pytest
from torch import nn

from rl.types import AhaError
from rl.workers.cluster.ray_calls import free_port
from tests.integration.sharded_ranks import LOADS, RUNS
from tests.unit.classifiers import llama_causal

Seen: TypeAlias = list[dict[str, dict[str, Any]]]


@pytest.fixture(
    scope="module", params=[pytest.param(1, id="one_rank", marks=pytest.mark.slow), pytest.param(2, id="two_ranks")]
)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """For each rank, case -> what it saw."""
    ranks: int = request.param
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.integration.sharded_ranks"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    rest = [str(ranks), str(free_port()), str(llama_causal(folder / "base")), str(folder / "runs")]
    started = [
        subprocess.Popen([*command, str(rank), *rest], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    try:
        printed = [rank.communicate(timeout=900)[0] for rank in started]
    finally:
        for rank in started:
            rank.kill()
    assert [rank.returncode for rank in started] == [0] * ranks
    return [json.loads(text.splitlines()[-1]) for text in printed]


@pytest.mark.parametrize("case", LOADS)
def test_a_sharded_load_is_never_whole_and_gives_exactly_the_model_of_an_unsharded_one(seen: Seen, case: str) -> None:
    for found in (rank[case] for rank in seen):
        assert found["differ"] == []
        assert found["random_state_is_that_of_a_whole_load"]
        assert found["states"] == ["NOT_AVAILABLE"]
        assert found["whole_after"] == 0
        assert found["most_whole"] <= found["largest"] < found["total"] / 2
        assert found["share"] == pytest.approx(found["total"] / len(seen), rel=0.01)


@pytest.mark.parametrize("case", RUNS)
def test_what_was_loaded_in_shards_trains_and_leaves_bit_for_bit_as_what_was_loaded_whole(
    seen: Seen, case: str
) -> None:
    for found in (rank[case] for rank in seen):
        sharded, whole = found["sharded"], found["whole"]
        assert sharded == whole
        assert all(math.isfinite(loss) and norm > 0 for loss, norm, _, _ in sharded["steps"])
        hashes = [sharded["start"], *(digest for *_, digest in sharded["steps"])]
        assert len(set(hashes)) == len(hashes)
        assert sharded == seen[0][case]["sharded"]


@pytest.mark.parametrize("case", RUNS)
def test_a_sharded_learner_that_is_restored_goes_on_bit_for_bit(seen: Seen, case: str) -> None:
    for found in (rank[case]["sharded"] for rank in seen):
        assert found["restored"] == found["steps"][-1]
        assert found["refreshed_again"] == found["refreshed"]
        if case.startswith("grpo"):
            assert found["refreshed"] != found["reference"]


def test_a_model_that_was_loaded_whole_is_refused() -> None:
    from rl.workers.learner.deepspeed_engine import refuse_whole_parameters

    with pytest.raises(AhaError, match=r"model: 2 parameters, the first of them weight, were loaded whole"):
        refuse_whole_parameters(nn.Linear(2, 3), "model")
