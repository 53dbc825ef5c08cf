"""A recipe's folder for the tests of its report, written by what writes the real ones; no machine is started."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from rl.config import (
    DataConfig,
    EvalConfig,
    GRPOConfig,
    MixConfig,
    MixPart,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
    TrackConfig,
)
from rl.evaluation.result import EvalResult
from rl.recipe import GRPO, SFT, Claim, Compare, Evaluate, Mix, Prefer, Recipe, Reject, RewardTraining, inputs_of
from rl.records import provenance
from rl.records.tracker import Tracker
from rl.settings.overrides import recipe_to_json
from rl.stages.compare import compare
from rl.stages.mix import mix
from rl.stages.sample_files import write_kept
from rl.workflow.stage_keys import folder_name, stage_keys
from tests.unit.report_runs import write_run

PROBLEMS = 20
HELD, BROKEN = "RL raises accuracy", "SFT on </script> the picks beats RL"


def made_up(folder: Path, **knobs: float) -> Recipe:
    """SFT, GRPO with an evaluation of its own, an evaluation, picks, a mixture, SFT of it, an evaluation, two claims.

    knobs: of zero's GRPO.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": str(i), "target": "t"}) + "\n" for i in range(6)))
    data, held_out = DataConfig(source=str(train)), DataConfig(source="org/held-out", split="test")
    rewards, roll = (RewardConfig("accuracy"),), RolloutConfig(max_new_tokens=8)
    examined = EvalConfig(data=held_out, samples=4)
    claims = (
        Claim(HELD, "@zero:pass@1", "@zero:before/pass@1"),
        Claim(BROKEN, "@eval_last:pass@1", "@eval_zero:pass@1", at_least=0.1, z=3),
    )
    stages = (
        SFT("cold", "org/base", SFTConfig(steps=3, data=data)),
        GRPO("zero", "@cold", data, rewards, roll, GRPOConfig(steps=12, **knobs), examined),  # type: ignore[arg-type]
        Evaluate("eval_zero", "@zero", rewards, roll, examined),
        Reject("picks", "@zero", data, rewards, roll, RejectConfig(samples=2)),
        Mix("mixed", MixConfig(parts=(MixPart(DataConfig(source="@picks")), MixPart(data)))),
        SFT("last", "@cold", SFTConfig(steps=3, data=DataConfig(source="@mixed"))),
        Evaluate("eval_last", "@last", rewards, roll, examined),
        Compare("claims", claims),
    )
    return Recipe("made-up", RunConfig(track=TrackConfig(wandb="off")), stages, out=str(folder))


def write_recipe(recipe: Recipe, done: int | None = None) -> Path:
    """The folder when the first `done` stages (default: all) are over and the next, if any, was just begun."""
    done = len(recipe.stages) if done is None else done
    recipe.folder.mkdir(parents=True, exist_ok=True)
    (recipe.folder / "recipe.json").write_text(recipe_to_json(recipe))
    for number in range(min(done + 1, len(recipe.stages))):
        folder = begin(recipe, number)
        if number < done and not (folder / provenance.FILE).exists():
            work(recipe, number, folder)
            end(recipe, number, folder)
    return recipe.folder


def folders(recipe: Recipe) -> dict[str, Path]:
    keys = stage_keys(recipe)
    return {s.name: recipe.folder / folder_name(i, s, keys[s.name]) for i, s in enumerate(recipe.stages)}


def begin(recipe: Recipe, number: int) -> Path:
    """As rl/workflow/stage_folders.py begins a stage."""
    stage = recipe.stages[number]
    folder, key = folders(recipe)[stage.name], stage_keys(recipe)[stage.name]
    folder.mkdir(exist_ok=True)
    record = {
        "name": stage.name,
        "kind": type(stage).__name__,
        "key": key.key,
        "config": key.config,
        "inputs": key.inputs,
    }
    (folder / "stage.json").write_text(json.dumps(record))
    return folder


def end(recipe: Recipe, number: int, folder: Path) -> None:
    """As rl/workflow/stage_folders.py ends a stage; it took 10 s, 8 s of them in phases."""
    record = json.loads((folder / "stage.json").read_text())
    before = [folders(recipe)[name] for name in inputs_of(recipe.stages[number])]
    details = {"seconds": {"load": 1.0, "work": 7.0, "stage": 10.0}, "seed": recipe.base.seed, "counts": {}}
    provenance.write(folder, record | details, before)


def work(recipe: Recipe, number: int, folder: Path) -> None:
    """What the stage writes while it works."""
    stage = recipe.stages[number]
    if isinstance(stage, SFT):
        with tracker(folder) as track:
            for step in range(stage.sft.steps):
                metrics = {"nll": 2.0 - step / 2, "grad_norm": 3.0 - step, "lr": 1e-4 / (step + 1)}
                track.step("sft", step, metrics | {"tokens": 120.0, "learner/tokens": 100.0})
    elif isinstance(stage, GRPO):
        write_run(folder, steps=stage.grpo.steps, tokenizer=False, summary=False)
        (folder / "resolved.json").unlink()  # a stage has stage.json instead
    elif isinstance(stage, Evaluate):
        last = stage.name == "eval_last"
        correct_P = [float(i % 4 == 0) if last else float(i % 2) for i in range(PROBLEMS)]
        result = EvalResult(
            sum(correct_P) / PROBLEMS, 0.1, None, 0.25, 40.0, correct_P, pass_at={"4": (0.75, 0.09)}, cons=0.6,
            cons_stderr=0.11, thought_mean=30.0, answer_mean=10.0, format=0.9, language=0.8, samples=4,
        )  # fmt: skip
        with tracker(folder) as track:
            track.step("eval", 0, result.metrics())
        result.write(folder / "evals" / "step_000000.json")
    elif isinstance(stage, Reject):
        with tracker(folder) as track:
            track.step("reject", 0, {"kept_share": 0.25, "rollout/tokens": 60.0})
        samples = [
            {"text": f"<think>{i}</think> {i}", "tokens": 5, "reason": r}
            for i, r in enumerate(("kept: shortest", "not correct: 3"))
        ]
        lines = [
            {"prompt_id": i, "prompt": f"{i}?", "answer": str(i), "row": {"prompt": f"{i}?", "answer": str(i)},
             "samples": samples if i % 2 else samples[1:] * 2}
            for i in range(6)
        ]  # fmt: skip
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_kept(folder)
    elif isinstance(stage, Prefer):
        (folder / "yield.json").write_text(json.dumps({"prompts": 6, "pairs": 9, "by_fate": {"kept": 5, "tie": 4}}))
    elif isinstance(stage, RewardTraining):
        with tracker(folder) as track:
            for step in range(stage.reward.steps):
                track.step("eval", step, {"accuracy": 0.5 + step / 4, "accuracy/stderr": 0.1, "margin": 0.1 + step})
                metrics = {
                    "loss": 0.7 - step / 10,
                    "accuracy": 0.6 + step / 10,
                    "margin": 0.2 + step,
                    "lr": 1 / (step + 1),
                }
                track.step("reward", step, metrics | {"grad_norm": 3.0 - step, "tokens": 120.0})
    elif isinstance(stage, Mix):
        parts = tuple(
            MixPart(DataConfig(source=str(folders(recipe)["picks"] / "data.jsonl"))) if p.data.source == "@picks" else p
            for p in stage.mix.parts
        )
        mix(folder, MixConfig(parts=parts), 1)
    elif isinstance(stage, Compare):
        compare(folder, stage.claims, folders(recipe))


def tracker(folder: Path) -> Tracker:
    return Tracker(folder, TrackConfig(wandb="off"), name=folder.name, console=Console(file=io.StringIO()))
