"""Where the values of a config or a recipe come from beside Python: dotted overrides, and JSON. Loads no torch."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from rl.config import RunConfig
from rl.settings.all_settings import all_keys, config_in_tuple, field_types, settings_of, settings_of_recipe
from rl.settings.annotations import IN_JSON
from rl.settings.config_checks import refuse, type_faults
from rl.settings.typed_values import each_key_once, key_and_text, read
from rl.stage import KINDS, RUN_FIELDS, Recipe, stage_to_dict
from rl.types import BadInput

ConfigT = typing.TypeVar("ConfigT")

# ------------------------------------------------------------------------------------------------ overrides


class _NoSuchKey(Exception):
    """Nothing in the config has the name."""


def apply_overrides(cfg: ConfigT, overrides: Sequence[str], prefix: str = "") -> ConfigT:
    """with_overrides, where none may be wrong. Raises BadInput with all the faults, one a line."""
    cfg, faults = with_overrides(cfg, overrides, prefix)
    refuse(faults)
    return cfg


def with_overrides(
    cfg: ConfigT, overrides: Sequence[str], prefix: str = "", other_names: Sequence[str] = ()
) -> tuple[ConfigT, list[str]]:
    """(cfg with "dotted.key=value" strings applied in order, what is wrong with those that could not be applied).

    Tuple elements are reached by number ("rewards.0.weight=0.5"); typed_values.HOW says how values are written. Wrong
    are an unknown key (the fault names the nearest), a value of another type, and a missing "=".
    prefix: what the user put before the keys. other_names: what else the user may have meant by an unknown key.
    """

    def one(cfg: ConfigT, item: str) -> ConfigT:
        key, text = key_and_text(item)
        if "=" not in item:
            raise BadInput(f"override {item!r}: expected key=value, for example grpo.group_size=16")
        try:
            return typing.cast(ConfigT, _set(cfg, type(cfg), key.split("."), text, prefix + key))
        except _NoSuchKey:
            raise BadInput(_unknown_key(prefix + key, [*other_names, *all_keys(cfg, prefix)])) from None

    return _apply_each(cfg, overrides, one)


def apply_stage_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """with_stage_overrides, where none may be wrong. Raises BadInput with all the faults, one a line."""
    recipe, faults = with_stage_overrides(recipe, overrides)
    refuse(faults)
    return recipe


def with_stage_overrides(
    recipe: Recipe, overrides: Sequence[str], other_names: Sequence[str] = ()
) -> tuple[Recipe, list[str]]:
    """with_overrides, of a recipe of stages.

    "zero.grpo.steps=10" sets a stage's value, "name=" and "out=" the recipe's, anything else the base's.
    """

    def one(recipe: Recipe, item: str) -> Recipe:
        key, text = key_and_text(item)
        head, _, rest = key.partition(".")
        names = [s.name for s in recipe.stages]
        if head in ("name", "out") and not rest and "=" in item:
            value = typing.cast(str, read(text.strip(), str, head))
            return dataclasses.replace(recipe, name=value) if head == "name" else dataclasses.replace(recipe, out=value)
        if head in names:
            if not rest:
                raise BadInput(f"{item}: {head} is a stage; set one of its values, for example {head}.grpo.steps=10")
            i = names.index(head)
            stage = apply_overrides(recipe.stages[i], [item.partition(".")[2]], f"{head}.")
            return dataclasses.replace(recipe, stages=(*recipe.stages[:i], stage, *recipe.stages[i + 1 :]))
        if key == "model.path":
            say = f"say of which stage, as {names[0]}.model={text}; each names a model of its own"
            raise BadInput(f"{item}: {say}")
        if head in RUN_FIELDS:
            raise BadInput(f"{item}: say of which stage, as {names[0]}.{item}; the stages are {', '.join(names)}")
        if rest and head not in field_types(RunConfig):
            near = difflib.get_close_matches(head, names, n=1)
            hint = f"; did you mean {near[0]}.{rest}?" if near else f"; the stages are {', '.join(names)}"
            raise BadInput(f"unknown config key {key!r}{hint}")
        base, faults = with_overrides(recipe.base, [item], other_names=other_names)
        refuse(faults)
        return dataclasses.replace(recipe, base=base)

    return _apply_each(recipe, overrides, one)


def _apply_each(
    cfg: ConfigT, overrides: Sequence[str], apply: Callable[[ConfigT, str], ConfigT]
) -> tuple[ConfigT, list[str]]:
    """(cfg after every override that raises no BadInput, the messages of those that do)."""
    faults = []
    for item in overrides:
        try:
            cfg = apply(cfg, item)
        except BadInput as error:
            faults.append(str(error))
    return cfg, faults


def _set(node: typing.Any, hint: object, path: list[str], text: str, key: str) -> object:
    """node with the value at path replaced by what text stands for. Raises _NoSuchKey, or BadInput that names key."""
    if not path:
        if dataclasses.is_dataclass(node):
            raise BadInput(f"{key}: is a group of settings; set one of {', '.join(all_keys(node, f'{key}.'))}")
        if config_in_tuple(hint):
            if not text.strip():
                return ()
            parts = [all_keys(part, f"{key}.{i}.")[0] for i, part in enumerate(typing.cast(tuple[object, ...], node))]
            how = (
                f"set its parts by number, for example {parts[0]}=..."
                if parts
                else "has no parts; name them in the recipe"
            )
            raise BadInput(f"{key}: {how}")
        if hint is float and text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
            return float(text)  # range_faults refuses it, together with the other values that are out of range
        return read(text, hint, key)
    head, rest = path[0], path[1:]
    if isinstance(node, tuple) and (item_type := config_in_tuple(hint)) and head in map(str, range(len(node))):
        i = int(head)
        return (*node[:i], _set(node[i], item_type, rest, text, key), *node[i + 1 :])
    if not dataclasses.is_dataclass(node) or head not in field_types(type(node)):
        raise _NoSuchKey
    changed = _set(vars(node)[head], field_types(type(node))[head], rest, text, key)
    return dataclasses.replace(typing.cast(typing.Any, node), **{head: changed})


def _unknown_key(key: str, known: Sequence[str], where: str = "") -> str:
    """The fault of a key that does not exist, with the nearest of those that do."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        last = key.rsplit(".", 1)[-1]
        near = [k for k in known if difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], last).ratio() > 0.7][:1]
    hint = f"; did you mean {near[0]}?" if near else "; see: aha run RECIPE --help"
    return f"unknown config key {key!r}{where}{hint}"


# ------------------------------------------------------------------------------------------------ json


def to_json(cfg: RunConfig) -> str:
    """The whole config as JSON text; from_json(to_json(cfg)) == cfg."""
    return json.dumps(dataclasses.asdict(cfg), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """Read what to_json wrote; a setting that the text lacks has its default.

    Raises BadInput on what is no JSON, and with all unknown keys and values of another type, one a line. validate
    checks the ranges.
    """
    cfg, faults = build(RunConfig, json_object(text))
    refuse(faults + type_faults(settings_of(cfg), IN_JSON))
    return cfg


def recipe_to_json(recipe: Recipe) -> str:
    """The whole recipe as JSON text; recipe_from_json reads it back."""
    stages = [stage_to_dict(stage) for stage in recipe.stages]
    tree = {"name": recipe.name, "out": recipe.out, "base": dataclasses.asdict(recipe.base), "stages": stages}
    return json.dumps(tree, indent=2) + "\n"


def recipe_from_json(text: str) -> Recipe:
    """Read what recipe_to_json wrote. Raises BadInput with all unknown keys and kinds and values of another type.

    It knows the kinds of stages whose classes are loaded, of which `import rl.recipe` loads all of ours.
    """
    tree = json_object(text)
    names = list(field_types(Recipe))
    faults = [_unknown_key(key, names, " in the saved recipe") for key in sorted(tree.keys() - set(names))]
    faults += [f"lacks {name!r}" for name in names if name not in tree]
    refuse(faults)
    stages = tree["stages"]
    if isinstance(stages, list):
        made = []
        for item in stages:
            kind, name = (item.get("kind"), item.get("name")) if isinstance(item, dict) else ("", "")
            if not isinstance(kind, str) or kind not in KINDS:
                faults.append(f"stage {name!r}: unknown kind {kind!r}; there are {', '.join(sorted(KINDS))}")
                continue
            values = {key: value for key, value in item.items() if key != "kind"}
            stage, unknown = build(KINDS[kind], values, f"{name}.")
            made.append(stage)
            faults += unknown
        stages = tuple(made)
    recipe, unknown = build(Recipe, tree | {"stages": stages})
    refuse([*faults, *unknown, *type_faults(settings_of_recipe(recipe), IN_JSON)])
    return recipe


def json_object(text: str) -> dict[str, object]:
    """The object that a JSON text is. Raises BadInput for others, and for a key that is given twice."""
    try:
        tree = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise BadInput(f"expected an object, not {type(tree).__name__}")
    return tree


def build(kind: type[ConfigT], tree: Mapping[str, object], prefix: str = "") -> tuple[ConfigT, list[str]]:
    """(a config of this kind from JSON values, one line for each unknown key). Does not check the values' types.

    prefix: what stands before the config's keys in those lines.
    """
    faults: list[str] = []

    def made(hint: typing.Any, value: object, key: str) -> object:
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
            hints = field_types(hint)
            unknown = sorted(value.keys() - hints.keys())
            known = [*(key + name for name in hints), *(all_keys(hint(), key) if unknown else ())]
            faults.extend(_unknown_key(key + name, known, " in the saved config") for name in unknown)
            values = {name: value[name] for name in value if name in hints}
            return hint(**{name: made(hints[name], item, f"{key}{name}.") for name, item in values.items()})
        if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
            return tuple(made(typing.get_args(hint)[0], item, f"{key}{i}.") for i, item in enumerate(value))
        # JSON writes 2 for 2.0. A whole number that is too large for a float stays as it is: type_faults refuses it.
        is_whole = hint is float and type(value) is int and abs(value) <= sys.float_info.max
        return float(typing.cast(int, value)) if is_whole else value

    return typing.cast(ConfigT, made(kind, tree, prefix)), faults
