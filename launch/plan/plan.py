"""`aha plan`: what a run will need and cost, without using a device. Loads no torch.

plan_run() puts the parts together: memory (memory.py), rollouts (rollouts.py), time (time.py) on a
stated hardware (hardware.py, gpus.toml), for the shapes of a model (model.py). Plan.assumptions says what it assumes.
Nothing is measured unless the hardware was calibrated; then trial.py trains a few layers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from launch.plan.checks import assumptions_of, colocated_on, devices_needed, find_problems, transfer_way
from launch.plan.hardware import Hardware
from launch.plan.memory import LearnerMemory, LearnerShape, SamplerMemory, learner_memory, sampler_memory
from launch.plan.model import Architecture, find_architecture
from launch.plan.rollouts import Lengths, RolloutTime, assumed_lengths, make_decoder, simulate
from launch.plan.sharing import Shared, share_of, shared_gpu
from launch.plan.time import Passes, SyncTime, UpdateTime, sync_time, update_time
from launch.plan.trial import can_be_tried, spec_of, train_here
from rl.config import RunConfig
from rl.data.packing import bin_lengths
from rl.data.shared_prompts import NO_GROUP, group_parts
from rl.settings.precision import settle

SEEDS = (0, 1, 2)
"""Rollout batches that are drawn and simulated; the plan shows their mean."""
SFT_TOKENS = 1024.0
"""Assumed mean length of an SFT example where there is no GRPO whose completions it could be like."""
QUEUED_STEPS = 4
"""Asynchronous: so many steps' rollouts are decoded without a pause, to see what a step costs when no tail waits."""


@dataclass(frozen=True)
class Step:
    """Seconds of one GRPO step by phase, and of a step in which sampling and training overlap."""

    rollout: RolloutTime
    update: UpdateTime
    sync: SyncTime
    continuous_s: float

    @property
    def synchronous_s(self) -> float:
        return self.rollout.seconds + self.update.seconds + self.sync.seconds

    @property
    def overlapped_s(self) -> float:
        """Seconds of a step that trains while the whole next batch is sampled, its tail included."""
        return max(self.rollout.seconds, self.update.seconds) + self.sync.seconds

    @property
    def asynchronous_s(self) -> float:
        """Seconds of a step in which sampler and learner work at the same time, and both wait for the sync."""
        return max(self.continuous_s, self.update.seconds) + self.sync.seconds

    def seconds(self, mode: str) -> float:
        """mode: of RolloutConfig.mode."""
        return {"synchronous": self.synchronous_s, "overlapped": self.overlapped_s}.get(mode, self.asynchronous_s)


@dataclass(frozen=True)
class Cost:
    """The cost of the whole run. devices: those that it holds; on CPUs, machines."""

    steps: int
    grpo_s: float
    sft_s: float
    evaluation_s: float
    devices: int
    price: float

    @property
    def seconds(self) -> float:
        return self.grpo_s + self.sft_s + self.evaluation_s

    @property
    def device_hours(self) -> float:
        return self.seconds / 3600 * self.devices

    @property
    def money(self) -> float:
        return self.device_hours * self.price


@dataclass(frozen=True)
class Plan:
    """All that `aha plan` says of one config. step is None for a config without GRPO."""

    cfg: RunConfig
    arch: Architecture
    hw: Hardware
    lengths: Lengths
    shape: LearnerShape
    learner: LearnerMemory
    sampler: SamplerMemory
    tokens_per_step: float
    micro_batches: int
    padding_share: float
    step: Step | None
    cost: Cost
    share: float
    """Of a GPU's memory, for a sampler."""
    problems: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def mode(self) -> str:
        return self.cfg.rollout.mode

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def shared(self) -> Shared | None:
        """A GPU on which learner and sampler take turns; None where each has its own."""
        if not (self.hw.on_gpu and colocated_on(self.cfg, self.hw)):
            return None
        return shared_gpu(self.learner, self.sampler, self.hw, self.share)


def plan_run(
    cfg: RunConfig, hw: Hardware, *, lengths: Lengths | None = None, price: float = 0.0, sft_tokens: float = 0.0,
    sft_examples: int = 0,
) -> Plan:  # fmt: skip
    """Plan one config on this hardware.

    sft_tokens: mean length of an SFT example; 0 means a prompt and a mean completion, or SFT_TOKENS without GRPO.
    sft_examples: their number, for sft.epochs; 0 means unknown. Raises BadInput.
    """
    cfg = settle(cfg, hw.machine)[0]
    arch = find_architecture(cfg.model.path)
    room = cfg.model.context_length or arch.context
    lengths = lengths or assumed_lengths(cfg.rollout.max_new_tokens, room=room)
    sft_tokens = sft_tokens or (lengths.prompt + lengths.mean() if cfg.grpo.steps else SFT_TOKENS)
    sft_tokens = min(sft_tokens, room) if room else sft_tokens
    shape = learner_shape(cfg, arch, hw, lengths, sft_tokens)
    learner = learner_memory(arch, shape, hw)
    share = share_of(cfg, learner, colocated=colocated_on(cfg, hw))
    sampler = sampler_of(cfg, arch, hw, lengths, share)
    step, work = None, Passes(0, 0, 1, 0, 0, 0)
    padding = 0.0
    if cfg.grpo.steps:
        work, padding = grpo_passes(cfg, shape, lengths, shared=cfg.learner.shares_on(gpu=hw.on_gpu))
        step = _step(cfg, arch, hw, lengths, shape, sampler, work)
    sft_steps = cfg.sft.steps or (cfg.sft.total_steps(sft_examples) if sft_examples else 0)
    cost = _cost(cfg, arch, hw, shape, lengths, step, price, sft_tokens, sft_steps, share)
    tried = can_be_tried(arch, shape, hw)
    return Plan(
        cfg, arch, hw, lengths, shape, learner, sampler,
        tokens_per_step=cfg.grpo.rollouts_per_step * (lengths.prompt + lengths.mean()) if cfg.grpo.steps else 0.0,
        micro_batches=work.micro_batches,
        padding_share=padding,
        step=step,
        cost=cost,
        share=share,
        problems=tuple(find_problems(cfg, arch, hw, shape, learner, sampler, lengths, share)),
        assumptions=tuple(assumptions_of(cfg, arch, hw, lengths, sft_tokens, sft_steps, tried)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ learner


def is_packed(cfg: RunConfig, hw: Hardware) -> bool:
    return cfg.learner.layout_on(gpu=hw.on_gpu) == "packed"


def learner_shape(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, sft_tokens: float
) -> LearnerShape:
    """The most that a rank holds: a full micro-batch, or less if an update's longest rollouts do not fill one.

    Ranks that share sequences hold one part each.
    """
    g, learner = cfg.grpo, cfg.learner
    longest = lengths.prompt + lengths.limit
    updated = g.rollouts_per_step / g.updates_per_step * longest if g.steps else 0.0
    examples = cfg.sft.examples_per_step * sft_tokens if cfg.sft.enabled else 0.0
    tokens = int(min(learner.micro_batch_tokens, max(1.0, max(updated, examples) / learner.data_parallel)))
    scored = lengths.limit / longest if g.steps else 1.0
    if g.steps and learner.shares_on(gpu=hw.on_gpu):
        scored = g.group_size * lengths.limit / (lengths.prompt + g.group_size * lengths.limit)
    return LearnerShape(
        dtype=cfg.model.dtype,
        zero_stage=learner.zero_stage,
        ranks=learner.ranks,
        tokens=-(-tokens // learner.sequence_parallel),
        scored=int(tokens / learner.sequence_parallel * scored),
        chunk=learner.logprob_chunk_tokens,
        checkpointing=learner.gradient_checkpointing,
        reference=g.steps > 0 and g.kl_coef > 0,
        packed=is_packed(cfg, hw),
        lora=cfg.model.lora.rank,
        shared_by=learner.sequence_parallel,
        base_is_reference=not 0 < g.ref_refresh_steps < g.total_updates,
        offload=hw.on_gpu and learner.offload == "optimizer",
    )


def grpo_passes(cfg: RunConfig, shape: LearnerShape, lengths: Lengths, *, shared: bool = False) -> tuple[Passes, float]:
    """(what one step computes, its share of padding). Counted with the packer of the real run.

    shared: a group's prompt is computed once.
    """
    g, budget = cfg.grpo, cfg.learner.micro_batch_tokens
    drawn = lengths.draw(g.rollouts_per_step, SEEDS[0])
    tokens, micro_batches = 0.0, 0
    order = np.arange(len(drawn))
    if g.updates_per_step > 1:  # the packer deals the rollouts out, and with them the groups
        np.random.default_rng(SEEDS[0]).shuffle(order)
    for part in np.array_split(order, g.updates_per_step):
        sizes = [min(int(drawn[i] + lengths.prompt), budget) for i in part]
        prompts = [(int(i) // g.group_size, int(lengths.prompt)) if shared else NO_GROUP for i in part]
        costs = group_parts(sizes, prompts, budget)[1]
        bins = bin_lengths(costs, budget, "shared" if shared else "packed" if shape.packed else "rows")
        padded = not (shared or shape.packed)
        tokens += sum(len(b) * max(costs[i] for i in b) if padded else sum(costs[i] for i in b) for b in bins)
        micro_batches += -(-len(bins) // shape.ranks)
    real = float(drawn.sum()) + lengths.prompt * len(drawn)
    mean_squared = float(((drawn + lengths.prompt) ** 2).sum() / max(1.0, real))
    scoring = int(cfg.old_logprobs == "learner" and g.updates_per_step > 1)
    work = Passes(
        tokens=tokens,
        scored=float(drawn.sum()),
        mean_length=mean_squared,  # attention is quadratic, so long rollouts count more
        forwards=int(shape.reference) + scoring,
        updates=g.updates_per_step,
        micro_batches=micro_batches,
    )
    return work, max(0.0, 1.0 - real / tokens) if tokens else 0.0


# ------------------------------------------------------------------------------------------------ time


def sampler_of(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, share: float
) -> SamplerMemory:  # fmt: skip
    """A sampler that has this share of a GPU's memory."""
    s = cfg.sampler
    return sampler_memory(
        arch, cfg.model.dtype, hw, tensor_parallel=s.tensor_parallel, gpu_share=share,
        kv_cache_gib=s.kv_cache_gib, max_sequences=s.max_sequences,
        full_length=lengths.prompt + lengths.limit, mean_length=lengths.prompt + lengths.mean(),
    )  # fmt: skip


def _slots(sampler: SamplerMemory) -> int:
    return max(1, min(sampler.max_sequences, sampler.mean_sequences))


def _sample(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, slots: int, drawn_N: np.ndarray, group: int
) -> RolloutTime:
    s = cfg.sampler
    decoder = make_decoder(
        arch, cfg.model.dtype, hw, tensor_parallel=s.tensor_parallel, eager=s.enforce_eager, seeded=s.seeded
    )
    samplers = s.count if hw.on_gpu else min(s.count, hw.nodes)  # samplers of one machine share its cores
    return simulate(
        decoder, drawn_N, prompt=lengths.prompt, group=group, samplers=samplers, slots=slots,
        shared_prefix=s.prefix_caching,
    )  # fmt: skip


def _mean(times: Sequence[RolloutTime]) -> RolloutTime:
    n = len(times)
    return RolloutTime(
        sum(t.seconds for t in times) / n, sum(t.prefill_s for t in times) / n, sum(t.alone_s for t in times) / n,
        sum(t.tokens for t in times) // n,
    )  # fmt: skip


def _step(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, shape: LearnerShape, sampler: SamplerMemory,
    work: Passes,
) -> Step:  # fmt: skip
    g, slots = cfg.grpo, _slots(sampler)
    batches = [lengths.draw(g.rollouts_per_step, seed) for seed in SEEDS]
    rollout = _mean([_sample(cfg, arch, hw, lengths, slots, batch, g.group_size) for batch in batches])
    queued = lengths.draw(QUEUED_STEPS * g.rollouts_per_step, SEEDS[0])
    continuous = _sample(cfg, arch, hw, lengths, slots, queued, g.group_size)
    sync = sync_time(
        arch, shape, hw, way=transfer_way(cfg, hw), bucket_mib=cfg.cluster.bucket_mib,
        samplers=cfg.sampler.count * cfg.sampler.tensor_parallel,
    )  # fmt: skip
    # The tail of the queue, its last rollouts, comes once and is shared by all steps.
    return Step(rollout, _update(arch, shape, work, hw), sync, continuous.seconds / QUEUED_STEPS)


def _update(arch: Architecture, shape: LearnerShape, work: Passes, hw: Hardware) -> UpdateTime:
    """The update's time: from a trial if the hardware is measured and the trial can run here, else from the rates."""
    spec = spec_of(arch, shape, work.mean_length, work.scored / work.tokens, hw) if work.tokens else None
    return update_time(arch, shape, work, hw, train_here(spec) if spec else None)


def sampling_seconds(
    cfg: RunConfig, arch: Architecture, hw: Hardware, lengths: Lengths, problems: int, samples: int, share: float
) -> float:
    """Seconds to sample so many problems so many times each, outside training. share: of a GPU's memory."""
    sampler = sampler_of(cfg, arch, hw, lengths, share)
    drawn = lengths.draw(problems * samples, SEEDS[0])
    return _sample(cfg, arch, hw, lengths, _slots(sampler), drawn, samples).seconds


def _cost(
    cfg: RunConfig, arch: Architecture, hw: Hardware, shape: LearnerShape, lengths: Lengths, step: Step | None,
    price: float, sft_tokens: float, sft_steps: int, share: float,
) -> Cost:  # fmt: skip
    g, e = cfg.grpo, cfg.evaluation
    a_step = 0.0 if step is None else step.seconds(cfg.rollout.mode)
    tokens = cfg.sft.examples_per_step * sft_tokens
    micro_batches = int(np.ceil(tokens / cfg.learner.micro_batch_tokens / cfg.learner.data_parallel))
    work = Passes(tokens, tokens, sft_tokens, forwards=0, updates=1, micro_batches=micro_batches)
    shape = replace(shape, reference=False)
    sft_s = sft_steps * _update(arch, shape, work, hw).seconds if sft_steps else 0.0
    evaluation_s = 0.0
    if g.steps and e.data.source and e.data.limit:
        times = 2 + (max(0, (g.steps - 1) // e.every) if e.every else 0)
        evaluation_s = times * sampling_seconds(cfg, arch, hw, lengths, e.data.limit, e.samples + int(e.greedy), share)
    return Cost(g.steps, g.steps * a_step, sft_s, evaluation_s, devices_needed(cfg, hw), price)
