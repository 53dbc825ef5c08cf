"""Walks over a sharded policy one layer group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from torch import Tensor, nn


def gather_groups(
    named: list[tuple[str, nn.Parameter]], gathered: Callable[[list[nn.Parameter]], AbstractContextManager[object]]
) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter, gathered one layer group at a time.

    A group is what shares the first number in its name ("model.layers.3."), so no rank ever holds the whole model in
    full. A tensor is valid until the next one is asked for.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        parts = name.split(".")
        digits = [i for i, part in enumerate(parts) if part.isdigit()]
        key = ".".join(parts[: digits[0] + 1]) if digits else name
        groups.setdefault(key, []).append((name, parameter))
    for members in groups.values():
        with gathered([p for _, p in members]):
            for name, parameter in members:
                yield name, parameter.data
