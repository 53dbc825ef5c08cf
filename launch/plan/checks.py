"""What does not work in a plan, what the plan assumes, and how many devices the run holds."""

from __future__ import annotations

import math

from launch.plan.fit import gib
from launch.plan.hardware import Hardware
from launch.plan.memory import LearnerMemory, LearnerShape, SamplerMemory
from launch.plan.model import Architecture
from launch.plan.rollouts import Lengths
from launch.plan.sharing import shared_gpu
from rl.config import RunConfig
from rl.model.sequence_parallel import check_heads
from rl.settings.queue_memory import refuse_large_queue
from rl.types import BadInput
from rl.workers.cluster.arrangement import arrange, gpus_needed, is_colocated, refuse_turns, transfer_of


def colocated_on(cfg: RunConfig, hw: Hardware) -> bool:
    """Whether learners and samplers share this hardware's devices and take turns."""
    return is_colocated(cfg, hw.devices if hw.on_gpu else 0)


def transfer_way(cfg: RunConfig, hw: Hardware) -> str:
    return transfer_of(cfg, on_gpu=hw.on_gpu, colocated=colocated_on(cfg, hw))


def devices_needed(cfg: RunConfig, hw: Hardware) -> int:
    """GPUs of learners, samplers and reward models; on CPUs, machines."""
    if not hw.on_gpu:
        return hw.nodes
    workers = gpus_needed(cfg, colocated=colocated_on(cfg, hw))
    reward_models = sum(
        r.model.gpus for r in cfg.rewards if r.function.startswith("model:") and r.model.device != "cpu"
    )
    return workers + math.ceil(reward_models)


def find_problems(
    cfg: RunConfig, arch: Architecture, hw: Hardware, shape: LearnerShape, learner: LearnerMemory,
    sampler: SamplerMemory, lengths: Lengths, share: float,
) -> list[str]:  # fmt: skip
    """share: of a GPU's memory, for a sampler."""
    found, colocated = [], colocated_on(cfg, hw)
    try:
        check_heads(arch.heads, arch.kv_heads, cfg.learner.sequence_parallel)
    except BadInput as error:
        found.append(str(error))
    try:
        refuse_turns(cfg, colocated=colocated)
        refuse_large_queue(cfg, math.inf if hw.on_gpu else hw.memory_gib * 2**30)  # of a GPU's node it is not known
    except BadInput as error:
        found.append(str(error))
    if 0 < arch.context < cfg.model.context_length:
        found.append(
            f"model.context_length={cfg.model.context_length}: {arch.name} was made for at most {arch.context} tokens"
        )
    if not learner.fits:
        what = "while it loads the model in float32" if learner.loading > learner.training else "in training"
        found.append(f"a learner rank needs {gib(learner.peak)} of {gib(learner.limit)} GiB {what}")
    if hw.on_gpu and colocated:
        found += shared_gpu(learner, sampler, hw, share).problems
    elif cfg.grpo.steps and not sampler.fits:
        found.append(
            f"a sampler has {gib(sampler.limit)} GiB and needs {gib(sampler.peak)}; {sampler.full_sequences} sequences "
            f"of {lengths.prompt + lengths.limit:,.0f} tokens fit into its KV cache"
        )
    if not hw.on_gpu:
        ranks = -(-cfg.learner.ranks // hw.nodes)
        samplers = -(-cfg.sampler.count // hw.nodes) if cfg.grpo.steps else 0
        together = ranks * learner.peak + samplers * sampler.peak
        if learner.fits and sampler.fits and together > learner.limit:
            found.append(
                f"{ranks} learner ranks and {samplers} samplers of one machine need {gib(together)} of "
                f"{gib(learner.limit)} GiB together"
            )
    needed = devices_needed(cfg, hw)
    if hw.on_gpu and needed > hw.devices:
        found.append(
            f"{needed} GPUs are needed ({cfg.learner.ranks} learner ranks, {cfg.sampler.count} samplers of "
            f"{cfg.sampler.tensor_parallel}); --nodes {hw.nodes} x --gpus-per-node {hw.devices_per_node} "
            f"are {hw.devices}"
        )
    if cfg.sampler.tensor_parallel > hw.devices_per_node and hw.on_gpu:
        found.append(f"sampler.tensor_parallel={cfg.sampler.tensor_parallel} is more than a node's GPUs")
    elif hw.on_gpu and needed <= hw.devices:
        try:
            arrange(cfg, [hw.devices_per_node] * hw.nodes, colocated=colocated)
        except BadInput as error:
            found.append(str(error))
    if cfg.grpo.steps and cfg.learner.micro_batch_tokens < lengths.prompt + lengths.limit:
        found.append(
            f"learner.micro_batch_tokens={cfg.learner.micro_batch_tokens} is less than a prompt and a completion of "
            f"rollout.max_new_tokens={lengths.limit}: such a sequence is refused when it comes"
        )
    return found


def assumptions_of(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, sft_tokens: float, sft_steps: int, tried: bool
) -> list[str]:
    """What the plan assumes. tried: the learner's time comes from a trial on this machine (trial.py)."""
    said = [f"architecture: {arch.source}", f"hardware: {hw.name} ({hw.source})"]
    if tried:
        said.append("a learner's time: the real learner trained models of 1 and 3 layers here; the rest is multiplied")
    elif hw.measured:
        said.append("a learner's time: from the rates; layers of this model, or so many ranks, cannot be tried here")
    if not arch.exact:
        said.append(
            f"layers of model type {arch.model_type or 'unknown'} are counted as a Llama's: activations are rough"
        )
    if cfg.grpo.steps:
        said.append(
            f"completion lengths: lognormal, median {lengths.median:,.0f}"
            f"{' (assumed: --median-tokens says otherwise)' if lengths.assumed else ''}, sigma {lengths.sigma:g}, cut "
            f"at {lengths.limit:,} ({lengths.truncated_share():.1%} are), mean {lengths.mean():,.0f}; prompts of "
            f"{lengths.prompt:,.0f} tokens"
        )
        if cfg.grpo.uniform_groups != "keep":
            said.append("every group counts as mixed: uniform ones, which are not trained on, save learner time")
        if not (cfg.evaluation.data.source and cfg.evaluation.data.limit):
            said.append("evaluation is not in the time: evaluation.data.limit does not say how many problems it has")
        said.append("rewards are called while other rollouts run: no time of their own")
    if cfg.sft.enabled:
        said.append(f"SFT examples of {sft_tokens:,.0f} tokens (--sft-tokens)")
        if not sft_steps:
            said.append("SFT by sft.epochs is not in the time: how many examples there are is not known here")
    return said
