"""Rewards to advantages: how much better a sample did than its peers. Plain floats, no torch.

Axis suffixes: _P prompts of the batch (one group each), _G samples of a group; ragged lists.

    kind           advantage                                       source
    group_std      (r - group mean) / (group std + eps)            GRPO: DeepSeekMath 2402.03300; R1, V2 eq. 3
    group_mean     r - group mean                                  Dr. GRPO 2503.20783; DeepSeek-V3.2
    batch_std      (r - group mean) / (batch std + eps)            Lite PPO 2508.08221
    leave_one_out  r - mean of the group's other samples           RLOO
    per_reward     each reward group_std'ed, weighted, added,      GDPO 2601.05242
                   then divided by the batch std

std is the sample standard deviation (Bessel, n - 1), as torch.std in TRL. The papers do not say which; GRPO-Zero takes
numpy's population std. For a group of 16 the two differ by 3 %: sqrt(15/16).

A sample with valid False gets 0 and enters no mean and no std. A group that cannot tell its samples apart (one valid
sample, or all rewards equal up to float noise) gets exactly 0, never a NaN and never noise / eps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

ValueT = TypeVar("ValueT")

UNIFORM_TOLERANCE = 1e-9
"""Rewards this close, relative to the largest or to 1, count as equal: 0.1 + 0.2 and 0.3 differ by 6e-17."""

Parts = Mapping[str, float]
"""Reward name -> unweighted score of one sample."""


def advantages(
    kind: str,
    rewards_PG: Sequence[Sequence[float]],
    valid_PG: Sequence[Sequence[bool]],
    *,
    std_eps: float,
    parts_PG: Sequence[Sequence[Parts]] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[list[float]]:
    """Advantages of a whole batch of groups, in the shape of rewards_PG.

    parts_PG and weights are for per_reward only: the unweighted scores of each sample, and each reward's weight.
    The functions of the kinds below get valid samples only.
    Raises ValueError on an unknown kind, on shapes that differ, and on a valid reward that is not finite.

    >>> advantages("group_mean", [[0.0, 0.0, 1.0, 1.0]], [[True] * 4], std_eps=1e-4)
    [[-0.5, -0.5, 0.5, 0.5]]
    >>> advantages("group_mean", [[0.0, 1.0, 9.0]], [[True, True, False]], std_eps=1e-4)
    [[-0.5, 0.5, 0.0]]
    """
    _check(rewards_PG, valid_PG)
    kept_PG = [_valid(rewards_G, valid_G) for rewards_G, valid_G in zip(rewards_PG, valid_PG, strict=True)]
    if kind == "group_std":
        values_PG = [group_std(kept_G, std_eps) for kept_G in kept_PG]
    elif kind == "group_mean":
        values_PG = [group_mean(kept_G) for kept_G in kept_PG]
    elif kind == "leave_one_out":
        values_PG = [leave_one_out(kept_G) for kept_G in kept_PG]
    elif kind == "batch_std":
        values_PG = batch_std(kept_PG, [len(rewards_G) for rewards_G in rewards_PG], std_eps)
    elif kind == "per_reward":
        if parts_PG is None or weights is None:
            raise ValueError("advantage kind per_reward needs parts_PG and weights")
        kept_parts_PG = [_valid(parts_G, valid_G) for parts_G, valid_G in zip(parts_PG, valid_PG, strict=True)]
        values_PG = per_reward(kept_parts_PG, weights, std_eps)
    else:
        raise ValueError(f"unknown advantage kind {kind!r}")
    # The valid samples' advantages go back to their places; the others get 0.
    values = itertools.chain.from_iterable(values_PG)
    return [[next(values) if ok else 0.0 for ok in valid_G] for valid_G in valid_PG]


def is_uniform(rewards_G: Sequence[float], valid_G: Sequence[bool], parts_G: Sequence[Parts] | None = None) -> bool:
    """True when all valid samples have the same reward, or there are fewer than two of them.

    With parts_G (for per_reward) each reward must be uniform by itself: equal sums of different parts are not enough.

    >>> is_uniform([0.1 + 0.2, 0.3, 5.0], [True, True, False])
    True
    >>> is_uniform([1.0, 1.0], [True, True], [{"accuracy": 1, "format": 0}, {"accuracy": 0, "format": 1}])
    False
    """
    if parts_G is not None:
        kept = _valid(parts_G, valid_G)
        names = {name for part in kept for name in part}
        return all(_all_equal([part[name] for part in kept if name in part]) for name in names)
    return _all_equal(_valid(rewards_G, valid_G))


def group_mean(rewards_G: Sequence[float]) -> list[float]:
    """r - mean. [0, 0, 1, 1] -> [-.5, -.5, .5, .5]; uniform -> 0."""
    if _all_equal(rewards_G):
        return [0.0] * len(rewards_G)
    mean = _mean(rewards_G)
    return [r - mean for r in rewards_G]


def group_std(rewards_G: Sequence[float], eps: float) -> list[float]:
    """(r - mean) / (std + eps). [0, 0, 1, 1], eps 0 -> .5 / .57735 = +-.86603; uniform -> 0."""
    return _over_std([group_mean(rewards_G)], rewards_G, eps)[0]


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    """r - mean of the others = n / (n - 1) * (r - mean). [0, 0, 1, 1] -> [-2/3, -2/3, 2/3, 2/3]; uniform -> 0."""
    n = len(rewards_G)
    return [a * n / (n - 1) if n > 1 else 0.0 for a in group_mean(rewards_G)]


def batch_std(rewards_PG: Sequence[Sequence[float]], sizes_P: Sequence[int], eps: float) -> list[list[float]]:
    """(r - group mean) / (std of all rewards of the batch + eps).

    sizes_P: samples drawn per group, the invalid ones included. A group drawn as one sample has no peers, so its
    baseline is the mean of the batch. A sample left alone by invalid peers gets 0: it has nothing to be compared with.

    The std is that of the rewards, as in Lite PPO and TRL (scale_rewards="batch"); Magistral (2506.10910) takes the
    std after subtracting the group means.

    [[0, 1], [1, 1]], eps 0: rewards 0, 1, 1, 1 have std .5 -> [[-1, 1], [0, 0]].
    """
    flat = [r for rewards_G in rewards_PG for r in rewards_G]
    batch_mean = _mean(flat) if flat else 0.0
    centred_PG = [
        [r - batch_mean for r in rewards_G] if size == 1 else group_mean(rewards_G)
        for rewards_G, size in zip(rewards_PG, sizes_P, strict=True)
    ]
    return _over_std(centred_PG, flat, eps)


def per_reward(parts_PG: Sequence[Sequence[Parts]], weights: Mapping[str, float], eps: float) -> list[list[float]]:
    """GDPO: group_std of each reward, added by weight, divided by the std of the whole batch.

    A common reward cannot drown a rare one: each arrives with the same spread, and weights mean what they say.
    A reward that a sample lacks (parts of another domain) takes no part there. GDPO also subtracts the batch mean;
    here it is 0 by construction, and subtracting its rounding error would turn exact zeros into noise.

    One group, weights 1 and 1, eps 0: accuracy [0, 0, 1, 1] and format [0, 1, 0, 1] become +-.86603 each,
    their sum [-1.73205, 0, 0, 1.73205] has std 1.41421 -> [-1.22474, 0, 0, 1.22474].
    """
    unknown = sorted({name for parts_G in parts_PG for part in parts_G for name in part} - set(weights))
    if unknown:
        raise ValueError(f"reward {unknown[0]!r} has a score but no weight; weights: {sorted(weights)}")
    sums_PG = [[0.0] * len(parts_G) for parts_G in parts_PG]
    for name, weight in weights.items():
        for parts_G, sums_G in zip(parts_PG, sums_PG, strict=True):
            having = [g for g, part in enumerate(parts_G) if name in part]
            for g, a in zip(having, group_std([parts_G[g][name] for g in having], eps), strict=True):
                sums_G[g] += weight * a
    return _over_std(sums_PG, [a for sums_G in sums_PG for a in sums_G], eps)


def _mean(values: Sequence[float]) -> float:
    # fsum is exact, so the order of groups and samples cannot change a bit.
    return math.fsum(values) / len(values)


def _over_std(values_PG: Sequence[Sequence[float]], spread: Sequence[float], eps: float) -> list[list[float]]:
    """values / (std of spread + eps); 0 where the numbers of spread are all equal."""
    if _all_equal(spread):
        return [[0.0] * len(values_G) for values_G in values_PG]
    mean = _mean(spread)
    scale = math.sqrt(math.fsum((v - mean) ** 2 for v in spread) / (len(spread) - 1)) + eps
    return [[v / scale for v in values_G] for values_G in values_PG]


def _all_equal(values: Sequence[float]) -> bool:
    if len(values) < 2:
        return True
    low, high = min(values), max(values)
    return high - low <= UNIFORM_TOLERANCE * max(1.0, abs(low), abs(high))


def _valid(values_G: Sequence[ValueT], valid_G: Sequence[bool]) -> list[ValueT]:
    return [value for value, ok in zip(values_G, valid_G, strict=True) if ok]


def _check(rewards_PG: Sequence[Sequence[float]], valid_PG: Sequence[Sequence[bool]]) -> None:
    if [len(r) for r in rewards_PG] != [len(v) for v in valid_PG]:
        raise ValueError("rewards_PG and valid_PG differ in shape")
    for p, (rewards_G, valid_G) in enumerate(zip(rewards_PG, valid_PG, strict=True)):
        for g, (r, ok) in enumerate(zip(rewards_G, valid_G, strict=True)):
            if ok and not math.isfinite(r):
                raise ValueError(f"the reward of group {p}, sample {g} is {r}; mark the sample invalid or repair it")
