"""Checks of the texts that the model sees and learns: template, end token, samples. Most need no workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from launch.doctor.check import Check, failed, passed, skipped
from launch.doctor.exam import Exam
from rl.config import DataConfig, RunConfig
from rl.data.templates import CHAT, encode, prompt_prefix, render
from rl.types import Example

EXAMPLES = 32
FORCED_TOKENS = 4

# ------------------------------------------------------------------------------------------------ template


def template(exam: Exam) -> Check:
    """A question becomes the same tokens in training, SFT and evaluation."""
    cfg, tokenizer = exam.cfg, exam.inputs.tokenizer
    if exam.inputs.stream is None:
        return skipped("the recipe has no GRPO stage whose prompts could differ")
    prompt = exam.prompts_P[0]
    question = str(prompt.row[cfg.prompts.prompt_field])
    want = _shown(question, cfg.prompts, tokenizer)
    if prompt.token_ids != want:
        return failed(
            f"the samplers get {len(prompt.token_ids)} tokens for the first question, its template gives {len(want)}",
            "the data stream does not put questions through the template",
            "compare rl/data/streams.py's PromptStream with rl/data/templates.py's render",
        )
    others = _other_sources(cfg)
    for name, data in others.items():
        got = _shown(question, data, tokenizer)
        if got != want:
            return _template_differs(exam, name, data, want, got)
    measured = ", ".join(["prompts", *others])
    return passed(f"{measured}: the same {len(want)} tokens for the first question ({cfg.prompts.template[:40]!r})")


def _other_sources(cfg: RunConfig) -> dict[str, DataConfig]:
    sources = {"evaluation.data": cfg.evaluation.data} if cfg.evaluation.data.source else {}
    if cfg.sft.enabled and not cfg.sft.data.text_field:
        # A conversation has its own system message.
        own = cfg.prompts.system if cfg.sft.data.messages_field else cfg.sft.data.system
        sources["sft.data"] = replace(cfg.sft.data, system=own)
    return sources


def _shown(question: str, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return next(encode([render(question, data, tokenizer)], tokenizer, prompt_prefix(data, tokenizer)))


def _template_differs(exam: Exam, name: str, data: DataConfig, want: list[int], got: list[int]) -> Check:
    tokenizer, trained = exam.inputs.tokenizer, exam.cfg.prompts
    pairs = zip(want, got, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(want), len(got)))
    ours, theirs = (tokenizer.decode(ids[max(0, at - 2) : at + 6]) for ids in (want, got))
    return failed(
        f"the first question is {len(want)} tokens in prompts and {len(got)} in {name}; from token {at + 1} on they "
        f"read {ours!r} and {theirs!r}",
        f"prompts.template={trained.template!r} (system {trained.system!r}) and {name}.template={data.template!r} "
        f"(system {data.system!r}) put a question to the model in two ways",
        f"give {name} the template and system message of prompts: what one stage teaches is what the next one asks for",
    )


# ------------------------------------------------------------------------------------------------ the end token


def end_token(exam: Exam) -> Check:
    """Sampling stops at the token that ends SFT examples, and that the model and its chat template end with."""
    tokenizer, stops = exam.inputs.tokenizer, exam.stop_token_ids
    measured = f"sampling stops at {_named(stops, tokenizer)}"
    wrong = _chat_ends_otherwise(exam) or _model_ends_otherwise(exam)
    if wrong:
        return failed(
            f"{measured}, but {wrong}",
            "the tokenizer's end token (eos_token) is not the one that this model ends with: completions would run on "
            "to the limit",
            "set eos_token in the model's tokenizer_config.json to the token that ends an answer, or name it in "
            "rollout.stop",
        )
    if exam.inputs.sft_stream is None or exam.cfg.sft.data.text_field:
        return passed(f"{measured}; no SFT stage teaches another")
    examples = exam.inputs.sft_stream.take(min(EXAMPLES, len(exam.inputs.sft_stream)))
    for i, example in enumerate(examples):
        fault = mask_fault(example, stops, tokenizer)
        if fault:
            return failed(
                f"{measured}, but SFT example {i + 1}: {fault}",
                "SFT does not teach the end that sampling waits for: completions would run on to the limit",
                "compare the end of rl/data/sft_examples.py's sequences and their masks with rl/data/templates.py's "
                "end_token_ids",
            )
    return passed(f"{measured}; each answer of {len(examples)} SFT examples ends in it, inside the loss mask")


def mask_fault(example: Example, stops: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What is wrong with an example's loss mask; "" if nothing: each learnt part has one stop token, at its end."""
    stretches = [
        [example.token_ids[i] for i, _ in pairs]
        for learnt, pairs in groupby(enumerate(example.loss_mask_T), key=lambda pair: pair[1])
        if learnt
    ]
    if not stretches:
        return "nothing of it is learnt"
    if example.loss_mask_T[0]:
        return "the prompt is inside the loss mask"
    for ids in stretches:
        if ids[-1] not in stops:
            return f"the last token that is learnt is {_named(ids[-1:], tokenizer)}"
        if set(ids[:-1]) & set(stops):
            return f"{_named(stops, tokenizer)} stands in the middle of what is learnt"
    return ""


def _chat_ends_otherwise(exam: Exam) -> str:
    """With the chat template: the first token after an assistant's answer must be one that ends a completion."""
    tokenizer = exam.inputs.tokenizer
    if CHAT not in (exam.cfg.prompts.template, exam.cfg.sft.data.template if exam.cfg.sft.enabled else ""):
        return ""
    answer = "forty-two"
    turns = [{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": answer}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    rest = next(encode([text.rpartition(answer)[2].lstrip()], tokenizer))
    if not rest or rest[0] in exam.stop_token_ids or str(tokenizer.decode(rest[:1])) in exam.cfg.rollout.stop:
        return ""
    return f"the chat template ends an answer with {_named(rest[:1], tokenizer)}"


def _model_ends_otherwise(exam: Exam) -> str:
    """One of the end tokens must be among those that the model's files name, if they name any."""
    named: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = Path(exam.inputs.model_path) / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        named |= set(value if isinstance(value, list) else [] if value is None else [value])
    if not named or named & set(exam.stop_token_ids):
        return ""
    return f"the model's own files name {_named(sorted(named), exam.inputs.tokenizer)}"


def _named(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return ", ".join(f"{tokenizer.decode([i])!r} ({i})" for i in ids)


def stops(exam: Exam) -> Check:
    """A sampler that can write the end token alone stops after one, and that token is in the learner's loss mask."""
    end = exam.stop_token_ids[0]
    params = exam.params(only=(end,), max_new_tokens=FORCED_TOKENS)
    groups = exam.sample(params, 1)
    rollouts = [g.rollouts_G[0] for g in groups]
    long = next((r for r in rollouts if r.finish_reason != "stop" or r.token_ids_T.tolist() != [end]), None)
    name = _named([end], exam.inputs.tokenizer)
    if long is not None:
        return failed(
            f"made to write only {name}, the sampler wrote {len(long.token_ids_T)} of at most {FORCED_TOKENS} tokens "
            f"and ended with {long.finish_reason!r}",
            "the sampler does not stop at the end token: wrong stop_token_ids reach it",
            "look at what rl/workers/sampler/sampler.py gives vLLM as stop_token_ids",
        )
    for mb in (mb for rank in exam.micro_batches(groups) for mb in rank):
        last_S = np.cumsum(mb.lengths_S) - 1
        computed = mb.completion_lengths_S > 0  # a rank without work has an empty placeholder
        if not (mb.loss_mask_T[last_S][computed] > 0).all():
            return failed(
                f"{name}, sampled, is outside the learner's loss mask",
                "the packer leaves the end token out: ending an answer would never be rewarded",
                "look at loss_mask_T in rl/data/packing.py",
            )
    early = sum(np.isin(r.token_ids_T[:-1], exam.stop_token_ids).any() for g in exam.groups for r in g.rollouts_G)
    if early:
        return failed(
            f"{early} sampled completions have {name} before their end",
            "the sampler goes on after the end token",
            "look at what rl/workers/sampler/sampler.py gives vLLM as stop_token_ids",
        )
    ended = [r.finish_reason == "stop" for g in exam.groups for r in g.rollouts_G]
    free = f"; of {len(ended)} free samples {sum(ended)} ended by themselves" if ended else ""
    return passed(f"made to write only {name}, the sampler stopped after one, which is inside the loss mask{free}")


# ------------------------------------------------------------------------------------------------ samples


def samples_differ(exam: Exam) -> Check:
    """The samples of a group differ, and the driver's tokenizer decodes them to the same texts."""
    groups = exam.groups
    if exam.cfg.grpo.group_size < 2:
        return skipped("grpo.group_size=1: a group has one sample")
    distinct = [len({r.token_ids_T.tobytes() for r in g.rollouts_G}) for g in groups]
    size = len(groups[0].rollouts_G)
    measured = (
        f"{sum(distinct)} of {size * len(groups)} samples differ ({', '.join(map(str, distinct))} of {size} a group)"
    )
    if max(distinct) == 1:
        return failed(
            f"{measured}: every group holds {size} times one sample",
            f"all samples of a group are drawn with one seed, or greedily (temperature here {exam.temperature:g}), or "
            "the model is so sure that nothing can be learnt",
            "look at the seeds and the temperature that reach vLLM (rl/workers/sampler/sampler.py); else raise "
            "rollout.temperature",
        )
    return passed(measured)


def same_text(exam: Exam) -> Check:
    """The tokenizers of the samplers and of the driver decode tokens alike."""
    tokenizer = exam.inputs.tokenizer
    rollouts = [r for g in exam.groups for r in g.rollouts_G]
    for r in rollouts:
        ended = len(r.token_ids_T) > 0 and int(r.token_ids_T[-1]) in exam.stop_token_ids
        text = str(tokenizer.decode(r.token_ids_T[: len(r.token_ids_T) - ended], skip_special_tokens=False))
        if text != r.text:
            return failed(
                f"the same tokens read {r.text[:60]!r} at the sampler and {text[:60]!r} here",
                "the sampler's node has another tokenizer, or another version of tokenizers",
                "put the same model folder on every node, or name the model by its Hub id",
            )
    return passed(f"{len(rollouts)} completions read the same at the samplers and here")
