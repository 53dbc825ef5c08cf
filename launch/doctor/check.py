"""The result of a check, how checks are run in order, and how they are printed. Independent of what is checked."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from rl.types import AhaError

Table = tuple[tuple[str, ...], ...]


class Outcome(StrEnum):
    """SKIPPED: it does not apply to this recipe, or a check that it needs failed. WARNED: allowed, hardly wanted."""

    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check. measured: one line. cause, remedy: of a failure or warning. table: rows of cells."""

    outcome: Outcome
    measured: str
    cause: str = ""
    remedy: str = ""
    table: Table = ()
    name: str = ""
    seconds: float = 0.0


def passed(measured: str, table: Table = ()) -> Check:
    return Check(Outcome.PASSED, measured, table=table)


def warned(measured: str, cause: str, remedy: str) -> Check:
    return Check(Outcome.WARNED, measured, cause, remedy)


def failed(measured: str, cause: str, remedy: str, table: Table = ()) -> Check:
    return Check(Outcome.FAILED, measured, cause, remedy, table)


def skipped(why: str) -> Check:
    return Check(Outcome.SKIPPED, why)


@dataclass(frozen=True, slots=True)
class Probe:
    """A check to run. needs: the names of the probes that must pass first."""

    name: str
    make: Callable[[], Check]
    needs: tuple[str, ...] = ()


def run_probes(probes: Sequence[Probe]) -> Iterator[Check]:
    """Run the checks in order. One that raises fails with its error, and those that need it are skipped."""
    outcomes: dict[str, Outcome] = {}
    for probe in probes:
        missing = [name for name in probe.needs if outcomes[name] not in (Outcome.PASSED, Outcome.WARNED)]
        start = time.perf_counter()
        if missing:
            check = skipped(f"not run: it needs {missing[0]!r}")
        else:
            check = _make(probe)
        outcomes[probe.name] = check.outcome
        yield replace(check, name=probe.name, seconds=time.perf_counter() - start)


def _make(probe: Probe) -> Check:
    try:
        return probe.make()
    except AhaError as error:
        # The workers' own errors say what, where and what to do.
        return failed(" ".join(str(error).split()), "what this check tries does not work at all", "see the error above")


# ------------------------------------------------------------------------------------------------ printing

MARKS = {Outcome.PASSED: "ok  ", Outcome.WARNED: "warn", Outcome.FAILED: "FAIL", Outcome.SKIPPED: "--  "}
WIDTH, INDENT = 116, 6


def lines(check: Check) -> list[str]:
    """A check as lines of text, with its table, likely cause and remedy indented below it."""
    head = f"{MARKS[check.outcome]}  {check.name}: {check.measured}"
    out = textwrap.wrap(head, WIDTH, subsequent_indent=" " * INDENT, break_long_words=False)
    if check.seconds >= 0.1:
        out[-1] += f"  [{check.seconds:.1f} s]"
    if check.table:
        widths = [max(len(cell) for cell in column) for column in zip(*check.table, strict=True)]
        for row in check.table:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            out.append(" " * INDENT + "  ".join(cells))
    for label, text in (("likely cause", check.cause), ("what to do", check.remedy)):
        if text:
            start = " " * INDENT + f"{label}: "
            out += textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * (INDENT + 2))
    return out


def summary(checks: Sequence[Check]) -> str:
    """ "18 checks: 16 passed, 1 failed (template), 1 skipped"."""
    count = {outcome: [c.name for c in checks if c.outcome is outcome] for outcome in Outcome}
    bad = count[Outcome.FAILED]
    counts = f"{len(bad)} failed" + (f" ({', '.join(bad)})" if bad else "")
    doubtful = count[Outcome.WARNED]
    counts = f"{len(doubtful)} warned ({', '.join(doubtful)}), {counts}" if doubtful else counts
    return f"{len(checks)} checks: {len(count[Outcome.PASSED])} passed, {counts}, {len(count[Outcome.SKIPPED])} skipped"


def as_json(recipe: str, checks: Sequence[Check]) -> dict[str, object]:
    """For --json: {"recipe", "passed", "checks": [the fields of Check]}."""
    return {"recipe": recipe, "passed": all_passed(checks), "checks": [asdict(check) for check in checks]}


def all_passed(checks: Sequence[Check]) -> bool:
    return not any(check.outcome is Outcome.FAILED for check in checks)
