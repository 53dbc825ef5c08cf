"""The rollout queue keeps its bound, its order and its promise to lose nothing, whatever order groups arrive in."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.backend import Arrived, SampleParams
from rl.config import GRPOConfig, RolloutConfig, RunConfig
from rl.data.streams import Stream
from rl.data.versions import spans, versions_T
from rl.records.rollout_files import read_rollouts, rollouts_path, write_rollouts
from rl.rollouts.queue import RolloutQueue
from rl.rollouts.step_metrics import version_metrics
from rl.rollouts.waiting import refuse_old, refuse_other_versions
from rl.types import (
    AhaError,
    BadInput,
    GradedGroup,
    Prompt,
    Queue,
    RewardPart,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    ScoredGroup,
    Verdict,
)
from tests.bench.async_kills import audit

PARAMS = SampleParams(1.0, 1.0, 32, (), (9,))


class Prompts(Stream[Prompt]):
    def _item(self, index: int, draw: int) -> Prompt:
        return Prompt(index, draw, [index + 1], "", "", {})


class Samplers:
    """Samples in its own order. A completion's length depends on its seed; pump() gives every sample some tokens more.

    version: of the weights now. peak: the most groups under way. asked: draws with the version when they were asked for.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.version, self.peak = random.Random(seed), 0, 0
        self.running: dict[int, tuple[SampleRequest, Arrived, list[list[tuple[int, int]]]]] = {}
        self.asked: list[tuple[int, int]] = []
        self.lengths: Counter[int] = Counter()

    def submit(self, requests: Sequence[SampleRequest], params: SampleParams, arrived: Arrived) -> None:
        for request in requests:
            assert request.group not in self.running
            self.running[request.group] = (request, arrived, [[] for _ in request.seeds_G])
            self.asked.append((request.group, self.version))
            self.lengths.update(length(seed) for seed in request.seeds_G)
        self.peak = max(self.peak, len(self.running))

    def pump(self) -> None:
        """A few tokens for some of the groups."""
        assert self.running, "nothing is under way"
        for draw in self.random.sample(sorted(self.running), self.random.randint(1, len(self.running))):
            request, arrived, tokens_G = self.running[draw]
            for seed, tokens in zip(request.seeds_G, tokens_G, strict=True):
                tokens += [(seed, self.version)] * min(self.random.randint(1, 6), length(seed) - len(tokens))
            if all(len(tokens) == length(seed) for seed, tokens in zip(request.seeds_G, tokens_G, strict=True)):
                del self.running[draw]
                arrived(
                    draw, [rollout(seed, [v for _, v in t]) for seed, t in zip(request.seeds_G, tokens_G, strict=True)]
                )

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        parts_G = [{n: RewardPart(1.0, Verdict.CORRECT) for n in names} for _ in group.rollouts_G]
        return lambda: RewardReport(parts_G)

    def queue(self) -> Queue:
        return Queue(sampling=len(self.running))

    def busy(self) -> dict[str, float]:
        return {"samplers/idle_share": 0.25}


def length(seed: int) -> int:
    """3 % of the samples are 16 times as long as the others."""
    return 32 if seed % 33 == 0 else 2


def rollout(seed: int, versions: list[int]) -> Rollout:
    later = tuple((i, v) for i, v in enumerate(versions) if i and v != versions[i - 1])
    n = len(versions)
    arrays = np.full(n, seed % 7, np.int32), np.zeros(n, np.float32)
    return Rollout(*arrays, "", "length", 1.0, versions[0], seed, later_versions=later)


class Rewards:
    """Every reward applies from step 2 on. asked: draw -> the step that its rewards were asked for."""

    names = ("accuracy",)

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}

    def applying(self, prompt: Prompt, step: int) -> list[str]:
        self.asked[prompt.draw] = step
        return ["accuracy"]

    def grade(self, group: RolloutGroup, parts_G: list) -> GradedGroup:
        n = len(group.rollouts_G)
        return GradedGroup(group, [1.0] * n, parts_G, [True] * n)


def made(
    staleness: int, *, in_flight: bool, seed: int = 0, rows: int = 100, **grpo: Any
) -> tuple[RolloutQueue, Samplers]:
    g = GRPOConfig(**({"steps": 8, "prompts_per_step": 3, "group_size": 4} | grpo))
    cfg = RunConfig(grpo=g, rollout=RolloutConfig(staleness=staleness, in_flight=in_flight))
    backend = Samplers(seed)
    ctx: Any = SimpleNamespace(cfg=cfg, backend=backend, sample_params=lambda **_: PARAMS)
    stream: Any = Prompts([{"q": i} for i in range(rows)], seed=1, shuffle=True)
    return RolloutQueue(ctx, stream, Rewards()), backend  # type: ignore[arg-type]


def train(queue: RolloutQueue, backend: Samplers, start: int, steps: int) -> list[list[GradedGroup]]:
    """The groups of each step, of a loop as rl/stages/grpo.py has it."""
    trained = []
    for step in range(start, steps):
        queue.reset()
        trained.append(queue.take(queue.ctx.cfg.grpo.prompts_per_step, step))
        for _ in range(backend.random.randint(0, 4)):  # while the learner trains
            if backend.running:
                backend.pump()
        queue.settle()
        backend.version = step + 1
    return trained


MODES = [(0, False), (1, False), (1, True), (2, True), (4, True)]


@pytest.mark.parametrize(("staleness", "in_flight"), MODES)
@pytest.mark.parametrize("seed", range(5))
def test_every_draw_is_trained_once_in_order_within_the_bound_with_the_seeds_of_synchronous_mode(
    staleness: int, in_flight: bool, seed: int
) -> None:
    queue, backend = made(staleness, in_flight=in_flight, seed=seed)
    trained = train(queue, backend, 0, 8)
    groups = [graded.group for step in trained for graded in step]
    assert [group.prompt.draw for group in groups] == list(range(24))
    plain = [g.group for step in train(*made(0, in_flight=False), 0, 8) for g in step]
    assert [[r.seed for r in g.rollouts_G] for g in groups] == [[r.seed for r in g.rollouts_G] for g in plain]
    behind = [s - r.policy_version for s, step in enumerate(trained) for g in step for r in g.group.rollouts_G]
    assert max(behind) <= staleness
    assert backend.peak <= (staleness + 1) * 3
    assert not queue.entries
    assert not backend.running, "the last steps draw nothing that no step trains on"
    assert Counter(len(r.token_ids_T) for g in groups for r in g.rollouts_G) == backend.lengths, (
        "trained lengths are drawn lengths: nothing was dropped for being long"
    )


def test_a_bound_of_two_is_reached_and_spans_tell_of_it() -> None:
    queue, backend = made(2, in_flight=True, seed=3)
    trained = train(queue, backend, 0, 8)
    behind = [s - r.policy_version for s, step in enumerate(trained) for g in step for r in g.group.rollouts_G]
    assert max(behind) == 2
    mixed = [r for step in trained for g in step for r in g.group.rollouts_G if r.later_versions]
    assert mixed
    for r in mixed:
        assert spans(r)[0] == (0, r.policy_version)
        assert versions_T(r)[0] == r.policy_version
        assert versions_T(r)[-1] == r.later_versions[-1][1]
        assert len(versions_T(r)) == len(r.token_ids_T)


@pytest.mark.parametrize("seed", range(3))
def test_overlapped_batches_are_of_the_version_before_whole_and_depend_on_no_timing(seed: int) -> None:
    queue, backend = made(1, in_flight=False, seed=seed)
    trained = train(queue, backend, 0, 8)
    versions = [{v for g in step for r in g.group.rollouts_G for _, v in spans(r)} for step in trained]
    assert versions == [{max(0, step - 1)} for step in range(8)]


def test_an_epoch_of_24_prompts_is_exactly_eight_steps_of_three() -> None:
    for staleness, in_flight in MODES:
        queue, backend = made(staleness, in_flight=in_flight, rows=24)
        assert sorted(g.group.prompt.id for step in train(queue, backend, 0, 8) for g in step) == list(range(24))
        assert queue.draws.next == 24


def test_rewards_are_asked_for_the_step_that_trains_on_a_draw() -> None:
    for staleness, in_flight in MODES:
        queue, backend = made(staleness, in_flight=in_flight)
        train(queue, backend, 0, 8)
        assert queue.scorer.asked == {draw: draw // 3 for draw in range(24)}  # type: ignore[attr-defined]


def test_more_prompts_in_a_step_take_the_next_draws_and_their_place_is_filled() -> None:
    queue, backend = made(1, in_flight=True, uniform_groups="refill", kl_coef=0.0)
    taken = [g.group.prompt.draw for g in [*queue.take(3, 0), *queue.take(2, 0), *queue.take(1, 0)]]
    assert taken == list(range(6))
    # One group was mixed after the first round, two after the second: three are under way beside those trained on.
    assert len(queue.entries) == 3
    backend.version = 1
    assert [g.group.prompt.draw for g in queue.take(3, 1)] == [6, 7, 8]
    assert queue.scorer.asked[6] == 1  # type: ignore[attr-defined]


def test_groups_that_were_there_when_they_were_asked_for_are_counted() -> None:
    queue, backend = made(1, in_flight=True)
    queue.take(3, 0)
    assert queue.stats.ready == 0
    while backend.running:
        backend.pump()
    queue.reset()
    queue.take(3, 0)
    assert queue.stats.ready == 3


def scored(graded: GradedGroup) -> ScoredGroup:
    n = len(graded.group.rollouts_G)
    return ScoredGroup(graded.group, graded.rewards_G, graded.parts_G, [0.0] * n, [True] * n, True)


def test_a_step_tells_how_old_its_tokens_are_and_who_waited_for_whom() -> None:
    queue, _ = made(1, in_flight=True)
    scored_P = [scored(g) for g in queue.take(3, 0)]
    found = queue.metrics(scored_P, 0)
    assert (found["queue/ready"], found["samplers/idle_share"]) == (0.0, 0.25)
    assert found["queue/under_way"] == 6.0
    assert (found["rollout/staleness_tokens"], found["rollout/fresh_share"], found["rollout/versions_mean"]) == (
        0,
        1,
        1,
    )
    synchronous, _ = made(0, in_flight=False)
    assert synchronous.metrics(scored_P, 0) == {}


def test_the_age_of_tokens_is_counted_by_their_own_versions() -> None:
    group = RolloutGroup(Prompt(0, 0, [1], "", "", {}), [rollout(1, [3] * 4), rollout(2, [4, 4, 5, 5])])
    one = ScoredGroup(group, [0.0] * 2, [{}] * 2, [0.0] * 2, [True] * 2, True)
    assert version_metrics([one], 5, updates_per_step=4) == {
        "rollout/staleness_tokens": 10 / 8, "rollout/staleness_updates": 5.0, "rollout/versions_mean": 1.5,
        "rollout/fresh_share": 2 / 8,
    }  # fmt: skip


def test_staleness_is_bounded_in_steps_and_told_in_updates_too() -> None:
    queue, backend = made(2, in_flight=True, seed=3, updates_per_step=4)
    for step in range(8):
        queue.reset()
        scored_P = [scored(g) for g in queue.take(3, step)]
        found = queue.metrics(scored_P, step)
        behind = [step - r.policy_version for s in scored_P for r in s.group.rollouts_G]
        assert max(behind) <= 2
        assert found["rollout/staleness_updates"] == 4 * found["rollout/staleness_tokens"]
        backend.version = step + 1


def test_samples_that_no_step_trains_on_are_finished_before_others_come() -> None:
    queue, backend = made(2, in_flight=True, uniform_groups="refill", kl_coef=0.0)
    queue.take(3, 0)
    assert backend.running
    queue.close()
    assert not backend.running
    assert not queue.entries


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize(("staleness", "in_flight"), MODES)
def test_a_resumed_queue_goes_on_behind_what_was_trained_on(staleness, in_flight, tmp_path) -> None:
    whole = [g.group for step in train(*made(staleness, in_flight=in_flight), 0, 8) for g in step]
    for kill in range(1, 8):
        queue, backend = made(staleness, in_flight=in_flight, seed=kill)
        before = [g.group for step in train(queue, backend, 0, kill) for g in step]
        folder = tmp_path / str(kill)
        folder.mkdir()
        cursor = queue.state()
        queue.save(folder)
        again, backend = made(staleness, in_flight=in_flight, seed=100 + kill)
        backend.version = kill
        again.restore(cursor)
        again.load(folder)
        after = train(again, backend, kill, 8)
        groups = [*before, *(g.group for step in after for g in step)]
        assert [g.prompt.draw for g in groups] == list(range(24))
        behind = [kill + s - r.policy_version for s, step in enumerate(after) for g in step for r in g.group.rollouts_G]
        assert max(behind) <= staleness, "nor is anything older in the first steps after a resume"
        if not in_flight:
            assert [[describe(r) for r in g.rollouts_G] for g in groups] == [
                [describe(r) for r in g.rollouts_G] for g in whole
            ]


def describe(r: Rollout) -> tuple[object, ...]:
    return r.seed, r.policy_version, r.token_ids_T.tobytes(), r.logprobs_T.tobytes(), r.finish_reason


def test_synchronous_cursors_are_those_of_the_stream() -> None:
    queue, backend = made(0, in_flight=False)
    train(queue, backend, 0, 2)
    assert queue.state() == queue.stream.state()
    assert queue.state()["draws"] == 6


def test_an_asynchronous_cursor_is_the_count_of_the_draws_that_were_trained_on() -> None:
    queue, backend = made(4, in_flight=True)
    train(queue, backend, 0, 2)
    assert queue.state()["draws"] == 6
    assert queue.stream.state()["draws"] > 6
    assert queue.state()["held"] == 0


@pytest.mark.parametrize(
    ("wrote", "reads", "message"),
    [((0, False), (1, False), "staleness=0, not 1"), ((1, False), (1, True), "in_flight=0, not 1"),
     ((2, True), (0, False), "staleness=2, not 0")],
)  # fmt: skip
def test_a_checkpoint_of_another_mode_is_refused_in_one_line(wrote, reads, message) -> None:
    queue, backend = made(wrote[0], in_flight=wrote[1])
    train(queue, backend, 0, 1)
    other, _ = made(reads[0], in_flight=reads[1])
    with pytest.raises(BadInput, match=rf"^cannot resume: the checkpoint was written with rollout\.{message}.*$"):
        other.restore(queue.state())


# ------------------------------------------------------------------------------------------------ versions


def group_of(*rollouts: Rollout) -> RolloutGroup:
    return RolloutGroup(Prompt(5, 5, [1], "", "", {}), list(rollouts))


def test_rollouts_of_other_versions_than_the_loop_sent_are_refused() -> None:
    refuse_other_versions(group_of(rollout(1, [3, 3])), 3)
    for versions in ([2, 2], [4, 4], [3, 4]):
        with pytest.raises(AhaError, match="but the loop sent 3"):
            refuse_other_versions(group_of(rollout(1, versions)), 3)
    refuse_other_versions(group_of(rollout(1, [3, 4])), 3, in_flight=True)
    with pytest.raises(AhaError, match=r"version \[2\], but the loop sent 3"):
        refuse_other_versions(group_of(rollout(1, [2, 3])), 3, in_flight=True)


def test_what_is_older_than_the_bound_is_refused_by_its_first_token() -> None:
    refuse_old(group_of(rollout(1, [3, 5])), 5, 2)
    with pytest.raises(AhaError, match=r"version 3 and trained on at 6, which rollout\.staleness=2 rules out"):
        refuse_old(group_of(rollout(1, [3, 6])), 6, 2)
    refuse_old(replace(group_of(), rollouts_G=[]), 6, 0)


# ------------------------------------------------------------------------------------------------ files


def test_the_rollout_files_prove_that_each_draw_was_trained_on_once_and_in_order(tmp_path: Path) -> None:
    trained = train(*made(2, in_flight=True, seed=3), 0, 8)
    for step, graded_P in enumerate(trained):
        write_rollouts(rollouts_path(tmp_path, "grpo", step), step, [scored(g) for g in graded_P])
    assert audit(tmp_path, 8, 3, 2, seed=1) == ""
    assert "older than 1" in audit(tmp_path, 8, 3, 1, seed=1)
    assert "its seed is" in audit(tmp_path, 8, 3, 2, seed=2)
    for groups, fault in (
        ((trained[1][0], *trained[1][:2]), "step 1: draw 3, sample 0 was trained on more than once"),
        ((*trained[1][:2], trained[0][0]), "draws [0, 5] were not trained on exactly once, in order"),
        (trained[1][:2], "draws [5] were not trained on exactly once, in order"),
        (trained[1][::-1], "draws in another order were not trained on exactly once, in order"),
    ):
        write_rollouts(rollouts_path(tmp_path, "grpo", 1), 1, [scored(g) for g in groups])
        assert audit(tmp_path, 8, 3, 2, seed=1) == fault
    rollouts_path(tmp_path, "grpo", 7).unlink()
    assert audit(tmp_path, 8, 3, 2, seed=1) == "step 7 left no rollouts"


def test_versions_of_tokens_come_back_from_a_file(tmp_path: Path) -> None:
    graded = next(g for step in train(*made(2, in_flight=True, seed=3), 0, 8) for g in step
                  if any(r.later_versions for r in g.group.rollouts_G))  # fmt: skip
    write_rollouts(tmp_path / "x.parquet", 0, [graded], full_precision=True)
    ((group, _),) = read_rollouts(tmp_path / "x.parquet", [graded.group.prompt], [["accuracy"]])
    assert [spans(r) for r in group.rollouts_G] == [spans(r) for r in graded.group.rollouts_G]
