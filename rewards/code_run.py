"""One answer's program against its tests, in a sandbox: what each test gave, and whether that is right.

The program runs inside, under the agent (rewards/code_agent.py); what is right is decided here, test by test while the
others run, so that a run ends at the first wrong value where that settles it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rewards.code_agent import AGENT, START, frame, next_results
from rewards.code_child import CheckTest, Job
from rewards.code_starters import mentioned, node_classes, starters
from rewards.code_tests import OUTPUT_BYTES
from rewards.sandbox import ENOUGH, Limits, run
from rewards.sandbox_view import PACKAGES, SandboxError, package_paths, python

Comparison = Callable[[Any, str], str]
"""(case, output) -> why the output is wrong, or ""."""

_START_S = 5.0
_RECURSION_A_MB = 1000
"""Calls of Python functions within one another: each takes under a kilobyte."""


class Outcome(NamedTuple):
    """One test. failure: why it failed, or "". output: text on stdout, or JSON."""

    failure: str
    output: str


@dataclass(frozen=True)
class Program:
    """What is run. kind: the form of its tests. setup: the row's code, which runs before its own. binary: of C++."""

    kind: str
    code: str
    entry_point: str = ""
    setup: str = ""
    binary: bytes = b""


@dataclass(frozen=True)
class Harness:
    """How programs are run. test_s, total_s: seconds for one test and for all. memory_mb: address space of a process.

    packages: installed ones that programs may import. stop: end at the first failure. unsafe: without a sandbox.
    """

    test_s: float
    total_s: float
    memory_mb: int
    packages: tuple[str, ...]
    stop: bool
    unsafe: bool

    def run(self, program: Program, cases: Sequence[Any], compare: Comparison) -> list[Outcome]:
        """One outcome a test; those that the run did not come to failed too. Raises SandboxError when none began."""
        found: list[Outcome] = []
        started, position = False, 0

        def enough(results: bytearray) -> bool:
            nonlocal started, position
            pairs, position = next_results(results, position)
            for failure, output in pairs if started else pairs[1:]:
                if len(found) < len(cases):
                    found.append(Outcome(failure or compare(cases[len(found)], output), output))
            started = started or bool(pairs)
            return self.stop and any(outcome.failure for outcome in found)

        seconds = min(self.total_s, self.test_s * len(cases))
        limits = Limits(
            wall_s=_START_S + seconds,
            cpu_s=math.ceil(seconds if program.kind == "call" else self.test_s) + 1,
            memory_mb=self.memory_mb,
            output_bytes=(len(cases) + 1) * 8 * OUTPUT_BYTES,
        )
        argv = [python(), "-I", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0", "-c", START]
        ran = run(
            argv, job=AGENT + b"".join(frame(part) for part in self._parts(program, cases)), limits=limits,
            packages=self.packages, enough=enough, run_untrusted_code_without_sandbox=self.unsafe,
        )  # fmt: skip
        if not started:
            said = ran.stderr.decode(errors="replace")[-500:]
            raise SandboxError(f"the harness did not start: {said} (limit: {ran.limit})")
        why = "not run, or the program ended its harness"
        if ran.limit:
            why = "not run" if ran.limit == ENOUGH else f"the limit of {ran.limit} for all tests"
        return found + [Outcome(why, "")] * (len(cases) - len(found))

    def _parts(self, program: Program, cases: Sequence[Any]) -> list[object]:
        """The agent's job, and the part of each test that may enter the sandbox."""
        own = [program.code, program.setup]
        checks = [*own, *cases] if program.kind == "check" else own
        paths = {str(path.parent) for name in self.packages for path in package_paths(name)}
        job: Job = {
            "kind": program.kind, "entry_point": program.entry_point, "code": program.code, "binary": program.binary,
            "setup": program.setup, "starters": starters(own), "nodes": node_classes(program.setup),
            "packages": mentioned(self.packages, checks), "path": sorted(paths) if self.unsafe else [PACKAGES],
            "count": len(cases), "stop": self.stop, "test_s": self.test_s, "memory_mb": self.memory_mb,
            "recursion": self.memory_mb * _RECURSION_A_MB, "output": OUTPUT_BYTES,
            "host_pids": os.readlink("/proc/self/ns/pid"),
        }  # fmt: skip
        if program.kind == "check":
            tests: list[CheckTest] = [{"program": case, "starters": starters([program.setup, case])} for case in cases]
            return [job, *tests]
        return [job, *(given for given, _ in cases)]
