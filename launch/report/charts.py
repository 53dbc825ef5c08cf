"""The curves of a run, their order and headings, their points (thinned), and the phases of each step."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.report.reading import Record, Run
from rl.records.metrics_file import phases

MOST_POINTS = 600
MOST_COLUMNS = 160
STAGES = {"sft": "SFT", "grpo": "GRPO", "eval": "evaluation", "reward": "reward model"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart. key: "stage:metric", as in points(). error: the key of its standard errors; adds dots."""

    label: str
    key: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. form: share (0 to 1, shown in %), number, or seconds. hint: one sentence on how to read it."""

    title: str
    hint: str
    form: str
    curves: list[Curve]


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    charts: list[Chart]


@dataclass(frozen=True, slots=True)
class Steady:
    """A metric with the same value at every step. It becomes a line of text instead of a curve."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Points:
    """A curve's points. x: steps. y: values. pooled: the steps in one point (their mean; of a maximum the largest)."""

    x: list[int]
    y: list[float]
    pooled: int


@dataclass(frozen=True, slots=True)
class Column:
    """A stacked column: means over steps first..last, of the seconds of each phase or of shares of groups."""

    first: int
    last: int
    parts: list[float]


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """count of groups, dead among them. columns: shares of groups that are dead: all correct, none, another reason."""

    count: int
    dead: int
    columns: list[Column]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of wall-clock time in one stage, seconds since the run's first record began."""

    stage: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Times:
    phases: list[str]
    columns: list[Column]
    spans: list[Span]
    totals: dict[str, float]


# (section, chart, form, hint, [(label, metric pattern)]); "*" in a label is what the pattern's "*" stands for.
Spec = tuple[str, str, str, str, list[tuple[str, str]]]
WEIGHTS_MOVED = (
    "Share of the weights in compute precision that an update changed. The others rounded back to what they were: near "
    "zero, the model does not learn what its optimiser computes."
)
GRPO: list[Spec] = [
    ("Reward", "Mean reward", "number", "Weighted sum of the parts, mean over samples.", [("mean", "reward/mean")]),
    ("Reward", "Parts of the reward", "number", "Each reward function, unweighted mean.", [("*", "reward/*")]),
    ("Reward", "Spread", "number", "Standard deviation of the reward over samples.", [("deviation", "reward/std")]),
    (
        "Completions", "Length", "number", "Tokens of a completion, stop token included.",
        [("median", "rollout/length_p50"), ("90th percentile", "rollout/length_p90"), ("longest", "rollout/length_max"),
         ("mean", "rollout/length_mean")],
    ),
    ("Completions", "Cut at the limit", "share", "Completions that ran out of room.",
     [("truncated", "rollout/truncated_share")]),
    ("Completions", "Length percentiles", "number", "Tokens of a completion.", [("*", "emergence/length_p*")]),
    ("Completions", "Reflective words", "number", "Wait, check, however and the like: doubt, put into words.",
     [("per response", "emergence/reflective_words"), ("per 1,000 words", "emergence/reflective_per_1000_words"),
      ("verification phrases", "emergence/verification")]),
    ("Completions", "Responses that reflect", "share", "Those with at least one such word or phrase.",
     [("reflective words", "emergence/reflective_share"), ("verification", "emergence/verification_share")]),
    ("Completions", "Each reflective word", "number", "Mean count in a response.", [("*", "emergence/words/*")]),
    ("Completions", "Language consistency", "share", "Share of the thinking in the target language.",
     [("consistency", "reward/language_consistency"), ("mixing", "emergence/language_mixing")]),
    ("Completions", "Repeats", "share", "Samples equal to another of their group; text that repeats itself.",
     [("duplicates", "samples/duplicate_share"), ("repeated text", "watch/repeated_text")]),
    ("Completions", "Sampler's confidence", "number", "Mean log-probability of a sampled token, nats.",
     [("logprob", "rollout/logprob_mean")]),
    (
        "Groups", "Dead groups", "share", "Every sample has the same reward: nothing to learn from.",
        [("uniform", "groups/uniform_share"), ("all correct", "groups/all_correct_share"),
         ("none correct", "groups/none_correct_share")],
    ),
    ("Groups", "Groups trained on", "number", "After dropping or refilling dead ones.",
     [("trained", "groups/trained"), ("sampled", "groups/count")]),
    ("Policy", "Entropy", "number", "Of the next token, nats. Near zero the policy explores no more.",
     [("entropy", "entropy")]),
    ("Policy", "KL", "number", "From the reference, and between sampler and learner; nats per token.",
     [("reference", "kl"), ("sampler", "kl_sampler")]),
    ("Policy", "Clipped tokens", "share", "Share of tokens whose ratio was clipped.",
     [("above", "clip_share_high"), ("below", "clip_share_low"), ("dual", "clip_share_dual")]),
    ("Policy", "Policy ratio", "number", "New over old probability of a token.",
     [("mean", "ratio"), ("largest", "max/ratio")]),
    ("Sampler and learner", "Gap", "number", "Mean difference of their log-probabilities of the same tokens, nats.",
     [("mean", "gap/mean")]),
    ("Sampler and learner", "Largest gap", "number", "Over all tokens of the step, nats.", [("largest", "gap/max")]),
    ("Sampler and learner", "Importance weight", "number", "Correction of that gap; 1 when they agree.",
     [("weight", "importance_weight")]),
    ("Sampler and learner", "Corrected tokens", "share", "Tokens whose weight was truncated or masked.",
     [("truncated", "importance_truncated"), ("masked", "importance_masked")]),
    ("Optimiser", "Gradient norm", "number", "Before clipping.", [("norm", "grad_norm")]),
    ("Optimiser", "Weights moved", "share", WEIGHTS_MOVED, [("moved", "policy/weights_moved")]),
    ("Optimiser", "Loss", "number", "Near zero by construction: watch the reward instead.", [("loss", "loss")]),
    ("Optimiser", "Learning rate", "number", "", [("rate", "lr")]),
    ("Optimiser", "Skipped updates", "number", "A gradient was not finite.", [("skipped", "updates/skipped")]),
    ("Verdicts", "*", "share", "Share of samples by what the reward found.", [("*", "verdict/*/*")]),
    ("Signs of gaming", "Signs of gaming", "number", "None convicts; each is a reason to read the rollouts.",
     [("*", "watch/*")]),
    ("Speed", "Tokens per second", "number", "Sampled tokens over the whole step's time.",
     [("tokens/s", "tokens_per_second")]),
    ("Speed", "Step", "seconds", "Wall clock, evaluation and checkpoints left out.", [("seconds", "seconds")]),
    ("Speed", "Tokens of a step", "number", "", [("sampled", "rollout/tokens"), ("trained", "learner/tokens")]),
]  # fmt: skip
SFT: list[Spec] = [
    ("SFT", "Loss (SFT)", "number", "Negative log-likelihood of the target, nats per token.", [("nll", "nll")]),
    (
        "SFT",
        "Held-out loss (SFT)",
        "number",
        "The same of examples that are not trained on.",
        [("before", "eval/nll_before"), ("nll", "eval/nll")],
    ),
    ("SFT", "Gradient norm (SFT)", "number", "Before clipping.", [("norm", "grad_norm")]),
    ("SFT", "Weights moved (SFT)", "share", WEIGHTS_MOVED, [("moved", "policy/weights_moved")]),
    ("SFT", "Learning rate (SFT)", "number", "", [("rate", "lr")]),
]
REWARD_MODEL: list[Spec] = [
    ("Reward model", "Loss (reward model)", "number", "Minus the log-sigmoid of the margin.", [("loss", "loss")]),
    ("Reward model", "Margin (reward model)", "number", "By how much the better one is ahead.", [("margin", "margin")]),
    ("Reward model", "Gradient norm (reward model)", "number", "Before clipping.", [("norm", "grad_norm")]),
    ("Reward model", "Learning rate (reward model)", "number", "", [("rate", "lr")]),
]
REWARD_ACCURACY = Chart(
    "Accuracy", "Share of pairs or rows scored right. Dots are held-out rows, with one standard error.", "share",
    [Curve("training", "reward:accuracy"), Curve("held-out", "eval:accuracy", "eval:accuracy/stderr")],
)  # fmt: skip
ACCURACY = Chart(
    "Accuracy", "Dots are held-out problems, with one standard error.", "share",
    [Curve("training", "grpo:accuracy"), Curve("held-out pass@1", "eval:pass@1", "eval:stderr"),
     Curve("held-out greedy", "eval:greedy", "-")],
)  # fmt: skip


def sections(runs: Sequence[Run]) -> list[Section]:
    """Every chart for which one of the runs has points. Metrics that the catalogue does not name come last."""
    names = {
        s: _varying([r for run in runs for r in run.of(s)]) for s in {r.stage for run in runs for r in run.records}
    }
    out: dict[str, list[Chart]] = {}
    taken: set[str] = {"grpo:accuracy", "grpo:samples/count", "reward:accuracy"}
    for stage, specs in (("grpo", GRPO), ("sft", SFT), ("reward", REWARD_MODEL)):
        literal = {pattern for *_, wanted in specs for _, pattern in wanted if "*" not in pattern}
        literal -= {"reward/language_consistency"}  # it is a metric of the reward too
        for title, chart, form, hint, wanted in specs:
            for found in _charts(stage, chart, form, hint, wanted, names.get(stage, []), literal):
                out.setdefault(title, []).append(found)
                taken |= {curve.key for curve in found.curves}
    for stage in sorted(names):
        if stage == "eval":
            continue
        left = [n for n in names[stage] if f"{stage}:{n}" not in taken and not n.startswith("seconds/")]
        made = [Chart(_other_title(stage, n), "", "number", [Curve(n, f"{stage}:{n}")]) for n in left]
        if made:
            out.setdefault("Everything else", []).extend(made)
    return [Section(title, charts) for title, charts in out.items()]


def _other_title(stage: str, name: str) -> str:
    return name if stage == "grpo" else f"{name} ({STAGES.get(stage, stage)})"


def _charts(
    stage: str, title: str, form: str, hint: str, wanted: Sequence[tuple[str, str]], names: Sequence[str],
    literal: set[str],
) -> list[Chart]:  # fmt: skip
    """The chart of a spec; for a pattern with two stars, one chart per middle part; none when nothing matches.

    literal: metrics that another spec names in full. Patterns leave them out.
    """
    by_title: dict[str, list[Curve]] = {}
    for label, pattern in wanted:
        for name in fnmatch.filter(names, pattern):
            if name != pattern and name in literal:
                continue
            heading = name.split("/")[1] if title == "*" else title
            text = name.rsplit("/", 1)[-1].replace("_", " ") if label == "*" else label
            by_title.setdefault(heading, []).append(Curve(text, f"{stage}:{name}"))
    return [Chart(heading, hint, form, curves) for heading, curves in by_title.items()]


def _varying(records: Iterable[Record]) -> list[str]:
    """Metrics in the order of their first record, without those that kept one value over three records or more."""
    return [name for name, seen in _values(records).items() if seen.count < 3 or seen.low < seen.high]


@dataclass(slots=True)
class _Seen:
    low: float
    high: float
    count: int


def _values(records: Iterable[Record]) -> dict[str, _Seen]:
    out: dict[str, _Seen] = {}
    for record in records:
        for name, value in (record.metrics | {"seconds": record.seconds}).items():
            seen = out.setdefault(name, _Seen(value, value, 0))
            seen.low, seen.high, seen.count = min(seen.low, value), max(seen.high, value), seen.count + 1
    return out


def steady(runs: Sequence[Run]) -> list[Steady]:
    """The metrics that never changed, which the sections leave out; without those that are 0."""
    out: list[Steady] = []
    for stage in ("grpo", "sft"):
        seen = _values(r for run in runs for r in run.of(stage))
        fixed = [(name, s.low) for name, s in seen.items() if s.count >= 3 and s.low == s.high and s.low]
        out += [Steady(_other_title(stage, name), value) for name, value in fixed]
    return out


def points(run: Run, all_sections: Sequence[Section], most: int = MOST_POINTS) -> dict[str, Points]:
    """key -> at most `most` points, for the curves of the sections, of ACCURACY and of REWARD_ACCURACY."""
    curves = [c for section in all_sections for chart in section.charts for c in chart.curves]
    curves += ACCURACY.curves + REWARD_ACCURACY.curves
    keys = {key for c in curves for key in (c.key, c.error) if ":" in key}
    out = {key: _series(run, key, most) for key in sorted(keys)}
    return {key: found for key, found in out.items() if found.x}


def _series(run: Run, key: str, most: int) -> Points:
    stage, _, name = key.partition(":")
    pairs = [
        (r.step, r.seconds if name == "seconds" else r.metrics[name])
        for r in run.of(stage)
        if name == "seconds" or name in r.metrics
    ]
    pooled = -(-len(pairs) // most) or 1
    pool = max if "max" in name else _mean
    bins = [pairs[i : i + pooled] for i in range(0, len(pairs), pooled)]
    return Points([b[len(b) // 2][0] for b in bins], [_short(pool([y for _, y in b])) for b in bins], pooled)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


# ------------------------------------------------------------------------------------------------ time


def times(run: Run) -> Times:
    """How the time was spent: per GRPO step by phase, along the wall clock, and in all."""
    steps = [(r.step, phases(r.seconds, r.metrics)) for r in run.of("grpo")]
    names = list(dict.fromkeys(name for _, seconds in steps for name in seconds))
    columns = _columns([(step, [seconds.get(name, 0.0) for name in names]) for step, seconds in steps])
    return Times(names, columns, _spans(run.records), run.seconds or _totals(run))


def _columns(steps: Sequence[tuple[int, list[float]]]) -> list[Column]:
    """Steps pooled with their neighbours into at most MOST_COLUMNS columns."""
    width = -(-len(steps) // MOST_COLUMNS) or 1
    out = []
    for i in range(0, len(steps), width):
        some = steps[i : i + width]
        means = [_short(_mean(values)) for values in zip(*(parts for _, parts in some), strict=True)]
        out.append(Column(some[0][0], some[-1][0], means))
    return out


def dead_groups(run: Run) -> DeadGroups | None:
    """The groups without a gradient; None when no step counted them."""
    counted = [r for r in run.of("grpo") if "groups/uniform_share" in r.metrics]
    if not counted:
        return None
    count = sum(r.metrics.get("groups/count", 0.0) for r in counted)
    dead = sum(r.metrics.get("groups/count", 0.0) * r.metrics["groups/uniform_share"] for r in counted)
    steps = []
    for r in counted:
        left = r.metrics["groups/uniform_share"]
        # A group may be all correct and still differ in another part of the reward: then it is not dead.
        good = min(left, r.metrics.get("groups/all_correct_share", 0.0))
        bad = min(left - good, r.metrics.get("groups/none_correct_share", 0.0))
        steps.append((r.step, [good, bad, left - good - bad]))
    return DeadGroups(round(count), round(dead), _columns(steps))


def _totals(run: Run) -> dict[str, float]:
    out: dict[str, float] = {}
    for record in run.records:
        own = {"evaluate": record.seconds} if record.stage == "eval" else phases(record.seconds, record.metrics)
        if record.stage == "sft":
            own = {"sft": record.seconds}
        for name, seconds in own.items():
            out[name] = out.get(name, 0.0) + seconds
    return out


def _spans(records: Sequence[Record]) -> list[Span]:
    """One span per series of records of one stage. Between spans lie starts, checkpoints and stops."""
    timed = sorted((r for r in records if r.time), key=lambda r: r.time)
    if not timed:
        return []
    zero = timed[0].time - timed[0].seconds
    spans: list[Span] = []
    for r in timed:
        start, end = max(r.time - r.seconds - zero, spans[-1].end if spans else 0.0), r.time - zero
        if spans and spans[-1].stage == r.stage and start - spans[-1].end < max(1.0, 0.5 * r.seconds):
            spans[-1] = Span(r.stage, spans[-1].start, round(end, 2))
        else:
            spans.append(Span(r.stage, round(start, 2), round(end, 2)))
    return spans
