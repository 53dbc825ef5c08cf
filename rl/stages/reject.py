"""Rejection sampling: sample, reward, filter, keep. Every sample stays on disk with the reason why it was kept or not.

    samples.jsonl   one line per prompt: its samples, each with text, verdicts, and why it was kept or dropped
    data.jsonl      one row per kept sample: the prompt's row, with the sample as "target"
    yield.json      counts by reason, which add up to the samples; with a teacher, its tokens and their price
    answers.jsonl   with a teacher: each answer as it came (rl/rollouts/teacher.py)

A line is written whole. After a kill, prompts that have a line are not sampled again.
Axis suffixes: _P prompts, _G samples of a prompt.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rl.backend import RewardWorkers, SampleParams
from rl.config import (
    MODEL,
    AskConfig,
    DataConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TeacherConfig,
    knob,
)
from rl.context import Context, Inputs, StageRun, sample_seed
from rl.data import teacher_logprobs
from rl.data.few_shot import shot_stop
from rl.data.teacher_logprobs import vocabulary_hash
from rl.evaluation.selection import refuse_unknown_scorers
from rl.records.whole_files import append_lines, cut_partial_line
from rl.rollouts.grading import grade_arriving, sample_and_grade
from rl.rollouts.step_metrics import RewardStats
from rl.rollouts.teacher import Teacher, refuse_absent, spent, without_thought
from rl.scoring.routing import named
from rl.scoring.scorer import Scorer
from rl.stage import MAKES_DATA, MAKES_SAMPLES, Recipe, Stage
from rl.stages import search_source
from rl.stages.sample_files import PromptLine, SampleLine, read_samples, write_kept
from rl.stages.selection import filters_in_use, is_kept, sample_reasons, without_spacing
from rl.types import AhaError, GradedGroup, Prompt, Stopped

log = logging.getLogger(__name__)


ADDRESS = re.compile(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?")


@dataclass(frozen=True)
class Reject(Stage):
    """Rejection sampling. Output: a dataset of the samples kept, and every sample with the reason."""

    model: str = knob(
        "", "Model to sample from: id, folder or @stage. With reject.teacher: whose tokenizer and template are used."
    )
    prompts: DataConfig = knob(DataConfig, "Prompts to sample.")
    rewards: tuple[RewardConfig, ...] = knob((), "Rewards that the samples get; the first says which are correct.")
    rollout: RolloutConfig = knob(RolloutConfig, "How to sample.")
    reject: RejectConfig = knob(RejectConfig, "How many, and which are kept.")

    makes = frozenset({MAKES_DATA, MAKES_SAMPLES})
    counts_in = "yield.json"
    runs_model = True

    @property
    def uses_machines(self) -> bool:
        return not self.reject.teacher.url  # else the teacher's endpoint samples

    @property
    def hashed_base(self) -> tuple[str, ...]:
        return super().hashed_base if self.uses_machines else ("seed", "model")

    @property
    def asked_code(self) -> tuple[str, ...]:
        return filters_in_use(self.reject)

    @property
    def ask(self) -> AskConfig:
        return self.reject.ask

    @property
    def teacher(self) -> TeacherConfig:
        return self.reject.teacher

    @property
    def samples_of(self) -> tuple[int, int]:
        return self.prompts.limit, self.reject.samples

    def faults(self, recipe: Recipe) -> Iterator[str]:
        cfg = self.reject
        if not self.rewards:
            yield "rewards: at least one must say which samples are correct, for example RewardConfig('accuracy')"
        yield from search_source.faults(cfg)
        if cfg.teacher.url or cfg.teacher.model:
            yield from self._teacher_faults()
        if cfg.ask.shots and not cfg.ask.shots_data.source:
            yield f"reject.ask.shots={cfg.ask.shots}: name the rows to draw them from in reject.ask.shots_data.source"
        if cfg.ask.shots and cfg.top_logprobs:
            yield (
                "reject.top_logprobs: with reject.ask.shots a sample's text ends before its tokens do; use one of the "
                "two"
            )
        if cfg.top_logprobs and (self.rollout.temperature, self.rollout.top_p) != (1, 1):
            yield "reject.top_logprobs: students learn the distribution at rollout.temperature=1 and top_p=1; set both"

    def _teacher_faults(self) -> Iterator[str]:
        teacher = self.reject.teacher
        if not ADDRESS.fullmatch(teacher.url):
            yield f"reject.teacher.url={teacher.url}: expected an address, as https://host/v1"
        if not teacher.model:
            yield "reject.teacher.model: name the endpoint's model"
        if self.rollout.stop:
            yield "rollout.stop: an endpoint leaves the stop text out of its answer; set no stop text with a teacher"
        if self.reject.top_logprobs:
            yield "reject.top_logprobs: an endpoint's logprobs are not stored; sample a model of your own for them"
        models = [r.function for r in self.rewards if r.function.startswith(MODEL)]
        if models:
            yield f"rewards: {models[0]}: a reward model needs machines, which a stage with a teacher does not start"

    def check(self, recipe: Recipe, inputs: Inputs | None, cfg: RunConfig) -> None:
        refuse_unknown_scorers("reject.search", self.reject.search, list(named(self.rewards)))
        if not self.uses_machines:
            refuse_absent(self.reject.teacher)

    def run(self, at: StageRun) -> None:
        inputs = at.inputs
        assert inputs is not None
        assert inputs.scorer is not None
        if self.uses_machines:
            reject(at.ctx, inputs.model_path, inputs.prompts, inputs.scorer, self.reject)
            return
        with closing(at.make_local_rewards(at.ctx.cfg)) as reward_workers:
            reject(at.ctx, inputs.model_path, inputs.prompts, inputs.scorer, self.reject, reward_workers)


class KeptTexts:
    """What was kept so far of questions that stand in several rows, so that no text is kept for a question twice."""

    def __init__(self, questions_P: Iterable[str]) -> None:
        counts = Counter(map(without_spacing, questions_P))
        self._texts: dict[str, set[str]] = {question: set() for question, count in counts.items() if count > 1}

    def of(self, question: str) -> Set[str]:
        return self._texts.get(without_spacing(question), frozenset())

    def add(self, line: PromptLine) -> None:
        texts = self._texts.get(without_spacing(str(line["row"]["prompt"])))
        if texts is not None:
            texts.update(without_spacing(s["text"]) for s in line["samples"] if is_kept(s["reason"]))


class Source(Protocol):
    """What samples: Aha's own samplers, or a teacher's endpoint."""

    def sample(
        self, prompts_P: Sequence[Prompt], seeds_PG: Sequence[list[int]], params: SampleParams, stats: RewardStats
    ) -> list[GradedGroup]:
        """A graded group for each prompt, in order."""

    def failures(self, prompt: Prompt) -> Sequence[str]:
        """The reasons why samples of the prompt are missing from its group, one text each."""


class _Samplers:
    """Aha's own samplers with the model at model_path. ends: texts that end a sample and are not part of it."""

    def __init__(self, ctx: Context, model_path: str, scorer: Scorer, ends: tuple[str, ...]) -> None:
        self._ctx, self._scorer, self._ends = ctx, scorer, ends
        ctx.load_to_sample(model_path)

    def sample(
        self, prompts_P: Sequence[Prompt], seeds_PG: Sequence[list[int]], params: SampleParams, stats: RewardStats
    ) -> list[GradedGroup]:
        params = replace(params, stop=(*params.stop, *self._ends))
        return sample_and_grade(self._ctx, self._scorer, prompts_P, seeds_PG, params, stats, ends=self._ends)

    def failures(self, prompt: Prompt) -> Sequence[str]:
        return ()


class _TeacherEndpoint:
    """A teacher behind an endpoint, whose answers are rewarded on this machine."""

    def __init__(self, teacher: Teacher, reward_workers: RewardWorkers, scorer: Scorer) -> None:
        self._teacher, self._reward_workers, self._scorer = teacher, reward_workers, scorer

    def sample(
        self, prompts_P: Sequence[Prompt], seeds_PG: Sequence[list[int]], params: SampleParams, stats: RewardStats
    ) -> list[GradedGroup]:
        arriving = self._teacher.rollouts(prompts_P, seeds_PG, params)
        return grade_arriving(self._reward_workers, self._scorer, prompts_P, arriving, stats)

    def failures(self, prompt: Prompt) -> Sequence[str]:
        return self._teacher.failures.get(prompt.id, ())


def reject(
    ctx: Context,
    model_path: str,
    prompts_P: Sequence[Prompt],
    scorer: Scorer,
    cfg: RejectConfig,
    reward_workers: RewardWorkers | None = None,
) -> Path:
    """Sample cfg.samples completions of each prompt and keep the good ones. Returns data.jsonl. Resumes.

    reward_workers: asks the rewards where cfg.teacher is sampled; no machine of ours is used then.
    """
    path = ctx.run_dir / "samples.jsonl"
    cut_partial_line(path)
    done: set[int] = set()
    kept = KeptTexts(str(p.row[ctx.cfg.prompts.prompt_field]) for p in prompts_P)
    for line in read_samples(path):
        done.add(line["prompt_id"])
        kept.add(line)
    missing_P = [p for p in prompts_P if p.id not in done]
    if done:
        log.info("resuming: %d of %d prompts are sampled", len(done), len(prompts_P))
    if missing_P:
        source: Source
        if cfg.teacher.url:
            assert reward_workers is not None
            source = _TeacherEndpoint(Teacher(ctx, cfg.teacher, {p.id for p in missing_P}), reward_workers, scorer)
        elif cfg.search:
            source = search_source.SearchSource(ctx, model_path, scorer, cfg.search[0], shot_stop(cfg.ask))
        else:
            source = _Samplers(ctx, model_path, scorer, shot_stop(cfg.ask))
        first = -(-len(done) // cfg.chunk_prompts)
        ctx.tracker.resume({"reject": first})
        ctx.tracker.begin("reject", first + -(-len(missing_P) // cfg.chunk_prompts), first)
        _sample_missing(ctx, missing_P, len(prompts_P), scorer, source, cfg, path, kept)
    if not cfg.teacher.url:
        return write_kept(ctx.run_dir)
    return write_kept(ctx.run_dir, spent(cfg.teacher, ctx.run_dir), without_thought(ctx.run_dir))


def _sample_missing(
    ctx: Context,
    missing_P: Sequence[Prompt],
    total: int,
    scorer: Scorer,
    source: Source,
    cfg: RejectConfig,
    path: Path,
    kept: KeptTexts,
) -> None:
    roll, seed = ctx.cfg.rollout, ctx.cfg.seed
    params = ctx.sample_params(temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens)
    params = replace(params, top_logprobs=cfg.top_logprobs)
    vocabulary = vocabulary_hash(ctx.tokenizer) if cfg.top_logprobs else ""
    for at in range(0, len(missing_P), cfg.chunk_prompts):
        chunk_P = missing_P[at : at + cfg.chunk_prompts]
        seeds_PG = [[sample_seed(seed, "reject", p.id, i) for i in range(cfg.samples)] for p in chunk_P]
        stats = RewardStats()
        with ctx.timed("rollout"):
            graded_P = source.sample(chunk_P, seeds_PG, params, stats)
        scorer.stop_if_silent([g for g in graded_P if g.group.rollouts_G])
        field = ctx.cfg.prompts.prompt_field
        lines = [_line(g, scorer, cfg, field, source.failures(g.group.prompt), kept) for g in graded_P]
        if cfg.top_logprobs:
            for line, graded in zip(lines, graded_P, strict=True):
                _add_cached(line, graded, vocabulary)
        append_lines(path, lines)
        samples = [s for line in lines for s in line["samples"]]
        share = sum(is_kept(s["reason"]) for s in samples) / len(samples)
        first = total - len(missing_P) + at
        tokens = float(sum(s["tokens"] for s in samples))
        ctx.tracker.step(
            "reject",
            -(-first // cfg.chunk_prompts),
            {"kept_share": share, "rollout/tokens": tokens} | stats.metrics(),
        )
        if ctx.stop.requested and at + cfg.chunk_prompts < len(missing_P):
            raise Stopped(
                f"stopped after {first + len(chunk_P)} of {total} prompts; the same command goes on from there"
            )


def _line(
    graded: GradedGroup, scorer: Scorer, cfg: RejectConfig, prompt_field: str, failures: Sequence[str], kept: KeptTexts
) -> PromptLine:
    """The group's line for samples.jsonl. Adds what is kept to `kept`."""
    prompt, rollouts_G = graded.group.prompt, graded.group.rollouts_G
    before = kept.of(str(prompt.row[prompt_field]))
    reasons_G = sample_reasons(graded, next(iter(scorer.applying(prompt)), ""), cfg, before)
    samples: list[SampleLine] = [
        {
            "text": rollout.text.encode("utf-8", "replace").decode("utf-8"),
            "tokens": rollout.num_sampled,
            "finish_reason": rollout.finish_reason,
            "reward": reward if valid else None,
            "verdicts": {name: str(part.verdict) for name, part in parts.items()},
            "reason": reason,
        }
        for rollout, reward, valid, parts, reason in zip(
            rollouts_G, graded.rewards_G, graded.valid_G, graded.parts_G, reasons_G, strict=True
        )
    ]
    samples += [
        {
            "text": "",
            "tokens": 0,
            "finish_reason": "error",
            "reward": None,
            "verdicts": {},
            "reason": why,
        }
        for why in failures
    ]
    row = prompt.row | {"prompt": prompt.row[prompt_field]}
    line: PromptLine = {
        "prompt_id": prompt.id, "prompt": prompt.text, "answer": prompt.reference, "row": row, "samples": samples,
    }  # fmt: skip
    kept.add(line)
    return line


def _add_cached(line: PromptLine, graded: GradedGroup, vocabulary: str) -> None:
    """Add each token's top logprobs to the kept samples; as text they take about 14 bytes each."""
    for sample, rollout in zip(line["samples"], graded.group.rollouts_G, strict=True):
        if not is_kept(sample["reason"]):
            continue
        if rollout.top is None:
            raise AhaError(f"prompt {line['prompt_id']}: the sampler was asked for top logprobs and sent none")
        logprobs = [[round(float(x), 5) for x in row] for row in rollout.top.logprobs_NK]
        sample["cached"] = {
            teacher_logprobs.TARGET_IDS: rollout.token_ids_T.tolist(),
            teacher_logprobs.IDS: rollout.top.ids_NK.tolist(),
            teacher_logprobs.LOGPROBS: logprobs, teacher_logprobs.TOKENIZER: vocabulary,
        }  # fmt: skip
