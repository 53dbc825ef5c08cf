"""What goes wrong without a sound: told from a step's own prompts, rollouts, batches and numbers, at next to no cost.

What cannot be right stops the run:

    wrong stop          an end token stands inside a completion, or it stopped at a token that ends none
    skipped data        a prompt's number is left out, or a row comes twice in one epoch
    lost rollouts       the batch or the learner has other tokens than were sampled and count
    lost update         the samplers do not compute with the first update of a start (rl/rollouts/agreement.py), or are
                        far from the learner in a look that is taken where a step's own rollouts are all older
    nothing to learn    with refill, DEAD_STEPS steps one after the other found not one mixed group

What is hardly ever meant is warned of, once:

    lost update         an update at a learning rate above 0 changed no weight
    frozen layer        the first update left whole tensors as they were
    repeated samples    every group of a step holds one sample many times
    dead verifier       a reward, other than of style, has called nothing right for DEAD_STEPS steps
    lenient verifier    the first such reward pays answers in which the reference does not stand

`aha doctor` looks deeper, before the run (launch/doctor/).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rewards import STYLE, short_name
from rewards.watch import mentions
from rl.backend import SampleParams
from rl.config import RunConfig
from rl.context import Context
from rl.rollouts.agreement import check_gap, check_update
from rl.scoring.routing import named
from rl.types import AhaError, GradedGroup, PackedBatch, Prompt, Rollout, ScoredGroup, StepStats, Verdict

log = logging.getLogger(__name__)

DEAD_STEPS = 3
MOST_UNSEEN = 10
"""Steps of older rollouts alone, after which the gap between sampler and learner is looked at with new ones."""
FEW = 16
"""The fewest paid samples that say something of a verifier."""
ROUNDING = 1e-3
"""Token counts are added up in float32, which is exact up to 16 million."""


# ------------------------------------------------------------------------------------------------ prompts, rollouts


class Draws:
    """The numbers and rows of the prompts that a stream hands out. cursor: the stream's state before the first. next:
    the number of the prompt that comes next.
    """

    def __init__(self, cursor: Mapping[str, int]) -> None:
        self.next, self._rows = cursor.get("draws", 0), cursor.get("rows", 0)
        self._epoch, self._seen = -1, set[int]()

    def look_at(self, prompts_P: Sequence[Prompt]) -> None:
        """Raise AhaError unless these are the next prompts, and none is a row that its epoch had already."""
        for prompt in prompts_P:
            if prompt.draw != self.next:
                raise AhaError(
                    f"skipped data: prompt number {self.next} of the run is next, and the stream gave number "
                    f"{prompt.draw} (row {prompt.id}); look at rl/data/streams.py, whose cursor and items disagree"
                )
            self.next += 1
            epoch = prompt.draw // self._rows if self._rows else 0
            if epoch != self._epoch:
                self._epoch, self._seen = epoch, set()
            if self._rows and prompt.id in self._seen:
                raise AhaError(
                    f"skipped data: row {prompt.id} comes a second time in epoch {epoch} of {self._rows} rows, so "
                    "another is left out; look at rl/data/streams.py's order"
                )
            self._seen.add(prompt.id)


def refuse_wrong_ends(groups_P: Sequence[GradedGroup], params: SampleParams) -> None:
    """Raise AhaError when a completion goes on behind an end token, or stopped at a token that is none."""
    ends = params.stop_token_ids
    rollouts = [(g.group.prompt, r) for g in groups_P for r in g.group.rollouts_G if len(r.token_ids_T)]
    behind = [(p, r) for p, r in rollouts if any(np.isin(turn[:-1], ends).any() for turn in turns_of(r))]
    if behind:
        raise AhaError(
            f"wrong stop: {len(behind)} of {len(rollouts)} completions go on behind an end token ({_ids(ends)}), the "
            f"first of prompt {behind[0][0].id}; the sampler does not stop at what it was told to. Look at "
            "stop_token_ids in rl/workers/sampler/sampler.py"
        )
    stopped = [r for _, r in rollouts if r.finish_reason == "stop" and not stop_texts(r, params)]
    elsewhere = [r for r in stopped if int(r.token_ids_T[-1]) not in ends]
    if elsewhere:
        found = Counter(int(r.token_ids_T[-1]) for r in elsewhere)
        raise AhaError(
            f"wrong stop: {len(elsewhere)} of {len(rollouts)} completions stopped at {_ids(list(found))}, and the end "
            f"tokens are {_ids(ends)}. Look at stop_token_ids in rl/workers/sampler/sampler.py, and at the tokenizer's "
            "eos_token"
        )


def turns_of(rollout: Rollout) -> list[np.ndarray]:
    """The tokens of each stretch that the model sampled: turns, or all of it."""
    if rollout.episode is None:
        return [rollout.token_ids_T]
    sampled_T = rollout.episode.sampled_T
    parts = np.split(rollout.token_ids_T, np.flatnonzero(np.diff(sampled_T)) + 1)
    return parts[(0 if sampled_T[0] else 1) :: 2]


def stop_texts(rollout: Rollout, params: SampleParams) -> tuple[str, ...]:
    """The texts at which a rollout may have stopped."""
    name = rollout.episode.environment if rollout.episode is not None else None
    return (*params.stop, *(text for a in params.environments if a.environment.name == name for text in a.stop))


def _ids(tokens: Sequence[int]) -> str:
    return f"token{'s' if len(tokens) > 1 else ''} {', '.join(map(str, tokens))}"


# ------------------------------------------------------------------------------------------------ steps


class StepWatch:
    """Looks at each step of a start. The samplers are compared with the learner after its first update."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._cfg = ctx, ctx.cfg
        self._agreed = False
        self._steps, self._said = 0, set[str]()
        parts = named(self._cfg.rewards).items() if self._cfg.rewards else ()
        self._judges = [name for name, reward in parts if short_name(reward.function) not in STYLE]
        self._asked, self._right = Counter[str](), Counter[str]()
        self._barren = self._uniform = self._unseen = 0

    def look_at(
        self, step: int, scored_P: Sequence[ScoredGroup], kept_P: Sequence[ScoredGroup],
        updates_U: Sequence[PackedBatch], stats: StepStats,
    ) -> None:  # fmt: skip
        """After the update and its sync. kept_P: the groups that were trained on. Raises AhaError."""
        self._refuse_barren(step, scored_P, kept_P)
        refuse_lost_rollouts(self._cfg, kept_P, updates_U, stats)
        if stats.updates and not self._agreed:
            check_update(self._ctx, scored_P, stats.gap_mean, version=step + 1)
            self._agreed = True
            self._unseen = 0
            if stats.still:
                shown = ", ".join(stats.still[:4]) + (f" and {len(stats.still) - 4} more" if stats.still[4:] else "")
                self._say("frozen layer", f"the first update changed nothing in {shown}: no gradient reaches them")
        elif stats.updates:
            self._look_at_gap(scored_P, stats)
        self._steps += 1
        if stats.updates and stats.learning_rate > 0 and stats.metrics.get("policy/weights_moved") == 0:
            self._say("lost update", f"step {step + 1} changed no weight at learning rate {stats.learning_rate:g}")
        if repeated := repeated_samples(scored_P):
            self._say("repeated samples", f"in step {step + 1} {repeated}")
        self._look_at_rewards(scored_P)

    def _look_at_gap(self, scored_P: Sequence[ScoredGroup], stats: StepStats) -> None:
        """Where older weights sampled all of a step, nothing in it tells how far sampler and learner are apart."""
        self._unseen = self._unseen + 1 if math.isnan(stats.gap_mean) else 0
        if self._unseen == MOST_UNSEEN:
            stats.gap_mean, stats.gap_max = check_gap(self._ctx, scored_P)
            self._unseen = 0

    def _refuse_barren(self, step: int, scored_P: Sequence[ScoredGroup], kept_P: Sequence[ScoredGroup]) -> None:
        if self._cfg.grpo.uniform_groups != "refill":
            return
        self._barren, self._uniform = (0, 0) if kept_P else (self._barren + 1, self._uniform + len(scored_P))
        if self._barren == DEAD_STEPS:
            raise AhaError(
                f"nothing to learn: in steps {step + 2 - DEAD_STEPS} to {step + 1} all {self._uniform} groups were "
                "uniform, though each step sampled on for mixed ones (grpo.uniform_groups=refill, grpo.max_refills): "
                "every sample of a prompt gets the same reward. Mend the reward, or choose easier or harder prompts"
            )

    def _look_at_rewards(self, scored_P: Sequence[ScoredGroup]) -> None:
        parts = [(name, part) for s in scored_P for parts in s.parts_G for name, part in parts.items()]
        for name, part in parts:
            self._asked[name] += part.verdict.is_valid
            self._right[name] += part.verdict is Verdict.CORRECT
        for name in self._judges if self._steps == DEAD_STEPS else ():
            if self._asked[name] and not self._right[name]:
                self._say(
                    f"dead verifier {name}",
                    f"reward {name} called none of the first {self._asked[name]} samples right: it looks for another "
                    "form of answer, or the problems are too hard to learn from",
                )
        first = next(iter(self._judges), "")
        paid, without = paid_without_reference(scored_P, first)
        if paid >= FEW and 2 * without > paid:
            self._say(
                f"lenient verifier {first}",
                f"reward {first} called {paid} of the step's samples right, and in {without} of them the reference "
                "answer does not stand: it pays what it should not, or reads answers in another notation",
            )

    def _say(self, fault: str, text: str) -> None:
        if fault not in self._said:
            self._said.add(fault)
            log.warning("%s: %s. `aha doctor` with this recipe tests it", fault, text)


def refuse_lost_rollouts(
    cfg: RunConfig, kept_P: Sequence[ScoredGroup], updates_U: Sequence[PackedBatch], stats: StepStats
) -> None:
    """Raise AhaError unless the tokens of all rollouts that count, and no others, were packed and trained on."""
    wanted = sum(_trained_tokens(cfg, scored) for scored in kept_P)
    packed = sum(int(mb.loss_mask_T.sum()) for u in updates_U for mine in u.micro_batches_R for mb in mine)
    where = ""
    if packed != wanted:
        where = f"packed into the step's batches are {packed} (rl/data/packing.py)"
    elif stats.updates + stats.skipped_updates and abs(stats.tokens - wanted) > ROUNDING * wanted:
        where = f"the learner trained on {stats.tokens} (rl/workers/learner/learner.py)"
    if where:
        raise AhaError(
            f"lost rollouts: {wanted} sampled tokens count in this step, and {where}: the loss is not that of the "
            "rollouts. The last checkpoint is from before this step"
        )


def _trained_tokens(cfg: RunConfig, scored: ScoredGroup) -> int:
    """The tokens of a group's samples that have a gradient."""
    g = cfg.grpo
    if scored.uniform and g.uniform_groups != "keep":
        return 0
    always = bool(g.kl_coef or g.teacher)
    samples = zip(scored.group.rollouts_G, scored.advantages_G, scored.valid_G, strict=True)
    return sum(
        rollout.num_sampled
        for rollout, advantage, valid in samples
        if valid and not (rollout.truncated and g.overlong == "mask") and (always or advantage)
    )


def repeated_samples(scored_P: Sequence[ScoredGroup]) -> str:
    """What shows that every group holds one sample many times; "" when one has two different ones."""
    groups = [s.group.rollouts_G for s in scored_P if len(s.group.rollouts_G) > 1]
    if len(groups) < 2 or any(len({r.token_ids_T.tobytes() for r in group}) > 1 for group in groups):
        return ""
    return (
        f"each of {len(groups)} groups holds one sample {len(groups[0])} times: one seed for all, a temperature near "
        "0, or a model that has collapsed. Groups without a difference teach nothing"
    )


def paid_without_reference(scored_P: Sequence[ScoredGroup], name: str) -> tuple[int, int]:
    """(samples that the reward calls right, of at most 4 FEW looked at; those of them without the reference answer)."""
    paid = [
        (r.text, s.group.prompt.reference)
        for s in scored_P
        for r, parts in zip(s.group.rollouts_G, s.parts_G, strict=True)
        if name in parts and parts[name].verdict is Verdict.CORRECT and s.group.prompt.reference
    ]
    looked_at = paid[:: -(-len(paid) // (4 * FEW)) or 1]
    return len(looked_at), sum(not mentions(text, reference) for text, reference in looked_at)
