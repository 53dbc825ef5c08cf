"""rl/data/packing.py: who counts, what each token weighs, and that no split changes the loss.

The model is a table: the logprob of a token is table[token id], so losses and gradients can be compared exactly.
"""

import math
import random

import numpy as np
import pytest
import torch

from rl.algorithms.policy_loss import nll_loss, policy_loss
from rl.config import LOSSES, GRPOConfig, LearnerConfig
from rl.data.packing import bin_lengths, deal_costs, pack, token_weight
from rl.data.sft_examples import pack_examples
from rl.data.shared_prompts import NO_GROUP, group_parts, shared_tokens
from rl.rollouts.step_metrics import batch_metrics
from rl.types import Example, Prompt, Rollout, RolloutGroup, ScoredGroup

VOCABULARY = 1000
TABLE = -1.5 + 0.4 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5), dtype=torch.float32)
NOISE = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(6), dtype=torch.float32)
MAX_NEW = 16


def config(**changes):
    plain = {"kl_coef": 0.0, "importance": "none", "loss": "grpo"}
    return GRPOConfig(**{**plain, **changes})


def group(draw, prompt_len, lengths, advantages, *, valid=None, truncated=(), uniform=False, rng=None, temperature=1.0):
    """A scored group with random token ids; sampler logprobs are the table's, moved by NOISE."""
    rng = rng or random.Random(draw)
    rollouts = []
    for g, n in enumerate(lengths):
        ids = np.array([rng.randrange(1, VOCABULARY) for _ in range(n)], np.int32)
        logprobs = (TABLE[ids] - 0.3 * NOISE[ids]).numpy()
        reason = "length" if g in truncated else "stop"
        rollouts.append(Rollout(ids, logprobs, "", reason, temperature, policy_version=0, seed=g))
    prompt = Prompt(draw, draw, [rng.randrange(1, VOCABULARY) for _ in range(prompt_len)], "", "", {})
    valid = valid or [True] * len(lengths)
    rewards = list(advantages)
    return ScoredGroup(RolloutGroup(prompt, rollouts), rewards, [{} for _ in lengths], rewards, valid, uniform)


def some_groups(num=6, size=4, seed=0):
    rng = random.Random(seed)
    return [
        group(p, rng.randint(1, 9), [rng.randint(1, MAX_NEW) for _ in range(size)],
              [rng.choice([-1.5, -0.5, 0.5, 2.0]) for _ in range(size)], rng=rng)
        for p in range(num)
    ]  # fmt: skip


def packed(groups, cfg=None, *, ranks=1, budget=64, layout="rows", seed=0):
    learner = LearnerConfig(ranks=ranks, micro_batch_tokens=budget)
    return pack(groups, grpo=cfg or config(), learner=learner, max_new_tokens=MAX_NEW, layout=layout, seed=seed)


def loss_and_grad(cfg, updates):
    """Sum of policy_loss over all updates, ranks and micro-batches, and its gradient with respect to the table."""
    table = TABLE.clone().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for mb in (mb for update in updates for mb in micro_batches(update)):
        ids = torch.from_numpy(mb.token_ids_T)
        loss, _ = policy_loss(
            cfg, logprobs_T=table[ids], old_logprobs_T=TABLE[ids] - 0.2 * NOISE[ids],
            sampler_logprobs_T=torch.from_numpy(mb.sampler_logprobs_T), ref_logprobs_T=TABLE[ids] + 0.1 * NOISE[ids],
            advantages_T=torch.from_numpy(mb.advantages_T), loss_mask_T=torch.from_numpy(mb.loss_mask_T),
            loss_weight_T=torch.from_numpy(mb.loss_weight_T), sequence_T=torch.from_numpy(mb.sequence_T),
            entropy_T=None,
        )  # fmt: skip
        total = total + loss
    total.backward() if total.requires_grad else None
    return total.item(), (torch.zeros_like(table) if table.grad is None else table.grad)


def assert_same(a, b):
    assert a[0] == pytest.approx(b[0], rel=1e-5, abs=1e-7)
    assert torch.allclose(a[1], b[1], rtol=1e-4, atol=1e-7)
    assert a[1].abs().max() > 1e-4


def micro_batches(update):
    """Of all ranks, one after the other."""
    return [mb for rank in update.micro_batches_R for mb in rank]


def sequences(update):
    """Every computed sequence of an update as (token ids, number of completion tokens), dummies left out."""
    found = []
    for mb in micro_batches(update):
        at = 0
        for n, completion in zip(mb.lengths_S.tolist(), mb.completion_lengths_S.tolist(), strict=True):
            if completion:
                found.append((tuple(mb.token_ids_T[at : at + n].tolist()), completion))
            at += n
    return found


def wanted_sequences(groups):
    return [
        (tuple(s.group.prompt.token_ids) + tuple(r.token_ids_T.tolist()), len(r.token_ids_T))
        for s in groups
        for r in s.group.rollouts_G
    ]


# ------------------------------------------------------------------------------------------------ one micro-batch


def test_a_micro_batch_holds_prompt_and_completion_with_everything_aligned():
    one = group(7, 2, [3], [1.5], temperature=0.7)
    [update] = packed([one])
    [[mb]] = update.micro_batches_R
    rollout = one.group.rollouts_G[0]
    assert mb.token_ids_T.tolist() == one.group.prompt.token_ids + rollout.token_ids_T.tolist()
    assert mb.positions_T.tolist() == [0, 1, 2, 3, 4]
    assert mb.sequence_T.tolist() == [0] * 5
    assert (mb.lengths_S.tolist(), mb.completion_lengths_S.tolist()) == ([5], [3])
    assert mb.loss_mask_T.tolist() == [0, 0, 1, 1, 1]
    assert mb.loss_weight_T.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert mb.advantages_T.tolist() == [0, 0, 1.5, 1.5, 1.5]
    assert mb.sampler_logprobs_T.tolist() == [0, 0, *rollout.logprobs_T.tolist()]
    assert mb.temperature_T.tolist() == pytest.approx([1, 1, 0.7, 0.7, 0.7])
    assert mb.token_ids_T.dtype == mb.positions_T.dtype == mb.lengths_S.dtype == mb.sequence_T.dtype == np.int64
    floats = (mb.loss_mask_T, mb.loss_weight_T, mb.advantages_T, mb.sampler_logprobs_T, mb.temperature_T)
    assert all(array.dtype == np.float32 and len(array) == 5 for array in floats)
    assert (update.num_loss_tokens, update.num_sequences, update.num_skipped) == (3, 1, 0)


def test_positions_and_sequence_numbers_restart_with_each_sequence():
    [update] = packed([group(0, 1, [3, 1], [1.0, -1.0])])
    [[mb]] = update.micro_batches_R
    assert mb.positions_T.tolist() == [0, 1, 2, 3, 0, 1]
    assert mb.sequence_T.tolist() == [0, 0, 0, 0, 1, 1]
    assert mb.loss_mask_T.tolist() == [0, 1, 1, 1, 0, 1]


def test_the_stop_token_is_in_the_loss_and_the_last_prompt_token_is_not():
    stop = 999
    one = group(0, 3, [4], [1.0])
    one.group.rollouts_G[0].token_ids_T[-1] = stop
    [[mb]] = packed([one])[0].micro_batches_R
    assert mb.token_ids_T[-1] == stop
    assert mb.loss_mask_T[-1] == 1
    assert mb.loss_weight_T[-1] > 0
    assert mb.loss_mask_T[2] == 0
    assert mb.loss_mask_T[3] == 1


# --------------------------------------------------------------------------------------------------- denominators


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("grpo", (1 / 4, 1 / 12)),
        ("gspo", (1 / 4, 1 / 12)),
        ("dapo", (1 / 8, 1 / 8)),
        ("cispo", (1 / 8, 1 / 8)),
        ("dr_grpo", (1 / 32, 1 / 32)),
    ],
)
def test_weights_of_a_completion_of_two_and_one_of_six_tokens(loss, expected):
    [[mb]] = packed([group(0, 1, [2, 6], [1.0, -1.0])], config(loss=loss))[0].micro_batches_R
    assert mb.lengths_S.tolist() == [7, 3]
    weights = (mb.loss_weight_T[8], mb.loss_weight_T[1])
    assert weights == pytest.approx(expected)
    assert (mb.loss_weight_T[mb.loss_mask_T == 0] == 0).all()


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="unknown loss 'ppo'"):
        token_weight("ppo", length=1, num_rollouts=1, num_tokens=1, max_new_tokens=1)


def reference_loss(cfg, rollouts):
    """The printed objective over (ids, advantage) of the rollouts that count, straight from the papers' sums."""
    total, tokens, n = 0.0, sum(len(ids) for ids, _ in rollouts), len(rollouts)
    for ids, adv in rollouts:
        log_ratio = (0.2 * NOISE[ids]).double()
        ratio = torch.exp(log_ratio)
        if cfg.loss == "gspo":
            ratio = torch.exp(log_ratio.mean()).expand(len(ids))
        if cfg.loss == "cispo":
            terms = torch.clamp(ratio, max=1 + cfg.clip_high) * adv * TABLE[ids].double()
        else:
            terms = torch.minimum(ratio * adv, ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * adv)
        scale = {"grpo": 1 / (len(ids) * n), "gspo": 1 / (len(ids) * n), "dr_grpo": 1 / (n * MAX_NEW)}
        total -= terms.sum().item() * scale.get(cfg.loss, 1 / tokens)
    return total


@pytest.mark.parametrize("loss", LOSSES)
def test_the_summed_loss_is_the_printed_one_with_uneven_lengths_zero_advantages_and_invalid_samples(loss):
    cfg = config(loss=loss, overlong="mask")
    groups = [
        group(0, 3, [2, 9, 5], [1.0, -2.0, 0.0]),
        group(1, 1, [7, 7, 16], [0.5, 3.0, 1.0], valid=[True, False, True], truncated=[2]),
        group(2, 2, [4, 1], [0.0, 0.0], uniform=True),
    ]
    counting = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    rollouts = [(groups[p].group.rollouts_G[g].token_ids_T, groups[p].advantages_G[g]) for p, g in counting]
    updates = packed(groups, cfg, budget=24)
    assert loss_and_grad(cfg, updates)[0] == pytest.approx(reference_loss(cfg, rollouts), rel=1e-5)
    assert (updates[0].num_sequences, updates[0].num_skipped) == (6, 3)
    assert updates[0].num_loss_tokens == 2 + 9 + 7


@pytest.mark.parametrize("loss", LOSSES)
def test_leaving_out_rollouts_without_advantage_changes_neither_loss_nor_gradient(loss):
    groups = [group(0, 2, [3, 5, 2], [1.0, 0.0, -1.0]), group(1, 2, [4, 4], [0.0, 0.0], uniform=True)]
    elided = packed(groups, config(loss=loss))
    # A KL in the packer's config makes it compute every rollout; the loss below has none in either case.
    full = packed(groups, config(loss=loss, kl_coef=0.1))
    assert (elided[0].num_skipped, full[0].num_skipped) == (3, 0)
    assert len(sequences(elided[0])) == 2
    assert len(sequences(full[0])) == 5
    assert_same(loss_and_grad(config(loss=loss), elided), loss_and_grad(config(loss=loss), full))


def test_with_a_kl_every_counted_rollout_is_computed_in_the_reward_form_too():
    groups = [group(0, 2, [3, 5], [0.0, 0.0], uniform=True)]
    for estimator in ("k3", "k1_in_reward"):
        [update] = packed(groups, config(kl_coef=0.01, kl_estimator=estimator))
        assert len(sequences(update)) == 2
        assert update.num_skipped == 0


@pytest.mark.parametrize(("uniform_groups", "counted"), [("keep", 4), ("drop", 2), ("refill", 2)])
def test_uniform_groups_count_only_when_kept(uniform_groups, counted):
    groups = [group(0, 1, [2, 2], [1.0, -1.0]), group(1, 1, [2, 2], [0.0, 0.0], uniform=True)]
    [update] = packed(groups, config(uniform_groups=uniform_groups))
    assert update.num_sequences == counted
    weights = [w for mb in micro_batches(update) for w in mb.loss_weight_T.tolist() if w]
    assert weights == pytest.approx([1 / (2 * counted)] * 4)


@pytest.mark.parametrize(("overlong", "counted"), [("keep", 2), ("mask", 1)])
def test_truncated_rollouts_are_in_neither_sum_only_with_overlong_mask(overlong, counted):
    [update] = packed([group(0, 1, [2, 4], [1.0, -1.0], truncated=[1])], config(overlong=overlong, loss="dapo"))
    assert update.num_sequences == counted
    assert len(sequences(update)) == counted
    assert update.micro_batches_R[0][0].loss_weight_T.max() == pytest.approx(1 / (6 if counted == 2 else 2))


# ------------------------------------------------------------------------------------------------------ invariances


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_the_same_for_any_number_of_micro_batches_and_ranks_in_every_layout(loss):
    groups = some_groups()
    cfg = config(loss=loss, kl_coef=0.1, importance="sequence_truncate")
    base = packed(groups, cfg, budget=1000)
    assert [len(rank) for rank in base[0].micro_batches_R] == [1]
    want = loss_and_grad(cfg, base)
    for ranks, budget, layout in [
        (1, 170, "rows"),
        (1, 25, "packed"),
        (2, 64, "rows"),
        (3, 64, "packed"),
        (7, 99, "rows"),
        (1, 25, "shared"),
        (3, 64, "shared"),
    ]:
        updates = packed(groups, cfg, ranks=ranks, budget=budget, layout=layout)
        assert len(updates[0].micro_batches_R) == ranks
        assert sum(map(len, updates[0].micro_batches_R)) >= 4 or ranks == 1
        assert_same(loss_and_grad(cfg, updates), want)


@pytest.mark.parametrize("updates_per_step", [1, 4])
def test_the_order_in_which_groups_arrive_changes_nothing_at_all(updates_per_step):
    groups = some_groups()
    cfg = config(updates_per_step=updates_per_step)
    one, other = packed(groups, cfg), packed([groups[i] for i in (3, 0, 5, 1, 4, 2)], cfg)
    for a, b in zip(one, other, strict=True):
        assert sequences(a) == sequences(b)
        assert loss_and_grad(cfg, [a])[0] == loss_and_grad(cfg, [b])[0]


@pytest.mark.parametrize("layout", ["rows", "packed", "shared"])
@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("seed", range(8))
def test_every_sequence_appears_once_within_the_budget_and_ranks_get_equal_numbers(layout, ranks, seed):
    groups = some_groups(num=random.Random(seed).randint(1, 9), size=5, seed=seed)
    [update] = packed(groups, ranks=ranks, budget=40, layout=layout)
    assert sorted(sequences(update)) == sorted(wanted_sequences(groups))
    assert len(update.micro_batches_R) == ranks
    assert len({len(rank) for rank in update.micro_batches_R}) == 1
    for mb in micro_batches(update):
        assert 0 < (mb.num_tokens if layout == "packed" else mb.row_tokens) <= 40
        assert mb.lengths_S.sum() == mb.num_tokens


def test_ranks_get_about_the_same_work():
    for layout in ("rows", "packed", "shared"):
        [update] = packed(some_groups(num=5, size=8), ranks=4, budget=32, layout=layout)
        costs_R = [[mb.num_tokens if layout == "packed" else mb.row_tokens for mb in r] for r in update.micro_batches_R]
        work = [sum(costs) for costs in costs_R]
        assert max(work) <= 1.02 * sum(work) / 4, costs_R


def test_a_groups_prompt_counts_once_wherever_its_members_lie_together():
    groups = [group(0, 4, [3, 5, 2], [1.0, -1.0, 1.0]), group(1, 2, [6, 1], [1.0, -1.0])]
    [update] = packed(groups, layout="shared")
    [[mb]] = update.micro_batches_R
    assert mb.lengths_S.tolist() == [7, 9, 6, 8, 3]
    assert mb.shared_S.tolist() == [0, 4, 4, 0, 2]
    assert (mb.num_tokens, mb.row_tokens) == (33, 23)
    assert update.padding_share == 0
    assert update.shared_share == pytest.approx(10 / 33)
    assert batch_metrics([update])["batch/shared_share"] == pytest.approx(10 / 33)
    for layout in ("rows", "packed"):
        assert all(mb.shared_S is None for mb in micro_batches(packed(groups, layout=layout)[0]))


def test_a_group_larger_than_the_budget_is_cut_and_each_part_has_the_prompt():
    groups = [group(0, 4, [3, 5, 2, 6], [1.0, -1.0, 1.0, -1.0])]
    [update] = packed(groups, layout="shared", budget=12)
    assert sorted((mb.lengths_S.tolist(), mb.shared_S.tolist()) for mb in micro_batches(update)) == [
        ([6, 10], [0, 4]),
        ([7, 9], [0, 4]),
    ]
    assert sorted(sequences(update)) == sorted(wanted_sequences(groups))
    assert group_parts([6, 4, 5, 5], [(0, 2), (0, 2), (0, 2), (1, 2)], 10) == ([[0, 1], [2], [3]], [8, 5, 5])
    with pytest.raises(ValueError, match="a sequence of 13 tokens"):
        packed([group(0, 4, [3, 9], [1.0, -1.0])], layout="shared", budget=12)


def test_only_neighbours_of_one_group_share_their_prompt():
    assert shared_tokens([(0, 3), (0, 3), (1, 5), (0, 3), NO_GROUP, NO_GROUP]) == [0, 3, 0, 0, 0, 0]


def test_work_is_dealt_largest_first_and_then_evened_out_by_swaps():
    assert deal_costs([9, 7, 6, 5, 4, 1], 2) == [[0, 2, 5], [1, 3, 4]]
    assert deal_costs([1, 4, 5, 6, 7, 9], 2) == [[5, 3, 0], [4, 2, 1]]
    assert deal_costs([3, 3, 3, 3], 2) == [[0, 2], [1, 3]]
    assert deal_costs([5], 1) == [[0]]


def test_micro_batches_of_the_same_turn_are_of_similar_size():
    [update] = packed(some_groups(num=5, size=8), ranks=4, budget=32)
    for rank in update.micro_batches_R:
        costs = [mb.row_tokens for mb in rank]
        assert costs == sorted(costs, reverse=True)


def test_packing_twice_gives_the_same_arrays():
    cfg = config(updates_per_step=3)
    first, second = (packed(some_groups(), cfg, ranks=2, seed=9) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        for mb, same in zip(micro_batches(a), micro_batches(b), strict=True):
            assert np.array_equal(mb.token_ids_T, same.token_ids_T)
            assert np.array_equal(mb.loss_weight_T, same.loss_weight_T)


# ---------------------------------------------------------------------------------------------------------- updates


def test_updates_share_out_the_rollouts_by_a_seeded_shuffle_that_ignores_the_ranks():
    groups = some_groups(num=4, size=6)
    cfg = config(updates_per_step=4)
    updates = packed(groups, cfg, seed=1)
    assert [u.num_sequences for u in updates] == [6, 6, 6, 6]
    assert sorted(s for u in updates for s in sequences(u)) == sorted(wanted_sequences(groups))
    first = {ids for ids, _ in sequences(updates[0])}
    assert sum(any(ids in first for ids, _ in wanted_sequences([g])) for g in groups) > 1  # not group by group
    on_ranks = packed(groups, cfg, ranks=3, seed=1)
    assert [sorted(sequences(u)) for u in updates] == [sorted(sequences(u)) for u in on_ranks]
    assert [sorted(sequences(u)) for u in updates] != [sorted(sequences(u)) for u in packed(groups, cfg, seed=2)]


def test_each_update_has_its_own_denominators():
    updates = packed([group(0, 1, [2, 6], [1.0, -1.0])], config(updates_per_step=2, loss="dapo"))
    found = {u.num_loss_tokens: u.micro_batches_R[0][0].loss_weight_T.max() for u in updates}
    assert found == {2: pytest.approx(1 / 2), 6: pytest.approx(1 / 6)}


def test_an_update_with_nothing_to_compute_has_no_micro_batches():
    kept, dropped = (
        packed([group(0, 1, [2, 3], [0.0, 0.0], uniform=True)], config(uniform_groups=u), ranks=2)[0]
        for u in ("keep", "drop")
    )
    assert kept.micro_batches_R == dropped.micro_batches_R == [[], []]
    assert (kept.num_sequences, kept.num_skipped, kept.num_loss_tokens) == (2, 2, 0)
    assert (dropped.num_sequences, dropped.num_skipped) == (0, 0)
    assert [u.micro_batches_R for u in packed([], config(updates_per_step=2), ranks=2)] == [[[], []], [[], []]]


def test_more_updates_than_rollouts_leave_some_empty():
    updates = packed([group(0, 1, [2], [1.0])], config(updates_per_step=3))
    assert sorted(u.num_sequences for u in updates) == [0, 0, 1]


# ------------------------------------------------------------------------------------------------------------- bins


def test_rows_put_similar_lengths_together():
    assert bin_lengths([5, 4, 3, 2], 10, "rows") == [[0, 1], [2, 3]]
    assert bin_lengths([6, 2, 4, 8], 10, "rows") == [[3], [0], [2, 1]]


def test_packed_is_best_fit_decreasing():
    assert bin_lengths([6, 2, 4, 8], 10, "packed") == [[3, 1], [0, 2]]
    # 3 fits into what 7 leaves and into what 6 leaves; the fuller one takes it.
    assert bin_lengths([6, 7, 3], 10, "packed") == [[1, 2], [0]]


def test_packed_wastes_little():
    rng = random.Random(1)
    lengths = [rng.randint(10, 300) for _ in range(400)]
    assert len(bin_lengths(lengths, 1000, "packed")) <= math.ceil(sum(lengths) / 1000) + 1


def test_rows_waste_little():
    [update] = packed(some_groups(num=40, size=8), budget=128)
    assert update.padding_share < 0.12


def test_a_sequence_that_fits_nowhere_is_refused_in_words():
    with pytest.raises(ValueError, match=r"12 tokens .* learner.micro_batch_tokens \(now 10\)"):
        packed([group(0, 2, [10], [1.0])], budget=10)
    with pytest.raises(ValueError, match="expected rows or packed"):
        packed([group(0, 2, [10], [1.0])], layout="auto")


def test_large_bins_are_split_before_dummies_are_added():
    for layout in ("rows", "packed"):
        [update] = packed([group(0, 1, [4, 4, 4, 4], [1.0, 1.0, -1.0, -1.0])], ranks=2, layout=layout)
        assert [[mb.lengths_S.tolist() for mb in rank] for rank in update.micro_batches_R] == [[[5, 5]], [[5, 5]]]


def test_a_rank_without_work_gets_a_dummy_of_two_tokens_that_weighs_nothing():
    [update] = packed([group(0, 1, [4], [1.0])], ranks=3)
    (first,), (second,), (third,) = update.micro_batches_R
    assert first.completion_lengths_S.tolist() == [4]
    for dummy in (second, third):
        assert dummy.lengths_S.tolist() == [2]
        assert dummy.completion_lengths_S.tolist() == [0]
        assert dummy.loss_mask_T.tolist() == dummy.loss_weight_T.tolist() == [0.0, 0.0]
        assert dummy.temperature_T.tolist() == [1.0, 1.0]
    assert update.num_loss_tokens == 4


# --------------------------------------------------------------------------------------------------------- bad data


def test_data_that_cannot_be_trained_on_is_named():
    short = group(3, 1, [4], [1.0])
    rollout = short.group.rollouts_G[0]
    broken = Rollout(rollout.token_ids_T, rollout.logprobs_T[:-1], "", "stop", 1.0, 0, 0)
    short.group.rollouts_G[0] = broken
    with pytest.raises(ValueError, match=r"prompt 3 \(draw 3\), sample 0: 4 tokens but 3 logprobs"):
        packed([short])
    with pytest.raises(ValueError, match="sample 1: its advantage is nan"):
        packed([group(0, 1, [1, 1], [1.0, float("nan")])])
    bad = group(0, 1, [2], [1.0])
    bad.group.rollouts_G[0].logprobs_T[1] = -np.inf
    with pytest.raises(ValueError, match="logprob that is not finite"):
        packed([bad])
    with pytest.raises(ValueError, match="empty prompt"):
        packed([group(0, 0, [2], [1.0])])


def test_with_a_teacher_a_rollout_without_advantage_is_computed():
    groups = [group(0, 2, [3, 4], [0.0, 0.0], uniform=True)]
    assert packed(groups, config(kl_coef=0.0))[0].num_skipped == 2
    (update,) = packed(groups, config(kl_coef=0.0, teacher="somewhere"))
    assert (update.num_skipped, update.num_loss_tokens) == (0, 7)


# -------------------------------------------------------------------------------------------------------------- SFT


def examples(*lengths, prompt=2):
    rng = random.Random(sum(lengths))
    return [Example([rng.randrange(1, VOCABULARY) for _ in range(prompt + n)], [0] * prompt + [1] * n) for n in lengths]


def sft(batch, **learner):
    return pack_examples(batch, learner=LearnerConfig(**{"micro_batch_tokens": 64, **learner}), layout="rows")


def test_sft_tokens_weigh_one_over_all_learnt_tokens():
    update = sft(examples(3, 5))
    [[mb]] = update.micro_batches_R
    assert sorted(set(mb.loss_weight_T.tolist())) == pytest.approx([0.0, 1 / 8])
    assert np.array_equal(mb.loss_weight_T > 0, mb.loss_mask_T > 0)
    assert (update.num_loss_tokens, update.num_sequences, update.num_skipped) == (8, 2, 0)
    assert not mb.advantages_T.any()
    assert not mb.sampler_logprobs_T.any()
    assert (mb.temperature_T == 1).all()


def test_the_sft_loss_is_the_mean_nll_for_any_split():
    batch = examples(3, 9, 1, 6, 6, 2)
    mean = -np.mean([TABLE[t].item() for e in batch for t, m in zip(e.token_ids, e.loss_mask_T, strict=True) if m])
    for learner in ({}, {"micro_batch_tokens": 12}, {"ranks": 2}, {"ranks": 5, "micro_batch_tokens": 20}):
        total = 0.0
        for mb in micro_batches(sft(batch, **learner)):
            ids, mask, weight = map(torch.from_numpy, (mb.token_ids_T, mb.loss_mask_T, mb.loss_weight_T))
            total += nll_loss(TABLE[ids], mask, weight)[0].item()
        assert total == pytest.approx(mean, rel=1e-5)


def test_an_example_may_learn_tokens_in_several_places():
    update = sft([Example([5, 6, 7, 8, 9], [0, 1, 0, 0, 1])])
    assert update.micro_batches_R[0][0].loss_weight_T.tolist() == [0, 0.5, 0, 0, 0.5]


def test_an_example_without_learnt_tokens_is_counted_and_not_computed():
    update = sft([*examples(2), Example([1, 2], [0, 0])])
    assert (update.num_sequences, update.num_skipped) == (2, 1)
    assert sum(len(mb.lengths_S) for mb in update.micro_batches_R[0]) == 1
    assert sft([Example([1, 2], [0, 0])], ranks=2).micro_batches_R == [[], []]


def test_an_example_that_cannot_be_learnt_is_refused():
    with pytest.raises(ValueError, match="example 0: 3 tokens, 2 in loss_mask_T"):
        sft([Example([1, 2, 3], [0, 1])])
    with pytest.raises(ValueError, match="example 1: its first token cannot be learnt"):
        sft([*examples(1), Example([1, 2], [1, 1])])
