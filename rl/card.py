"""The model card: what a model was made from, how, and what was measured. From the run's own files."""

from __future__ import annotations

import json
from pathlib import Path

from rl import provenance
from rl.config import DataConfig, RunConfig
from rl.metrics import paired_difference
from rl.types import BadInput


def model_card(run: Path, cfg: RunConfig | None, name: str) -> str:
    """README.md for the Hub. run: the folder with resolved.json, summary.json or provenance.json, whatever there is."""
    chain = _chain(run)
    lines = [*_front_matter(cfg), f"# {name}", ""]
    if cfg is None and not chain:
        return "\n".join(
            [*lines, "Exported by Aha. How the model was trained is not known: its folder does not say.", ""]
        )
    if cfg is not None:
        lines += _made_from(cfg)
    lines += _measured(run)
    if cfg is not None:
        lines += _settings(cfg)
    if chain:
        lines += ["## Provenance", "", "```", provenance.told(chain), "```", ""]
    lines += _versions()
    return "\n".join(lines)


def _chain(run: Path) -> list[provenance.Record]:
    try:
        return provenance.read(run)
    except BadInput:  # a single run has none
        return []


def _front_matter(cfg: RunConfig | None) -> list[str]:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [reasoning, grpo, aha]"]
    if cfg is not None:
        if _is_hub_id(cfg.model.path):
            lines.append(f"base_model: {cfg.model.path}")
        sets = dict.fromkeys(d.source for d in (cfg.prompts, cfg.sft.data) if _is_hub_id(d.source))
        lines += ["datasets:", *(f"- {source}" for source in sets)] if sets else []
    return [*lines, "---", ""]


def _is_hub_id(source: str) -> bool:
    """ "openai/gsm8k" is one; a folder that is there, a path or a task in Python is none."""
    return source.count("/") == 1 and ":" not in source and source[0] not in "./~" and not Path(source).exists()


def _made_from(cfg: RunConfig) -> list[str]:
    g, s = cfg.grpo, cfg.sft
    steps = []
    if s.enabled:
        length = f"{s.steps} updates" if s.steps else f"{s.epochs:g} epochs"
        steps.append(f"supervised fine-tuning ({length} of {s.examples_per_step} examples)")
    if g.steps:
        steps.append(f"GRPO ({g.steps} steps of {g.prompts_per_step} prompts x {g.group_size} samples)")
    rewards = ", ".join(f"`{r.function}` x {r.weight:g}" for r in cfg.rewards) or "none"
    lines = [
        "## How it was made",
        "",
        f"- Base model: `{cfg.model.path}`",
        f"- Training: {' and then '.join(steps) or 'none'}",
    ]
    lines += [f"- Training prompts: {_data(cfg.prompts)}"] if cfg.prompts.source else []
    lines += [f"- Fine-tuning examples: {_data(s.data)}"] if s.enabled else []
    return [*lines, f"- Rewards: {rewards}", f"- Prompt template: {_template(cfg.prompts)}", f"- Seed: {cfg.seed}", ""]


def _data(data: DataConfig) -> str:
    where = f", {data.split}" if _is_hub_id(data.source) else ""
    return f"`{data.source}`{where}" + (f", the first {data.limit} rows" if data.limit else "")


def _template(data: DataConfig) -> str:
    return f"`{data.template}`" if "\n" not in data.template else "`" + data.template.replace("\n", "\\n") + "`"


def _measured(run: Path) -> list[str]:
    path = run / "summary.json"
    if path.is_file():
        summary = json.loads(path.read_text(encoding="utf-8"))
        before, after = summary.get("before"), summary.get("after")
        gain, error = summary.get("gain"), summary.get("gain_stderr")
    else:  # a stage keeps its evaluations alone
        found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((run / "evals").glob("step_*.json"))]
        before, after = ({"pass@1": e["pass_at_1"], **e} for e in (found[0], found[-1])) if len(found) > 1 else ({}, {})
        gain, error = paired_difference(before["correct_P"], after["correct_P"]) if before else (None, None)
    if not before or not after:
        return []
    rows = [("pass@1, sampled, ± standard error", *(_share(m["pass@1"], m["stderr"]) for m in (before, after)))]
    if before["greedy"] is not None and after["greedy"] is not None:
        rows.append(("greedy", *(_share(m["greedy"]) for m in (before, after))))
    lines = ["## Held-out accuracy", "", "| % | before | after |", "|---|---:|---:|"]
    lines += [f"| {label} | {first} | {second} |" for label, first, second in rows]
    told = f"Gain: {100 * gain:+.1f} points" + (f", standard error {100 * error:.1f}." if error else ".")
    return [*lines, "", told + " Measured on problems that were not trained on, before and after GRPO.", ""]


def _share(value: float, stderr: float | None = None) -> str:
    return f"{100 * value:.1f}" + (f" ± {100 * stderr:.1f}" if stderr is not None else "")


def _settings(cfg: RunConfig) -> list[str]:
    g = cfg.grpo
    lines = ["## Settings", ""]
    if g.steps:
        lines.append(
            f"GRPO: loss `{g.loss}`, advantage `{g.advantage}`, clip {g.clip_low:g}/{g.clip_high:g}, KL {g.kl_coef:g}, "
            f"learning rate {g.optim.lr:g}, {g.updates_per_step} updates per step; sampled at temperature "
            f"{cfg.rollout.temperature:g}, top-p {cfg.rollout.top_p:g}, up to {cfg.rollout.max_new_tokens} tokens."
        )
    if cfg.sft.enabled:
        lines.append(f"SFT: learning rate {cfg.sft.optim.lr:g}, {cfg.sft.optim.schedule}.")
    return [*lines, "", "All of them are in `resolved.json`; to run it again: `aha run resolved.json`.", ""]


def _versions() -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    commit = provenance.commit()
    return ["## Exported with", "", packages + (f"; Aha at commit {commit[:12]}" if commit else ""), ""]
