"""reasoning-gym's problems as rows: endless, checkable, made offline from a seed.

A source is named in a recipe as 'recipes.reasoning:mixed_train', and scored by RewardConfig("reasoning_gym"). It needs
the package: pip install "reasoning-gym==0.1.25" (the extra `reasoning`).

Each row has a prompt, its answer, and what scoring needs: the family, and its facts as JSON (rewards/reasoning.py).
Training and held-out rows never share a problem. The package's own seeds do not see to that: its item i of seed s is
item 0 of seed s + i, and different seeds often give the same small problem. So a hash of the problem decides on which
side it lies, taken over its words in sorted order: 3 + 4 and 4 + 3 lie on one side.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence

from recipes.tasks import HELD_OUT_PERCENT, Row
from rewards.reasoning import rule_of

TRAIN_ROWS, EVAL_ROWS = 2000, 400
SEED = 20250120
MAX_DRAWS = 20
"""Draws for each row that is wanted. Where they do not suffice, the family has too few different problems."""

ARITHMETIC: dict[str, dict[str, object]] = {
    "chain_sum": {"max_terms": 4, "max_digits": 3},
    "basic_arithmetic": {"max_terms": 4, "max_digits": 2},
    "products": {"max_digits": 3},
    "gcd": {},
    "lcm": {},
    "simple_equations": {},
    "prime_factorization": {"max_value": 10_000},
    "base_conversion": {},
}
WORDS: dict[str, dict[str, object]] = {
    "spell_backward": {},
    "letter_counting": {},
    "caesar_cipher": {"max_words": 6},
    "word_sorting": {},
    "word_sequence_reversal": {},
    "number_sorting": {},
    "number_filtering": {},
}
COUNTDOWN: dict[str, dict[str, object]] = {
    "countdown": {"min_numbers": 3, "max_numbers": 4, "min_target": 10, "max_target": 100},
}
"""Families and their settings, by the package's names; what is not set has the package's default."""


def arithmetic_train() -> list[Row]:
    """Sums, products, divisors, equations, factors and bases to train on."""
    return problems(ARITHMETIC, "train", TRAIN_ROWS)


def arithmetic_eval() -> list[Row]:
    """The held-out side of arithmetic_train."""
    return problems(ARITHMETIC, "eval", EVAL_ROWS)


def words_train() -> list[Row]:
    """Words and lists to spell, count, decipher, sort and filter, to train on."""
    return problems(WORDS, "train", TRAIN_ROWS)


def words_eval() -> list[Row]:
    """The held-out side of words_train."""
    return problems(WORDS, "eval", EVAL_ROWS)


def countdown_train() -> list[Row]:
    """Countdown with 3 or 4 numbers, to train on. The package takes about 20 ms for each."""
    return problems(COUNTDOWN, "train", TRAIN_ROWS // 4)


def countdown_eval() -> list[Row]:
    """The held-out side of countdown_train."""
    return problems(COUNTDOWN, "eval", EVAL_ROWS // 4)


def mixed_train() -> list[Row]:
    """All of these families in equal parts, to train on."""
    return problems(ARITHMETIC | WORDS | COUNTDOWN, "train", TRAIN_ROWS)


def mixed_eval() -> list[Row]:
    """The held-out side of mixed_train."""
    return problems(ARITHMETIC | WORDS | COUNTDOWN, "eval", EVAL_ROWS)


def problems(families: Mapping[str, Mapping[str, object]], split: str, count: int, seed: int = SEED) -> list[Row]:
    """`count` different problems, as many of each family (the last ones may have one fewer), in a fixed mixed order.

    families: name -> settings of the package. split: "train" or "eval". The same arguments give the same rows.
    Raises BadInput for another split, a family that the reward cannot score, settings that the package refuses, a
    family with too few different problems, and where the package is not installed.
    """
    from rl.types import BadInput

    if split not in ("train", "eval"):
        raise BadInput(f"reasoning: split {split!r} must be train or eval")
    if not families or count < 1:
        raise BadInput("reasoning: name at least one family, and ask for at least one row")
    try:
        for family in families:
            rule_of(family)
    except ValueError as error:
        raise BadInput(str(error)) from error
    share, more = divmod(count, len(families))
    rows: list[Row] = []
    for i, (family, settings) in enumerate(families.items()):
        rows += _of_family(family, settings, split, share + (i < more), seed)
    return sorted(rows, key=lambda row: _number("order", str(row["prompt"])))


def _of_family(family: str, settings: Mapping[str, object], split: str, count: int, seed: int) -> list[Row]:
    """`count` rows of one family that lie on one side, none of them twice."""
    from rl.types import BadInput

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a package that it imports
            from reasoning_gym import create_dataset
    except ImportError as error:
        raise BadInput(
            f'reasoning: {error}; the problems are made by reasoning-gym: pip install "reasoning-gym==0.1.25"'
        ) from error
    try:
        items = create_dataset(family, seed=seed, size=MAX_DRAWS * count + 1, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise BadInput(f"reasoning: {family} with {dict(settings)}: {error}") from error
    found: dict[str, Row] = {}
    for i in range(MAX_DRAWS * count):
        if len(found) == count:
            break
        row = _row(family, items[i])
        if side(row) == split:
            found.setdefault(problem(row), row)
    if len(found) < count:
        raise BadInput(
            f"reasoning: {family} has only {len(found)} different problems in {MAX_DRAWS * count} draws on the side "
            f"{split}, {count} are wanted; ask for fewer rows, or widen its settings"
        )
    return list(found.values())


def _row(family: str, item: Mapping[str, object]) -> Row:
    metadata = item["metadata"]
    facts: dict[str, object] = {}
    if family == "countdown" and isinstance(metadata, Mapping):
        facts = {"numbers": [int(n) for n in metadata["numbers"]], "target": int(metadata["target"])}
    return {
        "prompt": str(item["question"]).strip(),
        "answer": str(item["answer"]),
        "family": family,
        "facts": json.dumps(facts),
    }


def problem(row: Row) -> str:
    """What two rows have in common when they are one problem, however it is put: its words and numbers, sorted."""
    facts = json.loads(str(row["facts"]))
    words: Sequence[str] = re.findall(r"\w+", str(row["prompt"]))
    if facts:  # countdown puts one problem in three ways
        words = [*map(str, facts["numbers"]), f"to {facts['target']}"]
    return f"{row['family']} {' '.join(sorted(words))}"


def side(row: Row) -> str:
    """ "train" or "eval": where a problem lies, whatever the seed."""
    return "eval" if _number("side", problem(row)) % 100 < HELD_OUT_PERCENT else "train"


def _number(purpose: str, text: str) -> int:
    """A number that looks random and is the same on every machine."""
    return int(hashlib.sha256(f"{purpose} {text}".encode()).hexdigest()[:12], 16)
