"""What a run shows while it goes: a live progress line on a terminal, else a line a step; and log.txt."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

step_log = logging.getLogger("rl.step")  # a line a step: shown where there is no live progress line

OURS = ("rl.", "rewards", "recipes", "launch")
SHOWN = (
    ("reward", "reward/mean", ".3f"),
    ("accuracy", "accuracy", ".3f"),
    ("pass@1", "pass@1", ".3f"),
    ("loss", "loss", ".4f"),
    ("length", "rollout/length_mean", ".0f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
)
"""What a step's line shows: label, metric, format. A metric that is not there is left out."""


class Bar:
    """Progress: one live line on a terminal, else a line a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._stage, self._total, self._done = "", 0, 0
        self._seconds: deque[float] = deque(maxlen=20)

    def begin(self, stage: str, total: int, done: int) -> None:
        self.end()
        self._stage, self._total, self._done = stage, total, done
        self._seconds.clear()
        if self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=12)),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(f"{stage} {done}/{total}", total=total, completed=done, numbers="")
            self._progress.start()

    def advance(self, stage: str, step: int, record: Mapping[str, float]) -> None:
        numbers = [f"{label} {record[key]:{form}}" for label, key, form in SHOWN if key in record]
        if stage != self._stage:
            step_log.info("  ".join([f"{stage} {step}", *numbers]))
            return
        self._done += 1
        self._seconds.append(record["seconds"])
        pace = sum(self._seconds) / len(self._seconds)
        title = f"{stage} {self._done}/{self._total}"
        left = f"{_duration(pace * (self._total - self._done))} left"
        line = "  ".join([left, *numbers, f"{pace:.1f} s/step"])
        if self._progress:
            self._progress.update(self._task, description=title, completed=self._done, numbers=line)
        step_log.info(f"{title}  {line}", extra={"live": self._progress is not None})

    def end(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


def _duration(seconds: float) -> str:
    """90 -> "1 min 30 s", 7320 -> "2 h 2 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _ConsoleHandler(logging.Handler):
    """Our own messages, and any library's warnings, above the live line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        live = record.__dict__.get("live", False)
        if not live and (record.levelno >= logging.WARNING or record.name.startswith(OURS)):
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._console.print(Text(prefix + record.getMessage()), soft_wrap=True)


def log_to(path: Path, console: Console) -> Callable[[], None]:
    """Send the root logger, from INFO up, to the file and (ours and warnings) to the console. Returns what ends it."""
    to_file = logging.FileHandler(path, encoding="utf-8")
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
