"""Prints plans: as tables in a terminal, as plain lines in a pipe, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from launch.plan.checks import devices_needed
from launch.plan.fit import changes_that_fit, gib
from launch.plan.hardware import gpu_names, sources
from launch.plan.host import HostMemory, host_memory
from launch.plan.memory import Term, learner_memory
from launch.plan.placement import placement_lines
from launch.plan.plan import Plan, Step, sampler_of
from launch.plan.sharing import one_card_lines
from rl.workers.cluster.share import WHOLE


def console() -> Console:
    """A console. In a pipe it has no colours, and is as wide as the lines need."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=200, no_color=True, highlight=False)


def duration(seconds: float) -> str:
    """0.42 s, 12 s, 3.5 min, 7.2 h, 12 days."""
    for size, unit, below in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800), (86400, "days", float("inf"))):
        if seconds < below:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 20 else f"{value:.2g} {unit}"
    raise AssertionError("a duration is longer than any unit")


def count(number: float) -> str:
    """1,234; 1.2 million; 671 billion."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            value = number / size
            return f"{value:.0f} {word}" if value >= 100 else f"{value:.3g} {word}"
    return f"{number:,.0f}"


def show(plan: Plan, title: str = "") -> None:
    """The whole plan."""
    out = console()
    if title:
        out.print(f"[bold]{title}[/bold]")
    out.print(_summary(plan), soft_wrap=True)
    out.print()
    out.print(_memory_table(plan))
    for line in sharing_lines(plan):
        out.print(line, soft_wrap=True)
    for line in placement_lines(plan.cfg, plan.hw):
        out.print(line, soft_wrap=True)
    if plan.step is not None:
        out.print(_time_table(plan, plan.step))
    out.print(_cost_lines(plan), soft_wrap=True)
    for problem in plan.problems:
        out.print(f"[bold red]Does not work:[/bold red] {problem}", soft_wrap=True)
    for line in advice(plan):
        out.print(f"[bold]Change:[/bold] {line}", soft_wrap=True)
    out.print("\nTaken for granted:", soft_wrap=True)
    for line in plan.assumptions:
        out.print(f"  - {line}", soft_wrap=True)
    out.print("  - shares of the peaks and fixed times: launch/plan/gpus.toml, each with its source", soft_wrap=True)
    out.print(f"  - other hardware: --gpu {', '.join([*gpu_names(), 'cpu'])}", soft_wrap=True)


def _summary(plan: Plan) -> str:
    arch, shape = plan.arch, plan.shape
    lines = [
        f"{arch.name}: {count(arch.parameters)} parameters"
        + (f", of them {count(arch.adapter_parameters(shape.lora))} in adapters trained" if shape.lora else ""),
    ]
    if plan.step is not None:
        lines += [
            f"{plan.cfg.batch_arithmetic()}.",
            f"{plan.tokens_per_step:,.0f} tokens a step, in {plan.micro_batches} micro-batches a rank"
            f"{f' ({plan.padding_share:.0%} padding)' if plan.padding_share > 0.005 else ''}.",
        ]
    return "\n".join(lines)


def _memory_table(plan: Plan) -> Table:
    sharing = "machine" if not plan.hw.on_gpu else plan.hw.name
    table = Table(box=None, pad_edge=False, title_justify="left", title=f"Memory, GiB (a {sharing} has "
                  f"{gib(plan.learner.limit)})")  # fmt: skip
    table.add_column("", style="bold")
    table.add_column("GiB", justify="right")
    table.add_column("what")
    shared = f", {plan.shape.shared_by} to a micro-batch" if plan.shape.shared_by > 1 else ""
    _rows(table, f"a learner rank, ZeRO-{plan.shape.zero_stage}, {plan.shape.ranks} ranks{shared}", plan.learner.terms,
          plan.learner.training, "its peak in training")  # fmt: skip
    table.add_row("  while loading", gib(plan.learner.loading), "in float32, " + (
        "shard by shard" if plan.shape.zero_stage == 3 else "whole"))  # fmt: skip
    host = _beside_gpus(plan)
    if host is not None:
        table.add_row("a machine, beside its GPUs", gib(host.num_bytes), host.note)
    if plan.step is not None:
        s = plan.sampler
        _rows(table, f"a sampler, 1 of {plan.cfg.sampler.count}", s.terms, s.peak,
              f"{s.full_sequences:,} sequences at full length, {s.mean_sequences:,} at the mean; at most "
              f"{s.max_sequences:,} at once")  # fmt: skip
    return table


def _beside_gpus(plan: Plan) -> HostMemory | None:
    """None on CPUs, where the other rows are host memory already."""
    if not plan.hw.on_gpu:
        return None
    sampling = plan.cfg.sampler.count * plan.cfg.sampler.tensor_parallel if plan.step is not None else 0
    sleeping = next(t.num_bytes for t in plan.sampler.terms if t.name == "weights") if plan.shared else 0.0
    return host_memory(plan.arch, plan.shape, plan.hw, samplers=sampling, sleeping=sleeping)


def sharing_lines(plan: Plan) -> list[str]:
    """What a GPU holds that learner and sampler share; on one card, also what two would hold."""
    shared = plan.shared
    if shared is None:
        return []
    if plan.hw.devices == 1:
        alone = sampler_of(plan.cfg, plan.arch, plan.hw, plan.lengths, WHOLE)
        return one_card_lines(shared, alone, plan.hw.name)
    return [
        f"Learners and samplers share GPUs in turns: {gib(shared.training)} of {gib(shared.limit)} GiB in training, "
        f"{gib(shared.sampling)} while sampling (a share of {shared.share:g} for the sampler)"
    ]


def _rows(table: Table, name: str, terms: Sequence[Term], total: float, what: str) -> None:
    table.add_row(name, "", "")
    for term in terms:
        if term.num_bytes:
            table.add_row(f"  {term.name}", gib(term.num_bytes), term.note, style="dim")
    table.add_row("  together", gib(total), what)


def _time_table(plan: Plan, step: Step) -> Table:
    rollout, update = step.rollout, step.update
    table = Table(box=None, pad_edge=False, title_justify="left", title="\nA step")
    table.add_column("", style="bold")
    table.add_column("time", justify="right")
    table.add_column("what")
    table.add_row(
        "rollouts", duration(rollout.seconds),
        f"{rollout.tokens:,} tokens, {rollout.tokens_per_s:,.0f} a second; prefill {duration(rollout.prefill_s)}; "
        f"{rollout.alone_s / rollout.seconds:.0%} of it with less than a tenth of the slots busy (the tail)",
    )  # fmt: skip
    table.add_row(
        "update", duration(update.seconds),
        f"forward and backward {duration(update.gradient_s)}, reference and old logprobs "
        f"{duration(update.forward_only_s)}, optimiser {duration(update.optimiser_s)}, communication "
        f"{duration(update.communication_s)}",
    )  # fmt: skip
    table.add_row(
        "weight sync", duration(step.sync.seconds),
        f"{gib(step.sync.num_bytes)} GiB to each sampler in {step.sync.buckets} buckets ({step.sync.way}); the wire "
        f"alone takes {duration(step.sync.wire_s)}",
    )  # fmt: skip
    settings = {
        "synchronous": "staleness 0", "overlapped": "staleness 1", "asynchronous": "staleness 1 or more, in_flight",
    }  # fmt: skip
    for mode, needs in settings.items():
        faster = step.synchronous_s / step.seconds(mode)
        said = [needs] if mode == "synchronous" else [f"{needs}: {faster:.1f} times as fast"]
        said += ["[bold]this recipe[/bold]"] if mode == plan.mode else []
        table.add_row(mode, duration(step.seconds(mode)), "; ".join(said))
    return table


def _cost_lines(plan: Plan) -> str:
    cost = plan.cost
    parts = [f"{cost.steps:,} GRPO steps {duration(cost.grpo_s)}"] if cost.steps else []
    parts += [f"SFT {duration(cost.sft_s)}"] if cost.sft_s else []
    parts += [f"evaluation {duration(cost.evaluation_s)}"] if cost.evaluation_s else []
    total = f"\nThe run: {', '.join(parts) or 'nothing to train'}; together {duration(cost.seconds)}"
    if not plan.hw.on_gpu:
        return total + f" on {plan.hw.name}."
    spent = f" on {cost.devices} {plan.hw.name}: {cost.device_hours:,.0f} GPU-hours" if cost.device_hours >= 10 else (
        f" on {cost.devices} {plan.hw.name}: {cost.device_hours:.2g} GPU-hours")  # fmt: skip
    return total + spent + (f", ${cost.money:,.0f} at ${cost.price:g} an hour." if cost.price else ".")


def advice(plan: Plan) -> list[str]:
    """What to change so that a learner rank fits, with a sampler on its GPU where they share one; else nothing."""
    shared = plan.shared
    if not shared.problems if shared else plan.learner.fits:
        return []
    g = plan.cfg.grpo
    longest = int(plan.lengths.prompt + plan.lengths.limit) if g.steps else plan.shape.tokens
    rollouts = g.rollouts_per_step // g.updates_per_step if g.steps else plan.cfg.sft.examples_per_step
    fits = shared.holds if shared else lambda memory: memory.fits
    beside = shared.asleep if shared else 0.0
    for shape in (plan.shape, replace(plan.shape, lora=plan.shape.lora or ADAPTERS)):
        found = changes_that_fit(
            plan.arch, shape, plan.hw, longest=longest, rollouts_per_update=rollouts if not shared else shape.ranks,
            fits=fits, offload=plan.hw.on_gpu,
        )  # fmt: skip
        adapters = "" if shape == plan.shape else f"; with adapters alone trained: model.lora.rank={shape.lora}"
        if found:
            return [change.sentence(beside) + adapters for change in found]
        alone = learner_memory(plan.arch, shape, plan.hw)
        if adapters and fits(alone):
            return [f"{gib(alone.peak + beside)} of {gib(alone.limit)} GiB fits{adapters}"]
    on_two = "two GPUs (cluster.colocated=false), " if shared and plan.learner.fits else ""
    return [
        "no setting of stage, ranks, micro-batches, checkpointing and offload helps, nor adapters: "
        f"{on_two}shorter completions, larger devices, or a smaller model"
    ]


ADAPTERS = 16
"""The rank of the adapters that are proposed where training all weights does not fit."""


# ------------------------------------------------------------------------------------------------ json


def to_json(plans: Sequence[Plan]) -> str:
    """Every number of the plans. Bytes, seconds, tokens."""
    return json.dumps([_as_data(plan) for plan in plans], indent=2)


def _as_data(plan: Plan) -> dict[str, object]:
    step = plan.step
    host = _beside_gpus(plan)
    return {
        "name": plan.cfg.name,
        "model": plan.arch.name,
        "parameters": plan.arch.parameters,
        "hardware": {"name": plan.hw.name, "devices": devices_needed(plan.cfg, plan.hw), "source": plan.hw.source},
        "learner": {
            "terms": {t.name: t.num_bytes for t in plan.learner.terms},
            "training": plan.learner.training, "loading": plan.learner.loading, "limit": plan.learner.limit,
        },
        "sampler": {
            "terms": {t.name: t.num_bytes for t in plan.sampler.terms}, "limit": plan.sampler.limit,
            "sequences_full_length": plan.sampler.full_sequences, "sequences_mean_length": plan.sampler.mean_sequences,
        },
        "host": None if host is None else {"bytes_per_machine": host.num_bytes, "note": host.note},
        "colocated": None if plan.shared is None else {
            "training": plan.shared.training, "sampling": plan.shared.sampling, "share": plan.shared.share,
        },
        "placement": placement_lines(plan.cfg, plan.hw),
        "tokens_per_step": plan.tokens_per_step,
        "step_s": None if step is None else {
            "rollouts": step.rollout.seconds, "update": step.update.seconds, "sync": step.sync.seconds,
            "tail": step.rollout.alone_s, "synchronous": step.synchronous_s, "overlapped": step.overlapped_s,
            "asynchronous": step.asynchronous_s,
        },
        "sync_bytes": None if step is None else step.sync.num_bytes,
        "run": {
            "steps": plan.cost.steps, "seconds": plan.cost.seconds, "device_hours": plan.cost.device_hours,
            "money": plan.cost.money,
        },
        "fits": plan.fits,
        "problems": list(plan.problems),
        "advice": advice(plan),
        "assumptions": [*plan.assumptions, *(f"{name}: {text}" for name, text in sources().items())],
    }  # fmt: skip
