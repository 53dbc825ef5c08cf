"""A recipe's folder as it was written, whole or while its stages still run: each stage with the folder that is its own.

A folder NN-name-KEY is a stage's own when its settings are those of recipe.json and its inputs those of the stages
before. Others are of earlier versions of the recipe: they are named and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.report.reading import Json, Run, read_json, read_run
from rl.recipe import Claim, Compare, Recipe, Reference, Stage, references
from rl.records.provenance import spent
from rl.settings.overrides import recipe_from_json
from rl.stage import MAKES_MODEL
from rl.types import BadInput
from rl.workflow.stage_keys import stage_config, stage_folders


@dataclass(frozen=True, slots=True)
class Input:
    """What a stage reads of an earlier one. role: model, data, teacher, reward or measured."""

    stage: str
    role: str


@dataclass(frozen=True, slots=True)
class StageRun:
    """A stage and what it has written so far; run: None when it was never begun. state: done, begun or new."""

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
        """The name of its training steps in metrics.jsonl; "" for a stage that trains nothing."""
        return self.stage.total_steps[0]

    def json(self, name: str) -> Json:
        """A file of the stage; None when it is not there (yet)."""
        return read_json(self.run.folder / name) if self.run is not None else None

    def seconds(self) -> float | None:
        """Seconds of work, as provenance.json or, before there is one, the steps' records count them."""
        if self.run is None:
            return None
        own = self.run.provenance
        taken = own.get("seconds") if isinstance(own, dict) else None
        if isinstance(taken, dict):
            return spent({k: float(v) for k, v in taken.items() if isinstance(v, int | float)})
        return sum(r.seconds for r in self.run.records)

    def sampled(self) -> int:
        """Tokens sampled, evaluations included."""
        if self.run is None:
            return 0
        tokens = sum(r.metrics.get("rollout/tokens", 0.0) for r in self.run.records if r.stage != "eval")
        for record in self.run.of("eval"):
            found = self.run.examined.get(record.step)
            if found is not None:
                tokens += record.metrics.get("rollout/length_mean", 0.0) * found.samples * len(found.correct_P)
        return round(tokens)

    def trained(self) -> int:
        """Tokens in the loss, summed over the steps."""
        return round(sum(r.metrics.get("learner/tokens", 0.0) for r in self.run.records)) if self.run else 0

    def steps(self) -> tuple[int, int]:
        """(steps recorded, steps in all; 0: not known before the data are counted)."""
        trains, total = self.stage.total_steps
        return len(self.run.of(trains)) if self.run and trains else 0, total

    def inputs(self) -> list[Input]:
        """Stages that it reads, each once for each role, in the order they are mentioned."""
        found: list[Input] = []
        for key, text in references(self.stage):
            ref = Reference.parse(text)
            if ref is not None:
                found.append(Input(ref.stage, _role(key, ref)))
        return list(dict.fromkeys(found))


def _role(key: str, ref: Reference) -> str:
    """What the stage's setting of this key reads an earlier stage for."""
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    if first == "claims":
        return "measured"
    if first == "sources" or last == "source" or ref.file:
        return "data"
    return {"teacher": "teacher", "function": "reward"}.get(last, "model")


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """A recipe's folder. left_out: names of stages' folders that were made with other settings."""

    folder: Path
    recipe: Recipe
    stages: list[StageRun]
    left_out: list[str]

    @property
    def finished(self) -> bool:
        return all(s.state == "done" for s in self.stages)

    def last_model(self) -> StageRun | None:
        """The last stage that is done and made a model."""
        made = [s for s in self.stages if s.state == "done" and MAKES_MODEL in s.stage.makes]
        return made[-1] if made else None


def is_recipe(folder: Path) -> bool:
    """Whether the folder is that of a recipe of several stages, by the file that `aha run` writes first."""
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
    """The newest folder of the stage with this number that has its settings and inputs, and its key.

    keys: of the stages before. What comes from outside the recipe is not read again, so a change in it goes unseen.
    """
    stage = recipe.stages[number]
    wanted = stage_config(recipe, stage)
    for path in reversed(stage_folders(folder, stage.name)):
        written = read_json(path / "stage.json")
        config = written.get("config") if isinstance(written, dict) else None
        inputs = written.get("inputs") if isinstance(written, dict) else None
        if not isinstance(config, dict) or not isinstance(inputs, dict):
            raise BadInput(f"{path}: stage.json says neither settings nor inputs; remove the folder")
        # A setting that only one of the two has is of another version of Aha, and then as it was by default.
        same = all(_equal(str(config[key]), value) for key, value in wanted.items() if key in config)
        read = {ref.stage: key for text, key in inputs.items() if (ref := Reference.parse(text)) is not None}
        if same and all(keys.get(before) == key for before, key in read.items()):
            return path, str(written["key"]) if isinstance(written, dict) else ""
    return None


def _equal(a: str, b: str) -> bool:
    """Also "3" and "3.0": a whole number in a recipe's Python comes back from recipe.json as the knob's float."""
    try:
        return a == b or float(a) == float(b)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Claims:
    """A Compare stage. rows: of its claims.json; None before it has run, when only the claims' words are known."""

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
    """The held-out data of a stage in words: its source, with subset and split where they say more. "" for none."""
    data = stage.held_out
    return ", ".join(part for part in (data.source, data.subset, data.split if data.subset else "") if part)
