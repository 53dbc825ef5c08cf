"""The curve of a run, as a PNG and as text.

It is read from metrics.jsonl: training points from "grpo" records, and held-out points from "eval" records with
"pass@1", "stderr" and perhaps "greedy". The x axis is the number of GRPO steps of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.report.compute_figure import draw_compute
from launch.report.emergence_figure import draw_emergence
from rl.records.metrics_file import read_metrics
from rl.records.whole_files import read_json, whole

Points = list[tuple[float, float]]
"""(GRPO step, value), by step."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of a run. training: accuracy of the rollouts, or the reward if there is none; label says which.

    held_out: pass@1. stderr: its standard errors, in the same order. reward: empty when it is the training curve.
    """

    label: str
    training: Points
    held_out: Points
    stderr: list[float]
    greedy: Points
    reward: Points
    length_mean: Points
    length_p90: Points

    @staticmethod
    def read(run_dir: Path) -> Curve:
        """Read run_dir's metrics.jsonl. Values that are missing or not finite are left out."""
        records = read_metrics(run_dir)

        def points(stage: str, key: str) -> Points:
            found = [(r["step"], r.get(key)) for r in records if r["stage"] == stage]
            return sorted((float(x), float(y)) for x, y in found if isinstance(x, int) and isinstance(y, int | float))

        accuracy, reward = points("grpo", "accuracy"), points("grpo", "reward/mean")
        held_out, errors = points("eval", "pass@1"), dict(points("eval", "stderr"))
        return Curve(
            label="accuracy" if accuracy or not reward else "reward",
            training=accuracy or reward,
            held_out=held_out,
            stderr=[errors.get(x, 0.0) for x, _ in held_out],
            greedy=points("eval", "greedy"),
            reward=reward if accuracy and reward != accuracy else [],
            length_mean=points("grpo", "rollout/length_mean"),
            length_p90=points("grpo", "rollout/length_p90"),
        )


def draw_run(run_dir: Path) -> str:
    """Write curve.png, emergence.png and compute.png of a run with a summary. Returns the curve as text.

    A figure without any point is left out. The text is then empty.
    """
    title = read_json(run_dir / "summary.json", lambda s: f"{s['name']}: {s['model']}, seed {s['seed']}")
    draw_emergence(run_dir, title=title)
    draw_compute(run_dir, title=title)
    curve = Curve.read(run_dir)
    if not curve.training and not curve.held_out:
        return ""
    draw_curve(curve, run_dir / "curve.png", title=title)
    return text_curve(curve)


def smooth(points: Points, window: int) -> Points:
    """The running mean over `window` points, over fewer at the two ends.

    [(0, 0), (1, 6), (2, 0)], 3 -> [(0, 3), (1, 2), (2, 3)]
    """
    reach = window // 2
    near = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in ys) / len(ys)) for (x, _), ys in zip(points, near, strict=True)]


INK, SOFT, TRAIN, HELD_OUT = "#1f2933", "#7b8794", "#2f6fb5", "#d1495b"


def draw_curve(curve: Curve, path: Path, *, title: str) -> None:
    """Draw the curve as a PNG: on top accuracy with the held-out points, below it reward and completion length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[float, Callable[[Any, Curve], None]]] = [(3.0, _draw_accuracy)]
    if curve.reward:
        panels.append((1.3, _draw_reward))
    if curve.length_mean:
        panels.append((1.3, _draw_length))
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(8, 1.0 + 1.05 * sum(heights)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (_, draw) in zip(grid, panels, strict=True):
        draw(axes, curve)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
    figure.align_ylabels(grid)
    last = max(x for x, _ in curve.training + curve.held_out)
    grid[-1].set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    grid[-1].set_xlabel("GRPO step", color=INK)
    grid[0].set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_line(axes: Any, points: Points, label: str) -> None:
    """Draw every step as a faint line, and their running mean as a strong one."""
    if _window(points) > 1:
        axes.plot(*zip(*points, strict=True), color=TRAIN, alpha=0.25, linewidth=1)
    axes.plot(*zip(*smooth(points, _window(points)), strict=True), color=TRAIN, linewidth=1.8, label=label)


def _window(points: Points) -> int:
    """Steps in the running mean: a twelfth of all, an odd number."""
    return len(points) // 24 * 2 + 1


def _draw_accuracy(axes: Any, curve: Curve) -> None:
    from matplotlib.ticker import PercentFormatter

    if curve.training:
        window = _window(curve.training)
        _draw_line(
            axes, curve.training, f"training {curve.label}" + (f" (mean of {window} steps)" if window > 1 else "")
        )
    if curve.held_out:
        x, y = zip(*curve.held_out, strict=True)
        axes.errorbar(
            x, y, yerr=curve.stderr, fmt="o", color=HELD_OUT, markersize=6, capsize=3, elinewidth=1.4,
            label="held-out pass@1 (± one standard error)", zorder=3, clip_on=False,
        )  # fmt: skip
    if curve.greedy:
        axes.plot(
            *zip(*curve.greedy, strict=True), "D", markerfacecolor="white", markeredgecolor=HELD_OUT, markersize=5,
            label="held-out greedy", zorder=3, clip_on=False,
        )  # fmt: skip
    if curve.label == "accuracy":
        top = max(y for _, y in curve.training + curve.held_out + curve.greedy)
        axes.set_ylim(0, min(1.0, 1.2 * top) or 1.0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel(curve.label, color=INK)
    # The legend must not cover the first points or the end of the curve.
    last = [y for _, y in (curve.training or curve.held_out)[-5:]]
    corner = "lower right" if sum(last) / len(last) > 0.5 * axes.get_ylim()[1] else "upper right"
    _legend(axes, ["training", "held-out pass", "held-out greedy"], corner)


def _legend(axes: Any, order: Sequence[str], place: str = "best", columns: int = 1) -> None:
    """Add a legend. `order` has the beginnings of its entries."""
    handles, labels = axes.get_legend_handles_labels()
    rank = [next(k for k, start in enumerate(order) if label.startswith(start)) for label in labels]
    at = sorted(range(len(labels)), key=rank.__getitem__)
    axes.legend(
        [handles[i] for i in at], [labels[i] for i in at], loc=place, ncols=columns, fontsize=9, labelcolor=INK,
        facecolor="white", edgecolor="none", framealpha=0.85,
    )  # fmt: skip


def _draw_reward(axes: Any, curve: Curve) -> None:
    _draw_line(axes, curve.reward, "reward")
    axes.set_ylabel("reward", color=INK)


def _draw_length(axes: Any, curve: Curve) -> None:
    _draw_line(axes, curve.length_mean, "mean")
    if curve.length_p90:
        p90 = smooth(curve.length_p90, _window(curve.length_p90))
        axes.plot(*zip(*p90, strict=True), color=SOFT, linewidth=1, label="90th percentile")
    axes.set_ylim(0, 1.25 * max(y for _, y in curve.length_p90 + curve.length_mean))
    axes.set_ylabel("completion tokens", color=INK)
    _legend(axes, ["mean", "90th"], columns=2)


def text_curve(curve: Curve, *, width: int = 64, height: int = 12) -> str:
    """The curve as text: · training (the mean of a column's steps), ● held-out pass@1."""
    held_out = curve.held_out
    last = max([x for x, _ in curve.training + held_out] or [1.0]) or 1.0
    columns: dict[int, list[float]] = {}
    for x, y in curve.training:
        columns.setdefault(round(x / last * (width - 1)), []).append(y)
    drawn = [(at, sum(ys) / len(ys), "·") for at, ys in columns.items()]
    drawn += [(round(x / last * (width - 1)), y, "●") for x, y in held_out]
    low, high = min([0.0, *(y for _, y, _ in drawn)]), max([y for _, y, _ in drawn], default=1.0)
    high = high if high > low else low + 1.0
    grid = [[" "] * width for _ in range(height)]
    for at, y, mark in drawn:
        grid[round((high - y) / (high - low) * (height - 1))][at] = mark
    middle = height // 2
    heights = {0: high, middle: high - (high - low) * middle / (height - 1), height - 1: low}
    percent = curve.label == "accuracy"
    marks = {i: f"{100 * y:5.0f} %" if percent else f"{y:7.2f}" for i, y in heights.items()}
    lines = [f"{marks.get(i, ''):>7} │{''.join(cells).rstrip()}" for i, cells in enumerate(grid)]
    lines.append(" " * 8 + "└" + "─" * width)
    lines.append(" " * 9 + "0" + f"GRPO step {last:.0f}".rjust(width - 1))
    lines.append(" " * 9 + f"· training {curve.label}   ● held-out pass@1")
    return "\n".join(lines)
