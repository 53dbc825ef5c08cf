"""Whether held-out accuracy has fallen in training by more than chance: what a learning rate that is too high does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl.evaluation.metrics import mean_and_stderr, paired_difference

ERRORS = 3.0
"""A fall by so many of its standard errors is told. By chance alone that is one evaluation in 700."""


@dataclass(frozen=True, slots=True)
class Decline:
    """A fall of accuracy (shares from 0 to 1) from one evaluation to a later one.

    stderr: of the change. key: the setting of the learning rate.
    """

    before_step: int
    step: int
    before: float
    after: float
    stderr: float
    key: str = "grpo.optim.lr"

    def __str__(self) -> str:
        """ "held-out accuracy fell from 78.8 % after 0 steps to 60.0 % after 20 (-18.8 +- 4.9 points). The ..." """
        change = f"{100 * (self.after - self.before):+.1f} +- {100 * self.stderr:.1f} points"
        return (
            f"held-out accuracy fell from {100 * self.before:.1f} % after {self.before_step} steps to "
            f"{100 * self.after:.1f} % after {self.step} ({change}). The learning rate is most "
            f"likely too high: lower {self.key}, for example to a third"
        )


def decline(shares: Mapping[int, Sequence[float]]) -> Decline | None:
    """The fall from the best earlier evaluation, or else from the first, to the last; None where chance may explain it.

    shares: training steps -> the share of correct samples of each problem, NaN where it was not measured. Evaluations
    of other problems are left out. The error is that of the differences of the same problems.

        {0: [1, 1, 1, 1], 5: [0, 0, 0.5, 0]} -> a fall of 0.875, its error 0.125: seven errors
        {0: [1, 0, 1, 0], 5: [0, 0, 1, 0]} -> a fall of 0.25, its error 0.25: None
    """
    if not shares:
        return None
    last = max(shares)
    after, _ = mean_and_stderr(shares[last])
    earlier = sorted(step for step in shares if step < last and len(shares[step]) == len(shares[last]))
    if not earlier or math.isnan(after):
        return None
    means = {step: mean_and_stderr(shares[step])[0] for step in earlier}
    best = max(earlier, key=lambda step: -math.inf if math.isnan(means[step]) else means[step])
    for step in (best, earlier[0]):
        change, stderr = paired_difference(shares[step], shares[last])
        if change < 0 and -change > ERRORS * stderr:
            return Decline(step, last, means[step], after, stderr)
    return None


def unpaired_decline(measured: Mapping[int, tuple[float, float]], key: str) -> Decline | None:
    """The same of steps -> (accuracy, standard error), where single problems are not known. key: see Decline.

    {0: (0.9, 0.03), 5: (0.7, 0.04)} -> a fall of 0.2, its error sqrt(0.0009 + 0.0016) = 0.05: four errors
    """
    if not measured:
        return None
    last = max(measured)
    after, error = measured[last]
    earlier = sorted(step for step in measured if step < last)
    best = max(earlier, key=lambda step: measured[step][0], default=last)
    for step in (best, *earlier[:1]):
        before, its_error = measured[step]
        stderr = math.hypot(error, its_error)
        if before - after > ERRORS * stderr:
            return Decline(step, last, before, after, stderr, key)
    return None
