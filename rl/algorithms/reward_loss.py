"""The loss of a reward model, on pairs (Bradley-Terry), or on labelled responses or steps (binary cross-entropy).

Axis suffixes: _M scores of a micro-batch, _N pairs of it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Numbers = TypeVar("Numbers", np.ndarray, "Tensor")


def margins(scores_M: Numbers, labels_M: Numbers, kind: str) -> Numbers:
    """The margin of each unit of a micro-batch: chosen - rejected, or the score for label 1 and minus it for label 0.

    Scores [2, 1, 0, 3], pairwise -> [1, -3]; [2, 1], labels [1, 0], pointwise -> [2, -1]. Raises ValueError for
    another kind.
    """
    if kind == "pairwise":
        return scores_M[0::2] - scores_M[1::2]
    if kind in ("pointwise", "process"):
        return scores_M * (2 * labels_M - 1)
    raise ValueError(f"unknown reward loss {kind!r}")


def reward_loss(kind: str, scores_M: Tensor, labels_M: Tensor, weight_M: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metric sums). weight_M: 1 / rows of the update, so that its micro-batches' losses add up to the mean.

    pairwise: scores alternate, chosen then rejected; -log sigmoid(chosen - rejected), the negative log likelihood of a
    Bradley-Terry model (InstructGPT, 2203.02155 eq. 1; R1, Nature Methods). labels_M is not used.
    pointwise: -log sigmoid(score) where the label is 1, -log(1 - sigmoid(score)) where it is 0.
    process: the same at the end of each step, a label from 0 to 1 being the mean of the two by its share. weight_M:
    1 / (steps of the response x rows of the update), or long solutions would count more.

    Chosen 1, rejected 0 -> .31326; equal -> log 2; score 2 with label 0 -> 2.12693, label .25 -> 1.62693.
    Metrics are sums, to be divided by `tokens`, which counts rows (steps) here: accuracy (a tie is half right), margin.
    """
    margin_N = margins(scores_M.float(), labels_M, kind)
    weight_N = weight_M[0::2] if kind == "pairwise" else weight_M
    steps = kind == "process"
    nll_N = F.softplus(scores_M.float()) - labels_M * scores_M.float() if steps else -F.logsigmoid(margin_N)
    loss = (weight_N * nll_N).sum()
    margin_N = margin_N.detach()
    right_N = (margin_N > 0).float() + 0.5 * (margin_N == 0).float()
    rows = torch.tensor(float(len(margin_N)), device=scores_M.device)
    return loss, {"tokens": rows, "accuracy": right_N.sum(), "margin": margin_N.sum()}
