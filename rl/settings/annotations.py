"""Types that annotations name: the type of a parameter, the parts of a type, and a type in words. Loads no torch."""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import enum
import functools
import inspect
import json
import types
import typing
from collections.abc import Callable


class Notation(typing.NamedTuple):
    """How a message writes values: what it calls lists, bools and None, and how it shows a value."""

    items: str
    booleans: str
    nothing: str
    shown: Callable[[object], str]


def _in_python(value: object) -> str:
    """repr on one line, shortened: of a group of settings only the name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_in_python, value)) + ("," if isinstance(value, tuple) and len(value) == 1 else "")
        return cut(f"({inside})" if isinstance(value, tuple) else f"[{inside}]")
    return cut(repr(value))


def _in_json(value: object) -> str:
    return cut(json.dumps(value, default=str, ensure_ascii=False))


def cut(text: str, limit: int = 100) -> str:
    """text on one line; the middle of a text longer than limit is left out."""
    text = " ".join(text.splitlines())
    return text if len(text) <= limit else f"{text[: limit - 30]} ... {text[-20:]}"


IN_PYTHON = Notation("a tuple", "True or False", "None", _in_python)
IN_JSON = Notation("a list", "true or false", "null", _in_json)


def type_of(parameter: inspect.Parameter, function: Callable[..., object]) -> object:
    """The type of a parameter: its annotation, or else the type of its default, or else Any."""
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
    return typing.Any if default is None or default is inspect.Parameter.empty else type(default)


def wanted(hint: object, notation: Notation = IN_JSON) -> str:
    """A type in words: int | None -> "a whole number or null"."""
    return " or ".join(dict.fromkeys(_name(part, notation) for part in parts_of(hint)))


def _name(part: object, notation: Notation) -> str:
    words = {bool: notation.booleans, int: "a whole number", float: "a number", str: "a text"}
    if isinstance(part, type) and part in words:
        return words[part]
    if part is types.NoneType:
        return notation.nothing
    if choices := choices_of(part):
        return f"one of {', '.join(choices)}"
    if (items := items_of(part)) is not None:
        each = [wanted(item, notation) for item in items]
        plural = {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers", "an object": "objects"}
        of = plural.get(each[0], each[0]) if len(each) == 1 else " and ".join(each)
        return notation.items if items == [typing.Any] else f"{notation.items} of {of}"
    if is_free(part):
        return "JSON or a text"
    origin = typing.get_origin(part) or part
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a JSON object"
    if notation is IN_JSON and dataclasses.is_dataclass(origin):
        return "an object"
    return origin.__name__ if isinstance(origin, type) else str(part)


def choices_of(part: object) -> list[str]:
    """The values of a Literal or an Enum, as they are typed."""
    if typing.get_origin(part) is typing.Literal:
        return [v if isinstance(v, str) else json.dumps(v, default=str) for v in typing.get_args(part)]
    if isinstance(part, type) and issubclass(part, enum.Enum):
        return [m.value if isinstance(m.value, str) else m.name for m in part]
    return []


def parts_of(hint: object) -> list[object]:
    """The types of which a value may be one: int | None -> [int, NoneType]."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return parts_of(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [part for arg in typing.get_args(hint) for part in parts_of(arg)]
    if isinstance(hint, typing.NewType):
        return parts_of(hint.__supertype__)
    return [types.NoneType if hint is None else hint]


def is_free(part: object) -> bool:
    return part is typing.Any or part is object or isinstance(part, typing.TypeVar)


def items_of(part: object) -> list[object] | None:
    """What a list's items are; of a tuple with items of different types, each one's. None: it is no list."""
    origin, args = typing.get_origin(part) or part, typing.get_args(part)
    if not isinstance(origin, type) or not issubclass(origin, collections.abc.Iterable):
        return None
    if issubclass(origin, str | bytes | collections.abc.Mapping | enum.Enum):
        return None
    return [arg for arg in args if arg is not Ellipsis] or [typing.Any]
