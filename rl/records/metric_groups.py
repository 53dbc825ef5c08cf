"""The names of metrics on dashboards (W&B, Prometheus): the panel group, then the metric."""

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
"""(panel group, the beginnings of its metrics' names). All other metrics are in "other"."""


def panel_name(stage: str, name: str) -> str:
    """A metric's name at W&B: for GRPO its group and its name, for other stages the stage and its name.

    ("grpo", "reward/mean") -> "reward/mean", ("grpo", "entropy") -> "policy/entropy", ("eval", "nll") -> "eval/nll".
    """
    if stage != "grpo":
        return f"{stage}/{name}"
    group = next((group for group, starts in GROUPS if name.startswith(starts)), "other")
    return name if name.startswith(f"{group}/") else f"{group}/{name}"
