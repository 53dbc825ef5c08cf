"""What a run achieved, as a table and a few facts, and how the settings of two runs differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from launch.report.reading import Record, Run
from rl.evaluation.decline import decline
from rl.records.terminal import duration

LABELS = {
    "pass@1": "Held-out accuracy, sampled (pass@1)",
    "greedy": "Held-out accuracy, greedy",
    "truncated_share": "Held-out completions cut at the limit",
    "format_share": "Held-out completions in the right form",
    "language": "Held-out thinking in the target language",
    "rollout/length_mean": "Held-out completion, tokens",
    "thought/length_mean": "Held-out thought, tokens",
    "answer/length_mean": "Held-out answer, tokens",
    "without_verdict": "Held-out samples without a verdict",
}


def is_share(name: str) -> bool:
    """Whether the evaluation metric of this name goes from 0 to 1."""
    return (
        name.startswith(("pass@", "cons@", "best@", "weighted@"))
        or (name.startswith("search@") and not name.endswith("/tokens"))
        or name.endswith("_share")
        or name in ("greedy", "language")
    )


@dataclass(frozen=True, slots=True)
class Value:
    """A number. stderr: its standard error; None when it is not known."""

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the table. form: share or number."""

    label: str
    form: str
    before: Value | None
    after: Value | None
    change: Value | None


@dataclass(frozen=True, slots=True)
class Shift:
    """Problems, by the change of their share of correct samples from the first evaluation to the last."""

    better: int
    same: int
    worse: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: of one evaluation. correct_P: each problem's share of correct samples; empty when not recorded."""

    step: int
    metrics: dict[str, float]
    correct_P: list[float | None]


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs. values: one per run; None where the run has no such setting."""

    key: str
    values: list[str | None]


def results(run: Run) -> list[Result]:
    """Before and after, with the standard error of the change, paired over the problems if they are recorded."""
    evals = run.of("eval")
    rows: list[Result] = []
    names = list(dict.fromkeys(name for r in evals for name in r.metrics if not name.endswith("stderr")))
    for name in [*(n for n in LABELS if n in names), *(n for n in names if n not in LABELS)]:
        with_it = [r for r in evals if name in r.metrics]
        first, last = with_it[0], with_it[-1]
        label = LABELS.get(name, f"Held-out {name}" if is_share(name) else name)
        form = "share" if is_share(name) else "number"
        before = value_of(run, first, name)
        after = value_of(run, last, name) if last.step > first.step else None
        rows.append(Result(label, form, before, after, _change(run, first, last, name) if after else None))
    return rows + _training(run)


def value_of(run: Run, record: Record, name: str) -> Value:
    """A metric of an evaluation, with its standard error if it is known."""
    stderr = record.metrics.get("stderr" if name == "pass@1" else f"{name}/stderr")
    if stderr is None and record.step in run.evaluations:
        stderr = run.evaluations[record.step].stderr.get(name)
    return Value(record.metrics[name], stderr)


def _change(run: Run, first: Record, last: Record, name: str) -> Value:
    change = last.metrics[name] - first.metrics[name]
    pairs = _pairs(run, first.step, last.step)
    if name == "pass@1" and len(pairs) > 1:
        return Value(change, mean([b - a for a, b in pairs]).stderr)
    errors = value_of(run, first, name).stderr, value_of(run, last, name).stderr
    if errors[0] is None or errors[1] is None:
        return Value(change, None)
    return Value(change, math.hypot(errors[0], errors[1]))


def _pairs(run: Run, first: int, last: int) -> list[tuple[float, float]]:
    """Each problem's share of correct samples at both steps; only if both are of the same problems."""
    if first not in run.evaluations or last not in run.evaluations:
        return []
    a, b = run.evaluations[first].correct_P, run.evaluations[last].correct_P
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None] if len(a) == len(b) else []


def _training(run: Run) -> list[Result]:
    """The reward over the first and the last tenth of the steps (at least 3), with the error over those steps."""
    rewards = [r.metrics["reward/mean"] for r in run.of("grpo") if "reward/mean" in r.metrics]
    n = max(3, len(rewards) // 10)
    if len(rewards) < 2 * n:
        return []
    before, after = mean(rewards[:n]), mean(rewards[-n:])
    error = None if before.stderr is None or after.stderr is None else math.hypot(before.stderr, after.stderr)
    change = Value(after.value - before.value, error)
    return [Result(f"Training reward, first and last {n} steps", "number", before, after, change)]


def mean(values: Sequence[float]) -> Value:
    """The mean with its standard error, s / sqrt(n), s with Bessel's correction. [0, 1, 1, 0] -> 0.5, 0.2887."""
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Value(statistics.fmean(values), stderr)


def shift(run: Run) -> Shift | None:
    """None unless two evaluations of the same problems are recorded."""
    steps = sorted(run.evaluations)
    pairs = _pairs(run, steps[0], steps[-1]) if len(steps) > 1 else []
    better, worse = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    return Shift(better, len(pairs) - better - worse, worse) if pairs else None


def evaluations(run: Run) -> list[Evaluation]:
    found = [(r, run.evaluations.get(r.step)) for r in run.of("eval")]
    return [Evaluation(r.step, r.metrics, e.correct_P if e else []) for r, e in found]


def facts(run: Run) -> list[Fact]:
    """The run in one line: model, steps, rollouts, tokens, time."""
    grpo = run.of("grpo")
    out: list[Fact] = []
    done = len(grpo)
    if run.config:
        out.append(Fact("Steps", f"{done:,} of {run.config.grpo.steps:,}" if not run.finished else f"{done:,}"))
    elif done:
        out.append(Fact("Steps", f"{done:,}"))
    rollouts = sum(r.metrics.get("samples/count", 0.0) for r in grpo)
    tokens = sum(r.metrics.get("rollout/tokens", 0.0) for r in grpo)
    seconds = sum(run.seconds.values()) or sum(r.seconds for r in run.records)
    if rollouts:
        out.append(Fact("Rollouts", f"{rollouts:,.0f}"))
    if tokens:
        out.append(Fact("Tokens sampled", thousands(tokens)))
    if seconds:
        out.append(Fact("Time", duration(seconds)))
    if run.config:
        out.append(Fact("Seed", str(run.config.seed)))
    return out + warnings(run)


def warnings(run: Run) -> list[Fact]:
    """What the reader must not miss: a policy that training has made worse."""
    shares = {
        step: [math.nan if share is None else share for share in file.correct_P]
        for step, file in run.evaluations.items()
        if file.correct_P
    }
    fall = decline(shares)
    return [Fact("Warning", str(fall))] if fall else []


def thousands(count: float) -> str:
    """1234 -> "1,234"; 1234567 -> "1.23 million"."""
    if count < 1e6:
        return f"{count:,.0f}"
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The settings that differ between the runs, without the name and the folder."""
    tables = [{s.key: s.value for s in run.settings} for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [Difference(key, [table.get(key) for table in tables]) for key in keys if key not in ("name", "out")]
    return [row for row in rows if len(set(row.values)) > 1]
