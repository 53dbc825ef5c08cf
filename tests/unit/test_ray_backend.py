"""RayBackend on a Ray that runs in this process: samplers that die, and errors that must be heard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from rl.backend import SampleParams, SamplerReport, Task
from rl.config import GRPOConfig, OptimConfig, RunConfig
from rl.types import AhaError, BadInput, Rollout, SampleRequest, SyncReport
from rl.workers.sampler.sampler import Sampler
from tests.unit import pretend_ray

PARAMS = SampleParams(temperature=1.0, top_p=1.0, max_new_tokens=4, stop=(), stop_token_ids=())
REQUESTS = [SampleRequest(i, [1], [10 * i]) for i in range(12)]
TENSORS = 5


class Learner:
    """Sends a number as its weights: the version that is sent."""

    def load(self, task: Task) -> str:
        self.task = task
        return "fingerprint"

    def why_not_shared(self) -> str:
        return "" if self.task.model_path != "recurrent" else "it is recurrent"

    def connect(self, address: str, port: int) -> None: ...

    def connect_samplers(self, connection) -> None:
        self.client, self.connection = connection.client, connection
        self.client.init_weight_transfer_engine({})

    def send_weights(self, version: int) -> SyncReport:
        self.client.start_weight_update()
        for _ in range(4):
            self.client.update_weights(version)
        self.client.finish_weight_update(str(version))
        return SyncReport(version, checksum=version, num_tensors=TENSORS, num_buckets=4, num_bytes=0, seconds=0.0)


class OneByOne(Sampler):
    """A sampler without vLLM. Each poll finishes one group; a sync in the middle of the others is refused."""

    def __init__(self, cfg: RunConfig, index: int, *args: object) -> None:
        self.cfg, self.index, self.version, self.weights = cfg, index, -1, -1
        self.waiting: list[SampleRequest] = []
        self.fault: AhaError | None = None
        self.sync_fault, self.steps = "", 0

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, version) -> None:
        self.weights = version

    def finish_weight_update(self, version: str) -> None: ...

    def adopt_version(self, version: int, running: str = "refuse") -> tuple[int, int]:
        if self.waiting and running == "refuse":
            raise AhaError(f"sampler {self.index} got weights while it was sampling")
        self.version = version
        return self.weights, TENSORS

    def submit(self, requests: list[SampleRequest], params: SampleParams) -> None:
        if self.fault is not None:
            raise self.fault
        self.waiting += requests

    def poll(self, max_seconds: float = 0.5) -> SamplerReport:
        finished = {}
        for request in self.waiting[:1]:
            one = Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), "", "stop", 1.0, self.version, 0)
            finished[request.group] = [one]
        self.waiting = self.waiting[1:]
        self.steps += 1
        return SamplerReport(finished, len(self.waiting), self.steps, self.version)


@pytest.fixture
def backend(monkeypatch) -> Iterator:
    """A RayBackend with one learner and two samplers, loaded and with weights of version 0."""
    with pretend_ray.pretended(monkeypatch.setitem):
        from rl.workers.cluster import actors, ray_backend

        ports: list[int] = []

        class Host(actors.LearnerHost):
            def __init__(self, *args: object) -> None:
                self.learner = Learner()

            def endpoint(self) -> tuple[str, int, int]:
                ports.append(len(ports))
                return "127.0.0.1", 1, ports[-1]

        monkeypatch.setattr(ray_backend, "LearnerHost", Host)
        monkeypatch.setattr(ray_backend, "SamplerHost", OneByOne)
        monkeypatch.setattr(ray_backend, "refuse_head_size", lambda path: None)
        cfg = RunConfig(rewards=())
        cfg = replace(cfg, sampler=replace(cfg.sampler, count=2, max_sequences=4))
        cfg = replace(cfg, cluster=replace(cfg.cluster, rollout_timeout_s=2.0))
        made = ray_backend.RayBackend(cfg)
        made.start("model", 16)
        made.load(Task("model", OptimConfig(), 1))
        made.sync_weights(0)
        yield made


def versions(backend) -> dict[int, int]:
    """Group -> the version that sampled it."""
    return {group: rollouts[0].policy_version for group, rollouts in backend.rollouts(REQUESTS, PARAMS)}


def test_learners_get_the_absolute_paths_of_all_model_folders(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("teacher").mkdir()
    backend.load(Task("teacher", OptimConfig(), 1, GRPOConfig(), "teacher", "teacher"))
    task = backend.learners[0].actor.learner.task
    assert {task.model_path, task.reference_path, task.teacher_path} == {str(tmp_path / "teacher")}


def test_a_learner_on_a_cpu_keeps_memory_that_it_has_freed(backend, monkeypatch):
    environments: dict[str, dict[str, str]] = {}
    actor = backend.reserved.actor

    def noted(cls: type, index: int, threads: int, env: dict[str, str]):
        environments[cls.__name__] = env
        return actor(cls, index, threads, env)

    monkeypatch.setattr(backend.reserved, "actor", noted)
    backend.start("model", 16)
    assert (
        environments["Host"]["MALLOC_TRIM_THRESHOLD_"] == environments["Host"]["MALLOC_MMAP_THRESHOLD_"] == "1073741824"
    )
    assert not any(name.startswith("MALLOC") for name in environments["OneByOne"])


def test_prompts_are_shared_in_grpo_alone_and_where_the_models_allow_it(backend, caplog):
    caplog.set_level("INFO")
    grpo = Task("model", OptimConfig(), 1, GRPOConfig())

    def layout(task: Task, share_prompts: str = "auto", device: str = "cpu", dtype: str = "bfloat16") -> str:
        learner = replace(backend.cfg.learner, share_prompts=share_prompts)
        backend.cfg = replace(backend.cfg, learner=learner, model=replace(backend.cfg.model, dtype=dtype))
        backend.device = device
        backend.load(task)
        return backend.layout

    assert layout(replace(grpo, grpo=None)) == "rows"
    assert not caplog.messages
    assert layout(grpo) == layout(grpo, "true") == "shared"
    assert caplog.messages[0] == "the learner computes each group's prompt once (learner.share_prompts=auto)"
    assert layout(grpo, "false") == layout(replace(grpo, grpo=None), "true") == "rows"
    assert layout(grpo, device="gpu") == "packed"
    assert layout(grpo, "true", device="gpu") == "shared"
    recurrent = replace(grpo, model_path="recurrent")
    assert layout(recurrent) == "rows"
    assert caplog.messages[-1] == "each sample computes its group's prompt anew: it is recurrent"
    with pytest.raises(BadInput, match=r"learner\.share_prompts=true: it is recurrent; use auto or false"):
        layout(recurrent, "true")
    with pytest.raises(BadInput, match="true: on GPUs there is no kernel for float32; use auto or false"):
        layout(grpo, "true", device="gpu", dtype="float32")


def test_an_error_while_work_is_handed_to_a_sampler_is_heard_with_its_next_answer(backend):
    backend.samplers[1].actor.fault = AhaError("sampler 1: this prompt is too long")
    with pytest.raises(AhaError, match="this prompt is too long"):
        versions(backend)


@pytest.mark.parametrize("method", ["start_weight_update", "update_weights", "finish_weight_update", "adopt_version"])
def test_a_sampler_that_dies_in_a_sync_is_started_again_with_the_weights_of_that_sync(backend, method):
    backend.samplers[0].dies_at = method
    report = backend.sync_weights(1)
    assert (report.version, report.num_buckets) == (1, 4)
    assert [handle.actor.version for handle in backend.samplers] == [1, 1]
    assert backend.restarts == 1
    assert versions(backend) == dict.fromkeys(range(12), 1)


def test_a_sampler_that_died_before_a_model_is_loaded_is_started_again_by_the_next_sync(backend):
    pretend_ray.kill(backend.samplers[1])
    backend.load(Task("model", OptimConfig(), 1))
    backend.sync_weights(7)
    assert versions(backend) == dict.fromkeys(range(12), 7)
    assert backend.restarts == 1


def test_a_sampler_that_dies_again_and_again_ends_the_run(backend):
    new = backend._new_sampler

    def mortal(index: int):
        handle = new(index)
        handle.dies_at = "adopt_version"
        return handle

    backend._new_sampler = mortal
    pretend_ray.kill(backend.samplers[0])
    with pytest.raises(AhaError, match=r"sampler 0 died: the actor died.*resume with the same command"):
        backend.sync_weights(1)
    assert backend.restarts == 4


def test_a_sampler_started_again_in_a_rollout_gets_weights_and_the_others_go_on_undisturbed(backend):
    found = backend.rollouts(REQUESTS, PARAMS)
    first = next(found)
    pretend_ray.kill(backend.samplers[1])
    assert len(backend.samplers[0].actor.waiting) > 2  # busy for longer than it takes to notice the death
    rest = dict(found)
    assert {first[0], *rest} == set(range(12))
    assert backend.restarts == 1
    assert [handle.actor.version for handle in backend.samplers] == [0, 0]
    backend.sync_weights(1)  # of both again
    assert [handle.actor.version for handle in backend.samplers] == [1, 1]


def test_samplers_connected_all_at_once_are_not_started_again(backend):
    backend.transfer = "nccl"
    backend.load(Task("model", OptimConfig(), 1))
    backend.samplers[0].dies_at = "update_weights"
    with pytest.raises(AhaError, match="sampler 0 died"):
        backend.sync_weights(1)
    assert backend.restarts == 0


@pytest.mark.parametrize(
    ("transfer", "ranks", "under_way", "revives"),
    [("nccl", 8, 2, False), ("ipc", 8, 0, False), ("bucket", 8, 2, True)],
)
def test_each_kind_of_transfer_gets_the_connection_that_it_needs(backend, transfer, ranks, under_way, revives):
    backend.transfer = transfer
    backend.cfg = replace(backend.cfg, sampler=replace(backend.cfg.sampler, tensor_parallel=4))
    backend.load(Task("model", OptimConfig(), 1))
    connection = backend.learners[0].actor.learner.connection
    assert connection.sampler_ranks == ranks
    client = connection.client
    assert (client.gpus_each, client.under_way, client.pass_over_dead) == (4, under_way, revives)


def test_every_connection_has_a_port_of_its_own(backend):
    learner, seen = backend.learners[0].actor.learner, []
    for _ in range(3):
        backend.load(Task("model", OptimConfig(), 1))
        seen.append(learner.connection.port)
    assert len(set(seen)) == 3


@pytest.fixture
def watched(backend, monkeypatch):
    """The backend with nccl and a learner that waits forever in its broadcast, as NCCL does when a rank is missing."""
    backend.transfer = "nccl"
    backend.load(Task("model", OptimConfig(), 1))
    monkeypatch.setattr(backend.learners[0].actor.learner, "send_weights", lambda version: None)
    backend.learners[0].hangs_at = "call"
    monkeypatch.setattr("rl.workers.cluster.ray_calls.WATCH_INTERVAL_S", 0.01)
    backend.cfg = replace(backend.cfg, cluster=replace(backend.cfg.cluster, sync_timeout_s=1.0))
    return backend


def test_a_samplers_error_in_a_sync_is_heard_while_the_learner_still_waits(watched):
    watched.samplers[1].actor.sync_fault = "RuntimeError: out of memory"
    with pytest.raises(AhaError, match=r"^sampler 1 could not take the weights: RuntimeError: out of memory$"):
        watched.sync_weights(1)


def test_a_samplers_death_in_a_sync_is_heard_while_the_learner_still_waits(watched):
    pretend_ray.kill(watched.samplers[0])
    with pytest.raises(AhaError, match=r"^sampler 0 died: .*resume with the same command$"):
        watched.sync_weights(1)


def test_samplers_that_are_waiting_too_are_no_error_and_the_wait_ends_with_its_bound(watched):
    watched.samplers[0].hangs_at = "fault_of_sync"
    with pytest.raises(AhaError, match="learner rank 0 did not send weights version 1 within 1 s"):
        watched.sync_weights(1)


def test_a_sampler_remembers_its_first_error_until_the_next_sync_begins():
    class WithEngine(Sampler):
        def __init__(self) -> None:
            self.sync_fault = "an older one"
            self.llm = SimpleNamespace(
                start_weight_update=lambda: None,
                update_weights=lambda info: [][1],
                finish_weight_update=lambda v: 1 / 0,
            )

    sampler = WithEngine()
    sampler.start_weight_update()
    assert sampler.fault_of_sync() == ""
    with pytest.raises(IndexError):
        sampler.update_weights({})
    with pytest.raises(ZeroDivisionError):
        sampler.finish_weight_update("1")
    assert sampler.fault_of_sync() == "IndexError: list index out of range"


def test_a_start_has_longer_on_gpus_where_it_compiles_unless_the_recipe_says_how_long():
    cluster = RunConfig().cluster
    assert (cluster.start_bound_s("cpu"), cluster.start_bound_s("gpu")) == (300, 1800)
    assert replace(cluster, start_timeout_s=7).start_bound_s("gpu") == 7


# ------------------------------------------------------------------------------------------------ progress


def test_a_sampler_that_decodes_without_finishing_anything_is_not_stalled(backend, monkeypatch):
    # One long completion: nothing is finished for longer than the bound.
    clock = [0.0]
    monkeypatch.setattr("rl.workers.cluster.work_queue.time.monotonic", lambda: clock[0])

    def slow_poll(self, max_seconds: float = 0.5) -> SamplerReport:
        clock[0] += 0.6  # the bound is 2 s
        self.steps += 1
        if self.steps < 8:
            return SamplerReport({}, len(self.waiting), self.steps, self.version)
        return OneByOne.poll(self)

    for handle in backend.samplers:
        monkeypatch.setattr(handle.actor, "poll", slow_poll.__get__(handle.actor))
    assert set(versions(backend)) == set(range(12))


def test_a_sampler_that_decodes_nothing_within_the_bound_is_named(backend, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rl.workers.cluster.work_queue.time.monotonic", lambda: clock[0])

    def stuck(max_seconds: float = 0.5) -> SamplerReport:
        clock[0] += 1.5
        return SamplerReport({}, 6, 1, 0)

    monkeypatch.setattr(backend.samplers[1].actor, "poll", stuck)
    with pytest.raises(AhaError, match=r"sampler 1 generated nothing for 2 s while it had work"):
        versions(backend)


# ------------------------------------------------------------------------------------------------ old keys and values


def test_new_weights_under_running_requests_are_refused_by_name(monkeypatch):
    transfer = ModuleType("rl.workers.sync.vllm_transfer")
    vars(transfer).update(read_tally=None)
    monkeypatch.setitem(sys.modules, transfer.__name__, transfer)

    class WithEngine(Sampler):
        def __init__(self, *, reset: bool) -> None:
            self.index, self.version, self.groups = 3, 0, {}
            self.llm = SimpleNamespace(collective_rpc=lambda _: [(9, 5)], reset_prefix_cache=lambda: reset)
            self.llm.llm_engine = SimpleNamespace(set_weight_version=lambda version: None)

    idle, busy = WithEngine(reset=True), WithEngine(reset=False)
    assert (idle.adopt_version(1), idle.version) == ((9, 5), 1)
    with pytest.raises(AhaError, match="sampler 3: weights version 1 arrived while"):
        busy.adopt_version(1)
    assert busy.version == 0
