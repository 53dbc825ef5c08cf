"""What training changed: two evaluations of the same problems, compared share by share. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rl.evaluation.metrics import mean_and_stderr, paired_difference, pass_at_k
from rl.evaluation.result import EvalResult
from rl.records.summary import Gain


def gains(before: EvalResult, after: EvalResult) -> tuple[Gain, ...]:
    """pass@1, greedy where it was measured, and pass@k for the k samples of a problem where there are several.

    pass@1 and pass@k are compared problem by problem. A greedy answer is kept as a share alone, so its difference has
    the error of two independent shares, which is too large rather than too small.
    """
    return tuple(_gains(before, after))


def _gains(before: EvalResult, after: EvalResult) -> Iterator[Gain]:
    yield _paired("pass@1, sampled", before.correct_P, after.correct_P)
    if before.greedy is not None and after.greedy is not None:
        errors = [_share_stderr(r.greedy or 0.0, len(r.correct_P)) for r in (before, after)]
        difference = after.greedy - before.greedy
        yield Gain("greedy", before.greedy, errors[0], after.greedy, errors[1], difference, math.hypot(*errors))
    k = min(before.samples, after.samples)
    if k > 1:
        yield _paired(f"pass@{k}", *(list(_pass_at_k(r, k)) for r in (before, after)))


def _paired(label: str, before_P: Sequence[float], after_P: Sequence[float]) -> Gain:
    return Gain(label, *mean_and_stderr(before_P), *mean_and_stderr(after_P), *paired_difference(before_P, after_P))


def _pass_at_k(result: EvalResult, k: int) -> Iterable[float]:
    """pass@k of each problem, from its share of right samples; NaN for one without verdicts."""
    for share in result.correct_P:
        yield math.nan if math.isnan(share) else pass_at_k(result.samples, round(share * result.samples), k)


def _share_stderr(share: float, problems: int) -> float:
    """The binomial standard error: 0.9 of 60 problems -> 0.0387."""
    return math.sqrt(share * (1 - share) / problems) if problems else math.nan
