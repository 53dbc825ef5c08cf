"""What `aha doctor` finds without a worker in templates and end tokens."""

from __future__ import annotations

import dataclasses
import json

import pytest

from launch.doctor.check import Outcome
from launch.doctor.texts import end_token, mask_fault, template
from recipes.tiny import recipe
from rl.config import EvalConfig
from rl.types import Example
from tests.unit.doctored import patient

CFG = recipe()


def chatty(**changes: object):  # type: ignore[no-untyped-def]
    """The recipe's prompts, evaluation and SFT under the chat template."""
    chat = {"template": "chat"}
    return {
        "prompts": dataclasses.replace(CFG.prompts, **chat),
        "evaluation": dataclasses.replace(CFG.evaluation, data=dataclasses.replace(CFG.evaluation.data, **chat)),
        "sft": dataclasses.replace(CFG.sft, data=dataclasses.replace(CFG.sft.data, **chat)),
    } | changes


def test_one_template_in_all_stages_passes(tokenizer) -> None:
    check = template(patient(tokenizer))
    assert check.outcome is Outcome.PASSED
    assert "prompts, evaluation.data, sft.data" in check.measured


def test_a_recipe_without_evaluation_has_no_template_there_that_could_differ(tokenizer) -> None:
    check = template(patient(tokenizer, evaluation=EvalConfig()))
    assert check.outcome is Outcome.PASSED, check
    assert "prompts, sft.data: the same" in check.measured


@pytest.mark.parametrize("stage", ["sft", "evaluation"])
def test_a_template_that_differs_between_training_and_another_stage_is_named(tokenizer, stage: str) -> None:
    part = getattr(CFG, stage)
    other = dataclasses.replace(part, data=dataclasses.replace(part.data, template="Q: {prompt}\nA:"))
    check = template(patient(tokenizer, **{stage: other}))
    assert check.outcome is Outcome.FAILED
    assert f"{stage}.data.template='Q: {{prompt}}\\nA:'" in check.cause
    assert "prompts.template='plain'" in check.cause


def test_a_system_message_in_one_stage_only_is_named(tokenizer) -> None:
    told = chatty()
    told["prompts"] = dataclasses.replace(told["prompts"], system="Be brief.")
    check = template(patient(tokenizer, **told))
    assert check.outcome is Outcome.FAILED
    assert "system 'Be brief.'" in check.cause


def test_the_end_that_sft_teaches_is_the_one_that_sampling_waits_for(tokenizer) -> None:
    for changes in ({}, chatty()):
        check = end_token(patient(tokenizer, **changes))
        assert check.outcome is Outcome.PASSED, check
        assert "'</s>' (2)" in check.measured


def test_sft_that_teaches_another_end_than_sampling_waits_for_is_named(tokenizer, monkeypatch) -> None:
    from rl.data import sft_examples

    monkeypatch.setattr(sft_examples, "end_token_ids", lambda tokenizer: [0])
    check = end_token(patient(tokenizer))
    assert check.outcome is Outcome.FAILED
    assert "'</s>' (2), but SFT example 1: the last token that is learnt is '<pad>' (0)" in check.measured


def test_an_end_token_that_the_chat_template_does_not_write_is_named(make_byte_tokenizer) -> None:
    check = end_token(patient(make_byte_tokenizer(end="<pad>"), **chatty()))
    assert check.outcome is Outcome.FAILED
    assert "the chat template ends an answer with '</s>' (2)" in check.measured
    stopped = chatty() | {"rollout": dataclasses.replace(CFG.rollout, stop=("</s>",))}
    assert end_token(patient(make_byte_tokenizer(end="<pad>"), **stopped)).outcome is Outcome.PASSED


def test_an_end_token_that_the_models_own_files_do_not_name_is_found(tokenizer, tmp_path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0]}))
    check = end_token(patient(tokenizer, model=tmp_path))
    assert check.outcome is Outcome.FAILED
    assert "the model's own files name '<pad>' (0)" in check.measured
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert end_token(patient(tokenizer, model=tmp_path)).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("ids", "mask", "fault"),
    [
        ([5, 6, 2], [0, 1, 1], ""),
        ([5, 6, 2], [0, 1, 0], "the last token that is learnt"),
        ([5, 6, 2], [1, 1, 1], "the prompt is inside the loss mask"),
        ([5, 2, 6, 2], [0, 1, 1, 1], "in the middle"),
        ([5, 6, 2], [0, 0, 0], "nothing"),
        ([5, 6, 2, 5, 6, 2], [0, 1, 1, 0, 1, 1], ""),
    ],
)
def test_a_mask_ends_in_the_end_token_and_holds_no_other(tokenizer, ids, mask, fault: str) -> None:
    found = mask_fault(Example(ids, mask), (2,), tokenizer)
    assert fault in found
    assert bool(found) == bool(fault)
