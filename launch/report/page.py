"""The HTML file: page.html with its style, its scripts and its data inside. Rollouts stay inert.

The data is JSON in a script element that no browser runs. "<", ">" and "&" in it are escapes, so nothing in it can end
the element; the scripts put texts into the page as text nodes only; and a content security policy lets run, by their
hash, this file's own scripts alone, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from launch.report.charts import (
    ACCURACY,
    Chart,
    DeadGroups,
    Points,
    Section,
    Steady,
    Times,
    dead_groups,
    points,
    sections,
    steady,
    times,
)
from launch.report.reading import Json, Run, Setting, read_run
from launch.report.results import (
    Difference,
    Evaluation,
    Fact,
    Result,
    Shift,
    differences,
    evaluations,
    facts,
    results,
    shift,
)
from launch.report.rollouts import Rollouts, read_rollouts
from rl.types import AhaError, BadInput

MOST_BYTES = 10_000_000
ROLLOUT_BYTES = 5_500_000
SCRIPTS = ("dom.js", "chart.js", "overview.js", "curves.js", "timeline.js", "rollouts.js", "config.js", "main.js")


@dataclass(frozen=True, slots=True)
class RunPage:
    """Everything that the page shows of one run."""

    name: str
    model: str
    finished: bool
    facts: list[Fact]
    results: list[Result]
    shift: Shift | None
    evaluations: list[Evaluation]
    points: dict[str, Points]
    times: Times
    dead: DeadGroups | None
    rollouts: Rollouts
    settings: list[Setting]
    provenance: Json
    claims: Json


@dataclass(frozen=True, slots=True)
class Page:
    """written: Unix time. differences: of the configs of two runs."""

    title: str
    written: float
    accuracy: Chart
    sections: list[Section]
    steady: list[Steady]
    runs: list[RunPage]
    differences: list[Difference]


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of two side by side; returns its path. Whole or not there, at any moment.

    out: RUN/report.html by default, RUN/report-RUN_B.html for two. Raises BadInput when a folder holds no run, AhaError
    when a file of it is damaged or the page cannot be kept under 10 MB.
    """
    if not 1 <= len(run_dirs) <= 2:
        raise BadInput(f"aha report: expected one run folder or two, not {len(run_dirs)}")
    runs = [read_run(folder) for folder in run_dirs]
    if out is None:
        out = run_dirs[0] / ("report.html" if len(runs) == 1 else f"report-{run_dirs[1].resolve().name}.html")
    budget = ROLLOUT_BYTES // len(runs)
    text = render(_page(runs, budget))
    while len(text) > MOST_BYTES and budget > 1000:
        budget //= 2
        text = render(_page(runs, budget))
    if len(text) > MOST_BYTES:
        raise AhaError(
            f"{run_dirs[0]}: its report would take {len(text):,} bytes without rollouts; at most {MOST_BYTES:,}"
        )
    if not out.parent.is_dir():
        raise BadInput(f"{out}: no such folder as {out.parent}")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text)
    temporary.replace(out)
    return out


def _page(runs: Sequence[Run], budget: int) -> Page:
    found = sections(runs)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # two folders of one name: told apart by where they are
        names = [f"{run.name} ({'AB'[i]})" for i, run in enumerate(runs)]
    return Page(
        title=" and ".join(names),
        written=time.time(),
        accuracy=ACCURACY,
        sections=found,
        steady=steady(runs),
        runs=[_run_page(run, name, found, budget) for run, name in zip(runs, names, strict=True)],
        differences=differences(runs) if len(runs) > 1 else [],
    )


def _run_page(run: Run, name: str, found: Sequence[Section], budget: int) -> RunPage:
    return RunPage(
        name=name,
        model=run.model,
        finished=run.finished,
        facts=facts(run),
        results=results(run),
        shift=shift(run),
        evaluations=evaluations(run),
        points=points(run, found),
        times=times(run),
        dead=dead_groups(run),
        rollouts=read_rollouts(run, budget),
        settings=run.settings,
        provenance=run.provenance,
        claims=run.claims,
    )


def render(page: Page) -> bytes:
    """The file's bytes, UTF-8."""
    folder = files("launch.report")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'"
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(page.title),
        "STYLE": style,
        "DATA": inert_json(asdict(page)),
        "SCRIPT": script,
    }
    pieces = folder.joinpath("page.html").read_text(encoding="utf-8").split("@@")
    # Odd pieces are names. What is put in is not looked at again: a rollout may hold "@@TITLE@@".
    text = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inert_json(value: object) -> str:
    """JSON that holds no character with a meaning in HTML or JavaScript, nor one that files cannot hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029\x7f\ufeff":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
