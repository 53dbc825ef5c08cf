"""Who has which tokens of a shared micro-batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rl.config import DistillConfig, LearnerConfig, SFTConfig
from rl.data.sft_examples import pack_examples
from rl.model.policy import ModelInput
from rl.model.sequence_parallel import Share, check_heads
from rl.recipe import run_config
from rl.settings.config_checks import validate
from rl.settings.overrides import apply_overrides, apply_stage_overrides
from rl.settings.recipe_checks import check
from rl.types import BadInput, Example, MicroBatch


def micro_batch(lengths: list[int]) -> MicroBatch:
    made = [Example(list(range(10, 10 + n)), [0] + [1] * (n - 1)) for n in lengths]
    batch = pack_examples(made, learner=LearnerConfig(micro_batch_tokens=512), layout="packed")
    return batch.micro_batches_R[0][0]


@pytest.mark.parametrize(("lengths", "size"), [([5, 4, 2], 2), ([5, 4, 2], 4), ([9], 4), ([2], 4), ([8, 8], 3)])
def test_slices_make_up_the_micro_batch_and_each_learnt_token_has_one_owner(lengths: list[int], size: int) -> None:
    batch = micro_batch(lengths)
    parts = [ModelInput.of(batch, torch.device("cpu"), Share(rank, size)) for rank in range(size)]
    total = len(parts[0].token_ids_T)
    assert total % size == 0
    assert total - batch.num_tokens < size
    assert int(parts[0].lengths_S.sum()) == total
    assert parts[0].token_ids_T[: batch.num_tokens].tolist() == batch.token_ids_T.tolist()
    assert parts[0].positions_T[: batch.num_tokens].tolist() == batch.positions_T.tolist()
    assert [part.bounds for part in parts] == [(r * total // size, (r + 1) * total // size) for r in range(size)]
    owned = [i for part in parts for i in part.index_M.tolist()]
    assert owned == np.flatnonzero(batch.loss_mask_T).tolist()
    for part in parts:
        start, stop = part.bounds
        assert all(start <= i - 1 < stop for i in part.index_M.tolist())


def test_a_rank_alone_has_all_of_the_micro_batch() -> None:
    batch = micro_batch([5, 4])
    whole = ModelInput.of(batch, torch.device("cpu"))
    assert whole.bounds is None
    assert len(whole.token_ids_T) == 9


def test_heads_that_do_not_divide_by_the_ranks_of_a_group_are_refused() -> None:
    check_heads(4, 2, 2)
    with pytest.raises(
        BadInput, match=r"sequence_parallel=4: must divide the model's 4 attention heads and 2 key-value heads"
    ):
        check_heads(4, 2, 4)


def test_ranks_of_a_group_have_the_same_micro_batches_and_tokens_count_once() -> None:
    made = [Example(list(range(n)), [0] + [1] * (n - 1)) for n in (30, 25, 20, 9, 7)]
    shared, alone = (
        pack_examples(made, learner=LearnerConfig(micro_batch_tokens=40, ranks=r, sequence_parallel=s), layout="packed")
        for r, s in [(4, 2), (2, 1)]
    )
    a, b, c, d = shared.micro_batches_R
    assert a is b
    assert c is d
    assert shared.num_tokens == alone.num_tokens == sum(mb.num_tokens for mb in a + c)
    assert shared.padding_share == alone.padding_share


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("learner.ranks=3", "does not divide learner.ranks=3"),
        ("learner.layout=rows", "use learner.layout=packed"),
        ("grpo.steps=1", "is for SFT alone"),
    ],
)
def test_what_does_not_go_with_shared_sequences_is_refused(override: str, fault: str) -> None:
    from recipes.tiny import recipe

    cfg = apply_overrides(recipe(), ["learner.ranks=2", "learner.sequence_parallel=2", "grpo.steps=0"])
    validate(cfg)
    with pytest.raises(BadInput, match=fault):
        validate(apply_overrides(cfg, [override]))


def test_in_a_recipe_sequences_are_shared_by_the_stages_that_are_sft() -> None:
    from recipes.r1_mini import recipe

    mini = apply_stage_overrides(recipe(), ["learner.ranks=4", "learner.sequence_parallel=2"])
    check(mini)
    shared = {stage.name: run_config(mini, stage).learner.sequence_parallel for stage in mini.stages}
    assert {name for name, size in shared.items() if size == 2} == {
        "base", "cold", "sft", "student_base", "student"
    }  # fmt: skip
    taught = dataclasses.replace(mini["student"], sft=SFTConfig(steps=1, distill=DistillConfig(teacher="@sft")))
    assert run_config(mini, taught).learner.sequence_parallel == 1


def test_a_recipe_without_sft_does_not_share_sequences() -> None:
    from recipes.r1_mini import recipe

    mini = apply_stage_overrides(recipe(), ["learner.ranks=2", "learner.sequence_parallel=2"])
    zero = dataclasses.replace(mini["zero"], model="models/base")
    with pytest.raises(BadInput, match="sequence_parallel=2: no stage is SFT without a teacher"):
        check(dataclasses.replace(mini, stages=(zero,)))
