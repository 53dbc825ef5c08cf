"""Walks over a sharded policy one layer group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn

from rl.lora import PlainWeight


def gather_groups(
    weights: Sequence[PlainWeight], gathered: Callable[[list[nn.Parameter]], AbstractContextManager[object]]
) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, full tensor with adapters merged) of every weight, gathered one layer group at a time.

    A group is what shares the first number in its name ("model.layers.3."), so no rank ever holds the whole model in
    full. A tensor is valid until the next one is asked for.
    """
    groups: dict[str, list[PlainWeight]] = {}
    for weight in weights:
        parts = weight.name.split(".")
        digits = [i for i, part in enumerate(parts) if part.isdigit()]
        key = ".".join(parts[: digits[0] + 1]) if digits else weight.name
        groups.setdefault(key, []).append(weight)
    for members in groups.values():
        with gathered([p for weight in members for p in weight.parameters]):
            for weight in members:
                yield weight.name, weight.merged()
