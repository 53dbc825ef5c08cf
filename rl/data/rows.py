"""Rows of a dataset: from a file, from a Python function, or from the Hugging Face Hub.

Whatever is wrong with the data is found when they are loaded, before any worker starts. The error names file and row.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import importlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from rl.config import DataConfig
from rl.data.row_files import FILES, LINE_FILES, MAX_DIGITS, READERS, as_row, file_rows, numbered, one_line
from rl.data.row_store import Rows
from rl.model.hub import reach_hub
from rl.types import BadInput, Row

TASK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A Python function as a source: 'module:function'."""


def load_rows(cfg: DataConfig) -> Sequence[Row]:
    """Rows of cfg.source in their order, at most cfg.limit (0: all).

    The source is a file (its ending says which kind), a Python function 'module:function' that is called without
    arguments, or a Hub id. Rows of files and of the Hub stay on disk (rl/data/row_store.py); those of a function are in
    memory, unless it returns a Dataset of `datasets`.
    Raises BadInput, naming the source and the row, when it cannot be read, is malformed, or is empty.
    """
    path = Path(cfg.source)
    if path.suffix.lower() in FILES:
        refuse_missing(cfg.source)
        rows: Sequence[Row] = file_rows(path, cfg.limit)
    elif path.is_file():
        raise BadInput(f"{cfg.source}: unknown kind of file; use {', '.join(FILES)}")
    elif TASK.fullmatch(cfg.source):
        rows = _task_rows(cfg)
    elif cfg.source:
        rows = _hub_rows(cfg)
    else:
        raise BadInput("no data source: set source to a Hub id, a file, or 'module:function'")
    if not len(rows):
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


def fingerprint(rows: Iterable[Row]) -> str:
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


def python_function(source: str) -> Callable[..., object]:
    """The function that 'module:function' names. Raises BadInput when there is none."""
    module_name, _, name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"{source}: cannot import {module_name}: {one_line(error)}") from error
    function = vars(module).get(name)
    if not callable(function):
        raise BadInput(f"{source}: {module_name} has no function {name}")
    return cast(Callable[..., object], function)


def refuse_missing(source: str) -> None:
    """Raise BadInput when the file or the Python function does not exist. Reads no rows, and does not ask the Hub."""
    if Path(source).suffix.lower() in FILES:
        if not Path(source).is_file():
            raise BadInput(f"{source}: no such file")
    elif TASK.fullmatch(source):
        python_function(source)


def _task_rows(cfg: DataConfig) -> Sequence[Row]:
    import datasets

    function = python_function(cfg.source)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BadInput(f"{cfg.source}: is called without arguments, but: {error}") from error
    found = function()
    if isinstance(found, datasets.Dataset):
        return _at_most(found, cfg.limit)
    if not isinstance(found, Iterable):
        raise BadInput(f"{cfg.source}: returned {type(found).__name__}, expected rows")
    rows = []
    for where, row in itertools.islice(numbered(found), cfg.limit or None):
        rows.append(as_row(cfg.source, where, row))
        if _has_long_number(row):
            raise BadInput(f"{cfg.source} {where}: has a number of more than {MAX_DIGITS:,} digits; give it as text")
    return rows


def _has_long_number(value: object) -> bool:
    if isinstance(value, int):
        return value.bit_length() > 3 * MAX_DIGITS and abs(value) >= 10**MAX_DIGITS
    if isinstance(value, dict | list | tuple):
        return any(map(_has_long_number, value.values() if isinstance(value, dict) else value))
    return False


def _hub_rows(cfg: DataConfig) -> Rows:
    import datasets

    reach_hub(cfg.source)
    try:
        return _at_most(datasets.load_dataset(cfg.source, cfg.subset or None, split=cfg.split), cfg.limit)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise BadInput(
            f"{cfg.source}: no such file, and not loaded from the Hub (subset {cfg.subset or 'none'}, "
            f"split {cfg.split}): {one_line(error)}"
        ) from error
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise BadInput(
            f"{cfg.source}: is a Python script, and `datasets` runs none any more. The Hub has most such sets in "
            "Parquet too, in their branch refs/convert/parquet: fetch the files and name one of them"
        ) from error


def _at_most(data: Any, limit: int) -> Rows:
    """The first rows of a Dataset; 0: all."""
    return Rows(data.select(range(min(limit, len(data)))) if limit else data)
