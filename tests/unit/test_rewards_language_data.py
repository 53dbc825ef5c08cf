"""Language consistency on MGSM's worked exemplars, and its cost on a megabyte of anything."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import pytest

from rewards.language import language_consistency

ENGLISH = "First we add the number of apples in both baskets and then we divide the sum by two to get the answer."

# ------------------------------------------------------------------------------------------------ MGSM

MGSM = Path(__file__).parents[3] / "shared" / "data" / "mgsm" / "exemplars.py"
MGSM_LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")


@lru_cache(maxsize=1)
def exemplars() -> dict[str, dict[str, dict[str, str]]]:
    """MGSM's worked exemplars: language -> number -> question (q) and worked answer (a)."""
    if not MGSM.exists():
        pytest.skip(f"no {MGSM}")
    for node in ast.parse(MGSM.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MGSM_EXEMPLARS":
            return ast.literal_eval(node.value)
    raise AssertionError(f"no MGSM_EXEMPLARS in {MGSM}")


@pytest.mark.parametrize("language", MGSM_LANGUAGES)
def test_worked_exemplars_are_in_their_own_language_and_in_no_other(language):
    for example in exemplars()[language].values():
        assert language_consistency(example["a"], target=language).value >= 0.97
        assert language_consistency(example["a"], prompt=example["q"]).value >= 0.97
        for other in set(MGSM_LANGUAGES) - {language}:
            assert language_consistency(example["a"], target=other).value <= 0.05, (other, example["a"])


# ------------------------------------------------------------------------------------------------ cost

FLOODS = {
    "one word": "a",
    "English": ENGLISH + " ",
    "short words": "ab ",
    "capitals": "AB ",
    "single letters": "a ",
    "accents": "\u0301\u0315",
    "Chinese": "们",
    "emoji": "🙂",
    "an unlisted script": "Ꮳ",
    "dollars": "$",
    "dollars and letters": "$a ",
    "backticks": "`",
    "fences": "```a",
    "brackets that never close": r"\[",
    "equations that never close": r"\begin{align}",
    "backslashes": "\\",
    "thinking tags": "<think>",
    "special tokens": "<|",
    "apostrophes": "a'",
    "zero-width spaces": "\u200b",
    "digits": "9",
    "short formulas": "$we add$ ",
    "short code": "`we add the` ",
    "backticks of many lengths": "".join("`" * n + " " for n in range(1, 1400)),
    "backticks on many lines": "` a `` b\n",
    "tildes": "~~~\n``` ",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_megabyte_of_anything_is_measured_in_two_seconds(flood):
    text = FLOODS[flood] * (1_000_000 // len(FLOODS[flood].encode()))
    language_consistency(ENGLISH, target="en")  # loads the classifier
    for _ in range(3):  # other processes can slow one try
        start = time.process_time()
        language_consistency(text, target="en")
        took = time.process_time() - start
        if took < 2:
            break
    assert took < 2


def test_importing_the_rewards_of_this_kind_loads_nothing_heavy():
    code = (
        "import sys, rewards.language, rewards.filters, rewards.shaping, rewards.watch\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'rl', 'numpy', 'torch', 'py3langid'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
