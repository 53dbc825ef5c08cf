"""Supervised fine-tuning: the same learner and packing, loss on the answer tokens and the stop token alone."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from rl.backend import Task
from rl.batch import pack_examples
from rl.data import ExampleStream
from rl.stages.context import Context
from rl.track import stats_metrics
from rl.types import Stopped

log = logging.getLogger(__name__)


def train_sft(ctx: Context, model_path: str, stream: ExampleStream) -> Path:
    """Train from model_path and return the folder with the result in Hugging Face format. Resumes; done once."""
    cfg, s, backend = ctx.cfg, ctx.cfg.sft, ctx.backend
    out = ctx.run_dir / "sft"
    if out.is_dir():
        log.info("the SFT stage is done: %s", out)
        return out
    with ctx.timed("load"):
        fingerprint = backend.load(Task(model_path, s.optim, s.steps))
    meta = ctx.resume("sft", fingerprint)
    start = meta.step if meta else 0
    if meta:
        stream.restore(meta.cursor)
    ctx.tracker.resume({"sft": start})
    if stream.dropped:
        log.warning("%d examples are longer than the context and were dropped (sft.overlong=drop)", stream.dropped)
    ctx.tracker.begin("sft", s.steps, start)
    for step in range(start, s.steps):
        with ctx.timed("sft"):
            batch = pack_examples(stream.take(s.examples_per_step), learner=cfg.learner, layout=backend.layout)
            stats = backend.step([batch])
        ctx.tracker.step("sft", step, stats_metrics(stats) | {"tokens": float(batch.num_tokens)})
        done = step + 1
        if done % cfg.checkpoint.every == 0 or ctx.stop.requested or done == s.steps:
            ctx.save("sft", done, stream.state(), fingerprint)
        if ctx.stop.requested and done < s.steps:
            raise Stopped(f"stopped after SFT step {done} of {s.steps}; the same command goes on from there")
    partial = out.with_name("sft.partial")
    shutil.rmtree(partial, ignore_errors=True)
    backend.export(partial)
    partial.rename(out)
    return out
