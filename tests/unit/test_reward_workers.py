"""Reward workers: a hung, dying or greedy call costs its own sample, and nothing waits for it longer than its limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rl.config import RewardConfig, ScoringConfig
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.reward_processes import RewardWorker
from rl.types import AhaError, BadInput, Prompt, RewardReport, Rollout, RolloutGroup, Verdict

MODULE = """
import mmap, os, signal, time

def tell(completion, folder, **columns):
    if completion == "hang":
        time.sleep(1000)
    if completion == "hang with alarms off":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP})
        while True:
            pass
    if completion == "grandchild":
        os.system(f"(sleep 1000 & echo $! > {folder}/pid); sleep 1000")
    if completion == "deep":
        raise RecursionError("maximum recursion depth exceeded")
    if completion == "die":
        os._exit(3)
    if completion == "die once" and not os.path.exists(folder + "/died"):
        open(folder + "/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "greedy":
        mmap.mmap(-1, 6 << 30)
    if completion == "slow":
        time.sleep(1)
    return float(len(completion))

def in_lists(prompts, completions, **columns):
    return [1.0] * len(completions)

def with_alarm(completion):
    signal.signal(signal.SIGALRM, lambda *_: None)  # raises anywhere but in a main thread
    signal.alarm(0)
    return 1.0
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardWorker]]:
    (tmp_path / "worker_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    started: list[RewardWorker] = []

    def begin(function: str = "tell", timeout_s: float = 5.0, processes: int = 2) -> RewardWorker:
        reward = RewardConfig(f"worker_rewards:{function}", timeout_s=timeout_s)
        worker = RewardWorker((reward,), ScoringConfig(processes=processes, memory_gib=4))
        started.append(worker)
        worker.start()
        return worker

    yield begin
    for worker in started:
        worker.close()


def group(folder: Path, *texts: str) -> RolloutGroup:
    rollouts_G = [
        Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), text, "stop", 1.0, 0, seed)
        for seed, text in enumerate(texts)
    ]
    return RolloutGroup(Prompt(0, 0, [1], "question", "4", {"folder": str(folder)}), rollouts_G)


def ask(worker: RewardWorker, group: RolloutGroup) -> RewardReport:
    """Every reward of the group."""
    return worker.call_rewards(group, worker._functions.names)


def scores(report, name: str = "tell") -> list[float | str]:  # type: ignore[no-untyped-def]
    """The score of each sample, or the verdict where there is none."""
    parts = [parts[name] for parts in report.parts_G]
    return [part.score if part.verdict.is_valid else str(part.verdict) for part in parts]


def test_other_rewards_are_taken_up_by_the_processes_that_there_are(start, tmp_path):
    worker = start(processes=1)
    (process,) = worker._all
    both = (RewardConfig("worker_rewards:tell"), RewardConfig("worker_rewards:in_lists"))
    assert worker.start(both) == os.getpid()
    report = ask(worker, group(tmp_path, "a", "abc"))
    assert scores(report) == [1.0, 3.0]
    assert scores(report, "in_lists") == [1.0, 1.0]
    assert worker._all == {process}
    with pytest.raises(BadInput, match="no function 'nobody'"):
        worker.start((RewardConfig("worker_rewards:nobody"),))
    assert scores(ask(worker, group(tmp_path, "ab")), "in_lists") == [1.0]
    # An actor that was started again is told with the question.
    later = worker.call_rewards(group(tmp_path, "ab"), ["with_alarm"], (RewardConfig("worker_rewards:with_alarm"),))
    assert scores(later, "with_alarm") == [1.0]
    assert worker._all == {process}


def test_a_process_that_is_gone_when_rewards_change_is_replaced_and_costs_no_sample(start, tmp_path):
    worker = start(processes=1)
    (process,) = worker._all
    os.kill(process._child.pid, signal.SIGKILL)
    process._child.wait(timeout=30)
    report = worker.call_rewards(group(tmp_path, "a"), ["in_lists"], (RewardConfig("worker_rewards:in_lists"),))
    assert scores(report, "in_lists") == [1.0]
    assert (report.killed, report.replaced) == (0, 0)
    assert process not in worker._all


@pytest.mark.parametrize("text", ["hang", "hang with alarms off"])
def test_a_call_that_hangs_is_killed_at_its_limit_and_the_others_keep_their_scores(start, tmp_path, text):
    worker = start(timeout_s=0.5)
    begin = time.monotonic()
    report = ask(worker, group(tmp_path, "a", text, "abc", "ab"))
    assert scores(report) == [1.0, "timed_out", 3.0, 2.0]
    assert (report.killed, report.replaced) == (1, 0)
    assert time.monotonic() - begin < 10
    assert report.parts_G[1]["tell"].verdict == Verdict.TIMED_OUT
    assert scores(ask(worker, group(tmp_path, "again"))) == [5.0]


def test_a_text_that_keeps_a_reward_of_text_alone_at_work_for_too_long_is_wrong(start, tmp_path, monkeypatch):
    monkeypatch.setattr("rl.scoring.reward_functions.TEXT_ALONE", frozenset({"worker_rewards:tell"}))
    worker = start(timeout_s=0.5)
    report = ask(worker, group(tmp_path, "a", "hang with alarms off", "hang"))
    assert scores(report) == [1.0, 0.0, "timed_out"]  # the last one waits: that is not its text's work
    part = report.parts_G[1]["tell"]
    assert (part.verdict, part.reason.partition(":")[0]) == (Verdict.WRONG, "too much work")
    assert report.killed == 2


def test_a_text_that_is_too_deep_is_wrong_where_a_reward_works_on_text_alone(start, tmp_path, monkeypatch):
    assert scores(ask(start(), group(tmp_path, "deep"))) == ["failed"]
    monkeypatch.setattr("rl.scoring.reward_functions.TEXT_ALONE", frozenset({"worker_rewards:tell"}))
    (part,) = RewardFunctions((RewardConfig("worker_rewards:tell"),)).call("tell", group(tmp_path, "deep"))
    assert part is not None
    assert (part.score, part.verdict) == (0.0, Verdict.WRONG)


def test_accuracy_works_on_text_alone_and_code_does_not():
    functions = RewardFunctions((RewardConfig("accuracy"), RewardConfig("code_accuracy"), RewardConfig("format")))
    assert {name: functions.blames_text(name) for name in functions.names} == {
        "accuracy": True,
        "code_accuracy": False,
        "format": True,
    }


def test_what_a_killed_call_had_started_dies_with_it(start, tmp_path):
    report = ask(start(timeout_s=1.0), group(tmp_path, "grandchild"))
    assert scores(report) == ["timed_out"]
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_dies_once_changes_nothing_but_a_counter(start, tmp_path):
    report = ask(start(), group(tmp_path, "die once", "abc"))
    assert scores(report) == [8.0, 3.0]
    assert (report.killed, report.replaced) == (0, 1)


def test_a_call_that_always_kills_its_process_fails_alone(start, tmp_path):
    report = ask(start(), group(tmp_path, "a", "die", "abc"))
    assert scores(report) == [1.0, "failed", 3.0]
    assert "exit code 3" in report.parts_G[1]["tell"].reason


def test_a_call_that_asks_for_more_memory_than_it_may_have_fails_alone(start, tmp_path):
    report = ask(start(), group(tmp_path, "greedy", "abc"))
    assert scores(report) == ["failed", 3.0]
    assert "Cannot allocate memory" in report.parts_G[0]["tell"].reason


def test_samples_wait_side_by_side(start, tmp_path):
    worker = start(processes=4)
    ask(worker, group(tmp_path, *["slow"] * 4))  # all four processes are there now
    begin = time.monotonic()
    ask(worker, group(tmp_path, *["slow"] * 4))
    assert time.monotonic() - begin < 4 * 0.9  # s; one after the other they take 4


def test_a_function_of_lists_gets_the_whole_group_in_one_call(start, tmp_path):
    assert scores(ask(start("in_lists"), group(tmp_path, "a", "b")), "in_lists") == [1.0, 1.0]


def test_a_function_that_sets_alarms_runs_in_a_main_thread(start, tmp_path):
    assert scores(ask(start("with_alarm"), group(tmp_path, "a")), "with_alarm") == [1.0]


def test_a_reward_that_cannot_be_imported_there_is_named_when_the_worker_starts(start):
    with pytest.raises(AhaError, match="no_such"):
        start("no_such")


def test_only_the_rewards_asked_for_are_called(start, tmp_path):
    worker = start(timeout_s=0.5)
    assert worker.call_rewards(group(tmp_path, "hang", "hang"), []).parts_G == [{}, {}]


def test_several_groups_at_once_get_their_own_scores(start, tmp_path):
    worker = start(processes=3)
    found: dict[int, list[float | str]] = {}

    def ask_for(n: int) -> None:
        found[n] = scores(ask(worker, group(tmp_path, "x" * n, "y" * (n + 1))))

    threads = [threading.Thread(target=ask_for, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {n: [float(n), float(n + 1)] for n in range(1, 7)}


def test_closing_leaves_no_process_behind(start, tmp_path):
    worker = start()
    pids = [process._child.pid for process in worker._all]
    assert pids
    worker.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
