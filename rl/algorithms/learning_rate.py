"""Learning-rate schedules, as a function of the update's number: a resumed run needs no state of its schedule."""

from __future__ import annotations

import math

from rl.config import OptimConfig


def learning_rate(cfg: OptimConfig, update: int, total_updates: int) -> float:
    """The learning rate of one update, numbered from 0.

    It rises linearly over the first warmup_steps updates, from lr / warmup_steps to lr. Then it is constant, or falls
    linearly or as a cosine to final_lr_share x lr at the last update (R1's SFT, V2 B.4.2: cosine to a tenth).

    Example: lr 1, cosine, share 0.1, no warm-up, 3 updates -> 1, 0.55, 0.1.
    """
    if update < cfg.warmup_steps:
        return cfg.lr * (update + 1) / cfg.warmup_steps
    if cfg.schedule == "constant":
        return cfg.lr
    span = max(1, total_updates - cfg.warmup_steps - 1)
    progress = min(1.0, (update - cfg.warmup_steps) / span)
    share = 1 - progress if cfg.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return cfg.lr * (cfg.final_lr_share + (1 - cfg.final_lr_share) * share)
