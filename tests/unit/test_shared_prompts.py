"""A group's prompt computed once gives the plain path's logprobs and gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rl.config import GRPOConfig, LearnerConfig, LoraConfig
from rl.data.packing import pack
from rl.model.lora import without_adapters
from rl.model.policy import ModelInput, Policy, load_policy
from rl.types import AhaError, MicroBatch
from tests.unit.test_batch import VOCABULARY, group

CPU = torch.device("cpu")
MAX_NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights large enough for every token to matter to every later one; more heads than key-value heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.15,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def policy_of(folder: Path, *, dtype: torch.dtype = torch.float32, lora: int = 0, **learner: object) -> Policy:
    settings = LearnerConfig(**{"layout": "rows", "logprob_chunk_tokens": 7, **learner})  # type: ignore[arg-type]
    return load_policy(str(folder), settings, CPU, dtype=dtype, lora=LoraConfig(rank=lora), seed=3)


def groups_of(*shapes: tuple[int, list[int]], valid: dict[int, list[bool]] | None = None, **settings: object) -> list:
    """One scored group for each (prompt tokens, lengths of its completions), with temperature 0.7 unless said."""
    made = []
    for draw, (prompt, lengths) in enumerate(shapes):
        advantages = [1.5, -0.5, 0.75, -1.25, 2.0, 0.25, -2.0, 1.0][: len(lengths)]
        made.append(
            group(draw, prompt, lengths, advantages, valid=(valid or {}).get(draw), temperature=0.7, **settings)
        )
    return made


def micro_batches(groups: list, layout: str, *, budget: int = 400, ranks: int = 1, **grpo: object) -> list[MicroBatch]:
    settings = GRPOConfig(**{"kl_coef": 0.0, "importance": "none", **grpo})  # type: ignore[arg-type]
    learner = LearnerConfig(micro_batch_tokens=budget, ranks=ranks)
    updates = pack(groups, grpo=settings, learner=learner, max_new_tokens=MAX_NEW, layout=layout, seed=0)
    return [mb for update in updates for rank in update.micro_batches_R for mb in rank]


def loss_and_gradients(policy: Policy, made: list[MicroBatch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum over micro-batches of weight * advantage * logprob, the logprobs' order aside, and its gradients."""
    policy.zero_grad()
    total = torch.zeros(())
    for mb in made:
        batch = ModelInput.of(mb, CPU)
        index = np.flatnonzero(mb.loss_mask_T)
        weight_M = torch.from_numpy((mb.loss_weight_T * mb.advantages_T)[index])
        # Of the probability, not only of its logarithm: the loss then has curvature, as the clipped objective has.
        loss = (weight_M * policy(batch)[0].mul(0.1).exp()).sum()
        loss.backward()
        total += loss.detach()
    return total, {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def assert_same(shared: tuple, plain: tuple, *, within: float = 2e-5) -> None:
    assert shared[0] == pytest.approx(float(plain[0]), rel=within, abs=1e-6)
    assert shared[1].keys() == plain[1].keys()
    for name, want in plain[1].items():
        assert want.norm() > 1e-6, name
        assert (shared[1][name] - want).norm() <= within * want.norm(), name


SHAPES = {
    "one group": [(9, [5, 7, 12])],
    "different prompts in one micro-batch": [(9, [5, 7]), (2, [3, 8, 8, 4]), (1, [6, 6])],
    "one-token completions": [(6, [1, 1, 5]), (1, [1, 2]), (4, [1, 1])],
    "a group of one": [(5, [4]), (7, [3, 9])],
    "lengths that differ a lot": [(3, [1, MAX_NEW, 2, 20]), (40, [1, 2, MAX_NEW])],
    "equal lengths": [(6, [5, 5, 5, 5])],
}


@pytest.mark.parametrize("layout", ["rows", "packed"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_the_loss_and_every_gradient_are_those_of_the_plain_path(folder: Path, shapes: list, layout: str) -> None:
    groups, policy = groups_of(*shapes), policy_of(folder, layout=layout)
    made = micro_batches(groups, "shared")
    assert sum(mb.num_shared for mb in made) == sum(prompt * (len(lengths) - 1) for prompt, lengths in shapes)
    assert_same(loss_and_gradients(policy, made), loss_and_gradients(policy, micro_batches(groups, layout)))


def test_each_token_has_the_logprob_and_the_entropy_of_the_plain_path(folder: Path) -> None:
    groups, policy = groups_of((9, [5, 1, 12]), (2, [3, 8]), (4, [6])), policy_of(folder)
    [shared] = micro_batches(groups, "shared")
    plain = dataclasses.replace(shared, shared_S=None)
    with torch.no_grad():
        found, want = policy(ModelInput.of(shared, CPU)), policy(ModelInput.of(plain, CPU))
    torch.testing.assert_close(found[0], want[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[1], want[1], rtol=0, atol=2e-5)
    assert want[0].std() > 0.5


def test_missing_truncated_and_dropped_members_are_not_computed(folder: Path) -> None:
    """The first sample of a group is invalid, one of another is truncated and masked, one has no gradient."""
    groups = groups_of((9, [5, 7, 12]), (4, [6, MAX_NEW, 3]), valid={0: [False, True, True]}, truncated=(1,))
    groups[0].advantages_G[2] = 0.0
    groups[1].advantages_G[2] = 0.25
    for overlong in ("keep", "mask"):
        made, plain = (micro_batches(groups, layout, overlong=overlong) for layout in ("shared", "rows"))
        policy = policy_of(folder)
        assert sorted(n for mb in made for n in mb.completion_lengths_S.tolist()) == sorted(
            n for mb in plain for n in mb.completion_lengths_S.tolist()
        )
        assert_same(loss_and_gradients(policy, made), loss_and_gradients(policy, plain))


@pytest.mark.parametrize(("budget", "ranks"), [(60, 1), (45, 2), (400, 3), (400, 5)])
def test_groups_that_are_cut_or_dealt_to_ranks_and_dummies_give_the_same_sum(
    folder: Path, budget: int, ranks: int
) -> None:
    groups = groups_of((9, [5, 7, 12, 3, 9, 24]), (20, [8, 8]))
    made = micro_batches(groups, "shared", budget=budget, ranks=ranks)
    assert all(mb.row_tokens <= budget for mb in made)
    assert len(made) % ranks == 0
    policy = policy_of(folder)
    assert_same(loss_and_gradients(policy, made), loss_and_gradients(policy, micro_batches(groups, "rows")))


def test_rollouts_that_several_updates_share_out_are_grouped_again(folder: Path) -> None:
    groups = groups_of((9, [5, 7, 12, 3]), (2, [8, 8, 1, 4]))
    made = micro_batches(groups, "shared", updates_per_step=2)
    assert all(mb.num_shared > 0 for mb in made)
    policy = policy_of(folder)
    plain = micro_batches(groups, "rows", updates_per_step=2)
    assert_same(loss_and_gradients(policy, made), loss_and_gradients(policy, plain))


def test_adapters_and_their_base_as_the_reference(folder: Path) -> None:
    groups, policy = groups_of((9, [5, 7, 12]), (2, [3, 8])), policy_of(folder, lora=4)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    made, plain = micro_batches(groups, "shared"), micro_batches(groups, "rows")
    found = loss_and_gradients(policy, made)
    assert all("lora_" in name for name in found[1])
    assert_same(found, loss_and_gradients(policy, plain))
    with without_adapters(policy), torch.no_grad():
        reference = policy(ModelInput.of(made[0], CPU))[0]
    base = policy_of(folder)
    with torch.no_grad():
        torch.testing.assert_close(reference, base(ModelInput.of(made[0], CPU))[0], rtol=0, atol=0)
        assert (reference - policy(ModelInput.of(made[0], CPU))[0]).abs().mean() > 0.05


def test_with_gradient_checkpointing(folder: Path) -> None:
    groups = groups_of((9, [5, 7, 12]), (2, [3, 8]))
    found = loss_and_gradients(policy_of(folder, gradient_checkpointing=True), micro_batches(groups, "shared"))
    assert_same(found, loss_and_gradients(policy_of(folder), micro_batches(groups, "rows")))


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_path_is(folder: Path) -> None:
    groups = groups_of((9, [5, 7, 12]), (2, [3, 8]), (30, [9, 9, 9]))
    exact = loss_and_gradients(policy_of(folder), micro_batches(groups, "rows"))[1]
    half = policy_of(folder, dtype=torch.bfloat16)
    errors = []
    for layout in ("shared", "rows"):
        found = loss_and_gradients(half, micro_batches(groups, layout))[1]
        errors.append(np.mean([float((found[n].float() - g).norm() / g.norm()) for n, g in exact.items()]))
    assert errors[0] < 1.3 * errors[1] < 0.2


def test_a_wrong_claim_of_a_shared_prompt_is_refused() -> None:
    [mb] = micro_batches(groups_of((9, [5, 7, 12])), "shared")
    assert mb.shared_S is not None
    for wrong in ([0, 10, 9], [9, 9, 9], [0, 9, 21]):
        with pytest.raises(ValueError, match=r"sequence \d does not begin with the \d+ tokens"):
            ModelInput.of(dataclasses.replace(mb, shared_S=np.array(wrong)), CPU)
    other = mb.token_ids_T.copy()
    other[14] += 1
    with pytest.raises(ValueError, match="sequence 1 does not begin with the 9 tokens"):
        ModelInput.of(dataclasses.replace(mb, token_ids_T=other), CPU)


def test_a_model_that_loses_the_prompts_on_the_way_to_its_attention_is_refused(folder: Path) -> None:
    policy = policy_of(folder)
    plain = policy.hf.base_model.forward
    policy.hf.base_model.forward = lambda sharing=None, **given: plain(**given)
    with pytest.raises(AhaError, match=r"LlamaForCausalLM does not tell .* learner.share_prompts=false"):
        policy(ModelInput.of(micro_batches(groups_of((9, [5, 7])), "shared")[0], CPU))
