"""Where the time of a run went, step by step, and how many groups taught nothing: drawn as stacked columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from launch.report.charts import short
from launch.report.reading import Record, Run
from rl.records.metrics_file import phases

MOST_COLUMNS = 160


@dataclass(frozen=True, slots=True)
class Column:
    """A stacked column: means over steps first..last, of the seconds of each phase or of shares of groups."""

    first: int
    last: int
    parts: list[float]


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """count of groups, dead among them. columns: shares of groups that are dead: all correct, none, another reason."""

    count: int
    dead: int
    columns: list[Column]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of wall-clock time in one stage, seconds since the run's first record began."""

    stage: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One kind of worker beside another. columns: seconds of a step at work and idle. work, idle: in all."""

    name: str
    columns: list[Column]
    work: float
    idle: float


@dataclass(frozen=True, slots=True)
class Times:
    """lanes: learners and samplers, of a run in which they work at the same time; else none."""

    phases: list[str]
    columns: list[Column]
    spans: list[Span]
    totals: dict[str, float]
    lanes: list[Lane]


def times(run: Run) -> Times:
    """How the time was spent: per GRPO step by phase, along the wall clock, and in all."""
    steps = [(r.step, phases(r.seconds, r.metrics)) for r in run.of("grpo")]
    names = list(dict.fromkeys(name for _, seconds in steps for name in seconds))
    columns = _columns([(step, [seconds.get(name, 0.0) for name in names]) for step, seconds in steps])
    return Times(names, columns, _spans(run.records), run.seconds or _totals(run), _lanes(run))


def _lanes(run: Run) -> list[Lane]:
    steps = [r for r in run.of("grpo") if "samplers/busy_s" in r.metrics]
    worked = {"learners": "seconds/update", "samplers": "samplers/busy_s"}
    lanes = []
    for name, metric in worked.items() if steps else ():
        work = [min(r.seconds, r.metrics.get(metric, 0.0)) for r in steps]
        idle = [r.seconds - at_work for r, at_work in zip(steps, work, strict=True)]
        columns = _columns([(r.step, [w, i]) for r, w, i in zip(steps, work, idle, strict=True)])
        lanes.append(Lane(name, columns, round(sum(work), 2), round(sum(idle), 2)))
    return lanes


def _columns(steps: Sequence[tuple[int, list[float]]]) -> list[Column]:
    """Steps pooled with their neighbours into at most MOST_COLUMNS columns."""
    width = -(-len(steps) // MOST_COLUMNS) or 1
    out = []
    for i in range(0, len(steps), width):
        some = steps[i : i + width]
        means = [short(fmean(values)) for values in zip(*(parts for _, parts in some), strict=True)]
        out.append(Column(some[0][0], some[-1][0], means))
    return out


def dead_groups(run: Run) -> DeadGroups | None:
    """The groups without a gradient; None when no step counted them."""
    counted = [r for r in run.of("grpo") if "groups/uniform_share" in r.metrics]
    if not counted:
        return None
    count = sum(r.metrics.get("groups/count", 0.0) for r in counted)
    dead = sum(r.metrics.get("groups/count", 0.0) * r.metrics["groups/uniform_share"] for r in counted)
    steps = []
    for r in counted:
        left = r.metrics["groups/uniform_share"]
        # A group may be all correct and still differ in another part of the reward: then it is not dead.
        good = min(left, r.metrics.get("groups/all_correct_share", 0.0))
        bad = min(left - good, r.metrics.get("groups/none_correct_share", 0.0))
        steps.append((r.step, [good, bad, left - good - bad]))
    return DeadGroups(round(count), round(dead), _columns(steps))


def _totals(run: Run) -> dict[str, float]:
    out: dict[str, float] = {}
    for record in run.records:
        own = {"evaluate": record.seconds} if record.stage == "eval" else phases(record.seconds, record.metrics)
        if record.stage == "sft":
            own = {"sft": record.seconds}
        for name, seconds in own.items():
            out[name] = out.get(name, 0.0) + seconds
    return out


def _spans(records: Sequence[Record]) -> list[Span]:
    """One span per series of records of one stage. Between spans lie starts, checkpoints and stops."""
    timed = sorted((r for r in records if r.time), key=lambda r: r.time)
    if not timed:
        return []
    zero = timed[0].time - timed[0].seconds
    spans: list[Span] = []
    for r in timed:
        start, end = max(r.time - r.seconds - zero, spans[-1].end if spans else 0.0), r.time - zero
        if spans and spans[-1].stage == r.stage and start - spans[-1].end < max(1.0, 0.5 * r.seconds):
            spans[-1] = Span(r.stage, spans[-1].start, round(end, 2))
        else:
            spans.append(Span(r.stage, round(start, 2), round(end, 2)))
    return spans
