"""What `aha doctor` finds in rewards: golden cases, and right answers of the recipe's own rows against nonsense."""

from __future__ import annotations

import math

import pytest

from launch.doctor.check import Outcome
from launch.doctor.golden import CASES, OVER_THE_NETWORK, golden_cases
from launch.doctor.reward_checks import reward
from rewards import REWARDS
from rewards.types import WRONG, Score
from rl.config import RewardConfig
from rl.scoring.routing import named
from tests.unit.doctored import patient

SETTINGS = {
    "cosine_length": (
        "max_tokens=100", "correct_short=2", "correct_long=1", "wrong_short=-10", "wrong_long=0", "exceeded=-9",
    ),
    "format": ("partial=0.2",),
    "format_boxed": ("partial=0.2",),
    "format_cold_start": ("partial=0.2", "special_token=<|mark|>"),
    "length_budget": ("budget=100", "slope=0.01", "at_budget=0.5"),
    "soft_overlong": ("max_tokens=100", "cache_tokens=20"),
}  # fmt: skip
LOCAL = sorted(set(CASES) - {"code_accuracy"})  # which needs the sandbox


def examined(tokenizer, function: str, *options: str):  # type: ignore[no-untyped-def]
    part = RewardConfig(function, options=options)
    name = next(iter(named([part])))
    return reward(patient(tokenizer, rewards=(part,)), name, part)


@pytest.mark.parametrize("function", LOCAL)
def test_every_built_in_reward_scores_its_golden_cases_right(tokenizer, function: str) -> None:
    exam = patient(tokenizer, rewards=(RewardConfig(function, options=SETTINGS.get(function, ())),))
    from launch.doctor.reward_checks import _golden

    part = exam.cfg.rewards[0]
    assert len(golden_cases(part)) >= 2
    assert _golden(exam, next(iter(named([part]))), golden_cases(part)) is None


def test_every_built_in_reward_has_golden_cases_or_is_an_llm_judge() -> None:
    assert set(CASES) | set(OVER_THE_NETWORK) == set(REWARDS)
    assert math.isclose(golden_cases(RewardConfig("format", options=("partial=0.2",)))[2].score, 0.2)


def test_a_sound_verifier_passes_on_the_recipes_own_rows(tokenizer) -> None:
    check = examined(tokenizer, "accuracy")
    assert check.outcome is Outcome.PASSED
    assert "5 golden cases score as they must" in check.measured
    assert "from 0 to 1" in check.measured


def test_a_built_in_verifier_that_always_returns_0_is_named(tokenizer, monkeypatch) -> None:
    from rewards import accuracy

    monkeypatch.setattr(accuracy, "accuracy", lambda completion, **columns: Score(0.0, WRONG, "planted"))
    check = examined(tokenizer, "accuracy")
    assert check.outcome is Outcome.FAILED
    assert "all get 0, right and wrong answers alike" in check.measured
    assert "accuracy is dead" in check.cause


def test_a_built_in_verifier_that_raises_is_named(tokenizer, monkeypatch) -> None:
    from rewards import accuracy

    def broken(completion: str, **columns: object) -> Score:
        raise ImportError("no module named sympy")

    monkeypatch.setattr(accuracy, "accuracy", broken)
    check = examined(tokenizer, "accuracy")
    assert check.outcome is Outcome.FAILED
    assert "raises or hangs" in check.cause
    assert "no module named sympy" in check.table[1][2]


def test_a_verifier_of_the_users_own_that_always_returns_0_is_named(tokenizer) -> None:
    check = examined(tokenizer, "tests.unit.test_doctor_rewards:always_zero")
    assert check.outcome is Outcome.FAILED
    assert "always_zero always returns 0" in check.cause


def test_a_verifier_of_the_users_own_that_raises_is_named_with_its_error(tokenizer) -> None:
    check = examined(tokenizer, "tests.unit.test_doctor_rewards:raises")
    assert check.outcome is Outcome.FAILED
    assert "KeyError: 'solution'" in check.measured
    assert "raises" in check.cause


def test_a_reward_that_never_applies_is_named(tokenizer) -> None:
    check = examined(tokenizer, "tests.unit.test_doctor_rewards:never_applies")
    assert check.outcome is Outcome.FAILED
    assert "returned None" in check.measured


def test_a_reward_of_length_alone_passes(tokenizer) -> None:
    assert examined(tokenizer, "tests.unit.test_doctor_rewards:short").outcome is Outcome.PASSED


@pytest.mark.parametrize("function", ["any_number", "mentions_it"])
def test_a_verifier_of_the_users_own_that_pays_wrong_answers_is_warned_of(tokenizer, function: str) -> None:
    check = examined(tokenizer, f"tests.unit.test_doctor_rewards:{function}")
    assert check.outcome is Outcome.WARNED
    assert "a lenient verifier" in check.cause
    assert "it pays 1 for" in check.measured


@pytest.mark.parametrize("function", ["exact", "last_line"])
def test_a_sound_verifier_of_the_users_own_passes(tokenizer, function: str) -> None:
    assert examined(tokenizer, f"tests.unit.test_doctor_rewards:{function}").outcome is Outcome.PASSED


def any_number(completion: str, **columns: object) -> float:
    """Lenient: any number is right."""
    return float(any(c.isdigit() for c in completion))


def mentions_it(completion: str, *, answer: str, **columns: object) -> float:
    """Lenient: a list of all answers is right."""
    return float(answer in completion)


def exact(completion: str, *, answer: str, **columns: object) -> float:
    return float(completion.rpartition("<answer>")[2].removesuffix("</answer>") == answer)


def last_line(completion: str, *, answer: str, **columns: object) -> float:
    return float(completion.strip() == answer)


def always_zero(completion: str, **columns: object) -> float:
    return 0.0


def raises(completion: str, **columns: object) -> float:
    return float(columns["solution"] == completion)  # type: ignore[arg-type]


def never_applies(completion: str, **columns: object) -> None:
    return None


def short(completion: str, **columns: object) -> float:
    return float(len(completion) < 300)
