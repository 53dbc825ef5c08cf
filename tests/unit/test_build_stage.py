"""The stage that makes rows with a function of the recipe's own (rl/stages/build.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl.records.whole_files import write_rows
from rl.stages.build import build
from rl.types import BadInput, Row

HERE = "tests.unit.test_build_stage"


def doubled(sources: dict[str, list[Row]]) -> list[Row]:
    return [row | {"prompt": 2 * str(row["prompt"])} for rows in sources.values() for row in rows]


def none(sources: dict[str, list[Row]]) -> list[Row]:
    return []


def with_a_text(sources: dict[str, list[Row]]) -> list[object]:
    return [{"prompt": "a"}, "b", {"prompt": "c"}]


def test_the_function_gets_the_rows_by_source_and_what_it_returns_is_written_and_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "ab"}, {"prompt": "c"}])
    made = build(tmp_path / "stage", f"{HERE}:doubled", {"@picks": str(tmp_path / "in.jsonl")})
    assert [json.loads(line) for line in made.read_text().splitlines()] == [{"prompt": "abab"}, {"prompt": "cc"}]
    manifest = json.loads((tmp_path / "stage" / "manifest.json").read_text())
    assert manifest == {"rows": 2, "function": f"{HERE}:doubled", "sources": {"@picks": 2}}


@pytest.mark.parametrize(("function", "why"), [("none", "returned no rows"), ("with_a_text", "row 2 is not a dict")])
def test_what_is_not_rows_is_refused_and_nothing_is_written(tmp_path: Path, function: str, why: str) -> None:
    with pytest.raises(BadInput, match=rf"function={HERE}:{function}: {why}$"):
        build(tmp_path, f"{HERE}:{function}", {})
    assert not list(tmp_path.iterdir())
