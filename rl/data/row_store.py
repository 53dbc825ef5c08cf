"""Rows on disk instead of in memory. A row is a dictionary only while it is looked at.

They lie in an Arrow file that `datasets` maps into memory. The file is in the cache folder of `datasets`
(HF_DATASETS_CACHE) and has no name any more once it is mapped, so that nothing is left behind, however a run ends.
Rows from Parquet and from the Hub keep their columns. Others are kept as JSON, row by row: their values stay what the
file says, where one type for a column would turn 1 into 1.0, or a missing field into an empty one.
"""

from __future__ import annotations

import array
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from rl.types import BadInput, Row

if TYPE_CHECKING:
    import datasets
    import pyarrow

JSON = "row as JSON"
"""The only column of rows that are kept as JSON."""
BATCH_BYTES, BATCH_ROWS = 1 << 22, 1000
"""At most so much becomes Python objects at once: little memory, and work enough that the calls do not count."""


class Rows(Sequence[Row]):
    """Rows in their order. A slice is a list; select() gives other rows of the same file without reading them."""

    def __init__(self, data: datasets.Dataset) -> None:
        self._names = {name: named for name, feature in data.features.items() if (named := _labels(feature))}
        self._data = data.with_format("arrow")

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._read(index % len(self), index % len(self) + 1)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Row]:
        size = batch_rows(self._data.data.nbytes, len(self._data.data))
        for start in range(0, len(self), size):
            yield from self._read(start, min(start + size, len(self)))

    def select(self, indices: Sequence[int] | np.ndarray) -> Rows:
        return Rows(self._data.select(indices))

    def _read(self, start: int, stop: int) -> list[Row]:
        found: list[Row] = self._data[start:stop].to_pylist()
        if JSON in self._data.column_names:
            return [json.loads(cast(str, row[JSON])) for row in found]
        for name, named in self._names.items():
            for row in found:
                row[name] = named(row[name])
        return found


def select(rows: Sequence[Row], indices: Sequence[int] | np.ndarray) -> Sequence[Row]:
    """The rows with these indices, in this order."""
    return rows.select(indices) if isinstance(rows, Rows) else [rows[i] for i in indices]


def batch_rows(num_bytes: int, num_rows: int) -> int:
    """Rows that are read at once. A million rows of 1 kB -> 1000; rows of 1 MiB -> 4."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES * num_rows // max(1, num_bytes)))


def _labels(feature: Any) -> Callable[[Any], Any] | None:
    """What puts names in place of the numbers of a ClassLabel, at any depth; None for a column without one.

    A negative number is a missing label: None.
    """
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda value: None if value is None or value < 0 else feature.int2str(value)
    if isinstance(feature, datasets.List | datasets.LargeList):
        of_items = _labels(feature.feature)
        return of_items and (lambda value: None if value is None else [of_items(item) for item in value])
    if isinstance(feature, dict):
        inside = {name: named for name, part in feature.items() if (named := _labels(part))}
        return (lambda value: value and value | {k: named(value[k]) for k, named in inside.items()}) if inside else None
    return None


# ------------------------------------------------------------------------------------------------ writing


def scratch_folder() -> Path:
    """Where files lie that are as large as the data. Raises BadInput when it cannot be made."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_room(folder, error) from error
    return folder


def no_room(folder: Path, error: OSError) -> BadInput:
    return BadInput(
        f"{folder}: the rows cannot be kept there ({error.strerror or error}); free some space, or name another folder "
        "with HF_DATASETS_CACHE=..."
    )


def keep_json(rows: Iterable[Row]) -> Rows:
    """Write the rows to disk, each as JSON. Raises BadInput when the disk is full."""
    import pyarrow

    schema = pyarrow.schema([(JSON, pyarrow.large_string())])
    return keep_batches(schema, (pyarrow.record_batch([part], schema=schema) for part in _texts(rows)))


def _texts(rows: Iterable[Row]) -> Iterator[pyarrow.Array]:
    """The rows as JSON, in parts of about BATCH_BYTES."""
    import pyarrow

    part, size = list[str](), 0
    for row in rows:
        part.append(json.dumps(row))  # in ASCII, which can hold half of a character too
        size += len(part[-1])
        if size >= BATCH_BYTES:
            yield pyarrow.array(part, pyarrow.large_string())
            part, size = [], 0
    yield pyarrow.array(part, pyarrow.large_string())


def keep_batches(schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> Rows:
    """Write Arrow batches to disk. Raises BadInput when the disk is full, and for a type of column that `datasets` does
    not have.
    """
    import datasets
    import pyarrow

    place = scratch_folder()
    with tempfile.TemporaryDirectory(dir=place, prefix="aha-rows-") as folder:
        file = Path(folder) / "rows.arrow"
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                try:
                    writer.write_batch(batch)
                except OSError as error:
                    raise no_room(place, error) from error
        try:
            return Rows(datasets.Dataset.from_file(str(file)))
        except ValueError as error:
            raise BadInput(f"a column has a type that cannot be read ({error})") from error


class TokenStore:
    """Sequences of token ids, end to end in a file without a name, which is mapped: 8 bytes of memory for each."""

    def __init__(self) -> None:
        self._place = scratch_folder()
        self._file = tempfile.TemporaryFile(dir=self._place)  # noqa: SIM115
        self._ends = array.array("q", [0])
        self._waiting: list[np.ndarray] = []
        self._waiting_bytes = 0
        self._mapped: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, ids: np.ndarray) -> None:
        """Add a sequence. All are added before the first is read."""
        self._ends.append(self._ends[-1] + len(ids))
        self._waiting.append(np.asarray(ids, np.int32))
        self._waiting_bytes += 4 * len(ids)
        if self._waiting_bytes >= BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        try:
            self._file.write(np.concatenate([np.empty(0, np.int32), *self._waiting]).tobytes())
            self._file.flush()
        except OSError as error:
            raise no_room(self._place, error) from error
        self._waiting, self._waiting_bytes = [], 0

    def __getitem__(self, index: int) -> np.ndarray:
        """int32 (T,), not to be written to."""
        if self._mapped is None:
            self._write()
            empty = self._ends[-1] == 0
            self._mapped = np.empty(0, np.int32) if empty else np.memmap(self._file, np.int32, mode="r")
        return self._mapped[self._ends[index] : self._ends[index + 1]]

    def lengths(self) -> np.ndarray:
        return np.diff(np.asarray(self._ends))
