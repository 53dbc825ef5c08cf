"""Reward workers: every call of a reward function runs in a process that is killed when it takes too long.

A reward worker holds a few such processes, started as they are needed. One Ray actor runs it; it imports no Ray.
Inside a process the functions run in the main thread, where the alarms that some verifiers set work.

A call is killed   -> its samples are timed out, or wrong where the process was at work on nothing but their text; the
                      process is replaced by the next call that needs one.
A process dies     -> the call is done again in a new one; if that dies too, its samples have failed.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

from rl.config import RewardConfig, RunConfig, ScoringConfig
from rl.scoring.child_process import START_LIMIT_S, ChildProcess, Died, TooLong, serve
from rl.scoring.reward_functions import RewardFunctions, failed, merge, too_much
from rl.types import AhaError, RewardPart, RewardReport, RolloutGroup, Verdict

log = logging.getLogger(__name__)

GROUPS_AT_ONCE = 8
AT_WORK = 0.25
"""From this share of its limit on a processor, a call was at work; one that got less was waiting, or the machine was
busy with others."""


class _RewardProcess(ChildProcess):
    """One child that answers calls by the rewards that it was told last."""

    def __init__(self, rewards: Sequence[RewardConfig], memory_gib: float) -> None:
        super().__init__("rl.scoring.reward_processes", memory_gib)
        self._rewards: tuple[RewardConfig, ...] | None = None
        try:
            self.learn(rewards)
        except (AhaError, TooLong, Died):
            self.kill()
            raise

    def learn(self, rewards: Sequence[RewardConfig]) -> None:
        """Answer by these rewards from now on. Raises what RewardFunctions does, and as call()."""
        if self._rewards != tuple(rewards):
            self.call((None, tuple(rewards)), START_LIMIT_S)
            self._rewards = tuple(rewards)

    def parts(self, name: str, group: RolloutGroup, limit_s: float) -> list[RewardPart | None]:
        """What one reward says of a group's samples. Raises as call()."""
        return cast(list[RewardPart | None], self.call((name, group), limit_s))


@dataclass
class _Counters:
    killed: int = 0
    replaced: int = 0


class RewardWorker:
    """Calls the reward functions on groups, several samples at once. Any number of threads may use call_rewards()."""

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig) -> None:
        self._rewards, self._scoring = tuple(rewards), scoring
        self._functions = RewardFunctions(rewards)
        self._idle: queue.LifoQueue[_RewardProcess] = queue.LifoQueue()
        processes = scoring.processes or 2 * (os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reward")
        self._all: set[_RewardProcess] = set()
        self._lock = threading.Lock()

    def start(self, rewards: Sequence[RewardConfig] | None = None) -> int:
        """Make a process ready, so that a reward that cannot be imported here shows now. Returns our pid.

        rewards: to go on with in place of those before, in the processes that there are: what they have imported they
        need not import again. Raises BadInput for one that cannot be found, and keeps those before.
        """
        if rewards is not None:
            self._agree(tuple(rewards))
        self._idle.put(self._take())
        return os.getpid()

    def _agree(self, rewards: tuple[RewardConfig, ...]) -> None:
        with self._lock:
            if rewards != self._rewards:
                self._functions, self._rewards = RewardFunctions(rewards), rewards

    def call_rewards(
        self, group: RolloutGroup, names: Sequence[str], rewards: tuple[RewardConfig, ...] | None = None
    ) -> RewardReport:
        """The named rewards of every sample, within the limits.

        rewards: those of today, for an actor that Ray started again: it knows its first ones only.
        """
        if rewards is not None:
            self._agree(rewards)
        counters = _Counters()
        size = len(group.rollouts_G)
        calls = [(name, unit) for name in names for unit in self._functions.units(name, size)]
        futures = [self._threads.submit(self._call, name, unit, group, counters) for name, unit in calls]
        by_reward: dict[str, list[RewardPart | None]] = {name: [None] * size for name in names}
        for (name, unit), future in zip(calls, futures, strict=True):
            for i, part in zip(unit, future.result(), strict=True):
                by_reward[name][i] = part
        parts_G = merge(names, list(by_reward.values()), size)
        return RewardReport(parts_G, counters.killed, counters.replaced, pid=os.getpid())

    def _call(
        self, name: str, unit: list[int], group: RolloutGroup, counters: _Counters
    ) -> Sequence[RewardPart | None]:
        limit = self._functions.limit_s(name) * len(unit)
        part = replace(group, rollouts_G=[group.rollouts_G[i] for i in unit])
        ended = ""
        for _ in range(2):
            process = self._take()
            before = process.processor_s()
            try:
                result = process.parts(name, part, limit)
            except TooLong:
                worked = process.processor_s() - before
                self._kill(process)
                with self._lock:
                    counters.killed += 1
                reason = f"no verdict within {limit:g} s; its process was killed"
                if self._functions.blames_text(name) and worked >= AT_WORK * limit:
                    return [too_much(reason)] * len(unit)
                return [RewardPart(float("nan"), Verdict.TIMED_OUT, reason)] * len(unit)
            except Died:
                ended = self._kill(process)
                with self._lock:
                    counters.replaced += 1
                log.warning("a process of reward %r died (%s); doing the call again", name, ended)
                continue
            self._idle.put(process)
            return result
        return [failed(f"its process died twice ({ended})")] * len(unit)

    def _take(self) -> _RewardProcess:
        """A process that knows today's rewards."""
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            return self._new()  # there are no more calls at once than threads, so no more processes either
        try:
            process.learn(self._rewards)
        except (TooLong, Died):
            self._kill(process)
            return self._new()
        except AhaError:  # it still answers by those before
            self._idle.put(process)
            raise
        return process

    def _new(self) -> _RewardProcess:
        try:
            process = _RewardProcess(self._rewards, self._scoring.memory_gib)
        except (TooLong, Died) as error:
            raise AhaError("a reward process did not start; its messages are in the reward worker's log") from error
        with self._lock:
            self._all.add(process)
        return process

    def _kill(self, process: _RewardProcess) -> str:
        with self._lock:
            self._all.discard(process)
        return process.kill()

    def close(self) -> None:
        """Kill every process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in list(self._all):
            self._kill(process)


class LocalRewardWorker:
    """A reward worker in this process, for a stage that starts no machines. It cannot run reward models.

    Implements rl.backend.RewardWorkers.
    """

    def __init__(self, cfg: RunConfig) -> None:
        self._worker = RewardWorker(cfg.rewards, cfg.scoring)
        self._worker.start()
        self._groups = ThreadPoolExecutor(GROUPS_AT_ONCE, thread_name_prefix="reward groups")

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        """The result waits for the rewards, each call of which has its limit."""
        return self._groups.submit(self._worker.call_rewards, group, list(names)).result

    def close(self) -> None:
        """Kill every process."""
        self._groups.shutdown(wait=False, cancel_futures=True)
        self._worker.close()


# ------------------------------------------------------------------------------------------------ the child


class _Functions:
    """Answers (reward, group) by the rewards of the last (None, rewards)."""

    def __init__(self) -> None:
        self._functions: RewardFunctions | None = None

    def answer(self, message: object) -> object:
        name, content = cast(tuple[Any, Any], message)
        if name is None:
            self._functions = RewardFunctions(content)
            return []
        assert self._functions is not None  # rewards are the first thing that _RewardProcess sends
        return self._functions.call(name, content)


if __name__ == "__main__":
    serve(int(sys.argv[1]), _Functions().answer)
