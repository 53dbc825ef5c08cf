"""Options of rewards: the texts name=value of RewardConfig.options as values of the function's parameters."""

from __future__ import annotations

import builtins
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable

from rewards import GUARDS
from rl.config import RewardConfig
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
    if faults:
        raise BadInput("\n".join(faults))
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
        return name, read(text, _type_of(settings[name], function), f"option {name}")
    value = read(text, bool, f"option {name}")
    if value and option != f"{name}=true":
        raise BadInput(f"option {name}={text}: it takes a guard away, for which it must be exactly {name}=true")
    return name, value


def _type_of(parameter: inspect.Parameter, function: Function) -> object:
    """What the option of a parameter is read as: its annotation, or the type of its default, or anything.

    A number without an annotation may be a list in JSON too, as a schedule is.
    """
    while isinstance(function, functools.partial):
        function = function.func
    names = vars(inspect.getmodule(inspect.unwrap(function)) or builtins)
    if parameter.annotation is not inspect.Parameter.empty:
        alone = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
        try:
            return typing.get_type_hints(alone, names)["it"]
        except (NameError, SyntaxError, AttributeError, TypeError):
            pass  # a name that only a type checker knows, or prose: the default says what is wanted
    default = parameter.default
    if default is None or default is inspect.Parameter.empty:
        return typing.Any
    return type(default) | list[typing.Any] if type(default) in (int, float) else type(default)


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
