"""From rows of preference data to what a reward model learns from: question and response as tokens, paired or labelled.

A row holds either a question with a chosen and a rejected response, or a question with one response and its label.
Training and scoring make the same tokens (rl/scoring/reward_model_text.py). The score is read at one token of each
response.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rl.config import LearnerConfig, RewardTrainConfig
from rl.data.packing import Packable, schedule
from rl.data.row_store import select
from rl.data.rows import load_rows, place
from rl.data.step_labels import LabelledSteps, encode_labelled
from rl.data.streams import Stream
from rl.data.templates import Where, refuse_half_character
from rl.scoring.reward_model_text import Encoder, read_part, scored_position
from rl.types import BadInput, PackedBatch, Row

log = logging.getLogger(__name__)

OPENED = "thinking_opened"
"""Column that is true where the prompt ended in <think>, so that the responses begin inside the thinking."""
GOOD, BAD = 1.0, 0.0


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """Question and response, int32 (T,), up to the token where the score is read. label: 1 good (chosen), 0 bad."""

    token_ids: np.ndarray
    label: float


Unit = tuple[LabelledResponse, ...] | tuple[LabelledSteps]
"""The responses of one term of the loss: (chosen, rejected), one labelled response, or one with labelled steps."""


@dataclass
class EncodedPreferences:
    """Rows as units. cut: responses that were too long and lost their end. dropped: reason -> rows left out."""

    units: list[Unit] = field(default_factory=list)
    rows: Sequence[Row] = ()
    cut: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class PreferenceStream(Stream[Unit]):
    """Units in a seeded order. The fingerprint in its cursor is that of the rows."""

    def __init__(self, encoded: EncodedPreferences, seed: int, shuffle: bool = True) -> None:
        super().__init__(encoded.rows, seed, shuffle)
        self._units = encoded.units

    def _item(self, index: int, draw: int) -> Unit:
        return self._units[index]


def load_preferences(
    cfg: RewardTrainConfig, encoder: Encoder, padding: int | None, seed: int
) -> tuple[EncodedPreferences, EncodedPreferences]:
    """(rows to train on, held-out rows). No question is in both, unless cfg.eval_data repeats questions.

    padding: the model's padding token (rl.scoring.reward_model_text.padding_token). Raises BadInput when a row lacks a
    column, or when one of the two is empty.
    """
    rows = load_rows(cfg.data)
    if cfg.eval_data.source:
        train, held_out = rows, load_rows(cfg.eval_data)
    else:
        questions = [_text(cfg, row, cfg.data.prompt_field, i) for i, row in enumerate(rows)]
        kept_back = _held_out(questions, cfg.held_out_share, seed)
        train = select(rows, [i for i, question in enumerate(questions) if question not in kept_back])
        held_out = select(rows, [i for i, question in enumerate(questions) if question in kept_back])
    sides = encode(train, cfg, encoder, padding), encode(held_out, cfg, encoder, padding)
    for side, name in zip(sides, ("to train on", "held out"), strict=True):
        if not side.units:
            lost = ", ".join(f"{count} {reason}" for reason, count in side.dropped.items()) or "there is none"
            raise BadInput(f"{cfg.data.source}: no row {name} of {len(rows)} ({lost})")
        for reason, count in side.dropped.items():
            log.warning("%d rows %s left out: %s", count, name, reason)
        if side.cut:
            log.warning("%d responses %s lost their end (reward.max_tokens=%d)", side.cut, name, encoder.max_tokens)
    return sides


def _held_out(questions: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the questions, at least one: those with the lowest hashes. All rows of a question stay together."""
    distinct = sorted(set(questions), key=lambda q: hashlib.sha256(f"{seed} {q}".encode()).digest())
    return set(distinct[: max(1, round(share * len(distinct)))])


def encode(rows: Sequence[Row], cfg: RewardTrainConfig, encoder: Encoder, padding: int | None) -> EncodedPreferences:
    """The rows' units, each response as the reward model will see it when it scores.

    scores=summary takes what follows the thinking, which is an empty text where the thinking never ends.
    """
    out, kept = EncodedPreferences(), list[int]()
    for i, row in enumerate(rows):
        question = _text(cfg, row, cfg.data.prompt_field, i)
        if cfg.kind == "process":
            steps = encode_labelled(row, question, cfg, encoder, i)
            if steps is None:
                _count(out, "there is no step to read, or the question alone fills reward.max_tokens")
                continue
            out.units.append((steps,))
            kept.append(i)
            out.cut += steps.cut
            continue
        if cfg.kind == "pairwise":
            texts = [(_text(cfg, row, cfg.chosen_field, i), GOOD), (_text(cfg, row, cfg.rejected_field, i), BAD)]
        else:
            texts = [(_text(cfg, row, cfg.response_field, i), _label(cfg, row, i))]
        opened = bool(row.get(OPENED))
        found = [(encoder.encode(question, read_part(t, cfg.scores, opened)), label) for t, label in texts]
        unit: tuple[LabelledResponse, ...] = tuple(
            _labelled(e.token_ids, padding, label) for e, label in found if e is not None
        )
        if len(unit) < len(found):
            _count(out, "the question alone fills reward.max_tokens")
        elif min(len(s.token_ids) for s in unit) < 2:
            _count(out, "there is nothing to read")
        elif cfg.kind == "pairwise" and np.array_equal(unit[0].token_ids, unit[1].token_ids):
            _count(out, "both responses are the same tokens")
        else:
            out.units.append(unit)
            kept.append(i)
            out.cut += sum(e.cut for e, _ in found if e is not None)
    out.rows = select(rows, kept)
    return out


def _labelled(token_ids: Sequence[int], padding: int | None, label: float) -> LabelledResponse:
    return LabelledResponse(np.asarray(token_ids[: scored_position(token_ids, padding) + 1], np.int32), label)


def _count(out: EncodedPreferences, reason: str) -> None:
    out.dropped[reason] = out.dropped.get(reason, 0) + 1


def _text(cfg: RewardTrainConfig, row: Row, name: str, i: int) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadInput(f"{place(cfg.data.source, i)}: column {name!r} is missing or no text")
    refuse_half_character(value, Where(lambda: f"{place(cfg.data.source, i)}: column {name!r}"))
    return value


def _label(cfg: RewardTrainConfig, row: Row, i: int) -> float:
    value = row.get(cfg.label_field)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise BadInput(f"{place(cfg.data.source, i)}: column {cfg.label_field!r} is {value!r}, not true, false, 1 or 0")
    return float(value)


def pack_preferences(units: Sequence[Unit], *, learner: LearnerConfig, layout: str) -> PackedBatch:
    """The batch of one update, in which each unit weighs 1 / units. A pair stays in one micro-batch, chosen first.

    The mask is set at the tokens where a score is read; labels_T holds the labels there. The steps of a response share
    its weight, or long solutions would count more.
    Raises BadInput when a unit does not fit into learner.micro_batch_tokens.
    """
    packed = [[_packable(labelled, 1 / len(units)) for labelled in unit] for unit in units]
    budget = learner.micro_batch_tokens
    worst = max((len(unit) * max(map(len, unit)) for unit in packed), default=0)
    if worst > budget:
        raise BadInput(
            f"a unit of preference data has {worst} tokens, padding included, and learner.micro_batch_tokens={budget}; "
            "raise it, or lower reward.max_tokens"
        )
    return PackedBatch(
        micro_batches_R=schedule(packed, learner, layout),
        num_loss_tokens=sum(int(packable.loss_mask_T.sum()) for unit in packed for packable in unit),
        num_sequences=len(units),
    )


def _packable(labelled: LabelledResponse | LabelledSteps, weight: float) -> Packable:
    mask_T = np.zeros(len(labelled.token_ids), np.float32)
    if isinstance(labelled, LabelledSteps):
        mask_T[list(labelled.ends)] = 1
        labels = np.asarray(labelled.labels, np.float32)
        return Packable(labelled.token_ids, mask_T, weight / len(labels), label=labels)
    mask_T[-1] = 1
    return Packable(labelled.token_ids, mask_T, weight, label=labelled.label)
