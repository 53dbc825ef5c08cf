"""Run an untrusted program in bubblewrap: no network, none of the host's files, bounded time, memory and output.

    run(["/bin/prog"])  ->  setpriv -> bwrap -> prlimit -> the program

What it sees: its interpreter and standard library (or, to compile, /usr), /proc of its own processes, /dev/null and
the like, and one writable folder, /tmp, in memory and of a capped size. It runs as an ordinary user without
capabilities or user namespaces; a seccomp filter refuses the calls that would get round a limit. When its first process
ends, or we do, the kernel ends all of its processes with their namespace.

The stack has no limit of its own: it may grow as far as the memory does, for deep recursion in C and Python.

What remains: the kernel itself (a sandbox is not a virtual machine); RLIMIT_AS counts each process, so `processes` x
`memory_mb` bounds the whole; names of folders on the way to the interpreter can be seen.

Sources: bwrap(1), prlimit(1), user_namespaces(7), seccomp(2), proc(5).
"""

from __future__ import annotations

import dataclasses
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Literal

from rewards.sandbox_view import ENVIRONMENT, SandboxError, View, places_of, tool, view_of
from rewards.seccomp import seccomp_filter

NOBODY = 65534
"""Who runs bwrap when the caller is root: RLIMIT_NPROC does not bind root."""

ENOUGH = "enough was seen"

_MB = 1 << 20
_AFTER_EXIT_S = 2.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use. Time in seconds; MB are 2**20 bytes.

    wall_s: the whole run. cpu_s, memory_mb (address space), open_files, file_mb (largest file): each process.
    processes: at one time, threads included. folder_mb: all that is in /tmp. output_bytes: each stream that we read.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 512
    processes: int = 64
    file_mb: int = 16
    folder_mb: int = 64
    open_files: int = 64
    output_bytes: int = _MB


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a program ended. status: its exit status, -n for signal n, None when we ended it.

    results: what it wrote to the results pipe, when it was given a job. limit: "", "wall time", "CPU time",
    "file size" or "output": the limit that ended it; ENOUGH where the caller had seen enough. (Too much memory fails
    inside: a MemoryError, a null pointer.)
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    results: bytes
    limit: str
    seconds: float


def run(
    argv: Sequence[str],
    *,
    job: bytes | None = None,
    limits: Limits | None = None,
    show: Literal["python", "compiler"] = "python",
    packages: tuple[str, ...] = (),
    enough: Callable[[bytearray], bool] | None = None,
    run_untrusted_code_without_sandbox: bool = False,
) -> Ran:
    """Run argv in a new sandbox and wait for it, at most limits.wall_s and a little.

        run([python(), "-I", "-c", "print(6 * 7)"]).stdout  ->  b"42\\n"

    job: bytes for the program to read. It comes on a descriptor of its own, as the results go by one: argv gets both
    numbers at its end. Never on 0, 1 and 2: bwrap's own process keeps those, and any program inside could open them in
    /proc/1/fd. show: what the program may see of the host. packages: installed ones that a Python program may see too.
    enough: given all results so far whenever there are more; the run ends when it says so.

    run_untrusted_code_without_sandbox: run it as a plain process of this user in a temporary folder, with the same
    limits but `processes` and `folder_mb`: it can read, write and send all that this user can.
    Raises SandboxError when the sandbox cannot start, TypeError unless the guard is exactly True or False: the text
    "False" would take it away.
    """
    if not isinstance(run_untrusted_code_without_sandbox, bool):
        raise TypeError(f"run_untrusted_code_without_sandbox={run_untrusted_code_without_sandbox!r}: is no bool")
    limits = limits or Limits()
    start = time.monotonic()
    given: list[int] = []
    pipes: dict[str, int] = {}
    try:
        if job is not None:
            given.append(_memory_file("job", job))
            pipes["results"], write_end = os.pipe()
            given.append(write_end)
            argv = [*argv, *map(str, given)]
        argv = [tool("prlimit"), *_rlimits(limits, sandboxed=not run_untrusted_code_without_sandbox), "--", *argv]
        if run_untrusted_code_without_sandbox:
            with tempfile.TemporaryDirectory(prefix="aha-code-", ignore_cleanup_errors=True) as folder:
                env = ENVIRONMENT | {"HOME": folder}
                status, streams, limit = _execute(argv, given, pipes, limits, enough, cwd=folder, env=env)
        else:
            pipes["status"], status_fd = os.pipe()
            given.append(status_fd)
            view = view_of(show, packages) if packages else view_of(show)
            command = _bwrap(limits, view, status_fd)
            if machine_filter := seccomp_filter():
                given.append(_memory_file("seccomp", machine_filter))
                command += ["--seccomp", str(given[-1])]
            command += ["--", *argv]
            status, streams, limit = _execute(command, given, pipes, limits, enough, cwd="/", env=ENVIRONMENT)
            if not limit and b'"exit-code"' not in streams["status"]:
                said = streams["stderr"].decode(errors="replace").strip()[-500:]
                raise SandboxError(f"bubblewrap could not start the program: {said or f'status {status}'}")
            status = 128 - status if status is not None and status > 128 else status
    finally:
        for fd in (*given, *pipes.values()):
            os.close(fd)
    ended_by = {-signal.SIGXCPU: "CPU time", -signal.SIGXFSZ: "file size"}
    limit = limit or ("" if status is None else ended_by.get(status, ""))
    results = streams.get("results", b"")
    return Ran(status, streams["stdout"], streams["stderr"], results, limit, time.monotonic() - start)


# ------------------------------------------------------------------------------------------------ the command


def _rlimits(limits: Limits, *, sandboxed: bool) -> list[str]:
    """prlimit's arguments. Soft and hard are the same, so that nothing can be raised; the CPU's hard one kills.

    The processes are counted in the sandbox's own user namespace. Outside one they would be all of the user's.
    """
    out = [f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}", f"--as={limits.memory_mb * _MB}", "--core=0"]
    out += [f"--fsize={limits.file_mb * _MB}", f"--nofile={limits.open_files}"]
    # "unlimited" where the host allows it: a number would also become the size of every thread's stack.
    highest = resource.getrlimit(resource.RLIMIT_STACK)[1]
    bounded = highest != resource.RLIM_INFINITY
    out += [f"--stack={min(highest, limits.memory_mb * _MB // 4)}" if bounded else "--stack=unlimited"]
    return [*out, f"--nproc={limits.processes}"] if sandboxed else out


def _bwrap(limits: Limits, view: View, status_fd: int) -> list[str]:
    isolation = "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --cap-drop ALL"
    command = [*_as_ordinary_user(view.private), tool("bwrap"), *isolation.split()]
    command += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--json-status-fd", str(status_fd)]
    command += [*view.arguments, "--proc", "/proc", "--perms", "0700", "--size", str(limits.folder_mb * _MB)]
    command += ["--tmpfs", "/tmp", "--chdir", "/tmp"]
    for name in ("null", "zero", "full", "random", "urandom"):  # --dev would add a /dev/shm without a size
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    command += ["--symlink", "/tmp", "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        command += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return [*command, "--remount-ro", "/"]


def _as_ordinary_user(private: tuple[str, ...]) -> list[str]:
    """What goes before bwrap: die with the caller from now on (bwrap asks for it late), and, as root, become NOBODY.

    private: folders and files that NOBODY cannot reach, but that bwrap is to show. They are first put on /mnt
    (places_of), in a mount namespace that ends with the run, so that nothing is copied and the host sees nothing of it.
    """
    dying = [tool("setpriv"), "--pdeathsig", "KILL"]
    if os.geteuid() != 0:
        return dying
    drop = [*dying, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if not private:
        return drop
    places = places_of(private)
    script = ""
    if len(places) > 1:
        make = ("mkdir" if os.path.isdir(path) else "touch" for path in private)
        script = "mount -t tmpfs -o size=64k,mode=755 aha /mnt && "
        script += "".join(f"{how} {place} && " for how, place in zip(make, places, strict=True))
    script += "".join(f'mount --bind "$1" {place} && shift && ' for place in places)
    command = [tool("unshare"), "--mount", "--propagation", "private", "/bin/sh", "-c", script + 'exec "$@"', "sh"]
    return [*command, *private, *drop]


# ------------------------------------------------------------------------------------------------ the process


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _execute(
    argv: Sequence[str],
    given: list[int],
    pipes: dict[str, int],
    limits: Limits,
    enough: Callable[[bytearray], bool] | None,
    *,
    cwd: str,
    env: dict[str, str],
) -> tuple[int | None, dict[str, bytes], str]:
    """Start argv and read its stdout, stderr and the pipes until it ends: its status, what they gave, the limit.

    given: descriptors that it gets; they are closed here and taken off the list.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=env,
        pass_fds=given,
        start_new_session=True,
    )
    with process:
        try:
            while given:
                os.close(given.pop())
            assert process.stdout is not None
            assert process.stderr is not None
            sources: dict[str, IO[bytes] | int] = {"stdout": process.stdout, "stderr": process.stderr, **pipes}
            streams, limit = _drain(process, sources, limits, enough)
        finally:
            _end(process)
    return (None if limit else process.returncode), streams, limit


def _drain(
    process: subprocess.Popen[bytes],
    sources: dict[str, IO[bytes] | int],
    limits: Limits,
    enough: Callable[[bytearray], bool] | None,
) -> tuple[dict[str, bytes], str]:
    found = {name: bytearray() for name in sources}
    deadline, exited = time.monotonic() + limits.wall_s, False
    exit_fd = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(exit_fd, selectors.EVENT_READ, "exit")
            for name, source in sources.items():
                selector.register(source, selectors.EVENT_READ, name)
            while len(selector.get_map()) > (0 if exited else 1):
                left = deadline - time.monotonic()
                if left <= 0:
                    # A process that outlives its parent can hold a pipe open; what was written has been read by now.
                    return _bytes(found), "" if exited else "wall time"
                for key, _ in selector.select(left):
                    if key.data == "exit":
                        exited, deadline = True, time.monotonic() + _AFTER_EXIT_S
                        selector.unregister(exit_fd)
                        _end(process)
                    elif chunk := os.read(key.fd, 1 << 16):
                        found[key.data] += chunk
                        if len(found[key.data]) > limits.output_bytes:
                            return _bytes(found), "output"
                        if enough and key.data == "results" and enough(found["results"]):
                            return _bytes(found), ENOUGH
                    else:
                        selector.unregister(key.fileobj)
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # it closed all its pipes and stays
                return _bytes(found), "wall time"
    finally:
        os.close(exit_fd)
    return _bytes(found), ""


def _bytes(found: dict[str, bytearray]) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in found.items()}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group. Inside bwrap all others go with it: their namespace ends."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended
