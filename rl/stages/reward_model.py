"""Trains a reward model, with the learners, the packing and the checkpoints of GRPO.

R1 (Nature 10.1038/s41586-025-09422-z, Methods): the helpful model on pairs, the safety model on labelled responses.

    model/                          the reward model, a Hugging Face sequence classifier with one logit
    held_out/step_NNNNNN.json       held-out accuracy after so many updates, with its standard error
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl.backend import Task
from rl.config import RewardTrainConfig, RunConfig, knob
from rl.context import Context, Inputs, StageRun
from rl.data.preference_pairs import EncodedPreferences, PreferenceStream, Unit, load_preferences, pack_preferences
from rl.data.step_labels import LabelledSteps, first_error
from rl.evaluation.decline import unpaired_decline
from rl.evaluation.metrics import mean_and_stderr
from rl.evaluation.step_accuracy import first_error_f1
from rl.records.tracker import stats_metrics
from rl.records.whole_files import RUN_STAGE_AGAIN, read_json, write_json
from rl.scoring.reward_model_text import Encoder, padding_token, token_limit
from rl.stage import MAKES_NUMBERS, MAKES_REWARD_MODEL, Recipe, Reference, Stage
from rl.types import AhaError, BadInput

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
EVAL_CHUNK = 512
"""Held-out rows sent to the learners at once."""


@dataclass(frozen=True)
class RewardTraining(Stage):
    """Training of a reward model on preference pairs or labels. Output: a reward model, and its held-out accuracy.

    A later stage's reward names it as "model:@stage". All its weights are trained: model.lora is for policies.
    """

    model: str = knob("", "Model to start from: id, folder or @stage.")
    reward: RewardTrainConfig = knob(RewardTrainConfig, "Rows, loss, steps, optimiser.")

    makes = frozenset({MAKES_REWARD_MODEL, MAKES_NUMBERS})
    runs_model = True

    @property
    def total_steps(self) -> tuple[str, int]:
        return "reward", self.reward.steps

    @property
    def evaluates_every(self) -> tuple[str, int]:
        return "reward.eval_every", self.reward.eval_every

    @property
    def reads(self) -> str:
        return self.reward.scores

    @property
    def scores_steps(self) -> bool:
        return self.reward.kind == "process"

    def faults(self, recipe: Recipe) -> Iterator[str]:
        cfg = self.reward
        if not cfg.data.source:
            yield "reward.data.source: no preference data"
        if not cfg.steps and not cfg.epochs:
            yield "reward.steps: set steps or epochs"
        if not cfg.eval_data.source and not cfg.held_out_share:
            yield "reward.held_out_share=0: accuracy needs held-out rows; or set reward.eval_data.source"

    def faults_after(self, earlier: Mapping[str, Stage]) -> Iterator[str]:
        ref = Reference.parse(self.reward.data.source)
        balanced = earlier[ref.stage].balances if ref is not None and ref.stage in earlier else ""
        if ref is not None and balanced and balanced != self.reward.scores:
            yield (
                f"reward.scores={self.reward.scores}: but @{ref.stage} balances the lengths of another part; set "
                f"{ref.stage}.prefer.scores={self.reward.scores}"
            )

    def check(self, recipe: Recipe, inputs: Inputs | None, cfg: RunConfig) -> None:
        if inputs is not None and not made_by_stages(self.reward):
            prepare_rows(self.reward, inputs.tokenizer, inputs.model_path, cfg.seed)

    def measures(self) -> set[str]:
        return set(HeldOut(0.0, 0.0, 0.0, 0.0, 0, 0.0 if self.reward.kind == "process" else None).metrics())

    def run(self, at: StageRun) -> None:
        assert at.inputs is not None
        data, held_out = at.resolved(self.reward.data), at.resolved(self.reward.eval_data)
        train_reward_model(at.ctx, at.inputs.model_path, replace(self.reward, data=data, eval_data=held_out))


def made_by_stages(cfg: RewardTrainConfig) -> bool:
    """Whether a stage of the recipe makes the data, so that they may not be there yet."""
    return any(data.source.startswith("@") for data in (cfg.data, cfg.eval_data))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How good a reward model is on held-out rows.

    accuracy: the share of pairs whose chosen response scores higher, a tie counting half (of labels: the share that the
    score's sign gives), as a mean over questions. stderr: its standard error over questions, because pairs of one
    question are alike. margin: the mean lead of the right side. loss: its mean, nats. rows: their number.
    first_error_f1: of a process reward model (rl/evaluation/step_accuracy.py); its other numbers are of steps.
    """

    accuracy: float
    stderr: float
    margin: float
    loss: float
    rows: int
    first_error_f1: float | None = None

    def metrics(self) -> dict[str, float]:
        """Flat, as metrics.jsonl has them."""
        out = {"accuracy": self.accuracy, "accuracy/stderr": self.stderr, "margin": self.margin, "nll": self.loss}
        out |= {} if self.first_error_f1 is None else {"first_error_f1": self.first_error_f1}
        return out | {"rows": float(self.rows)}

    def write(self, path: Path) -> None:
        write_json(path, asdict(self), indent=None)

    @staticmethod
    def read(path: Path) -> HeldOut:
        """Raises BadInput for a damaged file."""
        return read_json(path, lambda tree: HeldOut(**tree), RUN_STAGE_AGAIN)


def held_out_path(run_dir: Path, step: int) -> Path:
    """The file of the accuracy after `step` updates."""
    return run_dir / "held_out" / f"step_{step:06d}.json"


def prepare_rows(
    cfg: RewardTrainConfig, tokenizer: PreTrainedTokenizerBase, model_path: str, seed: int
) -> tuple[PreferenceStream, EncodedPreferences]:
    """(training rows, held-out rows) as tokens of the model. Raises BadInput for data that cannot be used."""
    from rl.model.pretrained import load_config  # loads torch, which a recipe's author need not wait for

    config = load_config(model_path)
    longest = min(cfg.max_tokens, token_limit(config, tokenizer))
    try:
        encoder = Encoder(tokenizer, longest, thinking=cfg.scores == "response")
    except BadInput as error:
        raise BadInput(f"model.path={model_path}: its chat template cannot show a response: {error}") from error
    train, held_out = load_preferences(cfg, encoder, padding_token(config, tokenizer), seed)
    return PreferenceStream(train, seed, cfg.data.shuffle), held_out


def train_reward_model(ctx: Context, model_path: str, cfg: RewardTrainConfig) -> Path:
    """Train from model_path and return the reward model's folder.

    Resumes from the newest checkpoint; does nothing when the folder is there. Raises AhaError when a held-out score is
    not finite. As in every stage, an update whose gradient is not finite is skipped and counted.
    """
    out = ctx.run_dir / "model"
    if out.is_dir():
        log.info("the reward model is trained already: %s", out)
        return out
    stream, held_out = prepare_rows(cfg, ctx.tokenizer, model_path, ctx.cfg.seed)
    total = cfg.total_steps(len(stream))
    log.info("%d rows to train on, %d held out, %d updates", len(stream), len(held_out.units), total)
    with ctx.timed("load"):
        fingerprint = ctx.backend.load(Task(model_path, cfg.optim, total, reward=cfg))
    start = ctx.resume("reward", fingerprint, stream, total)
    ctx.tracker.resume({"reward": start, "eval": start + 1 if start else 0})
    if not start:
        _measure(ctx, 0, held_out, cfg)
    ctx.tracker.begin("reward", total, start)
    for step in range(start, total):
        done = step + 1
        with ctx.timed("reward"):
            batch = pack_preferences(stream.take(cfg.rows_per_step), learner=ctx.cfg.learner, layout=ctx.backend.layout)
            metrics = stats_metrics(ctx.backend.step([batch]))
        metrics.pop("learner/tokens")  # it counts loss tokens, and this loss is over rows
        metrics |= {
            "tokens": float(sum(mb.num_tokens for rank in batch.micro_batches_R for mb in rank)),
            "epoch": done * cfg.rows_per_step / len(stream),
        }
        ctx.tracker.step("reward", step, metrics)
        if done == total or (cfg.eval_every and done % cfg.eval_every == 0):
            _measure(ctx, done, held_out, cfg)
        ctx.finish_step("reward", done, total, stream, fingerprint)
    ctx.export(out)
    return out


def _measure(ctx: Context, step: int, held_out: EncodedPreferences, cfg: RewardTrainConfig) -> HeldOut:
    with ctx.timed("evaluate"):
        result = held_out_accuracy(ctx, held_out, cfg)
    result.write(held_out_path(ctx.run_dir, step))
    ctx.tracker.step("eval", step, result.metrics())
    log.info(
        "held-out accuracy after %d updates: %.1f %% (standard error %.1f) of %d rows",
        step, 100 * result.accuracy, 100 * result.stderr, result.rows,
    )  # fmt: skip
    steps = sorted(int(file.stem.removeprefix("step_")) for file in held_out_path(ctx.run_dir, 0).parent.glob("step_*"))
    found = {at: HeldOut.read(held_out_path(ctx.run_dir, at)) for at in steps if at <= step}
    fall = unpaired_decline({at: (one.accuracy, one.stderr) for at, one in found.items()}, "reward.optim.lr")
    ctx.tracker.warn(str(fall) if fall else "")
    return result


def held_out_accuracy(ctx: Context, held_out: EncodedPreferences, cfg: RewardTrainConfig) -> HeldOut:
    """Measure the learners' current weights. Raises AhaError when a score is not finite."""
    from rl.algorithms.reward_loss import margins

    scores_U = _scores(ctx, held_out.units)
    if not all(np.isfinite(scores).all() for scores in scores_U):
        raise AhaError("a held-out score of the reward model is not finite; lower reward.optim.lr")
    labels_U = [_labels(unit) for unit in held_out.units]
    leads_U = [margins(scores, labels, cfg.kind) for scores, labels in zip(scores_U, labels_U, strict=True)]
    right: defaultdict[object, list[float]] = defaultdict(list)
    for row, leads in zip(held_out.rows, leads_U, strict=True):
        right[row[cfg.data.prompt_field]].append(float(np.mean((leads > 0) + 0.5 * (leads == 0))))
    accuracy, stderr = mean_and_stderr([float(np.mean(of_one)) for of_one in right.values()])
    found = None
    if cfg.kind == "process":
        losses = [np.logaddexp(0, scores) - labels * scores for scores, labels in zip(scores_U, labels_U, strict=True)]
        predicted = [first_error((1 / (1 + np.exp(-scores))).tolist()) for scores in scores_U]
        found = first_error_f1(predicted, [first_error(labels.tolist()) for labels in labels_U])
    else:
        losses = [np.logaddexp(0, -leads) for leads in leads_U]
    # The mean over rows, each the mean over what it has: one lead, or its steps.
    margin, loss = (float(np.mean([float(np.mean(of_one)) for of_one in of_all])) for of_all in (leads_U, losses))
    return HeldOut(accuracy, stderr, margin, loss, len(leads_U), found)


def _labels(unit: Unit) -> np.ndarray:
    """The labels of the scores that are read in a unit, in their order."""
    labels = [list(one.labels) if isinstance(one, LabelledSteps) else [one.label] for one in unit]
    return np.asarray([label for of_one in labels for label in of_one], np.float64)


def _scores(ctx: Context, units: Sequence[Unit]) -> list[np.ndarray]:
    """The scores that are read in each unit, float64, in their order. Packing reorders the units, so they are found by
    their tokens.
    """
    found: dict[bytes, np.ndarray] = {}
    for at in range(0, len(units), EVAL_CHUNK):
        batch = pack_preferences(units[at : at + EVAL_CHUNK], learner=ctx.cfg.learner, layout=ctx.backend.layout)
        scores_R = ctx.backend.scores(batch.micro_batches_R)
        for micro_batches, scores in zip(batch.micro_batches_R, scores_R, strict=True):
            for mb, scores_M in zip(micro_batches, scores, strict=True):
                texts_S = np.split(mb.token_ids_T, np.cumsum(mb.lengths_S)[:-1])
                scores_S = np.split(scores_M.astype(np.float64), np.cumsum(mb.completion_lengths_S)[:-1])
                size = len(units[0])
                for i in range(len(texts_S) // size):
                    texts, own = texts_S[size * i : size * (i + 1)], scores_S[size * i : size * (i + 1)]
                    found[_tokens(texts)] = np.concatenate(own)
    return [found[_tokens([labelled.token_ids for labelled in unit])] for unit in units]


def _tokens(texts: Sequence[np.ndarray]) -> bytes:
    return b"".join(len(text).to_bytes(8, "little") + text.astype(np.int64).tobytes() for text in texts)
