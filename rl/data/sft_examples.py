"""SFT examples: which tokens a row becomes, which of them are learnt, and how examples are packed into micro-batches.

DataConfig says which of three things a row is:
    prompt and target    any template; the target and the end token are learnt
    a conversation       chat template; the content and the end token of every assistant turn are learnt, except for
                         turns whose "weight" is 0
    a document           no template; every token is learnt (plain next-token training)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rl.config import DataConfig, LearnerConfig
from rl.data.packing import Packable, schedule
from rl.data.row_store import TokenStore, select
from rl.data.rows import place
from rl.data.streams import Stream
from rl.data.teacher_logprobs import refuse_other_tokenizers, refuse_ragged, target_ids, top_logprobs
from rl.data.templates import (
    CHAT,
    Message,
    Table,
    Where,
    check_template,
    end_token_ids,
    open_answer,
    prompt_prefix,
    refuse_half_character,
    tokenise,
)
from rl.types import BadInput, Example, PackedBatch, Row, TopLogprobs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT = "assistant"
CONTEXT, MICRO_BATCH = "model.context_length", "learner.micro_batch_tokens"
"""The two settings that bound the tokens of an example; the smaller one counts."""


class ExampleStream(Stream[Example]):
    """SFT examples in a seeded order. Their rows and tokens stay on disk.

    cached: the rows carry a teacher's logprobs, which become Example.teacher (rl/data/teacher_logprobs.py).
    limited_by: the setting that max_tokens comes from. limit: max_tokens and that setting in words.
    dropped: rows left out by overlong="drop". split: documents cut into more than one piece.
    Raises BadInput when a row lacks a field or is longer than max_tokens (overlong="error"), or when no row is left.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        cfg: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_tokens: int,
        overlong: str = "error",
        *,
        cached: bool = False,
        limited_by: str = CONTEXT,
    ) -> None:
        if cfg.messages_field and cfg.text_field:
            raise BadInput(
                f"{cfg.source}: messages_field={cfg.messages_field} and text_field={cfg.text_field}: set one"
            )
        table = Table(rows, cfg, functools.partial(place, cfg.source))
        self.dropped = self.split = 0
        self._teachers: list[TopLogprobs] = []
        self.limit, self.limited_by = f"{max_tokens} tokens ({limited_by})", limited_by
        self._pieces, teachers = TokenStore(), list[TopLogprobs]()
        for part in table.parts():
            if cfg.text_field:
                pieces, split = _document_pieces(part, tokenizer, max_tokens)
                self.split += split
            elif cfg.messages_field:
                pieces = _conversations(part, tokenizer)
            else:
                pieces = _answers(part, tokenizer, cached=cached)
            for i, (ids, learnt) in enumerate(pieces):
                self._pieces.append(np.where(learnt, ~ids, ids))
                if cached:
                    teachers.append(top_logprobs(part, i, ids[learnt]))
        lengths = self._pieces.lengths()
        self._kept = np.arange(len(lengths))
        if cfg.text_field:
            # Cut to another length, the same rows are other examples, so the length goes into the fingerprint.
            identity: Iterable[dict[str, object]] = itertools.chain(rows, [{"piece tokens": max_tokens}])
            super().__init__(identity, seed, cfg.shuffle, size=len(lengths))
            return
        if overlong == "error" or lengths.min() > max_tokens:
            remedy = f"raise {limited_by}, or set overlong=drop to leave the longest out"
            what = "conversation" if cfg.messages_field else "example (prompt, target, end token)"
            table.refuse_long(lengths, max_tokens, what, remedy)
        self._kept = np.flatnonzero(lengths <= max_tokens)
        self.dropped = len(rows) - len(self._kept)
        if cached:
            refuse_ragged(table, teachers)
            self._teachers = [teachers[i] for i in self._kept]
        super().__init__(select(rows, self._kept) if self.dropped else rows, seed, cfg.shuffle)

    def all(self) -> list[Example]:
        """Every example once, in the order of the rows."""
        return [self._item(i, i) for i in range(len(self))]

    def _item(self, index: int, draw: int) -> Example:
        kept = self._pieces[int(self._kept[index])]  # a token that is learnt is there as its complement, below 0
        learnt = kept < 0
        ids = np.where(learnt, ~kept, kept)
        return Example(ids.tolist(), learnt.astype(int).tolist(), self._teachers[index] if self._teachers else None)


Piece = tuple[np.ndarray, np.ndarray]
"""Token ids, int32 (T,), and whether each is learnt, bool (T,)."""


def _piece(parts: Sequence[tuple[np.ndarray, bool]]) -> Piece:
    ids = np.concatenate([ids for ids, _ in parts])
    return ids, np.repeat([learnt for _, learnt in parts], [len(ids) for ids, _ in parts])


def _with_end(ids: np.ndarray, end: int) -> np.ndarray:
    """ids and the end token, unless they end in it already."""
    return ids if ids[-1:].tolist() == [end] else np.append(ids, np.int32(end))


def _refuse_second_think(where: object, opening: str, answer: str) -> None:
    # Some chat templates write <think> themselves, those of R1's distilled models for example.
    if opening.rstrip().endswith("<think>") and answer.lstrip().startswith("<think>"):
        raise BadInput(f"{where}: the template already opens <think>; begin the target after it")


def _answers(table: Table, tokenizer: PreTrainedTokenizerBase, *, cached: bool = False) -> list[Piece]:
    """Prompt, target and end token. Prompt and target are tokenised apart, so that the prompt's tokens are those that
    sampling starts from.

    cached: take the target's tokens from the row where it has them, since the teacher's logprobs belong to those.
    """
    targets, (texts, prompt_ids) = table.texts(table.cfg.target_field), table.prompts(tokenizer)
    for i, (text, target) in enumerate(zip(texts, targets, strict=True)):
        _refuse_second_think(table.at(i), text, target)
    end = end_token_ids(tokenizer)[0]
    learnt = [_with_end(ids, end) for ids in tokenise(targets, tokenizer, table.where)]
    if cached:
        refuse_other_tokenizers(table, tokenizer)
        learnt = [target_ids(table, i, tokenizer, ids) for i, ids in enumerate(learnt)]
    return [_piece([(p, False), (ids, True)]) for p, ids in zip(prompt_ids, learnt, strict=True)]


def _conversations(table: Table, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Whole conversations, in which the tokens before each assistant turn are those that sampling would see there.

    So the template's text of all earlier turns, tokenised in one piece, must begin with the example's tokens so far,
    in which each answer is its content and the end token. Raises BadInput for a row where it does not.
    """
    if table.cfg.template != CHAT:
        raise BadInput(f"messages_field={table.cfg.messages_field} needs template=chat, not {table.cfg.template!r}")
    check_template(table.cfg, tokenizer)
    rows = [_turns(table, i) for i in range(len(table.rows))]
    openings: list[str] = []
    answers: list[str] = []
    owners: list[int] = []  # the row of each opening and its answer
    weights: list[bool] = []  # of each answer: whether it is learnt
    for i, (messages, learnt_turns) in enumerate(rows):
        for t, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                weights.append(learnt_turns[t])
                openings.append(open_answer(messages[:t], tokenizer, table.at(i)))
                answers.append(message["content"])
                owners.append(i)
                _refuse_second_think(table.at(i), openings[-1], answers[-1])
    end = end_token_ids(tokenizer)[0]
    opening_ids = tokenise(openings, tokenizer, lambda k: table.where(owners[k]))
    answer_ids = tokenise(answers, tokenizer, lambda k: table.where(owners[k]))
    parts: list[list[tuple[np.ndarray, bool]]] = [[] for _ in rows]
    for owner, opening, answer, is_learnt in zip(owners, opening_ids, answer_ids, weights, strict=True):
        so_far = np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in parts[owner])])
        if not np.array_equal(opening[: len(so_far)], so_far):
            turn = 1 + len(parts[owner]) // 2
            raise BadInput(
                f"{table.where(owner)}: before assistant turn {turn} the chat template writes the earlier turns in "
                "other tokens than those that were learnt (it may cut thoughts or white space, or end turns with "
                "another token than eos_token); make a row of each turn, with the last answer as the target"
            )
        parts[owner] += [(opening[len(so_far) :], False), (_with_end(answer, end), is_learnt)]
    return [_piece(p) for p in parts]


def _turns(table: Table, index: int) -> tuple[list[Message], list[bool]]:
    """The row's messages, checked, after the system message of cfg.system; and for each whether it may be learnt."""
    where, name = table.at(index), table.cfg.messages_field
    value = table.field(index, name)
    if not isinstance(value, list) or not value:
        raise BadInput(f"{where}: field {name!r} must be a list of messages with role and content, and not empty")
    messages: list[Message] = []
    learnt: list[bool] = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise BadInput(f"{where}: message {number} of {name!r} is {type(message).__name__}, not role and content")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            raise BadInput(f"{where}: message {number} of {name!r} lacks its role, or its content as text")
        this = Where(functools.partial("{}: message {} of {!r}".format, where, number, name))
        for text in (role, content):
            refuse_half_character(text, this)
        messages.append({"role": role, "content": content})
        learnt.append(_is_learnt(message, this))
    if messages[-1]["role"] != ASSISTANT:
        raise BadInput(f"{where}: {name!r} ends with a turn of {messages[-1]['role']}; only an assistant's is learnt")
    system = table.cfg.system
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        learnt.insert(0, True)
    if messages[0]["role"] == ASSISTANT:
        raise BadInput(f"{where}: {name!r} begins with an answer; a question must come first")
    if not any(yes for yes, message in zip(learnt, messages, strict=True) if message["role"] == ASSISTANT):
        raise BadInput(f"{where}: every answer of {name!r} has weight 0")
    return messages, learnt


def _is_learnt(message: Mapping[str, object], where: object) -> bool:
    """False for weight 0, as in OpenAI's format. Raises BadInput for anything else besides role and content."""
    weight = 1
    for key, value in message.items():
        # Parquet gives all messages the same keys, so a key without a value says nothing.
        if key in ("role", "content") or value in (None, "", [], {}):
            continue
        if key != "weight":
            raise BadInput(
                f"{where} has {key!r} besides role and content, which would be left out: write it into the "
                "content (a chain as <think>...</think> before the answer), or drop the field"
            )
        if value not in (0, 1):
            raise BadInput(f"{where} has weight {value}, not 0 or 1")
        weight = value
    return bool(weight)


def _document_pieces(table: Table, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[list[Piece], int]:
    """Documents, each with its end token, in pieces of at most max_tokens; and how many documents were cut.

    The first token of a piece cannot be learnt, since nothing precedes it. So each piece begins with the last token of
    the piece before, and every token is learnt once, except for the document's first where the tokenizer puts no begin
    token before it. 7 tokens in pieces of 3: 0 1 2, 2 3 4, 4 5 6.
    """
    if max_tokens < 2:
        raise BadInput(f"a limit of {max_tokens} tokens leaves none to learn: the first token of an example is not")
    end = end_token_ids(tokenizer)[0]
    texts = table.texts(table.cfg.text_field)
    prefix = prompt_prefix(dataclasses.replace(table.cfg, template="plain"), tokenizer)
    pieces: list[Piece] = []
    num_split = 0
    for ids in tokenise(texts, tokenizer, table.where, prefix):
        document = _with_end(ids, end)
        starts = range(0, max(1, len(document) - 1), max_tokens - 1)
        num_split += len(starts) > 1
        for start in starts:
            piece = document[start : start + max_tokens]
            pieces.append((piece, np.arange(len(piece)) > 0))
    return pieces, num_split


def pack_examples(examples: Sequence[Example], *, learner: LearnerConfig, layout: str) -> PackedBatch:
    """One update, each learnt token weighing 1 / (learnt tokens of the update).

    An example without a learnt token counts in num_sequences and num_skipped and is not computed.
    Raises ValueError on an example longer than learner.micro_batch_tokens, and on a mask that does not fit it or
    that asks for the first token, which nothing predicts.
    """
    total = sum(sum(example.loss_mask_T) for example in examples)
    sequences = []
    for i, example in enumerate(examples):
        count = sum(example.loss_mask_T)
        if len(example.loss_mask_T) != len(example.token_ids):
            raise ValueError(f"example {i}: {len(example.token_ids)} tokens, {len(example.loss_mask_T)} in loss_mask_T")
        if not count:
            continue
        if example.loss_mask_T[0]:
            raise ValueError(f"example {i}: its first token cannot be learnt, nothing precedes it")
        if example.teacher is not None and len(example.teacher.ids_NK) != count:
            raise ValueError(f"example {i}: {count} learnt tokens, {len(example.teacher.ids_NK)} in teacher")
        mask_T = np.asarray(example.loss_mask_T, np.float32)
        sequences.append(Packable(example.token_ids, mask_T, weight=1.0 / total, teacher=example.teacher))
    return PackedBatch(
        micro_batches_R=schedule([[s] for s in sequences], learner, layout),
        num_loss_tokens=total,
        num_sequences=len(examples),
        num_skipped=len(examples) - len(sequences),
        shared_by=learner.sequence_parallel,
    )
