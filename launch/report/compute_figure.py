"""The figure of accuracy against compute, as a PNG: launch/report/compute.py's plots side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.report.compute import Line, Plane, planes
from rl.records.whole_files import whole

FILE = "compute.png"
INK, SOFT, RULE = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#2f6fb5", "#d1495b", "#3a8f5c", "#b07d18", "#7a5fb0", "#128a92")
MARKS = "osD^v<>"


def draw_compute(run_dir: Path, *, title: str) -> Path | None:
    """Write run_dir/compute.png; None when there is nothing to draw. Raises BadInput for a damaged evaluation."""
    found = planes(run_dir)
    if not found:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(found), 5.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, plane in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _draw(axes, plane)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    with whole(run_dir / FILE) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return run_dir / FILE


def _draw(axes: Any, plane: Plane) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    measured = [line for line in plane.lines if line.form != "bound"]
    for line in plane.lines:
        if line.form == "bound":
            axes.plot(line.x, line.y, color=SOFT, linewidth=1.2, linestyle=_dashes(plane, line), label=line.label)
    for i, line in enumerate(measured):
        axes.errorbar(
            line.x, line.y, yerr=[error or 0.0 for error in line.stderr], label=line.label, color=COLOURS[i % 6],
            marker=MARKS[i % 7], markersize=5, linewidth=1.6, linestyle="none" if line.form == "point" else "-",
            capsize=2, elinewidth=1, alpha=0.9,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(plane.x, color=INK)
    axes.set_ylabel("accuracy", color=INK)
    axes.set_title(plane.title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    axes.legend(fontsize=8.5, labelcolor=INK, facecolor="white", edgecolor="none", framealpha=0.85, loc="best")


def _dashes(plane: Plane, line: Line) -> str:
    bounds = [other.label for other in plane.lines if other.form == "bound"]
    return (":", "--")[bounds.index(line.label) % 2]


def short(tokens: float) -> str:
    """512 -> "512", 2048 -> "2 k", 3145728 -> "3 M": in powers of 1,024, as the axis doubles."""
    for size, unit in ((1 << 20, " M"), (1 << 10, " k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.3g}"
