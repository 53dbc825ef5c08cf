"""A run of SFT and GRPO: start the machines, train, write the summary. Resumes by itself."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rl.backend import Backend
from rl.config import RunConfig
from rl.context import Context, Stop
from rl.evaluation.metrics import paired_difference
from rl.records.folder_lock import held
from rl.records.summary import Measured, write_summary
from rl.records.tracker import Tracker
from rl.records.whole_files import write_whole
from rl.settings.overrides import from_json, to_json
from rl.stages.grpo import train_grpo
from rl.stages.sft import train_sft
from rl.types import BadInput
from rl.workflow.inputs import Inputs, prepare, resolve_model, with_teachers

log = logging.getLogger(__name__)

# Settings that may differ between a run and its resumption without making it another run.
FREE_ON_RESUME = ("grpo.steps", "evaluation.every", "checkpoint", "track", "cluster", "scoring", "out")


def progress(cfg: RunConfig) -> str:
    """What the run's folder holds of it: new, begun or complete. Raises BadInput when it holds another run."""
    _refuse_other_run(cfg)
    summary = cfg.run_dir / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["steps"] == cfg.grpo.steps:
        return "complete"
    return "begun" if (cfg.run_dir / "resolved.json").exists() else "new"


def told(cfg: RunConfig) -> str:
    """What run would do, in words. Touches nothing. Raises BadInput when the folder holds another run."""
    does = {
        "new": "is new: nothing was run there",
        "begun": "was begun: the run goes on there",
        "complete": "is complete: its summary is shown again",
    }
    return f"{cfg.name}: {cfg.model.path}. {cfg.batch_arithmetic()}.\n{cfg.run_dir} {does[progress(cfg)]}."


def run(
    cfg: RunConfig,
    make_backend: Callable[[RunConfig], Backend],
    evaluated: Callable[[Path], None] = lambda run_dir: None,
) -> Path:
    """Run or resume; returns the path of summary.json.

    make_backend(cfg) starts the machines; evaluated(run_dir) is called after each evaluation. Raises BadInput also when
    another process is at work in the folder.
    """
    started = time.perf_counter()
    inputs = prepare(cfg)
    with held(cfg.run_dir):
        return _run(cfg, inputs, make_backend, evaluated, started)


def _run(
    cfg: RunConfig,
    inputs: Inputs,
    make_backend: Callable[[RunConfig], Backend],
    evaluated: Callable[[Path], None],
    started: float,
) -> Path:
    summary = cfg.run_dir / "summary.json"
    if progress(cfg) == "complete":
        print(f"This run is complete: {summary}\n")
        print((cfg.run_dir / "summary.txt").read_text())
        return summary
    with Tracker(cfg.run_dir, cfg.track, name=cfg.name) as tracker, Stop().listening() as stop:
        log.info("run folder %s; %s", cfg.run_dir, cfg.batch_arithmetic())
        log.info("starting Ray, %d learner rank(s) and %d sampler(s)", cfg.learner.ranks, cfg.sampler.count)
        backend = make_backend(cfg)
        try:
            write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
            backend.start(inputs.model_path, inputs.context_length)
            tracker.start(json.loads(to_json(cfg)))
            tracker.attach(backend.publish, backend.queue)
            resolved = with_teachers(cfg, resolve_model)
            ctx = Context(resolved, backend, inputs.tokenizer, tracker, stop, inputs.context_length, evaluated)
            ctx.seconds["start"] = time.perf_counter() - started
            return _stages(ctx, inputs)
        finally:
            backend.close()


def _stages(ctx: Context, inputs: Inputs) -> Path:
    cfg = ctx.cfg
    model_path = inputs.model_path
    if inputs.sft_stream is not None:
        model_path = str(train_sft(ctx, model_path, inputs.sft_stream, inputs.sft_held_out))
    assert inputs.stream is not None
    assert inputs.scorer is not None
    before, after = train_grpo(ctx, model_path, inputs.stream, inputs.eval_prompts, inputs.scorer)
    export_model(ctx)
    gain_stderr = paired_difference(before.correct_P, after.correct_P)[1] if before and after else None
    ctx.tracker.close()
    return write_summary(
        cfg.run_dir,
        name=cfg.name,
        model=cfg.model.path,
        seed=cfg.seed,
        before=Measured(before.pass_at_1, before.stderr, before.greedy) if before else None,
        after=Measured(after.pass_at_1, after.stderr, after.greedy) if after else None,
        steps=cfg.grpo.steps,
        seconds=ctx.seconds,
        gain_stderr=gain_stderr,
    )


def export_model(ctx: Context) -> Path:
    """Write the learners' weights to <run>/model in Hugging Face format, whole or not at all."""
    with ctx.timed("export"):
        final, partial = ctx.run_dir / "model", ctx.run_dir / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        ctx.backend.export(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    return final


def _refuse_other_run(cfg: RunConfig) -> None:
    """Raise BadInput when the run's folder holds a run with other settings."""
    path = cfg.run_dir / "resolved.json"
    if not path.exists():
        return
    try:
        old, new = json.loads(to_json(from_json(path.read_text()))), json.loads(to_json(cfg))
    except BadInput as error:
        raise BadInput(f"{path}: {error}; use another name=..., or delete the folder") from error
    for key, (was, now) in _differences(old, new, "").items():
        if key == "model.dtype" and "auto" in (was, now):  # it becomes the one that the folder was begun in
            continue
        if not key.startswith(FREE_ON_RESUME):
            raise BadInput(
                f"{cfg.run_dir} holds a run with {key}={was}, not {now}; use another name=..., or delete the folder"
            )
        late = next((reward.name or reward.function for reward in cfg.rewards if reward.from_step < 0), "")
        if key == "grpo.steps" and late:
            raise BadInput(
                f"{cfg.run_dir} holds a run of {was} steps whose reward {late!r} counts from the end; with {now} steps "
                "it would stop counting and begin again. Use another name=..., or count from_step from the beginning"
            )


def _differences(old: object, new: object, prefix: str) -> dict[str, tuple[object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out: dict[str, tuple[object, object]] = {}
        for key in old.keys() | new.keys():
            out |= _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return out
    return {} if old == new else {prefix.rstrip("."): (old, new)}
