"""The processes that environments run in: each call has a limit, a process that hangs or dies is replaced, and what was
lost with it is played again.

One trajectory stays with one process, which keeps its object. A process answers one call at a time, so that a slow tool
holds up those who share its process alone. Nothing here waits unless it is told to: ask() hands a turn over, and
answered() gives back what is done.

A call is killed  -> the trajectory has timed out; the others of that process are played again at their next turn.
A process dies    -> the trajectory is played again in a new one; if that dies too, it has failed.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from rl.config import EnvironmentConfig, ScoringConfig
from rl.environments.definition import Definition
from rl.environments.episode import Ask, EnvironmentFailed, Play, Reply, Start
from rl.scoring.child_process import START_LIMIT_S, ChildProcess, Died, TooLong, serve
from rl.turns import PLAYER, Turn
from rl.types import AhaError

log = logging.getLogger(__name__)

MOST_OBJECTS = 1024
"""Objects that a process keeps. One that has no place any more is played again at its next turn."""


class EnvironmentProcesses:
    """Environments in processes of this one. scoring: how many at most, and their memory."""

    def __init__(self, scoring: ScoringConfig) -> None:
        count = scoring.processes or 2 * (os.cpu_count() or 1)
        self._hosts = [_Host(scoring.memory_gib) for _ in range(count)]
        self._home: dict[str, _Host] = {}
        self._done: queue.SimpleQueue[tuple[str, Reply]] = queue.SimpleQueue()
        self.waiting: set[str] = set()

    def ask(self, ask: Ask) -> None:
        """Hand a turn over; its answer comes out of answered()."""
        host = self._home.get(ask.key)
        if host is None:
            homes = Counter(map(id, self._home.values()))
            host = self._home[ask.key] = min(self._hosts, key=lambda h: homes[id(h)])
        self.waiting.add(ask.key)
        host.thread.submit(self._answer, host, ask)

    def _answer(self, host: _Host, ask: Ask) -> None:
        try:
            reply = host.answer(ask)
        except AhaError as error:
            reply = Reply(over=True, fault=str(error))
        self._done.put((ask.key, reply))

    def answered(self, wait_s: float = 0.0) -> list[tuple[str, Reply]]:
        """(key, reply) of the turns that are done. Waits at most wait_s for the first."""
        found: list[tuple[str, Reply]] = []
        try:
            while self.waiting:
                found.append(self._done.get(timeout=wait_s) if wait_s and not found else self._done.get_nowait())
                self.waiting.discard(found[-1][0])
        except queue.Empty:
            pass
        for key, reply in found:
            if reply.over:
                self._home.pop(key, None)
        return found

    def call(self, ask: Ask) -> Reply:
        """Ask and wait, for tests and for checks before a run."""
        self.ask(ask)
        return next(reply for key, reply in self.answered(wait_s=86_400.0) if key == ask.key)

    def pids(self) -> list[int]:
        return [host.process.pid for host in self._hosts if host.process is not None]

    def close(self) -> None:
        """Kill every process."""
        for host in self._hosts:
            host.close()
        self._home, self.waiting = {}, set()


class _Host:
    """One process, started when it is first needed, and the thread that talks to it. known: keys of its objects."""

    def __init__(self, memory_gib: float) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="environment")
        self.process: ChildProcess | None = None
        self._memory_gib = memory_gib
        self._known: set[str] = set()
        self._ready: set[EnvironmentConfig] = set()
        self._lock, self._closed = threading.Lock(), False

    def answer(self, ask: Ask) -> Reply:
        limit, ended = ask.start.environment.timeout_s, ""
        for _ in range(2):
            try:
                process = self._prepared(ask.start.environment)
                # What is played again may take as long as it did at first.
                turns = 1 if ask.key in self._known else len(ask.turns) + 1
                reply = cast(Reply, process.call(ask, limit * turns))
            except TooLong:
                self._kill()
                reason = f"no answer to turn {len(ask.turns)} within {limit:g} s; its process was killed"
                return Reply(over=True, fault=reason, timed_out=True)
            except Died:
                ended = self._kill()
                log.warning("a process of environment %s died (%s)", ask.start.environment.name, ended)
                continue
            self._known.add(ask.key)
            if reply.over:
                self._known.discard(ask.key)
            return reply
        return Reply(over=True, fault=f"its process died twice ({ended})")

    def _prepared(self, environment: EnvironmentConfig) -> ChildProcess:
        """The process, with the environment imported."""
        with self._lock:
            if self._closed:
                raise AhaError("the environments' processes are closed")
            if self.process is None:
                self.process = ChildProcess("rl.environments.processes", self._memory_gib, silent=True)
            process = self.process
        if environment not in self._ready:
            process.call(environment, START_LIMIT_S)
            self._ready.add(environment)
        return process

    def _kill(self) -> str:
        self._known, self._ready = set(), set()
        with self._lock:
            process, self.process = self.process, None
        return process.kill() if process is not None else "closed"

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.thread.shutdown(wait=False, cancel_futures=True)
        self._kill()


# ------------------------------------------------------------------------------------------------ the child


class Plays:
    """In the child: the objects of the trajectories that it has, the one that was used last at the end."""

    def __init__(self) -> None:
        self._definitions: dict[EnvironmentConfig, Definition] = {}
        self._plays: OrderedDict[str, Play] = OrderedDict()

    def answer(self, message: object) -> object:
        if isinstance(message, EnvironmentConfig):
            self._definitions[message] = Definition(message)
            return None
        ask = cast(Ask, message)
        try:
            return self._reply(ask)
        except EnvironmentFailed as error:
            self._plays.pop(ask.key, None)
            return Reply(over=True, fault=" ".join(str(error).split())[:300].encode("utf-8", "replace").decode())

    def _reply(self, ask: Ask) -> Reply:
        if not ask.turns:
            opening = self._new(ask.start).opening
            return Reply((Turn(PLAYER, opening),), over=True)
        play = self._at(ask)
        messages = () if ask.cut else play.answer(ask.turns[-1])
        if (messages or (ask.open and play.waits_for_calls)) and not ask.last and not ask.cut:
            return Reply(messages)
        del self._plays[ask.key]
        return Reply(messages, over=True, rewards=play.rewards())

    def _at(self, ask: Ask) -> Play:
        """The object as it stood before the last turn, played again from the start if it is not here."""
        play = self._plays.pop(ask.key, None)
        if play is None or play.turns != len(ask.turns) - 1:
            play = self._new(ask.start)
            for text in ask.turns[:-1]:
                play.answer(text)
        self._plays[ask.key] = play
        while len(self._plays) > MOST_OBJECTS:
            self._plays.popitem(last=False)
        return play

    def _new(self, start: Start) -> Play:
        return Play(self._definitions[start.environment], start)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Plays().answer)
