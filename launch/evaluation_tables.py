"""The tables that `aha eval` prints."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from rl.config import EvalConfig
from rl.evaluation.metrics import mean_and_stderr, paired_difference
from rl.evaluation.result import EvalResult
from rl.evaluation.selection import parsed


def table(
    title: str, cfg: EvalConfig, metrics: dict[str, float], pass_at: dict[str, tuple[float, float]], stderr: float
) -> Table:
    """Every number, with its standard error over problems if it has one."""
    out = Table("", "%", title=title, title_justify="left", caption_justify="left")
    out.caption = (
        f"± one standard error over problems; {cfg.samples} samples at temperature {cfg.temperature:g}, "
        f"top-p {cfg.top_p:g}, at most {cfg.max_new_tokens:,} tokens"
    )
    if cfg.instruction:
        out.caption += escape(f"; after each question: {cfg.instruction}")
    out.columns[1].justify = "right"
    out.add_row("pass@1", _percent(metrics["pass@1"], stderr))
    for k, (mean, error) in pass_at.items():
        if k != "1":
            out.add_row(f"pass@{k}", _percent(mean, error))
    votes = f"cons@{cfg.samples}"
    if votes in metrics:
        out.add_row(f"{votes} (majority vote)", _percent(metrics[votes], metrics.get(f"{votes}/stderr")))
    for name, label in (("greedy", "greedy"), ("format_share", "in the right format"), ("truncated_share", "truncated"),
                        ("language", "words in the question's language")):  # fmt: skip
        if name in metrics:
            out.add_row(label, _percent(metrics[name], None))
    out.add_row(
        "tokens of thought / answer", f"{metrics['thought/length_mean']:.0f} / {metrics['answer/length_mean']:.0f}"
    )
    if metrics["without_verdict"]:
        out.add_row("samples without a verdict", f"{metrics['without_verdict']:.0f}")
    return out


def selection_table(result: EvalResult) -> Table | None:
    """What each way of choosing among all samples, and each search, scores, and its difference from the majority (for a
    search, at its tokens), in pairs over problems.

    None where the majority is the only way.
    """
    found = {name: values for name, values in result.selected.items() if parsed(name)[1] == result.samples}
    majority = found.get(f"cons@{result.samples}")
    if len(found) < 2 and not result.searched:
        return None
    against = "against majority"
    out = Table(
        "chosen by", "%", against, "tokens", title=f"One answer of {result.samples} samples", title_justify="left"
    )
    out.caption_justify = "left"
    out.caption = (
        "against majority: of all samples; of a search, at its tokens. tokens: of a problem, with the prompt and the "
        "scorer's work in tokens of this model"
    )
    for column in out.columns[1:]:
        column.justify = "right"
    for name, values_P in found.items():
        kind = parsed(name)[0]
        versus = majority is not None and name != f"cons@{result.samples}"
        difference = _percent(*paired_difference(majority or [], values_P), "+") if versus else ""
        cost = result.tokens_of(kind, result.samples)
        out.add_row(name, _percent(*mean_and_stderr(values_P)), difference, f"{cost:,.0f}")
    for label, searched in result.searched.items():
        own = result.chosen_P(f"search@{label}")
        at_its_tokens = result.chosen_P(f"cons@tokens:search@{label}") if majority else []
        difference = _percent(*paired_difference(at_its_tokens, own), "+") if at_its_tokens else ""
        out.add_row(f"search {label}", _percent(*mean_and_stderr(own)), difference,
                    f"{mean_and_stderr(searched['tokens'])[0]:,.0f}")  # fmt: skip
    return out


def _percent(value: float, error: float | None, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if error is not None and error == error else "")
