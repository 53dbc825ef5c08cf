"""Process reward models: where steps end in tokens, rows with labelled steps, the loss, training, and one-pass scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rl.algorithms.reward_loss import reward_loss
from rl.config import DataConfig, LearnerConfig, OptimConfig, RewardConfig, RewardModelConfig, RewardTrainConfig
from rl.data.preference_pairs import encode, pack_preferences
from rl.data.step_labels import first_error
from rl.evaluation.step_accuracy import first_error_f1
from rl.recipe import RewardTraining
from rl.scoring.reward_model import RewardModel
from rl.scoring.reward_model_text import Encoder
from rl.scoring.step_ends import aggregated, decoder, end_tokens, joined, split_steps
from rl.stages.reward_model import HeldOut, held_out_path, train_reward_model
from rl.types import BadInput, Prompt, Rollout, RolloutGroup, Verdict
from tests.unit.classifiers import bert_classifier, llama_classifier
from tests.unit.test_reward_training import LEARNER, TorchLearners, context

PROCESS = RewardTrainConfig(kind="process", step_separator="\n")


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, but a full stop and the empty line after it are one token, as in the tokenizers of Qwen and Llama 3."""
    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet, "ĊĊ", ".ĊĊ"])}
    core = Tokenizer(models.BPE(vocab, [("Ċ", "Ċ"), (".", "ĊĊ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


# ------------------------------------------------------------------------------------------------ steps in tokens


def test_a_text_falls_into_steps_that_are_the_text_again():
    for text, ends, steps in (
        ("a. b. c", [". "], ["a. ", "b. ", "c"]),
        ("a\n\n\nb\n", ["\n"], ["a\n\n\n", "b\n"]),
        ("a\n\nb\nc", ["\n", "\n\n"], ["a\n\n", "b\n", "c"]),
        ("\n\na\nb", ["\n"], ["\n\na\n", "b"]),
        ("a", ["\n"], ["a"]),
        ("", ["\n"], []),
    ):
        assert split_steps(text, ends) == steps
        assert "".join(steps) == text


def test_steps_are_joined_by_the_separator_where_they_do_not_end_in_one():
    assert joined(["a", "b\n", "c"], "\n\n") == ["a\n\n", "b\n", "c"]
    assert joined(["a"], "\n") == ["a"]


def test_a_step_ends_at_the_token_that_holds_its_last_character_although_that_began_before():
    tokenizer = merging_tokenizer()
    ids = tokenizer("Q?one.\n\ntwo.\n\nend", add_special_tokens=False).input_ids
    pieces = [tokenizer.decode([i]) for i in ids]
    assert pieces == ["Q", "?", "o", "n", "e", ".\n\n", "t", "w", "o", ".\n\n", "e", "n", "d"]
    assert end_tokens(ids, decoder(tokenizer), ["one.\n\n", "two.\n\n", "end"]) == [5, 9, 12]
    # Without its last line break the step still ends within that token.
    assert end_tokens(ids, decoder(tokenizer), ["one.\n", "\ntwo.\n\nend"]) == [5, 12]


def test_a_character_of_several_tokens_ends_at_its_last_one():
    tokenizer = merging_tokenizer()
    ids = tokenizer("é€\nx", add_special_tokens=False).input_ids
    assert len(ids) == 7
    assert end_tokens(ids, decoder(tokenizer), ["é", "€\n", "x"]) == [1, 5, 6]


def test_the_last_place_counts_and_what_follows_it_does_not():
    pieces = ["a\n", "b", "|", "a\n", "b", "</s>"]
    assert end_tokens(range(6), lambda ids: "".join(pieces[i] for i in ids), ["a\n", "b"]) == [3, 4]


def test_spaces_that_a_template_removes_at_the_ends_are_not_looked_for():
    pieces = ["Q:", "a\n", "b", "</s>"]
    decode = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    assert end_tokens(range(4), decode, ["  a\n", "b\n\n"]) == [1, 2]
    with pytest.raises(ValueError, match="the tokenizer changes the text of a response: 'x' is not in"):
        end_tokens(range(4), decode, ["x"])


def test_the_score_of_a_solution_is_of_its_last_step_its_worst_or_their_mean():
    assert [aggregated([0.9, 0.5, 0.7], how) for how in ("last", "min", "mean")] == [0.7, 0.5, pytest.approx(0.7)]
    with pytest.raises(BadInput, match="expected last, min or mean"):
        aggregated([1.0], "product")


# ------------------------------------------------------------------------------------------------ rows and loss


def rows(count: int = 40) -> list[dict[str, object]]:
    """Solutions of three steps. Those with "bad" in the second or third are wrong from there on."""
    out = []
    for i in range(count):
        wrong = (None, 1, 2)[i % 3]
        steps = [f"{'bad' if wrong == s else 'fine'} {i * 7 % 10}" for s in range(3)]
        out.append({"prompt": f"q{i}?", "completions": steps, "labels": [wrong is None or s < wrong for s in range(3)]})
    return out


def test_a_row_has_its_labels_at_the_ends_of_its_steps_and_the_rows_share_the_weight():
    tokenizer = merging_tokenizer()
    encoder = Encoder(tokenizer, 64, thinking=False)
    data = [
        {"prompt": "q", "completions": ["a.", "bc", "d"], "labels": [True, 0.25, 0]},
        {"prompt": "q", "completions": ["a"], "labels": [1.0]},
    ]
    found = encode(data, replace(PROCESS, step_separator="\n\n"), encoder, 0)
    (first,), (second,) = found.units
    assert [tokenizer.decode(first.token_ids[[end]]) for end in first.ends] == [".\n\n", "\n\n", "d"]
    assert (first.labels, second.labels) == ((1.0, 0.25, 0.0), (1.0,))
    batch = pack_preferences(found.units, learner=LearnerConfig(micro_batch_tokens=64), layout="packed")
    ((mb,),) = batch.micro_batches_R
    assert sorted(mb.loss_weight_T[mb.loss_mask_T > 0].tolist()) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert sorted(mb.labels_T[mb.loss_mask_T > 0].tolist()) == [0.0, 0.25, 1.0, 1.0]
    assert (batch.num_loss_tokens, batch.num_sequences) == (4, 2)


def test_what_is_cut_keeps_the_steps_that_are_there():
    encoder = Encoder(merging_tokenizer(), 12, thinking=False)
    row = {"prompt": "q", "completions": ["abc", "defghi", "x"], "labels": [1, 1, 0]}
    found = encode([row], PROCESS, encoder, 0)
    ((steps,),) = found.units
    assert (found.cut, steps.labels, len(steps.token_ids)) == (1, (1.0, 1.0), 12)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "completions": "a", "labels": [1]}, "column 'completions' is missing or no list of texts"),
        ({"prompt": "q", "completions": ["a", "b"], "labels": [1]}, "expected 2 labels, one a step, not 1"),
        ({"prompt": "q", "completions": ["a"], "labels": [1.5]}, r"holds 1\.5, not true, false or 0 to 1"),
    ],
)
def test_a_row_without_a_label_for_each_step_is_named(row: dict[str, object], said: str):
    with pytest.raises(BadInput, match=said):
        encode([row], PROCESS, Encoder(merging_tokenizer(), 64, thinking=False), 0)


def test_the_process_loss_is_the_mean_cross_entropy_of_the_steps():
    scores = torch.tensor([2.0, 2.0, -1.0, 0.5], requires_grad=True)
    labels = torch.tensor([0.0, 0.25, 0.0, 1.0])
    weight = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2])  # a row of three steps and one of one
    loss, metrics = reward_loss("process", scores, labels, weight)
    three, one = (2.1269280 + 1.6269280 + 0.3132617) / 3, 0.4740770
    assert loss.item() == pytest.approx((three + one) / 2, abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    # The derivative of a step's cross entropy is sigmoid(score) - label: .880797 - .25 for the second.
    assert scores.grad[1].item() == pytest.approx(0.6307971 / 6, abs=1e-6)
    assert float(metrics["tokens"]) == 4


def test_the_first_error_is_found_or_that_there_is_none():
    assert [first_error(labels) for labels in ([1, 0.2, 0], [1, 0.5], [0], [])] == [1, None, 0, None]
    assert first_error_f1([1, None, 2], [1, None, None]) == pytest.approx(2 / 3)
    assert first_error_f1([0, None], [1, None]) == 0.0
    assert first_error_f1([1, 2], [1, 1]) == 0.5
    assert first_error_f1([], []) == 0.0


# ------------------------------------------------------------------------------------------------ models


def asked(*texts: str, question: str = "q?") -> RolloutGroup:
    none = np.zeros(1, np.int32), np.zeros(1, np.float32)
    return RolloutGroup(Prompt(0, 0, [1], question, "", {}), [Rollout(*none, t, "stop", 1.0, 0, 0) for t in texts])


def asking(folder: Path, **settings: object) -> RewardModel:
    cfg = RewardModelConfig(dtype="float32", steps=("\n",), **settings)  # type: ignore[arg-type]
    return RewardModel("prm", RewardConfig(f"model:{folder}", model=cfg), "cpu", 1)


@pytest.mark.parametrize("batch_tokens", [1, 16384])
def test_one_forward_pass_scores_every_step_as_if_the_solution_ended_there(tmp_path: Path, batch_tokens: int):
    folder = llama_classifier(tmp_path / "prm")
    model = asking(folder, batch_tokens=batch_tokens)
    text = "first\nsecond one\nthird"
    whole, short = model.score_steps(asked(text, "one step"))
    prefixes = ["first\n", "first\nsecond one\n", text]
    alone = [scores[-1] for scores in model.score_steps(asked(*prefixes))]
    assert whole == pytest.approx(alone, abs=1e-6)
    assert len({round(score, 4) for score in whole}) == 3
    assert len(short) == 1
    parts = model.score(asked(text, "")).parts_G
    assert parts[0]["prm"].score == pytest.approx(whole[-1])
    # A candidate that cannot be read costs that candidate alone.
    assert (parts[1]["prm"].verdict, parts[1]["prm"].reason) == (Verdict.FAILED, "it has no step that can be read")
    lowest = asking(folder, aggregate="min").score(asked(text)).parts_G[0]["prm"]
    assert lowest.score == pytest.approx(min(whole))


def test_a_classifier_without_a_head_at_each_token_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="need a decoder with a linear head 'score'"):
        asking(bert_classifier(tmp_path / "bert")).start()


def test_labelled_steps_are_learnt_and_scored_alike_afterwards(tmp_path: Path):
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    cfg = replace(
        PROCESS, data=DataConfig(source=str(tmp_path / "steps.jsonl")), rows_per_step=16, steps=30,
        held_out_share=0.25, optim=OptimConfig(lr=3e-3),
    )  # fmt: skip
    learners = TorchLearners()
    ctx = context(tmp_path, learners)
    folder = train_reward_model(ctx, str(tmp_path / "model"), cfg)
    before, after = (HeldOut.read(held_out_path(ctx.run_dir, step)) for step in (0, 30))
    assert after.loss < before.loss
    assert before.first_error_f1 is not None
    assert after.first_error_f1 is not None
    assert before.first_error_f1 < 0.8 <= after.first_error_f1
    assert set(after.metrics()) <= RewardTraining("prm", reward=cfg).measures()
    # What scores it later sees the same tokens and says the same.
    steps = ["fine 1", "bad 2", "fine 3"]
    (found,) = asking(folder).score_steps(asked("\n".join(steps), question="q9?"))
    row = {"prompt": "q9?", "completions": steps, "labels": [1, 0, 0]}
    units = encode([row], cfg, Encoder(ctx.tokenizer, 256, thinking=False), 0).units
    ((scores,),) = learners.scores(pack_preferences(units, learner=LEARNER, layout="rows").micro_batches_R)
    assert found == pytest.approx([1 / (1 + math.exp(-score)) for score in scores.tolist()], abs=1e-4)
