"""Public data for R1's stages at full scale, by R1's domains. Each function returns rows; none is called at import.

    math      open-r1/OpenR1-Math-220k
    code      open-r1/verifiable-coding-problems-python: programs from stdin to stdout, with their tests
    stem      allenai/sciq (CC BY-NC 3.0): four options, lettered in an order by hash
    logic     reasoning-gym's families (recipes/reasoning.py; the extra `reasoning`)
    general   allenai/tulu-3-sft-mixture, one turn each
    safety    PKU-Alignment/BeaverTails (CC BY-NC 4.0)

R1's own prompts are not public (R1_FACTS: V2 B.3.1). A row's domain says which rewards read it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rl.types import Row

RL_PROMPTS = {"math": 26_000, "code": 17_000, "stem": 22_000, "logic": 15_000}
"""Prompts of R1's RL data by domain (V2 table 4). sciq has fewer."""
CODE_PROMPTS, MATH_PROMPTS = 26_000, 100_000
MOST_TEST_CHARACTERS = 100_000
"""Of one problem's tests, inputs and outputs together: longer ones are left out, since every row is held in memory."""
GENERAL_ROWS = 250_000
TRIVIAL_WORDS = 8
"""A request of fewer words is answered without thinking, as R1 does for "hello" (V2 B.3.3)."""


# ------------------------------------------------------------------------------------------------ reasoning


def math_prompts() -> list[Row]:
    """Problems with a final answer."""
    rows = _read("open-r1/OpenR1-Math-220k")
    return [_reasoning(r["problem"], r["answer"], "math") for r in itertools.islice(rows, MATH_PROMPTS)]


def code_prompts() -> list[Row]:
    """Programs to write, with hidden tests as the reward code_accuracy reads them."""
    return list(itertools.islice(_code(), CODE_PROMPTS))


def stem_prompts() -> list[Row]:
    """Questions of physics, chemistry and biology with four options; the answer is a letter."""
    return [_options(r) for r in _read("allenai/sciq")]


def logic_prompts() -> list[Row]:
    """Puzzles, ciphers, lists and numbers, made by reasoning-gym."""
    from recipes.reasoning import ARITHMETIC, COUNTDOWN, WORDS, problems

    rows = problems(ARITHMETIC | WORDS | COUNTDOWN, "train", RL_PROMPTS["logic"])
    return [row | {"domain": "logic"} for row in rows]


def reasoning_prompts() -> list[Row]:
    """All four, at most as many of each as R1's RL data have."""
    parts = {"math": math_prompts, "code": code_prompts, "stem": stem_prompts, "logic": logic_prompts}
    return [row for domain, rows in parts.items() for row in rows()[: RL_PROMPTS[domain]]]


def _reasoning(prompt: object, answer: object, domain: str, **columns: object) -> Row:
    return {"prompt": prompt, "answer": answer, "domain": domain, **columns}


def _code() -> Iterator[Row]:
    for row in _read("open-r1/verifiable-coding-problems-python"):
        cases = row["verification_info"]["test_cases"]
        tests = [{"input": c["input"], "output": c["output"]} for c in cases if c["type"] == "stdin_stdout"]
        size = sum(len(t["input"]) + len(t["output"]) for t in tests)
        if tests and len(tests) == len(cases) and size <= MOST_TEST_CHARACTERS:
            yield _reasoning(row["problem_statement"], "none", "code", tests=json.dumps(tests))


def _options(row: Mapping[str, object]) -> Row:
    question, right = str(row["question"]), str(row["correct_answer"])
    options = sorted((right, *(str(row[f"distractor{i}"]) for i in (1, 2, 3))), key=lambda o: _number(question + o))
    shown = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    prompt = f"{question}\n\n{shown}\n\nAnswer with the letter of the right option."
    return _reasoning(prompt, "ABCD"[options.index(right)], "stem")


# ------------------------------------------------------------------------------------------------ the rest


def general_rows() -> list[Row]:
    """Instructions with their answers, to learn from."""
    found = itertools.islice(_general(), GENERAL_ROWS)
    return [{"prompt": prompt, "target": target, "domain": "general"} for prompt, target in found]


def general_prompts() -> list[Row]:
    """The same prompts for the helpful reward."""
    return [{"prompt": row["prompt"], "domain": "helpful"} for row in general_rows()]


def worth_a_chain(sources: Mapping[str, list[Row]]) -> list[Row]:
    """Of general rows the prompts that a model should think about: half of those that are not short, by hash."""
    return [{"prompt": r["prompt"], "domain": "general"} for r in _all(sources) if _needs_thought(r)]


def without_a_chain(sources: Mapping[str, list[Row]]) -> list[Row]:
    """The other general rows, answered at once: a model need not think about "hello"."""
    return [row for row in _all(sources) if not _needs_thought(row)]


def safety_rows() -> list[Row]:
    """106,000 distinct responses, labelled safe (1) or not (0)."""
    rows: dict[tuple[str, str], Row] = {}
    for row in _read("PKU-Alignment/BeaverTails", "330k_train"):
        found = {"prompt": row["prompt"], "response": row["response"], "label": int(bool(row["is_safe"]))}
        rows.setdefault((str(row["prompt"]), str(row["response"])), found)
        if len(rows) == 106_000:
            break
    return list(rows.values())


def final_prompts() -> list[Row]:
    """Reasoning prompts, 66,000 general ones (helpful), and up to 12,000 for the safety reward (V2 table 4)."""
    harmless = dict.fromkeys(str(row["prompt"]) for row in _read("PKU-Alignment/BeaverTails", "330k_test"))
    asked = [(str(row["prompt"]), "helpful") for row in itertools.islice(general_prompts(), 66_000)]
    asked += [(prompt, "safety") for prompt in itertools.islice(harmless, 12_000)]
    return reasoning_prompts() + [{"prompt": prompt, "answer": "none", "domain": domain} for prompt, domain in asked]


def _general() -> Iterator[tuple[str, str]]:
    for row in _read("allenai/tulu-3-sft-mixture"):
        messages = row["messages"]
        if [m["role"] for m in messages] == ["user", "assistant"]:
            yield str(messages[0]["content"]), str(messages[1]["content"])


def _needs_thought(row: Row) -> bool:
    prompt = str(row["prompt"])
    return len(prompt.split()) >= TRIVIAL_WORDS and _number(prompt) % 2 == 0


def _all(sources: Mapping[str, list[Row]]) -> Iterator[Row]:
    return (row for rows in sources.values() for row in rows)


def _read(name: str, split: str = "train") -> Iterator[Mapping[str, Any]]:
    """A dataset's rows as they stream in."""
    from datasets import load_dataset

    yield from load_dataset(name, split=split, streaming=True)


def _number(text: str) -> int:
    """A number that looks random and is the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
