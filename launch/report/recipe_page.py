"""The data of a recipe's page: claims, the chain of stages, all evaluations, and a section for each stage."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.report.chart_catalogue import ACCURACY, REWARD_ACCURACY, Chart
from launch.report.charts import MOST_POINTS, Points, Section, Steady, points, sections, steady
from launch.report.compute import Plane, planes
from launch.report.html import Shown, write_page
from launch.report.reading import Json, Run
from launch.report.recipe import Claims, Input, RecipeRun, StageRun, claims_of, evaluated_on, read_recipe
from launch.report.results import Fact, Value, thousands, value_of, warnings
from rl.records.terminal import duration
from rl.stage import MAKES_MODEL

SCRIPTS = (
    "dom.js", "chart.js", "overview.js", "compute.js", "timeline.js", "config.js", "frame.js", "chain.js", "stages.js",
    "recipe.js",
)  # fmt: skip
FIRST = ("Mean reward", "Length", "Cut at the limit", "Entropy", "Loss")
"""Charts of a GRPO stage that are open; the others are one click away. Other stages that train show all their own."""
LEAST_POINTS = 20


@dataclass(frozen=True, slots=True)
class Link:
    """A stage in the chain. done, total: training steps, 0 where there are none or they are not known.

    seconds: None before it began. sampled, trained: tokens.
    """

    name: str
    kind: str
    state: str
    inputs: list[Input]
    done: int
    total: int
    seconds: float | None
    sampled: int
    trained: int


@dataclass(frozen=True, slots=True)
class Measured:
    """An evaluation: of which model, when ("before", "after", or "" where there is one), its numbers by name."""

    stage: str
    model: str
    when: str
    problems: int
    samples: int
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Results:
    """Evaluations on the same data, in the order of the stages."""

    data: str
    rows: list[Measured]


@dataclass(frozen=True, slots=True)
class StagePart:
    """A stage's section. charts: open ones; more: the others. kept_share: of a rejection that still goes on.

    counted: yield.json or manifest.json.
    """

    name: str
    kind: str
    state: str
    folder: str
    facts: list[Fact]
    charts: list[Chart]
    more: list[Section]
    steady: list[Steady]
    points: dict[str, Points]
    kept_share: float | None
    counted: Json


@dataclass(frozen=True, slots=True)
class Compute:
    """Accuracy against compute of a stage that evaluates."""

    name: str
    planes: list[Plane]


@dataclass(frozen=True, slots=True)
class RecipePage(Shown):
    """What the scripts of page.html draw of a recipe. model: the last one made."""

    finished: bool
    facts: list[Fact]
    claims: list[Claims]
    chain: list[Link]
    left_out: list[str]
    results: list[Results]
    compute: list[Compute]
    stages: list[StagePart]
    model: str
    provenance: Json


def write_recipe_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a recipe's folder. Returns its path, by default report.html in the folder.

    Raises BadInput and AhaError like write_run_report.
    """
    make = functools.partial(recipe_page, read_recipe(folder))
    least = f"with {LEAST_POINTS} points a curve"
    return write_page(out or folder / "report.html", make, SCRIPTS, MOST_POINTS, LEAST_POINTS, least)


def recipe_page(run: RecipeRun, most_points: int = MOST_POINTS) -> RecipePage:
    """The page's data. most_points: of one curve."""
    model = run.last_model()
    return RecipePage(
        title=run.recipe.name,
        written=time.time(),
        finished=run.finished,
        facts=_facts(run),
        claims=claims_of(run),
        chain=[_link(s) for s in run.stages],
        left_out=run.left_out,
        results=_results(run.stages),
        compute=[Compute(s.stage.name, planes(s.run.folder)) for s in run.stages if s.run is not None],
        stages=[_part(s, s.run, most_points) for s in run.stages if s.run is not None and _has_section(s)],
        model=model.stage.name if model else "",
        provenance=model.run.provenance if model and model.run else None,
    )


def _facts(run: RecipeRun) -> list[Fact]:
    done, all_ = sum(s.state == "done" for s in run.stages), len(run.stages)
    out = [Fact("Stages", f"{done} of {all_}" if done < all_ else str(all_))]
    seconds = sum(s.seconds() or 0.0 for s in run.stages)
    sampled, trained = sum(s.sampled() for s in run.stages), sum(s.trained() for s in run.stages)
    out += [Fact("Time", duration(seconds))] if seconds else []
    out += [Fact("Tokens sampled", thousands(sampled))] if sampled else []
    out += [Fact("Tokens trained on", thousands(trained))] if trained else []
    return [*out, Fact("Seed", str(run.recipe.base.seed))]


def _link(s: StageRun) -> Link:
    done, total = s.steps()
    return Link(s.stage.name, s.kind, s.state, s.inputs(), done, total, s.seconds(), s.sampled(), s.trained())


def _results(stages: Iterable[StageRun]) -> list[Results]:
    """All evaluations, grouped by their data. Of a GRPO stage, the first and the last one."""
    out: dict[str, list[Measured]] = {}
    for s in stages:
        evals = s.run.of("eval") if s.run else []
        if s.run is None or not evals:
            continue
        ends = [evals[0]] if len(evals) == 1 else [evals[0], evals[-1]]
        for i, record in enumerate(ends):
            found = s.run.evaluations.get(record.step)
            trains = MAKES_MODEL in s.stage.makes
            when = "" if not trains else f"after step {record.step}" if i else "before"
            names = [name for name in record.metrics if not name.endswith("stderr")]
            measured = s.stage.name if trains else _model(s)
            values = {name: value_of(s.run, record, name) for name in names}
            problems, samples = (len(found.correct_P), found.samples) if found else (0, 0)
            row = Measured(s.stage.name, measured, when, problems, samples, values)
            out.setdefault(evaluated_on(s.stage), []).append(row)
    return [Results(data, rows) for data, rows in out.items()]


def _model(s: StageRun) -> str:
    """The model that the stage starts from or measures: a stage's name, or a model outside the recipe."""
    return next((read.stage for read in s.inputs() if read.role == "model"), s.run.model if s.run else "")


def _has_section(s: StageRun) -> bool:
    return bool(s.trains or s.stage.counts_in)


def _part(s: StageRun, run: Run, most_points: int) -> StagePart:
    found = sections([run])
    charts = [_plain(c) for x in found for c in x.charts if _is_first(s, x, c)]
    more = [Section(x.title, [_plain(c) for c in x.charts if not _is_first(s, x, c)]) for x in found]
    trains, file = s.trains, s.stage.counts_in
    rejected = run.of("reject")
    kept = [r.metrics["kept_share"] for r in rejected if "kept_share" in r.metrics]
    return StagePart(
        name=s.stage.name,
        kind=s.kind,
        state=s.state,
        folder=run.folder.name,
        facts=_stage_facts(s),
        charts=_accuracy(s, run) + charts if trains else [],
        more=[section for section in more if section.charts] if trains else [],
        steady=steady([run]),
        points=points(run, found, most_points) if trains else {},
        kept_share=sum(kept) / len(kept) if kept and s.state != "done" else None,
        counted=s.json(file) if file else None,
    )


def _is_first(s: StageRun, section: Section, chart: Chart) -> bool:
    return chart.title in FIRST if s.trains == "grpo" else section.title in ("SFT", "Reward model")


def _accuracy(s: StageRun, run: Run) -> list[Chart]:
    """The accuracy chart, without the hint on dots when nothing was held out; none if there is no accuracy."""
    without_dots = dataclasses.replace(ACCURACY, hint="Share of the samples that are correct.")
    return {"reward": [REWARD_ACCURACY], "grpo": [ACCURACY if run.of("eval") else without_dots]}.get(s.trains, [])


def _plain(chart: Chart) -> Chart:
    """The chart without the kind of stage in its title, which the section has already."""
    return dataclasses.replace(chart, title=chart.title.removesuffix(" (SFT)").removesuffix(" (reward model)"))


def _stage_facts(s: StageRun) -> list[Fact]:
    done, total = s.steps()
    seconds, sampled, trained = s.seconds(), s.sampled(), s.trained()
    out = [Fact("From", _model(s))] if _model(s) else []
    data = [read.stage for read in s.inputs() if read.role == "data"]
    out += [Fact("Data of", ", ".join(data))] if data else []
    if done:
        out.append(Fact("Steps", f"{done:,} of {total:,}" if done < total else f"{done:,}"))
    out += [Fact("Time", duration(seconds))] if seconds else []
    out += [Fact("Tokens sampled", thousands(sampled))] if sampled else []
    out += [Fact("Tokens trained on", thousands(trained))] if trained else []
    return out + (warnings(s.run) if s.run and s.trains == "grpo" else [])
