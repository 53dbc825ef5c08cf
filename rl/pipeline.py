"""Run a recipe: check everything that can be checked, start the machines, SFT, GRPO, summary. Resumes by itself."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rl.backend import Backend
from rl.config import AskConfig, DataConfig, RunConfig
from rl.data import TASK, PromptStream, end_token_ids, load_rows, place, python_function
from rl.examples import CONTEXT, MICRO_BATCH, ExampleStream
from rl.judge import refuse_style_alone, unjudgeable
from rl.lock import held
from rl.metrics import paired_difference
from rl.prepare import refuse_other_tokenizer, refuse_short_teacher, with_tokens
from rl.pretrained import context_length, load_config, load_tokenizer, refuse_heads
from rl.records import write_whole
from rl.reward_model import check_models
from rl.routing import named, refuse_unused
from rl.score import Scorer
from rl.settings import from_json, to_json, validate
from rl.shots import asked_prompts, evaluation_prompts
from rl.stages.contamination import check_run
from rl.stages.context import Context, Stop
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
    """All that a run needs and that can be wrong, loaded and checked before any machine is started.

    stream: for GRPO. prompts: each training prompt once, where they are sampled without GRPO. What a run does not need
    is empty or None.
    """

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    stream: PromptStream | None
    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    sft_stream: ExampleStream | None
    sft_held_out: ExampleStream | None
    scorer: Scorer | None


def prepare(
    cfg: RunConfig,
    *,
    samples_here: bool = True,
    ask: AskConfig | None = None,
    trained_on: Sequence[DataConfig] = (),
) -> Inputs:
    """Check the config, the model, the tokenizer, the data and the rewards. Raises BadInput.

    samples_here: False where another's machine samples, so that prompts and completions need not fit into ours.
    ask: how the prompts are put where they are sampled without GRPO.
    trained_on: what stages before trained the model on, to look for the evaluation's problems in.
    """
    validate(cfg)
    model_path = with_tokens(resolve_model(cfg.model.path), cfg.model.add_tokens, lora_rank=cfg.model.lora.rank)
    model_config = load_config(model_path)
    limit = context_length(cfg.model, model_config)
    refuse_heads(model_config, cfg.learner.sequence_parallel)
    tokenizer = load_tokenizer(model_path)
    end_token_ids(tokenizer)
    for key, name in (("sft.distill.teacher", cfg.sft.distill.teacher), ("grpo.teacher", cfg.grpo.teacher)):
        if name:
            teacher = resolve_model(name, key)
            refuse_other_tokenizer(key, teacher, tokenizer)
            refuse_short_teacher(key, teacher, min(limit, cfg.learner.micro_batch_tokens))
    samples = bool(cfg.prompts.source or cfg.grpo.steps or cfg.evaluation.data.source)
    longest_prompt = _longest_prompt(cfg, limit) if samples and samples_here else sys.maxsize
    scorer, stream, prompts, eval_prompts = None, None, [], []
    if cfg.rewards:
        scorer = Scorer(cfg.rewards, cfg.grpo, max_unjudged_share=cfg.scoring.max_unjudged_share)
        check_models(cfg.rewards)
    if cfg.prompts.source or cfg.grpo.steps:
        rows = _judgeable(cfg, cfg.prompts)
        if cfg.rewards:
            refuse_unused(named(cfg.rewards), rows, cfg.prompts.source)
        if cfg.grpo.steps:
            stream = PromptStream(rows, cfg.prompts, tokenizer, cfg.seed, longest_prompt)
        else:
            put = ask or AskConfig()
            prompts = asked_prompts(rows, cfg.prompts, put, tokenizer, longest_prompt, cfg.seed, "reject.ask")
    held_out = cfg.evaluation.data
    if held_out.source:
        rows = _judgeable(cfg, held_out)
        refuse_style_alone(named(cfg.rewards), rows, held_out.source)
        eval_prompts = evaluation_prompts(rows, cfg.evaluation, cfg.prompts, tokenizer, longest_prompt, cfg.seed)
    sft_stream, sft_held_out = None, None
    if cfg.sft.enabled:
        sft_stream = _examples(cfg, cfg.sft.data, tokenizer, limit, cached=cfg.sft.distill.cached)
        if cfg.sft.eval_data.source:
            sft_held_out = _examples(cfg, cfg.sft.eval_data, tokenizer, limit)
    check_run(cfg, trained_on)
    if cfg.sft.enabled or cfg.grpo.steps:
        from rl.model import refuse_model  # modelling code, which the driver needs for nothing else

        refuse_model(model_path, cfg.learner, gpu=cfg.cluster.device == "gpu")
    return Inputs(model_path, tokenizer, limit, stream, prompts, eval_prompts, sft_stream, sft_held_out, scorer)


def _longest_prompt(cfg: RunConfig, limit: int) -> int:
    """Tokens that a prompt may have so that a completion fits behind it, in the context and in a micro-batch."""
    new_tokens = {
        "rollout.max_new_tokens": cfg.rollout.max_new_tokens, "evaluation.max_new_tokens": cfg.evaluation.max_new_tokens
    }  # fmt: skip
    key = max(new_tokens, key=new_tokens.__getitem__)
    longest = limit - new_tokens[key]
    if longest < 1:
        raise BadInput(f"{key}={new_tokens[key]} leaves no room for a prompt in a context of {limit} tokens; lower it")
    budget = cfg.learner.micro_batch_tokens
    longest = min(longest, budget - cfg.rollout.max_new_tokens)
    if longest < 1:
        raise BadInput(
            f"learner.micro_batch_tokens={budget} cannot hold a completion of "
            f"{cfg.rollout.max_new_tokens} tokens; raise it"
        )
    return longest


def _examples(
    cfg: RunConfig, data: DataConfig, tokenizer: PreTrainedTokenizerBase, context: int, *, cached: bool = False
) -> ExampleStream:
    """Examples that fit into the context and into a micro-batch."""
    limit, limited_by = min((context, CONTEXT), (cfg.learner.micro_batch_tokens, MICRO_BATCH), key=lambda of: of[0])
    return ExampleStream(
        load_rows(data), data, tokenizer, cfg.seed, limit, cfg.sft.overlong, cached=cached, limited_by=limited_by
    )


def _judgeable(cfg: RunConfig, data: DataConfig) -> list[Row]:
    """The rows that get a reward and whose answers it can judge by. Raises BadInput for others, or drops them."""
    rows = load_rows(data)
    table = Table(rows, data, functools.partial(place, data.source))
    steps = cfg.grpo.steps if data is cfg.prompts else 0  # evaluation asks every reward, whatever the step
    bad = unjudgeable(cfg.rewards, rows, [table.reference(i) for i in range(len(rows))], steps)
    if not bad:
        return rows
    shown = "; ".join(f"{place(data.source, i)}: {reason}" for i, reason in list(bad.items())[:3])
    found = f"{len(bad)} of {len(rows)} rows cannot be judged: {shown}"
    if data.unjudgeable == "error" or len(bad) == len(rows):
        raise BadInput(f"{found}. Mend the rows, or leave them out with unjudgeable=drop")
    log.warning("%s. Dropped", found)
    return [row for i, row in enumerate(rows) if i not in bad]


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


def with_teachers(cfg: RunConfig, found: Callable[[str], str]) -> RunConfig:
    """The run with found(name) for the name of each teacher."""
    distill = dataclasses.replace(cfg.sft.distill, teacher=found(cfg.sft.distill.teacher))
    grpo = dataclasses.replace(cfg.grpo, teacher=found(cfg.grpo.teacher))
    return dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, distill=distill), grpo=grpo)


def resolve_model(path: str, key: str = "model.path") -> str:
    """A model made in Python ('module:function', called without arguments) is made now; it returns its folder.

    Raises BadInput when there is none. key: the setting that names it.
    """
    if not TASK.fullmatch(path):
        if (("/" in path and path.count("/") > 1) or path.startswith((".", "/"))) and not Path(path).is_dir():
            raise BadInput(f"{key}={path}: no such folder")
        return path
    try:
        make = python_function(path)
    except BadInput as error:
        raise BadInput(f"{key}={path}: no such Python function ({error})") from error
    return str(make())


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
