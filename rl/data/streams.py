"""Streams: items in a seeded order, with a cursor to resume from. Prompts are here, examples in rl.data.sft_examples.

The order of an epoch depends on (seed, epoch) alone, so the cursor is just the number of items drawn so far.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import numpy as np

from rl.config import DataConfig
from rl.data.row_store import TokenStore, select
from rl.data.rows import fingerprint, place
from rl.data.templates import Table
from rl.turns import PromptExtras
from rl.types import BadInput, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")


class Stream(Generic[ItemT]):
    """Items in a seeded order without end: each once an epoch, each epoch in an order of its own.

    size: items of an epoch; 0: one for each row.
    """

    def __init__(self, rows: Iterable[Row], seed: int, shuffle: bool, size: int = 0) -> None:
        self._draws = 0
        self._size = size or len(cast("Sequence[Row]", rows))
        self._seed, self._shuffle = seed, shuffle
        self._fingerprint = int(fingerprint(rows)[:12], 16)
        self._order, self._order_epoch = np.arange(self._size), -1

    def __len__(self) -> int:
        """Items of one epoch."""
        return self._size

    def take(self, n: int) -> list[ItemT]:
        """The next n items, from the next epoch too where this one ends."""
        items: list[ItemT] = []
        for _ in range(n):
            epoch, position = divmod(self._draws, self._size)
            if self._shuffle and epoch != self._order_epoch:
                self._order = np.random.default_rng([self._seed, epoch]).permutation(self._size)
                self._order_epoch = epoch
            items.append(self._item(int(self._order[position]), self._draws))
            self._draws += 1
        return items

    def state(self, draws: int | None = None) -> dict[str, int]:
        """The cursor: where the next take begins, and which data and order it belongs to.

        draws: where it shall begin; None: where it does.
        """
        draws = self._draws if draws is None else draws
        epoch, position = divmod(draws, self._size)
        return {"draws": draws, "epoch": epoch, "position": position, **self._identity()}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a cursor. Raises BadInput when it belongs to other rows or another order."""
        missing = sorted({"draws", *self._identity()} - set(state))
        if missing:
            raise BadInput(f"cannot resume: the data cursor lacks {', '.join(missing)}")
        for name, now in self._identity().items():
            if state[name] != now:
                raise BadInput(
                    f"cannot resume: {name} of the data was {state[name]} when the cursor was saved and is {now} now, "
                    "so rows would be skipped or repeated; restore the old data and settings, or start a new run"
                )
        self._draws = state["draws"]

    def save(self, checkpoint: Path) -> None:
        """Nothing but the cursor is kept."""

    def _identity(self) -> dict[str, int]:
        shuffle = int(self._shuffle)
        return {"rows": self._size, "fingerprint": self._fingerprint, "seed": self._seed, "shuffle": shuffle}

    def _item(self, index: int, draw: int) -> ItemT:
        raise NotImplementedError


TRAINED_BOUND = "the less of model.context_length and learner.micro_batch_tokens"


class PromptStream(Stream[Prompt]):
    """Prompts to sample from, all tokenised at the start. Their rows and tokens stay on disk.

    Raises BadInput when a row lacks a field, or when its prompt has more than max_prompt_tokens tokens. With
    cfg.long_prompts=drop such rows are left out instead, and a warning says how many.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        cfg: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
        bound: str = TRAINED_BOUND,
        extras: Sequence[PromptExtras] = (),
    ) -> None:
        """bound: the setting that lets longer prompts in. extras: see Table."""
        self._table, self._tokenizer = Table(rows, cfg, functools.partial(place, cfg.source), extras), tokenizer
        self._ids = TokenStore()
        for part in self._table.parts():
            for i in range(len(part.rows)):
                part.reference(i)  # now, so that a fault is found before anything starts
            for ids in part.prompts(tokenizer)[1]:
                self._ids.append(ids)
        lengths = self._ids.lengths()
        self._kept = np.flatnonzero(lengths <= max_prompt_tokens)
        if cfg.long_prompts == "error" or not len(self._kept):
            remedy = f"set long_prompts=drop, raise {bound}, or lower max_new_tokens"
            self._table.refuse_long(lengths, max_prompt_tokens, "prompt", remedy)
        elif len(self._kept) < len(rows):
            left_out = len(rows) - len(self._kept)
            log.warning(
                "%s: dropped %d of %d prompts, which are longer than %d tokens", cfg.source, left_out, len(rows),
                max_prompt_tokens,
            )  # fmt: skip
        super().__init__(select(rows, self._kept) if len(self._kept) < len(rows) else rows, seed, cfg.shuffle)

    def _item(self, index: int, draw: int) -> Prompt:
        index = int(self._kept[index])
        cfg, row = self._table.cfg, self._table.rows[index]
        extra = self._table.extras[index : index + 1]
        one = Table([row], cfg, lambda _: self._table.where(index), extra)
        question = one.text(0, cfg.prompt_field)
        text = one.rendered(0, self._tokenizer)
        return Prompt(index, draw, self._ids[index].tolist(), text, one.reference(0), row, question)


def all_prompts(
    rows: Sequence[Row],
    cfg: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    extras: Sequence[PromptExtras] = (),
) -> list[Prompt]:
    """Every prompt once, in the order of the rows, to be sampled and not trained on. Text and tokens are those of a
    PromptStream.
    """
    stream = PromptStream(
        rows, dataclasses.replace(cfg, shuffle=False), tokenizer, 0, max_prompt_tokens, "model.context_length", extras
    )
    return stream.take(len(stream))
