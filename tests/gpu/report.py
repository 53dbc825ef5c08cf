"""What a check of the card says, and the report of all: text while it runs, JSON at every moment.

A check is a function(device) that returns figures. It raises Skipped with the reason, or any other error when it fails.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

Figures = dict[str, float | str]


class Skipped(Exception):
    """The check cannot run here; the text says why."""


class Wrong(Exception):
    """The check ran, and what it found is not as it must be."""


def require(holds: bool, sentence: str) -> None:
    """Raise Wrong with the sentence unless it holds."""
    if not holds:
        raise Wrong(sentence)


@dataclass(frozen=True)
class Outcome:
    """status: passed, failed or skipped. reason: why it failed or was skipped."""

    name: str
    status: str
    seconds: float = 0.0
    figures: Mapping[str, float | str] = field(default_factory=dict)
    reason: str = ""


@dataclass
class Report:
    """path: of the JSON, written whole after every check, so that a run that is cut short leaves what it found."""

    path: Path
    device: str
    outcomes: list[Outcome] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        print(line_of(outcome), flush=True)
        content = {"device": self.device, "summary": self.summary(), "checks": [asdict(o) for o in self.outcomes]}
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(beside, self.path)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    def summary(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in ("passed", "failed", "skipped"))
        return f"{counts}, in {time.monotonic() - self.started:.0f} s on {self.device}"


def line_of(outcome: Outcome) -> str:
    """An outcome for people: one line, and one for each of its figures."""
    reason = f": {outcome.reason}" if outcome.reason else ""
    lines = [f"{outcome.status:8}{outcome.name} ({outcome.seconds:.1f} s){reason}"]
    for name, value in outcome.figures.items():
        lines.append(f"          {name}: {value if isinstance(value, str) else f'{value:.4g}'}")
    return "\n".join(lines)
