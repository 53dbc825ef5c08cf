"""The emergence figure of a run: response length and reflective words over GRPO steps, as in R1-Zero's figures.

The numbers are in metrics.jsonl (measured by rl/evaluation/emergence.py), the first "wait" in aha_moments.jsonl.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rl.records.metrics_file import read_metrics
from rl.records.whole_files import whole, whole_lines

INK, SOFT, FIRST, SECOND = "#1f2933", "#7b8794", "#2f6fb5", "#d1495b"
Points = tuple[list[float], list[float]]


def draw_emergence(run_dir: Path, *, title: str) -> Path | None:
    """Write run_dir/emergence.png; None when no step was measured."""
    records = [r for r in read_metrics(run_dir) if r["stage"] == "grpo"]

    def points(name: str) -> Points:
        found = [(r["step"], r.get(f"emergence/{name}")) for r in records]
        pairs = sorted((float(x), float(y)) for x, y in found if isinstance(x, int) and isinstance(y, int | float))
        return [x for x, _ in pairs], [y for _, y in pairs]

    if not points("length_mean")[0]:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 2])
    _length(grid[0], points)
    _words(grid[1], points, first_occurrences(run_dir))
    _rates(grid[2], points)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
        axes.legend(fontsize=9, labelcolor=INK, facecolor="white", edgecolor="none", framealpha=0.85, loc="best")
    figure.align_ylabels(grid)
    grid[0].set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    grid[-1].set_xlabel("GRPO step", color=INK)
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    path = run_dir / "emergence.png"
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return path


def first_occurrences(run_dir: Path) -> dict[str, int]:
    """Term -> the step in which it first occurred."""
    found: dict[str, int] = {}
    for moment in whole_lines(run_dir / "aha_moments.jsonl"):
        found[moment["term"]] = min(moment["step"], found.get(moment["term"], moment["step"]))
    return found


def _length(axes: Any, points: Any) -> None:
    x, low = points("length_p10")
    _, high = points("length_p90")
    axes.fill_between(x, low, high, color=FIRST, alpha=0.15, linewidth=0, label="10th to 90th percentile")
    axes.plot(*points("length_mean"), color=FIRST, linewidth=1.8, label="mean")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("response tokens", color=INK)


def _words(axes: Any, points: Any, first: dict[str, int]) -> None:
    axes.plot(*points("reflective_words"), color=SECOND, linewidth=1.8, label="reflective words (R1's list)")
    axes.plot(*points("words/wait"), color=FIRST, linewidth=1.2, label='"wait"')
    axes.plot(*points("verification"), color=SOFT, linewidth=1.2, label="self-verification phrases")
    if "wait" in first:
        axes.axvline(first["wait"], color=FIRST, linewidth=1, linestyle=":", label='the first "wait"')
    axes.set_ylim(bottom=0)
    axes.set_ylabel("per response", color=INK)


def _rates(axes: Any, points: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.plot(*points("reflective_share"), color=SECOND, linewidth=1.5, label="responses that reflect")
    axes.plot(*points("verification_share"), color=SOFT, linewidth=1.5, label="responses that verify")
    axes.plot(*points("language_mixing"), color=FIRST, linewidth=1.5, label="words in another language")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share", color=INK)
