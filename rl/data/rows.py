"""Rows of a dataset: from a file, from a Python function, or from the Hugging Face Hub.

Whatever is wrong with the data is found when they are loaded, before any worker starts. The error names file and row.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import hashlib
import importlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from rl.config import DataConfig
from rl.types import BadInput, Row

TASK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A Python function as a source: 'module:function'."""


def load_rows(cfg: DataConfig) -> list[Row]:
    """Rows of cfg.source in their order, at most cfg.limit (0: all).

    The source is a file (its ending says which kind), a Python function 'module:function' that is called without
    arguments, or a Hub id.
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
    """Where the row with this index (from 0) is, for messages: "data.jsonl line 7", "org/name row 7" (both from 1).

    Files with a row a line are read again: with blank lines, or line breaks in quotes, the two numbers differ.
    """
    path = Path(source)
    where = f"row {index + 1}"
    if path.suffix.lower() in LINE_FILES and path.is_file():
        where, _ = next(itertools.islice(READERS[path.suffix.lower()](path), index, None), (where, None))
    return f"{source} {where}"


def fingerprint(rows: Sequence[Row]) -> str:
    """Hash of the rows' content and order, 64 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=_stable_text).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _stable_text(value: object) -> str:
    """A text for a value that JSON cannot write. Not repr: that of many objects holds their address in memory."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    return type(value).__name__


def _read(cfg: DataConfig) -> Iterator[tuple[str, object]]:
    """Pairs: where the row is in the source ("line 7"), and the row."""
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
"""Files whose errors are named by line, not by row."""
READERS: dict[str, Callable[[Path], Iterator[tuple[str, object]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}


def python_function(source: str) -> Callable[..., object]:
    """The function that 'module:function' names. Raises BadInput when there is none."""
    module_name, _, name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"{source}: cannot import {module_name}: {_one_line(error)}") from error
    function = vars(module).get(name)
    if not callable(function):
        raise BadInput(f"{source}: {module_name} has no function {name}")
    return cast(Callable[..., object], function)


def refuse_missing(source: str) -> None:
    """Raise BadInput when the file or the Python function does not exist. Reads no rows, and does not ask the Hub."""
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
