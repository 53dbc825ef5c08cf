"""Whether two answers that models wrote are the same mathematics, asked in a process that is killed when it hangs.

Texts and plain numbers are settled here at once. What is left goes to rewards.accuracy in a child process: no text
that a model wrote may stop a run.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from rewards.extract import normalise
from rewards.quantities import parse_number

log = logging.getLogger(__name__)

START_LIMIT_S = 120.0
MEMORY_BYTES = 4 << 30


class Comparer:
    """Use it as a context manager: the child ends with it.

    pair_limit_s: a pair that takes longer is called different, and the child is replaced. total_limit_s: from when so
    much was spent on hard pairs, they are called different unasked. undecided: pairs called different for that reason.
    """

    def __init__(self, *, pair_limit_s: float = 5.0, total_limit_s: float = 120.0) -> None:
        self._pair_limit_s, self._left_s = pair_limit_s, total_limit_s
        self._child: BaseProcess | None = None
        self._connection: Connection | None = None
        self.undecided = 0

    def __enter__(self) -> Comparer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._kill()
        if self.undecided:
            log.warning("%d pairs of answers took too long to compare and count as different", self.undecided)

    def same(self, one: str, other: str) -> bool:
        r""" "1/2", "0.5" -> True; "\sqrt{8}", "2\sqrt{2}" -> True; what cannot be read is its own text only."""
        plain = plainly_same(one, other)
        if plain is not None:
            return plain
        if self._left_s <= 0:
            self.undecided += 1
            return False
        connection = self._connection or self._start()
        began = time.monotonic()
        try:
            connection.send((one, other))
            if connection.poll(self._pair_limit_s):
                return bool(connection.recv())
        except (EOFError, OSError):
            log.info("the process that compares answers died on %.60r and %.60r", one, other)
        finally:
            self._left_s -= time.monotonic() - began
        self.undecided += 1
        self._kill()
        return False

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Ray's threads
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(theirs,), daemon=True)
        child.start()
        theirs.close()
        self._child, self._connection = child, ours
        try:
            started = ours.poll(START_LIMIT_S) and ours.recv() == "ready"
        except EOFError:
            started = False
        if not started:
            log.warning("the process that compares answers did not start; what is no plain number counts as different")
            self._left_s = 0.0
        return ours

    def _kill(self) -> None:
        if self._child is not None and self._connection is not None:
            self._connection.close()
            self._child.kill()
            self._child.join(10)
        self._child, self._connection = None, None


def plainly_same(one: str, other: str) -> bool | None:
    """The answer where texts or exact plain numbers settle it, else None."""
    a, b = normalise(one), normalise(other)
    if a == b:
        return True
    first, second = parse_number(a), parse_number(b)
    return first == second if first is not None and second is not None else None


def _serve(connection: Connection) -> None:
    """The child: answers pairs until the other end closes."""
    from rewards.accuracy import same_answer

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    connection.send("ready")
    while True:
        try:
            one, other = connection.recv()
        except EOFError:
            return
        try:
            same = same_answer(one, other)
        except (ValueError, MemoryError, RecursionError):  # Unreadable is a ValueError
            same = False
        connection.send(same)
