"""rl/algorithms/distill.py and rl/data/teacher_logprobs.py: KL over K tokens and a bucket, by hand and against the whole vocabulary; the columns."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rl.algorithms.distill import CachedDistillation, divergence, rest_mass
from rl.algorithms.logprobs import LogprobHead
from rl.config import DataConfig, DistillConfig, LearnerConfig, RejectConfig, RewardConfig, RunConfig, SFTConfig
from rl.data.sft_examples import ExampleStream, pack_examples
from rl.data.teacher_logprobs import vocabulary_hash
from rl.model.pretrained import load_tokenizer
from rl.recipe import Recipe, Reject
from rl.records.whole_files import append_lines
from rl.settings.config_checks import validate
from rl.settings.overrides import apply_overrides
from rl.settings.recipe_checks import check
from rl.stages.reject import _add_cached
from rl.stages.sample_files import write_kept
from rl.types import (
    AhaError,
    BadInput,
    Example,
    GradedGroup,
    Prompt,
    RewardPart,
    Rollout,
    RolloutGroup,
    TopLogprobs,
    Verdict,
)
from rl.workers.learner.objectives import cached_distillation

PLAIN = DataConfig(source="rows", template="plain", shuffle=False)
VOCAB, TOKENS = 11, 9


def close(x):
    return pytest.approx(x, rel=1e-5, abs=1e-6)


# ------------------------------------------------------------------------------------------------ the loss


def coin(teacher: list[float], ids: list[int], student: list[float]) -> tuple[float, list[float]]:
    """Divergence, and its gradient by the student's logits, of one token; the head is the identity."""
    weight = nn.Parameter(torch.eye(len(student)), requires_grad=False)
    hidden = torch.tensor([student]).log().requires_grad_()
    work = CachedDistillation(DistillConfig(), torch.tensor([ids]), torch.tensor([teacher]).log(), torch.ones(1))
    loss, _ = work(hidden, weight, torch.zeros(1, dtype=torch.long), 4)
    loss.backward()
    return loss.item(), hidden.grad[0].tolist()


def test_the_tokens_and_the_rest_are_one_distribution_each():
    # P [1/2; 1/4, 1/4], Q [1/4; 1/4, 1/2], K = 1: a coin of 1/2 against one of 1/4.
    value, grad = coin([0.5], [0], [0.25, 0.25, 0.5])
    assert value == close(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    # q - p at the token; at the others q - 1/2 of each one's share of the rest, 1/3 and 2/3.
    assert grad == close([0.25 - 0.5, 0.25 - 0.5 / 3, 0.5 - 0.5 * 2 / 3])


def test_what_the_k_tokens_leave_nothing_of_has_no_rest():
    value, grad = coin([0.75, 0.25], [2, 0], [0.25, 0.25, 0.5])
    assert value == close(0.75 * math.log(1.5))
    assert grad == close([0.0, 0.25, -0.25])


def test_a_token_that_the_teacher_never_says_costs_nothing_itself():
    value, grad = coin([1.0, 0.0], [0, 1], [0.25, 0.25, 0.5])
    assert value == close(math.log(4))
    assert grad == close([-0.75, 0.25, 0.5])


def test_the_mass_of_the_rest_is_that_of_the_docstring():
    logprobs = torch.tensor([[0.5, 0.25]]).log()
    assert (rest_mass(logprobs, 3).item(), rest_mass(logprobs, 2).item()) == (0.25, 0.0)
    assert rest_mass(torch.tensor([[0.7, 0.300001]]).log(), 3).item() == 0.0


def inputs() -> tuple[torch.Tensor, LogprobHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student's hidden states, its head, the teacher's logprobs (M, V), targets, weights."""
    torch.manual_seed(1)
    hidden_MD = torch.randn(TOKENS, 4, requires_grad=True)
    head = LogprobHead(nn.Parameter(torch.randn(VOCAB, 4)), chunk_tokens=4)
    teacher_MV = torch.log_softmax(2 * torch.randn(TOKENS, VOCAB), 1)
    return hidden_MD, head, teacher_MV, torch.randint(VOCAB, (TOKENS,)), torch.rand(TOKENS)


def bucketed(logprobs_MV: torch.Tensor, ids_MK: torch.Tensor) -> torch.Tensor:
    """(M, K + 1): the logprobs of the ids, and of all others together."""
    rest_MV = logprobs_MV.scatter(1, ids_MK, -1e30)
    return torch.cat([logprobs_MV.gather(1, ids_MK), rest_MV.logsumexp(1, keepdim=True)], 1)


@pytest.mark.parametrize("nll_coef", [0.0, 0.3])
@pytest.mark.parametrize("k", [1, 3, VOCAB])
def test_the_chunked_loss_and_its_gradients_equal_plain_autograd_over_the_buckets(k, nll_coef):
    hidden_MD, head, teacher_MV, targets_M, weight_M = inputs()
    logprobs_MK, ids_MK = teacher_MV.topk(k)
    student_MV = torch.log_softmax(hidden_MD @ head.weight.T, 1)
    if k == VOCAB:
        token_M = divergence("forward", student_MV, teacher_MV)  # the whole vocabulary
    else:
        token_M = divergence("forward", bucketed(student_MV, ids_MK), bucketed(teacher_MV, ids_MK))
    nll_M = -student_MV.gather(1, targets_M[:, None]).squeeze(1)
    want = (weight_M * (token_M + nll_coef * nll_M)).sum()
    want_grads = torch.autograd.grad(want, [hidden_MD, head.weight])

    work = CachedDistillation(DistillConfig(nll_coef=nll_coef), ids_MK, logprobs_MK, weight_M)
    loss, parts_2M = head(hidden_MD, targets_M, torch.ones(TOKENS), work)
    (3 * loss).backward()
    assert loss.item() == close(want.item())
    assert parts_2M[0].tolist() == close(token_M.tolist())
    assert parts_2M[1].tolist() == close(nll_M.tolist())
    assert not parts_2M.requires_grad
    for got, expected in zip((hidden_MD.grad, head.weight.grad), want_grads, strict=True):
        torch.testing.assert_close(got, 3 * expected, rtol=1e-4, atol=1e-5)


def test_more_tokens_never_say_less_and_never_more_than_the_whole():
    hidden_MD, head, teacher_MV, targets_M, weight_M = inputs()
    values = []
    for k in (1, 2, 5, 8, VOCAB):
        logprobs_MK, ids_MK = teacher_MV.topk(k)
        work = CachedDistillation(DistillConfig(), ids_MK, logprobs_MK, weight_M)
        values.append(head(hidden_MD, targets_M, torch.ones(TOKENS), work)[1][0])
    assert (values[0] >= 0).all()
    for fewer, more in itertools.pairwise(values):
        assert (more - fewer > -1e-6).all()


def test_the_size_of_a_chunk_changes_no_number():
    results = []
    for chunk in (1, 4, 64):
        hidden_MD, head, teacher_MV, targets_M, weight_M = inputs()
        head.chunk_tokens = chunk
        logprobs_MK, ids_MK = teacher_MV.topk(3)
        loss, _ = head(
            hidden_MD, targets_M, torch.ones(TOKENS), CachedDistillation(DistillConfig(), ids_MK, logprobs_MK, weight_M)
        )
        loss.backward()
        results.append((loss.item(), hidden_MD.grad.flatten().tolist(), head.weight.grad.flatten().tolist()))
    for got in results[1:]:
        assert got[0] == close(results[0][0])
        assert got[1] == close(results[0][1])
        assert got[2] == close(results[0][2])


def test_a_frozen_head_gets_no_gradient_and_no_tokens_give_zero():
    hidden_MD, head, teacher_MV, targets_M, weight_M = inputs()
    head.weight.requires_grad_(False)
    logprobs_MK, ids_MK = teacher_MV.topk(2)
    head(hidden_MD, targets_M, torch.ones(TOKENS), CachedDistillation(DistillConfig(), ids_MK, logprobs_MK, weight_M))[
        0
    ].backward()
    assert hidden_MD.grad.abs().sum() > 0
    assert head.weight.grad is None
    nothing = cached_distillation(DistillConfig(), None, weight_M[:0])
    loss, parts = head(hidden_MD[:0], targets_M[:0], torch.ones(0), nothing)
    loss.backward()
    assert (loss.item(), tuple(parts.shape)) == (0.0, (2, 0))


def test_positions_and_tokens_that_do_not_fit_are_refused():
    hidden_MD, head, _, targets_M, weight_M = inputs()
    top = TopLogprobs(np.full((TOKENS, 1), VOCAB, np.int32), np.zeros((TOKENS, 1), np.float32))
    with pytest.raises(ValueError, match="the teacher's token 11 is not among the student's 11"):
        head(hidden_MD, targets_M, torch.ones(TOKENS), cached_distillation(DistillConfig(), top, weight_M))
    with pytest.raises(ValueError, match="9 positions with cached logprobs for 8 learnt tokens"):
        cached_distillation(DistillConfig(), top, weight_M[:8])


# ------------------------------------------------------------------------------------------------ the columns


def row(tokenizer: Any, target: str = "ab", count: int | None = None, **columns: object) -> dict[str, object]:
    """A row whose teacher says each learnt token with 1/2, and token 7 with 1/4."""
    ids = [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][:count]
    cached = {
        "teacher_ids": [[i, 7] for i in ids], "teacher_logprobs": [[math.log(0.5), math.log(0.25)]] * len(ids),
        "teacher_tokenizer": vocabulary_hash(tokenizer),
    }  # fmt: skip
    return {"prompt": "q", "target": target, "answer": "", **cached, **columns}


def stream(tokenizer: Any, *rows: dict[str, object], cached: bool = True, **settings: Any) -> ExampleStream:
    return ExampleStream(list(rows), PLAIN, tokenizer, 1, settings.pop("limit", 64), **settings, cached=cached)


def test_a_row_gives_its_logprobs_to_its_learnt_tokens(tokenizer):
    (example,) = stream(tokenizer, row(tokenizer)).all()
    ids = [t for t, learnt in zip(example.token_ids, example.loss_mask_T, strict=True) if learnt]
    assert example.teacher is not None
    assert example.teacher.ids_NK.tolist() == [[i, 7] for i in ids]
    assert example.teacher.logprobs_NK[2].tolist() == close([math.log(0.5), math.log(0.25)])
    assert stream(tokenizer, row(tokenizer), cached=False).all()[0].teacher is None


def test_a_rows_own_tokens_are_learnt_as_they_were_sampled(tokenizer):
    """What was cut at the limit has no end token, and its logprobs are of what there is."""
    (a, b) = tokenizer("ab", add_special_tokens=False)["input_ids"]
    (example,) = stream(tokenizer, row(tokenizer, count=2, target_ids=[a, b])).all()
    assert (example.token_ids[-2:], example.loss_mask_T[-2:]) == ([a, b], [1, 1])
    (example,) = stream(tokenizer, row(tokenizer, target_ids=[a, b, tokenizer.eos_token_id])).all()
    assert example.token_ids[-3:] == [a, b, tokenizer.eos_token_id]


def test_a_sample_that_ended_in_another_of_the_models_end_tokens_keeps_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    (a, b) = tokenizer("ab", add_special_tokens=False)["input_ids"]
    (example,) = stream(load_tokenizer(str(tmp_path)), row(tokenizer, target_ids=[a, b, 0])).all()
    assert example.token_ids[-3:] == [a, b, 0]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"teacher_tokenizer": "0123456789abcdef"}, "rows row 2: teacher_tokenizer=0123456789abcdef, but the student's tokenizer is"),
        ({"target": "abc"}, r"rows row 2: teacher_ids has 3 positions, but the target has 4 tokens, the end token included"),
        ({"target": "ax", "target_ids": [67, 68, 2]}, r"target_ids are the tokens of 'ab', not of the target 'ax'"),
        ({"target_ids": [67, 99999]}, "not within the tokenizer's 259 tokens"),
        ({"teacher_ids": [[5, 5]] * 3}, "names a token twice at one position"),
        ({"teacher_ids": [[5, -1]] * 3}, "or a negative one"),
        ({"teacher_logprobs": [[0.0, -1.0]] * 3}, r"teacher_logprobs at position 0 add up to a probability of 1\.368, above 1"),
        ({"teacher_logprobs": [[-1.0, -9.0], [math.nan, -9.0], [-1.0, -9.0]]}, "at position 1 add up to a probability of nan"),
        ({"teacher_logprobs": [[-1.0]] * 3}, r"teacher_ids is \(3, 2\), teacher_logprobs is \(3, 1\)"),
        ({"teacher_ids": [[5, 6], [5]]}, "field 'teacher_ids' is not 2-dimensional numbers"),
        ({"teacher_ids": [5, 6, 7]}, "field 'teacher_ids' has 1 dimensions, expected 2"),
        ({"teacher_ids": [[5]] * 3, "teacher_logprobs": [[-1.0]] * 3}, "1 logprobs a token, the first row has 2"),
    ],
)  # fmt: skip
def test_a_row_whose_logprobs_are_not_of_these_tokens_is_refused(tokenizer, columns, said):
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [67, 68]
    with pytest.raises(BadInput, match=said):
        stream(tokenizer, row(tokenizer), {**row(tokenizer), **columns})


def test_a_row_without_the_columns_names_the_one_it_lacks(tokenizer):
    with pytest.raises(BadInput, match="rows row 1: no field 'teacher_tokenizer'"):
        stream(tokenizer, {"prompt": "q", "target": "a", "answer": ""})


def test_rows_that_are_too_long_take_their_logprobs_with_them(tokenizer):
    examples = stream(tokenizer, row(tokenizer, "abcdef"), row(tokenizer, "xy"), limit=6, overlong="drop").all()
    assert [len(e.teacher.ids_NK) for e in examples if e.teacher] == [3]


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_packing_keeps_each_tokens_logprobs_beside_it(layout):
    def example(*ids: int) -> Example:
        top = TopLogprobs(np.array([[i, 50] for i in ids], np.int32), np.full((len(ids), 2), -1.0, np.float32))
        return Example([3, *ids], [0, *[1] * len(ids)], top)

    examples = [example(10), example(20, 21, 22), example(30, 31)]
    batch = pack_examples(examples, learner=LearnerConfig(ranks=2, micro_batch_tokens=8), layout=layout)
    seen = []
    for mb in (mb for rank in batch.micro_batches_R for mb in rank):
        learnt = mb.token_ids_T[mb.loss_mask_T > 0].tolist()
        assert (mb.teacher.ids_NK[:, 0].tolist() if mb.teacher else []) == learnt
        seen += learnt
    assert sorted(seen) == [10, 20, 21, 22, 30, 31]
    with pytest.raises(ValueError, match="example 0: 1 learnt tokens, 3 in teacher"):
        pack_examples(
            [replace(examples[1], token_ids=[3, 4], loss_mask_T=[0, 1])], learner=LearnerConfig(), layout=layout
        )


# ------------------------------------------------------------------------------------------------ settings, writer


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sft.distill.teacher=org/t"], "sft.distill.cached=true needs no teacher"),
        (["sft.distill.divergence=reverse"], "stored logprobs are enough for forward alone; use it"),
        (["sft.data.text_field=text"], "needs rows of prompt and target"),
    ],
)
def test_settings_that_cached_logprobs_do_not_go_with_are_refused(overrides, said):
    cfg = apply_overrides(
        RunConfig(name="r", sft=SFTConfig(distill=DistillConfig(cached=True))), ["model.path=org/m", "grpo.steps=0"]
    )
    validate(cfg)
    with pytest.raises(BadInput, match=said):
        validate(apply_overrides(cfg, overrides))


def test_logprobs_are_stored_of_a_model_of_ones_own_at_temperature_one(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "q", "answer": "1"}\n')
    stage = Reject(
        "picks", "org/m", DataConfig(source=str(rows)), (RewardConfig("accuracy"),), reject=RejectConfig(top_logprobs=4)
    )
    check(Recipe("r", RunConfig(), (stage,)))
    with pytest.raises(
        BadInput, match=r"picks\.reject\.top_logprobs: students learn the distribution at rollout.temperature=1"
    ):
        check(Recipe("r", RunConfig(), (replace(stage, rollout=replace(stage.rollout, temperature=0.7)),)))


def graded(tokenizer: Any, *texts: str, top: bool = True) -> GradedGroup:
    rollouts = []
    for text in texts:
        ids = np.array([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id], np.int32)
        found = TopLogprobs(
            np.stack([ids, np.full_like(ids, 7)], 1), np.log(np.full((len(ids), 2), [0.9, 0.05], np.float32))
        )
        rollouts.append(Rollout(ids, np.zeros(len(ids), np.float32), text, "stop", 1.0, 0, 0, found if top else None))
    parts = [{"accuracy": RewardPart(1.0, Verdict.CORRECT)}] * len(texts)
    prompt = Prompt(0, 0, [1], "q", "1", {"prompt": "q", "answer": "1"})
    return GradedGroup(RolloutGroup(prompt, rollouts), [1.0] * len(texts), parts, [True] * len(texts))


def line(*fates: tuple[str, str]) -> Any:
    samples = [
        {"text": t, "tokens": 1, "finish_reason": "stop", "reward": 1.0, "verdicts": {}, "reason": why}
        for t, why in fates
    ]
    return {"prompt_id": 0, "prompt": "q", "answer": "1", "row": {"prompt": "q", "answer": "1"}, "samples": samples}


def test_what_a_rejection_stage_stores_is_what_sft_learns(tokenizer, tmp_path: Path):
    written = line(("ab", "surplus: keep=first, 1 of 2"), ("xyz", "kept: first"))
    group = graded(tokenizer, "ab", "xyz")
    _add_cached(written, group, vocabulary_hash(tokenizer))
    append_lines(tmp_path / "samples.jsonl", [written])
    (kept,) = [json.loads(text) for text in write_kept(tmp_path).read_text().splitlines()]
    (example,) = stream(tokenizer, kept).all()
    want = group.group.rollouts_G[1]
    assert want.top is not None
    assert example.teacher is not None
    assert example.token_ids[-4:] == want.token_ids_T.tolist()
    assert example.teacher.ids_NK.tolist() == want.top.ids_NK.tolist()
    np.testing.assert_allclose(example.teacher.logprobs_NK, want.top.logprobs_NK, atol=1e-5)
    assert "cached" not in json.loads((tmp_path / "samples.jsonl").read_text())["samples"][0]


def test_a_sampler_that_sends_no_logprobs_is_named(tokenizer):
    with pytest.raises(AhaError, match="prompt 0: the sampler was asked for top logprobs and sent none"):
        _add_cached(line(("ab", "")), graded(tokenizer, "ab", top=False), "hash")


def test_the_samplers_logprobs_are_its_likeliest_in_order_without_the_sampled_extra():
    from rl.workers.sampler.sampler import _top

    def said(**by_token: float) -> dict[int, SimpleNamespace]:
        return {int(token[1:]): SimpleNamespace(logprob=value) for token, value in by_token.items()}

    top = _top([said(t9=-5.0, t4=-0.5, t6=-1.0), said(t6=-0.7, t8=-0.8)], 2)
    assert top.ids_NK.tolist() == [[4, 6], [6, 8]]
    np.testing.assert_allclose(top.logprobs_NK, [[-0.5, -1.0], [-0.7, -0.8]])
