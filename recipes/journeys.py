"""Journey learning: traces with a wrong path, its detection and its correction, beside a control set of shortcuts.

Both read a rejection stage's samples.jsonl and give rows for the prompts that have a right and a wrong sample. Targets
are in R1's form, from the opening tag on, also where the prompt's template opened it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rl.types import BadInput, Row

Rows = list[Row]
NOTICES = {
    "en": "so it is {}. wait, that is wrong. let us look again.",
    "de": "also {}. halt, das ist falsch. sehen wir noch einmal hin.",
}
"""Language -> the words that take an answer back. A row without the column "language" is English."""
OPENING = "<think>"


def journeys(sources: dict[str, Rows]) -> Rows:
    """Journey learning: a wrong path, its detection and its correction, of prompts with right and wrong samples.

    Reads samples.jsonl of a rejection stage. The control of the same prompts is `shortcuts`.
    """
    return list(_stitched(sources, _journey))


def shortcuts(sources: dict[str, Rows]) -> Rows:
    """The control set to journeys: the right sample alone, for the same prompts."""
    return list(_stitched(sources, lambda row, wrong, right: right if OPENING in right else OPENING + right))


def _stitched(sources: dict[str, Rows], join: Callable[[Row, str, str], str]) -> Iterator[Row]:
    for rows in sources.values():
        for line in rows:
            samples = line["samples"]
            row = line["row"]
            assert isinstance(samples, list)
            assert isinstance(row, dict)
            well_formed = [
                s for s in samples if s["verdicts"].get("format_r1", s["verdicts"].get("format")) == "correct"
            ]
            right = [s["text"] for s in well_formed if s["verdicts"].get("accuracy") == "correct"]
            wrong = [s["text"] for s in well_formed if s["verdicts"].get("accuracy") == "wrong"]
            if right and wrong:
                yield row | {"answer": line["answer"], "target": join(row, wrong[0], right[0])}


def _journey(row: Row, wrong: str, right: str) -> str:
    """The wrong chain and its answer, a sentence that notices, and all of the right sample after its opening tag."""
    chain, _, rest = _inside(wrong).partition("</think>")
    answer = rest.partition("<answer>")[2].partition("</answer>")[0].strip()
    language = str(row.get("language") or "en")
    if language not in NOTICES:
        raise BadInput(f"journeys: no words to notice a mistake in {language!r}; add them to recipes.journeys.NOTICES")
    return f"{OPENING}{chain.strip()} {NOTICES[language].format(answer)} {_inside(right).strip()}"


def _inside(text: str) -> str:
    """What follows the opening tag; all of the text where the prompt's template opened it."""
    return text.partition(OPENING)[2] if OPENING in text else text
