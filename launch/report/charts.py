"""The curves of a run: which charts of the catalogue have points, in their order, and the points, thinned out."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from launch.report.chart_catalogue import ACCURACY, GRPO, REWARD_ACCURACY, REWARD_MODEL, SFT, Chart, Curve
from launch.report.reading import Record, Run

MOST_POINTS = 600
STAGES = {"sft": "SFT", "grpo": "GRPO", "eval": "evaluation", "reward": "reward model"}


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    charts: list[Chart]


@dataclass(frozen=True, slots=True)
class Steady:
    """A metric with the same value at every step. It becomes a line of text instead of a curve."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Points:
    """A curve's points. x: steps. y: values. pooled: the steps in one point (their mean; of a maximum the largest)."""

    x: list[int]
    y: list[float]
    pooled: int


def sections(runs: Sequence[Run]) -> list[Section]:
    """Every chart for which one of the runs has points. Metrics that the catalogue does not name come last."""
    names = {
        s: _varying([r for run in runs for r in run.of(s)]) for s in {r.stage for run in runs for r in run.records}
    }
    out: dict[str, list[Chart]] = {}
    taken: set[str] = {"grpo:accuracy", "grpo:samples/count", "reward:accuracy"}
    for stage, specs in (("grpo", GRPO), ("sft", SFT), ("reward", REWARD_MODEL)):
        literal = {pattern for *_, wanted in specs for _, pattern in wanted if "*" not in pattern}
        literal -= {"reward/language_consistency"}  # it is a metric of the reward too
        for title, chart, form, hint, wanted in specs:
            for found in _charts(stage, chart, form, hint, wanted, names.get(stage, []), literal):
                out.setdefault(title, []).append(found)
                taken |= {curve.key for curve in found.curves}
    for stage in sorted(names):
        if stage == "eval":
            continue
        left = [n for n in names[stage] if f"{stage}:{n}" not in taken and not n.startswith("seconds/")]
        made = [Chart(_other_title(stage, n), "", "number", [Curve(n, f"{stage}:{n}")]) for n in left]
        if made:
            out.setdefault("Everything else", []).extend(made)
    return [Section(title, charts) for title, charts in out.items()]


def _other_title(stage: str, name: str) -> str:
    return name if stage == "grpo" else f"{name} ({STAGES.get(stage, stage)})"


def _charts(
    stage: str, title: str, form: str, hint: str, wanted: Sequence[tuple[str, str]], names: Sequence[str],
    literal: set[str],
) -> list[Chart]:  # fmt: skip
    """The chart of a spec; for a pattern with two stars, one chart per middle part; none when nothing matches.

    literal: metrics that another spec names in full. Patterns leave them out.
    """
    by_title: dict[str, list[Curve]] = {}
    for label, pattern in wanted:
        for name in fnmatch.filter(names, pattern):
            if name != pattern and name in literal:
                continue
            heading = name.split("/")[1] if title == "*" else title
            text = name.rsplit("/", 1)[-1].replace("_", " ") if label == "*" else label
            by_title.setdefault(heading, []).append(Curve(text, f"{stage}:{name}"))
    return [Chart(heading, hint, form, curves) for heading, curves in by_title.items()]


def _varying(records: Iterable[Record]) -> list[str]:
    """Metrics in the order of their first record, without those that kept one value over three records or more."""
    return [name for name, seen in _values(records).items() if seen.count < 3 or seen.low < seen.high]


@dataclass(slots=True)
class _Seen:
    low: float
    high: float
    count: int


def _values(records: Iterable[Record]) -> dict[str, _Seen]:
    out: dict[str, _Seen] = {}
    for record in records:
        for name, value in (record.metrics | {"seconds": record.seconds}).items():
            seen = out.setdefault(name, _Seen(value, value, 0))
            seen.low, seen.high, seen.count = min(seen.low, value), max(seen.high, value), seen.count + 1
    return out


def steady(runs: Sequence[Run]) -> list[Steady]:
    """The metrics that never changed, which the sections leave out; without those that are 0."""
    out: list[Steady] = []
    for stage in ("grpo", "sft"):
        seen = _values(r for run in runs for r in run.of(stage))
        fixed = [(name, s.low) for name, s in seen.items() if s.count >= 3 and s.low == s.high and s.low]
        out += [Steady(_other_title(stage, name), value) for name, value in fixed]
    return out


def points(run: Run, all_sections: Sequence[Section], most: int = MOST_POINTS) -> dict[str, Points]:
    """key -> at most `most` points, for the curves of the sections, of ACCURACY and of REWARD_ACCURACY."""
    curves = [c for section in all_sections for chart in section.charts for c in chart.curves]
    curves += ACCURACY.curves + REWARD_ACCURACY.curves
    keys = {key for c in curves for key in (c.key, c.error) if ":" in key}
    out = {key: _series(run, key, most) for key in sorted(keys)}
    return {key: found for key, found in out.items() if found.x}


def _series(run: Run, key: str, most: int) -> Points:
    stage, _, name = key.partition(":")
    pairs = [
        (r.step, r.seconds if name == "seconds" else r.metrics[name])
        for r in run.of(stage)
        if name == "seconds" or name in r.metrics
    ]
    pooled = -(-len(pairs) // most) or 1
    pool = max if "max" in name else fmean
    bins = [pairs[i : i + pooled] for i in range(0, len(pairs), pooled)]
    return Points([b[len(b) // 2][0] for b in bins], [short(pool([y for _, y in b])) for b in bins], pooled)


def short(value: float) -> float:
    """Five significant digits: no more can be seen in a chart, and the page stays small."""
    return float(f"{value:.5g}")
