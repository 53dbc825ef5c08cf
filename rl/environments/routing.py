"""Which environment a row has, and the part of the reward that it gives."""

from __future__ import annotations

from collections.abc import Sequence

from rl.config import EnvironmentConfig
from rl.scoring.routing import applies_to
from rl.types import Row


def environment_of(environments: Sequence[EnvironmentConfig], row: Row) -> int | None:
    """The number of the first environment that is for the row's domain; None when none is."""
    return next((i for i, environment in enumerate(environments) if applies_to(environment, row)), None)
