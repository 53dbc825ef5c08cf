"""rewards/VERDICTS.md says what the code does: every row of its tables is tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewards.accuracy import accuracy, check_reference
from rewards.types import CORRECT

PAGE = Path(__file__).parents[2] / "rewards" / "VERDICTS.md"


def tables() -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """Each row of the page as {column: cell}, with the columns of its table."""
    found, columns = [], ()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = ()
            continue
        cells = tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if not columns:
            columns = cells
        elif set(line) - set("|-"):
            found.append((columns, {name: cell.strip("`") for name, cell in zip(columns, cells, strict=True)}))
    return found


ROWS = tables()


@pytest.mark.parametrize(
    "row", [row for columns, row in ROWS if "answer" in columns], ids=lambda row: f"{row['reference']} {row['answer']}"
)
def test_an_answer_of_the_page_is_paid_as_it_says(row):
    score = accuracy(f"<answer>{row['answer']}</answer>", prompt=row.get("question", ""), answer=row["reference"])
    assert {"yes": True, "no": False}[row["paid"]] == (score.verdict == CORRECT), score
    assert score.value == (row["paid"] == "yes")


@pytest.mark.parametrize(
    "row", [row for columns, row in ROWS if "accepted" in columns], ids=lambda row: row["reference"]
)
def test_a_reference_of_the_page_is_accepted_as_it_says(row):
    assert {"yes": True, "no": False}[row["accepted"]] == (check_reference(row["reference"]) is None)


def test_the_page_has_rows_of_every_kind_and_both_verdicts():
    kinds = {(columns, row.get("paid", row.get("accepted"))) for columns, row in ROWS}
    assert len(kinds) == 6
    assert len(ROWS) > 90
