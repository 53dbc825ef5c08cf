"""Token logprobs to a loss: policy losses, KL estimators, the sampler-learner correction, and SFT's NLL.

Axis suffix: _T tokens of a micro-batch, whole sequences end to end (rl/types.py MicroBatch). Logprobs in nats, float32.
Position i holds the values of token i itself. pi: the policy now; pi_old: the policy before this step's updates;
pi_sampler: what the sampler reported; pi_ref: the frozen reference.

    loss                  token loss (to be minimised)                        weight per token, from rl/data/packing.py
    grpo                  -min(rho A, clip(rho, 1-low, 1+high) A)             1 / (|o| N)       DeepSeekMath eq. 3
    dapo                  the same                                            1 / sum of |o|    DAPO 2503.14476
    dr_grpo               the same                                            1 / (N budget)    Dr. GRPO 2503.20783
    gspo                  the same with the sequence's ratio                  1 / (|o| N)       GSPO 2507.18071
    cispo                 -sg[min(rho, 1+high)] A log pi                      1 / sum of |o|    CISPO 2506.13585

rho = pi / pi_old of the token, sg stops the gradient, |o| = completion tokens, N = rollouts of the update. R1 writes
the ratio for a whole output; DeepSeekMath, which introduced GRPO, has it per token, as here.

Each loss function returns (sum over tokens of weight * token loss, metrics). The weights already hold the
denominator, so the losses of micro-batches and ranks add up. A metric is a sum over masked-in tokens, to be divided by
metrics["tokens"] when all are added up; of those called "max/..." the largest is taken instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rl.config import GRPOConfig


def policy_loss(
    cfg: GRPOConfig,
    *,
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    sampler_logprobs_T: Tensor,
    ref_logprobs_T: Tensor | None,
    advantages_T: Tensor,
    loss_mask_T: Tensor,
    loss_weight_T: Tensor,
    sequence_T: Tensor,
    entropy_T: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """GRPO's loss and its variants, as cfg says.

    All are (T,) floats but sequence_T: int64, the number of each token's sequence (0 .. S-1, each one contiguous).
    Only logprobs_T carries a gradient. Tokens with mask 0 give 0 loss and 0 gradient, whatever they hold, even inf.
    Raises ValueError when cfg.kl_coef is positive and ref_logprobs_T is None.

    token loss = -importance * objective + kl_coef * KL. The importance weight corrects the policy term only: the KL
    is a penalty on the policy, not an expectation of the reward.

    One token, logprob = old = sampler, advantage 2, weight .5: loss -1, gradient -1.
    """
    if cfg.kl_coef > 0 and ref_logprobs_T is None:
        raise ValueError(f"grpo.kl_coef={cfg.kl_coef} needs the reference's logprobs; load a reference or set it to 0")
    mask_T = loss_mask_T > 0
    new_T = _masked(logprobs_T, mask_T)
    old_T = _masked(old_logprobs_T, mask_T).detach()
    sampler_T = _masked(sampler_logprobs_T, mask_T)
    ref_T = None if ref_logprobs_T is None else _masked(ref_logprobs_T, mask_T).detach()
    adv_T = _masked(advantages_T, mask_T).detach()
    if ref_T is not None and cfg.kl_estimator == "k1_in_reward":
        adv_T = k1_in_reward(adv_T, old_T, ref_T, sequence_T, kl_coef=cfg.kl_coef)

    if cfg.loss == "gspo":
        ratio_T = sequence_ratio(new_T, old_T, mask_T, sequence_T)
    else:
        ratio_T = torch.exp(new_T - old_T)
    if cfg.loss == "cispo":
        objective_T = cispo_objective(ratio_T, new_T, adv_T, cfg.clip_high)
    else:
        objective_T = clipped_objective(ratio_T, adv_T, cfg.clip_low, cfg.clip_high, cfg.dual_clip)

    weight_T = importance_weights(cfg.importance, old_T, sampler_T, mask_T, sequence_T, cap=cfg.importance_cap)
    token_loss_T = -weight_T * objective_T
    if ref_T is not None and cfg.kl_coef > 0 and cfg.kl_estimator != "k1_in_reward":
        token_loss_T = token_loss_T + cfg.kl_coef * kl_estimate(cfg.kl_estimator, new_T, ref_T, old_T)
    loss = (_masked(token_loss_T, mask_T) * _masked(loss_weight_T, mask_T)).sum()
    with torch.no_grad():
        metrics = _policy_metrics(cfg, mask_T, new_T, sampler_T, ref_T, adv_T, ratio_T, weight_T)
        if entropy_T is not None:
            metrics["entropy"] = _masked(entropy_T, mask_T).sum()
    return loss, metrics


def nll_loss(logprobs_T: Tensor, loss_mask_T: Tensor, loss_weight_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """SFT: the negative log likelihood of the learnt tokens. Metrics: nll (sum, nats) and tokens.

    Logprobs [-1, -3], mask [1, 1], weight 1/2 -> loss 2, nll 4, tokens 2.
    """
    mask_T = loss_mask_T > 0
    nll_T = -_masked(logprobs_T, mask_T)
    loss = (nll_T * _masked(loss_weight_T, mask_T)).sum()
    return loss, {"tokens": mask_T.sum().float(), "nll": nll_T.detach().sum()}


def clipped_objective(
    ratio_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> Tensor:
    """PPO's min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) (DeepSeekMath eq. 3), to be maximised.

    The gradient is 0 where rho > 1 + clip_high with A > 0, and where rho < 1 - clip_low with A < 0. With A < 0 a large
    rho makes it fall without bound; dual_clip c > 1 sets one: max(that, c A) (INTELLECT-2 2505.07291, delta).

    clip .2 and .28:     rho  1.5, A  1 -> 1.28     rho .5, A  1 ->  .5
                         rho  1.5, A -1 -> -1.5     rho .5, A -1 -> -.8      rho 5, A -1 -> -5; with c = 3 -> -3
    """
    clipped_T = torch.clamp(ratio_T, 1.0 - clip_low, 1.0 + clip_high)
    objective_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    if dual_clip > 0:
        bounded_T = torch.maximum(objective_T, dual_clip * advantages_T)
        objective_T = torch.where(advantages_T < 0, bounded_T, objective_T)
    return objective_T


def cispo_objective(ratio_T: Tensor, logprobs_T: Tensor, advantages_T: Tensor, clip_high: float) -> Tensor:
    """CISPO (2506.13585): sg[min(rho, 1 + clip_high)] A log pi, to be maximised. No lower bound.

    A clipped token keeps a gradient, only its weight is capped; the value itself means little. TRL gives the cap as a
    ratio: its 5.0 is clip_high=4 here.

    clip_high 1: rho 3, A 1, log pi -1 -> -2, gradient 2.
    """
    return ratio_T.detach().clamp(max=1.0 + clip_high) * advantages_T * logprobs_T


def sequence_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, mask_T: Tensor, sequence_T: Tensor) -> Tensor:
    """GSPO's s = exp(mean over the sequence of log pi / pi_old), given to each of its tokens (GSPO-token form).

    Value: s. Gradient by token t's logprob: s. Summed over the sequence's tokens with weights 1 / |o| that is the
    gradient of s itself, and each token may have an advantage of its own.

    log ratios [.2, .4] in one sequence -> s = e^.3 = 1.34986 at both tokens.
    """
    log_ratio_T = _masked(logprobs_T - old_logprobs_T, mask_T).detach()
    sums_S = _sequence_sums(log_ratio_T, sequence_T)
    counts_S = _sequence_sums(mask_T.float(), sequence_T).clamp(min=1.0)
    log_s_T = (sums_S / counts_S)[sequence_T]
    return torch.exp(log_s_T + logprobs_T - logprobs_T.detach())


def kl_estimate(kind: str, logprobs_T: Tensor, ref_logprobs_T: Tensor, old_logprobs_T: Tensor | None = None) -> Tensor:
    """Per-token estimate of KL(pi || pi_ref) from sampled tokens, differentiable through its value.

    With r = log pi - log pi_ref:
        k1 = r                      as a loss its expected gradient is 0 on policy: useful as a value only
        k2 = r^2 / 2                gradient of the reverse KL
        k3 = e^-r - 1 + r           R1 (V2 eq. 2) and DeepSeekMath; its gradient is the forward KL's
        k3_unbiased = pi / pi_old * k3, gradient through both (DeepSeek-V3.2, 2512.02556): gradient of the reverse KL
    (gradients: "A Comedy of Estimators" 2512.21852)

    log pi -1, log pi_ref -1.5: r = .5 -> k1 .5, k2 .125, k3 .10653; with log pi_old -1.2, k3_unbiased .13012.
    """
    r_T = logprobs_T - ref_logprobs_T
    if kind == "k1":
        return r_T
    if kind == "k2":
        return 0.5 * r_T.square()
    if kind in ("k3", "k3_unbiased"):
        k3_T = torch.expm1(-r_T) + r_T  # expm1: e^-r - 1 loses all its digits near r = 0
        if kind == "k3":
            return k3_T
        if old_logprobs_T is None:
            raise ValueError("k3_unbiased needs old_logprobs_T")
        return torch.exp(logprobs_T - old_logprobs_T) * k3_T
    raise ValueError(f"unknown KL estimator {kind!r}")


def logprob_gap(sampler_T: Tensor, learner_T: Tensor) -> dict[str, Tensor]:
    """Sum and maximum of |sampler - learner| logprob, nats, as metrics. 0 for a micro-batch without tokens."""
    gap_T = (sampler_T - learner_T).abs()
    return {"gap": gap_T.sum(), "max/gap": gap_T.max() if len(gap_T) else gap_T.sum()}


def k1_in_reward(
    advantages_T: Tensor, old_logprobs_T: Tensor, ref_logprobs_T: Tensor, sequence_T: Tensor, *, kl_coef: float
) -> Tensor:
    """The KL as a reward, as in PPO for language models: A_t - kl_coef * sum over s >= t of k1_s of its sequence.

    k1_s = log pi_old - log pi_ref is the price of token s, paid by every token that led to it (no discount). So the
    expected policy gradient is that of reward - kl_coef * KL(pi || pi_ref) of the whole sequence (2512.21852: k1 in
    the reward is unbiased). Charging a token with its own k1 alone would ignore its effect on later tokens. R1 keeps
    the KL in the loss, since this form may penalise length (V2 A.3). Masked-out tokens must hold 0 in both logprobs.

    One sequence, k1 [.1, .3, -.2], kl_coef 1, A 1 -> [.8, .9, 1.2].
    """
    # float64: the running sum spans the whole micro-batch, and a sequence's part is a small difference of two of them.
    k1_T = (old_logprobs_T - ref_logprobs_T).double()
    before_T = torch.cumsum(k1_T, 0) - k1_T
    first_T = torch.ones_like(sequence_T, dtype=torch.bool)
    first_T[1:] = sequence_T[1:] != sequence_T[:-1]
    start_S = _sequence_sums(torch.where(first_T, before_T, 0.0), sequence_T)
    to_go_T = (_sequence_sums(k1_T, sequence_T) + start_S)[sequence_T] - before_T
    return (advantages_T - kl_coef * to_go_T).float()


def importance_weights(
    kind: str, old_logprobs_T: Tensor, sampler_logprobs_T: Tensor, mask_T: Tensor, sequence_T: Tensor, *, cap: float
) -> Tensor:
    """Weight per token, without gradient, for tokens drawn from pi_sampler and scored by pi_old.

    With w = pi_old / pi_sampler of the token, W = the product of the w of its sequence, C = cap:
        none               1
        token_truncate     min(w, C)                     TIS (fengyao.notion.site/off-policy-rl)
        token_mask         w inside [1/C, C], else 0     IcePop
        sequence_truncate  min(W, C)
        sequence_mask      W up to C, else 0             TRL's sequence_mask (no lower bound by default there)
    W is the unbiased weight, but it moves exponentially with length; the token forms are biased and calmer.

    w [4, .4], C 2: none [1, 1]; token_truncate [2, .4]; token_mask [0, 0];
    W = 1.6: sequence_truncate and sequence_mask [1.6, 1.6]; with C 1.5: [1.5, 1.5] and [0, 0].
    """
    log_w_T = _masked(old_logprobs_T - sampler_logprobs_T, mask_T).detach()
    if kind == "none":
        return torch.ones_like(log_w_T)
    if kind.startswith("sequence_"):
        log_w_T = _sequence_sums(log_w_T, sequence_T)[sequence_T]
    w_T = torch.exp(log_w_T)
    if kind in ("token_truncate", "sequence_truncate"):
        return w_T.clamp(max=cap)
    if kind == "token_mask":
        return torch.where((w_T >= 1.0 / cap) & (w_T <= cap), w_T, 0.0)
    if kind == "sequence_mask":
        return torch.where(w_T <= cap, w_T, 0.0)
    raise ValueError(f"unknown importance correction {kind!r}")


def _masked(x_T: Tensor, mask_T: Tensor) -> Tensor:
    """x where mask, else 0, in float32. Not the product of both: 0 * inf is NaN, in the gradient too."""
    return torch.where(mask_T, x_T.float(), 0.0)


def _sequence_sums(x_T: Tensor, sequence_T: Tensor) -> Tensor:
    """Sum of x per sequence number. It has T entries, more than sequences: counting those would wait for the GPU."""
    return torch.zeros_like(x_T).index_add(0, sequence_T, x_T)


def _policy_metrics(
    cfg: GRPOConfig, mask_T: Tensor, new_T: Tensor, sampler_T: Tensor, ref_T: Tensor | None,
    adv_T: Tensor, ratio_T: Tensor, weight_T: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Sums over masked-in tokens (see the top of the file). clip_share_*: tokens that the clip acts on."""
    low_T = (ratio_T < 1.0 - cfg.clip_low) & (adv_T < 0)
    high_T = (ratio_T > 1.0 + cfg.clip_high) & (adv_T > 0)
    if cfg.loss == "cispo":  # one cap, for either sign of the advantage
        low_T, high_T = torch.zeros_like(low_T), ratio_T > 1.0 + cfg.clip_high
    sums = {
        "clip_share_low": low_T,
        "clip_share_high": high_T,
        "ratio": ratio_T,
        "kl_sampler": kl_estimate("k3", sampler_T, new_T),  # KL(sampler || learner now): the sampler drew the tokens
        "importance_weight": weight_T,
        "importance_masked": weight_T == 0,
        "importance_truncated": (weight_T >= cfg.importance_cap) & cfg.importance.endswith("_truncate"),
    }
    if cfg.dual_clip > 0 and cfg.loss != "cispo":
        sums["clip_share_dual"] = (ratio_T > cfg.dual_clip) & (adv_T < 0)
    if ref_T is not None:
        sums["kl"] = kl_estimate("k3", new_T, ref_T)
    metrics = {name: _masked(value_T, mask_T).sum() for name, value_T in sums.items()}
    metrics["tokens"] = mask_T.sum().float()
    metrics["max/ratio"] = _masked(ratio_T, mask_T).max() if len(ratio_T) else ratio_T.sum()
    return metrics
