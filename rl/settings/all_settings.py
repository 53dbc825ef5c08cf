"""Every setting of a config or a recipe by its dotted key, for checks and for --help. Loads no torch."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping

from rl.stage import RUN_FIELDS, Recipe


class Setting(typing.NamedTuple):
    """One value. hint: the type that it should have. meta: its sentence, range and choices (see rl.config.knob)."""

    key: str
    value: object
    hint: object
    meta: Mapping[str, typing.Any]


_type_hints = functools.cache(typing.get_type_hints)


def field_types(kind: typing.Any) -> dict[str, typing.Any]:
    """The types of a config's fields. What a stage's class declares of its kind (ClassVar) is no field."""
    hints = _type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def settings_of(cfg: object, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a config by its dotted key: "grpo.steps", "rewards.0.weight".

    A value of a wrong type where a group of settings belongs is yielded too, so that type_faults finds it.
    """
    for f in dataclasses.fields(typing.cast(typing.Any, cfg)):
        yield from _settings_below(vars(cfg)[f.name], field_types(type(cfg))[f.name], prefix + f.name, f.metadata)


def _settings_below(value: object, hint: object, key: str, meta: Mapping[str, typing.Any]) -> Iterator[Setting]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, hint):
        yield from settings_of(value, f"{key}.")
    elif isinstance(value, tuple) and value and (item_type := config_in_tuple(hint)) is not None:
        for i, item in enumerate(value):
            yield from _settings_below(item, item_type, f"{key}.{i}", meta)
    else:
        yield Setting(key, value, hint, meta)


def config_in_tuple(hint: object) -> type | None:
    """The config that a tuple's items are: tuple[RewardConfig, ...] -> RewardConfig; None for other types."""
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def settings_of_recipe(recipe: Recipe) -> Iterator[Setting]:
    """Every setting by the key that an override has: the stages' by their names, the base's without a prefix.

    The base's copies of what each stage has of its own (RUN_FIELDS) are left out. A value of a wrong type where a stage
    or a config belongs is yielded too.
    """
    for setting in settings_of(recipe):
        top, _, rest = setting.key.partition(".")
        if top == "stages" and rest.partition(".")[2]:
            number, _, key = rest.partition(".")
            yield setting._replace(key=f"{recipe.stages[int(number)].name}.{key}")
        elif top != "base" or not rest:
            yield setting
        elif rest.partition(".")[0] not in RUN_FIELDS:
            yield setting._replace(key=rest)


def all_keys(cfg: object, prefix: str = "") -> list[str]:
    """The dotted key of every setting."""
    return [setting.key for setting in settings_of(cfg, prefix)]


def describe(cfg: object) -> list[tuple[str, str, str]]:
    """Every setting as (dotted key, value, sentence), for --help."""
    rows = []
    for key, value, _, meta in settings_of(cfg):
        choices = f" One of: {', '.join(meta['choices'])}." if meta["choices"] else ""
        rows.append((key, str(value), meta["help"] + choices))
    return rows


def describe_recipe(recipe: Recipe) -> list[tuple[str, str, str]]:
    """describe, of a recipe of stages: the stages' settings by their names, then the base's."""
    rows = [(f"{s.name}.{key}", value, text) for s in recipe.stages for key, value, text in describe(s)]
    unused = ("model.path", "name", "out")
    shared = [r for r in describe(recipe.base) if r[0] not in unused and r[0].partition(".")[0] not in RUN_FIELDS]
    return rows + shared
