"""rl/stages/sft.py over learners that only count: how many steps, when the evaluation loss is due, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rl.backend import Backend, Task
from rl.config import CheckpointConfig, DataConfig, RunConfig, SFTConfig, TrackConfig
from rl.context import Context, Stop
from rl.data.sft_examples import ExampleStream
from rl.records.tracker import Tracker
from rl.stages import sft
from rl.stages.sft import evaluation_loss, train_sft
from rl.types import BadInput, Example, PackedBatch, StepStats, Stopped

DATA = DataConfig(source="made up", template="plain")


class Learners:
    """Counts the tokens it is given. Its loss of a token is the token's number, so means can be worked by hand."""

    layout = "rows"

    def __init__(self) -> None:
        self.steps, self.task, self.seen = 0, cast(Task, None), cast(list[list[int]], [])

    def load(self, task: Task) -> str:
        self.task = task
        return "model"

    def step(self, updates_U: list[PackedBatch]) -> StepStats:
        self.steps += 1
        self.seen.append(sorted(t for mb in updates_U[0].micro_batches_R[0] for t in mb.token_ids_T.tolist()))
        return StepStats(loss=1.0, grad_norm=1.0, learning_rate=1.0)

    def mean_nll(self, micro_batches_R: list[list[Any]]) -> float:
        learnt = [t for mb in micro_batches_R[0] for t, m in zip(mb.token_ids_T, mb.loss_mask_T, strict=True) if m]
        return sum(learnt) / len(learnt) if learnt else 0.0

    def save(self, folder: Path) -> None:
        (folder / "steps").write_text(str(self.steps))

    def restore(self, folder: Path) -> None:
        self.steps = int((folder / "steps").read_text())

    def export(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "steps").write_text(str(self.steps))


def context(tmp_path: Path, tokenizer, learners: Learners, stop: Stop | None = None, **settings: object) -> Context:
    cfg = RunConfig(
        out=str(tmp_path), checkpoint=CheckpointConfig(every=2), track=TrackConfig(wandb="off"),
        sft=replace(SFTConfig(data=DATA, examples_per_step=4), **cast(Any, settings)),
    )  # fmt: skip
    tracker = Tracker(cfg.run_dir, cfg.track, name="run")
    return Context(cfg, cast(Backend, learners), tokenizer, tracker, stop or Stop(), 64)


def stream(tokenizer, rows: int = 10) -> ExampleStream:
    return ExampleStream([{"prompt": f"q{i}", "target": "a"} for i in range(rows)], DATA, tokenizer, 1, 64)


def records(ctx: Context) -> list[dict[str, float]]:
    ctx.tracker.close()
    return [json.loads(line) for line in (ctx.run_dir / "metrics.jsonl").read_text().splitlines()]


HELD_OUT = [Example([9, 1], [0, 1]), Example([9, 2, 3], [0, 1, 1]), Example([9, 10], [0, 1])]


def held_out(dropped: int = 0) -> ExampleStream:
    return cast(ExampleStream, SimpleNamespace(all=lambda: HELD_OUT, dropped=dropped, split=0, limit="64 tokens"))


def test_epochs_become_steps_and_the_export_is_of_the_last(tokenizer, tmp_path):
    learners = Learners()
    ctx = context(tmp_path, tokenizer, learners, epochs=1.5)
    out = train_sft(ctx, "model", stream(tokenizer))
    assert learners.task.total_updates == learners.steps == 4  # 15 examples, 4 a step
    assert (out / "steps").read_text() == "4"
    assert [r["epoch"] for r in records(ctx)] == pytest.approx([0.4, 0.8, 1.2, 1.6])


@pytest.mark.parametrize(("every", "due"), [(0, [4]), (2, [1, 3, 4]), (3, [2, 4])])
def test_the_evaluation_loss_is_measured_before_when_due_and_at_the_end(tokenizer, tmp_path, every, due):
    ctx = context(tmp_path, tokenizer, Learners(), steps=5, eval_every=every)
    train_sft(ctx, "model", stream(tokenizer), held_out())
    found = records(ctx)
    assert not any("eval/dropped" in r for r in found)
    assert [r["step"] for r in found if "eval/nll" in r] == due
    assert [r["step"] for r in found if "eval/nll_before" in r] == [0]
    assert found[-1]["eval/nll"] == pytest.approx(4.0)  # (1 + 2 + 3 + 10) / 4


def test_held_out_examples_that_were_dropped_are_told_and_counted_beside_the_loss(tokenizer, tmp_path, caplog):
    ctx = context(tmp_path, tokenizer, Learners(), steps=2)
    train_sft(ctx, "model", stream(tokenizer), held_out(dropped=3))
    assert [r.get("eval/dropped") for r in records(ctx)] == [3.0, 3.0]
    assert "3 held-out examples are longer than 64 tokens and were dropped" in caplog.text


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_the_evaluation_loss_is_a_mean_over_tokens_however_the_examples_are_sent(
    tokenizer, tmp_path, monkeypatch, chunk
):
    monkeypatch.setattr(sft, "EVAL_CHUNK", chunk)
    assert evaluation_loss(context(tmp_path, tokenizer, Learners()), HELD_OUT) == pytest.approx(4.0)


def test_held_out_examples_that_teach_nothing_are_refused(tokenizer, tmp_path):
    with pytest.raises(BadInput, match="the held-out examples have no token to learn"):
        evaluation_loss(context(tmp_path, tokenizer, Learners()), [Example([1, 2], [0, 0])])


def test_a_stopped_stage_goes_on_where_it_stopped_and_measures_no_second_beginning(tokenizer, tmp_path):
    whole = Learners()
    train_sft(context(tmp_path / "whole", tokenizer, whole, steps=5), "model", stream(tokenizer), held_out())

    class StopAfter(Learners):
        def step(self, updates_U: list[PackedBatch]) -> StepStats:
            stop.requested = self.steps == 2
            return super().step(updates_U)

    stop, first = Stop(), StopAfter()
    with pytest.raises(Stopped, match="after sft step 3 of 5"):
        train_sft(context(tmp_path, tokenizer, first, stop, steps=5), "model", stream(tokenizer), held_out())
    second = Learners()
    ctx = context(tmp_path, tokenizer, second, steps=5)
    train_sft(ctx, "model", stream(tokenizer), held_out())
    assert second.steps == 5
    assert first.seen + second.seen == whole.seen
    found = records(ctx)
    assert [r["step"] for r in found] == [0, 1, 2, 3, 4]
    assert ["eval/nll_before" in r for r in found] == [True, False, False, False, False]


def test_a_stage_that_is_done_is_not_run_again(tokenizer, tmp_path):
    first = train_sft(context(tmp_path, tokenizer, Learners(), steps=2), "model", stream(tokenizer))
    again = Learners()
    assert train_sft(context(tmp_path, tokenizer, again, steps=2), "model", stream(tokenizer)) == first
    assert again.steps == 0


def test_the_teacher_reaches_the_learners(tokenizer, tmp_path):
    learners = Learners()
    ctx = context(tmp_path, tokenizer, learners, steps=1)
    distill = replace(ctx.cfg.sft.distill, teacher="big", divergence="reverse")
    ctx.cfg = replace(ctx.cfg, sft=replace(ctx.cfg.sft, distill=distill))
    train_sft(ctx, "model", stream(tokenizer))
    assert (learners.task.teacher_path, learners.task.distill) == ("big", distill)
