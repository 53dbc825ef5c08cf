"""The data of the page of one run, or of two side by side: everything that the scripts of page.html draw."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.report.chart_catalogue import ACCURACY, Chart
from launch.report.charts import Points, Section, Steady, points, sections, steady
from launch.report.compute import Plane, planes
from launch.report.html import Shown, write_page
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
from launch.report.step_columns import DeadGroups, Times, dead_groups, times
from rl.types import BadInput

ROLLOUT_BYTES = 5_500_000
SCRIPTS = (
    "dom.js",
    "chart.js",
    "overview.js",
    "compute.js",
    "curves.js",
    "timeline.js",
    "rollouts.js",
    "config.js",
    "frame.js",
    "main.js",
)


@dataclass(frozen=True, slots=True)
class RunPage:
    """What the page shows of one run."""

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
    planes: list[Plane]


@dataclass(frozen=True, slots=True)
class Page(Shown):
    """The page. differences: between the configs of two runs."""

    accuracy: Chart
    sections: list[Section]
    steady: list[Steady]
    runs: list[RunPage]
    differences: list[Difference]


def write_run_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or of two side by side. Returns its path.

    out: RUN/report.html by default, RUN/report-RUN_B.html for two. Raises BadInput when a folder holds no run, AhaError
    when a file of it is damaged or the page cannot be kept under 10 MB.
    """
    if not 1 <= len(run_dirs) <= 2:
        raise BadInput(f"aha report: expected one run folder or two, not {len(run_dirs)}")
    runs = [read_run(folder) for folder in run_dirs]
    if out is None:
        out = run_dirs[0] / ("report.html" if len(runs) == 1 else f"report-{run_dirs[1].resolve().name}.html")
    make = functools.partial(_page, runs)
    return write_page(out, make, SCRIPTS, ROLLOUT_BYTES // len(runs), 1000, "without rollouts")


def _page(runs: Sequence[Run], budget: int) -> Page:
    found = sections(runs)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # two folders with the same name: show where they are
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
        planes=planes(run.folder),
    )
