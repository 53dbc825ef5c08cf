"""Run a recipe: check everything that can be checked, start the machines, SFT, GRPO, summary. Resumes by itself."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rl.backend import Backend
from rl.config import DataConfig, RewardConfig, RunConfig
from rl.data import TASK, ExampleStream, PromptStream, all_prompts, end_token_ids, load_rows, place
from rl.judge import unjudgeable
from rl.model import context_length, load_config, load_tokenizer
from rl.score import Scorer
from rl.settings import from_json, to_json, validate
from rl.stages.context import Context, Stop
from rl.stages.evaluate import mean_and_stderr
from rl.stages.grpo import train_grpo
from rl.stages.sft import train_sft
from rl.summary import Measured, write_summary
from rl.templates import Table
from rl.track import Tracker
from rl.types import BadInput, Prompt, Row

log = logging.getLogger(__name__)

# Settings that may differ between a run and its resumption without making it another run.
FREE_ON_RESUME = ("grpo.steps", "evaluation.every", "checkpoint", "track", "cluster", "scoring", "out")


@dataclass
class Inputs:
    """All that a run needs and that can be wrong, loaded and checked before any machine is started."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    stream: PromptStream
    eval_prompts: list[Prompt]
    sft_stream: ExampleStream | None
    scorer: Scorer


def prepare(cfg: RunConfig) -> Inputs:
    """Check the config, the model, the tokenizer, the data and the rewards. Raises BadInput."""
    validate(cfg)
    model_path = _model_path(cfg.model.path)
    limit = context_length(cfg.model, load_config(model_path))
    tokenizer = load_tokenizer(model_path)
    end_token_ids(tokenizer)
    scorer = Scorer(cfg.rewards, cfg.grpo, max_unjudged_share=cfg.scoring.max_unjudged_share)
    longest_prompt = limit - max(cfg.rollout.max_new_tokens, cfg.evaluation.max_new_tokens)
    if longest_prompt < 1:
        raise BadInput(
            f"rollout.max_new_tokens={cfg.rollout.max_new_tokens} leaves no room for a prompt in a context of {limit} "
            "tokens; lower it"
        )
    budget = cfg.learner.micro_batch_tokens
    longest_prompt = min(longest_prompt, budget - cfg.rollout.max_new_tokens)
    if longest_prompt < 1:
        raise BadInput(
            f"learner.micro_batch_tokens={budget} cannot hold a completion of "
            f"{cfg.rollout.max_new_tokens} tokens; raise it"
        )
    rows = _judgeable(cfg.rewards, cfg.prompts)
    stream = PromptStream(rows, cfg.prompts, tokenizer, cfg.seed, longest_prompt)
    held_out = cfg.evaluation.data
    eval_prompts = all_prompts(_judgeable(cfg.rewards, held_out), held_out, tokenizer, longest_prompt)
    sft_stream = None
    if cfg.sft.steps:
        rows = load_rows(cfg.sft.data)
        sft_stream = ExampleStream(rows, cfg.sft.data, tokenizer, cfg.seed, min(limit, budget), cfg.sft.overlong)
    return Inputs(model_path, tokenizer, limit, stream, eval_prompts, sft_stream, scorer)


def _judgeable(rewards: Sequence[RewardConfig], data: DataConfig) -> list[Row]:
    """The rows whose reference answers the rewards can judge by. Raises BadInput for others, or drops them."""
    rows = load_rows(data)
    table = Table(rows, data, functools.partial(place, data.source))
    bad = unjudgeable(rewards, [table.reference(i) for i in range(len(rows))])
    if not bad:
        return rows
    shown = "; ".join(f"{place(data.source, i)}: {reason}" for i, reason in list(bad.items())[:3])
    found = f"{len(bad)} of {len(rows)} reference answers cannot be judged by: {shown}"
    if data.unjudgeable == "error" or len(bad) == len(rows):
        raise BadInput(f"{found}. Mend the rows, or leave them out with unjudgeable=drop")
    log.warning("%s. Dropped", found)
    return [row for i, row in enumerate(rows) if i not in bad]


def run(cfg: RunConfig, make_backend: Callable[[RunConfig], Backend]) -> Path:
    """Run or resume; returns the path of summary.json. make_backend(cfg) starts the machines."""
    started = time.perf_counter()
    inputs = prepare(cfg)
    _refuse_other_run(cfg)
    summary = cfg.run_dir / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["steps"] == cfg.grpo.steps:
        print(f"This run is complete: {summary}\n")
        print((cfg.run_dir / "summary.txt").read_text())
        return summary
    with Tracker(cfg.run_dir, cfg.track, name=cfg.name) as tracker, Stop().listening() as stop:
        log.info("run folder %s; %s", cfg.run_dir, cfg.batch_arithmetic())
        log.info("starting Ray, %d learner rank(s) and %d sampler(s)", cfg.learner.ranks, cfg.sampler.count)
        backend = make_backend(cfg)
        try:
            (cfg.run_dir / "resolved.json").write_text(to_json(cfg))
            backend.start(inputs.model_path, inputs.context_length)
            tracker.start(json.loads(to_json(cfg)))
            ctx = Context(cfg, backend, inputs.tokenizer, tracker, stop, inputs.context_length)
            ctx.seconds["start"] = time.perf_counter() - started
            return _stages(ctx, inputs)
        finally:
            backend.close()


def _stages(ctx: Context, inputs: Inputs) -> Path:
    cfg = ctx.cfg
    model_path = inputs.model_path
    if inputs.sft_stream is not None:
        model_path = str(train_sft(ctx, model_path, inputs.sft_stream))
    before, after = train_grpo(ctx, model_path, inputs.stream, inputs.eval_prompts, inputs.scorer)
    with ctx.timed("export"):
        final, partial = cfg.run_dir / "model", cfg.run_dir / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        ctx.backend.export(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    differences = [b - a for a, b in zip(before.correct_P, after.correct_P, strict=True)]
    ctx.tracker.close()
    return write_summary(
        cfg.run_dir,
        name=cfg.name,
        model=cfg.model.path,
        seed=cfg.seed,
        before=Measured(before.pass_at_1, before.stderr, before.greedy),
        after=Measured(after.pass_at_1, after.stderr, after.greedy),
        steps=cfg.grpo.steps,
        seconds=ctx.seconds,
        gain_stderr=mean_and_stderr(differences)[1],
    )


def _model_path(path: str) -> str:
    """A model made in Python ('module:function', called without arguments) is made now; it returns its folder."""
    if not TASK.fullmatch(path):
        if (("/" in path and path.count("/") > 1) or path.startswith((".", "/"))) and not Path(path).is_dir():
            raise BadInput(f"model.path={path}: no such folder")
        return path
    module, _, name = path.partition(":")
    try:
        make = vars(importlib.import_module(module))[name]
    except (ImportError, KeyError) as error:
        raise BadInput(f"model.path={path}: no such Python function ({error})") from error
    return str(make())


def _refuse_other_run(cfg: RunConfig) -> None:
    """Raise BadInput when the run's folder holds a run with other settings."""
    path = cfg.run_dir / "resolved.json"
    if not path.exists():
        return
    old, new = json.loads(to_json(from_json(path.read_text()))), json.loads(to_json(cfg))
    for key, (was, now) in _differences(old, new, "").items():
        if not key.startswith(FREE_ON_RESUME):
            raise BadInput(
                f"{cfg.run_dir} holds a run with {key}={was}, not {now}; use another name=..., or delete the folder"
            )


def _differences(old: object, new: object, prefix: str) -> dict[str, tuple[object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out: dict[str, tuple[object, object]] = {}
        for key in old.keys() | new.keys():
            out |= _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return out
    return {} if old == new else {prefix.rstrip("."): (old, new)}
