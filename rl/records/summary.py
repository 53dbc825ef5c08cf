"""The end of a run: summary.json, and in the terminal a table of accuracy before and after."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rl.records.whole_files import write_json, write_whole


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out accuracy as shares from 0 to 1. stderr: of pass_at_1. greedy: None when it was not measured."""

    pass_at_1: float
    stderr: float
    greedy: float | None = None

    def as_json(self) -> dict[str, float | None]:
        return {"pass@1": self.pass_at_1, "stderr": self.stderr, "greedy": self.greedy}


def write_summary(
    run_dir: Path,
    *,
    name: str,
    model: str,
    seed: int,
    before: Measured | None,
    after: Measured | None,
    steps: int,
    seconds: Mapping[str, float],
    gain_stderr: float | None = None,
    warning: str = "",
    console: Console | None = None,
) -> Path:
    """Write summary.txt and summary.json into run_dir and print the table. Returns the path of summary.json.

    seconds: phase -> seconds. before, after: None when held-out accuracy was not measured. gain_stderr: the standard
    error of after - before, computed from pairs of the same problems. None treats the two as independent, which gives a
    larger error and so is on the safe side. warning: what the user should know of the run beside its numbers.
    """
    gain = after.pass_at_1 - before.pass_at_1 if before and after else None
    if before and after and gain_stderr is None:
        gain_stderr = math.hypot(before.stderr, after.stderr)
    summary = {
        "before": before.as_json() if before else None,
        "after": after.as_json() if after else None,
        "steps": steps,
        "seconds": dict(seconds),
        "name": name,
        "model": model,
        "seed": seed,
        "gain": gain,
        "gain_stderr": gain_stderr,
    } | ({"warning": warning} if warning else {})
    table = _table(f"{name}: {model}, seed {seed}, {steps} GRPO steps", before, after, gain, gain_stderr)
    lines = [*([f"Warning: {warning}"] if warning else []), _phases(seconds), f"Everything is in {run_dir}"]
    text = io.StringIO()
    for out in (Console(file=text, width=100), console or Console()):
        out.print(table)
        for line in lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    write_whole(run_dir / "summary.txt", text.getvalue())
    # Last, because the run is complete once this file exists.
    path = run_dir / "summary.json"
    write_json(path, summary)
    return path


def _table(
    title: str, before: Measured | None, after: Measured | None, gain: float | None, gain_stderr: float | None
) -> Table:
    def cell(value: float | None, stderr: float | None, form: str = ".1f") -> str:
        if value is None:
            return "–"
        return f"{100 * value:{form}}" + (f" ± {100 * stderr:.1f}" if stderr is not None else "")

    table = Table(title=title, title_justify="left", caption="± one standard error", caption_justify="left")
    table.add_column("held-out accuracy, %")
    for column in ("before", "after", "gain, points"):
        table.add_column(column, justify="right")
    first, last = before or Measured(math.nan, math.nan), after or Measured(math.nan, math.nan)
    table.add_row(
        "pass@1, sampled",
        cell(first.pass_at_1 if before else None, first.stderr),
        cell(last.pass_at_1 if after else None, last.stderr),
        cell(gain, gain_stderr, "+.1f"),
    )
    if first.greedy is not None or last.greedy is not None:
        both = first.greedy is not None and last.greedy is not None
        greedy_gain = (last.greedy or 0.0) - (first.greedy or 0.0) if both else None
        table.add_row("greedy", cell(first.greedy, None), cell(last.greedy, None), cell(greedy_gain, None, "+.1f"))
    return table


def _phases(seconds: Mapping[str, float]) -> str:
    """ "Time: rollout 120 s (60 %), ..." """
    total = sum(seconds.values())
    if not total:
        return "Time: not measured"
    parts = [f"{phase} {value:,.0f} s ({value / total:.0%})" for phase, value in seconds.items()]
    return f"Time: {', '.join(parts)}; {total:,.0f} s in all"
