"""A policy that training makes worse shows in the run itself: in its log, live view, summary and report."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from launch.report import write_report
from launch.report.reading import read_run
from launch.report.results import facts
from recipes.tiny import recipe as tiny
from rl.config import TrackConfig
from rl.evaluation import evaluate as module
from rl.evaluation.decline import decline, unpaired_decline
from rl.evaluation.evaluate import decline_until, eval_path, evaluate_once
from rl.evaluation.metrics import mean_and_stderr
from rl.evaluation.result import EvalResult
from rl.records.tracker import Tracker
from rl.records.whole_files import write_whole
from rl.settings.overrides import to_json
from rl.stages import reward_model
from rl.stages.reward_model import HeldOut
from rl.workflow.one_folder import OneFolder
from tests.unit.recipe_runs import folders, made_up, write_recipe

GOOD, BAD = [1.0, 1.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.25]
SAID = "held-out accuracy fell from 87.5 % after 0 steps to 6.2 % after 4 (-81.2 +- 12.0 points). The learning rate"


def result(shares: Sequence[float]) -> EvalResult:
    return EvalResult(*mean_and_stderr(shares), None, 0.0, 4.0, list(shares), samples=4)


# ------------------------------------------------------------------------------------------------ by hand


def test_a_fall_by_more_than_three_errors_is_told_with_what_to_change() -> None:
    # Differences -1, -1, -.5, -.75: mean -.8125, s^2 = .17188/3, error sqrt(.17188/12) = .1197
    found = decline({0: GOOD, 4: BAD})
    assert found is not None
    assert str(found).startswith(SAID)
    assert "lower grpo.optim.lr" in str(found)


@pytest.mark.parametrize(
    ("shares", "fell"),
    [
        ({}, False),
        ({4: BAD}, False),
        ({0: [1, 0, 1, 0], 4: [0, 0, 1, 0]}, False),  # 0.25 with an error of 0.25
        ({0: BAD, 4: GOOD}, False),
        ({0: [1.0] * 4, 4: [0.0] * 4}, True),  # every problem alike: no error at all
        ({0: [0.5] * 4, 4: [0.5] * 4}, False),
        ({0: [1.0], 4: [0.0]}, False),  # one problem has no error to speak of
        ({0: [1.0] * 3, 4: BAD}, False),  # other problems
        ({0: GOOD, 4: [math.nan] * 4}, False),
        ({0: [math.nan, *GOOD], 4: [1.0, *BAD]}, True),
        ({0: BAD, 2: GOOD, 4: BAD}, True),  # from the best on the way
        ({0: GOOD, 2: BAD, 4: BAD}, True),  # still
        ({0: GOOD, 2: BAD, 4: GOOD}, False),  # it has recovered
    ],
)
def test_what_chance_may_explain_is_no_fall(shares: dict[int, list[float]], fell: bool) -> None:
    assert (decline(shares) is not None) is fell


def test_the_best_is_named_and_the_first_where_only_that_is_sure() -> None:
    best = decline({0: BAD, 2: GOOD, 4: BAD})
    assert best is not None
    assert (best.before_step, best.step) == (2, 4)
    # From step 2: -.65 three times and +.25, mean -.425 with an error of .225. From step 0 each falls by .4.
    first = decline({0: [0.75] * 4, 2: [1.0, 1.0, 1.0, 0.1], 4: [0.35] * 4})
    assert first is not None
    assert first.before_step == 0


def test_without_single_problems_the_errors_of_both_count() -> None:
    found = unpaired_decline({0: (0.9, 0.03), 5: (0.7, 0.04)}, "reward.optim.lr")
    assert found is not None
    assert found.stderr == pytest.approx(0.05)
    assert str(found).endswith("most likely too high: lower reward.optim.lr, for example to a third")
    assert unpaired_decline({0: (0.9, 0.03), 5: (0.8, 0.04)}, "reward.optim.lr") is None
    assert unpaired_decline({0: (0.9, math.nan), 5: (0.1, 0.04)}, "reward.optim.lr") is None
    assert unpaired_decline({5: (0.9, 0.03)}, "reward.optim.lr") is None
    best = unpaired_decline({0: (0.6, 0.03), 3: (0.9, 0.03), 5: (0.7, 0.04)}, "reward.optim.lr")
    assert best is not None
    assert best.before_step == 3


def test_a_reward_model_that_gets_worse_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Tracker(tmp_path, TrackConfig(wandb="off"), name="x", console=Console(file=io.StringIO())) as tracker:
        ctx: Any = SimpleNamespace(run_dir=tmp_path, tracker=tracker, timed=lambda phase: io.StringIO())
        for step, accuracy in ((0, 0.6), (3, 0.9), (6, 0.7)):
            found = HeldOut(accuracy, 0.03, 0.1, 0.5, 200)
            monkeypatch.setattr(reward_model, "held_out_accuracy", lambda *a, found=found: found)
            reward_model._measure(ctx, step, None, None)  # type: ignore[arg-type]
            told = "fell from 90.0 % after 3 steps to 70.0 % after 6" in (tmp_path / "log.txt").read_text()
            assert told is (step == 6)


# ------------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """measure(step, shares) evaluates as a training loop does; the tracker and its screen are attributes."""
    screen = io.StringIO()
    tracker = Tracker(tmp_path, TrackConfig(wandb="off"), name="x", console=Console(file=screen, width=300))
    ctx: Any = SimpleNamespace(
        run_dir=tmp_path, tracker=tracker, evaluated=lambda folder: None,
        timed=lambda phase: io.StringIO(),
    )  # fmt: skip

    def measure(step: int, shares: Sequence[float]) -> None:
        monkeypatch.setattr(module, "evaluate", lambda *a, **k: (result(shares), []))
        evaluate_once(ctx, step, [], None)  # type: ignore[arg-type]

    measure.tracker, measure.screen = tracker, screen  # type: ignore[attr-defined]
    yield measure
    tracker.close()


def view(tracker: Tracker) -> str:
    screen = io.StringIO()
    Console(file=screen, width=300).print(tracker._bar.view())
    return screen.getvalue()


def test_a_fall_is_in_the_log_and_stays_in_the_live_view_until_accuracy_recovers(measure: Any, tmp_path: Path) -> None:
    measure(0, GOOD)
    assert "warning" not in view(measure.tracker)
    measure(4, BAD)
    assert f"warning: {SAID}" in measure.screen.getvalue()
    assert f"warning: {SAID}" in view(measure.tracker)
    assert SAID in (tmp_path / "log.txt").read_text()
    measure(8, GOOD)
    assert "warning" not in view(measure.tracker)


def test_later_files_of_a_killed_run_say_nothing_of_an_earlier_step(tmp_path: Path) -> None:
    for step, shares in ((0, GOOD), (4, GOOD), (8, BAD)):
        result(shares).write(eval_path(tmp_path, step))
    assert decline_until(tmp_path, 4) is None
    assert decline_until(tmp_path, 8) is not None


# ------------------------------------------------------------------------------------------------ summary, report


@pytest.mark.parametrize(("last", "fell"), [(BAD, True), (GOOD, False)])
def test_a_fall_is_in_the_summary_and_in_the_report(tmp_path: Path, last: list[float], fell: bool, capsys) -> None:
    base = tiny()
    cfg = dataclasses.replace(base, out=str(tmp_path), grpo=dataclasses.replace(base.grpo, steps=4))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    layout = OneFolder(cfg)
    with Tracker(cfg.run_dir, TrackConfig(wandb="off"), name="x", console=Console(file=io.StringIO())) as tracker:
        for step, shares in ((0, GOOD), (4, last)):
            result(shares).write(eval_path(cfg.run_dir, step))
            tracker.step("eval", step, result(shares).metrics())
        at: Any = SimpleNamespace(stage=layout.recipe.stages[-1], ctx=SimpleNamespace(tracker=tracker, seconds={}))
        layout.finish(at, None, 0.0)  # type: ignore[arg-type]
    summary = json.loads((cfg.run_dir / "summary.json").read_text())
    assert summary.get("warning", "").startswith(SAID) is fell
    assert (f"Warning: {SAID}" in " ".join((cfg.run_dir / "summary.txt").read_text().split())) is fell
    assert any(f.label == "Warning" and f.value.startswith(SAID) for f in facts(read_run(cfg.run_dir))) is fell
    assert (SAID in write_report([cfg.run_dir]).read_text()) is fell


def test_a_fall_of_a_stage_is_in_the_recipes_report(tmp_path: Path) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    assert "held-out accuracy fell" not in write_report([recipe.folder]).read_text()
    zero = folders(recipe)["zero"]
    count = len(json.loads(eval_path(zero, 0).read_text())["correct_P"])
    result([0.0] * count).write(eval_path(zero, 12))
    assert "held-out accuracy fell from" in write_report([recipe.folder]).read_text()
