"""Reads the folder of a recipe that is finished or still going on: each stage with its own folder.

A folder NN-name-KEY belongs to a stage when it has the settings of recipe.json and the stage's current inputs. Other
folders are from earlier versions of the recipe; they are listed and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.report.reading import Json, Run, read_json, read_run
from rl.recipe import Claim, Compare, Recipe, Reference, Stage, references
from rl.records.provenance import total_seconds
from rl.settings.overrides import recipe_from_json
from rl.stage import MAKES_MODEL
from rl.types import BadInput
from rl.workflow.stage_keys import stage_config, stage_folders


@dataclass(frozen=True, slots=True)
class Input:
    """An earlier stage that a stage reads. role: what for: model, data, teacher, reward or measured."""

    stage: str
    role: str


@dataclass(frozen=True, slots=True)
class StageRun:
    """A stage and what it has written so far. run: None when it was never begun. state: done, begun or new."""

    stage: Stage
    run: Run | None

    @property
    def state(self) -> str:
        return "new" if self.run is None else "done" if self.run.finished else "begun"

    @property
    def kind(self) -> str:
        return type(self.stage).__name__

    @property
    def trains(self) -> str:
        """The name of its training steps in metrics.jsonl; "" if it trains nothing."""
        return self.stage.total_steps[0]

    def json(self, name: str) -> Json:
        """The value of one of its JSON files; None when there is no file yet."""
        return read_json(self.run.folder / name) if self.run is not None else None

    def seconds(self) -> float | None:
        """Seconds of work, from provenance.json or, until there is one, from the records of the steps."""
        if self.run is None:
            return None
        own = self.run.provenance
        taken = own.get("seconds") if isinstance(own, dict) else None
        if isinstance(taken, dict):
            return total_seconds({k: float(v) for k, v in taken.items() if isinstance(v, int | float)})
        return sum(r.seconds for r in self.run.records)

    def sampled(self) -> int:
        """The number of sampled tokens, with those of evaluations."""
        if self.run is None:
            return 0
        tokens = sum(r.metrics.get("rollout/tokens", 0.0) for r in self.run.records if r.stage != "eval")
        for record in self.run.of("eval"):
            found = self.run.evaluations.get(record.step)
            if found is not None:
                tokens += record.metrics.get("rollout/length_mean", 0.0) * found.samples * len(found.correct_P)
        return round(tokens)

    def trained(self) -> int:
        """The number of tokens in the loss, over all steps."""
        return round(sum(r.metrics.get("learner/tokens", 0.0) for r in self.run.records)) if self.run else 0

    def steps(self) -> tuple[int, int]:
        """(recorded steps, all steps; 0 until the data are counted)."""
        trains, total = self.stage.total_steps
        return len(self.run.of(trains)) if self.run and trains else 0, total

    def inputs(self) -> list[Input]:
        """The stages that it reads, once per role, in the order in which it names them."""
        found: list[Input] = []
        for key, text in references(self.stage):
            ref = Reference.parse(text)
            if ref is not None:
                found.append(Input(ref.stage, _role(key, ref)))
        return list(dict.fromkeys(found))


def _role(key: str, ref: Reference) -> str:
    """What a stage reads an earlier one for, by the key of the setting that names it."""
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    if first == "claims":
        return "measured"
    if first == "sources" or last == "source" or ref.file:
        return "data"
    return {"teacher": "teacher", "function": "reward"}.get(last, "model")


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """A recipe's folder. left_out: names of the folders of stages with other settings."""

    folder: Path
    recipe: Recipe
    stages: list[StageRun]
    left_out: list[str]

    @property
    def finished(self) -> bool:
        return all(s.state == "done" for s in self.stages)

    def last_model(self) -> StageRun | None:
        """The last finished stage that made a model."""
        made = [s for s in self.stages if s.state == "done" and MAKES_MODEL in s.stage.makes]
        return made[-1] if made else None


def is_recipe(folder: Path) -> bool:
    """Whether the folder belongs to a recipe with several stages: `aha run` writes recipe.json first."""
    return (folder / "recipe.json").is_file() and not (folder / "stage.json").exists()


def read_recipe(folder: Path) -> RecipeRun:
    """The recipe in folder. Raises BadInput when recipe.json is of another version, AhaError for a damaged file."""
    path = folder / "recipe.json"
    try:
        recipe = recipe_from_json(path.read_text(encoding="utf-8"))
    except (BadInput, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: holds no recipe ({error}); aha run writes it again") from error
    found: dict[str, Path] = {}
    keys: dict[str, str] = {}
    for i, stage in enumerate(recipe.stages):
        own = _own_folder(folder, recipe, i, keys)
        if own is not None:
            found[stage.name], keys[stage.name] = own
    stages = [StageRun(s, read_run(found[s.name]) if s.name in found else None) for s in recipe.stages]
    held = {path.parent.name for path in folder.glob("*/stage.json")}
    return RecipeRun(folder, recipe, stages, sorted(held - {path.name for path in found.values()}))


def _own_folder(folder: Path, recipe: Recipe, number: int, keys: Mapping[str, str]) -> tuple[Path, str] | None:
    """(folder, key) of the newest folder with the stage's settings and inputs; None if there is none.

    keys: of the stages before. Inputs from outside the recipe are not read again, so a change in them is not noticed.
    """
    stage = recipe.stages[number]
    wanted = stage_config(recipe, stage)
    for path in reversed(stage_folders(folder, stage.name)):
        written = read_json(path / "stage.json")
        config = written.get("config") if isinstance(written, dict) else None
        inputs = written.get("inputs") if isinstance(written, dict) else None
        if not isinstance(config, dict) or not isinstance(inputs, dict):
            raise BadInput(f"{path}: stage.json says neither settings nor inputs; remove the folder")
        # A setting that only one of them has is from another version of Aha, and has its default there.
        same = all(_equal(str(config[key]), value) for key, value in wanted.items() if key in config)
        read = {ref.stage: key for text, key in inputs.items() if (ref := Reference.parse(text)) is not None}
        if same and all(keys.get(before) == key for before, key in read.items()):
            return path, str(written["key"]) if isinstance(written, dict) else ""
    return None


def _equal(a: str, b: str) -> bool:
    """Whether two values are equal, also as numbers: "3" in an older stage.json may be "3.0" today."""
    try:
        return a == b or float(a) == float(b)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Claims:
    """A Compare stage. rows: those of claims.json; None before it has run. claimed: what the recipe claims."""

    stage: str
    rows: Json
    claimed: list[Claim]


def claims_of(run: RecipeRun) -> list[Claims]:
    return [
        Claims(s.stage.name, s.json("claims.json") if s.state == "done" else None, list(s.stage.claims))
        for s in run.stages
        if isinstance(s.stage, Compare)
    ]


def evaluated_on(stage: Stage) -> str:
    """A stage's held-out data in words: its source and, with a subset, that and the split; "" if it has none."""
    data = stage.held_out
    return ", ".join(part for part in (data.source, data.subset, data.split if data.subset else "") if part)
