"""Few-shot prompting: questions with an instruction after them and worked examples before them, first as text, then as
Prompts. R1's own protocol is zero-shot with an instruction (V2 D.1: few-shot prompting hurts R1).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rl.config import AskConfig, DataConfig, EvalConfig
from rl.data.rows import load_rows, place
from rl.data.streams import all_prompts
from rl.data.templates import Table, render
from rl.turns import PromptExtras
from rl.types import BadInput, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BARE = "{prompt}"
"""AskConfig.form of a question that stands alone."""


def ask(question: str, instruction: str, shot: str, examples: Sequence[str]) -> str:
    r"""The question as it goes into the prompt template.

    examples: worked examples, filled in. The question follows in their form, up to where the target or answer stands.

        "1+1?", "", "Q: {prompt}\nA: {answer}", ["Q: 2+2?\nA: 4"] -> "Q: 2+2?\nA: 4\n\nQ: 1+1?\nA:"
    """
    if instruction:
        question = f"{question.rstrip()}\n{instruction}"
    if not examples:
        return question
    opening = min(shot.split("{target}")[0], shot.split("{answer}")[0], key=len)
    return "\n\n".join([*examples, opening.replace("{prompt}", question).rstrip()])


def fill(shot: str, question: str, target: str, answer: str) -> str:
    r"""One worked example, filled in. Braces in the question or the answer are left as they are.

    "{prompt}\n\boxed{{answer}}", "1+1?", "", "2" -> "1+1?\n\boxed{2}"
    """
    parts = {"{prompt}": question, "{target}": target, "{answer}": answer}
    # str.replace, one field after the other, would also replace a "{answer}" that the question contains.
    out, rest = [], shot
    while rest:
        at, name = min(((rest.find(name), name) for name in parts if name in rest), default=(len(rest), ""))
        out += [rest[:at], parts.get(name, "")]
        rest = rest[at + len(name) :]
    return "".join(out).rstrip()


def shot_stop(cfg: AskConfig) -> tuple[str, ...]:
    r"""Texts that end a completion in few-shot prompting: the beginning of one more example ("\n\nQuestion:")."""
    opening = cfg.shot.split("{prompt}")[0].rstrip()
    return ("\n\n" + opening,) if cfg.shots and opening else ()


def before(text: str, ends: Sequence[str]) -> str:
    """ "so 4\\n\\nQuestion: 3", ["\\n\\nQuestion:"] -> "so 4"; nothing is cut where none of the ends is in the text."""
    return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]


def worked_examples(cfg: AskConfig, count: int, seed: int, avoid: Sequence[str], key: str) -> list[tuple[str, str]]:
    """`count` different examples of cfg.shots_data, drawn by the seed, each as (its question, the example filled in).

    avoid: questions that no example may contain. key: the setting that holds cfg, for the message.
    Raises BadInput when there are too few.
    """
    data = cfg.shots_data
    rows, taken = load_rows(data), {text.strip() for text in avoid}
    table = Table(rows, data, functools.partial(place, data.source))
    order = np.random.default_rng([seed, cfg.shots]).permutation(len(rows)).tolist()
    found: list[tuple[str, str]] = []
    for i in order:
        question = table.text(i, data.prompt_field)
        if len(found) < count and question.strip() not in taken:
            taken.add(question.strip())
            found.append((question, _filled(cfg.shot, table, i)))
    if len(found) < count:
        raise BadInput(
            f"{key}.shots={cfg.shots}: {count} examples are needed, and {data.source} has only {len(found)} questions "
            f"that are not among the prompts themselves; lower it, or name more rows in {key}.shots_data"
        )
    return found


def _filled(text: str, table: Table, i: int) -> str:
    """The text with row i's question, and its target and answer where the text has a place for them."""
    target = table.text(i, table.cfg.target_field) if "{target}" in text else ""
    answer = table.reference(i) if "{answer}" in text else ""
    return fill(text, table.text(i, table.cfg.prompt_field), target, answer)


def evaluation_prompts(
    rows: Sequence[Row],
    cfg: EvalConfig,
    prompts: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    seed: int,
    extras: Sequence[PromptExtras] = (),
) -> list[Prompt]:
    """A prompt for each problem, in the order of the rows, with the instruction and examples that cfg asks for.

    prompts: the training prompts, which worked examples come from by default. Raises BadInput as asked_prompts does.
    """
    shots_data = cfg.shots_data if cfg.shots_data.source else prompts
    put = dataclasses.replace(cfg.ask, shots_data=shots_data)
    return asked_prompts(
        rows, cfg.data, put, tokenizer, max_prompt_tokens, seed, "evaluation", held_out=True, extras=extras
    )


def asked_prompts(
    rows: Sequence[Row],
    data: DataConfig,
    cfg: AskConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    seed: int,
    key: str,
    *,
    held_out: bool = False,
    extras: Sequence[PromptExtras] = (),
) -> list[Prompt]:
    """A prompt for each row, in order, with the instruction and examples that cfg asks for. key: the setting with cfg.

    Prompt.row stays the dataset's row, since rewards read it.
    held_out: no example is one of the questions, and all questions get the same examples. Otherwise the examples may be
    among the questions; one that would be its own example gets another instead.
    Raises BadInput as all_prompts and worked_examples do.
    """
    if not (cfg.instruction or cfg.shots or cfg.form != BARE):
        return all_prompts(rows, data, tokenizer, max_prompt_tokens, extras)
    field = data.prompt_field
    table = Table(rows, data, functools.partial(place, data.source))
    questions = table.texts(field)
    count = cfg.shots + (0 if held_out or not cfg.shots else 1)  # one to spare, for a question among the examples
    examples = worked_examples(cfg, count, seed, questions if held_out else (), key) if count else []
    asked = []
    for i, (row, question) in enumerate(zip(rows, questions, strict=True)):
        others = [text for of, text in examples if of.strip() != question.strip()][: cfg.shots]
        put = question if cfg.form == BARE else _filled(cfg.form, table, i)
        asked.append({**row, field: ask(put, cfg.instruction, cfg.shot, others)})
    found = all_prompts(asked, data, tokenizer, max_prompt_tokens, extras)
    return [
        dataclasses.replace(
            p, row=rows[p.id], question=questions[p.id], asked=p.question,
            bare_text=render(questions[p.id], data, tokenizer),
        )
        for p in found
    ]  # fmt: skip
