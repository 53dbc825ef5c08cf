"""From scored groups to micro-batches: which rollouts count, what each token weighs, which rank computes what.

Axis suffixes: _P prompts, _G samples of a group, _T tokens, _S sequences of a micro-batch, _R learner ranks.

The loss of an update is the SUM over all its tokens, micro-batches and ranks of loss_weight_T * token loss. The
denominators are counted here, once, over the whole update, so nothing downstream averages and no split changes them:

    loss          weight of a completion token     for completions of 2 and 6 tokens, N = 2, max_new_tokens = 8
    grpo, gspo    1 / (|o| N)                      1/4 and 1/12
    dapo, cispo   1 / sum of |o|                   1/8
    dr_grpo       1 / (N max_new_tokens)           1/16

N = rollouts that count. Not all of them are computed: a rollout with advantage 0 has no gradient where there is neither
a KL nor a teacher. It stays in N and in the token sum, but is not computed (num_skipped). Invalid samples do not count,
nor do truncated ones with overlong=mask, nor uniform groups unless uniform_groups=keep.

    With an environment, turns of 2 and 6 sampled tokens and 5 of an answer between them, alone in the update (N = 1):
    |o| = 8, so grpo 1/8, dapo 1/8, dr_grpo 1/8 (max_new_tokens = 8) at each of the 8; the 5 weigh 0.

A completion is all the tokens that the sampler emitted, the stop token included. Position i of an array holds the
values of token i itself: the model reads its logprob one position earlier, so nothing is shifted here.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.config import GRPOConfig, LearnerConfig
from rl.data.shared_prompts import NO_GROUP, group_parts, shared_tokens
from rl.data.versions import versions_T
from rl.types import MicroBatch, PackedBatch, Prompt, Rollout, ScoredGroup, TopLogprobs

Counted = tuple[Prompt, Rollout, float]
"""A rollout that counts, with its prompt and its advantage."""


@dataclass(frozen=True, slots=True)
class Packable:
    """One sequence to compute. loss_mask_T: 0 or 1 for each token. label: one for all tokens with 1, or one for each.
    sampler_logprobs, teacher, fresh: of those tokens. prompt: (number of its group, how many first tokens are the same
    in the whole group)."""

    token_ids: Sequence[int] | np.ndarray
    loss_mask_T: np.ndarray
    weight: float
    advantage: float = 0.0
    temperature: float = 1.0
    sampler_logprobs: np.ndarray | None = None
    teacher: TopLogprobs | None = None
    label: float | np.ndarray = 0.0
    prompt: tuple[int, int] = NO_GROUP
    fresh: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.token_ids)


_DUMMY = Packable(token_ids=[0, 0], loss_mask_T=np.zeros(2), weight=0.0)
"""A sequence of no weight for a rank without work: all ranks must run the same number of micro-batches."""


def pack(
    scored_P: Sequence[ScoredGroup],
    *,
    grpo: GRPOConfig,
    learner: LearnerConfig,
    max_new_tokens: int,
    layout: str,
    seed: int,
    version: int | None = None,
) -> list[PackedBatch]:
    """One PackedBatch for each of the grpo.updates_per_step optimiser updates (R1: 16).

    layout: "rows" (each sequence a padded row), "packed" (end to end) or "shared" (end to end, a group's prompt once).
    seed decides which rollouts an update gets; the layout, the budget, the number of ranks and the order of scored_P
    change neither that nor the loss.
    version: of the weights that are trained, where rollouts may be of others.
    An update that has nothing to compute has no micro-batches on any rank.
    Raises ValueError on a sequence longer than learner.micro_batch_tokens and on data that cannot be trained on.
    """
    # Groups arrive in an order that depends on timing; the order of their draws does not.
    counted = [c for scored in sorted(scored_P, key=lambda s: s.group.prompt.draw) for c in _counted(scored, grpo)]
    order = np.arange(len(counted))
    if grpo.updates_per_step > 1:
        np.random.default_rng(seed).shuffle(order)
    return [
        _pack_update([counted[i] for i in part], grpo, learner, max_new_tokens, layout, version)
        for part in np.array_split(order, grpo.updates_per_step)
    ]


def token_weight(loss: str, *, length: int, num_rollouts: int, num_tokens: int, max_new_tokens: int) -> float:
    """Weight of each token of a completion of that length (the table at the top of this file).

    num_rollouts: those that count in the update. num_tokens: the tokens of all their completions.
    """
    if loss in ("grpo", "gspo"):
        return 1.0 / (length * num_rollouts)
    if loss in ("dapo", "cispo"):
        return 1.0 / num_tokens
    if loss == "dr_grpo":
        return 1.0 / (num_rollouts * max_new_tokens)
    raise ValueError(f"unknown loss {loss!r}")


def _counted(scored: ScoredGroup, grpo: GRPOConfig) -> list[Counted]:
    """The group's rollouts that count. Raises ValueError for one that cannot be trained on."""
    if scored.uniform and grpo.uniform_groups != "keep":
        return []
    prompt, kept = scored.group.prompt, []
    samples = zip(scored.group.rollouts_G, scored.advantages_G, scored.valid_G, strict=True)
    for g, (rollout, advantage, valid) in enumerate(samples):
        if not valid or (rollout.truncated and grpo.overlong == "mask"):
            continue
        where = f"prompt {prompt.id} (draw {prompt.draw}), sample {g}"
        if not prompt.token_ids:
            raise ValueError(f"{where}: an empty prompt; the first token of a completion needs a token before it")
        if len(rollout.logprobs_T) != len(rollout.token_ids_T):
            raise ValueError(f"{where}: {len(rollout.token_ids_T)} tokens but {len(rollout.logprobs_T)} logprobs")
        if not np.isfinite(rollout.logprobs_T).all():
            raise ValueError(f"{where}: the sampler reported a logprob that is not finite")
        if not np.isfinite(advantage):
            raise ValueError(f"{where}: its advantage is {advantage}")
        kept.append((prompt, rollout, advantage))
    return kept


def _pack_update(
    counted: Sequence[Counted], grpo: GRPOConfig, learner: LearnerConfig, max_new_tokens: int, layout: str,
    version: int | None,
) -> PackedBatch:  # fmt: skip
    num_tokens = sum(rollout.num_sampled for _, rollout, _ in counted)
    sequences = []
    for prompt, rollout, advantage in counted:
        length = rollout.num_sampled
        if length == 0 or (advantage == 0 and grpo.kl_coef == 0 and not grpo.teacher):
            continue
        weight = token_weight(
            grpo.loss, length=length, num_rollouts=len(counted), num_tokens=num_tokens, max_new_tokens=max_new_tokens
        )
        token_ids = np.concatenate([prompt.token_ids, rollout.token_ids_T])
        sampled_T = np.ones(length) if rollout.episode is None else rollout.episode.sampled_T
        mask_T = np.concatenate([np.zeros(len(prompt.token_ids)), sampled_T])
        same = (prompt.draw, len(prompt.token_ids))
        fresh = None if version is None else rollout.at_sampled(versions_T(rollout) == version)
        logprobs = rollout.at_sampled(rollout.logprobs_T)
        one = Packable(token_ids, mask_T, weight, advantage, rollout.temperature, logprobs, prompt=same, fresh=fresh)
        sequences.append(one)
    return PackedBatch(
        micro_batches_R=schedule([[s] for s in sequences], learner, layout),
        num_loss_tokens=sum(int(s.loss_mask_T.sum()) for s in sequences),
        num_sequences=len(counted),
        num_skipped=len(counted) - len(sequences),
    )


# ------------------------------------------------------------------------------------------ which rank computes what


def schedule(units: Sequence[Sequence[Packable]], learner: LearnerConfig, layout: str) -> list[list[MicroBatch]]:
    """Micro-batches for each rank, the same number for all. The sequences of a unit stay together, in order.

    The number of micro-batches is made a multiple of the ranks; then they are dealt so that the ranks have equal work,
    each the largest first, so that ranks do work of like size at the same time. Ranks that share their sequences
    (learner.sequence_parallel) count as one, and each of them gets the list.
    Raises ValueError on a unit that is larger than learner.micro_batch_tokens.
    """
    lengths = [len(unit) * max(map(len, unit)) if layout == "rows" else sum(map(len, unit)) for unit in units]
    budget, prompts = learner.micro_batch_tokens, [unit[0].prompt if layout == "shared" else NO_GROUP for unit in units]
    parts, costs = group_parts(lengths, prompts, budget)
    bins = [[i for part in members for i in parts[part]] for members in bin_lengths(costs, budget, layout)]
    if not bins:
        return [[] for _ in range(learner.ranks)]
    bins = _to_multiple(bins, lengths, learner.data_parallel)
    micro_batches = [_assemble([s for i in members for s in units[i]] or [_DUMMY], layout) for members in bins]
    costs = [mb.num_tokens if layout == "packed" else mb.row_tokens for mb in micro_batches]
    dealt = deal_costs(costs, learner.data_parallel)
    mine_R = [[micro_batches[i] for i in members] for members in dealt]
    return [mine for mine in mine_R for _ in range(learner.sequence_parallel)]


def bin_lengths(lengths: Sequence[int], budget: int, layout: str) -> list[list[int]]:
    """Sequences, given by their lengths in tokens, in groups that each fit into a micro-batch. Returns their indices.

    rows: neighbours in length share a micro-batch while rows * longest <= budget, so that there is little padding.
    packed, shared: best-fit decreasing: the longest first, each into the fullest micro-batch that has room for it.
    Raises ValueError when one is longer than budget.

    Budget 10:  lengths 5, 4, 3, 2  rows -> [[0, 1], [2, 3]] (2 * 5, 2 * 3)    packed -> [[0, 1], [2, 3]]
                lengths 6, 2, 4, 8  rows -> [[3], [0], [2, 1]]                 packed -> [[3, 1], [0, 2]]
    """
    if layout not in ("rows", "packed", "shared"):
        raise ValueError(f"layout {layout!r}: expected rows or packed, or shared")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if order and lengths[order[0]] > budget:
        raise ValueError(
            f"a sequence of {lengths[order[0]]} tokens (prompt and completion) does not fit into a micro-batch; "
            f"set learner.micro_batch_tokens (now {budget}) to at least that, or allow shorter ones"
        )
    bins: list[list[int]] = []
    if layout == "rows":
        for i in order:
            if bins and (len(bins[-1]) + 1) * lengths[bins[-1][0]] <= budget:
                bins[-1].append(i)
            else:
                bins.append([i])
        return bins
    free: list[tuple[int, int]] = []  # (free tokens, bin), sorted, so that the fullest bin with room is found quickly
    for i in order:
        at = bisect.bisect_left(free, (lengths[i], 0))
        left, b = free.pop(at) if at < len(free) else (budget, len(bins))
        if b == len(bins):
            bins.append([])
        bins[b].append(i)
        bisect.insort(free, (left - lengths[i], b))
    return bins


def _to_multiple(bins: list[list[int]], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Split the largest bins until their number is a multiple of ranks; then add empty ones (dummies)."""
    bins = list(bins)
    for _ in range(-len(bins) % ranks):
        divisible = [b for b, members in enumerate(bins) if len(members) > 1]
        if not divisible:
            bins.append([])
            continue
        largest = max(divisible, key=lambda b: (sum(lengths[i] for i in bins[b]), -b))
        members = bins[largest]
        sums = np.cumsum([lengths[i] for i in members])
        cut = 1 + int(np.argmin(np.abs(2 * sums[:-1] - sums[-1])))
        bins[largest] = members[:cut]
        bins.append(members[cut:])
    return bins


def deal_costs(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal items to ranks, the same number to each, so that their sums are about equal. Each rank's largest is first.

    First each item, from the largest down, goes to the rank that has room and the smallest sum. Then the ranks with the
    largest and the smallest sum swap the two items that bring these closest, while that helps. Returns the items'
    indices. len(costs) % ranks must be 0.

    Costs 9, 7, 6, 5, 4, 1 on 2 ranks: first [9, 5, 1] and [7, 6, 4], then 5 and 6 change places: sums 16 and 16.
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        with_room = [r for r in range(ranks) if len(dealt[r]) < len(costs) // ranks]
        dealt[min(with_room, key=lambda r: (sum(costs[j] for j in dealt[r]), r))].append(i)
    for _ in range(len(costs)):
        load = [sum(costs[i] for i in members) for members in dealt]
        full, empty = load.index(max(load)), load.index(min(load))
        gap = load[full] - load[empty]
        # Moving a difference d takes 2 d off the gap: it shrinks while 0 < d < gap, and is gone at d = gap / 2.
        swaps = [(abs(gap - 2 * (costs[i] - costs[j])), i, j) for i in dealt[full] for j in dealt[empty]]
        left, i, j = min(swaps)
        if left >= gap:
            break
        dealt[full][dealt[full].index(i)], dealt[empty][dealt[empty].index(j)] = j, i
    return [sorted(members, key=lambda i: (-costs[i], i)) for members in dealt]


def _assemble(sequences: Sequence[Packable], layout: str) -> MicroBatch:
    """Lay sequences end to end."""
    lengths = [len(s) for s in sequences]
    mask_T = np.concatenate([s.loss_mask_T for s in sequences]).astype(np.float32)
    completion_lengths = [int(s.loss_mask_T.sum()) for s in sequences]
    logprobs = [s.sampler_logprobs for s in sequences]
    sampler_logprobs_T = np.zeros(len(mask_T), np.float32)
    sampler_logprobs_T[mask_T > 0] = np.concatenate(
        [np.zeros(n) if given is None else given for n, given in zip(completion_lengths, logprobs, strict=True)]
    )
    labels = [np.broadcast_to(s.label, n) for s, n in zip(sequences, completion_lengths, strict=True)]
    labels_T = np.zeros_like(mask_T)
    labels_T[mask_T > 0] = np.concatenate(labels)
    teacher = None
    if teachers := [s.teacher for s in sequences if s.teacher is not None]:
        ids = np.concatenate([t.ids_NK for t in teachers])
        teacher = TopLogprobs(ids, np.concatenate([t.logprobs_NK for t in teachers]))

    fresh_T = None
    if any(s.fresh is not None for s in sequences):
        fresh_T = np.zeros(len(mask_T), np.float32)
        fresh_T[mask_T > 0] = np.concatenate([s.fresh for s in sequences if s.fresh is not None])

    def at_mask(values: list[float], elsewhere: float) -> np.ndarray:
        return np.where(mask_T > 0, np.repeat(values, lengths), elsewhere).astype(np.float32)

    return MicroBatch(
        token_ids_T=np.concatenate([s.token_ids for s in sequences]).astype(np.int64),
        positions_T=np.concatenate([np.arange(n) for n in lengths]).astype(np.int64),
        lengths_S=np.asarray(lengths, np.int64),
        completion_lengths_S=np.asarray(completion_lengths, np.int64),
        loss_mask_T=mask_T,
        loss_weight_T=at_mask([s.weight for s in sequences], 0.0),
        advantages_T=at_mask([s.advantage for s in sequences], 0.0),
        labels_T=labels_T,
        sampler_logprobs_T=sampler_logprobs_T,
        temperature_T=at_mask([s.temperature for s in sequences], 1.0),  # 1 elsewhere: logits are divided by it
        teacher=teacher,
        fresh_T=fresh_T,
        shared_S=np.asarray(shared_tokens([s.prompt for s in sequences]), np.int64) if layout == "shared" else None,
    )
