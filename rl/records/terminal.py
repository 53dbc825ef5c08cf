"""What a run shows while it goes on: a live view in a terminal, or else one line per step; and log.txt."""

from __future__ import annotations

import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl.records.metrics_file import phases
from rl.types import Queue

step_log = logging.getLogger("rl.step")  # one line per step, shown where there is no live view

OURS = ("rl.", "rewards", "recipes", "launch")
TREND_STEPS = 40
SHOWN = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "accuracy", ".3f"),
    ("pass@1", "pass@1", ".3f"),
    ("loss", "loss", ".4f"),
    ("length", "rollout/length_mean", ".0f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
)
"""What a step's line shows: label, metric, format. Metrics that the step does not have are left out."""
TRENDS = tuple(row for row in SHOWN if row[0] != "loss")
"""What the live view shows with a trend."""


class Bar:
    """Progress: a live view in a terminal, or else one line per step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stage, self._total, self._done = "", 0, 0
        self._seconds: deque[float] = deque(maxlen=20)
        self._history: dict[str, deque[float]] = {}
        self._phases: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._queue: Callable[[], Queue] = Queue
        self.warning = ""

    def watch(self, queue: Callable[[], Queue]) -> None:
        """Show the queue in the live view. queue() is called twice a second, from another thread."""
        self._queue = queue

    def begin(self, stage: str, total: int, done: int) -> None:
        self.end()
        self._stage, self._total, self._done = stage, total, done
        self._seconds.clear()
        self._history.clear()
        self._phases.clear()
        self._last.clear()
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, get_renderable=self.view, refresh_per_second=2)
            self._live.start()

    def advance(self, stage: str, step: int, record: Mapping[str, float]) -> None:
        for _, key, _ in TRENDS:
            if key in record and math.isfinite(record[key]):
                self._history.setdefault(key, deque(maxlen=TREND_STEPS)).append(record[key])
        numbers = [f"{label} {record[key]:{form}}" for label, key, form in SHOWN if key in record]
        if stage != self._stage:
            step_log.info("  ".join([f"{stage} {step}", *numbers]))
            return
        self._done += 1
        self._seconds.append(record["seconds"])
        self._phases = phases(record["seconds"], record)
        self._last = dict(record)
        line = "  ".join([f"{duration(self._pace() * (self._total - self._done))} left", *numbers])
        step_log.info(
            f"{stage} {self._done}/{self._total}  {line}  {self._pace():.1f} s/step",
            extra={"live": self._live is not None},
        )

    def _pace(self) -> float:
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def view(self) -> RenderableType:
        """The live view: progress, each number with its trend, the last step's time by phase, the queue, memory."""
        head = Table.grid(padding=(0, 2))
        left = f"{duration(self._pace() * (self._total - self._done))} left, {self._pace():.1f} s/step"
        bar = ProgressBar(total=max(1, self._total), completed=self._done, width=30)
        head.add_row(
            Text(f"{self._stage} {self._done}/{self._total}", style="bold"),
            bar,
            left if self._seconds else "first step",
        )
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim")
        rows.add_column(justify="right")
        for label, key, form in TRENDS:
            if key in self._history:
                values = self._history[key]
                rows.add_row(label, f"{values[-1]:{form}}", Text(sparkline(values), style="cyan"))
        total = sum(self._phases.values())
        if total > 0:
            shares = "  ".join(f"{name} {s / total:.0%}" for name, s in self._phases.items() if s / total >= 0.005)
            rows.add_row("time", f"{total:.1f} s", shares)
        queue = self._queue()
        under_way = (
            f"groups: {queue.waiting} wait, {queue.sampling} at the samplers, {queue.awaiting_rewards} at the rewards"
        )
        rows.add_row("queue", f"{queue.waiting + queue.sampling + queue.awaiting_rewards}", under_way)
        if "rollout/staleness_max" in self._last:
            behind = self._last["rollout/staleness_max"]
            rows.add_row("staleness", f"{behind:.0f}", "policy versions behind, the oldest rollout")
        if "samplers/idle_share" in self._last and total > 0:
            waits, idle = self._phases.get("rollout", 0.0) / total, self._last["samplers/idle_share"]
            ready = self._last.get("queue/ready", 0.0)
            said = f"of the step the learners waited for rollouts, {idle:.0%} the samplers for work"
            rows.add_row("waiting", f"{waits:.0%}", f"{said}; {ready:.0f} groups were ready")
        if "policy/weights_moved" in self._last:
            moved = self._last["policy/weights_moved"]
            rows.add_row("weights moved", f"{moved:.1%}", "of the weights that compute, by the last update")
        memory = psutil.virtual_memory()
        rows.add_row(
            "memory", f"{memory.percent:.0f} %", f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.1f} GiB here"
        )
        held = {name: gib for name, gib in self._last.items() if name.startswith("memory/")}
        if held:
            each = (f"{_spoken(name)} {gib:.1f} GiB" for name, gib in held.items())
            rows.add_row("", "", "largest " + ", ".join(each))
        return Group(head, rows, *([Text(f"warning: {self.warning}", style="bold red")] if self.warning else []))

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def sparkline(values: Sequence[float]) -> str:
    """One character per value, by its place between the lowest and the highest. [0, 1, 2] -> "▁▅█"."""
    low, high = min(values), max(values)
    if low == high:
        return "▄" * len(values)
    return "".join("▁▂▃▄▅▆▇█"[round((v - low) / (high - low) * 7)] for v in values)


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s", 7320 -> "2 h 2 min", 180000 -> "2 d 2 h". A negative number counts as 0."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _spoken(name: str) -> str:
    """ "memory/learner_device_gib" -> "learner device"."""
    return name.removeprefix("memory/").removesuffix("_gib").replace("_", " ")


class _ConsoleHandler(logging.Handler):
    """Prints Aha's own messages, and the warnings of libraries, above the live view."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        live = record.__dict__.get("live", False)
        if not live and (record.levelno >= logging.WARNING or record.name.startswith(OURS)):
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._console.print(Text(prefix + record.getMessage()), soft_wrap=True)


class _LogFile(logging.FileHandler):
    """log.txt. A disk that it cannot be written to is told once, on the console, and holds nobody up."""

    def __init__(self, path: Path, console: Console) -> None:
        super().__init__(path, encoding="utf-8")
        self._path, self._console, self._told = path, console, False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            self._console.print(Text(f"warning: {self._path} lacks messages: {error.strerror}"), soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written before; it was told
            super().close()


def log_to(path: Path, console: Console) -> Callable[[], None]:
    """Send log messages from INFO up to the file, and Aha's own and warnings to the console. Returns a function that
    ends this.
    """
    to_file = _LogFile(path, console)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers = [to_file, _ConsoleHandler(console)]
    root = logging.getLogger()
    level = root.level
    root.setLevel(min(level, logging.INFO) or logging.INFO)
    for handler in handlers:
        root.addHandler(handler)

    def end() -> None:
        while handlers:
            handler = handlers.pop()
            root.removeHandler(handler)
            handler.close()
            root.setLevel(level)

    return end
