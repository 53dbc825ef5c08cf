"""Samplers work beside all else that the driver waits for, and go on safely while new weights arrive."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from rl.backend import SampleParams, SamplerReport
from rl.config import RolloutConfig
from rl.types import AhaError, Rollout, SampleRequest, StepStats
from rl.workers.sampler.sampler import Sampler, _Group
from tests.unit import pretend_ray
from tests.unit.test_ray_backend import PARAMS, REQUESTS, OneByOne, backend  # noqa: F401

GREEDY = SampleParams(temperature=0.0, top_p=1.0, max_new_tokens=9, stop=(), stop_token_ids=())


class Slow(pretend_ray.Ref):
    """An answer that is there once Ray has been asked for it so many times."""

    def __init__(self, value: object, times: int) -> None:
        self.times = times
        super().__init__(value)

    @property
    def hangs(self) -> bool:
        self.times -= 1
        return self.times > 0

    @hangs.setter
    def hangs(self, value: bool) -> None:
        """Nobody but this class decides."""


class Kept:
    """Takes in groups that arrive."""

    def __init__(self) -> None:
        self.groups: dict[int, int] = {}

    def __call__(self, group: int, rollouts_G: list[Rollout]) -> None:
        assert group not in self.groups
        self.groups[group] = rollouts_G[0].policy_version


@pytest.fixture
def slow(backend):  # noqa: F811
    """The backend, whose learner answers only after Ray was asked 100 times."""
    step = SimpleNamespace(remote=lambda *args: Slow(StepStats(0, 0, 0), 100))
    backend.learners = [SimpleNamespace(call=step)]
    return backend


def in_flight(backend, cache: str = "recompute"):  # noqa: F811
    backend.cfg = replace(backend.cfg, rollout=RolloutConfig(staleness=1, in_flight=True, cache=cache))
    return backend


def test_samplers_work_while_the_driver_waits_for_a_training_step(slow):
    arrived = Kept()
    slow.submit(REQUESTS, PARAMS, arrived)
    assert not arrived.groups
    slow.step([])
    assert arrived.groups == dict.fromkeys(range(12), 0)
    assert not slow.work.polls
    assert slow.queue() == type(slow.queue())()


def test_train_begins_a_step_and_gives_something_to_wait_on(slow):
    arrived = Kept()
    wait = slow.train([])
    slow.submit(REQUESTS, PARAMS, arrived)
    assert wait() == StepStats(0, 0, 0)
    assert len(arrived.groups) == 12


@pytest.mark.parametrize("doing", ["save", "export", "weights_hash", "memory"])
def test_samplers_work_while_the_driver_waits_for_anything_else(slow, doing, tmp_path):
    arrived = Kept()
    slow.submit(REQUESTS, PARAMS, arrived)
    hold = SimpleNamespace(remote=lambda *args: Slow((0, 0), 100))
    slow.learners = [SimpleNamespace(call=hold, memory=hold)]
    for handle in slow.samplers:
        handle.actor.memory = lambda: (0, 0)
    operator.methodcaller(doing, *([tmp_path] if doing in ("save", "export") else []))(slow)
    assert len(arrived.groups) == 12


def test_samplers_work_while_the_driver_waits_for_rewards(backend):  # noqa: F811
    from rl.workers.cluster import ray_calls

    arrived = Kept()
    backend.submit(REQUESTS, PARAMS, arrived)
    assert backend.reward_actors.beside is backend
    ray_calls.collect([Slow(1, 100)], ["reward worker 0"], 60.0, "reward a group", beside=backend.reward_actors.beside)
    assert len(arrived.groups) == 12


def test_a_wait_ends_with_its_bound_although_samplers_answer_all_the_time(backend, monkeypatch):  # noqa: F811
    from rl.workers.cluster import ray_calls

    clock = iter(range(10**6))
    monkeypatch.setattr(ray_calls.time, "monotonic", lambda: float(next(clock)))
    busy = SimpleNamespace(under_way=lambda: [pretend_ray.Ref(1)], look_at=lambda answered: None)
    with pytest.raises(AhaError, match="learner rank 0 did not train within 50 s"):
        ray_calls.collect([pretend_ray.Ref(hangs=True)], ["learner rank 0"], 50.0, "train", beside=busy)
    assert ray_calls.wait_for_any([pretend_ray.Ref(hangs=True)], 50.0, busy) == []


def test_an_evaluation_and_submitted_groups_of_the_same_numbers_are_not_mixed_up(backend):  # noqa: F811
    arrived, seen = Kept(), []
    for handle in backend.samplers:
        submit = handle.actor.submit
        handle.actor.submit = lambda requests, params, submit=submit: (seen.append(params), submit(requests, params))
    backend.submit(REQUESTS, PARAMS, arrived)
    found = dict(backend.rollouts(REQUESTS, GREEDY))
    while len(arrived.groups) < 12:
        backend.pump()
    assert set(found) == set(arrived.groups) == set(range(12))
    assert GREEDY in seen
    assert PARAMS in seen


def test_an_evaluation_beside_training_samples_is_of_one_version(backend):  # noqa: F811
    in_flight(backend)
    arrived = Kept()
    backend.submit(REQUESTS, PARAMS, arrived)
    backend.sync_weights(1)
    found = {r.policy_version for _, rollouts_G in backend.rollouts(REQUESTS, GREEDY) for r in rollouts_G}
    assert found == {1}, "weights are sent by the driver alone, which waits for the evaluation"
    assert backend.sent.version == 1


def test_waiting_for_rollouts_that_nobody_samples_is_an_error_and_no_silence(backend):  # noqa: F811
    with pytest.raises(AhaError, match="no sampler was asked for"):
        backend.pump()


# ------------------------------------------------------------------------------------------------ new weights


def test_no_sampler_is_asked_between_two_buckets_and_all_go_on_behind_the_update(backend, monkeypatch):  # noqa: F811
    in_flight(backend)
    arrived, asked = Kept(), []
    backend.submit(REQUESTS, PARAMS, arrived)
    learner = backend.learners[0].actor.learner
    send = learner.send_weights

    def watched(version: int):
        asked.append(set(backend.work.polls))
        report = send(version)
        backend.look_at(list(backend.work.polls))  # what a wait does in the middle of an update
        assert not backend.work.polls
        return report

    monkeypatch.setattr(learner, "send_weights", watched)
    backend.sync_weights(1)
    assert len(asked[0]) == 2
    assert len(backend.work.polls) == 2
    while len(arrived.groups) < 12:
        backend.pump()
    assert set(arrived.groups.values()) == {0, 1}


def test_weights_that_find_samples_half_drawn_are_refused_unless_that_was_asked_for(backend):  # noqa: F811
    backend.submit(REQUESTS, PARAMS, Kept())
    with pytest.raises(AhaError, match="got weights while it was sampling"):
        backend.sync_weights(1)


class Engine:
    """vLLM's part of a sampler, which counts its steps and writes down what it is asked to do."""

    def __init__(self, *, resets: bool = True) -> None:
        self.steps, self.asked, self.resets = 0, [], resets
        self.llm_engine, self.label = self, "default"

    def set_weight_version(self, version: str) -> None:
        self.label = version

    def has_unfinished_requests(self) -> bool:
        return self.steps < 3

    def step(self) -> list:
        self.steps += 1
        return []

    def reset_prefix_cache(self, **how: bool) -> bool:
        self.asked.append(how)
        return self.resets

    def collective_rpc(self, work, args: tuple = ()) -> list:
        return [(9, 5)]

    def start_weight_update(self) -> None: ...

    def finish_weight_update(self, version: str) -> None: ...

    def add_request(self, address: str, prompt: dict, sampling: object, lora_request: object) -> None:
        self.asked.append(prompt)


@pytest.fixture
def transfer(monkeypatch) -> None:
    for name in ("rl.workers.sync.vllm_transfer", "rl.workers.sampler.adapters"):
        module = ModuleType(name)
        vars(module).update(read_tally=None, load_adapter=None)
        monkeypatch.setitem(sys.modules, name, module)


def sampler_of(engine: Engine) -> Sampler:
    sampler = Sampler.__new__(Sampler)
    sampler.index, sampler.version, sampler.groups, sampler.decode_steps = 0, 0, {7: None}, 0
    sampler.llm = sampler.engine = engine
    sampler.asleep, sampler.adapter = [], None
    sampler.cfg = SimpleNamespace(sampler=SimpleNamespace(seeded=True))
    return sampler


def test_a_poll_between_the_parts_of_an_update_decodes_nothing(transfer):
    engine = Engine()
    sampler = sampler_of(engine)
    sampler.start_weight_update()
    assert sampler.poll() == SamplerReport({}, 1, 0, 0)
    sampler.finish_weight_update("1")
    assert sampler.poll().decode_steps == 0  # the version is not adopted, and the old keys and values are there still
    sampler.adopt_version(1, "recompute")
    assert sampler.poll().decode_steps == 3
    engine.steps = 0
    sampler.load_adapter([], 1.0, True)
    assert sampler.poll().decode_steps == 3, "nothing more was decoded"
    assert engine.steps == 0


@pytest.mark.parametrize(
    ("running", "asked"), [("recompute", [{"reset_running_requests": True}]), ("keep", []), ("refuse", [{}])]
)
def test_new_weights_do_with_old_keys_and_values_what_was_asked_for(transfer, running, asked):
    engine = Engine()
    assert sampler_of(engine).adopt_version(1, running) == (9, 5)
    assert engine.asked == asked
    assert engine.label == "1", "vLLM marks the tokens from now on"


def test_a_cache_that_was_not_emptied_is_an_error(transfer):
    sampler = sampler_of(Engine(resets=False))
    with pytest.raises(AhaError, match="weights version 1 arrived while it still had 1 groups"):
        sampler.adopt_version(1, "recompute")
    assert sampler.version == 0


def test_prompts_are_cached_for_each_version_and_each_purpose_apart(transfer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", vllm := ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params := ModuleType("vllm.sampling_params"))
    vars(vllm).update(SamplingParams=SimpleNamespace)
    vars(params).update(RequestOutputKind=SimpleNamespace(FINAL_ONLY=0))
    engine = Engine()
    sampler = sampler_of(engine)
    sampler.submit([SampleRequest(1, [4, 5], [1])], PARAMS)
    sampler.adopt_version(1, "keep")
    sampler.submit([SampleRequest(2, [4, 5], [1])], PARAMS)
    sampler.submit([SampleRequest(3, [4, 5], [1])], replace(PARAMS, salt="evaluation"))
    assert len({prompt["cache_salt"] for prompt in engine.asked}) == 3


def test_each_token_carries_the_version_that_sampled_it(monkeypatch):
    sampler = sampler_of(Engine())
    monkeypatch.setattr(Sampler, "_text", lambda *args: "")
    spans = [SimpleNamespace(version="3", start=0, end=2), SimpleNamespace(version="5", start=2, end=3)]
    for given, version, later in ((spans, 3, ((2, 5),)), (spans[1:], 5, ()), (None, 2, ())):
        sampler.groups = {7: _Group(SampleRequest(7, [1], [11]), PARAMS, 2, [None], 1)}
        completion = SimpleNamespace(
            token_ids=[4, 5, 6], logprobs=[{t: SimpleNamespace(logprob=-1.0)} for t in (4, 5, 6)],
            finish_reason="length", weight_versions=given,
        )  # fmt: skip
        finished: dict[int, list[Rollout]] = {}
        sampler._collect(SimpleNamespace(request_id="7.0-a", outputs=[completion]), finished)
        assert (finished[7][0].policy_version, finished[7][0].later_versions) == (version, later)


# ------------------------------------------------------------------------------------------------ deaths


def others_of(backend) -> Iterator[OneByOne]:  # noqa: F811
    return (handle.actor for handle in backend.samplers)


def test_groups_of_a_sampler_that_dies_while_the_learner_trains_go_to_another(slow):
    arrived = Kept()
    slow.submit(REQUESTS, PARAMS, arrived)
    pretend_ray.kill(slow.samplers[1])
    slow.samplers[1].dies_at = "sample"
    slow.work.polls = {  # the call that is under way dies with it
        (pretend_ray.Ref(error=pretend_ray.RayActorError("the actor died")) if poll.sampler else ref): poll
        for ref, poll in slow.work.polls.items()
    }
    slow.step([])
    assert slow.restarts == 0
    assert arrived.groups == dict.fromkeys(range(12), 0)


def test_without_another_sampler_the_run_ends_by_name_when_the_batch_must_be_of_one_version(slow):
    slow.submit(REQUESTS, PARAMS, Kept())
    slow.work.polls = {
        pretend_ray.Ref(error=pretend_ray.RayActorError("gone")): poll for poll in slow.work.polls.values()
    }
    for handle in slow.samplers:
        pretend_ray.kill(handle)
    with pytest.raises(AhaError, match=r"sampler 1 died.*nowhere any more; resume with the same command"):
        slow.step([])


def test_in_flight_they_wait_for_the_next_sync_which_starts_it_again(backend, caplog):  # noqa: F811
    in_flight(backend)
    arrived, learners = Kept(), backend.learners
    backend.submit(REQUESTS, PARAMS, arrived)
    for handle in backend.samplers:
        pretend_ray.kill(handle)
    backend.work.polls = {
        pretend_ray.Ref(error=pretend_ray.RayActorError("gone")): poll for poll in backend.work.polls.values()
    }
    backend.learners = [SimpleNamespace(call=SimpleNamespace(remote=lambda *args: Slow(StepStats(0, 0, 0), 100)))]
    backend.step([])
    assert (backend.restarts, backend.work.dead) == (0, {0, 1})
    assert caplog.text.count("the next weight sync starts it again") == 2, "the dead are not asked again"
    backend.learners = learners
    backend.sync_weights(1)
    while len(arrived.groups) < 12:
        backend.pump()
    assert (backend.restarts, set(arrived.groups.values())) == (2, {1})


def test_a_death_that_the_sync_heard_of_first_restarts_the_sampler_once(backend):  # noqa: F811
    in_flight(backend)
    arrived = Kept()
    backend.submit(REQUESTS, PARAMS, arrived)
    (lost,) = [ref for ref, poll in backend.work.polls.items() if poll.sampler == 1]
    lost.value, lost.error, lost.hangs = None, pretend_ray.RayActorError("gone"), True
    pretend_ray.kill(backend.samplers[1])
    backend.sync_weights(1)
    assert backend.restarts == 1
    lost.hangs = False
    while len(arrived.groups) < 12:
        backend.pump()
    assert backend.restarts == 1


def test_reports_of_other_weights_than_were_sent_are_refused(backend):  # noqa: F811
    backend.submit(REQUESTS, PARAMS, Kept())
    for actor in others_of(backend):
        actor.version = 3
    backend.pump()  # these answers were given before
    with pytest.raises(AhaError, match="samples from weights 3, not 0"):
        backend.pump()
