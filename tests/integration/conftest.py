"""One Ray cluster of two nodes for all integration tests of a process; small models; everything written under a temporary folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def _ray_cluster() -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    from rl.workers.cluster.ray_calls import QUIET

    os.environ |= QUIET
    os.chdir(ROOT)
    # Two nodes on this machine, each with an object store of its own and more CPUs than there are: the workers of a
    # test take turns.
    node = {"num_cpus": 4, "object_store_memory": 1 << 29}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def tiny(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The tiny recipe, shortened, in a folder of its own."""
    return shortened(tmp_path / "runs")


def shortened(out: Path):  # type: ignore[no-untyped-def]
    """The tiny recipe for tests: two steps, no SFT, and a reward that tells samples of a random model apart."""
    from recipes.tiny import recipe
    from rl.config import RewardConfig

    cfg = recipe()
    return dataclasses.replace(
        cfg,
        out=str(out),
        rewards=(*cfg.rewards, RewardConfig("tests.integration.helpers:digit_share")),
        sft=dataclasses.replace(cfg.sft, steps=0),
        grpo=dataclasses.replace(cfg.grpo, steps=2, prompts_per_step=4, group_size=4),
        rollout=dataclasses.replace(cfg.rollout, max_new_tokens=24),
        evaluation=dataclasses.replace(cfg.evaluation, every=0, samples=2, data=dataclasses.replace(cfg.evaluation.data, limit=4)),
    )  # fmt: skip
