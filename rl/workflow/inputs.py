"""Loads and checks what a run reads from outside, before any machine is started: model, tokenizer, data, rewards."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from rl.config import MODEL, AskConfig, DataConfig, RunConfig
from rl.context import Inputs, game_seed
from rl.data.contamination import check_run
from rl.data.few_shot import asked_prompts, evaluation_prompts
from rl.data.row_store import select
from rl.data.rows import TASK, load_rows, place, python_function
from rl.data.sft_examples import CONTEXT, MICRO_BATCH, ExampleStream
from rl.data.streams import PromptStream
from rl.data.templates import Table, end_token_ids
from rl.environments.prompt_extras import prompt_extras, refuse_unused_environments
from rl.environments.rendering import around_answers, room_for_answers
from rl.evaluation.selection import refuse_unknown_scorers, refuse_unknown_scores
from rl.model.added_tokens import refuse_other_tokenizer, refuse_short_teacher, with_tokens
from rl.model.hub import reach_hub
from rl.model.pretrained import context_length, is_mixture, load_config, load_tokenizer, refuse_heads
from rl.scoring.reward_functions import refuse_style_alone, unrewardable_rows
from rl.scoring.reward_model_text import check_models
from rl.scoring.routing import is_model, named, refuse_unused
from rl.scoring.scorer import Scorer
from rl.settings.chat_template import chat_day, set_template
from rl.settings.config_checks import validate
from rl.settings.queue_memory import refuse_large_queue
from rl.turns import PromptExtras
from rl.types import BadInput, Row

if TYPE_CHECKING:
    from transformers.configuration_utils import PretrainedConfig
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MICRO_BATCHES = "micro-batches (learner.micro_batch_tokens)"


def prepare(
    cfg: RunConfig,
    *,
    samples_here: bool = True,
    ask: AskConfig | None = None,
    trained_on: Sequence[DataConfig] = (),
) -> Inputs:
    """Load and check the settings, the model, the tokenizer, the data and the rewards. Raises BadInput.

    samples_here: False when a teacher's endpoint samples, so that prompts and completions need not fit into our model.
    ask: how the prompts are put to the model when they are sampled without GRPO.
    trained_on: what earlier stages trained the model on; the evaluation's problems are looked for in it.
    """
    validate(cfg)
    refuse_large_queue(cfg, psutil.virtual_memory().total)
    model_path = with_tokens(resolve_model(cfg.model.path), cfg.model.add_tokens, lora_rank=cfg.model.lora.rank)
    model_config = load_config(model_path)
    limit = context_length(cfg.model, model_config)
    refuse_heads(model_config, cfg.learner.sequence_parallel)
    _recommend_loss(cfg, model_config)
    tokenizer = load_tokenizer(model_path)
    set_template(tokenizer, chat_day(cfg.model.chat_date))
    end_token_ids(tokenizer)
    _refuse_teachers(cfg, tokenizer, limit)
    answers = room_for_answers(around_answers(cfg.environments, _template(cfg), tokenizer))
    scorer, stream, prompts, eval_prompts = _scorer(cfg), None, [], []
    if cfg.prompts.source or cfg.grpo.steps:
        longest = _longest_prompt(cfg, limit, answers) if samples_here else sys.maxsize
        rows = _training_rows(cfg)
        extras = _prompt_extras(cfg, rows, cfg.prompts)
        if cfg.grpo.steps:
            stream = PromptStream(rows, cfg.prompts, tokenizer, cfg.seed, longest, extras=extras)
        else:
            put = ask or AskConfig()
            prompts = asked_prompts(rows, cfg.prompts, put, tokenizer, longest, cfg.seed, "reject.ask", extras=extras)
    held_out = cfg.evaluation.data
    if held_out.source:
        longest = _longest_problem(cfg, limit, answers) if samples_here else sys.maxsize
        rows = _rewardable_rows(cfg, held_out)
        _refuse_rewards_of_evaluation(cfg, rows)
        extras = _prompt_extras(cfg, rows, held_out)
        eval_prompts = evaluation_prompts(rows, cfg.evaluation, cfg.prompts, tokenizer, longest, cfg.seed, extras)
    sft_stream, sft_held_out = None, None
    if cfg.sft.enabled:
        sft_stream = _examples(cfg, cfg.sft.data, tokenizer, limit, cached=cfg.sft.distill.cached)
        if cfg.sft.eval_data.source:
            sft_held_out = _examples(cfg, cfg.sft.eval_data, tokenizer, limit)
    check_run(cfg, trained_on)
    if cfg.sft.enabled or cfg.grpo.steps or cfg.model.lora.rank:
        # Imported here, because it loads modelling code that the driver needs for nothing else.
        from rl.model.policy import refuse_model

        refuse_model(model_path, cfg.learner, gpu=cfg.cluster.device == "gpu", lora=cfg.model.lora)
    return Inputs(model_path, tokenizer, limit, stream, prompts, eval_prompts, sft_stream, sft_held_out, scorer)


def _scorer(cfg: RunConfig) -> Scorer | None:
    if not cfg.rewards and not cfg.environments:
        return None
    share = cfg.scoring.max_unjudged_share
    scorer = Scorer(cfg.rewards, cfg.grpo, max_unjudged_share=share, environments=cfg.environments)
    for reward in cfg.rewards:
        if is_model(reward):
            reach_hub(reward.function.removeprefix(MODEL))
    check_models(cfg.rewards)
    return scorer


def _prompt_extras(cfg: RunConfig, rows: Sequence[Row], data: DataConfig) -> list[PromptExtras]:
    """What environments add to the rows' questions."""
    where = functools.partial(place, data.source)
    return prompt_extras(cfg.environments, rows, functools.partial(game_seed, cfg.seed), cfg.scoring, where)


def _template(cfg: RunConfig) -> str:
    """How the prompts that have environments are put."""
    return (cfg.prompts if cfg.prompts.source else cfg.evaluation.data).template


def _refuse_rewards_of_evaluation(cfg: RunConfig, rows: Sequence[Row]) -> None:
    """Raise BadInput where style alone would say what is right, or what chooses an answer is none of the rewards."""
    rewards = named(cfg.rewards) if cfg.rewards else {}
    refuse_style_alone(rewards, rows, cfg.evaluation.data.source)
    refuse_unknown_scores(cfg.evaluation.select, list(rewards))
    refuse_unknown_scorers("evaluation.search", cfg.evaluation.search, list(rewards))


def _refuse_teachers(cfg: RunConfig, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """Raise BadInput for a teacher that cannot read the model's tokens, or not as many. limit: the model's context."""
    for key, name in (("sft.distill.teacher", cfg.sft.distill.teacher), ("grpo.teacher", cfg.grpo.teacher)):
        if name:
            teacher = resolve_model(name, key)
            refuse_other_tokenizer(key, teacher, tokenizer)
            refuse_short_teacher(key, teacher, min(limit, cfg.learner.micro_batch_tokens))


def _recommend_loss(cfg: RunConfig, config: PretrainedConfig) -> None:
    if cfg.grpo.steps and cfg.grpo.loss != "gspo" and is_mixture(config):
        log.warning(
            "%s is a mixture of experts: sampler and learner may route a token differently, and grpo.loss=%s weighs "
            "each token by its own ratio. grpo.loss=gspo weighs whole sequences and was made for it",
            cfg.model.path, cfg.grpo.loss,
        )  # fmt: skip


def _longest_prompt(cfg: RunConfig, limit: int, answers: int) -> int:
    """The most tokens of a training prompt that leave room for a completion, with the `answers` of an environment: in
    the context and, where the two are trained on together, in a micro-batch.
    """
    longest = _room("rollout.max_new_tokens", cfg.rollout.max_new_tokens, limit, answers, "a context")
    if not cfg.grpo.steps:
        return longest  # only a stage that trains on them has micro-batches to hold them
    budget = cfg.learner.micro_batch_tokens
    return min(longest, _room("rollout.max_new_tokens", cfg.rollout.max_new_tokens, budget, answers, MICRO_BATCHES))


def _longest_problem(cfg: RunConfig, limit: int, answers: int) -> int:
    """The most tokens of a held-out prompt, which no learner sees."""
    if cfg.evaluation.max_new_tokens:
        return _room("evaluation.max_new_tokens", cfg.evaluation.max_new_tokens, limit, answers, "a context")
    return _room("rollout.max_new_tokens", cfg.rollout.max_new_tokens, limit, answers, "a context")


def _room(key: str, new_tokens: int, limit: int, answers: int, where: str) -> int:
    if new_tokens + answers < limit:
        return limit - new_tokens - answers
    if not answers:
        raise BadInput(f"{key}={new_tokens} leaves no room for a prompt in {where} of {limit} tokens; lower it")
    raise BadInput(
        f"{key}={new_tokens} and {answers} tokens of an environment's answers (each of its turns but the last: "
        f"max_reply_tokens and the template around it) leave no room for a prompt in {where} of {limit} tokens; lower "
        f"max_turns, max_reply_tokens or {key}"
    )


def _examples(
    cfg: RunConfig, data: DataConfig, tokenizer: PreTrainedTokenizerBase, context: int, *, cached: bool = False
) -> ExampleStream:
    """Examples that fit into the context and into a micro-batch."""
    limit, limited_by = min((context, CONTEXT), (cfg.learner.micro_batch_tokens, MICRO_BATCH), key=lambda of: of[0])
    return ExampleStream(
        load_rows(data), data, tokenizer, cfg.seed, limit, cfg.sft.overlong, cached=cached, limited_by=limited_by
    )


def _training_rows(cfg: RunConfig) -> Sequence[Row]:
    """The rows of the training prompts. Raises BadInput for a reward or an environment that none of them has."""
    rows = _rewardable_rows(cfg, cfg.prompts)
    if cfg.rewards:
        refuse_unused(named(cfg.rewards), rows, cfg.prompts.source)
    refuse_unused_environments(cfg.environments, rows, cfg.prompts.source)
    return rows


def _rewardable_rows(cfg: RunConfig, data: DataConfig) -> Sequence[Row]:
    """The rows on which a reward can give a verdict. Raises BadInput for others, or drops them."""
    rows = load_rows(data)
    table = Table(rows, data, functools.partial(place, data.source))
    steps = cfg.grpo.steps if data is cfg.prompts else 0  # evaluation asks every reward, whatever the step
    references = [part.reference(i) for part in table.parts() for i in range(len(part.rows))]
    bad = unrewardable_rows(cfg.rewards, rows, references, steps)
    if not bad:
        return rows
    shown = "; ".join(f"{place(data.source, i)}: {reason}" for i, reason in list(bad.items())[:3])
    found = f"{len(bad)} of {len(rows)} rows cannot be rewarded: {shown}"
    if data.unjudgeable == "error" or len(bad) == len(rows):
        raise BadInput(f"{found}. Mend the rows, or leave them out with unjudgeable=drop")
    log.warning("%s. Dropped", found)
    return select(rows, [i for i in range(len(rows)) if i not in bad])


def with_teachers(cfg: RunConfig, found: Callable[[str], str]) -> RunConfig:
    """The run with found(name) in place of the name of each teacher."""
    distill = dataclasses.replace(cfg.sft.distill, teacher=found(cfg.sft.distill.teacher))
    grpo = dataclasses.replace(cfg.grpo, teacher=found(cfg.grpo.teacher))
    return dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, distill=distill), grpo=grpo)


def resolve_model(path: str, key: str = "model.path") -> str:
    """The model's Hub id or folder. 'module:function' is called now, without arguments, and returns its folder.

    Raises BadInput when there is no such folder or function. key: the setting that names the model, for the message.
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
