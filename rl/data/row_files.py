"""Rows of a file: JSON, CSV or Parquet. Each error is a BadInput that names the file and the row or the line."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from rl.data.row_store import BATCH_BYTES, Rows, batch_rows, keep_batches, keep_json
from rl.types import BadInput, Row

MAX_DIGITS = 4300
"""Of an integer: Python reads and writes none of more (sys.get_int_max_str_digits)."""
SPACE = re.compile(r"[ \t\n\r]*")


def file_rows(path: Path, limit: int) -> Rows:
    """The file's rows in their order, at most limit (0: all)."""
    stat = path.stat()
    return _file_rows(path, limit, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _file_rows(path: Path, limit: int, size: int, mtime_ns: int) -> Rows:
    """size and mtime_ns serve the cache alone: a changed file is read anew."""
    try:
        if path.suffix.lower() == PARQUET:
            return _read_parquet(path, limit)
        found = itertools.islice(READERS[path.suffix.lower()](path), limit or None)
        return keep_json(as_row(path, where, row) for where, row in found)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start}: {error.reason})") from error
    except RecursionError as error:
        raise BadInput(f"{path}: its JSON is nested too deeply to be read") from error


def as_row(source: Path | str, where: str, row: object) -> Row:
    """The row. Raises BadInput for anything but a dictionary."""
    if not isinstance(row, dict):
        raise BadInput(f"{source} {where}: expected an object with named fields, not {type(row).__name__}")
    return row


def numbered(rows: Iterable[object]) -> Iterator[tuple[str, object]]:
    return ((f"row {i}", row) for i, row in enumerate(rows, 1))


# ------------------------------------------------------------------------------------------------ JSON


def _read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line.rstrip(), parse_int=_integer)
                except json.JSONDecodeError as error:
                    raise BadInput(f"{path} line {number}: not JSON: {error.msg} (column {error.colno})") from error
                except _TooLongNumber as error:
                    raise BadInput(f"{path} line {number}: {error}") from error


def _read_json(path: Path) -> Iterator[tuple[str, object]]:
    """The items of a list, one at a time: of the whole file only its text is in memory."""
    text = path.read_text(encoding="utf-8-sig")
    number = 0
    try:
        if not text.lstrip().startswith("["):
            raise BadInput(f"{path}: expected a list of objects, not {type(json.loads(text)).__name__}")
        for number, item in enumerate(_items(text), 1):
            yield f"row {number}", item
    except json.JSONDecodeError as error:
        hint = "; one object a line belongs in a .jsonl file" if error.msg == "Extra data" else ""
        raise BadInput(f"{path} line {error.lineno}: not JSON: {error.msg}{hint}") from error
    except _TooLongNumber as error:
        raise BadInput(f"{path} row {number + 1}: {error}") from error


def _items(text: str) -> Iterator[object]:
    """The items of a JSON list. Raises JSONDecodeError as json.loads does."""

    def after_space(at: int) -> int:
        return cast("re.Match[str]", SPACE.match(text, at)).end()

    decoder = json.JSONDecoder(parse_int=_integer)
    at, first = after_space(text.index("[") + 1), True
    while first is False or text[at : at + 1] != "]":
        item, at = decoder.raw_decode(text, at)
        yield item
        at, first = after_space(at), False
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = after_space(at + 1)
    if (at := after_space(at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


class _TooLongNumber(Exception):
    pass


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _TooLongNumber(
            f"the number {digits[:20]}... has {len(digits):,} digits, more than the {MAX_DIGITS:,} that can be read; "
            "write it as text, in quotes"
        )
    return int(digits)


# ------------------------------------------------------------------------------------------------ CSV, Parquet


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


def _read_parquet(path: Path, limit: int) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        # In small parts: Arrow holds at most 2 GiB of nested texts at once, and a row group may be the whole file.
        with pyarrow.parquet.ParquetFile(path, buffer_size=BATCH_BYTES) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            size = min((batch_rows(g.total_byte_size, g.num_rows) for g in groups if g.num_rows), default=1)
            return keep_batches(file.schema_arrow, _first(file.iter_batches(batch_size=size), limit))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path}: not a Parquet file: {one_line(error)}") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read: {one_line(error)}") from error


def _first(batches: Iterable[Any], limit: int) -> Iterator[Any]:
    """Batches of rows, cut after `limit` rows (0: all)."""
    left = limit or sys.maxsize
    for batch in batches:
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


LINE_FILES = (".jsonl", ".csv", ".tsv")
"""Files whose errors are named by line, not by row."""
PARQUET = ".parquet"
READERS: dict[str, Callable[[Path], Iterator[tuple[str, object]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}
"""Each yields pairs: where the row is in the file ("line 7"), and the row. Parquet keeps its columns instead."""
FILES = (".jsonl", ".json", PARQUET, ".csv", ".tsv")
