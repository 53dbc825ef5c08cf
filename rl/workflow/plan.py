"""What a run would do, stage by stage, and what a layout of folders on disk must provide."""

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
    """A stage with its place on disk. state: DONE, RESUMES or NEW. because: why it runs, one line each."""

    stage: Stage
    folder: Path
    model_folder: Path
    state: str
    because: tuple[str, ...] = ()


class Layout(Protocol):
    """How the stages of a recipe lie on disk: together in one folder, or each in a folder of its own."""

    recipe: Recipe

    def plan(self) -> list[Planned]:
        """What a run would do. Changes nothing. Raises BadInput when the recipe or its folder is wrong."""

    def describe(self, planned: list[Planned]) -> str:
        """The plan in words."""

    def check(self, planned: list[Planned]) -> None:
        """Load and check the models, tokenizers, data and rewards that exist already. Raises BadInput."""

    def check_passed(self) -> str:
        """What to tell the user when check found no fault."""

    def begin(self, planned: list[Planned]) -> bool:
        """Tell the user what will be done. Returns whether anything will."""

    def announce(self, number: int, planned: list[Planned], seconds: float) -> None:
        """Tell the user that stage `number`, from 0, begins. seconds: since the start of the run."""

    def open(self, p: Planned) -> None:
        """Prepare the folder for the stage's files."""

    def config(self, at: StageRun) -> RunConfig:
        """The settings of a stage that runs a model, with paths in place of references."""

    def inputs(self, at: StageRun, cfg: RunConfig) -> Inputs:
        """Load the stage's model settings, prompts and rewards. Raises BadInput."""

    def begun(self, p: Planned) -> dict[str, object]:
        """Record what runs, once the machines are there. Returns the settings for W&B."""

    def tracker_name(self, p: Planned) -> str:
        """The name of the stage's run at W&B."""

    def finish(self, at: StageRun, held: Hardware, seconds: float) -> None:
        """Write the file that marks the stage as done. held: its machines. seconds: since it began in this process."""

    def end(self, planned: list[Planned], seconds: float) -> Path:
        """Tell the user that everything is done. Returns the path that a caller looks at first."""
