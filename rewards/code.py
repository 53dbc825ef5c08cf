"""Code: does the program in the answer pass the hidden tests, run in a sandbox (rewards/sandbox.py)?

R1's rule for code: a compiler and a set of test cases decide (Nature 10.1038/s41586-025-09422-z, Methods).

Three forms of tests, as a list or as JSON text:

    [{"input": "1 2\\n", "output": "3\\n"}, ...]   a program from stdin to stdout, compared line by line
    [{"call": [1, 2], "expected": 3}, ...]        a function (entry_point) and its arguments; a dict is by keyword
    "def check(candidate): assert ..."            HumanEval's form: a program with check(candidate)

Numbers in printed lines compare as numbers (rewards/code_compare.py). Where several outputs are right, the row's
checker decides: a program with check(input, output, expected), which returns whether the output is right.

Starter names (List, defaultdict, ListNode, ...: rewards/code_starters.py) and the row's setup come before the
candidate's own code in every form. Linked lists and trees are written as LeetCode writes them where the function's
parameters ask for a ListNode or a TreeNode: [1, 2, 3], and level by level with null for none.

Nothing that the candidate can reach decides. Expected outputs never enter its sandbox: the candidate's process only
gives values, as text, and this process compares them. check() runs inside, but in another process than the candidate,
which cannot read or write it: it gets plain values, so no object of the candidate's own with an == of its own. (Objects
of a class that setup defines arrive as objects of the check program's own class.) A checker runs in another sandbox.

What remains: arguments and results go by value (no generators, no changing an argument in place), and a name that the
check program uses but nobody defines (3 of HumanEval's 164) is taken from the candidate, unless `setup` defines it. The
candidate can read setup: it is no place for a solution. Without a sandbox none of this holds.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any, Literal

from rewards.code_compare import TOLERANCE, same_lines, same_output, same_value
from rewards.code_run import Comparison, Harness, Outcome, Program
from rewards.code_tests import TAGS, language_of, read_json, read_tests, shown
from rewards.extract import after_thinking, last_answer_part, opens_thinking
from rewards.sandbox import Limits, run
from rewards.sandbox_view import SandboxError
from rewards.types import WRONG, Score, correct, excerpt, unparseable, wrong

_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\s]*)[^`]*")
_COMPILE = "g++ -O2 -std=c++17 -static -x c++ -o program /dev/fd/$0 1>&2 && cat program"
_COMPILE_LIMITS = Limits(wall_s=60, cpu_s=30, memory_mb=2048, file_mb=64, folder_mb=256, output_bytes=64 << 20)


def code_accuracy(
    completion: str,
    *,
    prompt: str = "",
    answer: str = "",
    tests: object,
    entry_point: str | None = "",
    setup: str | None = "",
    checker: str | None = "",
    language: str | None = "python",
    score: Literal["first_failure", "share"] = "first_failure",
    numbers: bool = True,
    tolerance: float = TOLERANCE,
    packages: Sequence[str] = (),
    test_s: float = 5.0,
    total_s: float = 30.0,
    memory_mb: int = 512,
    run_untrusted_code_without_sandbox: bool = False,
    **columns: object,
) -> Score:
    """1 when the code in the completion passes all `tests`, else 0, or with score="share" the share that it passes.

    The code is the last fenced block of the answer (last_code).
    From the row: tests, entry_point ("f", "Solution.f"), checker, see above; language, "python", or "c++" for programs
    from stdin to stdout; setup, code that runs before the candidate's and the check program's, HumanEval's `prompt` for
    example.
    Settings: score; numbers, whether numbers in printed lines compare as numbers, those with a fraction to the relative
    tolerance; packages, installed ones that programs may import, as ["numpy"]; test_s, total_s, seconds for one test
    and for all; memory_mb, the address space of a process, its stack included;
    run_untrusted_code_without_sandbox, which lets the code do to this machine whatever it likes.

        code_accuracy("```python\\nprint(int(input()) + 1)\\n```", tests=[{"input": "1", "output": "2"}])  ->  1.0

    Unparseable: no code. Wrong: a failed test, a limit exceeded included; the reason names the first one.
    Raises SandboxError when the code cannot be run safely, ValueError for tests of another form.
    """
    language = language_of(language)
    if score not in ("first_failure", "share"):
        raise ValueError(f"score: {score!r} is neither 'first_failure' nor 'share'")
    kind, cases = read_tests(tests)
    if kind != "io" and (language != "python" or not entry_point):
        raise ValueError("tests that call a function need an entry_point and language='python'")
    if kind != "io" and checker:
        raise ValueError("checker: it is for what programs print, but these tests are of a function")
    text = after_thinking(completion, opened=opens_thinking(prompt))
    if text is None:
        return unparseable("the thinking never ends")
    part = last_answer_part(text)
    code = last_code(text if part is None else part, language)
    if code is None:
        return unparseable("no closed ``` block with code in it after the thinking")

    program = Program(kind, code, entry_point or "", setup or "")
    if language == "c++":
        compiled = _compile(f"{setup or ''}\n{code}", run_untrusted_code_without_sandbox)
        if isinstance(compiled, str):
            return wrong(compiled)
        program = Program(kind, "", binary=compiled)
    stop, unsafe = score == "first_failure", run_untrusted_code_without_sandbox
    harness = Harness(test_s, total_s, memory_mb, tuple(packages), stop, unsafe)
    if checker:
        outcomes = _checked(checker, cases, harness.run(program, cases, lambda case, output: ""), harness)
    else:
        outcomes = harness.run(program, cases, _comparison_of(kind, tolerance if numbers else None))
    failures = [outcome.failure for outcome in outcomes]
    passed = failures.count("")
    if passed == len(cases):
        return correct()
    first = next(i for i, failure in enumerate(failures) if failure)
    return Score(passed / len(cases) if score == "share" else 0.0, WRONG, f"test {first + 1}: {failures[first]}")


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
            if (tag in TAGS[language] or not tag) and "".join(lines).strip():
                found[bool(tag)] = "".join(lines)
            ticks = ""
        else:
            lines.append(line)
    return found.get(True, found.get(False))


def _comparison_of(kind: str, tolerance: float | None) -> Comparison:
    """What compares the outputs of these tests with the expected ones. tolerance: of numbers in
    printed lines; None: they are text.
    """

    def printed(case: tuple[str, str], output: str) -> str:
        given, expected = case
        same = same_lines(output, expected) if tolerance is None else same_output(output, expected, tolerance)
        return "" if same else f"{excerpt(output)} is not {excerpt(expected)} for {excerpt(given)}"

    def returned(case: tuple[Any, Any], output: str) -> str:
        given, expected = case
        try:
            same = same_value(read_json(output), expected)
        except (ValueError, RecursionError) as error:  # the candidate can write to this pipe whatever it likes
            return f"the result is not JSON that can be read: {error}"
        return "" if same else f"{excerpt(output)} is not {excerpt(shown(expected))} for {excerpt(shown(given))}"

    return {"io": printed, "call": returned, "check": lambda case, output: ""}[kind]


def _checked(checker: str, cases: list[Any], outcomes: list[Outcome], harness: Harness) -> list[Outcome]:
    """The outcomes with the checker's verdicts on what was printed. It runs as a function does, in a new sandbox."""
    asked = [i for i, outcome in enumerate(outcomes) if not outcome.failure]
    questions = [([cases[i][0], outcomes[i].output, cases[i][1]], True) for i in asked]

    def verdict(case: Any, output: str) -> str:
        (given, printed, _), _ = case
        right = output in ("true", "1", "1.0")
        return (
            "" if right else f"the checker refuses {excerpt(printed)} for {excerpt(given)}: it says {excerpt(output)}"
        )

    found = list(outcomes)
    if questions:
        answers = harness.run(Program("call", checker, "check"), questions, verdict)
        for i, outcome in zip(asked, answers, strict=True):
            why = outcome.failure
            found[i] = Outcome(why if not why or why.startswith("the checker") else f"the checker: {why}", "")
    return found


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
