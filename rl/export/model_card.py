"""The model card: how a model was made, from what, and what was measured. All from the run's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.config import DataConfig, RunConfig
from rl.data.content_hash import path_hash
from rl.data.row_files import FILES
from rl.evaluation.metrics import paired_difference
from rl.records import provenance
from rl.records.whole_files import read_json
from rl.stage import Reference
from rl.types import BadInput

_LEARNT_FROM = re.compile(r"(prompts|sft\.data|reward\.data|mix\.parts\.\d+\.data)\.source")
"""Settings of a stage that name its training data or prompts, as opposed to what it is evaluated on."""


@dataclass(frozen=True)
class Origins:
    """Where a model comes from. base: the model it started from. hub: whether that is a Hub id. sets: Hub ids of its
    datasets. through: the records of the stages that trained its weights, the oldest first.
    """

    base: str
    hub: bool
    sets: Sequence[str]
    through: Sequence[provenance.Record] = ()


def model_card(run: Path, cfg: RunConfig | None, name: str) -> str:
    """README.md for the Hub. run: the folder with resolved.json, summary.json or provenance.json, if they exist."""
    chain = _chain(run)
    origins = _of_run(cfg) if cfg is not None else _of_stages(chain)
    lines = [*_front_matter(origins), f"# {name}", ""]
    if cfg is None and not chain:
        return "\n".join(
            [*lines, "Exported by Aha. How the model was trained is not known: its folder does not say.", ""]
        )
    lines += _made_from(cfg) if cfg is not None else _made_by_stages(chain, origins)
    lines += _measured(run)
    if cfg is not None:
        lines += _settings(cfg)
    if chain:
        lines += ["## Provenance", "", "```", provenance.describe(chain), "```", ""]
    lines += _versions()
    return "\n".join(lines)


def _chain(run: Path) -> list[provenance.Record]:
    try:
        return provenance.read(run)
    except BadInput:  # a run in one folder has none
        return []


def _front_matter(origins: Origins) -> list[str]:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [reasoning, grpo, aha]"]
    lines += [f"base_model: {origins.base}"] if origins.hub else []
    lines += ["datasets:", *(f"- {source}" for source in origins.sets)] if origins.sets else []
    return [*lines, "---", ""]


def _of_run(cfg: RunConfig) -> Origins:
    return Origins(cfg.model.path, _is_hub_id(cfg.model.path), _hub_ids(d.source for d in (cfg.prompts, cfg.sft.data)))


def _of_stages(chain: Sequence[provenance.Record]) -> Origins:
    """Follow the models back from the last stage. The datasets are those of all stages, because all made its data."""
    stages = {str(record["name"]): record for record in chain}
    base, hub, through = "", False, []
    record = chain[-1] if chain else None
    while record is not None:
        through.append(record)
        base = _texts(record, "config").get("model", "")
        # The hash of what it read tells a Hub id from a folder of that name that is not here now.
        hub = _is_hub_id(base) and _texts(record, "inputs").get(base) == path_hash(base)
        ref = Reference.parse(base)
        record = stages.get(ref.stage) if ref else None
    read = (v for r in chain for k, v in _texts(r, "config").items() if _LEARNT_FROM.fullmatch(k))
    return Origins(base, hub, _hub_ids(read), through[::-1])


def _texts(record: provenance.Record, name: str) -> dict[str, str]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _hub_ids(sources: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(source for source in sources if _is_hub_id(source)))


def _is_hub_id(source: str) -> bool:
    """Whether it is a Hub id such as "openai/gsm8k", and not an existing folder, a path, a file or a Python task."""
    if source.count("/") != 1 or ":" in source or source[0] in "./~@" or Path(source).suffix.lower() in FILES:
        return False
    return not Path(source).exists()


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


def _made_by_stages(chain: Sequence[provenance.Record], origins: Origins) -> list[str]:
    through = ", ".join(f"{record['name']} ({record['kind']})" for record in origins.through)
    lines = ["## How it was made", ""]
    lines += [f"- Base model: `{origins.base}`"] if origins.base else []
    lines += [f"- Its weights went through: {through}", f"- Stages behind it: {len(chain)}, listed under Provenance"]
    lines += [f"- Data sets of the Hub: {', '.join(f'`{s}`' for s in origins.sets)}"] if origins.sets else []
    return [*lines, f"- Seed: {chain[-1].get('seed')}", ""]


def _data(data: DataConfig) -> str:
    where = f", {data.split}" if _is_hub_id(data.source) else ""
    return f"`{data.source}`{where}" + (f", the first {data.limit} rows" if data.limit else "")


def _template(data: DataConfig) -> str:
    return f"`{data.template}`" if "\n" not in data.template else "`" + data.template.replace("\n", "\\n") + "`"


def _measured(run: Path) -> list[str]:
    path = run / "summary.json"
    if path.is_file():
        summary = read_json(path, dict)
        before, after = summary.get("before"), summary.get("after")
        gain, error = float(summary.get("gain") or 0.0), summary.get("gain_stderr")
    else:  # a stage has evaluations but no summary
        found = [read_json(p, dict) for p in sorted((run / "evals").glob("step_*.json"))]
        before, after = ({"pass@1": e["pass_at_1"], **e} for e in (found[0], found[-1])) if len(found) > 1 else ({}, {})
        gain, error = paired_difference(before["correct_P"], after["correct_P"]) if before else (0.0, None)
    if not before or not after:
        return []
    rows = [("pass@1, sampled, ± standard error", *(_share(m["pass@1"], m["stderr"]) for m in (before, after)))]
    if before["greedy"] is not None and after["greedy"] is not None:
        rows.append(("greedy", *(_share(m["greedy"]) for m in (before, after))))
    lines = ["## Held-out accuracy", "", "| % | before | after |", "|---|---:|---:|"]
    lines += [f"| {label} | {first} | {second} |" for label, first, second in rows]
    sentence = f"Gain: {100 * gain:+.1f} points" + (f", standard error {100 * error:.1f}." if error else ".")
    return [*lines, "", sentence + " Measured on problems that were not trained on, before and after GRPO.", ""]


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
