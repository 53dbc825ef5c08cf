"""Watches Ray's head. When it dies, Ray ends this process after a minute with a message from its own insides; here that
happens sooner and by name. What is on disk is whole at any moment, so the same command goes on.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

EVERY_S, GIVE_UP_S = 2.0, 30.0
"""Seconds between two looks, and without any answer until the head counts as dead: less than Ray's own 60."""
CONNECT_S = 5.0


def watch_head(
    address: str,
    in_use: Callable[[], bool],
    *,
    gone: Callable[[str], None] | None = None,
    every_s: float = EVERY_S,
    give_up_s: float = GIVE_UP_S,
) -> threading.Thread:
    """Call gone(what to tell the user) once the head at "host:port" has not answered for give_up_s.

    A head that is only busy still accepts connections. in_use: whether Ray is still used; otherwise the watch ends.
    gone: None prints the text and ends the process, because its main thread may wait in Ray for an answer that never
    comes.
    """
    host, _, port = address.rpartition(":")

    def watch() -> None:
        answered = time.monotonic()
        while in_use():
            if _answers(host, int(port)):
                answered = time.monotonic()
            elif time.monotonic() - answered > give_up_s and in_use():
                (gone or _end)(
                    f"Ray's head at {address} has not answered for {give_up_s:g} s: its process or its machine is "
                    "gone. Start a cluster of your own again; the same command goes on from the last checkpoint"
                )
                return
            time.sleep(every_s)

    thread = threading.Thread(target=watch, name="head watch", daemon=True)
    thread.start()
    return thread


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_S):
            return True
    except OSError:
        return False


def _end(text: str) -> None:
    print(f"aha: {text}", file=sys.stderr, flush=True)
    os._exit(1)
