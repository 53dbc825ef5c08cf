"""Learners and samplers that share devices take turns: RayBackend on a Ray that runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from rl.backend import Task
from rl.config import OptimConfig, RewardTrainConfig, RunConfig, share_in_key
from rl.settings.config_checks import relation_faults
from rl.types import AhaError, StepStats
from rl.workers.sampler.sampler import Sampler
from tests.unit import pretend_ray
from tests.unit.test_ray_backend import PARAMS, REQUESTS, Learner, OneByOne

GIB = 2**30
TASK = Task("model", OptimConfig(), 1)


class Engine:
    """Writes down what vLLM is asked to do."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def sleep(self, level: int) -> None:
        self.events.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> bool:
        self.events.append(f"wake {' '.join(tags)}")
        return True


@pytest.fixture
def events() -> list[str]:
    """What learners and samplers did, in order."""
    return []


@pytest.fixture
def start(monkeypatch, events) -> Iterator[Callable]:
    """start(colocated, ranks): a RayBackend whose learners have loaded a model."""
    with pretend_ray.pretended(monkeypatch.setitem):
        from rl.workers.cluster import actors, learner_calls, ray_backend

        class Worked(Learner):
            def step(self, batches) -> StepStats:
                events.append("step")
                return StepStats(0, 0, 0, 0, 0, 1, 0, 0, {}, {})

        class Host(actors.LearnerHost):
            def __init__(self, *args: object) -> None:
                self.learner = Worked()

            def endpoint(self) -> tuple[str, int, int]:
                return "127.0.0.1", 1, 2

        class Sleeper(OneByOne):
            def __init__(self, cfg: RunConfig, index: int, *args: object) -> None:
                super().__init__(cfg, index, *args)
                self.groups, self.asleep, self.sleeps, self.wakes = {}, [], 0, 0
                self.llm = Engine(events)

            def start_weight_update(self) -> None:
                events.append("sync")
                assert "weights" not in self.asleep

            def submit(self, requests, params) -> None:
                assert not self.asleep
                super().submit(requests, params)

            def ping(self) -> int:
                events.append("sampler starts")
                return 0

        def let_go():
            events.append("let go")
            return Host.rest

        from rl.workers.cluster.hardware import Rest

        Host.rest = Rest()
        monkeypatch.setattr(learner_calls, "let_go", let_go)
        monkeypatch.setattr(ray_backend, "LearnerHost", Host)
        monkeypatch.setattr(ray_backend, "SamplerHost", Sleeper)
        monkeypatch.setattr(ray_backend, "refuse_head_size", lambda path: None)

        def made(colocated: str = "true", ranks: int = 1, share: float = 0.0):
            cfg = RunConfig(rewards=())
            cfg = replace(cfg, cluster=replace(cfg.cluster, colocated=colocated))
            cfg = replace(cfg, learner=replace(cfg.learner, ranks=ranks))
            cfg = replace(cfg, sampler=replace(cfg.sampler, count=ranks, gpu_memory_share=share))
            backend = ray_backend.RayBackend(cfg)
            backend.start("model", 16)
            backend.load(TASK)
            return backend

        made.host = Host
        yield made


def train(backend, steps: int) -> None:
    for version in range(steps):
        backend.sync_weights(version)
        dict(backend.rollouts(REQUESTS, PARAMS))
        backend.step([])


def test_samplers_start_after_the_learners_have_loaded_and_both_take_turns(start, events):
    train(start(), 2)
    turn = ["let go", "wake weights", "sync", "let go", "wake kv_cache", "sleep 1", "step"]
    assert events == ["let go", "sampler starts", "sync", "sleep 1", "step", *turn]


def test_no_sampler_wakes_before_every_learner_rank_has_let_go(start, events):
    train(start(ranks=3), 2)
    for i, event in enumerate(events):
        if event.startswith("wake") and not events[i - 1].startswith("wake"):
            assert events[i - 3 : i] == ["let go"] * 3


def test_a_rollout_without_a_sync_wakes_weights_first_and_then_the_cache(start, events):
    backend = start()
    train(backend, 1)
    events.clear()
    dict(backend.rollouts(REQUESTS, PARAMS))
    assert events == ["let go", "wake weights", "wake kv_cache"]


def test_a_sleeping_sampler_is_not_put_to_sleep_again(start, events):
    backend = start()
    train(backend, 1)
    events.clear()
    backend.step([])
    backend.load(TASK)
    assert "sleep 1" not in events


def test_awake_samplers_sleep_before_another_model_is_loaded(start, events):
    backend = start()
    backend.sync_weights(0)
    events.clear()
    backend.load(TASK)
    assert events == ["sleep 1", "let go"]


def test_samplers_with_devices_of_their_own_never_sleep(start, events):
    train(start("false"), 2)
    assert events == ["sampler starts", "sync", "step", "sync", "step"]


def test_a_reward_model_in_training_starts_no_sampler(start, events):
    backend = start()
    events.clear()
    backend.load(replace(TASK, reward=RewardTrainConfig()))
    assert "sampler starts" not in events


def test_a_sampler_that_dies_asleep_is_started_again_by_the_next_sync(start, events):
    backend = start()
    train(backend, 1)
    pretend_ray.kill(backend.samplers[0])
    train(backend, 2)
    assert backend.restarts == 1
    assert backend.samplers[0].actor.version == 1


def test_a_sampler_with_groups_to_sample_does_not_sleep():
    sampler = Sampler.__new__(Sampler)
    sampler.index, sampler.groups, sampler.asleep = 2, {0: None}, []
    with pytest.raises(AhaError, match="sampler 2: told to sleep while it still had 1 groups"):
        sampler.sleep()


def test_a_sleeping_sampler_does_not_sample():
    sampler = Sampler.__new__(Sampler)
    sampler.index, sampler.version, sampler.asleep = 2, 0, ["kv_cache"]
    with pytest.raises(AhaError, match="sampler 2: asked to sample while its kv_cache"):
        sampler.submit(REQUESTS, PARAMS)


# ------------------------------------------------------------------------------------------------ shares of the memory


def rest(free: float, kept: float, total: float = 80):
    from rl.workers.cluster.hardware import Rest

    return Rest(int(total * GIB), int(free * GIB), int(kept * GIB))


def test_a_sampler_gets_what_the_learner_leaves(start):
    start.host.rest = rest(free=48, kept=30)
    backend = start()
    assert backend.samplers[0].actor.cfg.sampler.gpu_memory_share == 0.57  # 48 / 80 without 3 %
    assert backend.samplers[0].actor.cfg.cluster.colocated == "true"


def test_samplers_start_again_with_less_when_a_later_model_leaves_less(start, events):
    start.host.rest = rest(free=48, kept=30)
    backend = start()
    first = backend.samplers[0]
    events.clear()
    start.host.rest = rest(free=30, kept=30.1)  # the sleeping sampler holds some; the learner keeps about what it did
    backend.load(TASK)
    assert backend.samplers[0] is first
    start.host.rest = rest(free=20, kept=38)
    backend.load(TASK)
    assert backend.samplers[0] is not first
    assert not first.alive
    assert backend.samplers[0].actor.cfg.sampler.gpu_memory_share == 0.47  # 8 of 80 GiB less
    events.clear()
    backend.step([])  # the new one is awake, though the old one slept
    assert events == ["sleep 1", "step"]
    train(backend, 1)


def test_the_users_share_goes_before(start):
    start.host.rest = rest(free=48, kept=30)
    assert start(share=0.3).samplers[0].actor.cfg.sampler.gpu_memory_share == 0.3


def test_apart_a_sampler_gets_nearly_the_whole_gpu(start):
    assert start("false").samplers[0].actor.cfg.sampler.gpu_memory_share == 0.9


def test_a_learner_that_leaves_too_little_is_refused_with_what_to_do(start):
    start.host.rest = rest(free=5, kept=74)
    with pytest.raises(AhaError, match=r"leaves 2\.6 of its GPU's 80 GiB.*learner.offload=optimizer"):
        start()


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("colocated", "transfer", "fault"),
    [("false", "ipc", "is for learners and samplers that share GPUs"), ("true", "nccl", "NCCL does not connect")],
)
def test_a_way_of_sync_that_does_not_go_with_the_placement_is_a_fault(colocated, transfer, fault):
    cfg = RunConfig()
    cfg = replace(cfg, cluster=replace(cfg.cluster, colocated=colocated, weight_transfer=transfer))
    assert any(fault in line for line in relation_faults(cfg))


def test_the_share_that_is_chosen_by_itself_is_the_old_default_in_keys():
    assert [share_in_key(share) for share in (0.0, 0.9, 0.3)] == ["0.9", "0.9", "0.3"]


def test_an_offloaded_optimiser_needs_zero_and_a_share_must_be_worth_having():
    cfg = RunConfig()
    cfg = replace(cfg, learner=replace(cfg.learner, zero_stage=0, offload="optimizer"))
    assert any("learner.offload=optimizer" in line for line in relation_faults(cfg))
    cfg = replace(RunConfig(), sampler=replace(cfg.sampler, gpu_memory_share=0.01))
    assert any("gpu_memory_share=0.01" in line for line in relation_faults(cfg))
