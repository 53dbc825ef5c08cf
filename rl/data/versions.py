"""Which version of the weights sampled which tokens. Weights may change while a completion is being drawn."""

from __future__ import annotations

import numpy as np

from rl.types import Rollout


def spans(rollout: Rollout) -> list[tuple[int, int]]:
    """(first token, version) of each stretch of tokens that one version sampled."""
    return [(0, rollout.policy_version), *rollout.later_versions]


def versions_T(rollout: Rollout) -> np.ndarray:
    """int64 (T,): the version that sampled each token. Spans (0, 3) and (2, 4) of 5 tokens -> [3, 3, 4, 4, 4]."""
    starts, versions = zip(*spans(rollout), strict=True)
    return np.repeat(np.asarray(versions, np.int64), np.diff([*starts, len(rollout.token_ids_T)]))
