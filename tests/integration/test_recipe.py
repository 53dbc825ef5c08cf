"""The whole R1 recipe in miniature (scale=tiny), killed three times: the same numbers, no stage twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.recipes import load
from rl.recipe import Evaluate, Recipe, Reject
from rl.settings.overrides import apply_stage_overrides
from rl.workflow.stage_folders import StageFolders

ROOT = Path(__file__).parents[2]
SHORT = [  # a few steps of everything: what is tested is the machinery
    "base.sft.steps=40", "zero.grpo.steps=2", "reason.grpo.steps=2", "final.grpo.steps=2", "student_rl.grpo.steps=2",
    "student_base.sft.steps=20", "cold.sft.steps=6", "sft.sft.steps=6", "student.sft.steps=6", "checkpoint.every=1",
    "chat_rm.reward.steps=4",
    "zero_picks.reject.min_score=-9", "zero_picks.reject.correct=false", "picks.reject.min_score=-9",
    "picks.reject.correct=false", "zero_picks.reject.min_language_share=0", "picks.reject.min_language_share=0",
    "zero_picks.prompts.limit=32", "picks.prompts.limit=32", "chat_samples.prompts.limit=32", "learner.threads=1", "track.wandb=off",
]  # fmt: skip


def recipe(out: Path) -> Recipe:
    made = load("recipes/r1_mini.py", ["scale=tiny", *SHORT, f"out={out}"])
    assert isinstance(made, Recipe)
    evaluations = [f"{s.name}.evaluation.data.limit=8" for s in made.stages if isinstance(s, Evaluate)]
    return apply_stage_overrides(made, evaluations)


def start(made: Recipe, folder: Path) -> subprocess.Popen[bytes]:
    import ray

    from rl.settings.overrides import recipe_to_json

    file = folder / f"{Path(made.out).name}.json"
    file.write_text(recipe_to_json(made))
    env = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    log = (folder / f"{Path(made.out).name}.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "run", str(file)], stdout=log, stderr=log, cwd=ROOT, env=env
    )


def finish(process: subprocess.Popen[bytes], made: Recipe, folder: Path) -> None:
    code = process.wait(timeout=1200)
    assert code == 0, (folder / f"{Path(made.out).name}.log").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_killed_three_times_ends_with_the_numbers_of_one_left_alone(tmp_path: Path) -> None:
    alone, killed = recipe(tmp_path / "alone"), recipe(tmp_path / "killed")
    finish(start(alone, tmp_path), alone, tmp_path)
    rng = random.Random(3)
    finished: dict[str, float] = {}
    for number in (2, 9, 19):  # so many stages are done, and then a moment more
        process = start(killed, tmp_path)
        deadline = time.monotonic() + 900
        while sum(p.state == "done" for p in StageFolders(killed).plan()) < number:
            assert process.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(rng.random() * 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for p in StageFolders(killed).plan():
            if p.state == "done":
                when = (p.folder / "provenance.json").stat().st_mtime
                assert finished.setdefault(p.stage.name, when) == when, f"{p.stage.name} ran twice"
    finish(start(killed, tmp_path), killed, tmp_path)
    mine, theirs = (_claims(made) for made in (killed, alone))
    assert mine == theirs
    assert len(mine) == 10
    for name, when in finished.items():
        folder = next(p.folder for p in StageFolders(killed).plan() if p.stage.name == name)
        assert (folder / "provenance.json").stat().st_mtime == when, f"{name} ran twice"
    _check_datasets(killed)
    _check_provenance(killed)


def _claims(made: Recipe) -> list[dict]:  # type: ignore[type-arg]
    folder = next(p.folder for p in StageFolders(made).plan() if p.stage.name == "claims")
    claims: list[dict] = json.loads((folder / "claims.json").read_text())  # type: ignore[type-arg]
    return claims


def _check_datasets(made: Recipe) -> None:
    """The counts of a rejection stage add up, and the mixture holds each row once."""
    for p in StageFolders(made).plan():
        if isinstance(p.stage, Reject):
            report = json.loads((p.folder / "yield.json").read_text())
            assert sum(report["by_reason"].values()) == report["samples"] == 32 * p.stage.reject.samples
            rows = [json.loads(line) for line in (p.folder / "data.jsonl").read_text().splitlines()]
            assert len(rows) == report["by_reason"]["kept"]
    mixed = next(p.folder for p in StageFolders(made).plan() if p.stage.name == "mixed")
    rows = [json.loads(line) for line in (mixed / "data.jsonl").read_text().splitlines()]
    assert len({(r["prompt"], " ".join(r["target"].split())) for r in rows}) == len(rows)
    assert {row["domain"] for row in rows} == {"reasoning", "chat"}


def _check_provenance(made: Recipe) -> None:
    """The final model's record goes back to the base model."""
    from rl.records.provenance import read

    folder = next(p.folder for p in StageFolders(made).plan() if p.stage.name == "final")
    records = read(folder / "model")
    assert all(record["hardware"]["nodes"] == 1 and "gpu_hours" in record for record in records)
    names = [record["name"] for record in records]
    assert names[-1] == "final"
    assert names.index("base") < names.index("zero") < names.index("cold") < names.index("reason") < names.index("sft")
