"""The work of `aha plan`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from launch.plan.checks import devices_needed
from launch.plan.hardware import find_hardware
from launch.plan.model import find_architecture
from launch.plan.placement import placement_table
from launch.plan.plan import plan_run
from launch.plan.rollouts import Lengths, assumed_lengths
from launch.plan.show import show, to_json
from launch.plan.stages import plan_stages, show_stages, stage_models
from rl.config import RunConfig
from rl.settings.precision import settle
from rl.stage import Recipe
from rl.types import BadInput

DEFAULT_GPU = "H100-80G"
LARGEST_FOR_CPU = 1_000_000_000
"""Parameters. A recipe for a larger model is meant for GPUs, whatever machine it is planned on."""


@dataclass(frozen=True)
class PlanOptions:
    """The options of the command line. 0 and "" mean the defaults."""

    gpu: str = ""
    nodes: int = 0
    gpus_per_node: int = 8
    price: float = 2.5
    calibrate: bool = False
    json: bool = False
    median_tokens: float = 0.0
    sigma: float = 0.0
    prompt_tokens: float = 0.0
    sft_tokens: float = 0.0
    sft_examples: int = 0
    like: str = ""
    placement: bool = False


def plan_command(recipe: RunConfig | Recipe, options: PlanOptions) -> bool:
    """Print the plan of a run, or of every stage. Returns whether it fits. Raises BadInput."""
    if options.price < 0:
        raise BadInput(f"--price {options.price:g}: must not be negative")
    if options.nodes < 0:
        raise BadInput(f"--nodes {options.nodes}: must not be negative")
    base = recipe.base if isinstance(recipe, Recipe) else recipe
    if options.placement:
        print("\n".join(placement_table(base)))
        return True
    models = stage_models(recipe) if isinstance(recipe, Recipe) else [recipe.model.path]
    shapes = {path: known_model(path, options.like) for path in models}
    hw = find_hardware(
        options.gpu or default_gpu(base, max(find_architecture(s).parameters for s in shapes.values())),
        nodes=options.nodes or 1, gpus_per_node=options.gpus_per_node, calibrate=options.calibrate,
    )  # fmt: skip
    if hw.on_gpu and not options.nodes:
        hw = replace(hw, nodes=max(1, math.ceil(devices_needed(base, hw) / hw.devices_per_node)))

    base, chosen = settle(base, hw.machine)
    recipe = replace(recipe, base=base) if isinstance(recipe, Recipe) else base
    if not options.json:
        print(chosen)

    def lengths_for(cfg: RunConfig) -> Lengths:
        limit = cfg.rollout.max_new_tokens
        return assumed_lengths(
            limit, median=min(options.median_tokens, limit), sigma=options.sigma, prompt=options.prompt_tokens,
            room=cfg.model.context_length,
        )  # fmt: skip

    if isinstance(recipe, Recipe):
        stages = plan_stages(
            recipe, hw, lengths_for=lengths_for, price=options.price, sft_tokens=options.sft_tokens,
            sft_examples=options.sft_examples, shapes=shapes,
        )  # fmt: skip
        plans = [s.plan for s in stages if s.plan is not None]
        if options.json:
            print(to_json(plans))
        else:
            show_stages(stages, hw, options.price)
        return all(plan.fits for plan in plans)
    recipe = replace(recipe, model=replace(recipe.model, path=shapes[recipe.model.path]))
    plan = plan_run(
        recipe, hw, lengths=lengths_for(recipe), price=options.price, sft_tokens=options.sft_tokens,
        sft_examples=options.sft_examples,
    )  # fmt: skip
    if options.json:
        print(to_json([plan]))
    else:
        show(plan)
    return plan.fits


def default_gpu(cfg: RunConfig, parameters: int) -> str:
    """The recipe's device. 'auto' is this machine's CPU when it has no GPU and the model is not too large."""
    if cfg.cluster.device == "auto":
        gpu = Path("/proc/driver/nvidia").exists() or parameters > LARGEST_FOR_CPU
        return DEFAULT_GPU if gpu else "cpu"
    return "cpu" if cfg.cluster.device == "cpu" else DEFAULT_GPU


def known_model(path: str, like: str) -> str:
    """path; or the model named by --like, when the shapes of path are not known yet (another run's output)."""
    try:
        find_architecture(path)
    except BadInput as error:
        if not like:
            raise BadInput(f"{error}, or say what it will be like: --like Qwen/Qwen2.5-7B") from None
        find_architecture(like)
        return like
    return path


def published_command() -> None:
    """Print predictions beside published figures."""
    from launch.plan.published import show_published

    os.environ.setdefault("COLUMNS", "160")
    show_published()
