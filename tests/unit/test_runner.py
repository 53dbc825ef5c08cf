"""The runner (rl/workflow/run.py): Ctrl-C in one stage ends the recipe after it, and the same command does the rest."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rl.config import RunConfig
from rl.recipe import Build, Recipe
from rl.types import Row, Stopped
from rl.workflow.run import run
from rl.workflow.stage_folders import StageFolders


def interrupted(sources: dict[str, list[Row]]) -> list[Row]:
    """The rows of a stage in the middle of which the user presses Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    return plain(sources)


def plain(sources: dict[str, list[Row]]) -> list[Row]:
    return [{"prompt": "1 + 1", "answer": "2"}]


def no_machines(cfg: RunConfig):  # type: ignore[no-untyped-def]
    raise AssertionError("these stages need no machines")


def test_ctrl_c_in_a_stage_stops_after_it_and_the_same_command_runs_the_rest(tmp_path: Path) -> None:
    here = "tests.unit.test_runner"
    stages = (Build("first", f"{here}:interrupted"), Build("second", f"{here}:plain", sources=("@first",)))
    recipe = Recipe("r", RunConfig(), stages, str(tmp_path))
    seen: list[Path] = []
    with pytest.raises(Stopped, match="stopped after stage first; the same command goes on from there"):
        run(recipe, no_machines, no_machines, progressed=seen.append)
    assert [p.state for p in StageFolders(recipe).plan()] == ["done", "new"]
    assert seen == [recipe.folder]
    assert (run(recipe, no_machines, no_machines) / "data.jsonl").is_file()
    assert [p.state for p in StageFolders(recipe).plan()] == ["done", "done"]


def test_ctrl_c_in_the_last_stage_leaves_nothing_to_stop(tmp_path: Path) -> None:
    recipe = Recipe("r", RunConfig(), (Build("last", "tests.unit.test_runner:interrupted"),), str(tmp_path))
    assert (run(recipe, no_machines, no_machines) / "data.jsonl").is_file()
