"""Code: does the program in the answer pass the hidden tests, run in a sandbox (rewards/sandbox.py)?

R1's rule for code: a compiler and a set of test cases judge it (Nature 10.1038/s41586-025-09422-z, Methods).

Three forms of tests, as a list or as JSON text:

    [{"input": "1 2\\n", "output": "3\\n"}, ...]   a program from stdin to stdout, compared line by line
    [{"call": [1, 2], "expected": 3}, ...]        a function (entry_point) and its arguments; a dict is by keyword
    "def check(candidate): assert ..."            HumanEval's form: a program with check(candidate)

Nothing that the candidate can reach decides. Expected outputs never enter the sandbox: the candidate's process only
gives values, as text, and this process compares them. check() runs inside, but in another process than the candidate,
which cannot read or write it: it gets plain values, so no object of the candidate's own with an == of its own.

What remains: arguments and results go by value (no generators, no changing an argument in place), and a name that the
check program uses but nobody defines (3 of HumanEval's 164) is taken from the candidate, unless `setup` defines it.
Without a sandbox none of this holds.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import ctypes
import inspect
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from rewards.extract import after_thinking, last_answer_part, opens_thinking
from rewards.sandbox import Limits, Ran, SandboxError, python, run
from rewards.types import WRONG, Score, correct, excerpt, unparseable, wrong

_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\s]*)[^`]*")
_TAGS = {"python": ("python", "py", "python3"), "c++": ("c++", "cpp", "cc", "cxx")}
_START_S = 5.0
_OUTPUT_PER_TEST = 1 << 20
_COMPILE = "g++ -O2 -std=c++17 -static -x c++ -o program /dev/fd/$0 1>&2 && cat program"
_COMPILE_LIMITS = Limits(wall_s=60, cpu_s=30, memory_mb=2048, file_mb=64, folder_mb=256, output_bytes=64 << 20)


class Outcome(NamedTuple):
    """What the sandbox says of one test. failure: why there is no output, or "". output: text on stdout, or JSON."""

    failure: str
    output: str


def code_accuracy(
    completion: str,
    *,
    prompt: str = "",
    answer: str = "",
    tests: object,
    entry_point: str = "",
    setup: str = "",
    language: str = "python",
    score: Literal["first_failure", "share"] = "first_failure",
    test_s: float = 5.0,
    total_s: float = 30.0,
    memory_mb: int = 512,
    run_untrusted_code_without_sandbox: bool = False,
    **columns: object,
) -> Score:
    """1 when the code in the completion passes all `tests`, else 0, or with score="share" the share that it passes.

    The code is the last fenced block of the answer (last_code). tests, entry_point: see above; language: "python", or
    "c++" for programs from stdin to stdout. setup: code that a check program may use, HumanEval's `prompt` for example.
    test_s, total_s: seconds for one test and for all; memory_mb: address space of a process.

        code_accuracy("```python\\nprint(int(input()) + 1)\\n```", tests=[{"input": "1", "output": "2"}])  ->  1.0

    Unparseable: no code. Wrong: a failed test, a limit exceeded included; the reason names the first one.
    Raises SandboxError when the code cannot be run safely, ValueError for tests of another form.
    """
    if language not in _TAGS:
        raise ValueError(f"language: {language!r} is none of {', '.join(_TAGS)}")
    if score not in ("first_failure", "share"):
        raise ValueError(f"score: {score!r} is neither 'first_failure' nor 'share'")
    kind, cases = read_tests(tests)
    if kind != "io" and (language != "python" or not entry_point):
        raise ValueError("tests that call a function need an entry_point and language='python'")
    text = after_thinking(completion, opened=opens_thinking(prompt))
    if text is None:
        return unparseable("the thinking never ends")
    part = last_answer_part(text)
    code = last_code(text if part is None else part, language)
    if code is None:
        return unparseable("no closed ``` block with code in it after the thinking")
    unsafe = run_untrusted_code_without_sandbox

    job: dict[str, object] = {"kind": kind, "entry_point": entry_point, "code": code, "binary": ""}
    if language == "c++":
        compiled = _compile(code, unsafe)
        if isinstance(compiled, str):
            return wrong(compiled)
        job |= {"binary": base64.b64encode(compiled).decode(), "code": ""}
    job |= {"count": len(cases), "stop": score == "first_failure", "test_s": test_s, "memory_mb": memory_mb}
    job |= {"output": _OUTPUT_PER_TEST, "host_pids": os.readlink("/proc/self/ns/pid")}
    inputs = [{"program": case, "setup": setup} if kind == "check" else case[0] for case in cases]
    limits = Limits(
        wall_s=_START_S + min(total_s, test_s * len(cases)),
        cpu_s=math.ceil(test_s) + 1,
        memory_mb=memory_mb,
        output_bytes=(len(cases) + 1) * 8 * _OUTPUT_PER_TEST,
    )
    argv = [python(), "-I", "-B", "-X", "utf8", "-c", _AGENT]
    payload = b"".join(_frame(part) for part in (job, *inputs))
    ran = run(argv, job=payload, limits=limits, run_untrusted_code_without_sandbox=unsafe)
    failures = [_judge(kind, case, outcome) for case, outcome in zip(cases, _outcomes(ran, len(cases)), strict=True)]
    passed = failures.count("")
    if passed == len(cases):
        return correct()
    first = next(i for i, failure in enumerate(failures) if failure)
    return Score(passed / len(cases) if score == "share" else 0.0, WRONG, f"test {first + 1}: {failures[first]}")


def read_tests(tests: object) -> tuple[str, list[Any]]:
    """The form ("io", "call" or "check") and the cases: (input, output), (arguments, expected), or check programs.

    '[{"input": "1", "output": "2"}]' -> ("io", [("1", "2")]). Raises ValueError.
    """
    if isinstance(tests, str):
        with contextlib.suppress(ValueError):  # a program, not JSON: looked at next
            tests = json.loads(tests)
    if isinstance(tests, str) and "def check(" in tests:
        return "check", [tests]
    if isinstance(tests, list) and tests and all(isinstance(test, dict) for test in tests):
        if all({"input", "output"} <= test.keys() for test in tests):
            return "io", [(str(test["input"]), str(test["output"])) for test in tests]
        if all({"call", "expected"} <= test.keys() for test in tests):
            calls = [json.loads(test["call"]) if isinstance(test["call"], str) else test["call"] for test in tests]
            if all(isinstance(call, list | dict) for call in calls):
                return "call", [(call, test["expected"]) for call, test in zip(calls, tests, strict=True)]
    raise ValueError(
        'tests: neither a list of {"input", "output"}, nor one of {"call": [...], "expected"}, nor a program with '
        f"check(candidate): {excerpt(str(tests))}"
    )


def last_code(text: str, language: str) -> str | None:
    """The last closed ``` block whose tag is the language's; without one, the last that has no tag; else None.

    "```py\\na\\n```\\n```\\nits output\\n```" -> "a\\n". A block of blanks does not count.
    """
    found: dict[bool, str] = {}
    ticks, tag, lines = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        match = _FENCE.fullmatch(line.rstrip())
        if not ticks:
            if match:
                ticks, tag, lines = match[1], match[2].lower(), []
        elif match and match[1].startswith(ticks) and not match[2]:
            if (tag in _TAGS[language] or not tag) and "".join(lines).strip():
                found[bool(tag)] = "".join(lines)
            ticks = ""
        else:
            lines.append(line)
    return found.get(True, found.get(False))


def same_lines(one: str, other: str) -> bool:
    """Whether two outputs are the same but for spaces inside and around lines, and blank lines at the end."""
    lines, others = ([" ".join(line.split()) for line in text.strip().splitlines()] for text in (one, other))
    return lines == others


def same_value(value: object, expected: object) -> bool:
    """Whether two decoded JSON values are equal. Numbers by value, floats to 1e-9 relative; true is not 1."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same_value(value[key], expected[key]) for key in expected)
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float) and float in (type(value), type(expected)):
        return _close(value, expected)
    return type(value) is type(expected) and value == expected


def _close(value: float, expected: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:  # an int beyond the floats
        return value == expected


def _judge(kind: str, case: Any, outcome: Outcome) -> str:
    """Why the test failed, or ""."""
    if outcome.failure or kind == "check":
        return outcome.failure
    given, expected = case
    if kind == "io":
        same, shown = same_lines(outcome.output, expected), outcome.output
    else:
        try:
            same, shown = same_value(json.loads(outcome.output), expected), outcome.output
        except (ValueError, RecursionError) as error:  # the candidate can write to this pipe whatever it likes
            return f"the result is not JSON that can be read: {error}"
    wanted = expected if kind == "io" else json.dumps(expected)
    return "" if same else f"{excerpt(shown)} is not {excerpt(wanted)} for {excerpt(str(given))}"


def _outcomes(ran: Ran, count: int) -> list[Outcome]:
    """One outcome a test; those that the run did not come to failed too. Raises SandboxError when it never began."""
    lines = ran.results.split(b"\n")[:-1]
    if not lines:
        raise SandboxError(
            f"the harness did not start: {ran.stderr.decode(errors='replace')[-500:]} (limit: {ran.limit})"
        )
    found = [Outcome(*json.loads(line)) for line in lines[1 : count + 1]]
    why = f"the limit of {ran.limit} for all tests" if ran.limit else "not run, or the program ended its harness"
    return found + [Outcome(why, "")] * (count - len(found))


def _compile(code: str, unsafe: bool) -> bytes | str:
    """The static executable, or why there is none. Raises SandboxError without g++ and static libraries."""
    libraries = ["libstdc++.a", "libc.a"]
    for library in libraries:
        try:
            asked = ["g++", f"-print-file-name={library}"]
            found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"language='c++' needs g++ (Debian, Ubuntu: apt-get install g++): {error}") from error
        if not os.path.isabs(found):
            raise SandboxError(f"language='c++' needs {library} (Fedora: dnf install libstdc++-static glibc-static)")
    ran = run(
        ["/bin/sh", "-c", _COMPILE],
        job=code.encode(errors="replace"),
        limits=_COMPILE_LIMITS,
        show="compiler",
        run_untrusted_code_without_sandbox=unsafe,
    )
    if ran.status == 0 and ran.stdout:
        return ran.stdout
    said = next((line for line in ran.stderr.decode(errors="replace").splitlines() if "error" in line), "")
    return f"it does not compile: {'the limit of ' + ran.limit if ran.limit else excerpt(said, 120)}"


def _frame(value: object) -> bytes:
    text = json.dumps(value).encode()
    return b"%012d" % len(text) + text


# ------------------------------------------------------------------------------ the agent: runs in the sandbox
#
# The agent is the functions below, sent as source. It forks a child a test, and hands on what the child gives. No
# child can read or write the agent, nor open its descriptors in /proc: the agent is not dumpable (prctl(2), ptrace(2)).


def _agent_source() -> str:
    """The program that runs in the sandbox: `python -c SOURCE job_fd results_fd`."""
    functions = (_take, _send, _run_tests, _check, _fork, _watch, _memory_mb, _clear, _candidate, _load)
    parts = (*functions, _serve, _checker, _pack, _unpack)
    header = "import base64, builtins, ctypes, json, os, select, signal, sys, time, types\n"
    hints = "from collections.abc import Callable\nfrom typing import Any\n"
    body = "\n\n".join(inspect.getsource(part) for part in parts)
    return f"from __future__ import annotations\n{header}{hints}\n{body}\n\n_run_tests(*map(int, sys.argv[1:]))\n"


def _take(fd: int) -> Any:
    """The next frame. Not a byte more is read: a candidate is forked before the check program is in this memory."""
    size = int(os.read(fd, 12))
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return json.loads(data)


def _send(fd: int, *values: Any) -> None:
    data = json.dumps(values).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def _run_tests(job_fd: int, results_fd: int) -> None:
    """Run every test of the job; send "ready", then [failure, output] for each."""
    inherited = (job_fd, results_fd)
    job_fd, results_fd = map(os.dup, inherited)  # low numbers, which _fork closes in every child
    for fd in inherited:
        os.close(fd)
    job = _take(job_fd)
    # Only in a process namespace of its own may it kill all that there is.
    job |= {"contained": os.readlink("/proc/self/ns/pid") != job["host_pids"], "children": []}
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    if job["binary"]:
        with open("program", "wb") as file:
            file.write(base64.b64decode(job.pop("binary")))
        os.chmod("program", 0o700)
    _send(results_fd, "ready")
    for _ in range(job["count"]):
        if job["kind"] == "check":
            failure, output = _check(job, job_fd)
        else:
            failure, output = _watch(job, *_fork(job, _candidate, (_take(job_fd),)))
        _clear(job)
        _send(results_fd, failure, output)
        if failure and job["stop"]:
            break
    os._exit(0)


def _check(job: dict[str, Any], job_fd: int) -> tuple[str, str]:
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
    return failure or ("" if output == "passed" else "the check program ended early"), ""


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
    ctypes.CDLL(None).prctl(4, dumpable, 0, 0, 0)
    child(job, 1 if io else out_write, *args)
    sys.exit(0)  # the interpreter ends as any does: it waits for threads, and flushes


def _watch(job: dict[str, Any], pid: int, out: int, error: int) -> tuple[str, str]:
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
        if status == -signal.SIGXCPU:
            failure = "the limit of CPU time"
    elif not failure and job["kind"] == "call" and not found[out]:
        failure = "it ended before the function returned"
    return failure, found[out].decode(errors="replace")


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
            os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing was left
    for pid in job["children"]:
        try:
            os.killpg(pid, signal.SIGKILL)
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
    data = json.dumps(function(**test) if isinstance(test, dict) else function(*test)).encode()
    while data:
        data = data[os.write(out, data) :]


def _load(job: dict[str, Any], name: str) -> Callable[[str], Any]:
    """Run the candidate's code as a module: what finds its functions, "f" or "Solution.f"."""
    module = types.ModuleType(name)
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

    scope = types.ModuleType("tests").__dict__
    exec(compile(test["setup"], "<setup>", "exec", dont_inherit=True), scope)
    candidate = scope[job["entry_point"]] = remote(job["entry_point"])
    codes = [compile(test["program"], "<tests>", "exec", dont_inherit=True)]
    program = codes[0]
    while codes:  # a name that nobody else defines is the candidate's
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
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


_AGENT = _agent_source()  # at import: linecache is not safe in threads, and the file may change during a long run
