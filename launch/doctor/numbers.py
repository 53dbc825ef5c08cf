"""Checks of logprobs on both sides, of what an update moves, and of its loss. _M tokens in the loss mask, _R ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from launch.doctor.check import Check, Table, failed, passed, skipped, warned
from launch.doctor.exam import Exam
from rl.types import MicroBatch, PackedBatch, RolloutGroup, StepStats

BINS = (1, 4, 16, 64, 256, 1024, 4096)
"""Last positions of the table's rows, counted from 1 at the first sampled token."""
LOCAL_FACTOR = 10
"""A row of the table, or the end token, may be this much over the limit of the whole: it has few tokens."""

# ------------------------------------------------------------------------------------------------ logprobs


@dataclass(frozen=True)
class Gaps:
    """|sampler - learner| logprob of each sampled token, nats, with the token's position in its completion, from 1."""

    gap_M: np.ndarray
    place_M: np.ndarray
    last_M: np.ndarray

    def table(self) -> Table:
        """One row per range of positions: tokens, mean and largest gap. The last row: the completions' last tokens."""
        rows = [("position", "tokens", "mean", "max")]
        for label, chosen_M in self.rows():
            gap_M = self.gap_M[chosen_M]
            rows.append((label, str(len(gap_M)), f"{gap_M.mean():.1e}", f"{gap_M.max():.1e}"))
        return tuple(rows)

    def rows(self) -> list[tuple[str, np.ndarray]]:
        """(label, mask of its tokens) of each row that has tokens."""
        out, low = [], 1
        for high in BINS:
            out.append(
                (f"{low}" if low == high else f"{low} to {high}", (self.place_M >= low) & (self.place_M <= high))
            )
            low = high + 1
        out += [(f"from {low}", self.place_M >= low), ("last token", self.last_M)]
        return [(label, chosen_M) for label, chosen_M in out if chosen_M.any()]


def measure_gaps(exam: Exam, micro_batches_R: list[list[MicroBatch]], *, raw: bool = False) -> Gaps:
    """Let the learners score what was sampled. raw: as if there were no temperature."""
    if raw:
        micro_batches_R = [
            [replace(mb, temperature_T=np.ones_like(mb.temperature_T)) for mb in rank] for rank in micro_batches_R
        ]
    learner_R = exam.backend.score(micro_batches_R)
    gaps, places, lasts = [], [], []
    for rank, scored in zip(micro_batches_R, learner_R, strict=True):
        for mb, logprobs_M in zip(rank, scored, strict=True):
            gaps.append(np.abs(mb.sampler_logprobs_T[mb.loss_mask_T > 0] - logprobs_M))
            places += [np.arange(1, n + 1) for n in mb.completion_lengths_S]
            lasts += [np.arange(1, n + 1) == n for n in mb.completion_lengths_S]
    return Gaps(np.concatenate(gaps), np.concatenate(places), np.concatenate(lasts))


def logprobs(exam: Exam) -> Check:
    """Sampler and learner give newly sampled tokens the same logprobs, at a temperature other than 1."""
    groups = exam.sample_groups()
    micro_batches_R = exam.micro_batches(groups)
    found = measure_gaps(exam, micro_batches_R)
    mean, largest, limit = float(found.gap_M.mean()), float(found.gap_M.max()), exam.cfg.gap_limit
    exam.gap = mean
    measured = (
        f"|sampler - learner| is {mean:.1e} nats on average over {len(found.gap_M)} tokens at temperature "
        f"{exam.temperature:g}, {largest:.1e} at most; the limit of the mean is {limit:g}"
    )
    if mean <= limit:
        for label, chosen_M in found.rows():
            if found.gap_M[chosen_M].mean() > LOCAL_FACTOR * limit:
                return failed(
                    f"{measured}; but {found.gap_M[chosen_M].mean():.1e} at position {label}",
                    "the two agree but for one place: its token is scored with another context, or the end token is "
                    "treated apart",
                    "compare what the sampler is given and what the packer lays out (rl/data/packing.py) at that place",
                    found.table(),
                )
        return passed(measured, found.table())
    cause, remedy = _why_they_differ(exam, micro_batches_R, found)
    return failed(measured, cause, remedy, found.table())


def _why_they_differ(exam: Exam, micro_batches_R: list[list[MicroBatch]], found: Gaps) -> tuple[str, str]:
    raw = float(measure_gaps(exam, micro_batches_R, raw=True).gap_M.mean())
    if raw <= exam.cfg.gap_limit:
        return (
            f"the sampler reports raw logprobs, from before the temperature: against those the gap is {raw:.1e}",
            "run vLLM with logprobs_mode=processed_logprobs (rl/workers/sampler/sampler.py)",
        )
    first, rest = found.gap_M[found.place_M == 1].mean(), found.gap_M[found.place_M > 16]
    if len(rest) and first > 3 * rest.mean():
        return (
            "the gap is largest at the first tokens: the sampler saw another prompt than the learner scores (template, "
            "begin token)",
            "look at the check of the template, and at how requests reach vLLM",
        )
    return (
        "the sampler holds other weights than the learner, or computes with another precision or another context",
        "look at the check of the weights on both sides; in bfloat16 compare with model.dtype=float32",
    )


# ------------------------------------------------------------------------------------------------ weights on both sides


def weights_arrive(exam: Exam) -> Check:
    """After an update and a sync, each tensor is equal on both sides: as it was sent, and as the sampler holds it."""
    exam.sync()
    counts = []
    for i, tensors in enumerate(exam.backend.synced_tensors()):
        stale = sorted(n for n, crc in tensors.resident.items() if crc != tensors.learner[n])
        wrong = sorted(n for n, crc in tensors.received.items() if crc != tensors.learner.get(n))
        missing = sorted(set(tensors.learner) - set(tensors.received) - set(tensors.resident))
        for names, what, cause in (
            (stale, "stand in the sampler with other bytes", "the sampler keeps old weights there: what the learner "
             "sends does not reach them (a tied head must be sent under its own name)"),
            (wrong, "arrived with other bytes", "the learner sends something else than it trains"),
            (missing, "never arrived", "the learner does not send them, and the sampler does not have them"),
        ):  # fmt: skip
            if names:
                return failed(
                    f"sampler {i}: {len(names)} of {len(tensors.learner)} tensors {what}: {shorten(names)}",
                    cause,
                    "look at the names in Learner._point_sender and at what vLLM's load_weights does with them",
                )
        counts.append((len(tensors.received), len(tensors.resident)))
    received, resident = counts[0]
    return passed(
        f"after an update, {received} tensors arrived at {len(counts)} sampler(s) as they were sent, and {resident} "
        "stand there under their own names (embedding, head and vectors) with the learner's bytes"
    )


def shorten(names: Sequence[str], most: int = 4) -> str:
    """The first names and the number of the others; layers instead of names when there are many."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


# ------------------------------------------------------------------------------------------------ one update


@dataclass(frozen=True)
class Update:
    """The update that moved the weights. expected: its loss, computed here. master, reference: sums by name."""

    stats: StepStats
    expected: float
    rollouts: int
    before: dict[str, float]
    after: dict[str, float]
    reference_before: dict[str, float]
    reference_after: dict[str, float]


FEW_MOVED = 1e-3
"""Below this share of changed weights an update hardly reaches the model: the doctor warns."""

ADVANTAGES = (1.0, -0.5, 0.25, 0.75)
"""Made up, none 0, and their sum is not 0 either: a loss of 0 would hide a wrong denominator."""


def take_update(exam: Exam) -> Update:
    groups = _that_fit(exam)
    batch = exam.pack(groups, exam.cfg.learner.micro_batch_tokens, ADVANTAGES)
    expected = expected_loss(exam, batch, groups)
    backend = exam.backend
    before, reference_before = backend.master_sums(), backend.reference_sums()
    stats = backend.step([batch])
    return Update(
        stats, expected, sum(len(g.rollouts_G) for g in groups),
        before, backend.master_sums(), reference_before, backend.reference_sums(),
    )  # fmt: skip


def _that_fit(exam: Exam) -> list[RolloutGroup]:
    """As many samples as fit into one micro-batch on each rank, of several prompts if possible."""
    size = len(exam.groups[0].rollouts_G)
    choices = [(p, g) for p in range(1, len(exam.groups) + 1) for g in range(1, size + 1)]
    for p, g in sorted(choices, key=lambda c: (-c[0] * c[1], -c[0])):
        groups = [replace(group, rollouts_G=group.rollouts_G[:g]) for group in exam.groups[:p]]
        batch = exam.pack(groups, exam.cfg.learner.micro_batch_tokens, ADVANTAGES)
        if len(batch.micro_batches_R[0]) == 1:
            return groups
    return [replace(exam.groups[0], rollouts_G=exam.groups[0].rollouts_G[:1])]


def parameters_move(exam: Exam, update: Update) -> Check:
    """Every trained parameter moves in one update."""
    if update.stats.updates != 1:
        return failed(
            f"the update was skipped: {update.stats.skipped_updates} non-finite gradient(s)",
            "the loss or a logprob is not finite",
            "look at the check of the logprobs; try model.dtype=float32",
        )
    trained = [name for name in update.before if not exam.cfg.model.lora.rank or ".lora_B." in name]
    still = [name for name in trained if update.before[name] == update.after[name]]
    measured = f"of {len(trained)} trained parameters, {len(trained) - len(still)} moved in one update"
    if still:
        layers = Counter(_layer(name) for name in still)
        return failed(
            f"{measured}; still: {shorten(still)} (in {shorten([f'{k}: {n}' for k, n in layers.items()])})",
            "no gradient reaches them: frozen (requires_grad off), left out of the optimiser, or not in the graph",
            "look for requires_grad_(False), a detach(), or names that the optimiser was not given",
        )
    moved = sorted(n for n in set(update.before) - set(trained) if update.before[n] != update.after[n])
    moved = [name for name in moved if ".lora_A." not in name]
    if moved:
        return failed(
            f"{measured}; but so did frozen weights: {shorten(moved)}",
            "the base under the adapters is trained too",
            "freeze all but the adapters (rl/model/lora.py)",
        )
    return passed(f"{measured} (gradient norm {update.stats.grad_norm:.3g})")


def weights_move(exam: Exam, update: Update) -> Check:
    """An update changes enough of the weights that compute. Weights that round back to their old value do not learn."""
    share = update.stats.metrics["policy/weights_moved"]
    cfg = exam.cfg
    measured = (
        f"{100 * share:.3g} % of the {cfg.model.dtype} weights changed in one update at learning rate "
        f"{update.stats.learning_rate:.3g}"
    )
    if share >= FEW_MOVED:
        return passed(measured)
    return warned(
        f"{measured}: almost nothing moves",
        f"steps this small round back to the old {cfg.model.dtype} weights"
        + ("" if cfg.learner.dither or cfg.model.dtype == "float32" else ", and learner.dither=false"),
        "use learner.dither=true, model.dtype=float32, or a higher learning rate",
    )


def _layer(name: str) -> str:
    """ "model.layers.3.mlp.up_proj.weight" -> "model.layers.3"; without a number, the name."""
    parts = name.split(".")
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: digits[0] + 1]) if digits else name


def reference_stays(exam: Exam, update: Update) -> Check:
    """The reference of the KL term does not move with the policy."""
    before, after = update.reference_before, update.reference_after
    if not before:
        return skipped("grpo.kl_coef=0: there is no reference")
    moved = [name for name in before if before[name] != after[name]]
    if moved:
        return failed(
            f"{len(moved)} of {len(before)} of the reference's parameters moved with the policy: {shorten(moved)}",
            "the reference shares tensors with the policy, so that the KL is always 0",
            "load the reference for itself, or copy its weights",
        )
    return passed(f"none of the reference's {len(before)} parameters moved in an update")


# ------------------------------------------------------------------------------------------------ the loss


def expected_loss(exam: Exam, batch: PackedBatch, groups: Sequence[RolloutGroup]) -> float:
    """The loss of an update whose ratios are 1 and whose KL is 0, from the rollouts instead of the packer's weights.

    N rollouts of |o| tokens with advantages A: grpo, gspo -mean(A); dapo -sum(A |o|) / sum |o|;
    dr_grpo -sum(A |o|) / (N max_new_tokens); cispo -sum(A log pi) / sum |o|.
    Lengths 2 and 6, A 1 and -0.5: grpo -0.25; dapo 1/8.
    """
    rollouts = [r for g in groups for r in g.rollouts_G]
    length_G = np.array([len(r.token_ids_T) for r in rollouts])
    advantage_G = np.array([ADVANTAGES[i % len(ADVANTAGES)] for i in range(len(rollouts))])
    loss = exam.cfg.grpo.loss
    if loss in ("grpo", "gspo"):
        return -float(advantage_G.mean())
    if loss == "dr_grpo":
        return -float((advantage_G * length_G).sum() / (len(rollouts) * exam.cfg.rollout.max_new_tokens))
    if loss == "dapo":
        return -float((advantage_G * length_G).sum() / length_G.sum())
    scored = zip(batch.micro_batches_R, exam.backend.score(batch.micro_batches_R), strict=True)
    weighed = sum(
        float((mb.advantages_T[mb.loss_mask_T > 0] * logprobs_M).sum())
        for rank, scored_rank in scored
        for mb, logprobs_M in zip(rank, scored_rank, strict=True)
    )
    return -weighed / float(length_G.sum())


def loss(exam: Exam, update: Update) -> Check:
    """The loss is what the rollouts give by hand, and loss and gradient do not depend on the micro-batches.

    To run after the update: the learning rate of the two further steps is 0, so that both have the same weights.
    """
    tolerance = 1e-3 if exam.cfg.model.dtype == "float32" else 0.05
    stats, n = update.stats, update.rollouts
    measured = f"{exam.cfg.grpo.loss} loss of {n} rollouts {stats.loss:.5f}, by hand {update.expected:.5f}"
    divided = (
        "the loss is divided by the wrong count: of sequences, tokens, micro-batches or ranks",
        "the denominator belongs into loss_weight_T (rl/data/packing.py), once; nothing after it may average again",
    )
    if not math.isclose(stats.loss, update.expected, rel_tol=tolerance, abs_tol=1e-5):
        return failed(f"{measured}: {stats.loss / update.expected:.3g} times as large", *divided)
    groups = _that_fit(exam)
    cuts = _cuts(exam, groups)
    if cuts is None:
        return passed(f"{measured}; a micro-batch holds too few sequences to cut it")
    one, many = (exam.backend.step([cut]) for cut in cuts)
    pieces = len(cuts[1].micro_batches_R[0])
    measured += (
        f"; in 1 and in {pieces} micro-batches {one.loss:.5f} and {many.loss:.5f}, gradient norm {one.grad_norm:.4g} "
        f"and {many.grad_norm:.4g}"
    )
    same = math.isclose(one.loss, many.loss, rel_tol=tolerance, abs_tol=1e-5)
    if not same or not math.isclose(one.grad_norm, many.grad_norm, rel_tol=tolerance):
        return failed(measured, *divided)
    return passed(measured)


def _cuts(exam: Exam, groups: Sequence[RolloutGroup]) -> tuple[PackedBatch, PackedBatch] | None:
    """The same rollouts in 1 micro-batch per rank, and in 4 or about as many; None when they cannot be split."""
    whole = exam.pack(groups, exam.cfg.learner.micro_batch_tokens, ADVANTAGES)
    longest = max(int(mb.lengths_S.max()) for rank in whole.micro_batches_R for mb in rank)
    rollouts = sum(len(g.rollouts_G) for g in groups)
    cut = [exam.pack(groups, longest * rows, ADVANTAGES) for rows in range(1, rollouts + 1)]
    cut = [batch for batch in cut if len(batch.micro_batches_R[0]) > 1]
    if len(whole.micro_batches_R[0]) != 1 or not cut:
        return None
    return whole, min(cut, key=lambda batch: abs(len(batch.micro_batches_R[0]) - 4))
