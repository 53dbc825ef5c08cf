"""rl/algorithms/distill.py: divergences by hand, the chunked loss against plain autograd, and what must not change a number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rl.algorithms.distill import Distillation, divergence, hidden_states, teacher_advantage
from rl.algorithms.logprobs import LogprobHead
from rl.algorithms.policy_loss import policy_loss
from rl.config import DIVERGENCES, DistillConfig, GRPOConfig, LearnerConfig
from rl.model.policy import ModelInput, load_policy

P, Q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()


def close(x):
    return pytest.approx(x, rel=1e-5, abs=1e-6)


# ------------------------------------------------------------------------------------------------ divergences


@pytest.mark.parametrize(
    ("kind", "beta", "value"),
    [
        ("forward", 0.5, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ("reverse", 0.5, 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        # M = [3/8, 5/8]
        ("jsd", 0.5, 0.25 * math.log(4 / 3) + 0.25 * math.log(4 / 5) + 0.125 * math.log(2 / 3) + 0.375 * math.log(6 / 5)),
        # M = [5/16, 11/16]
        ("jsd", 0.25, 0.25 * (0.5 * math.log(8 / 5) + 0.5 * math.log(8 / 11)) + 0.75 * (0.25 * math.log(4 / 5) + 0.75 * math.log(12 / 11))),
    ],
)  # fmt: skip
def test_a_divergence_of_two_coins_is_what_the_formula_gives_by_hand(kind, beta, value):
    assert divergence(kind, Q, P, beta).tolist() == close([value])


def test_the_numbers_of_the_docstring_are_right():
    got = [divergence(k, Q, P, b).item() for k, b in (("forward", 0), ("reverse", 0), ("jsd", 0.5), ("jsd", 0.25))]
    assert [round(x, 5) for x in got] == [0.14384, 0.13081, 0.03382, 0.02605]


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_divergence_is_positive_and_zero_only_where_both_agree(kind):
    torch.manual_seed(0)
    student, teacher = (torch.log_softmax(3 * torch.randn(50, 7), 1) for _ in range(2))
    assert (divergence(kind, student, teacher) > 0).all()
    assert divergence(kind, teacher, teacher).tolist() == pytest.approx([0.0] * 50, abs=1e-6)


def test_jensen_shannon_with_a_small_share_becomes_a_kl():
    torch.manual_seed(0)
    student, teacher = (torch.log_softmax(torch.randn(5, 7).double(), 1) for _ in range(2))
    scaled = divergence("jsd", student, teacher, 1e-6) / 1e-6
    assert scaled.tolist() == pytest.approx(divergence("forward", student, teacher).tolist(), rel=1e-4)
    scaled = divergence("jsd", student, teacher, 1 - 1e-6) / 1e-6
    assert scaled.tolist() == pytest.approx(divergence("reverse", student, teacher).tolist(), rel=1e-4)


# ------------------------------------------------------------------------------------------------ the chunked loss


def inputs(vocab_student: int = 11, vocab_teacher: int = 11):
    torch.manual_seed(1)
    hidden_MD = torch.randn(9, 4, requires_grad=True)
    head = LogprobHead(nn.Parameter(torch.randn(vocab_student, 4)), chunk_tokens=4)
    teacher_hidden, teacher_weight = torch.randn(9, 6), torch.randn(vocab_teacher, 6)
    targets_M, weight_M = torch.randint(8, (9,)), torch.rand(9)
    return hidden_MD, head, teacher_hidden, teacher_weight, targets_M, weight_M


@pytest.mark.parametrize("nll_coef", [0.0, 0.3])
@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("vocabs", [(11, 11), (13, 11), (11, 13)])
def test_the_chunked_loss_and_its_gradients_equal_plain_autograd_over_whole_logits(kind, nll_coef, vocabs):
    hidden_MD, head, teacher_hidden, teacher_weight, targets_M, weight_M = inputs(*vocabs)
    cfg = DistillConfig(divergence=kind, jsd_beta=0.3, nll_coef=nll_coef)
    student_MV = torch.log_softmax((hidden_MD @ head.weight.T)[:, :11], 1)
    teacher_MV = torch.log_softmax((teacher_hidden @ teacher_weight.T)[:, :11], 1)
    token = divergence(kind, student_MV, teacher_MV, 0.3)
    nll = -student_MV.gather(1, targets_M[:, None]).squeeze(1)
    want = (weight_M * (token + nll_coef * nll)).sum()
    want_grads = torch.autograd.grad(want, [hidden_MD, head.weight])

    work = Distillation(cfg, teacher_hidden, teacher_weight, weight_M)
    loss, parts = head(hidden_MD, targets_M, torch.ones(9), work)
    (3 * loss).backward()
    assert loss.item() == close(want.item())
    assert parts[0].tolist() == close(token.tolist())
    assert parts[1].tolist() == close(nll.tolist())
    for got, expected in zip((hidden_MD.grad, head.weight.grad), want_grads, strict=True):
        torch.testing.assert_close(got, 3 * expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_no_tokens_give_zero():
    hidden_MD, head, teacher_hidden, teacher_weight, targets_M, weight_M = inputs()
    head.weight.requires_grad_(False)
    work = Distillation(DistillConfig(), teacher_hidden, teacher_weight, weight_M)
    head(hidden_MD, targets_M, torch.ones(9), work)[0].backward()
    assert hidden_MD.grad.abs().sum() > 0
    assert head.weight.grad is None
    none = Distillation(DistillConfig(), teacher_hidden[:0], teacher_weight, weight_M[:0])
    loss, parts = head(hidden_MD[:0], targets_M[:0], torch.ones(0), none)
    loss.backward()
    assert loss.item() == 0.0
    assert parts.shape == (2, 0)


def test_a_model_that_teaches_itself_has_nothing_to_learn(tmp_path: Path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    policy, teacher = (
        load_policy(str(tmp_path), LearnerConfig(layout=layout), torch.device("cpu"), dtype=torch.float32)
        for layout in ("rows", "packed")
    )
    lengths = torch.tensor([9, 5])
    positions_T = torch.cat([torch.arange(n) for n in (9, 5)])
    index_M = torch.nonzero(positions_T).squeeze(1)
    batch = ModelInput(torch.randint(64, (14,)), positions_T, lengths, index_M, torch.ones(12))
    with torch.no_grad():
        hidden_ME = teacher(batch, hidden_states)[0]
        want = policy(batch)[0]
    weight = teacher.hf.get_output_embeddings().weight.data
    loss, parts = policy(batch, Distillation(DistillConfig(), hidden_ME, weight, torch.full((12,), 1 / 12)))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in policy.parameters()) < 1e-5
    torch.testing.assert_close(-parts[1], want, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ on policy


def test_the_teachers_advantage_is_minus_the_log_ratio_of_the_sampled_token():
    student = torch.tensor([-0.5, -1.0], requires_grad=True)
    got = teacher_advantage(torch.tensor([-2.0, -0.25]), student, 2.0)
    assert got.tolist() == close([-3.0, 1.5])
    assert not got.requires_grad


def test_its_expected_policy_gradient_is_that_of_the_reverse_kl():
    """One token, by enumeration of the vocabulary: E over x ~ Q of -A grad log Q(x) = grad KL(Q || P)."""
    logits = torch.tensor([0.3, -0.5, 1.1], requires_grad=True)
    teacher = torch.log_softmax(torch.tensor([-0.2, 0.4, 0.1]), 0)
    student = torch.log_softmax(logits, 0)
    want = torch.autograd.grad(divergence("reverse", student[None], teacher[None]).sum(), logits, retain_graph=True)[0]
    old = student.detach()
    loss, _ = policy_loss(
        GRPOConfig(kl_coef=0.0), logprobs_T=student, old_logprobs_T=old, sampler_logprobs_T=old, ref_logprobs_T=None,
        advantages_T=teacher_advantage(teacher, student, 1.0), loss_mask_T=torch.ones(3), loss_weight_T=old.exp(),
        sequence_T=torch.arange(3), entropy_T=None,
    )  # fmt: skip
    assert torch.autograd.grad(loss, logits)[0].tolist() == close(want.tolist())
    assert want.abs().max() > 0.05
