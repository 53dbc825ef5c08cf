"""rl/workers/cluster/head_watch.py: a head of Ray's that dies ends the run by name and soon."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from rl.workers.cluster.head_watch import EVERY_S, GIVE_UP_S, watch_head


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_dies_is_named_with_its_address_and_what_to_do(head: socket.socket) -> None:
    told: list[str] = []
    where = address(head)
    watch = watch_head(where, lambda: True, gone=told.append, every_s=0.02, give_up_s=0.2)
    time.sleep(0.5)
    assert told == []  # it lives, though it accepts nothing: a busy head is not a dead one
    head.close()
    watch.join(20)
    assert len(told) == 1
    assert told[0].startswith(f"Ray's head at {where} has not answered for 0.2 s")
    assert "the same command goes on from the last checkpoint" in told[0]


def test_a_head_that_comes_back_in_time_is_alive(head: socket.socket) -> None:
    told: list[str] = []
    port = head.getsockname()[1]
    used = threading.Event()
    watch = watch_head(address(head), lambda: not used.is_set(), gone=told.append, every_s=0.02, give_up_s=3.0)
    head.close()
    time.sleep(0.3)
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        time.sleep(3.2)
    used.set()
    watch.join(20)
    assert told == []


def test_the_watch_ends_with_the_use_of_ray(head: socket.socket) -> None:
    told: list[str] = []
    used = threading.Event()
    watch = watch_head(address(head), lambda: not used.is_set(), gone=told.append, every_s=0.02, give_up_s=0.1)
    used.set()
    head.close()
    watch.join(20)
    assert not watch.is_alive()
    assert told == []


def test_a_process_that_waits_for_ray_for_ever_is_ended_with_one_line(head: socket.socket) -> None:
    code = (
        "import sys, threading\nfrom rl.workers.cluster.head_watch import watch_head\n"
        "watch_head(sys.argv[1], lambda: True, every_s=0.05, give_up_s=0.5)\nthreading.Event().wait()\n"
    )
    where = address(head)
    with subprocess.Popen([sys.executable, "-c", code, where], stderr=subprocess.PIPE, text=True) as waiting:
        time.sleep(1)
        assert waiting.poll() is None
        head.close()
        _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert said.startswith(f"aha: Ray's head at {where} has not answered")
    assert len(said.splitlines()) == 1


def test_it_is_told_before_ray_ends_the_process_itself() -> None:
    assert GIVE_UP_S + 5 * EVERY_S < 60
