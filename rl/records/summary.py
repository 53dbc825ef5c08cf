"""The end of a run: summary.json, and in the terminal a table of accuracy before and after."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Gain:
    """A share of problems before and after, from 0 to 1, and after - before; each with its standard error."""

    label: str
    before: float
    before_stderr: float
    after: float
    after_stderr: float
    difference: float
    stderr: float


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
    gains: Sequence[Gain] = (),
    warning: str = "",
    console: Console | None = None,
) -> Path:
    """Write summary.txt and summary.json into run_dir and print the table. Returns the path of summary.json.

    seconds: phase -> seconds. before, after: None when held-out accuracy was not measured. gains: of the measures that
    both evaluations have, pass@1 first. warning: what the user should know of the run beside its numbers.
    """
    summary = {
        "before": before.as_json() if before else None,
        "after": after.as_json() if after else None,
        "steps": steps,
        "seconds": dict(seconds),
        "name": name,
        "model": model,
        "seed": seed,
        "gain": gains[0].difference if gains else None,
        "gain_stderr": gains[0].stderr if gains else None,
    } | ({"warning": warning} if warning else {})
    table = _table(f"{name}: {model}, seed {seed}, {steps} GRPO steps", before, after, gains)
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


def _table(title: str, before: Measured | None, after: Measured | None, gains: Sequence[Gain]) -> Table:
    table = Table(title=title, title_justify="left", caption="± one standard error", caption_justify="left")
    table.add_column("held-out accuracy, %")
    for column in ("before", "after", "gain, points"):
        table.add_column(column, justify="right")
    if not gains:  # one evaluation, or none
        shown = [percent(m.pass_at_1, m.stderr) if m else "–" for m in (before, after)]
        table.add_row("pass@1, sampled", *shown, "–")
    for g in gains:
        sides = percent(g.before, g.before_stderr), percent(g.after, g.after_stderr)
        table.add_row(g.label, *sides, percent(g.difference, g.stderr, "+"))
    return table


def percent(share: float, stderr: float = math.nan, sign: str = "") -> str:
    """Share 0.75 with standard error 0.0348 -> "75.0 ± 3.5"; an unknown error is left out."""
    return f"{100 * share:{sign}.1f}" + ("" if math.isnan(stderr) else f" ± {100 * stderr:.1f}")


def _phases(seconds: Mapping[str, float]) -> str:
    """ "Time: rollout 120 s (60 %), ..." """
    total = sum(seconds.values())
    if not total:
        return "Time: not measured"
    parts = [f"{phase} {value:,.0f} s ({value / total:.0%})" for phase, value in seconds.items()]
    return f"Time: {', '.join(parts)}; {total:,.0f} s in all"
