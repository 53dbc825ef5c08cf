"""What a run would do, stage by stage, and where on disk: what the two layouts of folders have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rl.config import RunConfig
from rl.context import Inputs, StageRun
from rl.stage import Recipe, Stage
from rl.types import Hardware

DONE, RESUMES, NEW = "done", "resume", "new"


@dataclass(frozen=True)
class Planned:
    """A stage with its place on disk. state: done, resume or new. because: what makes it run, one line each."""

    stage: Stage
    folder: Path
    model_folder: Path
    state: str
    because: tuple[str, ...] = ()


class Layout(Protocol):
    """How a recipe's stages lie on disk: in one folder (a RunConfig's two) or each in a folder of its own."""

    recipe: Recipe

    def plan(self) -> list[Planned]:
        """What a run would do. Touches nothing. Raises BadInput for what is wrong with the recipe or its folder."""

    def told(self, planned: list[Planned]) -> str:
        """The plan in words."""

    def check(self, planned: list[Planned]) -> None:
        """Load and check what no stage has to make first: models, tokenizers, data, rewards. Raises BadInput."""

    def fine(self) -> str:
        """What to say when check found nothing."""

    def begin(self, planned: list[Planned]) -> bool:
        """Say what is to be done; returns whether there is anything."""

    def announce(self, number: int, planned: list[Planned], seconds: float) -> None:
        """Say that the stage of this number (from 0) begins, so many seconds after the start."""

    def open(self, p: Planned) -> None:
        """Make ready for the stage's own files."""

    def config(self, at: StageRun) -> RunConfig:
        """A stage that runs a model, as a run in its folder, its references replaced by what they name."""

    def inputs(self, at: StageRun, cfg: RunConfig) -> Inputs:
        """What its model, prompts and rewards are. Raises BadInput."""

    def begun(self, p: Planned) -> dict[str, object]:
        """The machines are there: write down what runs. Returns the settings that W&B shows."""

    def tracker_name(self, p: Planned) -> str:
        """What W&B calls the stage's run."""

    def finish(self, at: StageRun, held: Hardware, seconds: float) -> None:
        """Write what says that the stage is done. held: the machines that it had; seconds: since it began here."""

    def end(self, planned: list[Planned], seconds: float) -> Path:
        """Everything is done, so many seconds after the start. Returns what a caller looks at first."""
