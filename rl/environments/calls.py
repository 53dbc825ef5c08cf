"""The calls of tools that a model wrote into its turn.

tools: <tool_call>{"name": "search", "arguments": {"query": "moss"}}</tool_call>, as Qwen, Hermes and SmolLM write it.
fence: a closed block whose language is the tool's name; the block's text is the tool's one argument:
    ```python
    print(1 + 1)
    ```
What stands in the model's thinking, before the last </think>, is no call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field

THOUGHT = "</think>"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE), re.DOTALL)
_FENCE = re.compile(r"^```([A-Za-z_]\w*)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Call:
    """name: of the tool; "" where it cannot be read. text: a block's, where call=fence. fault: why it is no call."""

    name: str = ""
    arguments: dict[str, object] = field(default_factory=dict)
    text: str | None = None
    fault: str = ""


def read_calls(turn: str, style: str, tools: Collection[str]) -> list[Call]:
    """The calls in a turn, in order. style: EnvironmentConfig.call. tools: the names that there are.

    A block in another language than a tool's name is text. An unclosed <tool_call> is a call with a fault.
    """
    said = turn.rpartition(THOUGHT)[2]
    if style == "fence":
        return [Call(name, text=text) for name, text in _FENCE.findall(said) if name in tools]
    if style != "tools":
        return []
    found = [_from_json(body) for body in _CALL.findall(said)]
    if OPEN in _CALL.sub("", said):
        found.append(Call(fault=f"{OPEN} is not closed; end it with {CLOSE}"))
    return found


def _from_json(body: str) -> Call:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Call(fault=f"the call is no JSON ({' '.join(str(error).split())[:100]})")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Call(fault='a call is written {"name": ..., "arguments": {...}}')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return Call(value["name"], fault="the arguments are no object of names and values")
    return Call(value["name"], arguments)
