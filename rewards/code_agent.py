"""The agent: the program that the code reward runs in its sandbox.

It is the functions below and those of its children (rewards/code_child.py), sent as source, so that nothing of ours
needs to be seen inside. It forks a child a test, or one for all calls of a function, and hands on what the child gives.
No child can read or write the agent, nor open its descriptors in /proc: the agent is not dumpable (prctl(2),
ptrace(2)). What it means for a program to pass is not decided here: see rewards/code.py.
"""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found]
import gc
import inspect
import marshal
import os
import select
import site
import sys
import time
from collections.abc import Callable
from typing import Any

from rewards.code_child import (
    Job,
    RunningJob,
    _as_nodes,
    _call,
    _callee,
    _checker,
    _classes,
    _load,
    _node_class,
    _pack,
    _packed,
    _plain,
    _program,
    _report,
    _said,
    _send,
    _serve,
    _take,
    _unpack,
    _unpacked,
    _write,
)


def frame(value: Any) -> bytes:
    """A plain value as the agent reads it: 12 digits with its length, then marshal (only of what is ours)."""
    data = marshal.dumps(value)
    return b"%012d" % len(data) + data


def read_results(data: bytes) -> list[tuple[str, str]]:
    """What the agent sent, whole pairs only: ("ready", ""), then (failure, output) for each test that was run."""
    return next_results(data, 0)[0]


def next_results(data: bytes | bytearray, start: int) -> tuple[list[tuple[str, str]], int]:
    """The whole pairs from `start` on, and where the next one will begin."""
    found = []
    while data[start : start + 24].isdigit() and len(data) >= start + 24:
        middle = start + 24 + int(data[start : start + 12])
        end = middle + int(data[start + 12 : start + 24])
        if len(data) < end:
            break
        found.append((data[start + 24 : middle].decode(errors="replace"), data[middle:end].decode(errors="replace")))
        start = end
    return found, start


def _agent() -> bytes:
    """The compiled program that runs in the sandbox.

    It starts for every answer, so it comes compiled and imports little: json, signal, types and re each bring enum, and
    take longer than a test.
    """
    agent = (_run_tests, _prepare, _set_dumpable, _run_calls, _check, _fork, _watch, _why_ended, _memory_mb, _clear)
    common = (_take, _write, _report, _send, _said)
    candidate = (_load, _program, _callee, _call, _node_class, _as_nodes, _plain, _serve)
    parts = (*agent, *common, *candidate, _classes, _checker, _pack, _packed, _unpack, _unpacked)
    header = "from __future__ import annotations\nimport _ctypes, _signal, builtins, gc, os, select, site, time\n"
    body = "\n\n".join(inspect.getsource(part) for part in parts)
    return frame(compile(f"{header}\n{body}\n\n_run_tests(*map(int, sys.argv[1:]))\n", "<agent>", "exec"))


def _run_tests(job_fd: int, results_fd: int) -> None:
    """Run every test of the job; report "ready", then the failure and the output of each."""
    inherited = (job_fd, results_fd)
    job_fd, results_fd = map(os.dup, inherited)  # low numbers, which _fork closes in every child
    for fd in inherited:
        os.close(fd)
    sent: Job = _take(job_fd)
    job: RunningJob = {
        **sent,
        "first": compile(sent["starters"], "starters.py", "exec", dont_inherit=True),
        # Only in a process namespace of its own may it kill all that there is.
        "contained": os.readlink("/proc/self/ns/pid") != sent["host_pids"],
        "children": [],
    }
    _set_dumpable(0)
    _prepare(job)
    _report(results_fd, "ready", b"")
    if job["kind"] == "call":
        _run_calls(job, job_fd, results_fd)
        os._exit(0)
    for _ in range(job["count"]):
        if job["kind"] == "check":
            failure, output = _check(job, job_fd)
        else:
            failure, output = _watch(job, *_fork(job, _program, (_take(job_fd),)))
        _clear(job)
        _report(results_fd, failure, output)
        if failure and job["stop"]:
            break
    os._exit(0)


def _prepare(job: RunningJob) -> None:
    """What every child shares: the program, or the modules that it will import, loaded once."""
    if job["binary"]:
        with open("program", "wb") as file:
            file.write(job["binary"])
        os.chmod("program", 0o700)
    if job["kind"] != "io":
        import json  # noqa: F401
    sys.path += job["path"]
    for name in job["packages"]:
        try:
            __import__(name)
        except Exception:  # a package may raise anything while it loads; the candidate's own import then says why
            continue
    exec(job["first"], {})
    gc.freeze()  # a child that ends need not look through, and so copy, what it has from here
    site.setquit()  # exit() and quit(), which programs call; python -S starts without them, and much sooner


def _set_dumpable(value: int) -> None:
    """prctl(PR_SET_DUMPABLE), by what ctypes stands on: importing ctypes itself takes as long as a test."""
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]  # None: this process
    if _ctypes.call_function(prctl, (4, value, 0, 0, 0)):
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


def _run_calls(job: RunningJob, job_fd: int, results_fd: int) -> None:
    """Tests of a function: one child makes all the calls; when it dies or hangs, a new one goes on behind that test."""
    tests = [_take(job_fd) for _ in range(job["count"])]
    found = {"tests": 0, "failures": 0}

    def pass_on(data: bytes) -> int:
        """Report what is whole in the child's output, and return how much that is."""
        if not data[:24].isdigit() or len(data) < 24 or found["tests"] == job["count"]:
            return 0
        middle = 24 + int(data[:12])
        end = middle + int(data[12:24])
        if len(data) < end:
            return 0
        _write(results_fd, data[:end])
        found["tests"] += 1
        found["failures"] += middle > 24
        return end

    while found["tests"] < job["count"] and not (found["failures"] and job["stop"]):
        before = found["tests"]
        failure, _ = _watch(job, *_fork(job, _callee, (tests[before:],)), pass_on, job["count"] - before)
        _clear(job)
        if failure and found["tests"] < job["count"]:
            _report(results_fd, failure, b"")
            found["tests"] += 1
            found["failures"] += 1


def _check(job: RunningJob, job_fd: int) -> tuple[str, bytes]:
    """Run check() in one child and the candidate in another, which the first asks for values through pipes."""
    ask_read, ask_write = os.pipe()
    reply_read, reply_write = os.pipe()
    _, *unused = _fork(job, _serve, (ask_read, reply_write), keep=(ask_read, reply_write))
    os.close(ask_read)
    os.close(reply_write)
    test = _take(job_fd)
    pipes = (ask_write, reply_read)
    failure, output = _watch(job, *_fork(job, _checker, (test, *pipes), keep=pipes, dumpable=0))
    for fd in (*pipes, *unused):
        os.close(fd)
    return failure or ("" if output == b"passed" else "the check program ended early"), b""


def _fork(
    job: RunningJob,
    child: Callable[..., None],
    args: tuple[Any, ...],
    keep: tuple[int, ...] = (),
    dumpable: int = 1,
) -> tuple[int, int, int]:
    """Run child(job, out, *args) in a new process: its pid, and the pipes of what it gives and of its stderr.

    out: stdout itself for a program, a pipe of its own for values (stdout then goes nowhere). Of the descriptors it has
    no others than those in keep. It is dumpable again, since programs open /dev/stdin, which is in /proc/self/fd.
    """
    out_read, out_write = os.pipe()
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(out_write)
        os.close(error_write)
        job["children"].append(pid)
        return pid, out_read, error_read
    os.setsid()
    io = job["kind"] == "io"
    name = f".stdin-{os.getpid()}"  # two children may start at once
    stdin = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.unlink(name)
    with open(stdin, "wb", closefd=False) as file:
        file.write(args[0].encode(errors="replace") if io else b"")
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.dup2(out_write if io else os.open("/dev/null", os.O_WRONLY), 1)
    os.dup2(error_write, 2)
    for fd in {*range(3, 256)} - {*keep, out_write}:
        os.closerange(fd, fd + 1)
    if io:
        os.close(out_write)
    _set_dumpable(dumpable)
    child(job, 1 if io else out_write, *args)
    sys.exit(0)  # the interpreter ends as any does: it waits for threads, and flushes


def _watch(
    job: RunningJob,
    pid: int,
    out: int,
    error: int,
    pass_on: Callable[[bytes], int] | None = None,
    parts: int = 0,
) -> tuple[str, bytes]:
    """Read a child until it ends or exceeds a limit: why it failed, or "", and what it gave.

    pass_on: takes what it can of the output so far, in `parts` parts, and says how much; the time begins anew at each.
    """
    deadline = time.monotonic() + job["test_s"]
    ended, status, failure = os.pidfd_open(pid), None, ""
    found, pipes = {out: b"", error: b""}, {out, error}
    taken = 0
    while not failure:
        waiting = [*pipes, ended] if status is None else [*pipes]
        ready = select.select(waiting, [], [], 0.05 if status is None else 0)[0]
        for fd in pipes.intersection(ready):
            chunk = os.read(fd, 1 << 16)
            found[fd] = (found[fd] + chunk)[-4000:] if fd == error else found[fd] + chunk
            if not chunk:
                pipes.remove(fd)
        while pass_on and taken < parts and (size := pass_on(found[out])):
            found[out] = found[out][size:]
            taken += 1
            deadline = time.monotonic() + job["test_s"]
        if pass_on and taken == parts:
            break  # what it does after that is nobody's
        if len(found[out]) > job["output"]:
            failure = f"more than {job['output']} bytes of output"
        elif time.monotonic() > deadline:
            failure = f"the time limit of {job['test_s']:g} s"
        elif status is not None and not ready:
            break  # it has ended, and what it wrote has been read
        elif ended in ready:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        elif job["contained"] and _memory_mb() > 2 * job["memory_mb"]:
            failure = f"the memory limit of {job['memory_mb']} MB"
    for fd in (out, error, ended):
        os.close(fd)
    if not failure and taken < parts:
        failure = _why_ended(status, found[error]) or "it ended before the function returned"
    return failure or _why_ended(status, found[error]), found[out]


def _why_ended(status: int | None, said: bytes) -> str:
    """What a child's end means, "" for a good one."""
    if not status:
        return ""
    if status == -_signal.SIGXCPU:
        return "the limit of CPU time"
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines and status > 0 else f"it ended with status {status}"


def _memory_mb() -> int:
    """Memory in use by all other processes of the sandbox. What several share counts several times."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try:
                with open(f"/proc/{name}/statm") as file:
                    pages += int(file.read().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended since
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _clear(job: RunningJob) -> None:
    """Kill what the test left, and wait for it. Outside a sandbox: only the test's own sessions."""
    try:
        if job["contained"]:
            os.kill(-1, _signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing was left
    for pid in job["children"]:
        try:
            os.killpg(pid, _signal.SIGKILL)
        except ProcessLookupError:
            continue
    job["children"].clear()
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


AGENT = _agent()
"""The agent's program: the first frame of a job. Made once, at import: the file may change during a long run."""

START = "import marshal, os, sys; fd = int(sys.argv[1]); exec(marshal.loads(os.read(fd, int(os.read(fd, 12)))))"
"""What starts it: `python -S -c START job_fd results_fd`, by the interpreter that compiled it."""
