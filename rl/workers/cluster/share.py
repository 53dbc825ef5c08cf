"""How much of a GPU's memory a sampler gets: all that a learner on the same GPU leaves, or nearly the whole GPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from rl.config import RunConfig
from rl.types import AhaError
from rl.workers.cluster.hardware import GIB, Rest

log = logging.getLogger("aha.cluster")

WHOLE = 0.9
"""The share of a GPU that a sampler has to itself."""
SPARE = 0.03
"""The share of a shared GPU that nobody gets: learners and samplers keep a little more than they say."""
LEAST = 0.05
GROWTH = 256 << 20
"""So many bytes more than before a learner may keep before colocated samplers are started again with less."""


class Share:
    """The share of every sampler. sampler.gpu_memory_share, where it is not 0, goes before what is computed here."""

    def __init__(self, cfg: RunConfig) -> None:
        self._set = cfg.sampler.gpu_memory_share
        self.value = self._set or WHOLE
        self._kept = -1  # by the learner that keeps most, when the share was computed

    def given_to(self, cfg: RunConfig, *, colocated: bool) -> RunConfig:
        """The settings of a sampler, with the share and the mode that were chosen."""
        shared = replace(cfg.cluster, colocated="true" if colocated else "false")
        return replace(cfg, cluster=shared, sampler=replace(cfg.sampler, gpu_memory_share=self.value))

    def shrinks(self, rests: Sequence[Rest]) -> bool:
        """Compute the share at the first call. Later: whether learners keep more now, so that the share is less.

        rests: of every learner rank. On CPUs there is no share. Raises AhaError when too little is left.
        """
        fullest, kept = min(rests, key=lambda rest: rest.free), max(rest.kept for rest in rests)
        if self._set or not fullest.total:
            return False
        first, grown = self._kept < 0, kept - self._kept
        if not first and grown <= GROWTH:
            return False
        left = fullest.free / fullest.total - SPARE if first else self.value - grown / fullest.total
        if left < LEAST:
            raise AhaError(
                f"a learner leaves {max(0.0, left) * fullest.total / GIB:.1f} of its GPU's {fullest.total / GIB:.0f} "
                "GiB, too little for a sampler beside it: move the optimiser to the host (learner.offload=optimizer), "
                "train adapters alone (model.lora.rank=16), or take a smaller model; aha plan shows what fits"
            )
        self._kept, self.value = kept, math.floor(100 * min(WHOLE, left) + 1e-9) / 100
        log.info("a sampler gets %.0f %% of a GPU's memory: what the learner on it leaves", 100 * self.value)
        return not first
