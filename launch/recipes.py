"""From a recipe's file to its config: a run (RunConfig) or several stages (Recipe). Loads no torch."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from rl.config import RunConfig
from rl.settings.config_checks import validate
from rl.settings.overrides import (
    apply_overrides,
    apply_stage_overrides,
    from_json,
    json_object,
    parse,
    recipe_from_json,
)
from rl.settings.recipe_checks import check
from rl.stage import Recipe
from rl.types import BadInput


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig | Recipe:
    """The recipe with its overrides applied, checked. Raises BadInput.

    path: a Python file with a function recipe(), or what a run wrote (resolved.json, recipe.json). An override without
    a dot that names a parameter of recipe() is passed to it: scale=tiny.
    """
    file, rest = Path(path), list(overrides)
    if not file.is_file():
        raise BadInput(f"{path}: no such recipe; see recipes/")
    made: object
    if file.suffix == ".json":
        import rl.recipe  # noqa: F401  makes every kind of stage known

        text = file.read_text(encoding="utf-8")
        try:
            made = recipe_from_json(text) if "stages" in json_object(text) else from_json(text)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error
        except KeyError as error:
            raise BadInput(f"{path}: lacks {error}") from error
    else:
        make = _function(file)
        arguments, rest = _arguments(make, rest)
        made = make(**arguments)
    if isinstance(made, Recipe):
        made = apply_stage_overrides(made, rest)
        check(made)
        return made
    if not isinstance(made, RunConfig):
        raise BadInput(f"{path}: recipe() returned {type(made).__name__}, not a RunConfig or a Recipe")
    made = apply_overrides(made, rest)
    validate(made)
    return made


def parameters(path: str) -> dict[str, str]:
    """The parameters of the recipe's function with their defaults, for which overrides without a dot stand."""
    if Path(path).suffix == ".json":
        return {}
    return {name: str(p.default) for name, p in inspect.signature(_function(Path(path))).parameters.items()}


def load_run(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """load, for commands that work on one run. Raises BadInput for a recipe of several stages."""
    made = load(path, overrides)
    if isinstance(made, Recipe):
        names = ", ".join(stage.name for stage in made.stages)
        raise BadInput(f"{path}: has several stages ({names}); this command takes a recipe of one run")
    return made


def _function(file: Path) -> Callable[..., object]:
    # Tasks and rewards are named as 'recipes.tasks:...', found from where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file}: is no Python file; a recipe ends in .py or .json")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    make = vars(module).get("recipe")
    if not callable(make):
        raise BadInput(f"{file}: has no function recipe() that returns a RunConfig or a Recipe")
    return typing.cast(Callable[..., object], make)


def _arguments(make: Callable[..., object], overrides: list[str]) -> tuple[dict[str, object], list[str]]:
    """(arguments for the recipe's function, the overrides that are left)."""
    hints = typing.get_type_hints(make)
    given: dict[str, object] = {}
    rest = []
    for item in overrides:
        key, eq, value = item.partition("=")
        if eq and key.strip() in inspect.signature(make).parameters:
            given[key.strip()] = parse(value, hints.get(key.strip(), str), key.strip())
        else:
            rest.append(item)
    return given, rest
