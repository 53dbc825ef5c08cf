"""Workers on Ray clusters of GPUs that are only said to exist: what rl/workers/cluster/arrangement.py says is what Ray
reserves and what each worker sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def placed(nodes: list[int], *runs: list[str]) -> list[dict]:
    """In a process of its own, as this one is connected to the cluster of all other tests."""
    command = [sys.executable, "-m", "tests.integration.fake_gpus", json.dumps(nodes), *map(json.dumps, runs)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def learners_and_samplers(found: dict, ranks: int) -> tuple[list, list]:
    return found["workers"][:ranks], found["workers"][ranks:]


def test_on_one_gpu_a_learner_and_a_sampler_share_it_by_themselves_and_nothing_larger_fits():
    shared, apart, two = placed([1], ["start"], ["cluster.colocated=false"], ["learner.ranks=2"])
    assert shared == {"transfer": "ipc", "workers": [[0, "0"], [0, "0"]], "seen": [[0, "0"], [0, "0"]]}
    assert "need 2; lower learner.ranks or sampler.count, or let them share" in apart["error"]
    assert "2 learner ranks and 1 sampler need 3" in two["error"]


def test_on_two_nodes_pairs_share_whole_gpus_and_a_samplers_gpus_are_on_one_node():
    pairs, wide, apart, tall = placed(
        [8, 8],
        ["start", "learner.ranks=4", "sampler.count=2", "sampler.tensor_parallel=2", "cluster.colocated=true"],
        ["learner.ranks=16", "sampler.count=4", "sampler.tensor_parallel=4", "cluster.weight_transfer=ipc"],
        ["learner.ranks=4", "sampler.count=3", "sampler.tensor_parallel=4"],
        ["learner.ranks=1", "sampler.count=1", "sampler.tensor_parallel=16"],
    )
    assert pairs["workers"] == pairs["seen"]
    learners, samplers = learners_and_samplers(pairs, 4)
    assert [gpu for _, gpu in learners] == ["0", "1", "2", "3"]
    assert [gpus for _, gpus in samplers] == ["0,1", "2,3"]
    assert len({node for node, _ in pairs["workers"]}) == 1

    learners, samplers = learners_and_samplers(wide, 16)
    assert len({tuple(place) for place in map(tuple, learners)}) == 16
    for i, (node, gpus) in enumerate(samplers):
        assert [[node, gpu] for gpu in gpus.split(",")] == learners[4 * i : 4 * i + 4]

    learners, samplers = learners_and_samplers(apart, 4)
    taken = [(node, gpu) for node, gpus in apart["workers"] for gpu in gpus.split(",")]
    assert len(taken) == len(set(taken)) == 16
    assert len({node for node, _ in learners}) == 1
    assert "needs 16 on one node" in tall["error"]
