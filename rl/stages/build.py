"""Makes a dataset with a Python function.

data.jsonl      the rows that the function returned
manifest.json   their number, and the number of rows that each source gave the function
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rl.config import DataConfig, knob
from rl.context import StageRun
from rl.data.rows import load_rows, python_function
from rl.records.whole_files import write_json, write_rows
from rl.stage import MAKES_DATA, Recipe, Stage
from rl.types import BadInput, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Build(Stage):
    """Make a dataset with a Python function. Output: a dataset.

    The function gets one argument, {source: its rows}, and returns the new rows as an iterable. Rows that it yields one
    by one are never all in memory.
    """

    function: str = knob("", "'module:function'.")
    sources: tuple[str, ...] = knob((), "Datasets for the function: @stage, @stage/file.jsonl, or a path.")

    makes = frozenset({MAKES_DATA})
    counts_in = "manifest.json"

    @property
    def hashed_base(self) -> tuple[str, ...]:
        return ()

    def row_sources(self) -> Iterator[str]:
        yield from (self.function, *self.sources)

    def faults(self, recipe: Recipe) -> Iterator[str]:
        if ":" not in self.function:
            yield f"function={self.function}: expected 'module:function'"

    def run(self, at: StageRun) -> None:
        build(at.folder, self.function, {text: at.path(text, "data.jsonl") for text in self.sources})


def build(folder: Path, function: str, sources: Mapping[str, str]) -> Path:
    """Write what function({name: rows}) returns as data.jsonl. sources: name -> file. Raises BadInput."""
    make = python_function(function)
    given = {key: load_rows(DataConfig(source=path)) for key, path in sources.items()}
    written = 0

    def rows() -> Iterator[Row]:
        nonlocal written
        for row in cast(Iterable[object], make(given)):
            written += 1
            if not isinstance(row, dict):
                raise BadInput(f"function={function}: row {written} is not a dict")
            yield row
        if not written:
            raise BadInput(f"function={function}: returned no rows")

    write_rows(folder / "data.jsonl", rows())
    manifest = {"rows": written, "function": function, "sources": {k: len(v) for k, v in given.items()}}
    write_json(folder / "manifest.json", manifest)
    log.info("%s made %d rows from %s", function, written, manifest["sources"] or "nothing")
    return folder / "data.jsonl"
