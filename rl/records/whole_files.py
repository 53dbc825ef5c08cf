"""Files that a kill at any moment leaves whole: replaced at once, or JSON lines whose last one may be cut short.

A line without its end is no line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


def whole_lines(path: Path) -> Iterator[Any]:
    """The whole lines' values, one at a time; one that a kill cut short is left out. No file: none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)


def mend(path: Path) -> None:
    """Cut off a last line that is not whole, so that the next has a line of its own."""
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
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as JSON lines, whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    partial.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one, whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_file(temporary, path)


def replace_file(temporary: Path, path: Path) -> None:
    """Rename over path, so that a kill at any moment leaves the old file or the new one, whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
