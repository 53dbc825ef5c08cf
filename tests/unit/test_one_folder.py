"""The folder of a run (rl/workflow/one_folder.py): what begins it, and the summary that ends it."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from recipes.tiny import recipe as tiny
from rl.config import RunConfig, TrackConfig
from rl.context import Context, StageRun, Stop
from rl.evaluation.evaluate import eval_path
from rl.evaluation.result import EvalResult
from rl.records.tracker import Tracker
from rl.records.whole_files import write_json, write_whole
from rl.settings.overrides import apply_overrides, to_json
from rl.types import Hardware
from rl.workflow.one_folder import OneFolder


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    return dataclasses.replace(tiny(), out=str(tmp_path))


def test_a_new_run_and_one_that_was_begun_have_work_to_do(cfg: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    layout = OneFolder(cfg)
    assert layout.begin(layout.plan())
    layout.begun(layout.plan()[0])
    assert layout.begin(layout.plan())
    assert "complete" not in capsys.readouterr().out


def test_a_complete_run_shows_its_table_again_and_has_no_work(
    cfg: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    write_json(cfg.run_dir / "summary.json", {"steps": cfg.grpo.steps})
    write_whole(cfg.run_dir / "summary.txt", "the table")
    layout = OneFolder(cfg)
    assert not layout.begin(layout.plan())
    assert "the table" in capsys.readouterr().out


def finished(cfg: RunConfig, stage: int) -> Path:
    """Evaluations before and after GRPO, then what ends the stage of that number. Returns where the summary goes."""
    for step, share in ((0, 0.25), (cfg.grpo.steps, 0.75)):
        measured = EvalResult(share, 0.1, 0.5, 0.0, 12.0, [share, share])
        write_json(eval_path(cfg.run_dir, step), dataclasses.asdict(measured))
    layout, folders = OneFolder(cfg), {"sft": cfg.run_dir, "grpo": cfg.run_dir}
    with Tracker(cfg.run_dir, TrackConfig(wandb="off"), name="r", console=Console(file=io.StringIO())) as tracker:
        stop = Stop()
        ctx = Context(cfg, None, None, tracker, stop, 256)  # type: ignore[arg-type]
        ctx.seconds["update"] = 7.0
        at = StageRun(
            layout.recipe, layout.recipe.stages[stage], cfg.run_dir, cfg.run_dir / "model", folders, stop,
            lambda cfg: pytest.fail("it starts no rewards"), context=ctx,
        )  # fmt: skip
        layout.finish(at, Hardware(1, {}), 9.0)
    return cfg.run_dir / "summary.json"


def test_the_last_stage_ends_a_run_with_both_evaluations_and_their_gain(cfg: RunConfig) -> None:
    summary = json.loads(finished(cfg, stage=1).read_text())
    assert summary["before"]["pass@1"] == 0.25
    assert summary["after"]["pass@1"] == 0.75
    assert summary["gain"] == 0.5
    assert summary["steps"] == cfg.grpo.steps
    assert summary["seconds"] == {"update": 7.0}


def test_a_stage_before_the_last_does_not_end_the_run(cfg: RunConfig) -> None:
    assert not finished(cfg, stage=0).exists()


def test_a_run_without_held_out_problems_has_a_summary_without_them(cfg: RunConfig) -> None:
    summary = json.loads(finished(apply_overrides(cfg, ["evaluation.data.source="]), stage=1).read_text())
    assert summary["before"] is None
    assert summary["after"] is None
    assert summary["gain"] is None
