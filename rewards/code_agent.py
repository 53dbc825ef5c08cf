"""The agent: the program that the code reward runs in its sandbox.

It is the functions below, sent as source, so that nothing of ours needs to be seen inside. It forks a child a test, and
hands on what the child gives. No child can read or write the agent, nor open its descriptors in /proc: the agent is not
dumpable (prctl(2), ptrace(2)). What it means for a program to pass is not decided here: see rewards/code.py.
"""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found]
import builtins
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


def frame(value: Any) -> bytes:
    """A plain value as the agent reads it: 12 digits with its length, then marshal (only of what is ours)."""
    data = marshal.dumps(value)
    return b"%012d" % len(data) + data


def read_results(data: bytes) -> list[tuple[str, str]]:
    """What the agent sent, whole pairs only: ("ready", ""), then (failure, output) for each test that was run."""
    found, start = [], 0
    while data[start : start + 24].isdigit() and len(data) >= start + 24:
        middle = start + 24 + int(data[start : start + 12])
        end = middle + int(data[start + 12 : start + 24])
        if len(data) < end:
            break
        found.append((data[start + 24 : middle].decode(errors="replace"), data[middle:end].decode(errors="replace")))
        start = end
    return found


def _agent() -> bytes:
    """The compiled program that runs in the sandbox.

    It starts for every answer, so it comes compiled and imports little: json, signal, types and re each bring enum, and
    take longer than a test.
    """
    agent = (_take, _write, _report, _send, _run_tests, _set_dumpable, _check, _fork, _watch, _memory_mb, _clear)
    parts = (*agent, _candidate, _load, _serve, _checker, _pack, _unpack)
    header = "from __future__ import annotations\nimport _ctypes, _signal, builtins, gc, os, select, site, time\n"
    body = "\n\n".join(inspect.getsource(part) for part in parts)
    return frame(compile(f"{header}\n{body}\n\n_run_tests(*map(int, sys.argv[1:]))\n", "<agent>", "exec"))


def _take(fd: int) -> Any:
    """The next frame. Not a byte more is read: a candidate is forked before the check program is in this memory."""
    size = int(os.read(fd, 12))
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return marshal.loads(data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _report(fd: int, failure: str, output: bytes) -> None:
    """One pair for read_results."""
    why = failure.encode(errors="replace")
    _write(fd, b"%012d%012d" % (len(why), len(output)) + why + output)


def _send(fd: int, *values: Any) -> None:
    """One line of JSON."""
    import json

    _write(fd, json.dumps(values).encode() + b"\n")


def _run_tests(job_fd: int, results_fd: int) -> None:
    """Run every test of the job; report "ready", then the failure and the output of each."""
    inherited = (job_fd, results_fd)
    job_fd, results_fd = map(os.dup, inherited)  # low numbers, which _fork closes in every child
    for fd in inherited:
        os.close(fd)
    job = _take(job_fd)
    # Only in a process namespace of its own may it kill all that there is.
    job |= {"contained": os.readlink("/proc/self/ns/pid") != job["host_pids"], "children": []}
    _set_dumpable(0)
    if job["binary"]:
        with open("program", "wb") as file:
            file.write(job.pop("binary"))
        os.chmod("program", 0o700)
    if job["kind"] != "io":
        import json  # noqa: F401  # once, for every child
    gc.freeze()  # a child that ends need not look through, and so copy, what it has from here
    site.setquit()  # exit() and quit(), which programs call; python -S starts without them, and much sooner
    _report(results_fd, "ready", b"")
    for _ in range(job["count"]):
        if job["kind"] == "check":
            failure, output = _check(job, job_fd)
        else:
            failure, output = _watch(job, *_fork(job, _candidate, (_take(job_fd),)))
        _clear(job)
        _report(results_fd, failure, output)
        if failure and job["stop"]:
            break
    os._exit(0)


def _set_dumpable(value: int) -> None:
    """prctl(PR_SET_DUMPABLE), by what ctypes stands on: importing ctypes itself takes as long as a test."""
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]  # None: this process
    if _ctypes.call_function(prctl, (4, value, 0, 0, 0)):
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


def _check(job: dict[str, Any], job_fd: int) -> tuple[str, bytes]:
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
    job: dict[str, Any],
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


def _watch(job: dict[str, Any], pid: int, out: int, error: int) -> tuple[str, bytes]:
    """Read a child until it ends or exceeds a limit: why it failed, or "", and what it gave."""
    deadline = time.monotonic() + job["test_s"]
    ended, status, failure = os.pidfd_open(pid), None, ""
    found, pipes = {out: b"", error: b""}, {out, error}
    while not failure:
        waiting = [*pipes, ended] if status is None else [*pipes]
        ready = select.select(waiting, [], [], 0.05 if status is None else 0)[0]
        for fd in pipes.intersection(ready):
            chunk = os.read(fd, 1 << 16)
            found[fd] = (found[fd] + chunk)[-4000:] if fd == error else found[fd] + chunk
            if not chunk:
                pipes.remove(fd)
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
    if status and not failure:
        said = found[error].decode(errors="replace").strip().splitlines()
        failure = said[-1][:300] if said and status > 0 else f"it ended with status {status}"
        if status == -_signal.SIGXCPU:
            failure = "the limit of CPU time"
    elif not failure and job["kind"] == "call" and not found[out]:
        failure = "it ended before the function returned"
    return failure, found[out]


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


def _clear(job: dict[str, Any]) -> None:
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


def _candidate(job: dict[str, Any], out: int, test: Any) -> None:
    """A test of a program, or of a function."""
    if "binary" not in job:
        os.execv("./program", ["program"])
    if job["kind"] == "io":
        _load(job, "__main__")
        return
    function = _load(job, "solution")(job["entry_point"])
    given = function(**test) if isinstance(test, dict) else function(*test)
    import json

    _write(out, json.dumps(given).encode())


def _load(job: dict[str, Any], name: str) -> Callable[[str], Any]:
    """Run the candidate's code as a module: what finds its functions, "f" or "Solution.f"."""
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = ["main.py"]
    exec(compile(job["code"], "main.py", "exec", dont_inherit=True), module.__dict__)

    def find(path: str) -> Any:
        found: Any = module
        for part in path.split("."):
            found = getattr(found() if isinstance(found, type) else found, part)
        return found

    return find


def _serve(job: dict[str, Any], out: int, ask_read: int, reply_write: int) -> None:
    """The candidate, for a check program: answer [name, args, kwargs] with [error, value], line by line."""
    import json

    os.dup2(1, 2)
    os.close(out)
    find, broken = None, ""
    try:
        find = _load(job, "solution")
    except BaseException as error:  # SystemExit too: whatever it is, the check program is told
        broken = f"{type(error).__name__}: {error}"
    with os.fdopen(ask_read, "rb") as questions:
        for line in questions:
            name, args, kwargs = json.loads(line)
            reply = [broken, "null"]
            if find is not None:
                try:
                    reply = ["", json.dumps(_pack(find(name)(*_unpack(args), **_unpack(kwargs))))]
                except BaseException as error:
                    reply = [f"{type(error).__name__}: {error}"[:1000], "null"]
            _send(reply_write, *reply)


def _checker(job: dict[str, Any], out: int, test: Any, ask_write: int, reply_read: int) -> None:
    """Run the check program on a stand-in for the candidate; write "passed" when check() returns."""
    import json

    replies = os.fdopen(reply_read, "rb")

    def remote(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _send(ask_write, name, _pack(list(args)), _pack(kwargs))
            line = replies.readline()
            if not line:
                raise RuntimeError("the program ended")
            error, value = json.loads(line)
            if error:
                raise RuntimeError(str(error))
            return _unpack(json.loads(value))

        return call

    scope = type(sys)("tests").__dict__
    exec(compile(test["setup"], "<setup>", "exec", dont_inherit=True), scope)
    candidate = scope[job["entry_point"]] = remote(job["entry_point"])
    codes = [compile(test["program"], "<tests>", "exec", dont_inherit=True)]
    program = codes[0]
    while codes:  # a name that nobody else defines is the candidate's
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, type(program))]
        for name in code.co_names:
            if name not in scope and name not in dir(builtins):
                scope[name] = remote(name)
    exec(program, scope)
    scope["check"](candidate)
    os.write(out, b"passed")


def _pack(value: Any) -> Any:
    """A plain value as JSON that keeps its type; TypeError for others. (1, {2}) -> {"t": [1, {"s": [2]}]}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_pack(item) for item in value]
    if isinstance(value, dict):
        return {"d": [[_pack(key), _pack(item)] for key, item in value.items()]}
    for tag, kind in (("t", tuple), ("s", set), ("f", frozenset), ("b", bytes)):
        if isinstance(value, kind):
            return {tag: [_pack(item) for item in value]}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    raise TypeError(f"a {type(value).__name__} cannot be handed to the check program")


def _unpack(value: Any) -> Any:
    """The value that _pack was given. Whatever the JSON holds, only plain values can come of it."""
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, items),) = value.items()
    items = _unpack(items)
    if tag == "c":
        return complex(*items)
    return {"d": dict, "t": tuple, "s": set, "f": frozenset, "b": bytes}[tag](items)


AGENT = _agent()
"""The agent's program: the first frame of a job. Made once, at import: the file may change during a long run."""

START = "import marshal, os, sys; fd = int(sys.argv[1]); exec(marshal.loads(os.read(fd, int(os.read(fd, 12)))))"
"""What starts it: `python -S -c START job_fd results_fd`, by the interpreter that compiled it."""
