"""A switch and machines on it: a bridge, and network namespaces with an address each. Needs root and Linux."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """One machine's place on the switch. wire: the switch's end of its cable."""

    namespace: str
    ip: str
    wire: str
    switch: str

    def cut(self) -> None:
        """Packets vanish from now on; neither side is told."""
        _ip("link", "set", self.wire, "nomaster")

    def mend(self) -> None:
        _ip("link", "set", self.wire, "master", self.switch)


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need the `ip` command (Debian and Ubuntu: iproute2)"
    try:
        with network(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


@contextlib.contextmanager
def network(n: int) -> Iterator[list[Port]]:
    """n machines on one switch, taken down again in any case.

    Each has a second interface too, which comes first in the alphabet, has the same address on every machine and leads
    nowhere: what takes any interface takes that one.
    """
    pid = os.getpid()
    switch, subnet = f"aha{pid}", f"10.{201 + pid % 50}.{pid // 50 % 250}"
    ports = [Port(f"aha-{pid}-{i}", f"{subnet}.{i + 1}", f"aha{pid}p{i}", switch) for i in range(n)]
    try:
        _ip("link", "add", switch, "type", "bridge")
        _ip("link", "set", switch, "up")
        for port in ports:
            _ip("netns", "add", port.namespace)
            _ip("link", "add", port.wire, "type", "veth", "peer", "name", "ray0", "netns", port.namespace)
            _ip("link", "set", port.wire, "master", switch, "up")
            inside = ("-n", port.namespace)
            _ip(*inside, "addr", "add", f"{port.ip}/24", "dev", "ray0")
            _ip(*inside, "link", "add", "another0", "type", "veth", "peer", "name", "another1")
            _ip(*inside, "addr", "add", "192.168.213.1/24", "dev", "another0")
            for interface in ("lo", "ray0", "another0", "another1"):
                _ip(*inside, "link", "set", interface, "up")
        yield ports
    finally:
        for port in ports:
            subprocess.run(["ip", "netns", "del", port.namespace], capture_output=True)
            subprocess.run(["ip", "link", "del", port.wire], capture_output=True)
        subprocess.run(["ip", "link", "del", switch], capture_output=True)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True, timeout=30)
