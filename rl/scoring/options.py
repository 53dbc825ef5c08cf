"""Options of rewards: the texts name=value of RewardConfig.options as values of the function's parameters."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable

from rewards import GUARDS
from rl.config import RewardConfig
from rl.settings.annotations import type_of
from rl.settings.config_checks import refuse
from rl.settings.typed_values import key_and_text, read
from rl.types import BadInput

Function = Callable[..., object]

ALWAYS = {"prompt", "answer", "completion_tokens", "prompts", "completions", "completion_ids"}
"""What every reward is given beside the row's columns, by these names."""

_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def options_of(reward: RewardConfig, function: Function) -> dict[str, object]:
    """("percent=lenient", "limit=3") -> {"percent": "lenient", "limit": 3}; each is read by its parameter's type.

    Raises BadInput with all the faults, one a line: what is no name=value, a name that the function does not have or
    that is given twice, a value that does not fit.
    """
    options: dict[str, object] = {}
    faults = []
    for option in reward.options:
        try:
            name, value = _read(option, function)
            if name in options:
                raise BadInput(f"option {name} is given twice")
            options[name] = value
        except BadInput as error:
            faults.append(f"rewards: {reward.name or reward.function!r}: {error}")
    refuse(faults)
    return options


def _read(option: str, function: Function) -> tuple[str, object]:
    """ "limit=3" -> ("limit", 3). Raises BadInput."""
    name, text = key_and_text(option)
    if "=" not in option:
        raise BadInput(f"option {option!r}: expected name=value")
    if name in ALWAYS or name == completion_name(function):
        raise BadInput(f"option {name}: every sample brings its own; it is no setting")
    settings = {n: p for n, p in parameters_of(function).items() if p.kind in _BY_NAME}
    if name not in settings:
        near = difflib.get_close_matches(name, settings.keys() - ALWAYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"it has no parameter {name!r}{hint}")
    if name not in GUARDS:
        return name, _value(text, settings[name], function)
    value = read(text, bool, f"option {name}")
    if value and option != f"{name}=true":
        raise BadInput(f"option {name}={text}: it takes a guard away, for which it must be exactly {name}=true")
    return name, value


def _value(text: str, parameter: inspect.Parameter, function: Function) -> object:
    """A text as the parameter's type; a number without an annotation may be a list in JSON too, as a schedule is."""
    kind, key = type_of(parameter, function), f"option {parameter.name}"
    if parameter.annotation is not inspect.Parameter.empty or kind is typing.Any:
        return read(text, kind, key)
    try:
        return read(text, kind | list[typing.Any] if kind in (int, float) else kind, key)
    except BadInput as error:
        raise BadInput(f"{error}; its default is {parameter.default!r}, and an annotation may say otherwise") from None


def parameters_of(function: Function) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:  # some builtins tell nothing of their parameters
        return {}


def takes_lists(function: Function) -> bool:
    """Whether the function has TRL's shape: prompts, completions and columns as lists."""
    return not {"prompts", "completions"}.isdisjoint(parameters_of(function))


def completion_name(function: Function) -> str:
    """The parameter that is given the completion, "" for a function of lists."""
    return "" if takes_lists(function) else next(iter(parameters_of(function)), "")
