"""Supervised fine-tuning, with the learner and the packing of GRPO. The loss is on the answer and its stop token."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.backend import Task
from rl.config import DataConfig, SFTConfig, knob
from rl.context import Context, StageRun
from rl.data.sft_examples import MICRO_BATCH, ExampleStream, pack_examples
from rl.records.tracker import stats_metrics
from rl.stage import MAKES_MODEL, Recipe, Stage
from rl.types import BadInput, Example

log = logging.getLogger(__name__)
EVAL_CHUNK = 512
"""Held-out examples sent to the learners at once."""


@dataclass(frozen=True)
class SFT(Stage):
    """Supervised fine-tuning. Output: a model."""

    model: str = knob("", "Model to start from: id, folder or @stage.")
    sft: SFTConfig = knob(SFTConfig, "Examples, steps, optimiser.")

    makes = frozenset({MAKES_MODEL})
    runs_model = True

    @property
    def shares_sequences(self) -> bool:
        return not (self.sft.distill.teacher or self.sft.distill.cached)

    @property
    def trains_on(self) -> DataConfig:
        return self.sft.data

    @property
    def total_steps(self) -> tuple[str, int]:
        return "sft", self.sft.steps

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if not self.sft.enabled:
            yield "sft.steps: set steps or epochs"

    def run(self, at: StageRun) -> None:
        inputs = at.inputs
        assert inputs is not None
        assert inputs.sft_stream is not None
        train_sft(at.ctx, inputs.model_path, inputs.sft_stream, inputs.sft_held_out, out=at.model_folder)


def train_sft(
    ctx: Context,
    model_path: str,
    stream: ExampleStream,
    held_out: ExampleStream | None = None,
    *,
    out: Path | None = None,
) -> Path:
    """Train from model_path and return `out`, the folder of the resulting Hugging Face model; <run>/sft by default.

    Resumes from the newest checkpoint; does nothing when `out` is there. held_out: examples for the evaluation loss,
    logged as eval/nll, the mean over learnt tokens in nats. eval/dropped counts those that were too long.
    """
    cfg, s, backend = ctx.cfg, ctx.cfg.sft, ctx.backend
    out = out or ctx.run_dir / "sft"
    if out.is_dir():
        log.info("SFT is done already: %s", out)
        return out
    total = s.total_steps(len(stream))
    with ctx.timed("load"):
        fingerprint = backend.load(Task(model_path, s.optim, total, teacher_path=s.distill.teacher, distill=s.distill))
    start = ctx.resume("sft", fingerprint, stream, total)
    ctx.tracker.resume({"sft": start})
    _warn_of_lengths(stream)
    held_out_examples = held_out.all() if held_out else []
    dropped = {"examples/dropped": stream.dropped}
    if held_out:
        _warn_of_lengths(held_out, "held-out examples")
        dropped["eval/dropped"] = held_out.dropped
    ctx.tracker.begin("sft", total, start)
    for step in range(start, total):
        done = step + 1
        metrics = {name: float(count) for name, count in dropped.items() if count}
        if step == 0 and held_out_examples:
            metrics["eval/nll_before"] = evaluation_loss(ctx, held_out_examples)
        with ctx.timed("sft"):
            batch = pack_examples(stream.take(s.examples_per_step), learner=cfg.learner, layout=backend.layout)
            stats = backend.step([batch])
        if held_out_examples and (done == total or (s.eval_every and done % s.eval_every == 0)):
            metrics["eval/nll"] = evaluation_loss(ctx, held_out_examples)
            log.info("evaluation loss after %d SFT steps: %.4f nats a token", done, metrics["eval/nll"])
        epoch = done * s.examples_per_step / len(stream)
        metrics |= {"tokens": float(batch.num_tokens), "epoch": epoch}
        ctx.tracker.step("sft", step, stats_metrics(stats) | metrics)
        ctx.finish_step("sft", done, total, stream, fingerprint)
    ctx.export(out)
    return out


def evaluation_loss(ctx: Context, held_out: Sequence[Example]) -> float:
    """The mean negative log-likelihood of all learnt tokens, nats."""
    total, tokens = 0.0, 0
    with ctx.timed("evaluate"):
        for at in range(0, len(held_out), EVAL_CHUNK):
            batch = pack_examples(held_out[at : at + EVAL_CHUNK], learner=ctx.cfg.learner, layout=ctx.backend.layout)
            total += ctx.backend.mean_nll(batch.micro_batches_R) * batch.num_loss_tokens
            tokens += batch.num_loss_tokens
    if not tokens:
        raise BadInput(f"{ctx.cfg.sft.eval_data.source}: the held-out examples have no token to learn")
    return total / tokens


def _warn_of_lengths(stream: ExampleStream, what: str = "examples") -> None:
    if stream.dropped:
        log.warning("%d %s are longer than %s and were dropped (sft.overlong=drop)", stream.dropped, what, stream.limit)
    if stream.split:
        # Where the context has room for more, only the size of micro-batches splits, which nobody asked for.
        level = logging.WARNING if stream.limited_by == MICRO_BATCH else logging.INFO
        log.log(
            level, "%d documents are longer than %s and were split; %d pieces in all", stream.split, stream.limit,
            len(stream),
        )  # fmt: skip
