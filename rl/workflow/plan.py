"""What a run of a recipe would do: which stages are done, which go on, which run and why. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rl.recipe import Recipe, Stage
from rl.records import provenance
from rl.settings.recipe_checks import check
from rl.workflow.stage_keys import StageKey, folder_name, past_keys, stage_keys


@dataclass(frozen=True)
class Planned:
    """A stage with its place on disk. state: done, resume or new. because: what makes it run, one line each."""

    stage: Stage
    key: StageKey
    folder: Path
    state: str
    because: list[str]


def plan(recipe: Recipe) -> list[Planned]:
    """What a run would do, stage by stage. Touches nothing. Raises BadInput for what is wrong with the recipe."""
    check(recipe)
    keys = stage_keys(recipe)
    planned = []
    for i, stage in enumerate(recipe.stages):
        key = keys[stage.name]
        past = past_keys(recipe, stage)
        # Its place in the recipe may have been another when it was run.
        own = [folder for folder, older in past if older.key == key.key]
        folder = max(reversed(own), key=_is_done, default=recipe.folder / folder_name(i, stage, key))
        state, because = "new", ["was never run"]
        if own and _is_done(folder):
            state, because = "done", []
        elif (folder / "stage.json").is_file():
            state, because = "resume", ["was begun"]
        elif past:
            because = key.changes_since(past[-1][1])
        planned.append(Planned(stage, key, folder, state, because))
    return planned


def _is_done(folder: Path) -> bool:
    return (folder / provenance.FILE).is_file()


def told(planned: list[Planned]) -> str:
    """The plan in words, a line a stage."""
    width = max(len(p.stage.name) for p in planned)
    kinds = max(8, *(len(type(p.stage).__name__) for p in planned))
    marks = {"done": "done, kept", "resume": "goes on", "new": "runs"}
    lines = []
    for i, p in enumerate(planned):
        why = f": {'; '.join(p.because[:3])}" + ("; ..." if len(p.because) > 3 else "") if p.because else ""
        lines.append(f"{i:2d} {p.stage.name:<{width}}  {type(p.stage).__name__:<{kinds}}  {marks[p.state]}{why}")
    return "\n".join(lines)
