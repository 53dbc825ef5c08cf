"""Checks of a recipe of several stages: names, references between stages, and every stage's settings.

Loads no torch, and reads no file: rl/workflow/recipe_inputs.py checks what a recipe needs from outside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from rl.config import MODEL, PreferConfig, RejectConfig, RewardTrainConfig
from rl.recipe import (
    GRPO,
    HAS_MODEL,
    MAKES_DATA,
    MAKES_MODEL,
    SFT,
    Build,
    Compare,
    Evaluate,
    Mix,
    Prefer,
    Recipe,
    Reference,
    Reject,
    RewardTraining,
    Stage,
    references,
    run_config,
    shares_sequences,
)
from rl.settings.config_checks import validate, value_faults
from rl.types import BadInput

ADDRESS = re.compile(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?")


def check(recipe: Recipe) -> None:
    """Check names, references and every setting. Raises BadInput with all the faults, one a line."""
    faults: list[str] = []
    earlier: dict[str, Stage] = {}
    if not recipe.name or "/" in recipe.name:
        faults.append(f"name={recipe.name!r}: must be a folder name without '/'")
    shared = recipe.base.learner.sequence_parallel
    if shared > 1 and not any(shares_sequences(stage) for stage in recipe.stages):
        faults.append(f"learner.sequence_parallel={shared}: no stage is SFT without a teacher, which it is for; use 1")
    for stage in recipe.stages:
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            faults.append(f"stage {stage.name!r}: a name has letters, digits, - and _ only")
        if stage.name in earlier:
            faults.append(f"stage {stage.name!r}: the name is used twice")
        faults += [f"{stage.name}.{fault}" for fault in _reference_faults(stage, earlier)]
        faults += [f"{stage.name}.{fault}" for fault in _scores_faults(stage, earlier)]
        faults += [f"{stage.name}.{fault}" for fault in _own_faults(recipe, stage)]
        earlier[stage.name] = stage
    if faults:
        raise BadInput("\n".join(faults))


def _reference_faults(stage: Stage, earlier: dict[str, Stage]) -> Iterator[str]:
    for key, text in references(stage):
        ref = Reference.parse(text)
        assert ref is not None
        if ref.stage not in earlier:
            near = difflib.get_close_matches(ref.stage, earlier, n=1)
            hint = f"; did you mean @{near[0]}?" if near else ""
            yield f"{key}={text}: no earlier stage has that name{hint}"
        elif key in ("model", "sft.distill.teacher", "grpo.teacher") and not isinstance(
            earlier[ref.stage], MAKES_MODEL
        ):
            yield f"{key}={text}: that stage makes no model"
        elif key.endswith("source") and not ref.file and not isinstance(earlier[ref.stage], MAKES_DATA):
            yield f"{key}={text}: that stage makes no dataset; name one of its files as @{ref.stage}/FILE"
        elif key.startswith("rewards.") and not isinstance(earlier[ref.stage], RewardTraining):
            yield f"{key}={MODEL}{text}: that stage trains no reward model"
        elif key.startswith("prefer.samples") and not ref.file and not isinstance(earlier[ref.stage], Reject):
            yield f"{key}={text}: that stage samples nothing; name one of its files as @{ref.stage}/FILE"
        elif ref.metric and not isinstance(earlier[ref.stage], Evaluate | GRPO | RewardTraining):
            yield f"{key}={text}: that stage measures nothing"
        elif isinstance(stage, Compare) and not ref.metric:
            yield f"{key}={text}: name what that stage measures, as @{ref.stage}:pass@1"


def _scores_faults(stage: Stage, earlier: dict[str, Stage]) -> Iterator[str]:
    """A reward model reads the part of a response that it was trained on, and its pairs are balanced by that part."""

    def made_by(text: str) -> tuple[str, Stage | None]:
        ref = Reference.parse(text)
        return (ref.stage, earlier.get(ref.stage)) if ref else ("", None)

    if isinstance(stage, RewardTraining):
        name, pairs = made_by(stage.reward.data.source)
        if isinstance(pairs, Prefer) and pairs.prefer.balance_lengths and pairs.prefer.scores != stage.reward.scores:
            yield (
                f"reward.scores={stage.reward.scores}: but @{name} balances the lengths of another part; set "
                f"{name}.prefer.scores={stage.reward.scores}"
            )
    if isinstance(stage, GRPO | Reject | Evaluate):
        for i, reward in enumerate(stage.rewards):
            name, trained = made_by(reward.function.removeprefix(MODEL))
            if isinstance(trained, RewardTraining) and trained.reward.scores != reward.model.scores:
                yield (
                    f"rewards.{i}.model.scores={reward.model.scores}: but @{name} was trained on the "
                    f"{trained.reward.scores}"
                )


def _own_faults(recipe: Recipe, stage: Stage) -> Iterator[str]:
    yield from value_faults(stage)
    if isinstance(stage, HAS_MODEL):
        if not stage.model:
            yield "model: name a Hugging Face id, a folder, or @stage"
        try:
            validate(run_config(recipe, stage))
        except BadInput as error:
            yield from (line for line in str(error).splitlines() if not line.startswith("model.path"))
    if isinstance(stage, SFT) and not stage.sft.enabled:
        yield "sft.steps: set steps or epochs"
    if isinstance(stage, GRPO) and not stage.grpo.steps:
        yield "grpo.steps: must be at least 1"
    if isinstance(stage, Reject | Evaluate) and not stage.rewards:
        yield "rewards: at least one must say which samples are correct, for example RewardConfig('accuracy')"
    if isinstance(stage, Reject) and (stage.reject.teacher.url or stage.reject.teacher.model):
        yield from _teacher_faults(stage)
    if isinstance(stage, Reject) and stage.reject.ask.shots:
        yield from _shot_faults(stage.reject)
    if (
        isinstance(stage, Reject)
        and stage.reject.top_logprobs
        and (stage.rollout.temperature, stage.rollout.top_p) != (1, 1)
    ):
        yield "reject.top_logprobs: what a student learns is the distribution at rollout.temperature=1 and top_p=1"
    if isinstance(stage, Mix) and not stage.mix.parts:
        yield "mix.parts: at least one dataset"
    if isinstance(stage, Prefer):
        yield from _prefer_faults(stage.prefer)
    if isinstance(stage, RewardTraining):
        yield from _reward_faults(stage.reward)
    if isinstance(stage, Compare):
        yield from _claim_faults(stage)
    if isinstance(stage, Build) and ":" not in stage.function:
        yield f"function={stage.function}: expected 'module:function'"


def _claim_faults(stage: Compare) -> Iterator[str]:
    for i, claim in enumerate(stage.claims):
        for side, text in (("left", claim.left), ("right", claim.right)):
            try:
                float("0" if text.startswith("@") else text)
            except ValueError:
                yield f"claims.{i}.{side}={text}: is neither a number nor @stage:metric"


def _shot_faults(cfg: RejectConfig) -> Iterator[str]:
    if not cfg.ask.shots_data.source:
        yield f"reject.ask.shots={cfg.ask.shots}: name the rows to draw them from in reject.ask.shots_data.source"
    if cfg.top_logprobs:
        yield "reject.top_logprobs: with reject.ask.shots a sample's text ends before its tokens do; use one of the two"


def _prefer_faults(cfg: PreferConfig) -> Iterator[str]:
    if not cfg.samples:
        yield "prefer.samples: name at least one stage that samples"
    if bool(cfg.function) == bool(cfg.base_url):
        yield "prefer: set function (a rule) or base_url (a judge), one of the two"
    if cfg.base_url and not cfg.judge:
        yield "prefer.judge: name the judge's model"
    if cfg.function and ":" not in cfg.function:
        yield f"prefer.function={cfg.function}: expected 'module:function'"


def _reward_faults(cfg: RewardTrainConfig) -> Iterator[str]:
    if not cfg.data.source:
        yield "reward.data.source: no preference data"
    if not cfg.steps and not cfg.epochs:
        yield "reward.steps: set steps or epochs"
    if not cfg.eval_data.source and not cfg.held_out_share:
        yield "reward.held_out_share=0: accuracy needs held-out rows; or set reward.eval_data.source"


def _teacher_faults(stage: Reject) -> Iterator[str]:
    teacher = stage.reject.teacher
    if not ADDRESS.fullmatch(teacher.url):
        yield f"reject.teacher.url={teacher.url}: expected an address, as https://host/v1"
    if not teacher.model:
        yield "reject.teacher.model: name the endpoint's model"
    if stage.rollout.stop:
        yield "rollout.stop: an endpoint leaves the stop text out of its answer; use none with a teacher"
    if stage.reject.top_logprobs:
        yield "reject.top_logprobs: an endpoint's logprobs are not stored; sample a model of your own for them"
    models = [r.function for r in stage.rewards if r.function.startswith("model:")]
    if models:
        yield f"rewards: {models[0]}: a reward model needs machines, and a stage with a teacher starts none"
