"""A child process that answers one message at a time and can be killed: for code that may hang, die or eat memory.

The parent makes a ChildProcess(module); the module, run as a program, ends in serve(descriptor, answer). Reward
functions run in such processes (rl/scoring/reward_processes.py), and environments (rl/environments/processes.py).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from rl.types import AhaError

START_LIMIT_S = 120.0
PR_SET_PDEATHSIG = 1


class TooLong(Exception):
    """A call exceeded its limit."""


class Died(Exception):
    """The process ended in the middle of a call."""


class ChildProcess:
    """One child that runs `module` and answers calls over a socket.

    memory_gib: of its address space. silent: what it prints is thrown away.
    """

    def __init__(self, module: str, memory_gib: float, *, silent: bool = False) -> None:
        ours, theirs = socket.socketpair()
        output = subprocess.DEVNULL if silent else None
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=output,
                stderr=output,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # so that what it started dies with it
            )
        self._connection = Connection(ours.detach())
        self._connection.send(memory_gib)

    @property
    def pid(self) -> int:
        return self._child.pid

    def call(self, message: object, limit_s: float) -> object:
        """Its answer. Raises AhaError if it answers with one, and TooLong or Died; then only kill() may follow."""
        try:
            self._connection.send(message)
            if not self._connection.poll(limit_s):
                raise TooLong
            answer: object = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Died from error
        if isinstance(answer, AhaError):
            raise answer
        return answer

    def processor_s(self) -> float:
        """Seconds that it has spent on a processor since it started."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of the user, and of the system

    def kill(self) -> str:
        """End it and all it started; returns how it ended."""
        for end in (os.killpg, os.kill):
            try:
                end(self._child.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._connection.close()
        code = self._child.wait(timeout=30)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def serve(descriptor: int, answer: Callable[[object], object]) -> None:
    """In the child: answer messages until the other end closes. An AhaError is sent as the answer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed parent must not leave its children behind
    connection = Connection(descriptor)
    limit = int(connection.recv() * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        try:
            result = answer(message)
        except AhaError as error:
            result = error
        connection.send(result)
