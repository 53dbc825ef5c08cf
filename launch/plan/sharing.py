"""Learner and sampler on the same GPUs, where they take turns: what each has, and whether both fit.

While the learner works the sampler sleeps; while the sampler works the learner keeps what it needs for its next step.
The run itself measures what the learner leaves (rl/workers/cluster/share.py); here it is predicted, with the same rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launch.plan.fit import gib
from launch.plan.hardware import GIB, Hardware
from launch.plan.memory import LearnerMemory, SamplerMemory
from rl.config import RunConfig
from rl.workers.cluster.share import LEAST, SPARE, WHOLE


def share_of(cfg: RunConfig, learner: LearnerMemory, *, colocated: bool) -> float:
    """The share of a GPU's memory that a sampler gets: as set, or nearly all, or what a learner at rest leaves."""
    if cfg.sampler.gpu_memory_share or not colocated:
        return cfg.sampler.gpu_memory_share or WHOLE
    left = 1.0 - learner.at_rest / learner.limit - SPARE
    return math.floor(100 * max(0.0, min(WHOLE, left))) / 100


@dataclass(frozen=True)
class Shared:
    """One GPU with a learner rank and a sampler, or its part of one. share: the sampler's. Bytes.

    training: the learner's peak beside a sleeping sampler. sampling: the sampler beside a learner at rest.
    """

    learner: LearnerMemory
    sampler: SamplerMemory
    asleep: float
    share: float

    @property
    def training(self) -> float:
        return self.learner.peak + self.asleep

    @property
    def sampling(self) -> float:
        return self.learner.at_rest + self.sampler.peak

    @property
    def limit(self) -> float:
        return self.learner.limit

    @property
    def problems(self) -> list[str]:
        found = []
        if self.learner.fits and self.training > self.limit:
            found.append(
                f"learner and sampler share a GPU, which in training needs {gib(self.training)} of "
                f"{gib(self.limit)} GiB: {gib(self.learner.peak)} of the learner, {gib(self.asleep)} of the sleeping "
                "sampler"
            )
        if self.share < LEAST or not self.sampler.fits or self.sampling > self.limit:
            found.append(
                f"beside a learner at rest ({gib(self.learner.at_rest)} GiB) a sampler has "
                f"{gib(self.sampler.limit)} of the GPU's {gib(self.limit)} GiB and needs "
                f"{gib(self.sampler.least)} for one sequence of full length"
            )
        return found

    def holds(self, learner: LearnerMemory) -> bool:
        """Whether such a learner would fit beside this sampler, asleep and awake."""
        beside = self.sampler.least + SPARE * self.limit
        return learner.peak + self.asleep <= self.limit and learner.at_rest + beside <= self.limit


def shared_gpu(learner: LearnerMemory, sampler: SamplerMemory, hw: Hardware, share: float) -> Shared:
    return Shared(learner, sampler, hw.memory.asleep_gib * GIB, share)


def one_card_lines(colocated: Shared, alone: SamplerMemory, name: str) -> list[str]:
    """What fits on one GPU with both on it, and on two with each on its own. alone: a sampler that has its own."""
    limit = gib(colocated.limit)
    apart = colocated.learner.fits and alone.fits
    return [
        f"One {name} ({limit} GiB), learner and sampler in turns: {gib(colocated.training)} GiB in training "
        f"({gib(colocated.learner.peak)} learner + {gib(colocated.asleep)} sleeping sampler), "
        f"{gib(colocated.sampling)} GiB while sampling ({gib(colocated.learner.at_rest)} learner at rest + "
        f"{gib(colocated.sampler.peak)} sampler, a share of {colocated.share:g}): "
        + ("does not fit" if colocated.problems else "fits"),
        f"Two of them, each with its own: learner {gib(colocated.learner.peak)} GiB, sampler {gib(alone.peak)} GiB: "
        + ("fits" if apart else "does not fit"),
    ]
