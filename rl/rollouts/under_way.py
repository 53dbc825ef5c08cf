"""The groups that are under way: with the samplers, with the reward workers, or waiting for their step. They arrive in
any order and are given out in that of their draws. A checkpoint keeps what a resumed run could not sample again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.backend import SampleParams
from rl.context import Context
from rl.data.streams import PromptStream
from rl.rollouts.silent_faults import Draws
from rl.rollouts.step_metrics import RewardStats
from rl.rollouts.waiting import mode_of, read_waiting, refuse_other_mode, refuse_other_versions, write_waiting
from rl.scoring.scorer import Scorer
from rl.types import GradedGroup, Prompt, RewardReport, Rollout, RolloutGroup


@dataclass(slots=True)
class Entry:
    """A draw under way. version: of the weights when the samplers got it. step: the one that trains on it, as far as is
    known: by it a reward applies or not. grade(): waits for its rewards; there once its samples have come back.
    """

    prompt: Prompt
    version: int
    step: int
    grade: Callable[[], GradedGroup] | None = None


class UnderWay:
    """entries: by draw, the oldest first. stats: of all groups since they were last reset."""

    def __init__(self, ctx: Context, stream: PromptStream, scorer: Scorer) -> None:
        self.ctx, self.stream, self.scorer, self.roll = ctx, stream, scorer, ctx.cfg.rollout
        self.draws, self.stats = Draws(stream.state()), RewardStats()
        self.entries: dict[int, Entry] = {}
        self._held = 0

    @property
    def params(self) -> SampleParams:
        roll = self.roll
        return self.ctx.sample_params(
            temperature=roll.temperature, top_p=roll.top_p, max_new_tokens=roll.max_new_tokens
        )

    def arrived(self, draw: int, rollouts_G: list[Rollout]) -> None:
        """All samples of a draw are there: its rewards are asked at once, while the samplers work on others."""
        entry = self.entries[draw]
        group = RolloutGroup(entry.prompt, rollouts_G)
        refuse_other_versions(group, entry.version, in_flight=self.roll.in_flight)
        report = self.ctx.backend.ask_rewards(group, self.scorer.applying(entry.prompt, entry.step))
        entry.grade = functools.cache(lambda: self._grade(group, report))
        self.stats.look_at(self.ctx.backend.queue())  # the group is with its reward workers by now

    def _grade(self, group: RolloutGroup, result: Callable[[], RewardReport]) -> GradedGroup:
        report = result()
        self.stats.add(report)
        return self.scorer.grade(group, report.parts_G)

    def wait_for_samples(self, entries_P: Sequence[Entry]) -> None:
        while any(entry.grade is None for entry in entries_P):
            self.ctx.backend.pump()

    def graded(self, entries_P: Sequence[Entry]) -> list[GradedGroup]:
        """Their groups with their rewards, once both are there."""
        self.wait_for_samples(entries_P)
        start = time.perf_counter()
        graded_P = [entry.grade() for entry in entries_P if entry.grade is not None]
        self.stats.seconds += time.perf_counter() - start
        return graded_P

    # -------------------------------------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, int]:
        """Where a resumed run goes on: behind the draws that were taken. held: how many more the checkpoint has."""
        if not self.roll.staleness:
            return self.stream.state()
        held = 0 if self.roll.in_flight else len(self.entries)
        return self.stream.state(min(self.entries, default=self.draws.next)) | mode_of(self.roll) | {"held": held}

    def restore(self, state: dict[str, int]) -> None:
        refuse_other_mode(self.roll, state)
        self.stream.restore(state)
        self.draws, self._held = Draws(self.stream.state()), state.get("held", 0)

    def save(self, checkpoint: Path) -> None:
        """What weights before the checkpoint's have sampled goes into its folder, unless it may be sampled again."""
        if self.entries and not self.roll.in_flight:
            write_waiting(checkpoint, self.graded(list(self.entries.values())))

    def load(self, checkpoint: Path) -> None:
        """Take in what save wrote, behind restore."""
        prompts_P = self.stream.take(self._held)
        self.draws.look_at(prompts_P)
        for graded in read_waiting(checkpoint, self.scorer, prompts_P) if prompts_P else ():
            self.entries[graded.group.prompt.draw] = Entry(
                graded.group.prompt, -1, -1, functools.partial(_known, graded)
            )


def _known(graded: GradedGroup) -> GradedGroup:
    return graded
