"""What to teach a student: the answer only, the human's chain, or the teacher's. Datasets of the same problems.

Each function reads a rejection stage's data (one row a solved problem; its first row counts) and gives rows of prompt,
answer and target, all in R1's form, so that one parser reads all three. CLAIMS compares the students by accuracy and by
tokens of thought.
"""

from __future__ import annotations

import re

from rl.recipe import Claim
from rl.types import BadInput

TARGETS = ("answers", "human_chains", "teacher_chains")
CLAIMS = (
    Claim("A human's chain teaches more than the answer", "@eval_human_chains:pass@1", "@eval_answers:pass@1"),
    Claim("The teacher's chain teaches more still", "@eval_teacher_chains:pass@1", "@eval_human_chains:pass@1"),
    Claim(
        "The teacher's chain is longer than a human's (it costs more)",
        "@eval_teacher_chains:thought/length_mean", "@eval_human_chains:thought/length_mean",
    ),
)  # fmt: skip

Row = dict[str, object]
Rows = list[Row]


def answers(sources: dict[str, Rows]) -> Rows:
    """The answer only."""
    return [_row(row, "") for row in _solved(sources)]


def human_chains(sources: dict[str, Rows]) -> Rows:
    """The chain that came with the problem, for those that the teacher solved: the column "chain", or GSM8K's own.

    GSM8K's marks for a calculator are taken out: "16 - 3 - 4 = <<16-3-4=9>>9" -> "16 - 3 - 4 = 9".
    """
    return [_row(row, _human(row)) for row in _solved(sources)]


def teacher_chains(sources: dict[str, Rows]) -> Rows:
    """The teacher's chain of thought."""
    chains = ((row, str(row["target"]).partition("</think>")[0]) for row in _solved(sources))
    return [_row(row, chain.strip().removeprefix("<think>").strip()) for row, chain in chains]


def _human(row: Row) -> str:
    if "chain" in row:
        return str(row["chain"])
    if "original_answer" not in row:
        raise BadInput(f"no chain of a human's: the row has {', '.join(row)}, neither chain nor original_answer")
    return re.sub(r"<<.*?>>", "", str(row["original_answer"]).rpartition("####")[0]).strip()


def _solved(sources: dict[str, Rows]) -> Rows:
    """Every problem once, so that all three students see the same ones."""
    found: dict[str, Row] = {}
    for rows in sources.values():
        for row in rows:
            found.setdefault(str(row["prompt"]), row)
    return list(found.values())


def _row(row: Row, chain: str) -> Row:
    answer = row["answer"]
    thought = f"<think>{chain}</think> " if chain else ""
    return {"prompt": row["prompt"], "answer": answer, "target": f"{thought}<answer>{answer}</answer>"}
