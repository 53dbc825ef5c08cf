"""Accuracy against compute: at test time over the ways to choose an answer and over searches, and over training.

The two plots of "Learning to reason with LLMs" (o1), from a run's own evaluations. A token costs the same wherever it
is computed forward: test-time compute is in tokens of the model that is evaluated, with a scorer's work at its size;
training compute counts a sampled token once and a trained one three times (forward and backward).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.evaluation.metrics import mean_and_stderr
from rl.evaluation.result import EvalResult
from rl.evaluation.selection import LOGPROB, SHORTEST, parsed, score_of
from rl.records.metrics_file import read_metrics

TRAINED = 3
"""What training on a token costs, in forward passes."""


@dataclass(frozen=True, slots=True)
class Line:
    """x: tokens, or k. y: shares from 0 to 1. stderr: None where it is not known. form: line, bound or point."""

    label: str
    form: str
    x: list[float]
    y: list[float]
    stderr: list[float | None]


@dataclass(frozen=True, slots=True)
class Plane:
    """A plot. title, x: in words. lines: empty where nothing was measured."""

    title: str
    x: str
    lines: list[Line]


def planes(run_dir: Path) -> list[Plane]:
    """The plots for which the run, or the stage, has points. Raises BadInput for a damaged evaluation."""
    files = sorted((run_dir / "evals").glob("step_*.json"))
    results = {int(file.stem.removeprefix("step_")): EvalResult.read(file) for file in files}
    if not results:
        return []
    last = results[max(results)]
    training = Plane(
        "Training", "tokens computed (sampled, and three times those trained on)", _training(run_dir, results)
    )
    by_tokens = Plane("Test time, by tokens", "tokens for a problem, the scorer's included", _by_tokens(last))
    by_k = Plane("Test time, by samples", "samples k", _by_k(last))
    return [plane for plane in (training, by_tokens, by_k) if any(len(line.x) > 1 for line in plane.lines)]


def _training(run_dir: Path, results: dict[int, EvalResult]) -> list[Line]:
    """pass@1 (and what is measured beside it at every evaluation) against the compute of the steps before."""
    spent = {step: _computed(run_dir, step) for step in sorted(results)}
    if len({x for x in spent.values() if x > 0}) < 2:
        return []
    after = {spent[step]: result for step, result in sorted(results.items()) if spent[step]}
    lines = [_line("pass@1", "line", [(x, r.pass_at_1, r.stderr) for x, r in after.items()])]
    majority = [(x, r.cons, r.cons_stderr) for x, r in after.items() if r.cons is not None]
    if len(majority) == len(after):
        lines.append(_line(f"majority of {results[max(results)].samples}", "line", majority))
    if not spent[min(spent)]:  # nothing was computed yet, and a scale that doubles has no place for that
        first = results[min(spent)]
        lines.append(_line("pass@1 before", "bound", [(x, first.pass_at_1, first.stderr) for x in after]))
    return lines


def _computed(run_dir: Path, step: int) -> float:
    """Tokens computed before the evaluation after `step` GRPO steps, with those of an SFT before it."""
    total = 0.0
    for record in read_metrics(run_dir):
        number = record["step"]
        if record["stage"] == "sft" or (record["stage"] == "grpo" and isinstance(number, int) and number < step):
            total += _number(record.get("rollout/tokens")) + TRAINED * _number(record.get("learner/tokens"))
    return total


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _by_tokens(result: EvalResult) -> list[Line]:
    chosen = [
        _line(label, "line", [(result.tokens_of(kind, k), *mean_and_stderr(values_P)) for k, values_P in points])
        for kind, label, points in _kinds(result)
    ]
    searched = [
        _line(f"search {label}", "point", [(mean_and_stderr(found["tokens"])[0], *mean_and_stderr(found["correct"]))])
        for label, found in result.searched.items()
    ]
    return [*chosen, *searched, *_ceiling(result, lambda k: result.tokens_of("cons", k))]


def _by_k(result: EvalResult) -> list[Line]:
    chosen = [
        _line(label, "line", [(float(k), *mean_and_stderr(values_P)) for k, values_P in points])
        for _, label, points in _kinds(result)
    ]
    return [*chosen, *_ceiling(result, float)]


def _ceiling(result: EvalResult, at: Callable[[int], float]) -> list[Line]:
    """What choosing is between: one drawn at random, and a perfect judge."""
    ks = sorted(map(int, result.pass_at))
    random = [(at(k), result.pass_at_1, result.stderr) for k in ks]
    oracle = [(at(k), *result.pass_at[str(k)]) for k in ks]
    if len(ks) < 2:
        return []
    return [_line("one at random (pass@1)", "bound", random), _line("any correct (pass@k)", "bound", oracle)]


def _kinds(result: EvalResult) -> Iterable[tuple[str, str, list[tuple[int, list[float]]]]]:
    """(kind, its name for a reader, [(k, the values of each problem)]) of each way of choosing."""
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for metric, values_P in result.selected.items():
        kind, k = parsed(metric)
        found.setdefault(kind, []).append((k, values_P))
    for kind, points in found.items():
        yield kind, label_of(kind), sorted(points)


def label_of(kind: str) -> str:
    """ "cons" -> "majority", "best:prm" -> "best by prm", "weighted:prm" -> "votes weighted by prm"."""
    score = score_of(kind)
    if not score:
        return "majority"
    if score in (LOGPROB, SHORTEST):
        return {LOGPROB: "likeliest", SHORTEST: "shortest"}[score]
    return f"best by {score}" if kind.startswith("best") else f"votes weighted by {score}"


def _line(label: str, form: str, points: Sequence[tuple[float, float, float | None]]) -> Line:
    """Without points that were not measured."""
    known = [(x, y, e) for x, y, e in points if y == y]
    errors = [None if e is None or e != e else e for _, _, e in known]
    return Line(label, form, [x for x, _, _ in known], [y for _, y, _ in known], errors)
