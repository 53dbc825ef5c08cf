"""What R1 learns beside reasoning, from public data. Each function returns rows; none is called at import.

general   allenai/tulu-3-sft-mixture, one turn each
safety    PKU-Alignment/BeaverTails (CC BY-NC 4.0)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from recipes.r1_reasoning import number_of, read, reasoning_prompts
from rl.types import Row

GENERAL_ROWS = 250_000
HELPFUL_PROMPTS, SAFETY_PROMPTS = 66_000, 12_000
"""Of R1's RL data (V2 table 4)."""
SAFETY_ROWS = 106_000
"""Of R1's safety data (Methods)."""
TRIVIAL_WORDS = 8
"""A request of fewer words is answered without thinking, as R1 does for "hello" (V2 B.3.3)."""


def general_rows(sources: Mapping[str, list[Row]]) -> list[Row]:
    """Instructions with their answers, to learn from."""
    found = itertools.islice(_general(), GENERAL_ROWS)
    return [{"prompt": prompt, "target": target, "domain": "general"} for prompt, target in found]


def general_prompts() -> list[Row]:
    """Prompts of the same for the helpful reward."""
    return [_asked(prompt, "helpful") for prompt, _ in itertools.islice(_general(), HELPFUL_PROMPTS)]


def worth_a_chain(sources: Mapping[str, list[Row]]) -> list[Row]:
    """Of general rows the prompts that a model should think about: half of those that are not short, by hash."""
    return [_asked(str(row["prompt"]), "general") for row in _all(sources) if _needs_thought(row)]


def without_a_chain(sources: Mapping[str, list[Row]]) -> list[Row]:
    """The other general rows, answered at once: a model need not think about "hello"."""
    return [row for row in _all(sources) if not _needs_thought(row)]


def safety_rows() -> list[Row]:
    """Distinct responses, labelled safe (1) or not (0)."""
    rows: dict[tuple[str, str], Row] = {}
    for row in read("PKU-Alignment/BeaverTails", "330k_train"):
        found = {"prompt": row["prompt"], "response": row["response"], "label": int(bool(row["is_safe"]))}
        rows.setdefault((str(row["prompt"]), str(row["response"])), found)
        if len(rows) == SAFETY_ROWS:
            break
    return list(rows.values())


def final_prompts() -> list[Row]:
    """Reasoning prompts, general ones (helpful) and some for the safety reward."""
    harmful = dict.fromkeys(str(row["prompt"]) for row in read("PKU-Alignment/BeaverTails", "330k_test"))
    safety = [_asked(prompt, "safety") for prompt in itertools.islice(harmful, SAFETY_PROMPTS)]
    return reasoning_prompts() + general_prompts() + safety


def _asked(prompt: str, domain: str) -> Row:
    return {"prompt": prompt, "question": prompt, "answer": "none", "domain": domain}


def _general() -> Iterator[tuple[str, str]]:
    for row in read("allenai/tulu-3-sft-mixture", streaming=True):
        messages = row["messages"]
        texts = [str(m["content"]) for m in messages]
        if [m["role"] for m in messages] == ["user", "assistant"] and all(text.strip() for text in texts):
            yield texts[0], texts[1]


def _needs_thought(row: Row) -> bool:
    prompt = str(row["prompt"])
    return len(prompt.split()) >= TRIVIAL_WORDS and number_of(prompt) % 2 == 0


def _all(sources: Mapping[str, list[Row]]) -> Iterator[Row]:
    return (row for rows in sources.values() for row in rows)
