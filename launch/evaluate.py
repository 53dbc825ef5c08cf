"""`aha eval`: pass@1, pass@k and cons@k of any Hugging Face checkpoint, with a run's learners, samplers and rewards.

The learner loads the weights and sends them to the samplers, so that the numbers are those that training would see.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launch.evaluation_tables import selection_table, table
from launch.machine import settled_run
from recipes.benchmarks import BENCHMARKS, EXAMPLES, PROMPTINGS, STEP_BY_STEP, r1_protocol
from rl.config import (
    DataConfig,
    EnvironmentConfig,
    EvalConfig,
    GRPOConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SearchConfig,
    asked_day,
)
from rl.data.row_files import FILES
from rl.data.templates import CHAT
from rl.evaluation.metrics import mean_and_stderr
from rl.evaluation.selection import MAJORITY, OWN_SCORES
from rl.records.renamed_metrics import with_old_names
from rl.records.whole_files import write_json
from rl.scoring.routing import named
from rl.settings.config_checks import validate
from rl.settings.overrides import to_json, with_overrides
from rl.types import BadInput, Prompt

if TYPE_CHECKING:
    from rl.data.contamination import Contamination

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The options of the command line; None or "" for those not given."""

    model: str
    data: str
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    template: str = ""
    rewards: tuple[str, ...] = ("accuracy",)
    protocol: str = ""
    step_by_step: bool | None = None
    shots: int = 0
    limit: int = 0
    against: str = ""
    select: str = ""
    search: str = ""
    environment: str = ""


def build(asked: Asked, overrides: list[str]) -> RunConfig:
    """The settings of an evaluation: no training, no checkpoints. Overrides are applied last. Raises BadInput.

    The default name ends in a hash of what changes the numbers, so that different evaluations have different folders.
    """
    rewards, select = _choosing(asked)
    evaluation = dataclasses.replace(_evaluation(asked), select=select)
    if asked.search:
        scorers = [name for name in select if name not in (MAJORITY, *OWN_SCORES)]
        evaluation = dataclasses.replace(evaluation, search=_searches(asked.search, scorers[-1] if scorers else ""))
    name = f"{_slug(asked.model)}-{_slug(asked.data)}"
    cfg = RunConfig(
        name=name,
        out="runs/evals",
        model=ModelConfig(path=asked.model),
        rewards=rewards,
        environments=(EnvironmentConfig(asked.environment),) if asked.environment else (),
        rollout=RolloutConfig(max_new_tokens=evaluation.max_new_tokens),
        grpo=GRPOConfig(steps=0, kl_coef=0.0),
        evaluation=evaluation,
    )
    cfg, faults = with_overrides(cfg, overrides)
    validate(cfg, faults)
    cfg, precision = settled_run(cfg)
    print(precision)
    if cfg.name == name:
        model = dataclasses.replace(cfg.model, chat_date=asked_day(cfg.model.chat_date))
        played = (cfg.environments,) if cfg.environments else ()
        settings = repr((cfg.seed, model, cfg.prompts, cfg.rewards, cfg.rollout, cfg.evaluation, *played))
        cfg = dataclasses.replace(cfg, name=f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    return cfg


def _choosing(asked: Asked) -> tuple[tuple[RewardConfig, ...], tuple[str, ...]]:
    """(rewards, evaluation.select). What --select names and --reward does not becomes a reward of weight 0.

    --select majority,model:runs/prm/model -> accuracy and the model, ("majority", "model")
    """
    rewards = [RewardConfig(function) for function in asked.rewards]
    if not asked.select:
        return tuple(rewards), EvalConfig().select
    known = {reward.function: name for name, reward in named(rewards).items()} if rewards else {}
    select = []
    for choice in (text.strip() for text in asked.select.split(",")):
        if choice not in (MAJORITY, *OWN_SCORES, *known, *known.values()):
            rewards.append(RewardConfig(choice, weight=0.0))
            known = {reward.function: name for name, reward in named(rewards).items()}
        select.append(known.get(choice, choice))
    return tuple(rewards), tuple(select)


SEARCH = re.compile(r"(beam|dvts)-(\d+)x(\d+)|(cut|stretch)-(\d+)")


def _searches(text: str, scorer: str) -> tuple[SearchConfig, ...]:
    """ "beam-4x4,cut-256" -> SearchConfig("beam", width=4, expand=4, scorer=...), SearchConfig("cut", tokens=256)"""
    found = []
    for part in (part.strip() for part in text.split(",")):
        match = SEARCH.fullmatch(part)
        if match is None:
            raise BadInput(
                f"--search {part}: expected beam-4x4, dvts-4x4, cut-256 or stretch-256, with numbers of yours"
            )
        kind, width, expand, budget, tokens = match.groups()
        if kind and not scorer:
            raise BadInput(f"--search {part}: name what scores it, as --select majority,model:FOLDER")
        found.append(
            SearchConfig(kind, width=int(width), expand=int(expand), scorer=scorer)
            if kind
            else SearchConfig(budget, tokens=int(tokens))
        )
    return tuple(found)


def _evaluation(asked: Asked) -> EvalConfig:
    if asked.protocol not in ("", "r1", *PROMPTINGS):
        raise BadInput(f"--protocol {asked.protocol}: there are r1, {', '.join(PROMPTINGS)}")
    if asked.protocol == "r1" and asked.data in BENCHMARKS:
        cfg = r1_protocol(asked.data)
    elif asked.protocol == "r1":
        cfg = dataclasses.replace(r1_protocol("math500"), data=DataConfig(source=asked.data, template=CHAT))
    else:
        data = BENCHMARKS.get(asked.data, DataConfig(source=asked.data))
        cfg = EvalConfig(data=data, samples=16, max_new_tokens=1024)
        cfg = PROMPTINGS[asked.protocol](cfg) if asked.protocol else cfg
    given = {
        "samples": asked.samples, "temperature": asked.temperature, "top_p": asked.top_p,
        "max_new_tokens": asked.max_new_tokens, "shots": asked.shots or None,
    }  # fmt: skip
    cfg = dataclasses.replace(cfg, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    data = dataclasses.replace(cfg.data, limit=asked.limit or cfg.data.limit, shuffle=False)
    if asked.template:
        data = dataclasses.replace(data, template=asked.template)
    told = cfg.instruction if asked.protocol in PROMPTINGS else ""
    instruction = STEP_BY_STEP if _step_by_step(asked, data.template) else told
    examples = EXAMPLES.get(asked.data, cfg.shots_data)
    if cfg.shots and asked.against and not examples.source:
        rows = training_rows(asked.against, data)
        examples = dataclasses.replace(data, source=rows.source, subset=rows.subset, split=rows.split, limit=0)
    return dataclasses.replace(cfg, data=data, shots_data=examples, instruction=instruction)


def _step_by_step(asked: Asked, template: str) -> bool:
    """Whether to ask for a boxed answer. A chat model needs to be asked; with r1_zero's text or with worked examples it
    knows how to answer.
    """
    if asked.step_by_step is not None:
        return asked.step_by_step
    if asked.protocol:
        return asked.protocol == "r1" and template != "r1_zero"
    return asked.data in BENCHMARKS and template == CHAT and not asked.shots


def _slug(text: str) -> str:
    """The last part of the name that identifies it: a run's model is in a folder called "model".

    "org/model-1.5B" -> "model-1.5B"; "runs/zero/model" -> "zero"; "data/test.jsonl" -> "test";
    "recipes.tasks:tiny_eval" -> "tiny_eval"
    """
    path = Path(text.rpartition(":")[2])
    last = path.parent.name if path.name == "model" else path.name
    stem = last.removesuffix(Path(last).suffix) if Path(last).suffix.lower() in FILES else last
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in stem) or "model"


def context_needed(longest_prompt: int, max_new_tokens: int, limit: int) -> int:
    """The context that the samplers need. The model's whole context may be too large for the KV cache.

    100, 1024, 131072 -> 1152 (in steps of 64); 100, 1024, 1130 -> 1130
    """
    return min(limit, -(-(longest_prompt + max_new_tokens) // 64) * 64)


def training_rows(source: str, evaluated: DataConfig) -> DataConfig:
    """The rows that --against names: of a Hub id the split train, and the evaluation's subset if it is the same set."""
    return DataConfig(source=source, subset=evaluated.subset if source == evaluated.source else "")


def contamination(cfg: EvalConfig, prompts: Sequence[Prompt], against: str) -> Contamination:
    """Look for the problems in every text of the training rows. Raises BadInput like check_contamination."""
    from rl.data.contamination import check_contamination, every_text

    problems = [str(p.row[cfg.data.prompt_field]) for p in prompts]
    training = every_text(training_rows(against, cfg.data))
    return check_contamination(problems, training, cfg.contamination, f"{cfg.data.source} in {against}")


def evaluate_checkpoint(cfg: RunConfig, asked: Asked, out: Path | None, console: Console | None = None) -> Path:
    """Evaluate, print the table and write the JSON file. Returns its path, by default <out>/<name>/eval.json."""
    from launch.report.compute_figure import draw_compute
    from rl.context import Context, Stop
    from rl.environments.rendering import around_answers, room_for_answers
    from rl.evaluation.evaluate import evaluate_model
    from rl.records.tracker import Tracker
    from rl.workers.cluster.ray_backend import RayBackend
    from rl.workflow.inputs import prepare

    inputs = prepare(cfg)
    if inputs.scorer is None or not inputs.eval_prompts:
        raise BadInput("aha eval: name the problems with --data and at least one --reward")
    found = contamination(cfg.evaluation, inputs.eval_prompts, asked.against) if asked.against else None
    longest = max(len(p.token_ids) for p in inputs.eval_prompts)
    longest += room_for_answers(around_answers(cfg.environments, cfg.evaluation.data.template, inputs.tokenizer))
    context = context_needed(
        longest, cfg.evaluation.max_new_tokens or cfg.rollout.max_new_tokens, inputs.context_length
    )
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, context_length=context))
    with Tracker(cfg.run_dir, dataclasses.replace(cfg.track, wandb="off"), name=cfg.name, console=console) as tracker:
        backend = RayBackend(cfg)
        try:
            backend.start(inputs.model_path, context)
            tracker.attach(backend.publish, backend.queue)
            ctx = Context(cfg, backend, inputs.tokenizer, tracker, Stop(), context)
            result = evaluate_model(ctx, inputs.model_path, inputs.eval_prompts, inputs.scorer)
        finally:
            backend.close()
    record = {
        "model": cfg.model.path,
        "data": cfg.evaluation.data.source,
        "problems": len(inputs.eval_prompts),
        "metrics": with_old_names(result.metrics()),
        "pass_at": result.pass_at,
        "correct_P": result.correct_P,
        "searched": result.searched,
        "selected": {name: mean_and_stderr(values_P) for name, values_P in result.selected.items()},
        "seconds": ctx.seconds,
        "contamination": found.report() if found else "not checked: name the training data with --against",
        "config": json.loads(to_json(cfg)),
    }
    path = out or cfg.run_dir / "eval.json"
    write_json(path, _without_nan(record))
    console = console or Console()
    title = f"{cfg.model.path} on {len(inputs.eval_prompts)} problems of {cfg.evaluation.data.source}"
    console.print(table(title, cfg.evaluation, result.metrics(), result.pass_at, result.stderr))
    if others := selection_table(result):
        console.print(others)
    if figure := draw_compute(cfg.run_dir, title=title):
        console.print(f"accuracy against tokens: {figure}", markup=False)
    if found:
        console.print(f"Contamination: {found.report()}", markup=False, highlight=False)
    console.print(
        f"{ctx.seconds['evaluate']:.0f} s; numbers and settings: {path}; rollouts: {cfg.run_dir / 'rollouts'}",
        markup=False,
    )
    return path


def _without_nan(value: object) -> object:
    """The value with null for NaN, which JSON does not have: null means not measured."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
