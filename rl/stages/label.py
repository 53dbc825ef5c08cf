"""Finds labels for the steps of a model's solutions without people: a step is as good as what follows from it.

The model completes each beginning of a solution several times; the label of the step at its end is the share of
completions that are right (Math-Shepherd, 2312.08935), or halving finds the first step from which none is (OmegaPRM,
2406.06592). The last step's label is whether the solution itself is right.

    labels.jsonl   one line per prompt: its labelled solutions, and how many were left out
    data.jsonl     one row per solution: the prompt's row, with "completions" (the steps) and "labels"
    labels.json    counts, and the tokens that the labels took

A line is written whole. After a kill, prompts that have a line are not sampled again.
Axis suffixes: _P prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.backend import SampleParams
from rl.config import DataConfig, LabelConfig, RewardConfig, RolloutConfig, knob
from rl.context import Context, StageRun, sample_seed
from rl.evaluation.continuing import Continuing
from rl.evaluation.search import Node
from rl.records.whole_files import append_lines, cut_partial_line, whole_lines, write_json, write_rows
from rl.rollouts.grading import sample_and_grade
from rl.rollouts.step_metrics import RewardStats
from rl.scoring.scorer import Scorer
from rl.scoring.step_ends import end_tokens, split_steps
from rl.stage import MAKES_DATA, Recipe, Stage
from rl.types import AhaError, Prompt, RewardReport, RolloutGroup, Row, Stopped, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label(Stage):
    """Labels for the steps of a model's solutions. Output: a dataset for RewardTraining of kind process."""

    model: str = knob("", "Model that writes and completes the solutions: id, folder or @stage.")
    prompts: DataConfig = knob(DataConfig, "Prompts to solve.")
    rewards: tuple[RewardConfig, ...] = knob((), "The first says which solutions are right.")
    rollout: RolloutConfig = knob(RolloutConfig, "How to sample.")
    label: LabelConfig = knob(LabelConfig, "How many, and by which method.")

    makes = frozenset({MAKES_DATA})
    counts_in = "labels.json"
    runs_model = True

    @property
    def samples_of(self) -> tuple[int, int]:
        return self.prompts.limit, self.label.samples

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if not self.rewards:
            yield "rewards: one must say which solutions are right, for example RewardConfig('accuracy')"
        if not self.label.step or "" in self.label.step:
            yield f"label.step={self.label.step}: name the texts that end a step"

    def run(self, at: StageRun) -> None:
        inputs = at.inputs
        assert inputs is not None
        assert inputs.scorer is not None
        label(at.ctx, inputs.model_path, inputs.prompts, inputs.scorer, self.label)


@dataclass(frozen=True, slots=True)
class Chain:
    """A solution. problem: the number of its prompt. ends: the token at which each step ends. right: the solution."""

    problem: int
    number: int
    token_ids: tuple[int, ...]
    steps: tuple[str, ...]
    ends: tuple[int, ...]
    right: bool


Beginning = tuple[int, int]
"""(number of the chain, how many of its steps)"""
Shares = Callable[[Sequence[Beginning]], list[float]]
"""For each beginning, the share of its completions that are right."""


def labels_of_each(chains: Sequence[Chain], shares: Shares, *, soft: bool) -> list[list[float]]:
    """A label for each step of each chain, from the completions of all beginnings at once.

    Shares .75 and 0 of the first two steps of a wrong solution of three -> [.75, 0, 0]; hard: [1, 0, 0]
    """
    asked = [(c, steps) for c, chain in enumerate(chains) for steps in range(1, len(chain.steps))]
    found = dict(zip(asked, shares(asked) if asked else [], strict=True))
    return [
        [
            float(chain.right) if steps == len(chain.steps) else found[c, steps] if soft else float(found[c, steps] > 0)
            for steps in range(1, len(chain.steps) + 1)
        ]
        for c, chain in enumerate(chains)
    ]


def labels_by_halving(chains: Sequence[Chain], shares: Shares) -> list[list[float]]:
    """1 before the first wrong step and 0 from it on: the first after which no completion is right. All 1 for a right
    solution. All chains halve together: log2(steps) calls.

    Of a wrong solution of 4 steps, the beginning of 2 has a right completion, that of 3 has none -> [1, 1, 0, 0]
    """
    good = {c: 0 for c, chain in enumerate(chains) if not chain.right}  # a prompt can be solved
    bad = {c: len(chains[c].steps) for c in good}
    while asked := [(c, (good[c] + bad[c]) // 2) for c in good if bad[c] - good[c] > 1]:
        for (c, steps), share in zip(asked, shares(asked), strict=True):
            if share > 0:
                good[c] = steps
            else:
                bad[c] = steps
    return [[float(c not in bad or steps < bad[c]) for steps in range(1, len(chain.steps) + 1)]
            for c, chain in enumerate(chains)]  # fmt: skip


class _Completing:
    """Completes beginnings with the samplers. tokens: sampled so far."""

    def __init__(self, ctx: Context, scorer: Scorer, cfg: LabelConfig, params: SampleParams) -> None:
        self._ctx, self._scorer, self._cfg, self._params = ctx, scorer, cfg, params
        self._samplers = Continuing(ctx, params, "label completions")
        self.decode = self._samplers.decode
        self.tokens = 0

    def shares(self, prompts_P: Sequence[Prompt], chains: Sequence[Chain], asked: Sequence[Beginning]) -> list[float]:
        """Shares: those without a verdict are left out; 0 where none has one."""
        nodes = []
        for c, steps in asked:
            chain = chains[c]
            ids = chain.token_ids[: chain.ends[steps - 1] + 1]
            nodes.append(Node(chain.problem, (chain.number, steps), ids, (1,) * len(ids), self.decode(ids)))
        children = self._samplers.sample(prompts_P, nodes, self._params, self._cfg.rollouts)
        waiting: list[Callable[[], RewardReport]] = []
        for node, own in zip(nodes, children, strict=True):
            self.tokens += sum(len(child.token_ids) - len(node.token_ids) for child in own)
            group = RolloutGroup(prompts_P[node.problem], [self._samplers.rollout(child) for child in own])
            waiting.append(self._ctx.backend.ask_rewards(group, self._scorer.applying(group.prompt)[:1]))
        return [
            _share([v for parts in result().parts_G for v in (p.verdict for p in parts.values())]) for result in waiting
        ]


def _share(verdicts: Sequence[Verdict]) -> float:
    known = [verdict == Verdict.CORRECT for verdict in verdicts if verdict.is_valid]
    return sum(known) / len(known) if known else 0.0


def label(ctx: Context, model_path: str, prompts_P: Sequence[Prompt], scorer: Scorer, cfg: LabelConfig) -> Path:
    """Label the steps of cfg.samples solutions of each prompt. Returns data.jsonl. Resumes."""
    path = ctx.run_dir / "labels.jsonl"
    cut_partial_line(path)
    done = {int(line["prompt_id"]) for line in whole_lines(path)}
    missing_P = [p for p in prompts_P if p.id not in done]
    if done:
        log.info("resuming: the solutions of %d of %d prompts are labelled", len(done), len(prompts_P))
    if missing_P:
        ctx.load_to_sample(model_path)
        first = -(-len(done) // cfg.chunk_prompts)
        ctx.tracker.resume({"label": first})
        ctx.tracker.begin("label", first + -(-len(missing_P) // cfg.chunk_prompts), first)
        for number, at in enumerate(range(0, len(missing_P), cfg.chunk_prompts), first):
            with ctx.timed("rollout"):
                lines, metrics = _label_chunk(ctx, missing_P[at : at + cfg.chunk_prompts], scorer, cfg)
            append_lines(path, lines)
            ctx.tracker.step("label", number, metrics)
            if ctx.stop.requested and at + cfg.chunk_prompts < len(missing_P):
                raise Stopped(f"stopped after {len(done) + at + len(lines)} of {len(prompts_P)} prompts; the same "
                              "command goes on from there")  # fmt: skip
    return _write_rows(ctx.run_dir, path)


def _label_chunk(
    ctx: Context, prompts_P: Sequence[Prompt], scorer: Scorer, cfg: LabelConfig
) -> tuple[list[dict[str, object]], dict[str, float]]:
    """(a line for each prompt, the chunk's numbers)."""
    roll = ctx.cfg.rollout
    params = ctx.sample_params(temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens)
    seeds_PG = [[sample_seed(ctx.cfg.seed, "label", p.id, i) for i in range(cfg.samples)] for p in prompts_P]
    stats = RewardStats()
    graded_P = sample_and_grade(ctx, scorer, prompts_P, seeds_PG, params, stats)
    scorer.stop_if_silent(graded_P)
    completing = _Completing(ctx, scorer, cfg, params)
    chains: list[Chain] = []
    left_out = [0] * len(prompts_P)
    for p, graded in enumerate(graded_P):
        reward = next(iter(scorer.applying(graded.group.prompt)), "")
        for number, (rollout, parts) in enumerate(zip(graded.group.rollouts_G, graded.parts_G, strict=True)):
            ids = tuple(int(i) for i in rollout.token_ids_T)
            ids = ids[:-1] if ids and ids[-1] in params.stop_token_ids else ids
            steps = split_steps(completing.decode(ids), cfg.step)
            if rollout.truncated or not parts[reward].verdict.is_valid or not 0 < len(steps) <= cfg.max_steps:
                left_out[p] += 1
                continue
            ends = tuple(end_tokens(ids, completing.decode, steps))
            chains.append(Chain(p, number, ids, tuple(steps), ends, parts[reward].verdict == Verdict.CORRECT))

    def shares(asked: Sequence[Beginning]) -> list[float]:
        return completing.shares(prompts_P, chains, asked)

    found = labels_of_each(chains, shares, soft=cfg.soft) if cfg.method == "each" else labels_by_halving(chains, shares)
    lines = [_line(ctx, prompt, left_out[p]) for p, prompt in enumerate(prompts_P)]
    for chain, labels in zip(chains, found, strict=True):
        solutions = lines[chain.problem]["solutions"]
        assert isinstance(solutions, list)
        solutions.append({"steps": list(chain.steps), "labels": labels, "right": chain.right})
    share = sum(chain.right for chain in chains) / len(chains) if chains else 0.0
    drawn = sum(r.num_sampled for g in graded_P for r in g.group.rollouts_G)
    for line in lines:
        line["tokens"] = (completing.tokens + drawn) / len(lines)
    return lines, {"right_share": share, "rollout/tokens": float(completing.tokens + drawn)} | stats.metrics()


def _line(ctx: Context, prompt: Prompt, left_out: int) -> dict[str, object]:
    row = prompt.row | {"prompt": prompt.row[ctx.cfg.prompts.prompt_field]}
    return {"prompt_id": prompt.id, "row": row, "left_out": left_out, "solutions": []}


def _write_rows(folder: Path, path: Path) -> Path:
    """Write data.jsonl and labels.json from labels.jsonl, by prompt. Raises AhaError without a row."""
    counts = {"prompts": 0, "solutions": 0, "left_out": 0, "steps": 0, "right_solutions": 0}
    total, tokens = 0.0, 0.0
    rows: list[Row] = []
    for line in sorted(whole_lines(path), key=lambda line: int(line["prompt_id"])):
        counts["prompts"] += 1
        counts["left_out"] += line["left_out"]
        tokens += line["tokens"]
        for one in line["solutions"]:
            rows.append(line["row"] | {"completions": one["steps"], "labels": one["labels"]})
            counts["solutions"] += 1
            counts["steps"] += len(one["steps"])
            counts["right_solutions"] += one["right"]
            total += sum(one["labels"])
    if not rows:
        raise AhaError(
            f"{path}: no solution of {counts['prompts']} prompts could be labelled ({counts['left_out']} were cut, had "
            "too many steps, or no verdict); raise rollout.max_new_tokens or label.max_steps"
        )
    write_rows(folder / "data.jsonl", rows)
    write_json(folder / "labels.json", {**counts, "mean_label": total / counts["steps"], "tokens": tokens})
    log.info("%d steps of %d solutions are labelled, %d left out", counts["steps"], len(rows), counts["left_out"])
    return folder / "data.jsonl"
