"""From a recipe's file to its config: a run (RunConfig) or several stages (Recipe). Loads no torch."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.working_folder import import_from_here
from rl.config import RunConfig
from rl.settings.all_settings import settings_of, settings_of_recipe
from rl.settings.annotations import type_of, wanted
from rl.settings.config_checks import refuse, type_faults, validate
from rl.settings.overrides import from_json, json_object, recipe_from_json, with_overrides, with_stage_overrides
from rl.settings.recipe_checks import check
from rl.settings.typed_values import key_and_text, read
from rl.stage import Recipe
from rl.types import BadInput

NO_DEFAULT = inspect.Parameter.empty


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig | Recipe:
    """The recipe with its overrides applied, checked. Raises BadInput with all the faults, one a line.

    path: a Python file with a function recipe(), or what a run wrote (resolved.json, recipe.json). An override without
    a dot that names a parameter of recipe() is passed to it: scale=tiny.
    """
    file, rest, arguments = Path(path), list(overrides), list[str]()
    if not file.is_file():
        raise BadInput(f"{path}: no such recipe; see recipes/")
    import_from_here()  # tasks and rewards are named as 'mine:function', also by a file that a run wrote
    if file.suffix == ".json":
        made: object = _from_json(file)
    else:
        make = _function(file)
        made, rest = _call(make, rest)
        arguments = list(_parameters(make))
    faults: list[str] = []
    if isinstance(made, Recipe):
        recipe = made
        if not type_faults(settings_of_recipe(recipe)):  # an override needs the groups and the stages in their places
            recipe, faults = with_stage_overrides(recipe, rest, arguments)
        check(recipe, faults)
        return recipe
    if not isinstance(made, RunConfig):
        raise BadInput(f"{path}: recipe() returned {type(made).__name__}, not a RunConfig or a Recipe")
    cfg = made
    if not type_faults(settings_of(cfg)):
        cfg, faults = with_overrides(cfg, rest, other_names=arguments)
    validate(cfg, faults)
    return cfg


def _from_json(file: Path) -> RunConfig | Recipe:
    text = file.read_text(encoding="utf-8")
    try:
        if "stages" not in json_object(text):
            return from_json(text)
        import rl.recipe  # noqa: F401  makes every kind of stage known

        return recipe_from_json(text)
    except BadInput as error:
        raise BadInput("\n".join(f"{file}: {line}" for line in str(error).splitlines())) from error


def parameters(path: str) -> dict[str, str]:
    """The parameters of the recipe's function with their defaults, for which overrides without a dot stand."""
    if Path(path).suffix == ".json":
        return {}
    import_from_here()
    found = _parameters(_function(Path(path)))
    return {name: "" if p.default is NO_DEFAULT else str(p.default) for name, p in found.items()}


def load_run(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """load, for commands that work on one run. Raises BadInput for a recipe of several stages."""
    made = load(path, overrides)
    if isinstance(made, Recipe):
        names = ", ".join(stage.name for stage in made.stages)
        raise BadInput(f"{path}: has several stages ({names}); this command takes a recipe of one run")
    return made


def _function(file: Path) -> Callable[..., object]:
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file}: is no Python file; a recipe ends in .py or .json")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the types of their fields
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise BadInput(f"{error.filename} line {error.lineno}: {error.msg}") from error
    make = vars(module).get("recipe")
    if not callable(make):
        raise BadInput(f"{file}: has no function recipe() that returns a RunConfig or a Recipe")
    return typing.cast(Callable[..., object], make)


def _parameters(make: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters that can be set by name: all but *args and **kwargs."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(make).parameters.items() if p.kind not in many}


def _call(make: Callable[..., object], overrides: list[str]) -> tuple[object, list[str]]:
    """(what the recipe's function returns, the overrides that are not its arguments).

    Raises BadInput with all arguments that do not fit their parameter's type or are missing, one a line.
    """
    parameters, given, rest, faults = _parameters(make), dict[str, object](), list[str](), list[str]()
    for item in overrides:
        key, text = key_and_text(item)
        if "=" not in item or key not in parameters:
            rest.append(item)
            continue
        try:
            given[key] = read(text, type_of(parameters[key], make), key)
        except BadInput as error:
            faults.append(str(error))
            given[key] = None
    for name, p in parameters.items():
        if p.default is NO_DEFAULT and name not in given:
            faults.append(f"{name}: recipe() needs it; write {name}=..., {wanted(type_of(p, make))}")
    refuse(faults)
    bound = inspect.BoundArguments(inspect.signature(make), typing.cast(typing.Any, given))
    bound.apply_defaults()
    return make(*bound.args, **bound.kwargs), rest
