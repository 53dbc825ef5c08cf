"""From a dataset to a stream of prompts (or examples, rl/examples.py): rows, a seeded order, a cursor that resumes.

Everything that can be wrong with the data is found when a stream is built, before any worker starts, and named by
file and row. The order of an epoch depends on (seed, epoch) alone, so the cursor is a count of draws.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import decimal
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import numpy as np

from rl.config import DataConfig
from rl.templates import Table, end_token_ids
from rl.types import BadInput, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PromptStream",
    "Stream",
    "all_prompts",
    "end_token_ids",
    "fingerprint",
    "load_rows",
    "place",
    "python_function",
]
ItemT = TypeVar("ItemT")
log = logging.getLogger(__name__)
TASK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

# ------------------------------------------------------------------------------------------------ rows


def load_rows(cfg: DataConfig) -> list[Row]:
    """Rows of cfg.source in their order, at most cfg.limit (0: all).

    The source is a file by its ending, a Python function 'module:function' called without arguments, or a Hub id.
    Raises BadInput, naming the source and the row, when it cannot be read, is malformed, or is empty.
    """
    rows: list[Row] = []
    try:
        for where, row in itertools.islice(_read(cfg), cfg.limit or None):
            if not isinstance(row, dict):
                raise BadInput(f"{cfg.source} {where}: expected an object with named fields, not {type(row).__name__}")
            rows.append(row)
    except UnicodeDecodeError as error:
        raise BadInput(f"{cfg.source}: is not UTF-8 text (byte {error.start}: {error.reason})") from error
    if not rows:
        raise BadInput(f"{cfg.source}: has no rows")
    return rows


def place(source: str, index: int) -> str:
    """Where row number index (from 0) stands, for messages: "data.jsonl line 7", "org/name row 7" (both from 1).

    Line files are read again, since blank lines and line breaks in quotes set lines and rows apart.
    """
    path = Path(source)
    where = f"row {index + 1}"
    if path.suffix.lower() in LINE_FILES and path.is_file():
        where, _ = next(itertools.islice(READERS[path.suffix.lower()](path), index, None), (where, None))
    return f"{source} {where}"


def fingerprint(rows: Sequence[Row]) -> str:
    """Content hash of rows, order included: 64 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=_stable_text).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _stable_text(value: object) -> str:
    """What stands for a value that JSON cannot write: an object's default text holds its address in memory."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    return type(value).__name__


def _read(cfg: DataConfig) -> Iterator[tuple[str, object]]:
    """Pairs of a row's place in the source ("line 7") and the row."""
    path = Path(cfg.source)
    if path.suffix.lower() in READERS:
        refuse_missing(cfg.source)
        yield from READERS[path.suffix.lower()](path)
    elif path.is_file():
        raise BadInput(f"{cfg.source}: unknown kind of file; use {', '.join(READERS)}")
    elif TASK.fullmatch(cfg.source):
        yield from _numbered(_call_task(cfg.source))
    elif cfg.source:
        yield from _numbered(_load_from_hub(cfg))
    else:
        raise BadInput("no data source: set source to a Hub id, a file, or 'module:function'")


def _numbered(rows: Iterable[object]) -> Iterator[tuple[str, object]]:
    return ((f"row {i}", row) for i, row in enumerate(rows, 1))


def _read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line.rstrip())
                except json.JSONDecodeError as error:
                    raise BadInput(f"{path} line {number}: not JSON: {error.msg} (column {error.colno})") from error


def _read_json(path: Path) -> Iterator[tuple[str, object]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; one object a line belongs in a .jsonl file" if error.msg == "Extra data" else ""
        raise BadInput(f"{path} line {error.lineno}: not JSON: {error.msg}{hint}") from error
    if not isinstance(rows, list):
        raise BadInput(f"{path}: expected a list of objects, not {type(rows).__name__}")
    yield from _numbered(rows)


def _read_csv(path: Path) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of over 131,072 characters: a long chain of thought
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise BadInput(f"{path} line 1: two columns have the same name: {', '.join(header)}")
            for cells in reader:
                if len(cells) not in (0, len(header)):
                    raise BadInput(f"{path} line {reader.line_num}: {len(cells)} cells under {len(header)} columns")
                if cells:
                    yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise BadInput(f"{path} line {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _numbered(row for batch in file.iter_batches() for row in batch.to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path}: not a Parquet file: {_one_line(error)}") from error


LINE_FILES = (".jsonl", ".csv", ".tsv")
READERS: dict[str, Callable[[Path], Iterator[tuple[str, object]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}


def python_function(source: str) -> Callable[..., object]:
    """What 'module:function' names. Raises BadInput when it is not there."""
    module_name, _, name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(f"{source}: cannot import {module_name}: {_one_line(error)}") from error
    function = vars(module).get(name)
    if not callable(function):
        raise BadInput(f"{source}: {module_name} has no function {name}")
    return cast(Callable[..., object], function)


def refuse_missing(source: str) -> None:
    """Raise BadInput for a file or a function in Python that is not there. Reads no rows, and asks no Hub."""
    if Path(source).suffix.lower() in READERS:
        if not Path(source).is_file():
            raise BadInput(f"{source}: no such file")
    elif TASK.fullmatch(source):
        python_function(source)


def _call_task(source: str) -> Iterable[object]:
    function = python_function(source)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BadInput(f"{source}: is called without arguments, but: {error}") from error
    rows = function()
    if not isinstance(rows, Iterable):
        raise BadInput(f"{source}: returned {type(rows).__name__}, expected rows")
    return rows


def _load_from_hub(cfg: DataConfig) -> Iterable[object]:
    import datasets

    try:
        return cast(Iterable[object], datasets.load_dataset(cfg.source, cfg.subset or None, split=cfg.split))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise BadInput(
            f"{cfg.source}: no such file, and not loaded from the Hub (subset {cfg.subset or 'none'}, "
            f"split {cfg.split}): {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------ streams


class Stream(Generic[ItemT]):
    """Items in a seeded order without end: each once an epoch, each epoch in an order of its own.

    size: items of an epoch, where a row gives several (0: as many as rows).
    """

    def __init__(self, rows: Sequence[Row], seed: int, shuffle: bool, size: int = 0) -> None:
        self._draws = 0
        self._size, self._seed, self._shuffle = size or len(rows), seed, shuffle
        self._fingerprint = int(fingerprint(rows)[:12], 16)
        self._order, self._order_epoch = np.arange(self._size), -1

    def __len__(self) -> int:
        """Items of one epoch."""
        return self._size

    def take(self, n: int) -> list[ItemT]:
        """The next n items, across epoch borders."""
        items: list[ItemT] = []
        for _ in range(n):
            epoch, position = divmod(self._draws, self._size)
            if self._shuffle and epoch != self._order_epoch:
                self._order = np.random.default_rng([self._seed, epoch]).permutation(self._size)
                self._order_epoch = epoch
            items.append(self._item(int(self._order[position]), self._draws))
            self._draws += 1
        return items

    def state(self) -> dict[str, int]:
        """The cursor: where the next take begins, and what data and order it belongs to."""
        epoch, position = divmod(self._draws, self._size)
        return {"draws": self._draws, "epoch": epoch, "position": position, **self._identity()}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a cursor. Raises BadInput when it was made over other rows or in another order."""
        missing = sorted({"draws", *self._identity()} - set(state))
        if missing:
            raise BadInput(f"cannot resume: the data cursor lacks {', '.join(missing)}")
        for name, now in self._identity().items():
            if state[name] != now:
                raise BadInput(
                    f"cannot resume: {name} of the data was {state[name]} when the cursor was saved and is {now} now, "
                    "so rows would be skipped or repeated; bring the old data and settings back, or start a new run"
                )
        self._draws = state["draws"]

    def _identity(self) -> dict[str, int]:
        shuffle = int(self._shuffle)
        return {"rows": self._size, "fingerprint": self._fingerprint, "seed": self._seed, "shuffle": shuffle}

    def _item(self, index: int, draw: int) -> ItemT:
        raise NotImplementedError


class PromptStream(Stream[Prompt]):
    """Prompts to sample from, tokenised up front.

    Raises BadInput when a row lacks a field, or its prompt has more than max_prompt_tokens tokens; with
    cfg.long_prompts=drop such rows are left out and counted.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        cfg: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_prompt_tokens: int,
    ) -> None:
        table = Table(rows, cfg, functools.partial(place, cfg.source))
        self._references = [table.reference(i) for i in range(len(rows))]
        self._questions = table.texts(cfg.prompt_field)
        self._texts, self._ids = table.prompts(tokenizer)
        self._rows = rows
        lengths = [len(ids) for ids in self._ids]
        self._kept = [i for i, length in enumerate(lengths) if length <= max_prompt_tokens]
        if cfg.long_prompts == "error" or not self._kept:
            remedy = (
                "set long_prompts=drop, raise the less of model.context_length and learner.micro_batch_tokens, or "
                "lower max_new_tokens"
            )
            table.refuse_long(lengths, max_prompt_tokens, "prompt", remedy)
        elif len(self._kept) < len(rows):
            left_out = len(rows) - len(self._kept)
            log.warning(
                "%s: %d of %d prompts are longer than %d tokens. Dropped",
                cfg.source,
                left_out,
                len(rows),
                max_prompt_tokens,
            )
        super().__init__([rows[i] for i in self._kept], seed, cfg.shuffle)

    def _item(self, index: int, draw: int) -> Prompt:
        index = self._kept[index]
        return Prompt(
            index,
            draw,
            self._ids[index].tolist(),
            self._texts[index],
            self._references[index],
            self._rows[index],
            self._questions[index],
        )


def all_prompts(
    rows: Sequence[Row], cfg: DataConfig, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> list[Prompt]:
    """Every prompt once, in the order of the rows, for evaluation: the same text and tokens as PromptStream's."""
    stream = PromptStream(rows, dataclasses.replace(cfg, shuffle=False), tokenizer, 0, max_prompt_tokens)
    return stream.take(len(stream))
