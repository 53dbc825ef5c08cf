"""When a learner rank does not fit into memory: the smallest changes of a few settings that make it fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from launch.plan.hardware import GIB, Hardware
from launch.plan.memory import LearnerMemory, LearnerShape, learner_memory
from launch.plan.model import Architecture
from rl.settings.precision import HALF

MOST_DOUBLINGS = 6


def gib(num_bytes: float) -> str:
    """GiB with two significant digits: 0.52, 5.2, 61."""
    size = num_bytes / GIB
    return f"{size:.0f}" if size >= 20 else f"{size:.1f}" if size >= 2 else f"{size:.2f}"


@dataclass(frozen=True)
class Change:
    """A change of the learner's settings. knobs: as on the command line. cost: how large the change is."""

    shape: LearnerShape
    memory: LearnerMemory
    knobs: tuple[str, ...]
    words: str
    cost: float

    def sentence(self, beside: float = 0.0) -> str:
        """beside: bytes of a sleeping sampler on the same device."""
        needed = self.memory.peak + beside
        return f"{self.words} fits: {gib(needed)} of {gib(self.memory.limit)} GiB ({' '.join(self.knobs)})"


def changes_that_fit(
    arch: Architecture, shape: LearnerShape, hw: Hardware, *, longest: int, rollouts_per_update: int, most: int = 3,
    fits: Callable[[LearnerMemory], bool] = lambda memory: memory.fits, offload: bool = False,
) -> list[Change]:  # fmt: skip
    """The changes after which a rank fits, the smallest first; none when nothing helps.

    longest: the tokens of a sequence that a micro-batch must hold. rollouts_per_update: the largest number of ranks.
    A change is left out when a part of it is enough. fits: where more than the learner is on a device.
    offload: the optimiser may be moved to the host.
    """
    found: list[Change] = []
    for change in sorted(_candidates(arch, shape, hw, longest, rollouts_per_update, offload), key=lambda c: c.cost):
        if not fits(change.memory):
            continue
        names = {knob.partition("=")[0] for knob in change.knobs}
        if any({knob.partition("=")[0] for knob in c.knobs} <= names for c in found):
            continue
        found.append(change)
        if len(found) == most:
            break
    return found


def _candidates(
    arch: Architecture, shape: LearnerShape, hw: Hardware, longest: int, rollouts_per_update: int, may_offload: bool
) -> Iterator[Change]:
    stages = range(shape.zero_stage if shape.ranks > 1 else min(1, shape.zero_stage), 4)
    recomputed = (False, True) if not shape.checkpointing else (True,)
    halvings = range(1 + max(0, int(math.log2(max(1.0, shape.tokens * shape.shared_by / max(1, longest))))))
    doublings = range(MOST_DOUBLINGS + 1) if hw.on_gpu else range(1)
    offloads = (False, True) if may_offload and not shape.offload else (shape.offload,)
    product = itertools.product(stages, recomputed, halvings, doublings, offloads)
    for stage, recompute, halved, doubled, offload in product:
        ranks = shape.ranks * 2**doubled
        if ranks > max(shape.ranks, rollouts_per_update) or (stage, recompute, halved, ranks, offload) == (
            shape.zero_stage, shape.checkpointing, 0, shape.ranks, shape.offload,
        ):  # fmt: skip
            continue
        if stage == 0 and (shape.dtype in HALF or offload):
            continue
        tokens = shape.tokens // 2**halved
        other = replace(
            shape, zero_stage=stage, checkpointing=recompute, tokens=tokens, ranks=ranks,
            scored=max(1, shape.scored // 2**halved), offload=offload,
        )  # fmt: skip
        memory = learner_memory(arch, other, hw)
        # Settings that only change the speed come first, and more hardware comes last.
        cost = (
            1.0 * (stage != shape.zero_stage) + 0.1 * abs(stage - shape.zero_stage)
            + 1.2 * (recompute and not shape.checkpointing) + 1.1 * (halved > 0) + 0.1 * halved
            + 1.5 * (offload and not shape.offload) + 2.5 * (doubled > 0) + 1.0 * doubled
        )  # fmt: skip
        yield Change(other, memory, _knobs(shape, other, halved), _words(shape, other), cost)


def _knobs(old: LearnerShape, new: LearnerShape, halved: int) -> tuple[str, ...]:
    knobs = []
    if new.zero_stage != old.zero_stage:
        knobs.append(f"learner.zero_stage={new.zero_stage}")
    if new.ranks != old.ranks:
        knobs.append(f"learner.ranks={new.ranks}")
    if halved:
        knobs.append(f"learner.micro_batch_tokens={new.tokens * new.shared_by}")
    if new.checkpointing != old.checkpointing:
        knobs.append("learner.gradient_checkpointing=true")
    if new.offload != old.offload:
        knobs.append("learner.offload=optimizer")
    return tuple(knobs)


def _words(old: LearnerShape, new: LearnerShape) -> str:
    parts = []
    if new.ranks != old.ranks:
        parts.append(f"ZeRO-{new.zero_stage} over {new.ranks} ranks instead of {old.ranks}")
    elif new.zero_stage != old.zero_stage:
        parts.append(f"ZeRO-{new.zero_stage} instead of {old.zero_stage}")
    if new.tokens != old.tokens:
        now, before = new.tokens * new.shared_by, old.tokens * old.shared_by
        parts.append(f"micro-batches of {now:,} tokens instead of {before:,}")
    if new.checkpointing != old.checkpointing:
        parts.append("gradient checkpointing")
    if new.offload != old.offload:
        parts.append("the optimiser in host memory")
    first, rest = parts[0], parts[1:]
    return first + (f" with {', '.join(rest[:-1])}{' and ' if len(rest) > 1 else ''}{rest[-1]}" if rest else "")
