"""What a rank of test_dither.py does."""

from __future__ import annotations

import numpy as np
import torch
from deepspeed.utils import safe_get_full_fp32_param

from rl.backend import Task
from rl.config import OptimConfig, RunConfig
from rl.workers.learner.learner import Learner


def masters_of(rank: int, port: int, cfg: RunConfig, folder: str) -> dict[str, np.ndarray]:
    """Name -> float32 master copy of a model that was just loaded, checked to round to the weights that compute."""
    learner = Learner(cfg, rank, "cpu", 1)
    learner.connect("127.0.0.1", port)
    learner.load(Task(folder, OptimConfig(), 1))
    found = {}
    full = dict(learner.full_parameters())
    for name, parameter in learner.policy.hf.named_parameters():
        master = safe_get_full_fp32_param(parameter)
        assert torch.equal(master.to(torch.bfloat16), full[name].view_as(master)), name
        found[name] = master.numpy().copy()
    return found
