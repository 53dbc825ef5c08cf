"""From rows with labelled steps to what a process reward model learns from.

Columns as TRL's PRM trainer has them: prompt, completions (the steps), labels (one a step: true, false, or a share).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.config import RewardTrainConfig
from rl.data.rows import place
from rl.scoring.reward_model_text import Encoder
from rl.scoring.step_ends import encode_steps, joined
from rl.types import BadInput, Row


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """Question and response, int32 (T,), up to the end of the last step. ends: the token of each step's end. labels:
    how likely a solution that begins so is to become right, 0 to 1.
    """

    token_ids: np.ndarray
    ends: tuple[int, ...]
    labels: tuple[float, ...]
    cut: bool = False


def read_steps(row: Row, cfg: RewardTrainConfig, i: int) -> tuple[list[str], list[float]]:
    """(steps, labels) of row number i. Raises BadInput where a column is missing or of another kind."""
    where = place(cfg.data.source, i)
    steps, labels = row.get(cfg.steps_field), row.get(cfg.step_labels_field)
    if not isinstance(steps, list | tuple) or not steps or not all(isinstance(step, str) for step in steps):
        raise BadInput(f"{where}: column {cfg.steps_field!r} is missing or no list of texts, one for each step")
    if not isinstance(labels, list | tuple) or len(labels) != len(steps):
        count = len(labels) if isinstance(labels, list | tuple) else "none"
        raise BadInput(
            f"{where}: column {cfg.step_labels_field!r}: expected {len(steps)} labels, one a step, not {count}"
        )
    for label in labels:
        if not isinstance(label, bool | int | float) or not 0 <= label <= 1:
            raise BadInput(f"{where}: column {cfg.step_labels_field!r} holds {label!r}, not true, false or 0 to 1")
    return [str(step) for step in steps], [float(label) for label in labels]


def encode_labelled(row: Row, question: str, cfg: RewardTrainConfig, encoder: Encoder, i: int) -> LabelledSteps | None:
    """None where the question leaves no room for a step. Steps beyond max_tokens are left out. Raises BadInput."""
    steps, labels = read_steps(row, cfg, i)
    try:
        found = encode_steps(encoder, question, joined(steps, cfg.step_separator))
    except ValueError as error:
        raise BadInput(f"{place(cfg.data.source, i)}: {error}") from error
    if found is None:
        return None
    by_token = dict(zip(found.ends_K, labels, strict=False))  # two steps that end in one token have the later label
    ends = sorted(by_token)
    return LabelledSteps(
        np.asarray(found.encoded.token_ids[: ends[-1] + 1], np.int32),
        tuple(ends), tuple(by_token[end] for end in ends), found.encoded.cut,
    )  # fmt: skip


def first_error(labels: Sequence[float]) -> int | None:
    """The number of the first step that is more likely wrong than right; None where there is none. [1, .2, 0] -> 1"""
    return next((i for i, label in enumerate(labels) if label < 0.5), None)
