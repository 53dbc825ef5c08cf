"""Metrics that have a new name. For one version a run writes both, so that dashboards and scripts with the old name go
on working; Aha itself reads the new name alone, also from what an older version wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

NEW_NAMES = {
    "unjudged": "without_verdict",
    "seconds/scoring": "seconds/rewards",
    "scoring/killed": "reward_calls/killed",
    "scoring/replaced": "reward_calls/replaced",
    "scoring/truncated": "reward_calls/truncated",
    "queue/scoring_max": "queue/awaiting_rewards_max",
}
"""Old name -> new name. To be emptied with the next version."""


def with_old_names(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """The metrics, and once more under their old names. {"seconds/rewards": 2} -> that and {"seconds/scoring": 2}."""
    return {**metrics, **{old: metrics[new] for old, new in NEW_NAMES.items() if new in metrics}}


def with_new_names(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """The metrics under their new names alone, whichever of the two, or both, they were written by."""
    return {NEW_NAMES.get(name, name): value for name, value in metrics.items()}
