"""launch/report/compute.py and compute_figure.py: accuracy against compute, from a run's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.report import write_report
from launch.report.compute import Line, label_of, planes
from launch.report.compute_figure import FILE, draw_compute, short
from rl.evaluation.evaluate import eval_path
from rl.evaluation.result import EvalResult


def result(accuracy: float) -> EvalResult:
    ks = {"1": (accuracy, 0.05), "2": (accuracy + 0.1, 0.04), "4": (accuracy + 0.2, 0.03)}
    return EvalResult(
        accuracy, 0.05, None, 0.0, 10.0, [accuracy, accuracy], ks, cons=accuracy + 0.05, cons_stderr=0.02, samples=4,
        selected={
            "cons@1": [0.2, 0.4], "cons@2": [0.3, 0.5], "cons@4": [0.4, 0.6],
            "best@1:prm": [0.2, 0.4], "best@2:prm": [0.4, 0.6], "best@4:prm": [0.3, 0.5],
        },
        prompt_length=1.0, scorer_cost={"prm": 5.0},
        searched={"beam-2x2": {"correct": [1.0, 0.0], "vote": [], "tokens": [60.0, 80.0]}},
    )  # fmt: skip


def run_folder(folder: Path) -> Path:
    for step, accuracy in ((0, 0.2), (2, 0.4), (4, 0.5)):
        result(accuracy).write(eval_path(folder, step))
    records = [
        {"stage": "grpo", "step": step, "time": 0, "seconds": 1, "rollout/tokens": 100.0, "learner/tokens": 50.0}
        for step in range(4)
    ]
    records += [
        {"stage": "eval", "step": step, "time": 0, "seconds": 1} | result(accuracy).metrics()
        for step, accuracy in ((0, 0.2), (2, 0.4), (4, 0.5))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def by_label(lines: list[Line]) -> dict[str, Line]:
    return {line.label: line for line in lines}


def test_test_time_tokens_include_the_scorers_and_searches_are_points(tmp_path: Path):
    training, tokens, samples = planes(run_folder(tmp_path))
    # 250 a step: 100 sampled, and three times 50 trained on.
    assert by_label(training.lines)["pass@1"].x == [500.0, 1000.0]
    assert by_label(training.lines)["pass@1"].y == [0.4, 0.5]
    before = by_label(training.lines)["pass@1 before"]
    assert (before.form, before.x, before.y) == ("bound", [500.0, 1000.0], [0.2, 0.2])
    lines = by_label(tokens.lines)
    assert lines["majority"].x == [11.0, 21.0, 41.0]
    assert lines["best by prm"].x == [16.0, 31.0, 61.0]
    assert lines["best by prm"].y == pytest.approx([0.3, 0.5, 0.4])  # it falls: more samples fool the scorer
    assert lines["best by prm"].stderr == pytest.approx([0.1, 0.1, 0.1])
    assert (lines["search beam-2x2"].form, lines["search beam-2x2"].x, lines["search beam-2x2"].y) == (
        "point",
        [70.0],
        [0.5],
    )
    assert by_label(samples.lines)["any correct (pass@k)"].y == pytest.approx([0.5, 0.6, 0.7])
    assert by_label(samples.lines)["majority"].x == [1.0, 2.0, 4.0]


def test_a_stage_that_only_evaluates_has_no_training_and_one_that_does_not_has_nothing(tmp_path: Path):
    assert planes(tmp_path) == []
    assert draw_compute(tmp_path, title="t") is None
    result(0.5).write(eval_path(tmp_path, 0))
    assert [plane.title for plane in planes(tmp_path)] == ["Test time, by tokens", "Test time, by samples"]


def test_the_figure_and_the_page_have_every_plot(tmp_path: Path):
    folder = run_folder(tmp_path)
    assert draw_compute(folder, title="a run") == folder / FILE
    assert (folder / FILE).read_bytes().startswith(b"\x89PNG")
    page = write_report([folder]).read_text()
    for text in ("Test time, by tokens", "search beam-2x2", "computeSection"):
        assert text in page


def test_names_and_numbers_are_for_readers():
    assert [label_of(kind) for kind in ("cons", "best:prm", "weighted:prm", "best:shortest", "best:logprob")] == [
        "majority", "best by prm", "votes weighted by prm", "shortest", "likeliest",
    ]  # fmt: skip
    assert [short(tokens) for tokens in (512, 2048, 3 << 20)] == ["512", "2 k", "3 M"]
