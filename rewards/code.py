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

import contextlib
import json
import math
import os
import re
import subprocess
from typing import Any, Literal, NamedTuple

from rewards.code_agent import AGENT, START, frame, read_results
from rewards.extract import after_thinking, last_answer_part, opens_thinking
from rewards.sandbox import Limits, Ran, run
from rewards.sandbox_view import SandboxError, python
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

    The code is the last fenced block of the answer (last_code).
    From the row: tests, entry_point, see above; language, "python", or "c++" for programs from stdin to stdout; setup,
    code that a check program may use, HumanEval's `prompt` for example.
    Settings: score; test_s, total_s, seconds for one test and for all; memory_mb, the address space of a process;
    run_untrusted_code_without_sandbox, which lets the code do to this machine whatever it likes.

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

    job: dict[str, object] = {"kind": kind, "entry_point": entry_point, "code": code, "binary": b""}
    if language == "c++":
        compiled = _compile(code, unsafe)
        if isinstance(compiled, str):
            return wrong(compiled)
        job |= {"binary": compiled, "code": ""}
    job |= {"count": len(cases), "stop": score == "first_failure", "test_s": test_s, "memory_mb": memory_mb}
    job |= {"output": _OUTPUT_PER_TEST, "host_pids": os.readlink("/proc/self/ns/pid")}
    inputs = [{"program": case, "setup": setup} if kind == "check" else case[0] for case in cases]
    limits = Limits(
        wall_s=_START_S + min(total_s, test_s * len(cases)),
        cpu_s=math.ceil(test_s) + 1,
        memory_mb=memory_mb,
        output_bytes=(len(cases) + 1) * 8 * _OUTPUT_PER_TEST,
    )
    argv = [python(), "-I", "-S", "-B", "-X", "utf8", "-c", START]
    payload = AGENT + b"".join(frame(part) for part in (job, *inputs))
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
    pairs = read_results(ran.results)
    if not pairs:
        raise SandboxError(
            f"the harness did not start: {ran.stderr.decode(errors='replace')[-500:]} (limit: {ran.limit})"
        )
    found = [Outcome(*pair) for pair in pairs[1 : count + 1]]
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
