"""A process reward model asked: the probability of each step of a response, all in one forward pass.

Axis suffixes: _B rows of a batch, _K the steps of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from rl.scoring.reward_model_text import Encoder
from rl.scoring.step_ends import EncodedSteps, encode_steps, split_steps
from rl.types import BadInput

HEAD = "score"
"""Name of the scalar head in transformers' decoders for sequence classification."""


def step_probabilities(
    model: PreTrainedModel, encoder: Encoder, question: str, responses: Sequence[str], ends: Sequence[str],
    batch_tokens: int,
) -> list[list[float]]:  # fmt: skip
    """For each response, the probability that each of its steps is right; empty where it could not be read.

    One forward pass a response, whatever its steps. Similar lengths share a batch of at most batch_tokens tokens.
    """
    found = [encode_steps(encoder, question, split_steps(response, ends)) for response in responses]
    order = sorted(
        (i for i, f in enumerate(found) if f is not None), key=lambda i: -len(_of(found[i]).encoded.token_ids)
    )
    out: list[list[float]] = [[] for _ in responses]
    while order:
        rows = max(1, batch_tokens // len(_of(found[order[0]]).encoded.token_ids))
        batch, order = order[:rows], order[rows:]
        for i, logits_K in zip(batch, _forward(model, [_of(found[i]) for i in batch]), strict=True):
            out[i] = [1 / (1 + math.exp(-max(logit, -700.0))) for logit in logits_K]
    return out


def _of(found: EncodedSteps | None) -> EncodedSteps:
    assert found is not None
    return found


@torch.inference_mode()
def _forward(model: PreTrainedModel, rows_B: Sequence[EncodedSteps]) -> list[list[float]]:
    """The logits at the ends of the steps of each row. Halved when memory runs out; NaN where one row is too large."""
    longest = max(len(row.encoded.token_ids) for row in rows_B)
    ids = torch.full((len(rows_B), longest), model.config.get_text_config().pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows_B):
        length = len(row.encoded.token_ids)
        ids[i, :length] = torch.tensor(row.encoded.token_ids)
        mask[i, :length] = 1
    try:
        hidden = model.base_model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))[0]
        logits = step_head(model)(hidden)[..., 0].float().cpu()
        return [[float(logits[i, at]) for at in row.ends_K] for i, row in enumerate(rows_B)]
    except torch.OutOfMemoryError:
        if len(rows_B) == 1:
            return [[math.nan] * len(rows_B[0].ends_K)]
    half = len(rows_B) // 2
    return _forward(model, rows_B[:half]) + _forward(model, rows_B[half:])


def step_head(model: PreTrainedModel) -> nn.Linear:
    """The head that is read at each step. Raises BadInput for a classifier that is not a decoder with one."""
    head = dict(model.named_children()).get(HEAD)
    if not isinstance(head, nn.Linear):
        raise BadInput(f"{type(model).__name__}: scores of steps need a decoder with a linear head {HEAD!r}")
    return head
