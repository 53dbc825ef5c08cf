"""Chooses, before anything starts, what a recipe leaves open: the compute precision, and the day that chats show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rl.config import RunConfig
from rl.settings.chat_template import settle_chat_date
from rl.settings.config_checks import validate
from rl.settings.precision import AUTO, Machine, joins_cluster, settle, this_machine
from rl.settings.recipe_checks import check
from rl.stage import Recipe


def settled(made: RunConfig | Recipe, *, ask_cluster: bool = True) -> tuple[RunConfig | Recipe, str]:
    """(the recipe with a dtype and a day in place of auto, one line that says which dtype was chosen and why).

    ask_cluster: join the Ray cluster that the recipe names to learn what machines it has; otherwise they are assumed to
    have GPUs. Raises BadInput when the precision does not fit other settings.
    """
    if isinstance(made, RunConfig):
        return settled_run(made, ask_cluster=ask_cluster)
    base, line = settle(made.base, *_machine(made.base, _begun_in(made), ask_cluster))
    base = settle_chat_date(base, _kept(made, "chat_date"))
    recipe = dataclasses.replace(made, base=base)
    check(recipe)
    return recipe, line


def settled_run(cfg: RunConfig, *, ask_cluster: bool = True) -> tuple[RunConfig, str]:
    """The same as settled, for a recipe of one run."""
    cfg, line = settle(cfg, *_machine(cfg, _begun_in(cfg), ask_cluster))
    cfg = settle_chat_date(cfg, _kept(cfg, "chat_date"))
    validate(cfg)
    return cfg, line


def _machine(cfg: RunConfig, begun_in: str, ask_cluster: bool) -> tuple[Machine, str]:
    if not joins_cluster(cfg.cluster):
        return this_machine(cfg.cluster), begun_in
    if ask_cluster:
        return _cluster_machine(cfg), begun_in
    return Machine("cpu" if cfg.cluster.device == "cpu" else "gpu"), begun_in


def _begun_in(made: RunConfig | Recipe) -> str:
    """The precision of the run that the folder holds; "" for a new folder, or when its file does not say."""
    found = _kept(made, "dtype")
    return found if found != AUTO else ""


def _kept(made: RunConfig | Recipe, name: str) -> str:
    """The setting model.NAME of the run that the folder holds; "" for a new folder, or when its file does not say."""
    file = made.folder / "recipe.json" if isinstance(made, Recipe) else made.run_dir / "resolved.json"
    found = _read(file, *(["base"] if isinstance(made, Recipe) else []), "model", name)
    return found if isinstance(found, str) else ""


def _read(file: Path, *keys: str) -> object:
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
        for key in keys:
            node = node[key]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # damaged text is a ValueError, of JSON or of UTF-8
        return None
    return node


def _cluster_machine(cfg: RunConfig) -> Machine:
    from rl.workers.cluster.ray_calls import cluster_machine, start_ray

    start_ray(cfg)
    return cluster_machine(cfg)
