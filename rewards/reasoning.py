"""reasoning-gym's problems, scored without its scorers.

reasoning-gym (0.1.25, Apache-2.0) generates problems of over a hundred families, and each family brings a scorer. Those
are no reward for a model that looks for holes: countdown's hands the answer to sympy's parse_expr, which runs it as
Python (9**9**9**9 hangs); many pay 0.01 to 0.5 for a wrong answer, or for any text that has the right one in it;
number_sorting's takes numbers that are wrong by 1. So none is called, and the package is not even imported here: a
family is scored by a rule of FAMILIES, over the strictly extracted answer, and a family without one is refused.

recipes/reasoning.py makes the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rewards.accuracy import accuracy
from rewards.countdown import countdown
from rewards.extract import final_answers, normalise, opens_thinking
from rewards.quantities import parse_number
from rewards.types import WRONG, Score, correct, excerpt, unparseable, wrong

MAX_LENGTH = 4000
"""Of an answer, in characters; the longest references have some hundreds."""

FAMILIES: dict[str, str] = {
    **dict.fromkeys(("chain_sum", "decimal_chain_sum", "basic_arithmetic", "products", "gcd", "lcm"), "number"),
    **dict.fromkeys(("simple_equations", "count_bits", "count_primes", "letter_counting", "leg_counting"), "number"),
    **dict.fromkeys(("base_conversion", "caesar_cipher", "spell_backward"), "text"),
    **dict.fromkeys(("number_filtering", "number_sorting"), "numbers"),
    **dict.fromkeys(("word_sequence_reversal", "word_sorting"), "words"),
    "prime_factorization": "factors",
    "countdown": "countdown",
}
"""Family -> the rule that scores it. Each is safe, since nothing of the answer is ever run:

number     rewards.accuracy against a reference that is one plain number: exact, and nothing else is parsed.
text       the same characters, spaces at the ends and between words aside. Case counts.
numbers    the same numbers in the same order; each is read by parse_number, exactly.
words      the same words in the same order, split at commas.
factors    the same integers in any order, split at the multiplication signs; nothing is multiplied.
countdown  rewards.countdown, a syntax tree of integers and + - * / worked out in fractions, with every number used.
"""

REFUSED: dict[str, str] = {
    "bitwise_arithmetic": "its scorer evaluates the problem as Python, and the reward has no rule of its own for it",
    "isomorphic_strings": "True or False is right half of the time by guessing",
    "knights_knaves": "its scorer pays most of the points for half of the islanders",
    "number_sequence": "several rules continue the same numbers, and only one of them would be paid",
    "propositional_logic": "a premise copied from the question is a valid conclusion, so copying would be paid",
    "puzzle24": "its scorer runs the answer as Python; use countdown",
    "syllogism": "Yes or No is right half of the time by guessing",
}
"""Families that one might look for here, and why they have no rule."""

_TEXT_COMMAND = re.compile(r"\\(?:text|texttt|textbf|mathrm|mathtt|operatorname) ?\{([^{}]*)\}")
_TIMES = re.compile(r"\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|[×·*]")
_FACTOR = re.compile(r"[0-9]{1,18}")


def reasoning_gym(
    completion: str,
    *,
    answer: str,
    family: str,
    facts: str | Mapping[str, object] = "",
    prompt: str = "",
    partial: float = 0.0,
    **columns: object,
) -> Score:
    """1 when the completion's final answer solves the row's problem, by the rule of its family, else 0.

    From the row: answer, the reference; family, reasoning-gym's name of the task; facts, what a rule needs beside the
    answer (an object, or its JSON): {"numbers": [3, 5], "target": 8} for countdown, nothing for the others.
    Setting: partial, at least 0 and below 1: what lists with some items in the right place earn, times the share of
    those items. 0, the default, pays nothing for what is not wholly right.

        answer="['1', '2.5']", family="number_sorting": "<answer>[1, 2.50]</answer>" -> 1, "<answer>[2.5, 1]" -> 0

    Unparseable: no answer, or none of the form that the rule reads. Raises ValueError for a family without a rule and
    for a row without what its rule needs.
    """
    if not 0 <= partial < 1:
        raise ValueError(f"partial is {partial}; it is at least 0 and below 1, which only a right answer earns")
    rule = rule_of(family)
    if rule == "countdown":
        numbers, target = _countdown_facts(facts)
        return countdown(completion, numbers=numbers, target=target, prompt=prompt, use_all=True)
    if not answer.strip():
        raise ValueError(f"reasoning_gym: the row of {family} has no reference answer")
    if rule == "number":
        return accuracy(completion, prompt=prompt, answer=answer)
    found = final_answers(completion, opened=opens_thinking(prompt))
    if not found.answers:
        return unparseable(found.reason)
    texts = list(dict.fromkeys(_plain(text) for text in found.answers))
    if len(texts) > 1:
        return wrong(f"boxes that differ: {excerpt(texts[0])} and {excerpt(texts[-1])}")
    if len(texts[0]) > MAX_LENGTH:
        return wrong(f"{len(texts[0])} characters, more than {MAX_LENGTH}")
    return _compare(rule, texts[0], _plain(answer), partial)


def rule_of(family: str) -> str:
    """The rule of a family: "number" for chain_sum. Raises ValueError, with the reason, for one without."""
    if family in FAMILIES:
        return FAMILIES[family]
    why = REFUSED.get(family, "its own scorer is never called, and the reward has no rule for it")
    raise ValueError(f"reasoning_gym: no scoring for the family {family!r}: {why}; there are {', '.join(FAMILIES)}")


def _compare(rule: str, given: str, gold: str, partial: float) -> Score:
    """The score of one plain text against the reference."""
    if rule == "text":
        return correct() if given == gold else wrong(f"{excerpt(given)} is not {excerpt(gold)}")
    if rule == "factors":
        factors, wanted = _factors(given), _factors(gold)
        if wanted is None:
            raise ValueError(f"reasoning_gym: the reference is no product of integers: {excerpt(gold)}")
        if factors is None:
            return unparseable(f"no product of integers: {excerpt(given)}")
        return correct() if factors == wanted else wrong(f"{excerpt(given)} is not {excerpt(gold)}")
    read = _numbers if rule == "numbers" else _words
    one, other = read(given), read(gold)
    if other is None:
        raise ValueError(f"reasoning_gym: the reference is no list of {rule}: {excerpt(gold)}")
    if one is None:
        return unparseable(f"no list of {rule}: {excerpt(given)}")
    if one == other:
        return correct()
    right = sum(a == b for a, b in zip(one, other, strict=False))
    return Score(partial * right / max(len(one), len(other)), WRONG, f"{excerpt(given)} is not {excerpt(gold)}")


def _plain(text: str) -> str:
    r""" " \text{gnis}. " -> "gnis": without what never changes an answer, and without LaTeX's marks of plain text."""
    return normalise(_TEXT_COMMAND.sub(r"\1", text))


def _words(text: str) -> list[object] | None:
    """ "['a', b]" and "a, b" -> ["a", "b"]; None where an item is missing."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not inner.strip():
        return []
    items = [_unquoted(item.strip()) for item in inner.split(",")]
    return list(items) if all(items) else None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _numbers(text: str) -> list[object] | None:
    """ "['1', 2.50]" -> [1, 5/2]; None where an item is no plain number."""
    words = _words(text)
    if words is None:
        return None
    found = [parse_number(str(word)) for word in words]
    values: list[object] = [number.value for number in found if number is not None and not number.percent]
    return values if len(values) == len(words) else None


def _factors(text: str) -> Counter[int] | None:
    """ "2 × 2 × 3" -> {2: 2, 3: 1}; None for anything else."""
    items = [item.strip() for item in _TIMES.split(text)]
    if not all(_FACTOR.fullmatch(item) for item in items):
        return None
    return Counter(int(item) for item in items)


def _countdown_facts(facts: str | Mapping[str, object]) -> tuple[Any, Any]:
    """The numbers and the target of a countdown row, which countdown() checks. Raises ValueError without them."""
    try:
        found = json.loads(facts) if isinstance(facts, str) else facts
        return found["numbers"], found["target"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'reasoning_gym: a row of countdown needs facts as {{"numbers": [3, 5], "target": 8}}, not {facts!r}'
        ) from error
