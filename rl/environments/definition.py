"""An environment by name: its class, its tools with their arguments, its options. Raises BadInput before a run starts.

A class has any of reset(**row), reply(text) and get_reward(). Every other public method is a tool, as in TRL: it needs
a docstring and types, because the model is shown both. A function named in `tools` is a tool without a class.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl.config import EnvironmentConfig
from rl.settings.annotations import type_of
from rl.settings.config_checks import refuse
from rl.settings.typed_values import key_and_text, read
from rl.types import BadInput, Row

RESET, REPLY, GET_REWARD = "reset", "reply", "get_reward"
OURS = (RESET, REPLY, GET_REWARD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Tool:
    """A function or a method of the class. parameters: those that a call fills, without self."""

    name: str
    function: Callable[..., object]
    parameters: Mapping[str, inspect.Parameter]
    of_class: bool

    @property
    def signature(self) -> str:
        """ "query, limit": for messages to the model."""
        return ", ".join(self.parameters) or "none"


class Definition:
    """What an EnvironmentConfig names. Raises BadInput with all that is wrong with it, one fault a line.

    own: the public methods of the class, each as it is called on an object.
    """

    def __init__(self, cfg: EnvironmentConfig) -> None:
        self.cfg, self.name = cfg, cfg.name
        self._faults: list[str] = []
        self.kind: type | None = self._class() if cfg.function else None
        self.own = _methods(self.kind) if self.kind else {}
        self.tools = self._tools()
        self.options = self._options()
        self._check_kind()
        refuse([f"environments: {fault}" for fault in self._faults])

    @property
    def reads_calls(self) -> bool:
        return bool(self.tools) and self.cfg.call != "text"

    def make(self) -> object | None:
        """A new object for one trajectory; None where there is no class."""
        return self.kind(**self.options) if self.kind else None

    def schemas(self) -> list[dict[str, object]]:
        """The tools as chat templates take them. Raises BadInput for one whose docstring does not say enough."""
        from transformers.utils.chat_template_utils import (
            DocstringParsingException,
            TypeHintParsingException,
            get_json_schema,
        )

        found, faults = [], []
        for name, tool in self.tools.items():
            try:
                found.append(get_json_schema(tool.function))
            except (DocstringParsingException, TypeHintParsingException) as error:
                faults.append(f"environments: {self.name}: tool {name!r}: {' '.join(map(str, error.args))}")
        refuse(faults)
        return found

    def missing_columns(self, row: Row) -> list[str]:
        """Columns that reset() wants and the row lacks."""
        if RESET not in self.own:
            return []
        wanted = _parameters(self.own[RESET], method=True)
        return [n for n, p in wanted.items() if p.default is inspect.Parameter.empty and n not in row]

    # -------------------------------------------------------------------------------------------- what is named

    def _class(self) -> type | None:
        try:
            found = _named(self.cfg.function)
        except BadInput as error:
            self._faults.append(str(error))
            return None
        if not isinstance(found, type):
            self._faults.append(f"{self.cfg.function!r} is no class; a function without state belongs into tools")
            return None
        return found

    def _tools(self) -> dict[str, Tool]:
        tools = {}
        for name, function in self.own.items():
            if name not in OURS:
                of_object = _without_self(function, self.kind)
                tools[name] = Tool(name, of_object, _parameters(of_object), of_class=True)
        for spec in self.cfg.tools:
            try:
                function = _named(spec)
            except BadInput as error:
                self._faults.append(str(error))
                continue
            if not callable(function) or isinstance(function, type):
                self._faults.append(f"{spec!r} is no function")
                continue
            name = spec.rpartition(":")[2]
            if name in tools:
                self._faults.append(f"{self.name}: two tools are named {name!r}; leave one out")
            tools[name] = Tool(name, function, _parameters(function), of_class=False)
        for name, tool in tools.items():
            self._faults += [f"{self.name}: tool {name!r} {fault}" for fault in self._tool_faults(tool)]
        return tools

    def _tool_faults(self, tool: Tool) -> list[str]:
        if not inspect.getdoc(tool.function):
            hint = f", or call it _{tool.name} if it is no tool" if tool.of_class else ""
            return [f"has no docstring, which says to the model what it is for; write one{hint}"]
        faults = [
            f"takes {parameter}: name each of its arguments, because the model is shown them"
            for parameter in tool.parameters.values()
            if parameter.kind in _VARIADIC
        ]
        faults += [
            f"has no type for {name!r}; write one, as in {name}: str"
            for name, parameter in tool.parameters.items()
            if parameter.annotation is inspect.Parameter.empty and parameter.kind not in _VARIADIC
        ]
        if self.cfg.call == "fence" and len(_required(tool.parameters)) != 1:
            faults.append(
                f"takes {len(_required(tool.parameters))} arguments; call=fence gives it one text, that of the block"
            )
        return faults

    def _options(self) -> dict[str, object]:
        options: dict[str, object] = {}
        takes = _parameters(self.kind) if self.kind and self.cfg.options else {}
        for option in self.cfg.options:
            name, text = key_and_text(option)
            if "=" not in option:
                self._faults.append(f"{self.name}: option {option!r}: expected name=value")
            elif self.kind is not None and name not in takes:
                near = difflib.get_close_matches(name, takes, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                self._faults.append(f"{self.name}: its class takes no {name!r}{hint}")
            elif name in options:
                self._faults.append(f"{self.name}: option {name} is given twice")
            elif self.kind is not None:
                try:
                    options[name] = read(text, type_of(takes[name], self.kind), f"option {name}")
                except BadInput as error:
                    self._faults.append(f"{self.name}: {error}")
        return options

    def _check_kind(self) -> None:
        cfg = self.cfg
        if not cfg.function and not cfg.tools:
            self._faults.append("one names neither a class (function) nor tools; give it one of the two")
        if cfg.options and not cfg.function:
            self._faults.append(f"{self.name}: options are arguments of a class, and it has none")
        if self._faults or self.kind is None:
            if cfg.call == "text" and cfg.tools:
                self._faults.append(f"{self.name}: call=text calls no tools; use call=tools or fence")
            return
        if not self.tools and REPLY not in self.own:
            self._faults.append(
                f"{self.name} has neither reply() nor a tool, so it never answers the model; write one of them, or a "
                "reward function if there is nothing to answer"
            )
        if cfg.call == "text" and REPLY not in self.own:
            self._faults.append(f"{self.name}: call=text gives each turn to reply(), which the class does not have")
        needed = [n for n, p in _parameters(self.kind).items() if _is_required(p) and n not in self.options]
        if needed:
            self._faults.append(f"{self.name}: its class needs {', '.join(needed)}; give them as options")


def _named(spec: str) -> object:
    """What "module:name" names. Raises BadInput, with the nearest name."""
    module_name, colon, name = spec.partition(":")
    if not colon or not name:
        raise BadInput(f"{spec!r}: expected 'module:name'")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise BadInput(f"{spec!r}: cannot import {module_name}: {error}") from error
    names = vars(module)
    if name not in names:
        near = difflib.get_close_matches(name, [n for n in names if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"{spec!r}: {module_name} has no {name!r}{hint}")
    found: object = names[name]
    return found


def _methods(kind: type) -> dict[str, Any]:
    """Public functions of a class and of those that it inherits from, by name, as they stand in the class."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):
        for name, value in vars(base).items():
            if isinstance(value, staticmethod | classmethod) or inspect.isfunction(value):
                found[name] = value
            else:
                found.pop(name, None)
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _without_self(method: Any, kind: type | None) -> Callable[..., object]:
    """The method as the model calls it: its signature has no self."""
    assert kind is not None
    bound: Callable[..., object] = method.__get__(object.__new__(kind), kind)
    return bound


def _parameters(function: Callable[..., object], *, method: bool = False) -> dict[str, inspect.Parameter]:
    """Parameters by name; method: without the first, and without those that take whatever is left."""
    try:
        found = list(inspect.signature(function).parameters.items())
    except (ValueError, TypeError):  # some builtins tell nothing of their parameters
        return {}
    return dict(x for x in found[1:] if x[1].kind not in _VARIADIC) if method else dict(found)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC


def _required(parameters: Mapping[str, inspect.Parameter]) -> Sequence[str]:
    return [name for name, parameter in parameters.items() if _is_required(parameter)]
