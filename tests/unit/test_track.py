"""What a run writes and shows: nothing twice, nothing half, also after a kill."""

from __future__ import annotations

import builtins
import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import rl.records.rollout_files
import rl.records.tracker
from launch.report.curve_figure import Curve, draw_run, smooth, text_curve
from rl.config import TrackConfig
from rl.records.metric_groups import panel_name
from rl.records.metrics_file import read_metrics
from rl.records.rollout_files import rollouts_path, write_rollouts
from rl.records.summary import Gain, Measured, write_summary
from rl.records.terminal import Bar, duration, sparkline
from rl.records.tracker import Tracker, stats_metrics
from rl.records.wandb_run import WandbRun
from rl.types import (
    AhaError,
    BadInput,
    GradedGroup,
    Prompt,
    Queue,
    RewardPart,
    Rollout,
    RolloutGroup,
    ScoredGroup,
    StepStats,
    Verdict,
)
from tests.unit.wandb_files import offline_files, offline_history

OFF = TrackConfig(wandb="off")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def start(tmp_path, screen):
    """Opens trackers on one run folder and closes them all at the end."""
    opened = []

    def open_tracker(cfg: TrackConfig = OFF, console: Console | None = None) -> Tracker:
        opened.append(Tracker(tmp_path / "run", cfg, name="test", console=console or screen))
        return opened[-1]

    yield open_tracker
    for tracker in opened:
        tracker.close()


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def scored_group(text: str = "<answer>4</answer>") -> ScoredGroup:
    ids, logprobs = np.array([5, 6, 7], np.int32), np.array([-1.0, -2.0, -3.0], np.float32)
    rollouts_G = [Rollout(ids, logprobs, text, "stop", 0.7, 3, seed) for seed in (11, 12)]
    prompt = Prompt(id=4, draw=9, token_ids=[1], text="2 + 2?", reference="4", row={})
    good, bad = RewardPart(1.0, Verdict.CORRECT), RewardPart(math.nan, Verdict.FAILED, "KeyError: x")
    return ScoredGroup(
        group=RolloutGroup(prompt, rollouts_G),
        rewards_G=[2.0, math.nan],
        parts_G=[{"accuracy": good}, {"accuracy": good, "judge": bad}],
        advantages_G=[0.5, 0.0],
        valid_G=[True, False],
        uniform=False,
    )


def identities(run_dir: Path) -> list[tuple[object, object]]:
    return [(r["stage"], r["step"]) for r in read_metrics(run_dir)]


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def test_a_step_is_one_line_with_its_identity_first(start):
    track = start()
    track.step("grpo", 3, {"reward/mean": 0.5, "updates": 2})
    (line,) = (track.run_dir / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert list(record)[:4] == ["stage", "step", "time", "seconds"]
    assert (record["stage"], record["step"], record["reward/mean"], record["updates"]) == ("grpo", 3, 0.5, 2)
    frame = pd.read_json(track.run_dir / "metrics.jsonl", lines=True)
    assert frame["reward/mean"].tolist() == [0.5]


def test_numbers_that_json_lacks_become_null_and_numpys_are_numbers(start):
    track = start()
    track.step("grpo", 0, {"gap": math.nan, "norm": math.inf, "f": np.float32(0.5), "i": np.int64(3), "b": True})
    (record,) = read_metrics(track.run_dir)
    assert (record["gap"], record["norm"], record["f"], record["i"], record["b"]) == (None, None, 0.5, 3, 1)


def test_each_line_is_on_disk_when_step_returns(start, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    track = start()
    track.step("grpo", 0, {"a": 1.0})
    assert synced == [(track.run_dir / "metrics.jsonl").stat().st_size]


def test_one_step_of_a_stage_is_never_recorded_twice(start):
    track = start()
    track.step("sft", 0, {})
    track.step("grpo", 0, {})  # another stage counts for itself
    with pytest.raises(AhaError, match="grpo step 0 is recorded already"):
        track.step("grpo", 0, {})
    track.close()
    again = start()
    with pytest.raises(AhaError, match="recorded already"):
        again.step("grpo", 0, {})
    assert identities(track.run_dir) == [("sft", 0), ("grpo", 0)]


def test_resuming_forgets_exactly_what_will_be_done_again(start):
    track = start()
    for stage, steps in (("sft", 3), ("eval", 1), ("grpo", 5)):
        for step in range(steps):
            track.step(stage, step, {}, [scored_group()] if stage == "grpo" else [])
    track.step("eval", 5, {})
    track.close()
    track = start()
    track.resume({"sft": 3, "grpo": 2, "eval": 2})
    expected = [("sft", 0), ("sft", 1), ("sft", 2), ("eval", 0), ("grpo", 0), ("grpo", 1)]
    assert identities(track.run_dir) == expected
    assert sorted(p.name for p in (track.run_dir / "rollouts").iterdir()) == [
        "step_000000.parquet",
        "step_000001.parquet",
    ]
    track.step("grpo", 2, {})
    assert identities(track.run_dir) == [*expected, ("grpo", 2)]
    track.resume({"sft": 1})  # what is not named is forgotten whole
    assert identities(track.run_dir) == [("sft", 0)]
    assert list((track.run_dir / "rollouts").iterdir()) == []


def test_evaluation_rollouts_follow_their_own_stage(start):
    track = start()
    for step in (0, 4):
        track.step("eval", step, {}, [scored_group()])
    track.step("grpo", 0, {}, [scored_group()])
    track.resume({"eval": 4})
    assert [p.name for p in (track.run_dir / "rollouts").iterdir()] == ["eval_000000.parquet"]


def test_a_last_line_cut_short_by_a_kill_is_dropped_and_the_next_one_is_whole(start):
    track = start()
    track.step("grpo", 0, {"a": 1.0})
    track.step("grpo", 1, {"a": 2.0})
    track.close()
    path = track.run_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert identities(track.run_dir) == [("grpo", 0)]
    track = start()
    track.step("grpo", 1, {"a": 3.0})
    assert [r["a"] for r in read_metrics(track.run_dir)] == [1.0, 3.0]


@pytest.mark.parametrize("damage", ['{"stage": "gr', "3", '{"step": 1}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_text(
        f'{{"stage": "grpo", "step": 0}}\n{damage}\n{{"stage": "grpo", "step": 2}}\n'
    )
    with pytest.raises(AhaError, match=r"metrics\.jsonl line 2 is damaged"):
        read_metrics(tmp_path)


def test_a_kill_while_resuming_leaves_the_old_records_or_the_new_ones(start, monkeypatch):
    track = start()
    for step in range(4):
        track.step("grpo", step, {})
    before = (track.run_dir / "metrics.jsonl").read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        track.resume({"grpo": 2})
    assert (track.run_dir / "metrics.jsonl").read_bytes() == before


def test_a_run_killed_at_any_moment_and_resumed_has_each_step_once(tmp_path):
    code = (
        "import sys, pathlib, os\n"
        "from rl.records.tracker import Tracker\n"
        "from rl.config import TrackConfig\n"
        "t = Tracker(pathlib.Path(sys.argv[1]), TrackConfig(wandb='off'), name='x')\n"
        "t.resume({'grpo': int(sys.argv[2])})\n"
        "print('ready', flush=True)\n"
        "for step in range(int(sys.argv[2]), 10**6): t.step('grpo', step, {'a': step})\n"
    )
    first = 0
    for wait in (20, 45):
        command = [sys.executable, "-c", code, str(tmp_path), str(first)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdout is not None
        for _ in range(wait):  # so many lines of progress, then a kill at whatever it is doing
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        child.wait(timeout=30)
        first = len(read_metrics(tmp_path)) // 2
    steps = [r["step"] for r in read_metrics(tmp_path)]
    assert len(steps) > 20
    assert steps == list(range(len(steps)))


def test_nothing_but_the_log_is_written_before_the_first_step(start):
    track = start()
    track.begin("grpo", 10)
    assert [p.name for p in track.run_dir.iterdir()] == ["log.txt"]


def test_a_learners_report_becomes_flat_metrics():
    stats = StepStats(0.5, 1.5, 1e-6, gap_mean=0.1, tokens=7, metrics={"entropy": 2.0}, seconds={"update": 3.0})
    flat = stats_metrics(stats)
    assert (flat["loss"], flat["lr"], flat["gap/mean"], flat["entropy"]) == (0.5, 1e-6, 0.1, 2.0)
    assert (flat["seconds/update"], flat["learner/tokens"]) == (3.0, 7.0)
    assert math.isnan(flat["gap/max"])


# ------------------------------------------------------------------------------------------------ rollouts


def test_every_rollout_is_a_row_that_pandas_reads(start):
    track = start()
    track.step("grpo", 12, {}, [scored_group(), scored_group()])
    frame = pd.read_parquet(track.run_dir / "rollouts" / "step_000012.parquet")
    assert len(frame) == 4
    row = frame.iloc[0].to_dict()
    assert {k: row[k] for k in ("step", "prompt_id", "draw", "sample", "prompt", "completion", "reference", "reward")} == {
        "step": 12, "prompt_id": 4, "draw": 9, "sample": 0, "prompt": "2 + 2?", "completion": "<answer>4</answer>",
        "reference": "4", "reward": 2.0,
    }  # fmt: skip
    assert (row["accuracy/score"], row["accuracy/verdict"], row["accuracy/reason"]) == (1.0, "correct", "")
    assert (row["advantage"], row["valid"], row["tokens"], row["finish_reason"]) == (0.5, True, 3, "stop")
    assert (row["policy_version"], row["seed"], row["temperature"], row["logprob_mean"]) == (3, 11, 0.7, -2.0)
    assert (row["uniform"], list(row["token_ids"]), list(row["logprobs"])) == (False, [5, 6, 7], [-1.0, -2.0, -3.0])
    assert pd.isna(row["judge/score"])  # that part did not apply to the first sample
    assert pd.isna(row["judge/verdict"])
    second = frame.iloc[1]
    assert (second["judge/verdict"], second["judge/reason"], second["valid"]) == ("failed", "KeyError: x", False)
    assert pd.isna(second["reward"])
    assert frame["seed"].tolist() == [11, 12, 11, 12]


def test_columns_have_one_type_whatever_the_rows_hold(tmp_path):
    scored = scored_group()
    ungraded = GradedGroup(scored.group, [math.nan, math.nan], [{}, {}], [False, False])
    write_rollouts(tmp_path / "a.parquet", 0, [ungraded])
    write_rollouts(tmp_path / "b.parquet", 1, [ungraded, scored])
    types = [pd.read_parquet(tmp_path / name).dtypes.to_dict() for name in ("a.parquet", "b.parquet")]
    assert {name: types[1][name] for name in types[0]} == types[0]
    assert pd.read_parquet(tmp_path / "a.parquet")["advantage"].isna().all()


@pytest.mark.parametrize("text", ["\ud800 lone", "\x00", "🙂 עברית", ""])
def test_a_strange_completion_does_not_stop_a_run(start, text):
    track = start()
    track.step("grpo", 0, {}, [scored_group(text)])
    frame = pd.read_parquet(rollouts_path(track.run_dir, "grpo", 0))
    assert frame["completion"][0] == text.replace("\ud800", "?")


def test_rollouts_are_whole_or_absent(start, monkeypatch):
    track = start()
    monkeypatch.setattr(Path, "replace", lambda temporary, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        track.step("grpo", 0, {}, [scored_group()])
    assert list((track.run_dir / "rollouts").iterdir()) == []
    assert identities(track.run_dir) == []


def test_rollouts_can_be_switched_off(start):
    track = start(TrackConfig(wandb="off", rollouts=False))
    track.step("grpo", 0, {}, [scored_group()])
    assert not (track.run_dir / "rollouts").exists()


# ------------------------------------------------------------------------------------------------ terminal and log


def test_without_a_terminal_each_step_is_one_line(start, screen, monkeypatch):
    times = iter([0.0, 0.0, 2.0, 4.0])
    monkeypatch.setattr(rl.records.tracker.time, "monotonic", lambda: next(times))
    track = start()
    track.begin("grpo", total=33)
    for step in range(2):
        track.step("grpo", step, {"reward/mean": 1.25, "accuracy": 0.5, "rollout/tokens": 3000.0})
    lines = shown(screen).splitlines()
    assert lines == [
        "grpo 1/33  1 min 4 s left  reward 1.250  accuracy 0.500  tokens/s 1,500  2.0 s/step",
        "grpo 2/33  1 min 2 s left  reward 1.250  accuracy 0.500  tokens/s 1,500  2.0 s/step",
    ]
    assert read_metrics(track.run_dir)[1]["tokens_per_second"] == 1500.0
    assert "grpo 2/33  1 min 2 s left" in (track.run_dir / "log.txt").read_text()


def test_on_a_terminal_a_live_view_is_redrawn_and_leaves_nothing_behind(start):
    terminal = Console(file=io.StringIO(), width=120, force_terminal=True)
    track = start(console=terminal)
    track.begin("grpo", total=4)
    for step in range(4):
        track.step("grpo", step, {"reward/mean": 1.25})
    track.close()
    text = shown(terminal)
    assert "grpo 4/4" in text
    assert "1.250" in text
    assert "reward 1.250" not in text  # no line a step
    assert text.endswith("\x1b[?25h" + text.rpartition("\x1b[?25h")[2])
    erased = text.rpartition("memory")[2]
    assert erased.count("\x1b[1A\x1b[2K") >= 2  # every line of the view is taken away again
    assert (track.run_dir / "log.txt").read_text().count("reward 1.250") == 4


def test_the_live_view_shows_trends_phases_memory_and_the_time_left():
    bar = Bar(Console(file=io.StringIO()))
    bar.begin("grpo", 10, 2)
    bar.advance("eval", 2, {"seconds": 9.0, "pass@1": 0.5})
    for step in range(2, 5):
        record = {"reward/mean": float(step), "seconds/rollout": 6.0, "seconds/rewards": 1.0, "seconds/update": 2.0}
        bar.advance("grpo", step, record | {"seconds": 10.0, "tokens_per_second": 1500.0, "accuracy": math.nan})
    console = Console(file=io.StringIO(), width=100)
    console.print(bar.view())
    text = shown(console)
    assert "grpo 5/10" in text
    assert "50 s left, 10.0 s/step" in text
    assert re.search(r"reward +4\.000 +▁▅█", text)
    assert re.search(r"pass@1 +0\.500 +▄", text)
    assert re.search(r"time +10\.0 s +rollout 50%  rewards 10%  update 20%  rest 20%", text)
    assert re.search(r"memory +\d+ % +[\d.]+ of [\d.]+ GiB", text)
    assert "accuracy" not in text  # it had no number yet
    assert "staleness" not in text


def test_the_live_view_shows_the_queue_now_and_the_last_steps_staleness_and_workers_memory():
    bar = Bar(Console(file=io.StringIO()))
    now = [Queue(waiting=3, sampling=8, awaiting_rewards=5)]
    bar.watch(lambda: now[0])
    bar.begin("grpo", 10, 0)
    held = {"memory/learner_gib": 1.26, "memory/sampler_gib": 2.0, "memory/sampler_device_gib": 70.0}
    bar.advance("grpo", 0, {"seconds": 1.0, "rollout/staleness_max": 2.0} | held)

    def view() -> str:
        console = Console(file=io.StringIO(), width=120)
        console.print(bar.view())
        return shown(console)

    text = view()
    assert re.search(r"queue +16 +groups: 3 wait, 8 at the samplers, 5 at the rewards", text)
    assert re.search(r"staleness +2 +policy versions behind", text)
    assert "largest learner 1.3 GiB, sampler 2.0 GiB, sampler device 70.0 GiB" in text
    now[0] = Queue()
    assert re.search(r"queue +0 +groups: 0 wait, 0 at the samplers, 0 at the rewards", view())


def test_the_live_view_says_who_waited_for_whom_when_both_work_at_the_same_time():
    bar = Bar(Console(file=io.StringIO()))
    bar.begin("grpo", 10, 0)
    seconds = {"seconds": 10.0, "seconds/rollout": 2.5, "seconds/update": 7.0}
    bar.advance("grpo", 0, seconds | {"samplers/idle_share": 0.4, "queue/ready": 3.0})
    console = Console(file=io.StringIO(), width=120)
    console.print(bar.view())
    assert re.search(
        r"waiting +25% +of the step the learners waited for rollouts, 40% the samplers for work; 3 groups were ready",
        shown(console),
    )


def test_who_is_attached_is_told_of_each_step_once_it_is_on_disk(start):
    track = start()
    told = []

    def sink(run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        told.append((run, stage, step, metrics["loss"], metrics["seconds"] >= 0, identities(track.run_dir)))

    track.attach(sink, Queue)
    track.step("grpo", 4, {"loss": 0.5})
    assert told == [("test", "grpo", 4, 0.5, True, [("grpo", 4)])]


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([0, 1, 2]) == "▁▅█"
    assert sparkline([3, 3]) == "▄▄"
    assert sparkline([5, 4]) == "█▁"


def test_our_messages_and_everyones_warnings_are_shown_and_all_is_in_the_log(start, screen):
    track = start()
    logging.getLogger("rl.stages.grpo").info("starting [bold]now[/bold]")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    assert shown(screen).splitlines() == ["starting [bold]now[/bold]", "warning: trouble"]
    text = (track.run_dir / "log.txt").read_text()
    assert "chatter" in text
    assert "WARNING some.library: trouble" in text
    track.close()
    logging.getLogger("rl").warning("after the end")
    assert "after the end" not in shown(screen) + (track.run_dir / "log.txt").read_text()


# ------------------------------------------------------------------------------------------------ W&B


def test_an_offline_wandb_run_stays_in_the_run_folder_and_keeps_its_id(start, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        track = start(TrackConfig(wandb="offline"))
        track.start({"seed": 1})
        track.step("grpo", len(read_metrics(track.run_dir)), {"reward/mean": 0.5})
        track.close()
    run_id = (track.run_dir / "wandb_id.txt").read_text()
    folders = list((track.run_dir / "wandb").glob("offline-run-*"))
    assert folders
    assert all(run_id in folder.name for folder in folders)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def logged_at_wandb(run_dir: Path) -> list[tuple[str, int]]:
    steps = [(key, row[key]) for row in offline_history(run_dir) for key in row if key.endswith("/step")]
    return [(key.removesuffix("/step"), step) for key, step in steps]


def test_the_offline_wandb_files_hold_every_metric_once_per_step_after_a_kill_and_a_resume(start):
    cfg = TrackConfig(wandb="offline")
    track = start(cfg)
    track.start({})
    track.step("eval", 0, {"pass@1": 0.25}, [scored_group()])
    for step in range(5):
        track.step("grpo", step, {"reward/mean": step / 4, "entropy": 1.0, "own": step}, [scored_group()])
    track.close()  # the checkpoint was of step 3: steps 3 and 4 are done again
    track = start(cfg)
    track.start({})
    track.resume({"grpo": 3, "eval": 1})
    for step in range(3, 7):
        track.step("grpo", step, {"reward/mean": step / 4, "entropy": 1.0, "own": step}, [scored_group()])
    track.close()
    assert len(list((track.run_dir / "wandb").glob("offline-run-*"))) == 2
    assert logged_at_wandb(track.run_dir) == [("eval", 0), *(("grpo", step) for step in range(7))]
    rows = [row for row in offline_history(track.run_dir) if "grpo/step" in row]
    assert [row["reward/mean"] for row in rows] == [step / 4 for step in range(7)]
    assert {"policy/entropy", "other/own", "time/seconds"} <= rows[0].keys()
    assert identities(track.run_dir) == logged_at_wandb(track.run_dir)


def test_wandb_has_a_table_of_rollouts_with_their_verdicts(start):
    track = start(TrackConfig(wandb="offline"))
    track.start({})
    for step in range(3):
        track.step("grpo", step, {"reward/mean": 0.5}, [scored_group("\ud800 lone")])
    track.close()
    tables = [json.loads(p.read_text()) for p in track.run_dir.glob("wandb/offline-run-*/files/media/table/**/*.json")]
    assert len(tables) == 1  # every tenth step
    rows = [dict(zip(tables[0]["columns"], row, strict=True)) for row in tables[0]["data"]]
    assert (rows[0]["completion"], rows[0]["reward"], rows[0]["accuracy/verdict"]) == ("? lone", 2.0, "correct")
    assert (rows[1]["judge/verdict"], rows[1]["judge/reason"]) == ("failed", "KeyError: x")


@pytest.mark.parametrize("size", [100, 40_000, 70_000])
def test_offline_records_longer_than_a_block_are_read_whole(start, size):
    track = start(TrackConfig(wandb="offline"))
    track.start({})
    track.step("grpo", 0, {f"m{i}": float(i) for i in range(size // 40)})
    track.step("grpo", 1, {"a": 1.0})
    track.close()
    first, second = offline_history(track.run_dir)
    assert first[f"other/m{size // 40 - 1}"] == size // 40 - 1
    assert second["other/a"] == 1.0


@pytest.mark.parametrize("damage", ["none", "files", "sent", "no sent"])
def test_no_step_is_sent_twice_whatever_a_kill_left_of_the_files(start, damage):
    cfg = TrackConfig(wandb="offline")
    track = start(cfg)
    track.start({})
    for step in range(5):
        track.step("grpo", step, {"a": 1.0})
    track.close()
    (path,) = offline_files(track.run_dir)
    sent = track.run_dir / "wandb_sent.json"
    assert json.loads(sent.read_text()) == {"grpo": 4}
    if damage == "files":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "sent":
        sent.write_text("{")
    elif damage == "no sent":  # a folder of a version without it
        sent.unlink()
    for _ in range(2):  # killed again before the steps that were sent are done again
        track = start(cfg)
        track.start({})
        track.resume({"grpo": 2})
        track.step("grpo", 2, {"a": 1.0})
        track.close()
    track = start(cfg)
    track.start({})
    for step in range(3, 7):
        track.step("grpo", step, {"a": 1.0})
    track.close()
    if damage == "files":
        path.unlink()
    assert logged_at_wandb(track.run_dir) == [("grpo", step) for step in range(5 if damage == "files" else 0, 7)]


OFFLINE_RUN = """
import pathlib, sys
from rl.config import TrackConfig
from rl.records.tracker import Tracker
with Tracker(pathlib.Path(sys.argv[1]), TrackConfig(wandb=sys.argv[2]), name="x") as track:
    track.start({})
    track.step("grpo", 0, {"reward/mean": 1.0})
print("went on")
"""


def with_variable(folder: Path, mode: str, variable: str, value: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OFFLINE_RUN, str(folder), mode]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {variable: value}, timeout=300)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WANDB_MODE", "nonsense"), ("WANDB_SERVICE", "nonsense"), ("WANDB_HTTP_TIMEOUT", "soon"), ("WANDB_TAGS", ","),
        ("WANDB_IDENTITY_TOKEN_FILE", "/no/such/file"), ("WANDB_PROJECT", "a/b"),
    ],
)  # fmt: skip
def test_a_wrong_variable_of_wandb_is_named_and_does_not_stop_an_offline_run(tmp_path, variable, value):
    """Wrong on import, when settings are made, in W&B's service, and when the run begins."""
    done = with_variable(tmp_path, "offline", variable, value)
    assert "went on" in done.stdout, done.stderr
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    (said,) = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "W&B" in line]
    assert "W&B does not start (" in said
    assert variable in said
    assert "errors.pydantic.dev" not in said


def test_a_wrong_variable_of_wandb_is_bad_input_online(tmp_path):
    done = with_variable(tmp_path, "online", "WANDB_HTTP_TIMEOUT", "soon")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rl.types.BadInput: track.wandb=online: W&B does not start: ")
    assert "WANDB_HTTP_TIMEOUT" in last


def test_a_wandb_that_fails_at_the_end_is_a_warning(tmp_path, caplog):
    from wandb.sdk.mailbox import HandleAbandonedError

    class Broken:
        def finish(self, exit_code: int) -> None:
            raise HandleAbandonedError

    WandbRun(Broken(), tmp_path, {}).finish(failed=False)
    assert "W&B did not end well (HandleAbandonedError); what the run itself wrote is whole" in caplog.text


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("grpo", "reward/mean", "reward/mean"), ("grpo", "accuracy", "reward/accuracy"), ("grpo", "kl", "policy/kl"),
        ("grpo", "max/ratio", "policy/max/ratio"), ("grpo", "lr", "learner/lr"), ("grpo", "seconds/update", "time/seconds/update"),
        ("grpo", "verdict/a/wrong", "verifier/verdict/a/wrong"), ("grpo", "sync/megabytes", "sync/megabytes"),
        ("grpo", "batch/tokens", "data/batch/tokens"), ("eval", "pass@1", "eval/pass@1"), ("sft", "nll", "sft/nll"),
        ("grpo", "my/own", "other/my/own"), ("grpo", "queue/awaiting_rewards_max", "rollout/queue/awaiting_rewards_max"),
        ("grpo", "memory/learner_gib", "memory/learner_gib"),
    ],
)  # fmt: skip
def test_metrics_are_in_groups_at_wandb(stage, name, expected):
    assert panel_name(stage, name) == expected


def test_tensorboard_has_every_metric_once_per_step_after_a_resume(start):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = TrackConfig(wandb="off", tensorboard=True)
    for first, last, value in ((0, 5, 1.0), (3, 7, 2.0)):
        track = start(cfg)
        track.resume({"grpo": first, "eval": first})
        for step in range(first, last):
            track.step("grpo", step, {"reward/mean": value})
        track.close()
    events = EventAccumulator(str(track.run_dir / "tensorboard" / "grpo"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0),
    ]  # fmt: skip
    assert not (start(OFF).run_dir / "tensorboard" / "eval").exists()


@pytest.mark.parametrize("failure", ["import", "init"])
def test_a_broken_wandb_is_a_warning_offline_and_bad_input_online(start, screen, monkeypatch, failure):
    import wandb

    def refuse(*args, **kwargs):
        raise wandb.errors.CommError("no\nroute")

    real_import = builtins.__import__

    def no_wandb(name, *args, **kwargs):
        if name == "wandb":
            raise ImportError("no wandb here")
        return real_import(name, *args, **kwargs)

    if failure == "import":
        monkeypatch.setattr(builtins, "__import__", no_wandb)
    else:
        monkeypatch.setattr(wandb, "init", refuse)
    track = start(TrackConfig(wandb="offline"))
    track.start({})
    track.step("grpo", 0, {})
    assert "warning: W&B does not start (no" in shown(screen)
    assert identities(track.run_dir) == [("grpo", 0)]
    with pytest.raises(BadInput, match=r"track.wandb=online: W&B does not start: no .* track.wandb=offline"):
        start(TrackConfig(wandb="online")).start({})
    assert sorted(p.name for p in track.run_dir.iterdir()) == ["log.txt", "metrics.jsonl"]


# ------------------------------------------------------------------------------------------------ the summary


def finished_run(run_dir: Path) -> None:
    with Tracker(run_dir, OFF, name="quick", console=Console(file=io.StringIO())) as track:
        track.step("eval", 0, {"pass@1": 0.1, "stderr": 0.02, "greedy": 0.15})
        for step in range(8):
            metrics = {"accuracy": step / 10, "reward/mean": step / 5, "rollout/length_mean": 50.0 - step}
            track.step("grpo", step, metrics if step != 3 else {"accuracy": math.nan})
        track.step("eval", 8, {"pass@1": 0.7, "stderr": 0.03})


GAINS = (
    Gain("pass@1, sampled", 0.1, 0.03, 0.7, 0.04, 0.6, 0.045),
    Gain("greedy", 0.15, 0.05, 0.8, 0.06, 0.65, 0.08),
    Gain("pass@4", 0.4, 0.02, 0.9, 0.01, 0.5, 0.021),
)


def summarise(run_dir: Path, **changes) -> tuple[dict, str]:
    console = Console(file=io.StringIO(), width=100)
    arguments = {
        "name": "quick",
        "model": "SmolLM2",
        "seed": 1,
        "before": Measured(0.1, 0.03, 0.15),
        "after": Measured(0.7, 0.04, 0.8),
        "gains": GAINS,
        "steps": 8,
        "seconds": {"rollout": 30.0, "update": 10.0},
        "console": console,
    } | changes
    return json.loads(write_summary(run_dir, **arguments).read_text()), shown(console)


def test_the_summary_holds_the_numbers_of_before_and_after(tmp_path):
    finished_run(tmp_path)
    summary, text = summarise(tmp_path)
    assert summary == {
        "before": {"pass@1": 0.1, "stderr": 0.03, "greedy": 0.15},
        "after": {"pass@1": 0.7, "stderr": 0.04, "greedy": 0.8},
        "steps": 8,
        "seconds": {"rollout": 30.0, "update": 10.0},
        "name": "quick",
        "model": "SmolLM2",
        "seed": 1,
        "gain": pytest.approx(0.6),
        "gain_stderr": pytest.approx(0.045),
    }
    for piece in (
        "10.0 ± 3.0",
        "70.0 ± 4.0",
        "+60.0 ± 4.5",
        "+65.0 ± 8.0",
        "pass@4",
        "+50.0 ± 2.1",
        "rollout 30 s (75%)",
        str(tmp_path),
    ):
        assert piece in text
    assert (tmp_path / "summary.txt").read_text() == text


def test_a_run_without_evaluation_still_has_a_summary(tmp_path):
    summary, text = summarise(tmp_path, before=None, after=None, gains=(), seconds={})
    assert (summary["before"], summary["after"], summary["gain"]) == (None, None, None)
    assert "–" in text
    assert draw_run(tmp_path) == ""
    assert not (tmp_path / "curve.png").exists()


def test_the_curve_is_read_from_the_records_and_drawn(tmp_path):
    finished_run(tmp_path)
    curve = Curve.read(tmp_path)
    assert curve.label == "accuracy"
    assert curve.training == [(s, s / 10) for s in (0, 1, 2, 4, 5, 6, 7)]  # step 3 had no number
    assert (curve.held_out, curve.stderr, curve.greedy) == ([(0, 0.1), (8, 0.7)], [0.02, 0.03], [(0, 0.15)])
    assert curve.reward[-1] == (7, 1.4)
    summarise(tmp_path)
    assert not (tmp_path / "curve.png").exists()
    assert draw_run(tmp_path) == text_curve(curve)
    assert "●" in text_curve(curve)
    image = (tmp_path / "curve.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    width = int.from_bytes(image[16:20], "big")
    assert width == 8 * 150  # inches x dots per inch


def test_without_an_accuracy_reward_the_curve_shows_the_reward(tmp_path):
    with Tracker(tmp_path, OFF, name="x", console=Console(file=io.StringIO())) as track:
        for step in range(3):
            track.step("grpo", step, {"reward/mean": -float(step)})
    curve = Curve.read(tmp_path)
    assert (curve.label, curve.training, curve.reward) == ("reward", [(0, 0), (1, -1), (2, -2)], [])
    summarise(tmp_path, before=None, after=None)
    assert "training reward" in draw_run(tmp_path)
    assert (tmp_path / "curve.png").exists()


def test_the_terminal_curve_puts_each_point_where_it_belongs():
    curve = Curve("accuracy", [(0, 0.0), (2, 0.5)], [(4, 1.0)], [0.1], [], [], [], [])
    lines = text_curve(curve, width=9, height=3).splitlines()
    assert lines == [
        "  100 % │        ●",
        "   50 % │    ·",
        "    0 % │·",
        "        └─────────",
        "         0GRPO step 4",
        "         · training accuracy   ● held-out pass@1",
    ]


def test_smoothing_takes_the_mean_of_the_neighbours_that_there_are():
    assert smooth([(0, 0), (1, 6), (2, 0)], 3) == [(0, 3), (1, 2), (2, 3)]
    assert smooth([(0, 0), (1, 6)], 1) == [(0, 0), (1, 6)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.6, "1 min 0 s"), (90, "1 min 30 s"), (7320, "2 h 2 min"), (180000, "2 d 2 h")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
