"""Tests the claims of a recipe: each with the numbers measured, their standard errors, and whether it holds.

Evaluations lie in their stages' folders as evals/step_NNNNNN.json. "@zero:pass@1" is the last evaluation of stage zero,
"@zero:before/pass@1" its first, and "@helpful:accuracy" a reward model's accuracy on held-out pairs. A claim that does
not hold is printed as such.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from rl.config import RunConfig, knob
from rl.context import Inputs, StageRun
from rl.evaluation.metrics import mean_and_stderr
from rl.evaluation.result import EvalResult
from rl.records.renamed_metrics import NEW_NAMES
from rl.records.whole_files import RUN_STAGE_AGAIN, read_json, write_json, write_whole
from rl.stage import Recipe, Reference, Stage, references
from rl.stages.reward_model import HeldOut
from rl.types import BadInput

BEFORE = "before/"


@dataclass(frozen=True)
class Claim:
    """That left is greater than right, in words and in numbers: each a "@stage:metric" or a number as text."""

    text: str = knob("", "The claim, as a sentence.")
    left: str = knob("", "The larger number: @stage:metric, or a number.")
    right: str = knob("0", "The smaller number: @stage:metric, or a number.")
    at_least: float = knob(0.0, "The difference must be greater than this.")
    z: float = knob(2.0, "By this many standard errors of the difference.", lo=0)


@dataclass(frozen=True)
class Compare(Stage):
    """Test claims about what earlier stages measured. Output: a table."""

    claims: tuple[Claim, ...] = knob((), "What is claimed.")

    def faults(self, recipe: Recipe) -> Iterator[str]:
        for i, claim in enumerate(self.claims):
            for side, text in (("left", claim.left), ("right", claim.right)):
                try:
                    float("0" if text.startswith("@") else text)
                except ValueError:
                    yield f"claims.{i}.{side}={text}: is neither a number nor @stage:metric"

    def faults_after(self, earlier: Mapping[str, Stage]) -> Iterator[str]:
        for key, text in references(self):
            ref = Reference.parse(text)
            if ref is not None and ref.stage in earlier and not ref.metric:
                yield f"{key}={text}: name something that stage measures, for example @{ref.stage}:pass@1"

    def check(self, recipe: Recipe, inputs: Inputs | None, cfg: RunConfig) -> None:
        refuse_unmeasured(self.claims, {stage.name: stage for stage in recipe.stages})

    def run(self, at: StageRun) -> None:
        compare(at.folder, self.claims, at.folders)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number and its standard error (NaN: unknown). values_P: the values of each problem, if it is their mean."""

    value: float
    stderr: float = math.nan
    values_P: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim with what was measured. difference: left - right, with its standard error."""

    claim: Claim
    left: Measurement
    right: Measurement
    difference: float
    stderr: float

    @property
    def holds(self) -> bool:
        """Whether the difference exceeds claim.at_least by more than claim.z of its standard errors. Unknown: no."""
        return self.difference - self.claim.at_least > self.claim.z * self.stderr


def put_to_test(claim: Claim, left: Measurement, right: Measurement) -> Finding:
    """Compare in pairs where both were measured on the same problems; else treat the two as independent.

    Example: values (1, 0, 1, 1) and (0, 0, 1, 0) differ by 1, 0, 0, 1: 0.5 with standard error 0.2887.
    """
    if left.values_P and len(left.values_P) == len(right.values_P):
        pairs = [a - b for a, b in zip(left.values_P, right.values_P, strict=True)]
        difference, stderr = mean_and_stderr([d for d in pairs if not math.isnan(d)])
    else:
        difference = left.value - right.value
        stderr = math.hypot(*(0.0 if m.stderr == 0 else m.stderr for m in (left, right)))
    return Finding(claim, left, right, difference, stderr)


def measure(text: str, folders: Mapping[str, Path]) -> Measurement:
    """The number that "@stage:metric" or a plain number names. Raises BadInput when the stage did not measure it."""
    ref = Reference.parse(text)
    if ref is None:
        try:
            return Measurement(float(text), 0.0)
        except ValueError:
            raise BadInput(f"claim: {text!r} is neither a number nor @stage:metric") from None
    name = _current_name(ref.metric)
    of_rewards = _file(ref, folders, "held_out")
    if of_rewards:
        return _of_reward_model(HeldOut.read(of_rewards), name, text)
    file = _file(ref, folders, "evals")
    if file is None:
        raise BadInput(f"claim: stage {ref.stage} has no evaluation; set its evaluation.data")
    return _of_result(EvalResult.read(file), name, text)


def refuse_unmeasured(claims: Sequence[Claim], stages: Mapping[str, Stage]) -> None:
    """Raise BadInput for a claim about a metric that its stage will not measure. stages: by name."""
    for text in (side for claim in claims for side in (claim.left, claim.right)):
        ref = Reference.parse(text)
        if ref is None:
            continue
        known = stages[ref.stage].measures()
        if _current_name(ref.metric) not in known:
            there = f"it measures {', '.join(sorted(known))}" if known else "set its evaluation.data"
            raise BadInput(f"{text}: stage {ref.stage} does not measure that; {there}")


def _current_name(metric: str) -> str:
    """ "before/unjudged" -> "without_verdict"."""
    name = metric.removeprefix(BEFORE)
    return NEW_NAMES.get(name, name)


def _file(ref: Reference, folders: Mapping[str, Path], kind: str) -> Path | None:
    """The stage's last evaluation file, or its first for "before/"."""
    files = sorted((folders[ref.stage] / kind).glob("step_*.json"))
    return (files[0] if ref.metric.startswith(BEFORE) else files[-1]) if files else None


def _of_reward_model(result: HeldOut, name: str, text: str) -> Measurement:
    if name == "accuracy":
        return Measurement(result.accuracy, result.stderr)
    known = result.metrics()
    if name not in known:
        raise BadInput(f"claim: {text}: not measured; there are {', '.join(sorted(known))}")
    return Measurement(known[name])


def _of_result(result: EvalResult, name: str, text: str) -> Measurement:
    if name == "pass@1":
        return Measurement(result.pass_at_1, result.stderr, tuple(result.correct_P))
    if name in ("cons", f"cons@{result.samples}") and result.cons is not None:
        stderr = math.nan if result.cons_stderr is None else result.cons_stderr
        return Measurement(result.cons, stderr, tuple(result.cons_P))
    if chosen_P := result.chosen_P(name):
        return Measurement(*mean_and_stderr(chosen_P), tuple(chosen_P))
    if name.removeprefix("pass@") in result.pass_at:
        return Measurement(*result.pass_at[name.removeprefix("pass@")])
    known = result.metrics()
    if name not in known:
        raise BadInput(f"claim: {text}: not measured; there are {', '.join(sorted(known))}")
    value = known[name]
    values_P = {
        "format_share": result.format_P,
        "language": result.language_P,
        "thought/length_mean": result.thought_P,
        "answer/length_mean": [a - b for a, b in zip(result.length_P, result.thought_P, strict=True)],
        "rollout/length_mean": result.length_P,
    }.get(name)
    if values_P:
        return Measurement(value, mean_and_stderr(values_P)[1], tuple(values_P))
    count = len(result.correct_P) * max(1, result.samples)
    # A share of samples: the binomial error over all of them. Samples of one problem are alike, so it is a bit small.
    stderr = math.sqrt(value * (1 - value) / count) if name.endswith("_share") and 0 <= value <= 1 else math.nan
    return Measurement(value, stderr)


def compare(folder: Path, claims: Sequence[Claim], folders: Mapping[str, Path]) -> Path:
    """Test every claim; write claims.json and claims.txt into folder and print the tables. Returns claims.json."""
    findings = [put_to_test(c, measure(c.left, folders), measure(c.right, folders)) for c in claims]
    tree = [
        {
            "claim": f.claim.text,
            "left": {"name": f.claim.left, "value": _number(f.left.value), "stderr": _number(f.left.stderr)},
            "right": {"name": f.claim.right, "value": _number(f.right.value), "stderr": _number(f.right.stderr)},
            "difference": _number(f.difference),
            "stderr": _number(f.stderr),
            "z": f.claim.z,
            "at_least": f.claim.at_least,
            "holds": f.holds,
        }
        for f in findings
    ]
    tables = [evaluations_table(_evaluations(claims, folders)), claims_table(findings)]
    text = io.StringIO()
    Console(file=text, width=120).print(*tables)
    Console().print(*tables)
    write_whole(folder / "claims.txt", text.getvalue())
    write_json(folder / "claims.json", tree)
    return folder / "claims.json"


def read_findings(path: Path) -> list[Finding]:
    """What compare wrote into claims.json. Raises BadInput for a damaged file."""
    return read_json(path, lambda tree: [_finding(item) for item in tree], RUN_STAGE_AGAIN)


def _finding(item: Mapping[str, object]) -> Finding:
    def number(value: object) -> float:
        return math.nan if value is None else float(str(value))

    def side(name: str) -> tuple[str, Measurement]:
        tree = item[name]
        if not isinstance(tree, dict):
            raise TypeError(name)
        return str(tree["name"]), Measurement(number(tree["value"]), number(tree["stderr"]))

    (left_name, left), (right_name, right) = side("left"), side("right")
    claim = Claim(str(item["claim"]), left_name, right_name, number(item["at_least"]), number(item["z"]))
    return Finding(claim, left, right, number(item["difference"]), number(item["stderr"]))


def _evaluations(claims: Sequence[Claim], folders: Mapping[str, Path]) -> dict[str, EvalResult]:
    """Every evaluation that a claim reads, in the order of the stages."""
    refs = [ref for c in claims for text in (c.left, c.right) if (ref := Reference.parse(text))]
    out: dict[str, EvalResult] = {}
    for stage in folders:
        for ref in sorted((r for r in refs if r.stage == stage), key=lambda r: not r.metric.startswith(BEFORE)):
            if file := _file(ref, folders, "evals"):
                out[stage + (", before" if ref.metric.startswith(BEFORE) else "")] = EvalResult.read(file)
    return out


def evaluations_table(results: Mapping[str, EvalResult]) -> Table:
    """Accuracy beside the lengths that it costs."""
    columns = ("pass@1", "form", "language", "thought", "answer", "cut off")
    table = Table(
        Column("evaluation", overflow="fold"), *(Column(c, justify="right", no_wrap=True) for c in columns),
        title="Evaluations", caption="Thought and answer are tokens, the rest percent.",
    )  # fmt: skip
    for name, r in results.items():
        shares = [_percent(r.format), _percent(r.language)]
        lengths = ["" if n is None else f"{n:.1f}" for n in (r.thought_mean, r.answer_mean)]
        accuracy = _percent(r.pass_at_1) + ("" if math.isnan(r.stderr) else f" ± {100 * r.stderr:.1f}")
        table.add_row(name.removeprefix("eval_"), accuracy, *shares, *lengths, _percent(r.truncated))
    return table


def claims_table(findings: Sequence[Finding]) -> Table:
    """The table that ends a run of the whole recipe."""
    usual = Claim()
    table = Table(
        "claim", *(Column(c, justify="right", no_wrap=True) for c in ("measured", "against", "difference")), "held",
        title="Claims", show_lines=True,
        caption=f"Percent, or tokens. A claim holds if the difference is {_wanted(usual)}, or as it says.",
    )  # fmt: skip
    for f in findings:
        own = "" if _wanted(f.claim) == _wanted(usual) else f"\n(wanted: {_wanted(f.claim)})"
        held = "yes" if f.holds else "not known: no standard error" if math.isnan(f.stderr) else "NO"
        scale = scale_of(f.claim)
        difference = _shown(Measurement(f.difference, f.stderr), scale, "+")
        table.add_row(f.claim.text + own, _shown(f.left, scale), _shown(f.right, scale), difference, held)
    return table


def scale_of(claim: Claim) -> int:
    """100 for shares, which are shown in percent; 1 for lengths, which are tokens."""
    return 1 if claim.left.endswith("length_mean") else 100


def _wanted(claim: Claim) -> str:
    return f"more than {scale_of(claim) * claim.at_least:g} by {claim.z:g} standard errors"


def _shown(m: Measurement, scale: int, sign: str = "") -> str:
    """Share 0.75 with standard error 0.0348 -> "75.0 ± 3.5"."""
    error = "" if math.isnan(m.stderr) or m.stderr == 0 else f" ± {scale * m.stderr:.1f}"
    return f"{scale * m.value:{sign}.1f}{error}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
