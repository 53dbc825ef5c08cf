"""Ray nodes started by `ray start`, each in a process of its own: plain, or in a network namespace with its address."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rl.workers.cluster.ray_calls import QUIET

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OBJECT_STORE = str(160 << 20)


@dataclass
class Node:
    """A machine as Ray sees it. In a namespace it has /tmp/ray to itself too, as on a machine of its own."""

    ip: str
    folder: Path
    env: dict[str, str]
    namespace: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, args: Sequence[str]) -> list[str]:
        if not self.namespace:
            return list(args)
        enter = 'mount --bind "$1" /tmp/ray && shift && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "sh", "-c", enter, "sh", str(self.folder), *args]

    def popen(
        self, args: Sequence[str], log: Path, env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start a command on this node, in a session of its own; it is stopped with the node."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command(args), stdout=out, stderr=out, cwd=cwd, env=self.env | (env or {}), start_new_session=True
            )
        self.processes.append(process)
        return process

    def ray_start(self, args: Sequence[str]) -> subprocess.Popen[bytes]:
        """From a folder that is not the repository, as a service would."""
        return self.popen(
            [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={self.ip}",
             f"--object-store-memory={OBJECT_STORE}", *args],
            self.folder / "start.log",
            cwd=self.folder,
        )  # fmt: skip

    def stop(self) -> None:
        """End what was started here, raylets and workers included, and wait for it."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 8
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.processes.clear()
        for pid in processes_of(str(self.folder), self.namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_of(folder: str, namespace: str) -> list[int]:
    """Processes left of a node: in its namespace, or with its token's path in their environment."""
    if namespace:
        done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"={folder}/token".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def environment(folder: Path, token: str) -> dict[str, str]:
    """What every process of a cluster gets: its token, and .venv's programs first."""
    path = folder / "token"
    path.write_text(token)
    dropped = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    return env | QUIET | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path), "HF_HUB_OFFLINE": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": "",
    }  # fmt: skip


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path: Ray puts sockets in it, whose paths may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="aha-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(what: Callable[[], object], bound: float, name: str, log: Path) -> None:
    """Poll until it holds; else fail with the end of the log."""
    deadline = time.monotonic() + bound
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(f"{name}: not within {bound:g} s\n{log.read_text()[-3000:] if log.exists() else ''}")
        time.sleep(0.1)
