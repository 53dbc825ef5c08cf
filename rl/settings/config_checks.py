"""Checks of a run's config: every value's type and range, and settings that do not go together. Loads no torch."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable, Mapping, Sequence

from rl.config import GRPOConfig, RunConfig, SearchConfig, SFTConfig
from rl.settings.all_settings import Setting, settings_of
from rl.settings.annotations import IN_PYTHON, Notation
from rl.settings.chat_template import chat_date_fault
from rl.settings.typed_values import type_fault
from rl.types import BadInput


def validate(cfg: RunConfig, faults: Sequence[str] = ()) -> None:
    """Check types, ranges and what must fit together. Raises BadInput with all the faults, one a line.

    faults: what was found to be wrong before. Whether values fit together is checked once each has its type.
    """
    wrong = [*faults, *type_faults(settings_of(cfg))]
    refuse([*wrong, *range_faults(settings_of(cfg)), *([] if wrong else relation_faults(cfg))])


def refuse(faults: Sequence[str]) -> None:
    """Raise BadInput with all the faults, one a line, if there are any."""
    if faults:
        raise BadInput("\n".join(faults))


def type_faults(settings: Iterable[Setting], notation: Notation = IN_PYTHON) -> list[str]:
    """Every value whose type is not its field's, one line each. notation: how the line writes values."""
    found = ((setting, type_fault(setting.value, setting.hint, notation)) for setting in settings)
    return [f"{setting.key}={notation.shown(setting.value)}: {fault}" for setting, fault in found if fault]


def range_faults(settings: Iterable[Setting]) -> list[str]:
    """Every value that is out of its range or none of its choices, one line each."""
    return [fault for key, value, _, meta in settings if (fault := _range_fault(key, value, meta))]


def _range_fault(key: str, value: object, meta: Mapping[str, typing.Any]) -> str:
    lo, hi, choices = meta.get("lo"), meta.get("hi"), meta.get("choices", ())
    if choices and isinstance(value, str) and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{key}={value}: must be one of {', '.join(choices)}" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            # Without an upper bound, infinity would pass the next check; and JSON has no such number.
            return f"{key}={value}: is not a number" + ("" if math.isnan(value) else " that can be used")
        if (lo is not None and value < lo) or (hi is not None and value > hi):
            bounds = f"at least {lo:g}" if hi is None else f"between {lo:g} and {hi:g}"
            return f"{key}={value}: must be {bounds}. {meta['help']}"
    return ""


# ------------------------------------------------------------------------------------------------ what goes together


def relation_faults(cfg: RunConfig) -> list[str]:
    """Values that do not go together, one line each. Each value has its type already; it may be out of its range."""
    faults = _batch_faults(cfg) + _sft_faults(cfg.sft) + _grpo_faults(cfg) + _sampling_faults(cfg)
    faults += _learner_faults(cfg) + _sequence_faults(cfg) + _evaluation_faults(cfg)
    if fault := chat_date_fault(cfg.model.chat_date):
        faults.append(fault)
    faults += _sharing_faults(cfg) + _staleness_faults(cfg) + _environment_faults(cfg)
    if not cfg.model.path:
        faults.append("model.path: name a Hugging Face id or a folder")
    if not cfg.name or "/" in cfg.name:
        faults.append(f"name={cfg.name!r}: must be a folder name without '/'")
    return faults


def _batch_faults(cfg: RunConfig) -> list[str]:
    """Whether the rollouts of a step divide into updates, an update among the ranks, and one fits a micro-batch."""
    g = cfg.grpo
    if min(g.prompts_per_step, g.group_size, g.updates_per_step) < 1:
        return []  # out of range, which range_faults says; nothing divides
    if g.rollouts_per_step % g.updates_per_step:
        return [
            f"grpo: {g.prompts_per_step} prompts x {g.group_size} samples = {g.rollouts_per_step} rollouts do not "
            f"divide into updates_per_step={g.updates_per_step}; change one of the three"
        ]
    if g.steps and g.rollouts_per_step // g.updates_per_step < cfg.learner.ranks:
        return [
            f"grpo: {g.rollouts_per_step // g.updates_per_step} rollouts per update are fewer than "
            f"learner.ranks={cfg.learner.ranks}; use fewer ranks or larger steps"
        ]
    budget = cfg.learner.micro_batch_tokens
    if g.steps and budget <= cfg.rollout.max_new_tokens:
        return [
            f"learner.micro_batch_tokens={budget} cannot hold a completion of {cfg.rollout.max_new_tokens} tokens and "
            "its prompt; raise it"
        ]
    return []


def _sft_faults(cfg: SFTConfig) -> list[str]:
    faults = []
    if cfg.steps and cfg.epochs:
        faults.append(f"sft.steps={cfg.steps} and sft.epochs={cfg.epochs:g}: set one of the two")
    if cfg.eval_every and not cfg.eval_data.source:
        faults.append(f"sft.eval_every={cfg.eval_every} needs held-out examples; set sft.eval_data.source")
    d = cfg.distill
    if d.cached and d.teacher:
        faults.append(f"sft.distill.cached=true needs no teacher, but teacher={d.teacher}; drop one of the two")
    if d.cached and d.divergence != "forward":
        faults.append(f"sft.distill.divergence={d.divergence}: stored logprobs are enough for forward alone; use it")
    if d.cached and (cfg.data.messages_field or cfg.data.text_field):
        faults.append("sft.distill.cached=true needs rows of prompt and target, not messages_field or text_field")
    return faults


def _grpo_faults(cfg: RunConfig) -> list[str]:
    faults, g = [], cfg.grpo
    if g.steps and not cfg.rewards and not cfg.environments:
        faults.append("rewards: GRPO needs at least one reward, for example RewardConfig('accuracy')")
    if g.steps and g.group_size == 1 and g.advantage not in ("batch_std",):
        faults.append("grpo.group_size=1: a group of one has no advantage; use at least 2, or grpo.advantage=batch_std")
    if g.dual_clip and g.dual_clip <= 1:
        faults.append(f"grpo.dual_clip={g.dual_clip}: must be above 1, or 0 for off")
    if g.uniform_groups != "keep" and g.kl_coef:
        faults.append(
            f"grpo.uniform_groups={g.uniform_groups} would drop those groups' KL too; use keep, or grpo.kl_coef=0"
        )
    if g.uniform_groups != "keep" and g.teacher:
        faults.append(
            f"grpo.uniform_groups={g.uniform_groups} would drop the teacher's signal in those groups too; use keep"
        )
    if g.uniform_groups != "keep" and g.group_size == 1:
        faults.append("grpo.group_size=1: every group is uniform, so nothing would be trained; use uniform_groups=keep")
    if g.kl_coef and g.kl_estimator == "k1":
        faults.append(
            "grpo.kl_estimator=k1: as a loss, its gradient is 0 in the mean; use k1_in_reward, k3_unbiased or k3"
        )
    if g.loss == "cispo" and g.dual_clip:
        faults.append(f"grpo.dual_clip={g.dual_clip:g}: cispo has no such clip; use 0")
    if cfg.old_logprobs == "sampler" and g.importance not in ("none", GRPOConfig.importance):
        because = "" if g.old_logprobs == "sampler" else f", which rollout.staleness={cfg.rollout.staleness} chooses,"
        faults.append(
            f"grpo.importance={g.importance}: old_logprobs=sampler{because} leaves nothing to correct; use none, or "
            "old_logprobs=learner"
        )
    return faults


def _sampling_faults(cfg: RunConfig) -> list[str]:
    faults, g = [], cfg.grpo
    if g.steps and cfg.rollout.top_p < 1 and cfg.old_logprobs == "learner" and not g.max_logprob_gap:
        faults.append(
            f"rollout.top_p={cfg.rollout.top_p:g}: the sampler's logprobs then cover the likeliest tokens alone and "
            "differ from the learner's; use 1, or set grpo.max_logprob_gap to the difference that is allowed, in nats"
        )
    if cfg.rollout.top_p < 1 and cfg.old_logprobs == "sampler":
        faults.append("rollout.top_p below 1 cuts the tail of the sampler's logprobs; use grpo.old_logprobs=learner")
    for key, texts in (("rollout.stop", cfg.rollout.stop), ("evaluation.stop", cfg.evaluation.stop)):
        if "" in texts:
            faults.append(f"{key}: one of its texts is empty, which would end every completion; leave it out")
    return faults


def _learner_faults(cfg: RunConfig) -> list[str]:
    """Settings that do not go with the precision of the weights, or with where the optimiser is."""
    faults = []
    if cfg.learner.zero_stage == 0 and cfg.model.dtype in ("bfloat16", "float16"):
        faults.append(
            f"learner.zero_stage=0: DeepSpeed keeps no float32 copy of {cfg.model.dtype} weights there and does not "
            "start; use learner.zero_stage=1, or model.dtype=float32"
        )
    if cfg.learner.offload == "optimizer" and cfg.learner.zero_stage == 0:
        faults.append(
            "learner.offload=optimizer: DeepSpeed moves the optimiser to the host from ZeRO stage 1 on; use "
            "learner.zero_stage=1, or offload=none"
        )
    if cfg.model.dtype == "float16" and cfg.cluster.device == "cpu":
        faults.append("model.dtype=float16 trains on GPUs alone; use model.dtype=auto")
    return faults


def _sequence_faults(cfg: RunConfig) -> list[str]:
    """Settings that do not go with learner.sequence_parallel. The model's heads are checked when it is loaded."""
    learner, distill = cfg.learner, cfg.sft.distill
    set_to = f"learner.sequence_parallel={learner.sequence_parallel}"
    if learner.sequence_parallel < 2:
        return []
    faults = []
    if learner.ranks % learner.sequence_parallel:
        faults.append(f"{set_to} does not divide learner.ranks={learner.ranks}; use a multiple of it")
    if cfg.grpo.steps:
        faults.append(f"{set_to} is for SFT alone; use grpo.steps=0 with it, or 1")
    if distill.teacher or distill.cached:
        faults.append(f"{set_to} does not go with sft.distill; use 1")
    if learner.layout == "rows":
        faults.append(f"{set_to} needs whole sequences in one row; use learner.layout=packed, or auto")
    return faults


def _sharing_faults(cfg: RunConfig) -> list[str]:
    """What does not go with learners and samplers on the same devices, or not. Whether they pair, the cluster says."""
    c, share, faults = cfg.cluster, cfg.sampler.gpu_memory_share, []
    if 0 < share < 0.05:
        faults.append(
            f"sampler.gpu_memory_share={share:g}: too little for any sampler; use 0 for auto, or at least 0.05"
        )
    if c.colocated == "false" and c.weight_transfer == "ipc":
        faults.append(
            "cluster.weight_transfer=ipc is for learners and samplers that share GPUs, which cluster.colocated=false "
            "says they do not; use weight_transfer=auto, or colocated=auto"
        )
    if c.colocated == "true" and c.weight_transfer == "nccl":
        faults.append(
            "cluster.weight_transfer=nccl: NCCL does not connect two processes on one GPU, and cluster.colocated=true "
            "puts them there; use weight_transfer=auto"
        )
    return faults


def search_faults(key: str, searches: Sequence[SearchConfig]) -> list[str]:
    """What is wrong with searches. key: of the setting that holds them."""
    faults = []
    labels = [search.label for search in searches]
    for i, search in enumerate(searches):
        if search.by_steps and not search.scorer:
            faults.append(f"{key}.{i}.scorer: name the reward that scores beginnings of solutions")
        if search.by_steps and (not search.step or "" in search.step):
            faults.append(f"{key}.{i}.step={search.step}: name the texts that end a step, as '\\n\\n'")
        if search.kind == "cut" and not search.force:
            faults.append(f"{key}.{i}.force: a text that makes the model answer is needed")
        if search.kind == "stretch" and not search.more:
            faults.append(f"{key}.{i}.more: a text that makes the model think on is needed")
        if labels.count(search.label) > 1 and labels.index(search.label) == i:
            faults.append(f"{key}: {search.label} is there twice, and each needs a name of its own")
    return faults


def _staleness_faults(cfg: RunConfig) -> list[str]:
    """What does not go with rollouts that are sampled beside the training."""
    g, roll, faults = cfg.grpo, cfg.rollout, []
    if roll.in_flight and not roll.staleness:
        faults.append(
            "rollout.in_flight=true: with rollout.staleness=0 nothing is drawn while weights change; use "
            "staleness=1 or more, or in_flight=false"
        )
    if roll.staleness > 1 and not roll.in_flight:
        faults.append(
            f"rollout.staleness={roll.staleness}: batches that one version samples whole are one step old at most; use "
            "staleness=1, or rollout.in_flight=true"
        )
    if roll.cache != "recompute" and not roll.in_flight:
        faults.append(f"rollout.cache={roll.cache}: weights change in mid-sample only with rollout.in_flight=true")
    if g.steps and roll.staleness and cfg.old_logprobs == "learner" and g.importance == "none":
        faults.append(
            f"grpo.importance=none with old_logprobs=learner and rollout.staleness={roll.staleness}: nothing corrects "
            "for the age of the rollouts, and training collapses (elsewhere, one step old: 2 of 128 problems solved "
            "instead of 98, or 90 with old_logprobs=sampler); use old_logprobs=auto, or importance=token_truncate"
        )
    if roll.staleness and cfg.cluster.colocated == "true":
        faults.append(
            f"rollout.staleness={roll.staleness}: with cluster.colocated=true learners and samplers take turns on the "
            "same devices, so nothing can be sampled beside the training; use staleness=0, or devices for each"
        )
    return faults


def _environment_faults(cfg: RunConfig) -> list[str]:
    """What does not go with environments. Their classes and tools are looked at when the run's inputs are loaded."""
    faults = []
    if len({environment.weight for environment in cfg.environments}) > 1:
        faults.append("environments: they give one part of the reward between them, so give all the same weight")
    if cfg.environments and cfg.evaluation.search:
        faults.append("evaluation.search: searches go on with texts that no environment answers; measure one at a time")
    for i, environment in enumerate(cfg.environments):
        if environment.timeout_s >= cfg.cluster.rollout_timeout_s:
            faults.append(
                f"environments.{i}.timeout_s={environment.timeout_s:g}: must be below cluster.rollout_timeout_s="
                f"{cfg.cluster.rollout_timeout_s:g}, after which a sampler that decodes nothing counts as stalled"
            )
        if environment.call == "fence" and environment.frame and "{reply}" not in environment.frame:
            faults.append(f"environments.{i}.frame={environment.frame!r}: needs {{reply}}, where the answer goes")
    return faults


def _evaluation_faults(cfg: RunConfig) -> list[str]:
    faults, e = [], cfg.evaluation
    most = e.max_new_tokens or cfg.rollout.max_new_tokens
    for i, search in enumerate(e.search):
        wanted = search.tokens + (search.answer_tokens if search.kind == "cut" else 0)
        if not search.by_steps and wanted > most:
            faults.append(
                f"evaluation.search.{i}.tokens={search.tokens}: with its answer that is more than the {most} tokens of "
                "a completion; lower it, or raise evaluation.max_new_tokens"
            )
    if any(not 1 <= k <= e.samples for k in e.pass_at):
        faults.append(f"evaluation.pass_at={e.pass_at}: each k is at least 1 and at most samples={e.samples}")
    faults += [f"evaluation.select: {name} is there twice" for name in {n for n in e.select if e.select.count(n) > 1}]
    faults += search_faults("evaluation.search", e.search)
    if "{prompt}" not in e.shot or ("{target}" not in e.shot and "{answer}" not in e.shot):
        faults.append(f"evaluation.shot={e.shot!r}: needs {{prompt}}, and {{target}} or {{answer}}")
    return faults
