"""tests/bench/verdicts.py counts how often our verdicts and another verifier's agree with the labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rewards.types import WRONG, Score
from tests.bench import verdicts

ROWS = (
    {"problem": "What is 1 + 1?", "solution": r"It is $\boxed{2}$.", "answer": "2"},
    {"problem": "What is a half, as a percentage?", "solution": r"It is $\boxed{50\%}$.", "answer": r"50\%"},
)
COLUMNS = re.compile(r"(MATH-500: .*?) +(\d+) +(\d+) +(\d+) +(\d+)")


@pytest.fixture
def counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, tuple[int, ...]], str]:
    (tmp_path / "math500").mkdir()
    (tmp_path / "math500" / "math500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    verdicts.against_math_verify(tmp_path)
    said = capsys.readouterr().out
    return {name: tuple(map(int, numbers)) for name, *numbers in COLUMNS.findall(said)}, said


def test_each_verifier_is_counted_against_the_labels(counts: tuple[dict[str, tuple[int, ...]], str]) -> None:
    """Columns: both agree, cases, ours right, theirs right. math-verify reads "50%1" as 50%, we refuse it."""
    found, said = counts
    assert found == {
        "MATH-500: labelled answers": (2, 2, 2, 2),
        "MATH-500: references": (2, 2, 2, 2),
        "MATH-500: near misses": (17, 18, 18, 17),
    }
    assert r"ours right: '50\\%', answer '50\\%1'" in said


def test_where_ours_is_wrong_the_other_is_said_to_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "accuracy", lambda *_, **__: Score(0.0, WRONG, ""))
    (tmp_path / "math500").mkdir()
    (tmp_path / "math500" / "math500.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    verdicts.against_math_verify(tmp_path)
    said = capsys.readouterr().out
    assert "theirs right: '2', answer '2'" in said
    found = {name: tuple(map(int, numbers)) for name, *numbers in COLUMNS.findall(said)}
    assert found["MATH-500: labelled answers"] == (0, 1, 0, 1)
