"""From a row to the prompt that the model sees: fields, template, tokens. RL, SFT and evaluation all use this file.

A template is a text with {prompt} in it. A completion follows a rendered prompt directly: after "Assistant:" the target
"<think>" gives "Assistant:<think>". Where a space is wanted, the target begins with it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rl.config import DataConfig
from rl.settings.chat_template import the_template
from rl.turns import PromptExtras
from rl.types import BadInput, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""One turn of a conversation: role (system, user, assistant, ...) and content."""

CHAT = "chat"
"""The tokenizer's own chat template: an optional system message, the question, and what opens the answer."""

TEMPLATES = {
    # DeepSeek-R1 (arXiv 2501.12948), Table 1.
    "r1_zero": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        "User: {prompt}. Assistant:"
    ),
    "plain": "{prompt}",
}

ENDS_A_SENTENCE = tuple(".?!:;,…。？！：；，")
CHUNK = 4096
"""Texts tokenised at once, which bounds the memory that the tokenizer's results take."""
PART = 512
"""Rows that are in memory at once while a dataset is tokenised."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A surrogate without its other half, which no tokenizer and no file can write."""


def check_template(cfg: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadInput when cfg.template cannot be used with this tokenizer, or cfg.system would be ignored."""
    if cfg.template == CHAT:
        if not the_template(tokenizer):
            raise BadInput("template=chat: this tokenizer has no chat template; use template=r1_zero or plain")
        return
    if cfg.system:
        raise BadInput(f"system: only template=chat has a system message, but template={cfg.template!r}; drop one")
    if cfg.template not in TEMPLATES and "{prompt}" not in cfg.template:
        names = [*TEMPLATES, CHAT]
        near = difflib.get_close_matches(cfg.template, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"template={cfg.template!r}: use {', '.join(names)}, or a text with {{prompt}} in it{hint}")


def render(
    prompt: str, cfg: DataConfig, tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, object]] = ()
) -> str:
    """The text that the model continues. check_template must have passed.

    r1_zero puts a full stop after the question, unless the question itself ends in punctuation ("User: What is 1 + 2?
    Assistant:"), and drops white space at its end. In a template given as text every {prompt} is replaced and nothing
    else: other braces are literal.
    Raises BadInput when the chat template fails or leaves out the question or the system message.
    """
    if cfg.template == CHAT:
        return _render_chat(prompt, cfg.system, tokenizer, tools)
    text = TEMPLATES.get(cfg.template, cfg.template)
    if cfg.template == "r1_zero":
        prompt = prompt.rstrip()
        if prompt.endswith(ENDS_A_SENTENCE):
            text = text.replace("{prompt}.", "{prompt}")
    return text.replace("{prompt}", prompt)


def open_answer(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, where: object = "",
    tools: Sequence[dict[str, object]] = (),
) -> str:  # fmt: skip
    """The chat template's text of these messages, up to and with the opening of the next answer.

    where: the row, for the message. Raises BadInput when the template fails.
    """
    from jinja2 import TemplateError

    conversation = cast(Any, messages)
    try:
        shown = {"tools": cast(Any, list(tools))} if tools else {}
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **shown)
        return cast(str, text)
    except (TemplateError, TypeError, ValueError) as error:  # the last two: of an expression in the template
        place = f"{where}: " if where else ""
        raise BadInput(f"{place}the tokenizer's chat template refused: {' '.join(str(error).split())}") from error


def _render_chat(
    prompt: str, system: str, tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, object]]
) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    text = open_answer(messages, tokenizer, tools=tools)
    for name, part in (("system message", system), ("question", prompt)):
        if part.strip() not in text:
            raise BadInput(f"the tokenizer's chat template left out the {name} {part[:60]!r}")
    return text


def prompt_prefix(cfg: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that go before a rendered prompt: the begin token, where the model was trained to see one.

    A chat template writes its own special tokens, so nothing is added: the model never saw two begin tokens. For other
    templates it is the one that the tokenizer puts before any text (Llama's does, Qwen's does not).
    """
    if cfg.template == CHAT or tokenizer.bos_token_id is None:
        return []
    bos = cast(int, tokenizer.bos_token_id)
    return [bos] if cast(Any, tokenizer)("").input_ids[:1] == [bos] else []


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int] = ()) -> Iterator[list[int]]:
    """Token ids of each text, in order, with prefix before those that do not begin with it."""
    # add_special_tokens=False: a tokenizer might add a second begin token, or an end token, which ends the answer.
    head = list(prefix)
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        batch = cast(Any, tokenizer)(chunk, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in batch["input_ids"]:
            yield ids if ids[: len(head)] == head else head + ids


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: sampling stops at any of them, SFT teaches the first.

    The first is the tokenizer's end token; the others come from the model's generation_config.json. In a chat model a
    turn may end in another token (Gemma's <end_of_turn>) than a document does.
    Raises BadInput when the tokenizer has no end token: completions would never end by themselves.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput("the tokenizer has no end token (eos_token); set it in the model's tokenizer_config.json")
    from rl.model.pretrained import generation_ends

    return list(dict.fromkeys([cast(int, tokenizer.eos_token_id), *generation_ends(tokenizer.name_or_path)]))


def tokenise(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    where: Callable[[int], str],
    prefix: Sequence[int] = (),
) -> list[np.ndarray]:
    """encode() as int32 arrays. Raises BadInput where the tokenizer cannot write a character; where(i) names text i."""
    unknown, lost = _unknown_token_id(tokenizer), _lost_characters(texts, tokenizer)
    arrays: list[np.ndarray] = []
    for index, ids in enumerate(encode(texts, tokenizer, prefix)):
        dropped = lost.intersection(texts[index]) if lost else set()
        if dropped or (unknown is not None and unknown in ids):
            which = f" ({min(dropped)!r})" if dropped else ""
            raise BadInput(f"{where(index)}: the tokenizer cannot write a character{which} of {texts[index][:80]!r}")
        arrays.append(np.asarray(ids, dtype=np.int32))
    return arrays


def _unknown_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token for text that the tokenizer cannot write, or None when it has no token for that alone.

    Some tokenizers use their end or padding token as the unknown token: finding it in a text then proves nothing.
    """
    unknown = cast("int | None", tokenizer.unk_token_id)
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return None if unknown in others else unknown


def _lost_characters(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Visible characters that the tokenizer drops silently, as a tokenizer without an unknown token does."""
    seen = sorted(c for c in set[str]().union(*texts) if c.isprintable() and not c.isspace())
    return {c for c, ids in zip(seen, encode(seen, tokenizer), strict=True) if not ids}


def refuse_half_character(text: str, where: object) -> None:
    """Raise BadInput for a text with a surrogate that lacks its other half. where: what has the text."""
    if not text.isascii() and (found := HALF_CHARACTER.search(text)):
        raise BadInput(
            f"{where} has half a character, {found[0]!a}, at place {found.start() + 1}: it was cut inside an emoji "
            "or the like; mend or drop it"
        )


class Where:
    """Says where something is, once an error needs it: a row of a file is looked up there, which takes a while."""

    def __init__(self, say: Callable[[], str]) -> None:
        self._say = say

    def __str__(self) -> str:
        return self._say()


class Table:
    """Rows, and the settings that say how to read them. Each error is a BadInput that begins with where(index).

    extras: what environments add to each question; empty without environments.
    """

    def __init__(
        self, rows: Sequence[Row], cfg: DataConfig, where: Callable[[int], str], extras: Sequence[PromptExtras] = ()
    ) -> None:
        if not rows:
            raise BadInput(f"{cfg.source}: has no rows")
        self.rows, self.cfg, self.where, self.extras = rows, cfg, where, extras

    def at(self, index: int) -> Where:
        """where(index), looked up only when it is written."""
        return Where(lambda: self.where(index))

    def field(self, index: int, name: str) -> object:
        if name not in self.rows[index]:
            raise BadInput(f"{self.where(index)}: no field {name!r}; there are: {', '.join(self.rows[index])}")
        return self.rows[index][name]

    def text(self, index: int, name: str) -> str:
        value = self.field(index, name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise BadInput(f"{self.where(index)}: field {name!r} is empty")
        if not isinstance(value, str):
            raise BadInput(f"{self.where(index)}: field {name!r} is {type(value).__name__}, expected text")
        refuse_half_character(value, Where(lambda: f"{self.where(index)}: field {name!r}"))
        return value

    def texts(self, name: str) -> list[str]:
        return [self.text(i, name) for i in range(len(self.rows))]

    def parts(self) -> Iterator[Table]:
        """The rows in order, PART at a time, each part as a table that has its rows in memory."""
        rows = iter(self.rows)
        for start in itertools.count(0, PART):
            if not (part := list(itertools.islice(rows, PART))):
                return
            extras = self.extras[start : start + PART]
            yield Table(part, self.cfg, functools.partial(self._where_after, start), extras)

    def _where_after(self, start: int, index: int) -> str:
        return self.where(start + index)

    def reference(self, index: int) -> str:
        """The reference answer as text; a number as Python writes it. "" when cfg.answer_field is "", or the row has
        null there: a dataset may hold poems without an answer beside problems with one.
        """
        name, mark = self.cfg.answer_field, self.cfg.answer_after
        if not name:
            return ""
        value = self.field(index, name)
        if value is None:
            return ""
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(
                f"{self.where(index)}: field {name!r} is {value}, which no answer equals; write null where there is "
                "no answer, or the answer as text"
            )
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        text = self.text(index, name)
        if not mark:
            return text
        reference = text.rpartition(mark)[2].strip() if mark in text else ""
        if not reference:
            raise BadInput(f"{self.where(index)}: field {name!r} has no answer after {mark!r}")
        return reference

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[np.ndarray]]:
        """Rendered prompts and their token ids. RL, SFT and evaluation all get their prompts here."""
        check_template(self.cfg, tokenizer)
        texts = [self.rendered(i, tokenizer) for i in range(len(self.rows))]
        return texts, tokenise(texts, tokenizer, self.where, prompt_prefix(self.cfg, tokenizer))

    def rendered(self, index: int, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text that the model continues, with what an environment adds to it."""
        question = self.text(index, self.cfg.prompt_field)
        if not self.extras:
            return render(question, self.cfg, tokenizer)
        extra = self.extras[index]
        question += f"\n\n{extra.opening}" if extra.opening else ""
        return render(question, self.cfg, tokenizer, extra.tools)

    def refuse_long(self, lengths: Sequence[int] | np.ndarray, limit: int, what: str, remedy: str) -> None:
        long = [i for i, length in enumerate(lengths) if length > limit]
        if long:
            raise BadInput(
                f"{self.where(long[0])}: the {what} has {lengths[long[0]]} tokens, the limit is {limit} "
                f"({len(long)} of {len(lengths)} rows are too long); {remedy}"
            )
