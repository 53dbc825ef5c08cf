"""rl/algorithms/policy_loss.py against values computed by hand, against autograd of the printed objectives, and by enumeration."""

import itertools
import math

import pytest
import torch

from rl.algorithms.policy_loss import (
    cispo_objective,
    clipped_objective,
    importance_weights,
    k1_in_reward,
    kl_estimate,
    logprob_gap,
    nll_loss,
    policy_loss,
    sequence_ratio,
)
from rl.config import CORRECTIONS, KL_ESTIMATORS, LOSSES, GRPOConfig


def config(**changes):
    """Plain on-policy GRPO, clip .2 / .28, no KL, no correction."""
    plain = {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0, "importance": "none"}
    return GRPOConfig(**{**plain, **changes})


def vec(*values):
    return torch.tensor(values, dtype=torch.float32)


def close(values):
    return pytest.approx(values, rel=1e-5, abs=1e-6)


def run(cfg, logprobs, old=None, *, sampler=None, ref=None, adv=None, mask=None, weight=None, sequence=None, ent=None):
    """policy_loss on lists; returns loss, gradient with respect to the logprobs, metrics."""
    n = len(logprobs)
    new_T = torch.tensor(logprobs, dtype=torch.float32, requires_grad=True)
    old = list(logprobs) if old is None else old
    loss, metrics = policy_loss(
        cfg,
        logprobs_T=new_T,
        old_logprobs_T=vec(*old),
        sampler_logprobs_T=vec(*(old if sampler is None else sampler)),
        ref_logprobs_T=None if ref is None else vec(*ref),
        advantages_T=vec(*(adv or [1.0] * n)),
        loss_mask_T=vec(*(mask or [1.0] * n)),
        loss_weight_T=vec(*(weight or [1.0] * n)),
        sequence_T=torch.tensor(sequence or [0] * n),
        entropy_T=None if ent is None else vec(*ent),
    )
    loss.backward()
    return loss.item(), new_T.grad.tolist(), {name: value.item() for name, value in metrics.items()}


def logs(*ratios):
    """Logprobs that have these ratios to old logprobs of 0."""
    return [math.log(r) for r in ratios]


ZEROS4 = [0.0, 0.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------- policy objectives


def test_the_clipped_objective_is_ppos_minimum_on_both_sides_and_for_both_signs():
    ratio, adv = vec(1.5, 0.5, 1.5, 0.5, 1.1), vec(1, 1, -1, -1, 2)
    assert clipped_objective(ratio, adv, 0.2, 0.28).tolist() == close([1.28, 0.5, -1.5, -0.8, 2.2])


def test_the_clip_stops_the_gradient_only_where_it_acts():
    ratios, adv = logs(1.5, 0.5, 1.5, 0.5), [1.0, 1.0, -1.0, -1.0]
    loss, grad, metrics = run(config(), ratios, ZEROS4, adv=adv)
    assert loss == close(-(1.28 + 0.5 - 1.5 - 0.8))
    assert grad == close([0.0, -0.5, 1.5, 0.0])  # -ratio * A where unclipped
    assert (metrics["clip_share_low"], metrics["clip_share_high"], metrics["tokens"]) == (1.0, 1.0, 4.0)


def test_low_and_high_bounds_are_separate():
    _, grad, _ = run(config(clip_low=0.6, clip_high=0.1), logs(1.2, 0.5), [0.0, 0.0], adv=[1.0, -1.0])
    assert grad == close([0.0, 0.5])


def test_r1s_clip_of_ten_only_caps_ratios_above_eleven_for_positive_advantages():
    cfg = config(clip_low=10.0, clip_high=10.0)
    _, grad, _ = run(cfg, logs(10.9, 11.1, 0.01, 50.0), ZEROS4, adv=[1.0, 1.0, -1.0, -1.0])
    assert grad == close([-10.9, 0.0, 0.01, 50.0])


def test_on_policy_the_loss_is_minus_the_advantage_and_the_gradient_too():
    for name in ("grpo", "dapo", "dr_grpo", "gspo"):
        loss, grad, _ = run(config(loss=name), [-1.0, -2.0], adv=[2.0, -3.0], weight=[0.5, 0.25])
        assert loss == close(-1.0 + 0.75)
        assert grad == close([-1.0, 0.75])


def test_dual_clip_bounds_the_objective_and_stops_the_gradient_for_negative_advantages_only():
    got = clipped_objective(vec(5, 2, 5, 0.5), vec(-1, -1, 1, -1), 0.2, 0.28, dual_clip=3.0)
    assert got.tolist() == close([-3.0, -2.0, 1.28, -0.8])
    _, grad, metrics = run(config(dual_clip=3.0), logs(5.0, 2.0), [0.0, 0.0], adv=[-1.0, -1.0])
    assert grad == close([0.0, 2.0])
    assert metrics["clip_share_dual"] == 1.0


def test_cispo_caps_the_weight_but_never_the_gradient_and_has_no_lower_bound():
    got = cispo_objective(vec(3.0, 0.01), vec(-1.0, -1.0), vec(1.0, 1.0), clip_high=1.0)
    assert got.tolist() == close([-2.0, -0.01])
    cfg = config(loss="cispo", clip_low=0.2, clip_high=1.0)
    _, grad, metrics = run(cfg, logs(3.0, 0.01, 3.0, 1.5), ZEROS4, adv=[1.0, 1.0, -2.0, 1.0])
    assert grad == close([-2.0, -0.01, 4.0, -1.5])
    assert (metrics["clip_share_low"], metrics["clip_share_high"]) == (0.0, 2.0)


# ------------------------------------------------------------------------------------------------------------- gspo


def test_the_sequence_ratio_is_the_geometric_mean_over_the_masked_in_tokens_of_each_sequence():
    mask = torch.tensor([False, True, True, True])
    got = sequence_ratio(vec(9.0, 0.2, 0.4, -1.0), torch.zeros(4), mask, torch.tensor([0, 0, 0, 1]))
    assert got[1:].tolist() == close([math.exp(0.3), math.exp(0.3), math.exp(-1.0)])


def test_gspo_has_the_loss_and_gradient_of_the_printed_sequence_objective():
    torch.manual_seed(1)
    lengths, adv, mask_out = [3, 5, 2, 4], [1.5, -0.7, 2.0, -1.0], [1, 2, 0, 1]
    shift = [0.05, -0.9, 0.6, 0.1]  # sequence 1 and 2 are clipped, 0 and 3 are not
    sequence = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    old = -torch.rand(14)
    new = (old + torch.tensor(shift)[sequence] + 0.1 * torch.randn(14)).requires_grad_()
    mask = torch.cat([torch.arange(n) >= out for n, out in zip(lengths, mask_out, strict=True)])
    counts = [n - out for n, out in zip(lengths, mask_out, strict=True)]

    printed = torch.zeros(())
    for s in range(4):
        own = (sequence == s) & mask
        ratio = torch.exp((new[own] - old[own]).mean())
        printed = printed - torch.minimum(ratio * adv[s], ratio.clamp(0.8, 1.28) * adv[s]) / 4
    (expected,) = torch.autograd.grad(printed, new)

    weight = torch.tensor([1 / (4 * counts[s]) for s in sequence.tolist()])
    loss, metrics = policy_loss(
        config(loss="gspo"), logprobs_T=new, old_logprobs_T=old, sampler_logprobs_T=old, ref_logprobs_T=None,
        advantages_T=torch.tensor(adv)[sequence], loss_mask_T=mask.float(), loss_weight_T=weight,
        sequence_T=sequence, entropy_T=None,
    )  # fmt: skip
    (got,) = torch.autograd.grad(loss, new)
    assert loss.item() == close(printed.item())
    assert got.tolist() == close(expected.tolist())
    assert got[sequence == 0].abs().sum() > 0
    assert got[sequence == 1].abs().sum() == 0
    assert (metrics["clip_share_low"].item(), metrics["clip_share_high"].item()) == (3.0, 2.0)


# ------------------------------------------------------------------------------------------------------------- KL


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5), ("k3_unbiased", math.exp(0.2) * (math.exp(-0.5) - 0.5))],
)
def test_kl_estimates_of_one_token(kind, expected):
    assert kl_estimate(kind, vec(-1.0), vec(-1.5), vec(-1.2)).item() == close(expected)


def test_k3_keeps_its_digits_near_zero_and_is_never_negative():
    r = vec(1e-4, -1e-4, 1e-3)
    got = kl_estimate("k3", r, torch.zeros(3))
    assert (got >= 0).all()
    assert got.tolist() == pytest.approx([5e-9, 5e-9, 5e-7], rel=0.01)


def expected_gradient(kind, logits, ref):
    """E over x ~ pi of the gradient of the estimate at x, exactly, by enumeration."""
    logp = torch.log_softmax(logits, 0)
    values = kl_estimate(kind, logp, ref, logp.detach())
    return torch.autograd.grad((logp.detach().exp() * values).sum(), logits)[0].tolist()


def test_the_estimators_gradients_are_those_that_the_docstring_names():
    logits = torch.tensor([0.3, -0.5, 1.1], requires_grad=True)
    ref = torch.log_softmax(torch.tensor([-0.2, 0.4, 0.1]), 0)
    logp = torch.log_softmax(logits, 0)
    reverse = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)[0].tolist()
    forward = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), logits)[0].tolist()
    assert max(abs(a - b) for a, b in zip(reverse, forward, strict=True)) > 0.01
    assert expected_gradient("k1", logits, ref) == close([0.0, 0.0, 0.0])
    assert expected_gradient("k2", logits, ref) == close(reverse)
    assert expected_gradient("k3", logits, ref) == close(forward)
    assert expected_gradient("k3_unbiased", logits, ref) == close(reverse)


def test_the_kl_is_added_with_its_coefficient_and_the_tokens_weight():
    cfg = config(kl_coef=0.1, kl_estimator="k3")
    k3 = math.exp(-0.5) - 0.5
    loss, grad, metrics = run(cfg, [-1.0, -1.0], ref=[-1.5, -1.0], adv=[2.0, 0.0], weight=[0.5, 0.5])
    assert loss == close(0.5 * (-2.0 + 0.1 * k3))
    assert grad == close([0.5 * (-2.0 + 0.1 * (1 - math.exp(-0.5))), 0.0])
    assert metrics["kl"] == close(k3)


def test_the_kl_metric_is_k3_whatever_the_estimator_and_also_with_coefficient_zero():
    for changes in ({"kl_coef": 0.0}, {"kl_coef": 0.1, "kl_estimator": "k1"}, {"kl_estimator": "k1_in_reward"}):
        _, _, metrics = run(config(**changes), [-1.0], ref=[-1.5])
        assert metrics["kl"] == close(math.exp(-0.5) - 0.5)


def test_a_kl_without_a_reference_is_refused():
    with pytest.raises(ValueError, match=r"kl_coef=0\.001 needs the reference"):
        run(config(kl_coef=0.001), [-1.0])


def test_k1_in_reward_charges_each_token_with_the_rest_of_its_own_sequence():
    k1 = vec(0.1, 0.3, -0.2, 5.0, 1.0)
    got = k1_in_reward(torch.ones(5), k1, torch.zeros(5), torch.tensor([0, 0, 0, 1, 1]), kl_coef=0.5)
    assert got.tolist() == close([1 - 0.1, 1 - 0.05, 1 + 0.1, 1 - 3.0, 1 - 0.5])


def two_step_policy(seed):
    """Logits of a policy over two-token texts of a three-token vocabulary; the second token depends on the first."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, generator=generator), torch.randn(3, 3, generator=generator)


def enumerated(first, second):
    """Token logprobs (18,) of all nine texts, in order, two tokens each."""
    first, second = torch.log_softmax(first, 0), torch.log_softmax(second, 1)
    return torch.stack([x for a, b in itertools.product(range(3), repeat=2) for x in (first[a], second[a, b])])


@pytest.mark.parametrize("kl_coef", [0.0, 0.7])
def test_the_expected_gradient_is_that_of_reward_minus_kl_of_the_whole_text(kl_coef):
    params = [p.requires_grad_() for p in two_step_policy(1)]
    ref = enumerated(*two_step_policy(2))
    reward = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0, 0.0, 1.0, -1.0, 2.0])

    text_logp = enumerated(*params).view(9, 2).sum(1)
    value = (text_logp.exp() * (reward - kl_coef * (text_logp - ref.view(9, 2).sum(1)))).sum()
    expected = torch.autograd.grad(-value, params)

    new = enumerated(*params)
    sequence = torch.arange(9).repeat_interleave(2)
    loss, _ = policy_loss(
        config(kl_coef=kl_coef, kl_estimator="k1_in_reward"), logprobs_T=new, old_logprobs_T=new.detach(),
        sampler_logprobs_T=new.detach(), ref_logprobs_T=ref, advantages_T=reward[sequence],
        loss_mask_T=torch.ones(18), loss_weight_T=text_logp.detach().exp()[sequence],
        sequence_T=sequence, entropy_T=None,
    )  # fmt: skip
    for got, want in zip(torch.autograd.grad(loss, params), expected, strict=True):
        assert got.flatten().tolist() == close(want.flatten().tolist())


# ----------------------------------------------------------------------------------------- sampler-learner correction


@pytest.mark.parametrize(
    ("kind", "cap", "expected"),
    [
        ("none", 2.0, [1, 1, 1, 1]),
        ("token_truncate", 2.0, [2, 0.4, 1.5, 0.6]),
        ("token_mask", 2.0, [0, 0, 1.5, 0.6]),
        ("token_mask", 4.0, [4, 0.4, 1.5, 0.6]),
        ("sequence_truncate", 2.0, [1.6, 1.6, 0.9, 0.9]),
        ("sequence_truncate", 1.5, [1.5, 1.5, 0.9, 0.9]),
        ("sequence_mask", 2.0, [1.6, 1.6, 0.9, 0.9]),
        ("sequence_mask", 1.5, [0, 0, 0.9, 0.9]),
        ("sequence_mask", 1.0, [0, 0, 0.9, 0.9]),
    ],
)
def test_importance_weights_of_two_sequences(kind, cap, expected):
    w = vec(*logs(4.0, 0.4, 1.5, 0.6))
    args = (torch.ones(4) > 0, torch.tensor([0, 0, 1, 1]))
    # A hair above the cap of 4, so that the rounding of log and exp does not decide.
    got = importance_weights(kind, w - 1.0, torch.full((4,), -1.0), *args, cap=cap * 1.0001)
    assert got.tolist() == pytest.approx(expected, rel=2e-4)


def test_an_overflowing_sequence_weight_is_capped_or_masked_not_infinite():
    args = (vec(60, 60), vec(0, 0), torch.ones(2) > 0, torch.tensor([0, 0]))
    assert importance_weights("sequence_truncate", *args, cap=2.0).tolist() == [2.0, 2.0]
    assert importance_weights("sequence_mask", *args, cap=2.0).tolist() == [0.0, 0.0]


def test_the_correction_multiplies_the_policy_term_and_not_the_kl():
    cfg = config(importance="token_truncate", importance_cap=2.0, kl_coef=0.1, kl_estimator="k2")
    old, sampler = [-1.0, -1.0], [-1.0 - math.log(1.5), -1.0 - math.log(4.0)]
    loss, grad, metrics = run(cfg, old, old, sampler=sampler, ref=[-1.5, -1.5])
    assert loss == close(-1.5 - 2.0 + 2 * 0.1 * 0.125)
    assert grad == close([-1.5 + 0.05, -2.0 + 0.05])
    assert metrics["importance_weight"] == close(3.5)
    assert (metrics["importance_truncated"], metrics["importance_masked"]) == (1.0, 0.0)


def test_a_masked_token_has_no_policy_gradient_and_is_counted():
    cfg = config(importance="token_mask", importance_cap=2.0)
    _, grad, metrics = run(cfg, [-1.0] * 3, sampler=[-1.0, -3.0, -1.0 - math.log(0.8)])
    assert grad == close([-1.0, 0.0, -0.8])
    assert metrics["importance_weight"] == close(1.8)
    assert (metrics["importance_masked"], metrics["importance_truncated"], metrics["tokens"]) == (1.0, 0.0, 3.0)


def test_the_correction_compares_with_the_old_policy_not_with_the_current_one():
    cfg = config(importance="token_truncate", importance_cap=10.0, clip_low=10, clip_high=10)
    loss, _, _ = run(cfg, logs(3.0), [0.0], sampler=logs(0.5))
    assert loss == close(-3.0 * 2.0)


# ---------------------------------------------------------------------------------------------- masks, sums, metrics


def random_inputs(seed=3):
    """Three sequences of 4, 3 and 5 tokens, the first tokens of each masked out."""
    torch.manual_seed(seed)
    old = -torch.rand(12) - 0.1
    return {
        "logprobs_T": old + 0.3 * torch.randn(12),
        "old_logprobs_T": old,
        "sampler_logprobs_T": old + 0.5 * torch.randn(12),
        "ref_logprobs_T": old + 0.2 * torch.randn(12),
        "advantages_T": torch.randn(12),
        "loss_mask_T": vec(0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1),
        "loss_weight_T": torch.rand(12),
        "sequence_T": torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]),
        "entropy_T": torch.rand(12),
    }


def loss_grad_metrics(cfg, inputs):
    new = inputs["logprobs_T"].clone().requires_grad_()
    loss, metrics = policy_loss(cfg, **{**inputs, "logprobs_T": new})
    loss.backward()
    return loss.item(), new.grad, {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize("garbage", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("loss", LOSSES)
def test_masked_out_tokens_may_hold_anything_and_change_nothing(loss, garbage):
    pairs = [(estimator, "token_mask") for estimator in KL_ESTIMATORS] + [("k3", kind) for kind in CORRECTIONS]
    for estimator, importance in pairs:
        cfg = config(loss=loss, kl_coef=0.1, kl_estimator=estimator, importance=importance, dual_clip=3.0)
        clean = random_inputs()
        dirty = {
            name: value
            if name in ("loss_mask_T", "sequence_T")
            else value.masked_fill(clean["loss_mask_T"] == 0, garbage)
            for name, value in clean.items()
        }
        loss_clean, grad_clean, metrics_clean = loss_grad_metrics(cfg, clean)
        loss_dirty, grad_dirty, metrics_dirty = loss_grad_metrics(cfg, dirty)
        assert loss_dirty == loss_clean
        assert math.isfinite(loss_dirty)
        assert metrics_dirty == metrics_clean
        assert all(math.isfinite(v) for v in metrics_dirty.values())
        assert torch.equal(grad_dirty, grad_clean)
        assert torch.isfinite(grad_dirty).all()
        assert (grad_dirty[clean["loss_mask_T"] == 0] == 0).all()
        assert (grad_dirty[clean["loss_mask_T"] == 1] != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("importance", CORRECTIONS)
def test_losses_gradients_and_metrics_add_over_micro_batches(loss, importance):
    cfg = config(loss=loss, kl_coef=0.1, importance=importance, kl_estimator="k1_in_reward", dual_clip=2.0)
    whole = random_inputs()
    total, grad, metrics = loss_grad_metrics(cfg, whole)
    halves = [{name: value[part] for name, value in whole.items()} for part in (slice(0, 4), slice(4, 12))]
    halves[1]["sequence_T"] = halves[1]["sequence_T"] - 1
    parts = [loss_grad_metrics(cfg, half) for half in halves]
    assert sum(p[0] for p in parts) == close(total)
    assert torch.cat([p[1] for p in parts]).tolist() == close(grad.tolist())
    for name, value in metrics.items():
        combine = max if name.startswith("max/") else sum
        assert combine(p[2][name] for p in parts) == close(value), name


def test_metrics_are_sums_over_the_masked_in_tokens():
    loss, _, metrics = run(
        config(), logs(2.0, 0.5, 9.0), [0.0] * 3, sampler=logs(1.0, 2.0, 7.0), adv=[1.0, 1.0, 1.0],
        mask=[1.0, 1.0, 0.0], ent=[0.25, 0.5, 100.0],
    )  # fmt: skip
    assert metrics["tokens"] == 2.0
    assert metrics["ratio"] == close(2.5)
    assert metrics["max/ratio"] == close(2.0)
    assert metrics["entropy"] == close(0.75)
    # k3 of KL(sampler || learner): e^x - 1 - x with x = log learner - log sampler.
    assert metrics["kl_sampler"] == close((2 - 1 - math.log(2)) + (0.25 - 1 + math.log(4)))
    assert "kl" not in metrics
    assert "clip_share_dual" not in metrics
    assert loss == close(-(1.28 + 0.5))


def test_a_micro_batch_without_loss_tokens_gives_zero_and_a_backward_that_works():
    loss, grad, metrics = run(config(), [-1.0, -2.0], mask=[0.0, 0.0])
    assert loss == 0.0
    assert grad == [0.0, 0.0]
    assert metrics["tokens"] == 0.0
    assert metrics["max/ratio"] == 0.0


def test_only_the_current_policy_carries_a_gradient_and_metrics_carry_none():
    cfg = config(kl_coef=0.1, importance="token_truncate")
    inputs = random_inputs()
    names = ("logprobs_T", "old_logprobs_T", "sampler_logprobs_T", "ref_logprobs_T", "advantages_T")
    for name in names:
        inputs[name].requires_grad_()
    loss, metrics = policy_loss(cfg, **inputs)
    loss.backward()
    assert inputs["logprobs_T"].grad is not None
    assert all(inputs[name].grad is None for name in names[1:])
    assert not any(value.requires_grad for value in metrics.values())


def test_half_precision_inputs_are_computed_in_float32():
    cfg = config(kl_coef=0.1)
    inputs = random_inputs()
    half = {n: v.bfloat16() if v.is_floating_point() else v for n, v in inputs.items()}
    loss, _ = policy_loss(cfg, **half)
    same, _ = policy_loss(cfg, **{n: v.float() if v.is_floating_point() else v for n, v in half.items()})
    assert loss.dtype == torch.float32
    assert loss.item() == same.item()


# -------------------------------------------------------------------------------------------------------------- SFT


def test_nll_is_the_weighted_sum_of_minus_logprobs_of_the_learnt_tokens():
    logp = torch.tensor([-1.0, -3.0, float("-inf")], requires_grad=True)
    loss, metrics = nll_loss(logp, vec(1, 1, 0), vec(0.5, 0.5, float("inf")))
    loss.backward()
    assert loss.item() == close(2.0)
    assert logp.grad.tolist() == [-0.5, -0.5, 0.0]
    assert (metrics["nll"].item(), metrics["tokens"].item()) == (4.0, 2.0)
    assert not metrics["nll"].requires_grad


def test_a_rank_without_work_has_a_gap_of_nothing():
    found = logprob_gap(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    assert {name: float(value) for name, value in found.items()} == {"gap": 0.5, "max/gap": 0.5}
    empty = logprob_gap(torch.zeros(0), torch.zeros(0))
    assert {name: float(value) for name, value in empty.items()} == {"gap": 0.0, "max/gap": 0.0}
