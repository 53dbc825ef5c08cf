"""R1's reasoning domains from public data. Each function returns rows; none is called at import.

    math    open-r1/OpenR1-Math-220k
    code    open-r1/verifiable-coding-problems-python: programs from stdin to stdout, with their tests
    stem    allenai/sciq (CC BY-NC 3.0): four options, lettered in an order by hash
    logic   reasoning-gym's families (recipes/reasoning.py; the extra `reasoning`)

R1's own prompts are not public (V2 B.3.1). A row's domain says which rewards read it, its question what language is
meant.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from recipes.benchmarks import AIME
from rl.types import Row

RL_PROMPTS = {"math": 26_000, "code": 17_000, "stem": 22_000, "logic": 15_000}
"""Prompts of R1's RL data by domain (V2 table 4). sciq has fewer."""
CODE_PROMPTS, MATH_PROMPTS = 26_000, 100_000
MOST_TEST_CHARACTERS = 20_000
"""Of one problem's tests, inputs and outputs together. Longer ones are left out: each kept sample has its tests."""


@functools.cache
def math_prompts() -> list[Row]:
    """Problems with a final answer."""
    rows = read("open-r1/OpenR1-Math-220k")
    found = (_row(r["problem"], r["answer"], "math") for r in rows if _says(r["problem"]) and _says(r["answer"]))
    return list(itertools.islice(found, MATH_PROMPTS))


@functools.cache
def code_prompts() -> list[Row]:
    """Programs to write, with hidden tests as the reward code_accuracy reads them."""
    return list(itertools.islice(_code(), CODE_PROMPTS))


@functools.cache
def stem_prompts() -> list[Row]:
    """Questions of physics, chemistry and biology with four options; the answer is a letter."""
    return [_options(r) for r in read("allenai/sciq")]


@functools.cache
def logic_prompts() -> list[Row]:
    """Puzzles, ciphers, lists and numbers, made by reasoning-gym."""
    from recipes.reasoning import ARITHMETIC, COUNTDOWN, WORDS, problems

    rows = problems(ARITHMETIC | WORDS | COUNTDOWN, "train", RL_PROMPTS["logic"])
    return [row | {"domain": "logic", "question": row["prompt"]} for row in rows]


def reasoning_prompts() -> list[Row]:
    """All four, at most as many of each as R1's RL data have."""
    parts = {"math": math_prompts, "code": code_prompts, "stem": stem_prompts, "logic": logic_prompts}
    return [row for domain, rows in parts.items() for row in rows()[: RL_PROMPTS[domain]]]


def aime() -> list[Row]:
    """AIME 2024, held out, of the domain math."""
    return [_row(r[AIME.prompt_field], r[AIME.answer_field], "math") for r in read(AIME.source, AIME.split)]


def read(name: str, split: str = "train", *, streaming: bool = False) -> Iterator[Mapping[str, Any]]:
    """A dataset's rows; streaming: without keeping it on the disk."""
    from datasets import load_dataset

    yield from load_dataset(name, split=split, streaming=streaming)


def number_of(text: str) -> int:
    """A number that looks random and is the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def _says(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _row(prompt: object, answer: object, domain: str, **columns: object) -> Row:
    return {"prompt": prompt, "question": prompt, "answer": answer, "domain": domain, **columns}


def _code() -> Iterator[Row]:
    for row in read("open-r1/verifiable-coding-problems-python"):
        cases = row["verification_info"]["test_cases"]
        tests = [{"input": c["input"], "output": c["output"]} for c in cases if c["type"] == "stdin_stdout"]
        size = sum(len(t["input"]) + len(t["output"]) for t in tests)
        if tests and len(tests) == len(cases) and size <= MOST_TEST_CHARACTERS and _says(row["problem_statement"]):
            yield _row(row["problem_statement"], "none", "code", tests=json.dumps(tests))


def _options(row: Mapping[str, object]) -> Row:
    question, right = str(row["question"]), str(row["correct_answer"])
    options = [right, *(str(row[f"distractor{i}"]) for i in (1, 2, 3))]
    options.sort(key=lambda option: number_of(question + option))
    shown = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    prompt = f"{question}\n\n{shown}\n\nAnswer with the letter of the right option."
    return _row(prompt, "ABCD"[options.index(right)], "stem")
