"""Result files, written so that a kill at any moment leaves them whole, and read so that a damaged one is named.

A file is written beside its place and renamed over it. JSON lines are appended, and their last line may be cut short:
a line without its line end does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rl.types import BadInput

T = TypeVar("T")
BLOCK = 1 << 20
"""Bytes read at once when the last whole line of a file is looked for."""
MAKE_AGAIN = "delete it, and the same command makes it again"
RUN_STAGE_AGAIN = "delete its stage's folder, and the same command runs that stage again"


# ------------------------------------------------------------------------------------------------ whole files


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Put the path into an OSError that has none: a write that fails names only what went wrong."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It replaces `path` when the block ends, and is removed when the block fails.

    A kill at any moment leaves the old file or the new one. The folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the process's number, because a run and `aha report` may write the same page.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named_in_errors(path):
            yield temporary
            # Without these two syncs a power cut could leave the new name with none of the content.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as JSON lines, whole or not at all, also when `rows` fails on its way."""
    # A lone surrogate, which UTF-8 cannot hold, becomes its escape \\ud800, which JSON reads back as it was.
    with whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of files is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, make: Callable[[Any], T], remedy: str = MAKE_AGAIN) -> T:
    """make(the file's value). Raises BadInput, with the remedy, when the file is damaged: when its text is not JSON, or
    make cannot use the value. Raises FileNotFoundError when there is no file.
    """
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} is damaged ({error!r}); {remedy}") from error


# ------------------------------------------------------------------------------------------------ JSON lines


def whole_lines(path: Path) -> Iterator[Any]:
    """The values of the whole lines, one at a time. A last line that a kill cut short is left out. No file: no values.

    Raises BadInput for a damaged line before the last.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise BadInput(f"{path} line {number} is damaged ({error}); delete that line") from error
                yield value


def cut_partial_line(path: Path) -> None:
    """Remove a last line that a kill cut short, so that the next line does not continue it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        keep = file.seek(0, os.SEEK_END)
        while keep:
            start = max(0, keep - BLOCK)
            file.seek(start)
            end = file.read(keep - start).rfind(b"\n") + 1
            keep = start + end
            if end:
                break
        file.truncate(keep)


def append_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Add lines and wait until they are on the disk."""
    with named_in_errors(path), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
