"""One trajectory with its environment: what the class and the tools answer to each turn. Runs inside a process that can
be killed (rl/environments/processes.py), and is done again from the first turn when it was.

A tool that raises, is unknown or is called wrongly gives an answer that says so: the model can mend its call. A class
that raises in reset(), reply() or get_reward() gives no verdict, and the sample is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rl.config import EnvironmentConfig
from rl.environments.calls import Call, read_calls
from rl.environments.definition import GET_REWARD, REPLY, RESET, Definition
from rl.turns import PLAYER, TOOL, Turn
from rl.types import Row

MOST_CALLS = 8
"""Calls of one turn that are made; those behind them are told so."""
CHARACTERS_A_TOKEN = 8
"""An answer is cut to this many characters for each of max_reply_tokens before it leaves the process."""
CUT = "\n[... {} characters left out ...]\n"


@dataclass(frozen=True, slots=True)
class Start:
    """How a trajectory begins. seed: of Python's and numpy's random numbers in reset() and in every turn, the same for
    all samples of a group, so that they play the same game and a replay repeats it.
    """

    environment: EnvironmentConfig
    row: Row
    seed: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The model's turns so far, of which the last is to be answered; none: what reset() tells the player is asked for.

    key: of the trajectory. cut: the last turn was cut at the limit of tokens, so nothing answers it. last: no other can
    follow. open: it ended at a stop text, not at an end token, so that the model goes on where nothing answers it.
    """

    key: str
    start: Start
    turns: tuple[str, ...]
    last: bool = False
    cut: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """messages: what the next turn is told, or would be if there were one. over: there is none. The rest: see Episode.

    Without messages and not over, the model goes on.
    """

    messages: tuple[Turn, ...] = ()
    over: bool = False
    rewards: tuple[float, ...] = ()
    fault: str = ""
    timed_out: bool = False


class EnvironmentFailed(Exception):
    """The environment's own code failed. Its text says where and how."""


class Play:
    """An environment's object and what it has answered. turns: how many of the model's it has seen."""

    def __init__(self, definition: Definition, start: Start) -> None:
        self._definition, self._start = definition, start
        self._most = definition.cfg.max_reply_tokens * CHARACTERS_A_TOKEN
        self.turns = 0
        self._seed_random()
        self._object = _guarded("its class", definition.make)
        self.opening = ""
        if RESET in definition.own:
            told = _guarded(RESET, self._method(RESET), **_taken(self._method(RESET), start.row))
            self.opening = "" if told is None else self._shown(told)

    @property
    def waits_for_calls(self) -> bool:
        """Whether a turn without a call is answered by nothing."""
        return REPLY not in self._definition.own

    def answer(self, text: str) -> tuple[Turn, ...]:
        """What the next turn is told; nothing when it is over. Raises EnvironmentFailed."""
        self.turns += 1
        self._seed_random()
        definition = self._definition
        calls = read_calls(text, definition.cfg.call, definition.tools) if definition.reads_calls else []
        if calls:
            return tuple(self._called(call, i) for i, call in enumerate(calls[: MOST_CALLS + 1]))
        if REPLY not in definition.own:
            return ()
        told = _guarded(REPLY, self._method(REPLY), text)
        return () if told is None else (Turn(PLAYER, self._shown(told)),)

    def rewards(self) -> tuple[float, ...]:
        """What get_reward() says; empty where there is none. Raises EnvironmentFailed."""
        if GET_REWARD not in self._definition.own:
            return ()
        said = _guarded(GET_REWARD, self._method(GET_REWARD))
        values = list(said) if isinstance(said, list | tuple) else [said]
        try:
            numbers = tuple(float(cast(Any, value)) for value in values)
        except (TypeError, ValueError) as error:
            raise EnvironmentFailed(
                f"{GET_REWARD} returned {str(said)[:100]!r}, which is no number and no list of them"
            ) from error
        if not numbers or not all(math.isfinite(number) for number in numbers):
            raise EnvironmentFailed(f"{GET_REWARD} returned {str(said)[:100]}; it must be finite numbers")
        return numbers

    def _called(self, call: Call, number: int) -> Turn:
        if number == MOST_CALLS:
            return Turn(TOOL, f"Error: at most {MOST_CALLS} calls in one turn; the others were not made", call.name)
        return Turn(TOOL, self._shown(self._result(call)), call.name)

    def _result(self, call: Call) -> object:
        tools = self._definition.tools
        if call.fault:
            return f"Error: {call.fault}"
        tool = tools.get(call.name)
        if tool is None:
            return f"Error: there is no tool {call.name[:100]!r}; there are {', '.join(tools)}"
        function = self._method(tool.name) if tool.of_class else tool.function
        try:
            arguments = (call.text,) if call.text is not None else ()
            inspect.signature(function).bind(*arguments, **call.arguments)
        except TypeError as error:
            return f"Error: {tool.name}: {error}; its arguments: {tool.signature}"
        try:
            result = function(*arguments, **call.arguments)
            return asyncio.run(result) if inspect.iscoroutine(result) else result
        except Exception as error:
            # What a tool raises is the model's to see, as in TRL: it may have caused it, and can call again.
            return f"Error: {type(error).__name__}: {error}"

    def _method(self, name: str) -> Callable[..., object]:
        bound: Callable[..., object] = self._definition.own[name].__get__(self._object, type(self._object))
        return bound

    def _shown(self, value: object) -> str:
        """An answer as text that every tokenizer and file can hold, with its middle cut out when it is too long."""
        try:
            text = value if isinstance(value, str) else str(value)
        except Exception as error:  # __str__ is the author's code
            text = f"Error: {type(error).__name__}: {error}"
        left = len(text) - self._most
        if left > 0:
            half = self._most // 2
            text = text[:half] + CUT.format(left) + text[-half:]
        return text.encode("utf-8", "replace").decode("utf-8")

    def _seed_random(self) -> None:
        seed = f"{self._start.seed}:{self.turns}"
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(random.Random(seed).getrandbits(32))


def _guarded(name: str, function: Callable[..., object], *args: object, **columns: object) -> object:
    """The function's result. Raises EnvironmentFailed, whatever it raised: it is the author's code."""
    try:
        result = function(*args, **columns)
        return asyncio.run(result) if inspect.iscoroutine(result) else result
    except Exception as error:
        raise EnvironmentFailed(f"{name} raised {type(error).__name__}: {error}") from error


def _taken(reset: Callable[..., object], row: Mapping[str, object]) -> dict[str, object]:
    """The columns that reset() names, or all of them if it has **."""
    parameters = inspect.signature(reset).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(row)
    return {name: value for name, value in row.items() if name in parameters}
