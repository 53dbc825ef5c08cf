"""What a metric is called on a dashboard, W&B's or Prometheus': the panel group, then its name."""

from __future__ import annotations

GROUPS = (
    ("reward", ("reward/", "accuracy")),
    ("rollout", ("rollout/", "samples/", "groups/", "emergence/", "queue/")),
    ("policy", ("policy/", "entropy", "kl", "ratio", "max/ratio", "clip_share", "importance", "gap/", "max/gap")),
    ("learner", ("loss", "grad_norm", "lr", "updates", "learner/", "max/", "nll")),
    ("time", ("seconds", "tokens_per_second")),
    ("data", ("batch/", "tokens", "data/")),
    ("verifier", ("verdict/", "reward_calls/", "scoring/", "watch/")),
    ("sync", ("sync/",)),
    ("memory", ("memory/",)),
)
"""Panel group -> how the names of its metrics begin. What fits none is in "other"."""


def panel_name(stage: str, name: str) -> str:
    """What a metric is called at W&B: its group, then its name. GRPO's are named plainly, other stages' by the stage.

    ("grpo", "reward/mean") -> "reward/mean", ("grpo", "entropy") -> "policy/entropy", ("eval", "nll") -> "eval/nll".
    """
    if stage != "grpo":
        return f"{stage}/{name}"
    group = next((group for group, starts in GROUPS if name.startswith(starts)), "other")
    return name if name.startswith(f"{group}/") else f"{group}/{name}"
