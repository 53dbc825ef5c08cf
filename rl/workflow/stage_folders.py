"""A recipe of several stages, each in a folder of its own: <out>/<recipe>/NN-name-KEY (rl/workflow/stage_keys.py).

recipe.json                  the whole recipe, in the recipe's folder
NN-name-KEY/stage.json       the stage's settings and inputs, as they were hashed
NN-name-KEY/provenance.json  how the output was made, back to the base model; a stage is done once this file exists
"""

from __future__ import annotations

import dataclasses
import shutil
from functools import cached_property
from pathlib import Path

from rl.config import MODEL, RewardConfig, RunConfig
from rl.context import Inputs, StageRun
from rl.records import provenance
from rl.records.metrics_file import read_metrics
from rl.records.terminal import duration
from rl.records.whole_files import read_json, write_json, write_whole
from rl.scoring.routing import named
from rl.settings.overrides import recipe_to_json
from rl.settings.recipe_checks import check
from rl.stage import Recipe, Reference, inputs_of, run_config, stage_to_dict, trained_on
from rl.types import Hardware
from rl.workflow.changed_steps import finished_steps, missing_evaluations
from rl.workflow.inputs import prepare, resolve_model, with_teachers
from rl.workflow.plan import DONE, NEW, RESUMES, Planned
from rl.workflow.recipe_inputs import check_inputs
from rl.workflow.stage_keys import StageKey, folder_name, past_keys, stage_keys


class StageFolders:
    """The layout of a recipe (rl.workflow.plan.Layout)."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def keys(self) -> dict[str, StageKey]:
        """The key of every stage, by its name. Raises BadInput when an input is missing."""
        return stage_keys(self.recipe)

    def plan(self) -> list[Planned]:
        check(self.recipe)
        planned = []
        for i, stage in enumerate(self.recipe.stages):
            key = self.keys[stage.name]
            past = past_keys(self.recipe, stage)
            # Found by key, because the stage may have had another number in the recipe when it was run.
            ages = key.ages()
            own = {folder: age for age, of in enumerate(ages) for folder, past_key in past if past_key.key == of.key}
            default = self.recipe.folder / folder_name(i, stage, key)
            folder = max(reversed(own), key=lambda path: (_is_done(path), -own[path]), default=default)
            names = key.unknown_in(ages[own[folder]]) if folder in own else []
            unknown = [f"the version of the code of {', '.join(names)} that it used is unknown"] if names else []
            state, because = NEW, ["was never run"]
            if own and _is_done(folder):
                state, because = DONE, unknown
            elif (folder / "stage.json").is_file():
                state, because = RESUMES, ["was begun", *unknown]
            elif past:
                because = key.changes_since(past[-1][1])
            planned.append(Planned(stage, folder, folder / "model", state, tuple(because)))
        return planned

    def describe(self, planned: list[Planned]) -> str:
        """A line a stage."""
        width = max(len(p.stage.name) for p in planned)
        kinds = max(8, *(len(type(p.stage).__name__) for p in planned))
        marks = {DONE: "done, kept", RESUMES: "goes on", NEW: "runs"}
        lines = []
        for i, p in enumerate(planned):
            why = f": {'; '.join(p.because[:3])}" + ("; ..." if len(p.because) > 3 else "") if p.because else ""
            lines.append(f"{i:2d} {p.stage.name:<{width}}  {type(p.stage).__name__:<{kinds}}  {marks[p.state]}{why}")
            if p.state != NEW:
                note = missing_evaluations(p.stage, p.folder, finished_steps(p.stage, p.folder, p.state == DONE))
                lines += [f"{'':{width + 5}}{note}"] if note else []
        return "\n".join(lines)

    def check(self, planned: list[Planned]) -> None:
        check_inputs(self.recipe, [p.stage for p in planned if p.state != DONE])

    def check_passed(self) -> str:
        return f"{len(self.recipe.stages)} stages; settings, models, data and rewards are fine."

    def begin(self, planned: list[Planned]) -> bool:
        write_whole(self.recipe.folder / "recipe.json", recipe_to_json(self.recipe))
        print(self.describe(planned), flush=True)
        return True

    def announce(self, number: int, planned: list[Planned], seconds: float) -> None:
        stage = planned[number].stage
        place = f"{number + 1} of {len(planned)}: {stage.name} ({type(stage).__name__})"
        print(f"\n=== {place}, {duration(seconds)} so far", flush=True)

    def open(self, p: Planned) -> None:
        write_json(p.folder / "stage.json", self._record(p.stage.name))

    def _record(self, name: str) -> dict[str, object]:
        key = self.keys[name]
        kind = type(self.recipe[name]).__name__
        return {"name": name, "kind": kind, "key": key.key, "config": key.config, "inputs": key.inputs}

    def config(self, at: StageRun) -> RunConfig:
        cfg = run_config(self.recipe, at.stage)
        path = resolve_model(at.path(cfg.model.path, "model"))
        cfg = with_teachers(cfg, lambda name: resolve_model(at.path(name, "model")))
        sft = dataclasses.replace(cfg.sft, data=at.resolved(cfg.sft.data), eval_data=at.resolved(cfg.sft.eval_data))
        evaluation = dataclasses.replace(
            cfg.evaluation,
            data=at.resolved(cfg.evaluation.data),
            shots_data=at.resolved(cfg.evaluation.shots_data),
        )
        rewards = named(cfg.rewards) if cfg.rewards else {}
        return dataclasses.replace(
            cfg, name=at.folder.name, model=dataclasses.replace(cfg.model, path=path), sft=sft,
            prompts=at.resolved(cfg.prompts), evaluation=evaluation,
            rewards=tuple(_found(at, name, reward) for name, reward in rewards.items()),
        )  # fmt: skip

    def inputs(self, at: StageRun, cfg: RunConfig) -> Inputs:
        ask = at.stage.ask
        if ask is not None:
            ask = dataclasses.replace(ask, shots_data=at.resolved(ask.shots_data))
        compared = cfg.evaluation.data.source and cfg.evaluation.contamination != "off"
        before = [at.resolved(data) for data in trained_on(self.recipe, at.stage)] if compared else []
        return prepare(cfg, samples_here=at.stage.uses_machines, ask=ask, trained_on=before)

    def begun(self, p: Planned) -> dict[str, object]:
        return stage_to_dict(p.stage)

    def tracker_name(self, p: Planned) -> str:
        return f"{self.recipe.name}-{p.stage.name}"

    def finish(self, at: StageRun, held: Hardware, seconds: float) -> None:
        spent: dict[str, float] = {}
        if at.context is not None:
            at.context.tracker.close()
            # "stage" is the whole time, so the start of the machines need not be a phase.
            spent = {phase: s for phase, s in at.context.seconds.items() if phase != "start"}
        spent.setdefault("stage", seconds)
        details = {
            "seconds": spent, "seed": at.seed, "hardware": provenance.hardware(held),
            "gpu_hours": provenance.gpu_hours(held, spent), "counts": _counts(at.folder),
        }  # fmt: skip
        before = [at.folders[name] for name in inputs_of(at.stage)]
        provenance.write(at.folder, self._record(at.stage.name) | details, before)
        # A finished stage never resumes, and checkpoints are large.
        shutil.rmtree(at.folder / "checkpoints", ignore_errors=True)

    def end(self, planned: list[Planned], seconds: float) -> Path:
        print(f"\n{duration(seconds)}. Everything is in {self.recipe.folder}")
        return planned[-1].folder


def _is_done(folder: Path) -> bool:
    """Raises BadInput when the file that says so is damaged."""
    file = folder / provenance.FILE
    return file.is_file() and read_json(file, lambda record: record.keys(), provenance.REMEDY) is not None


def _found(at: StageRun, name: str, reward: RewardConfig) -> RewardConfig:
    """The reward, with a path in place of a reference to an earlier stage's reward model. It keeps its name."""
    model = reward.function.removeprefix(MODEL)
    if Reference.parse(model) is None:
        return reward
    return dataclasses.replace(reward, function=MODEL + at.path(model, "model"), name=name)


def _counts(folder: Path) -> dict[str, object]:
    """The stage's steps and tokens, from its metrics.jsonl."""
    counts: dict[str, object] = {}
    for record in read_metrics(folder):
        stage = str(record["stage"])
        counts[f"{stage} steps"] = int(str(record["step"])) + 1
        for name in ("tokens", "rollout/tokens", "learner/tokens"):
            value = record.get(name)
            if isinstance(value, int | float):
                counts[name] = float(str(counts.get(name, 0.0))) + value
    return counts
