"""Values of a config or a recipe: dotted overrides, JSON, and the list of all settings. Loads no torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Sequence

from rl.config import RunConfig
from rl.stage import KINDS, RUN_FIELDS, Recipe, Stage, stage_to_dict
from rl.types import BadInput

# ------------------------------------------------------------------------------------------------ overrides


ConfigT = typing.TypeVar("ConfigT")
_hints = functools.cache(typing.get_type_hints)


class _NoSuchKey(Exception):
    """Nothing in the config has the name."""


def apply_overrides(cfg: ConfigT, overrides: Sequence[str], prefix: str = "") -> ConfigT:
    """Return cfg with "dotted.key=value" strings applied, in order. prefix: what the user put before the keys.

    Tuple elements are reached by number ("rewards.0.weight=0.5"); a tuple of texts is written with commas. A text keeps
    the spaces that it begins or ends with.
    Raises BadInput on an unknown key (naming the nearest), a value of the wrong type, or a missing "=".
    """
    for item in overrides:
        key, eq, value = item.partition("=")
        if not eq:
            raise BadInput(f"override {item!r}: expected key=value, for example grpo.group_size=16")
        key = key.strip()
        try:
            cfg = typing.cast(ConfigT, _set(cfg, key.split("."), value, prefix + key))
        except _NoSuchKey:
            raise _unknown_key(prefix + key, all_keys(cfg, prefix)) from None
    return cfg


def all_keys(cfg: object, prefix: str = "") -> list[str]:
    """Every dotted key of a config, leaves only."""
    keys: list[str] = []
    if dataclasses.is_dataclass(cfg):
        for f in dataclasses.fields(cfg):
            keys += all_keys(getattr(cfg, f.name), f"{prefix}{f.name}.")
    elif isinstance(cfg, tuple) and cfg and dataclasses.is_dataclass(cfg[0]):
        for i, item in enumerate(cfg):
            keys += all_keys(item, f"{prefix}{i}.")
    else:
        keys.append(prefix.rstrip("."))
    return keys


def _set(node: object, path: list[str], text: str, full_key: str) -> object:
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not head.isdigit() or int(head) >= len(node):
            raise _NoSuchKey
        i = int(head)
        if not rest:
            raise _NoSuchKey
        return (*node[:i], _set(node[i], rest, text, full_key), *node[i + 1 :])
    if not dataclasses.is_dataclass(node) or head not in {f.name for f in dataclasses.fields(node)}:
        raise _NoSuchKey
    hints = _hints(typing.cast(type, type(node)))
    current = getattr(node, head)
    if rest:
        value = _set(current, rest, text, full_key)
    elif dataclasses.is_dataclass(current):
        raise BadInput(f"{full_key}: is a group of settings; set one of {', '.join(all_keys(current, full_key + '.'))}")
    else:
        value = parse(text, hints[head], full_key)
    return dataclasses.replace(typing.cast(typing.Any, node), **{head: value})


def _unknown_key(key: str, known: list[str]) -> BadInput:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        last = key.rsplit(".", 1)[-1]
        near = [k for k in known if difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], last).ratio() > 0.7][:1]
    hint = f"; did you mean {near[0]}?" if near else "; see: aha run RECIPE --help"
    return BadInput(f"unknown config key {key!r}{hint}")


def parse(text: str, hint: object, key: str) -> object:
    """A value from its text by its type. Raises BadInput that names the key."""
    try:
        if hint is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.strip().lower()]
        if hint is int:
            return int(text.replace("_", ""))
        if hint is float:
            return float(text)
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[typing.cast(type, hint)]
        raise BadInput(f"{key}={text}: expected {wanted}") from None
    if isinstance(hint, types.GenericAlias) or typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if item is int:
            return tuple(parse(part, int, key) for part in text.split(",") if part)
        if item is not str:
            raise BadInput(f"{key}: set its parts by number, for example {key}.0.weight=0.5")
        return tuple(part for part in text.split(",") if part)
    return text


# ------------------------------------------------------------------------------------------------ json


def to_json(cfg: RunConfig) -> str:
    """The whole config as JSON text; from_json(to_json(cfg)) == cfg."""
    return json.dumps(dataclasses.asdict(cfg), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """Read what to_json wrote. Raises BadInput on unknown keys and on what is no JSON."""
    return typing.cast(RunConfig, _build(RunConfig, json_object(text), ""))


def json_object(text: str) -> dict[str, object]:
    """The object that a JSON text is. Raises BadInput for others."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise BadInput(f"expected an object, not {type(tree).__name__}")
    return tree


def build(kind: type, value: object) -> object:
    """A config of this kind from JSON values. Raises BadInput on unknown keys."""
    return _build(kind, value, "")


def _build(hint: object, value: object, key: str) -> object:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise BadInput(f"{key or 'config'}: expected an object")
        hints = _hints(typing.cast(type, hint))
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise BadInput(f"unknown config key {key + unknown[0]!r} in the saved config")
        kwargs = {name: _build(hints[name], item, f"{key}{name}.") for name, item in value.items()}
        return typing.cast(typing.Any, hint)(**kwargs)
    if typing.get_origin(hint) is tuple:
        item_hint = typing.get_args(hint)[0]
        return tuple(_build(item_hint, item, key) for item in typing.cast(list[object], value))
    if hint is float and isinstance(value, int):
        return float(value)
    return value


def describe(cfg: object) -> list[tuple[str, str, str]]:
    """Every knob as (dotted key, value, sentence), for --help."""
    rows: list[tuple[str, str, str]] = []

    def walk(node: object, prefix: str) -> None:
        for f in dataclasses.fields(typing.cast(typing.Any, node)):
            value = getattr(node, f.name)
            if dataclasses.is_dataclass(value):
                walk(value, f"{prefix}{f.name}.")
            elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
                for i, item in enumerate(value):
                    walk(item, f"{prefix}{f.name}.{i}.")
            else:
                choices = f.metadata["choices"]
                text = f.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")
                rows.append((prefix + f.name, str(value), text))

    walk(cfg, "")
    return rows


def apply_stage_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """ "zero.grpo.steps=10" sets a stage's value, "name=" and "out=" the recipe's, anything else the base's."""
    for item in overrides:
        key, _, value = item.partition("=")
        head, _, rest = key.strip().partition(".")
        names = [s.name for s in recipe.stages]
        if head in ("name", "out") and not rest:
            renamed = {"name": recipe.name, "out": recipe.out} | {head: value.strip()}
            recipe = dataclasses.replace(recipe, name=renamed["name"], out=renamed["out"])
        elif head in names:
            if not rest:
                raise BadInput(f"{item}: {head} is a stage; set one of its values, for example {head}.grpo.steps=10")
            i = names.index(head)
            stage = apply_overrides(recipe.stages[i], [item.partition(".")[2]], f"{head}.")
            recipe = dataclasses.replace(recipe, stages=(*recipe.stages[:i], stage, *recipe.stages[i + 1 :]))
        elif key.strip() == "model.path":
            say = f"say of which stage, as {names[0]}.model={value}; each names a model of its own"
            raise BadInput(f"{item}: {say}")
        elif head in RUN_FIELDS:
            raise BadInput(f"{item}: say of which stage, as {names[0]}.{item}; the stages are {', '.join(names)}")
        elif rest and head not in {k.partition(".")[0] for k in all_keys(recipe.base)}:
            near = difflib.get_close_matches(head, names, n=1)
            hint = f"; did you mean {near[0]}.{rest}?" if near else f"; the stages are {', '.join(names)}"
            raise BadInput(f"unknown config key {key!r}{hint}")
        else:
            recipe = dataclasses.replace(recipe, base=apply_overrides(recipe.base, [item]))
    return recipe


def staged_settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Every knob as (dotted key, value, sentence): the stages' by their names, then the base's."""
    rows = [(f"{s.name}.{key}", value, text) for s in recipe.stages for key, value, text in describe(s)]
    unused = ("model.path", "name", "out")
    shared = [r for r in describe(recipe.base) if r[0] not in unused and r[0].partition(".")[0] not in RUN_FIELDS]
    return rows + shared


def recipe_to_json(recipe: Recipe) -> str:
    """The whole recipe as JSON text; recipe_from_json reads it back."""
    stages = [stage_to_dict(stage) for stage in recipe.stages]
    tree = {"name": recipe.name, "out": recipe.out, "base": dataclasses.asdict(recipe.base), "stages": stages}
    return json.dumps(tree, indent=2) + "\n"


def recipe_from_json(text: str) -> Recipe:
    """Read what recipe_to_json wrote. Raises BadInput on unknown keys and kinds."""
    tree = json.loads(text)
    stages = []
    for item in tree["stages"]:
        if item.get("kind") not in KINDS:
            raise BadInput(
                f"stage {item.get('name')!r}: unknown kind {item.get('kind')!r}; there are {', '.join(KINDS)}"
            )
        rest = {key: value for key, value in item.items() if key != "kind"}
        stages.append(typing.cast(Stage, build(KINDS[item["kind"]], rest)))
    base = typing.cast(RunConfig, build(RunConfig, tree["base"]))
    return Recipe(tree["name"], base, tuple(stages), tree["out"])
