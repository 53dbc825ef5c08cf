"""Golden cases of the built-in rewards: completions with scores known by hand, under the recipe's own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rewards.types import CORRECT, UNPARSEABLE, WRONG
from rl.config import RewardConfig
from rl.scoring.options import options_of
from rl.scoring.reward_functions import resolve
from rl.types import Row

Settings = dict[str, object]


@dataclass(frozen=True)
class Golden:
    """A completion and what a reward must say of it. tokens: the completion's length, where the reward asks.

    verdict: "" where it is not compared.
    """

    completion: str
    score: float
    verdict: str = ""
    answer: str = ""
    row: Row = field(default_factory=dict)
    tokens: int = 8


def golden_cases(reward: RewardConfig) -> list[Golden]:
    """The cases of a built-in reward; none for one of the user's own, a reward model, or a judge over the network."""
    make = CASES.get(reward.function)
    return make(options_of(reward, resolve(reward.function))) if make is not None else []


def _r1(thought: str, answer: str) -> str:
    return f"<think>{thought}</think> <answer>{answer}</answer>"


def _number(settings: Settings, name: str, default: float = 0.0) -> float:
    return float(settings.get(name, default))  # type: ignore[arg-type]


def accuracy(settings: Settings) -> list[Golden]:
    return [
        Golden(_r1("6 * 12", "72"), 1.0, CORRECT, "72"),
        Golden(_r1("1 / 2", "\\frac{1}{2}"), 1.0, CORRECT, "0.5"),
        Golden("<think>6 * 12</think> so \\boxed{72}", 1.0, CORRECT, "#### 72"),
        Golden(_r1("6 * 12", "71"), 0.0, WRONG, "72"),
        Golden("<think>72 and no more", 0.0, UNPARSEABLE, "72"),
    ]


def format_r1(settings: Settings) -> list[Golden]:
    return [
        Golden(_r1("6 * 12", "72"), 1.0, CORRECT),
        Golden("it is 72", 0.0, WRONG),
        Golden(_r1("6 * 12", "72") + " and more", _partial(settings), WRONG),
    ]


def format_boxed(settings: Settings) -> list[Golden]:
    return [
        Golden("<think>6 * 12</think> so \\boxed{72}", 1.0, CORRECT),
        Golden("it is \\boxed{72}", 0.0, WRONG),
        Golden("<think>6 * 12</think> so 72", _partial(settings), WRONG),
    ]


def format_cold_start(settings: Settings) -> list[Golden]:
    mark = str(settings.get("special_token", "|special_token|"))
    return [
        Golden(f"{mark}6 * 12{mark}It is 72.", 1.0, CORRECT),
        Golden("It is 72.", 0.0, WRONG),
        Golden(f"{mark}{mark}It is 72.", _partial(settings), WRONG),
    ]


def _partial(settings: Settings) -> float:
    """The score when every delimiter appears the right number of times but something else is wrong."""
    return _number(settings, "partial")


def countdown(settings: Settings) -> list[Golden]:
    row: Row = {"numbers": [3, 5, 7], "target": 6}
    return [
        Golden(_r1("7 - 5 is 2", "(7 - 5) * 3"), 1.0, CORRECT, row=row),
        Golden(_r1("there is one 3", "3 + 3"), 0.0, WRONG, row=row),
        Golden(_r1("that is 15", "7 + 5 + 3"), 0.0, WRONG, row=row),
        Golden(_r1("none", "six"), 0.0, UNPARSEABLE, row=row),
    ]


PROGRAMS = {
    "python": "a, b = map(int, input().split())\nprint(a {} b)",
    "c++": "#include <iostream>\nint main() {{ int a, b; std::cin >> a >> b; std::cout << (a {} b) << '\\n'; }}",
}


def code_accuracy(settings: Settings) -> list[Golden]:
    row: Row = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 3\n", "output": "8\n"}]}
    program = PROGRAMS[str(settings.get("language", "python"))]
    fence = "c++" if "#include" in program else "python"
    right, wrong = (f"```{fence}\n{program.format(sign)}\n```" for sign in "+*")
    return [
        Golden(right, 1.0, CORRECT, row=row),
        Golden(wrong, 0.0, WRONG, row=row),
        Golden("add the two numbers", 0.0, UNPARSEABLE, row=row),
    ]


ENGLISH = "First we add the two numbers that are given here, then we look whether the sum is even or odd."
CHINESE = "首先我们把给出的两个数字相加，然后我们看看它们的和是偶数还是奇数，最后写出答案。"


def language_consistency(settings: Settings) -> list[Golden]:
    target = str(settings.get("target", "")) or "en"
    row: Row = {"language": target}
    if target in ("zh", "Chinese", "zh-CN"):
        return [Golden(CHINESE, 1.0, CORRECT, row=row), Golden(ENGLISH, 0.0, WRONG, row=row)]
    if target in ("en", "English"):
        return [Golden(ENGLISH, 1.0, CORRECT, row=row), Golden(CHINESE, 0.0, WRONG, row=row)]
    return [Golden(CHINESE if target not in ("ja", "Japanese") else ENGLISH, 0.0, WRONG, row=row)]


def reasoning_gym(settings: Settings) -> list[Golden]:
    number: Row = {"family": "chain_sum", "facts": "{}"}
    words: Row = {"family": "word_sorting", "facts": "{}"}
    return [
        Golden(_r1("60 + 12", "72"), 1.0, CORRECT, "72", number),
        Golden(_r1("60 + 12", "71"), 0.0, WRONG, "72", number),
        Golden(_r1("a before b", "apple, bee"), 1.0, CORRECT, "apple, bee", words),
        Golden(_r1("b before a", "bee, apple"), 0.0, WRONG, "apple, bee", words),
    ]


def repetition(settings: Settings) -> list[Golden]:
    ngram, height = int(_number(settings, "ngram", 3)), _number(settings, "max_penalty", 1)
    # Of ngram + 3 words there are four n-grams.
    return [
        Golden(" ".join(f"word{i}" for i in range(ngram + 3)), 0.0),
        Golden(" ".join(["again"] * (ngram + 3)), -0.75 * height),
    ]


def soft_overlong(settings: Settings) -> list[Golden]:
    longest, cache = int(_number(settings, "max_tokens")), int(_number(settings, "cache_tokens"))
    return [
        Golden("short", 0.0, tokens=max(0, longest - cache)),
        Golden("long", -1.0, WRONG, tokens=longest + 1),
    ]


def cosine_length(settings: Settings) -> list[Golden]:
    return [
        Golden(_r1("6 * 12", "72"), _number(settings, "correct_short"), answer="72", tokens=0),
        Golden(_r1("6 * 12", "71"), _number(settings, "wrong_short"), answer="72", tokens=0),
        Golden(_r1("6 * 12", "72"), _number(settings, "exceeded"), answer="72", tokens=_max_tokens(settings)),
    ]


def _max_tokens(settings: Settings) -> int:
    return int(_number(settings, "max_tokens"))


def length_budget(settings: Settings) -> list[Golden]:
    budget = int(_number(settings, "budget", 100))
    row: Row = {"budget": budget}
    at_budget = min(1.0, max(0.0, _number(settings, "at_budget")))
    return [
        Golden(_r1("6 * 12", "72"), at_budget, answer="72", row=row, tokens=budget),
        Golden(_r1("6 * 12", "71"), 0.0, WRONG, answer="72", row=row, tokens=budget),
    ]


CASES: dict[str, Callable[[Settings], list[Golden]]] = {
    "accuracy": accuracy,
    "code_accuracy": code_accuracy,
    "cosine_length": cosine_length,
    "countdown": countdown,
    "format": format_r1,
    "format_boxed": format_boxed,
    "format_cold_start": format_cold_start,
    "language_consistency": language_consistency,
    "length_budget": length_budget,
    "reasoning_gym": reasoning_gym,
    "repetition": repetition,
    "soft_overlong": soft_overlong,
}
"""Short name of a reward -> its cases under the recipe's settings."""

OVER_THE_NETWORK = ("llm_judge", "llm_pairwise")
"""Their words depend on another model: they are only asked, once, and must answer."""
