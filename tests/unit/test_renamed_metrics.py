"""Metrics that have a new name: both names are written for one version, and what an older version wrote is read."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from launch.report.reading import read_run
from rl.config import TrackConfig
from rl.evaluation.result import EvalResult
from rl.records.metrics_file import read_metrics
from rl.records.renamed_metrics import NEW_NAMES, with_new_names, with_old_names
from rl.records.tracker import Tracker
from rl.rollouts.step_metrics import RewardStats
from rl.stages.compare import measure
from rl.types import Queue

EVALUATED = EvalResult(0.5, 0.1, None, 0.0, 12.0, [0.5, 0.5], without_verdict=3, samples=4)


def written_metrics() -> dict[str, float]:
    """Every metric that has an old name, as the rollout queue and an evaluation report it."""
    return RewardStats(2.0, 1, 2, 3, Queue(4, 5, 6)).metrics() | EVALUATED.metrics()


def tracked(folder: Path, *metrics: dict[str, float]) -> list[dict[str, float]]:
    """What a sink, as the gauges are one, is told of steps with these metrics."""
    told: list[dict[str, float]] = []
    cfg = TrackConfig(wandb="off", rollouts=False)
    with Tracker(folder, cfg, name="r", console=Console(file=io.StringIO())) as track:
        track.attach(lambda run, stage, step, record: told.append(dict(record)), Queue)
        for step, numbers in enumerate(metrics):
            track.step("grpo", step, numbers)
    return told


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_new_name_of_the_table_is_written_and_no_old_one_is_in_the_code() -> None:
    assert set(NEW_NAMES.values()) <= set(written_metrics())
    assert not set(NEW_NAMES) & set(written_metrics())


@pytest.mark.parametrize(("old", "new"), NEW_NAMES.items())
def test_dashboards_with_the_old_name_still_get_their_numbers(tmp_path: Path, old: str, new: str) -> None:
    metrics = written_metrics()
    (told,) = tracked(tmp_path, metrics)
    (line,) = lines(tmp_path)
    assert told[old] == told[new] == line[old] == line[new] == metrics[new]


def test_a_resume_leaves_both_names_in_the_lines_it_keeps(tmp_path: Path) -> None:
    tracked(tmp_path, {"seconds/rewards": 1.0}, {"seconds/rewards": 2.0})
    with Tracker(tmp_path, TrackConfig(wandb="off"), name="r", console=Console(file=io.StringIO())) as track:
        track.resume({"grpo": 1})
    (kept,) = lines(tmp_path)
    assert kept["seconds/scoring"] == kept["seconds/rewards"] == 1.0


def test_the_time_of_a_step_is_not_counted_under_both_names(tmp_path: Path) -> None:
    tracked(tmp_path, {"seconds/rewards": 1.0})
    (record,) = read_metrics(tmp_path)
    assert record["seconds/rewards"] == 1.0
    assert "seconds/scoring" not in record


def test_a_run_of_an_older_version_is_read_by_the_new_names(tmp_path: Path) -> None:
    old = {"stage": "grpo", "step": 0, "time": 1.0, "seconds": 9.0, "seconds/scoring": 1.5, "scoring/killed": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    (record,) = read_run(tmp_path).records
    assert record.metrics == {"seconds/rewards": 1.5, "reward_calls/killed": 2.0}


def test_an_evaluation_is_read_by_either_name_and_a_claim_may_use_either(tmp_path: Path) -> None:
    of_today, older = tmp_path / "a" / "evals" / "step_000000.json", tmp_path / "b" / "evals" / "step_000000.json"
    EVALUATED.write(of_today)
    assert json.loads(of_today.read_text())["unjudged"] == 3
    older.parent.mkdir(parents=True)
    values = asdict(EVALUATED)
    values["unjudged"] = values.pop("without_verdict")
    older.write_text(json.dumps(values))
    assert EvalResult.read(of_today) == EvalResult.read(older)
    folders = {name: tmp_path / name for name in ("a", "b")}
    found = {measure(f"@{stage}:{name}", folders).value for stage in "ab" for name in ("unjudged", "without_verdict")}
    assert found == {3.0}


def test_names_are_turned_both_ways() -> None:
    both = with_old_names({"seconds/rewards": 2.0, "reward/mean": 0.5})
    assert both == {"seconds/rewards": 2.0, "seconds/scoring": 2.0, "reward/mean": 0.5}
    assert with_new_names(both) == {"seconds/rewards": 2.0, "reward/mean": 0.5}
