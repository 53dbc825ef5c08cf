"""The plan of a recipe with several stages: each stage that trains or samples, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rich.table import Table

from launch.plan.checks import devices_needed
from launch.plan.fit import gib
from launch.plan.hardware import Hardware
from launch.plan.plan import Plan, plan_run, sampling_seconds
from launch.plan.rollouts import Lengths
from launch.plan.show import advice, console, duration
from rl.config import RunConfig
from rl.stage import MAKES_REWARD_MODEL, Recipe, Reference, Stage, model_of, run_config
from rl.types import BadInput


@dataclass(frozen=True)
class StagePlan:
    """One stage. plan: None for a stage that only samples. note: what the time leaves out."""

    name: str
    kind: str
    model: str
    plan: Plan | None
    seconds: float
    devices: int
    note: str = ""

    @property
    def device_hours(self) -> float:
        return self.seconds / 3600 * self.devices


def plan_stages(
    recipe: Recipe, hw: Hardware, *, lengths_for: Callable[[RunConfig], Lengths], price: float, sft_tokens: float,
    sft_examples: int, shapes: Mapping[str, str],
) -> list[StagePlan]:  # fmt: skip
    """Plan every stage that needs a device. Raises BadInput.

    lengths_for(stage): its completion lengths. shapes: model -> the model whose shapes it has.
    """
    plans = []
    for stage in recipe.stages:
        if not _is_planned(stage):
            continue
        if not stage.uses_machines:
            teacher = stage.teacher
            note = f"time and price are {teacher.url}'s"
            plans.append(StagePlan(stage.name, type(stage).__name__, teacher.model, None, 0.0, 0, note))
            continue
        cfg = run_config(recipe, stage)
        cfg = replace(cfg, model=replace(cfg.model, path=shapes[root_model(recipe, stage)]))
        lengths = lengths_for(cfg)
        plan = plan_run(cfg, hw, lengths=lengths, price=price, sft_tokens=sft_tokens, sft_examples=sft_examples)
        kind, model = type(stage).__name__, cfg.model.path
        if stage.trains_on is not None:
            note = "time without epochs: --sft-examples" if cfg.sft.enabled and not plan.cost.sft_s else ""
            plans.append(StagePlan(stage.name, kind, model, plan, plan.cost.seconds, plan.cost.devices, note))
            continue
        problems, samples = stage.samples_of
        seconds = sampling_seconds(cfg, plan.arch, hw, lengths, problems, samples, plan.share) if problems else 0.0
        note = "" if problems else "time unknown: its data have no limit"
        plans.append(StagePlan(stage.name, kind, model, None, seconds, devices_needed(cfg, hw), note))
    return plans


def _is_planned(stage: Stage) -> bool:
    """Whether there are figures for the stage. There are none for the training of a reward model."""
    return stage.runs_model and MAKES_REWARD_MODEL not in stage.makes


def stage_models(recipe: Recipe) -> list[str]:
    """The models outside the recipe with which its stages start."""
    return [root_model(recipe, s) for s in recipe.stages if _is_planned(s)]


def root_model(recipe: Recipe, stage: Stage) -> str:
    """The model outside the recipe from which a stage's model descends. It has the same shape."""
    while _is_planned(stage):
        reference = Reference.parse(model_of(stage))
        if reference is None:
            return model_of(stage)
        stage = recipe[reference.stage]
    raise BadInput(f"stage {stage.name} makes no model")


def show_stages(plans: list[StagePlan], hw: Hardware, price: float) -> None:
    """Print one row per stage, the sum, and what does not work in which stage."""
    out = console()
    table = Table(box=None, pad_edge=False, title_justify="left", title=f"Stages on {hw.name}")
    for heading, align in (("stage", "left"), ("kind", "left"), ("model", "left"), ("a learner, GiB", "right"),
                           ("a step", "right"), ("stage", "right"), ("", "left")):  # fmt: skip
        table.add_column(heading, justify=align)  # type: ignore[arg-type]
    for s in plans:
        memory = f"{gib(s.plan.learner.peak)} of {gib(s.plan.learner.limit)}" if s.plan else ""
        step = s.plan.step if s.plan else None
        a_step = step.seconds(s.plan.mode) if step and s.plan else None
        wrong = "does not work" if s.plan and s.plan.problems else s.note
        table.add_row(s.name, s.kind, s.model, memory, duration(a_step) if a_step else "",
                      duration(s.seconds) if s.seconds else "", wrong)  # fmt: skip
    out.print(table)
    seconds, hours = sum(s.seconds for s in plans), sum(s.device_hours for s in plans)
    unknown = [s.name for s in plans if s.note]
    total = f"\nAll stages: {duration(seconds)}"
    if hw.on_gpu:
        total += f", {hours:,.0f} GPU-hours" + (f", ${hours * price:,.0f} at ${price:g} an hour" if price else "")
    out.print(total + (f", without {', '.join(unknown)}" if unknown else "") + ".", soft_wrap=True)
    for s in plans:
        for line in s.plan.problems if s.plan else ():
            out.print(f"[bold red]{s.name} does not work:[/bold red] {line}", soft_wrap=True)
        for line in advice(s.plan) if s.plan else []:
            out.print(f"[bold]{s.name}, change:[/bold] {line}", soft_wrap=True)
    out.print("\nTaken for granted:", soft_wrap=True)
    for text in dict.fromkeys(line for s in plans if s.plan for line in s.plan.assumptions):
        out.print(f"  - {text}", soft_wrap=True)
