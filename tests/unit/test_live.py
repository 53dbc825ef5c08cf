"""What is known of a step while it runs: where its groups are, how old its rollouts, what the workers hold, gauges."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from rl.config import RunConfig, SamplerConfig
from rl.rollouts.step_metrics import RewardStats, staleness
from rl.types import Prompt, Queue, Rollout, RolloutGroup, SampleRequest, ScoredGroup
from rl.workers.cluster.hardware import GIB, held_here, memory_metrics, together
from rl.workers.cluster.work_queue import WorkQueue

# ------------------------------------------------------------------------------------------------ the queue


def feed(*, deterministic: bool, groups: int = 6) -> WorkQueue:
    sampler = SamplerConfig(count=2, max_sequences=4, deterministic=deterministic)
    return WorkQueue(
        replace(RunConfig(), sampler=sampler), [SampleRequest(i, [1], [1, 2, 3, 4]) for i in range(groups)]
    )


def test_groups_are_waiting_until_a_sampler_has_them_and_gone_when_it_is_done():
    shared = feed(deterministic=False)
    assert (shared.waiting, shared.sampling) == (6, 0)  # one queue for two samplers counts once
    shared.next_for(0)
    assert (shared.waiting, shared.sampling) == (4, 2)
    shared.next_for(1)
    shared.done(0, 0)
    assert (shared.waiting, shared.sampling) == (2, 3)
    shared.take_back(1)
    assert (shared.waiting, shared.sampling) == (4, 1)


def test_queues_of_their_own_are_counted_together():
    own = feed(deterministic=True)
    assert (own.waiting, own.sampling) == (6, 0)
    own.next_for(0)
    assert (own.waiting, own.sampling) == (3, 3)


def test_the_longest_queues_of_a_step_are_kept():
    stats = RewardStats()
    for now in (Queue(5, 1, 0), Queue(2, 3, 1), Queue(0, 2, 4)):
        stats.look_at(now)
    found = {name: value for name, value in stats.metrics().items() if name.startswith("queue/")}
    assert found == {"queue/waiting_max": 5.0, "queue/sampling_max": 3.0, "queue/awaiting_rewards_max": 4.0}


# ------------------------------------------------------------------------------------------------ staleness


def of_versions(*versions: int) -> ScoredGroup:
    ids, logprobs = np.array([5], np.int32), np.array([-1.0], np.float32)
    rollouts_G = [Rollout(ids, logprobs, "", "stop", 1.0, version, 0) for version in versions]
    none = [0.0] * len(versions)
    group = RolloutGroup(Prompt(0, 0, [1], "", "", {}), rollouts_G)
    return ScoredGroup(group, none, [{} for _ in versions], none, [True] * len(versions), True)


def test_staleness_is_read_from_the_versions_that_the_rollouts_carry():
    found = staleness([of_versions(3, 3), of_versions(5)], 5)
    assert found == {"rollout/staleness_mean": pytest.approx(4 / 3), "rollout/staleness_max": 2.0}
    assert staleness([of_versions(5, 5)], 5) == {"rollout/staleness_mean": 0.0, "rollout/staleness_max": 0.0}


# ------------------------------------------------------------------------------------------------ memory


def test_a_workers_processes_are_counted_once_each_and_its_fullest_device():
    assert together([(1, 10, 0), (1, 10, 5), (2, 7, 3)]) == (17, 5)


def test_memory_is_of_the_largest_worker_and_names_a_device_only_where_there_is_one():
    assert memory_metrics("learner", [(GIB, 0), (3 * GIB, 0)]) == {"memory/learner_gib": 3.0}
    assert memory_metrics("sampler", [(GIB, 2 * GIB), (GIB, 4 * GIB)]) == {
        "memory/sampler_gib": 1.0,
        "memory/sampler_device_gib": 4.0,
    }
    assert memory_metrics("sampler", []) == {}


def test_this_process_holds_memory():
    before = held_here()[1]
    block = np.ones(64 << 20, np.uint8)
    assert held_here()[1] - before > 0.9 * block.nbytes


# ------------------------------------------------------------------------------------------------ gauges


@pytest.fixture
def gauges(monkeypatch) -> Iterator[ModuleType]:
    """rl.workers.cluster.gauges on a Ray that only remembers: SHOWN is (gauge, run, stage) -> value."""
    shown: dict[tuple[str, str, str], float] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert tag_keys == ("run", "stage")
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert type(value) is float  # Ray refuses numpy's float32
            shown[self.name, tags["run"], tags["stage"]] = value

    node = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "MetricsExportPort": 8080}
    fake = ModuleType("ray")
    vars(fake).update(
        nodes=lambda: [node | {"NodeID": "b", "MetricsExportPort": 1}, node],
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "a"),
    )
    metrics = ModuleType("ray.util.metrics")
    vars(metrics).update(Gauge=Gauge)
    monkeypatch.delitem(sys.modules, "rl.workers.cluster.gauges", raising=False)
    for name, module in (("ray", fake), ("ray.util", ModuleType("ray.util")), ("ray.util.metrics", metrics)):
        monkeypatch.setitem(sys.modules, name, module)
    import rl.workers.cluster.gauges as module

    vars(module).update(SHOWN=shown)
    yield module
    sys.modules.pop("rl.workers.cluster.gauges", None)


def test_each_metric_of_a_step_is_a_gauge_in_its_group_with_run_and_stage(gauges, caplog):
    made = gauges.Gauges()
    with caplog.at_level("INFO"):
        made.set("quick", "grpo", 3, {"entropy": np.float32(1.5), "reward/mean": 1, "lr": math.nan})
        made.set("quick", "eval", 3, {"pass@1": 0.25})
        made.set("quick", "grpo", 4, {"entropy": 2.0})
    assert gauges.SHOWN == {
        ("aha_step", "quick", "grpo"): 4.0,
        ("aha_policy_entropy", "quick", "grpo"): 2.0,
        ("aha_reward_mean", "quick", "grpo"): 1.0,
        ("aha_step", "quick", "eval"): 3.0,
        ("aha_eval_pass_at_1", "quick", "eval"): 0.25,
    }
    assert caplog.text.count("http://10.0.0.1:8080/metrics") == 1


def test_two_metrics_of_one_gauges_name_do_not_overwrite_each_other(gauges):
    made = gauges.Gauges()
    made.set("r", "grpo", 0, {"my/own": 1.0, "my_own": 2.0})
    made.set("r", "grpo", 1, {"my_own": 3.0, "my/own": 4.0})
    assert gauges.SHOWN["aha_other_my_own", "r", "grpo"] == 4.0


@pytest.mark.parametrize("name", ["verdict/has part:x/wrong", "pass@1/stderr", "größe", "1"])
def test_a_gauges_name_is_one_that_prometheus_takes(gauges, name):
    import re

    assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", gauges.gauge_name("grpo", name))
