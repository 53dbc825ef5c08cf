"""rl/stages/compare.py: what a claim reads, when it holds, and the tables that a recipe ends with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rl.evaluation.result import EvalResult
from rl.recipe import Claim
from rl.stages.compare import Measurement, compare, measure
from rl.stages.compare import put_to_test as outcome
from rl.types import BadInput


def test_a_claim_about_the_same_problems_is_tested_in_pairs() -> None:
    left, right = Measurement(0.75, 0.25, (1, 0, 1, 1)), Measurement(0.25, 0.25, (0, 0, 1, 0))
    found = outcome(Claim("c", z=1.0), left, right)
    assert (found.difference, found.stderr) == (0.5, pytest.approx(0.288675, abs=1e-6))
    assert found.holds
    assert not outcome(Claim("c", z=2.0), left, right).holds


def test_independent_numbers_add_their_errors_and_an_unknown_error_holds_nothing() -> None:
    found = outcome(Claim("c"), Measurement(0.9, 0.03), Measurement(0.5, 0.04))
    assert (found.difference, found.stderr) == (pytest.approx(0.4), pytest.approx(0.05))
    assert found.holds
    assert not outcome(Claim("c"), Measurement(0.9), Measurement(0.5, 0.04)).holds


def test_a_bound_below_zero_claims_that_little_is_lost() -> None:
    left, right = Measurement(0.7, 0.01), Measurement(0.72, 0.0)
    assert outcome(Claim("c", at_least=-0.05), left, right).holds
    assert not outcome(Claim("c"), left, right).holds


def test_a_claim_reads_the_last_evaluation_or_the_first(tmp_path: Path) -> None:
    for step, share in ((0, 0.25), (12, 0.75)):
        EvalResult(share, 0.1, None, 0.0, 9.0, [share], {"2": (0.9, 0.05)}).write(
            tmp_path / "evals" / f"step_{step:06d}.json"
        )
    folders = {"zero": tmp_path}
    assert measure("@zero:pass@1", folders).value == 0.75
    assert measure("@zero:before/pass@1", folders).value == 0.25
    assert measure("@zero:pass@2", folders) == Measurement(0.9, 0.05)
    assert measure("0.5", folders) == Measurement(0.5, 0.0)
    with pytest.raises(BadInput, match="not measured; there are pass@1"):
        measure("@zero:language", folders)


def test_a_claim_about_what_chooses_an_answer_is_tested_in_pairs_and_at_equal_tokens(tmp_path: Path) -> None:
    selected = {"cons@2": [0.5, 0.0], "cons@4": [1.0, 0.4], "best@2:prm": [1.0, 0.2], "best@4:prm": [1.0, 0.0]}
    EvalResult(
        0.5, 0.1, None, 0.0, 10.0, [0.5, 0.5], samples=4, cons=0.7, cons_stderr=0.3, cons_P=[1.0, 0.4],
        selected=selected, prompt_length=1.0, scorer_cost={"prm": 5.0},
    ).write(tmp_path / "evals" / "step_000000.json")  # fmt: skip
    folders = {"e": tmp_path}
    assert measure("@e:best@2:prm", folders).values_P == (1.0, 0.2)
    # Two samples with their scores cost 1 + 2 x 15 = 31 tokens, between the votes of two (21) and of four (41).
    assert measure("@e:cons@tokens:best@2:prm", folders).values_P == pytest.approx((0.75, 0.2))
    # Four with their scores cost more than the largest vote there is.
    assert measure("@e:cons@tokens:best@4:prm", folders).values_P == (1.0, 0.4)
    with pytest.raises(BadInput, match="not measured"):
        measure("@e:best@8:prm", folders)


def test_claims_about_votes_form_and_language_are_tested_in_pairs_too(tmp_path: Path) -> None:
    shares = {"cons_P": [1.0, 1.0, 0.0], "format_P": [1.0, 0.5, 0.5], "language_P": [0.9, 1.0, math.nan]}
    result = EvalResult(
        0.5, 0.1, None, 0.0, 9.0, [0.5, 0.75, 0.25], cons=2 / 3, cons_stderr=1 / 3, format=2 / 3, language=0.95,
        samples=4, **shares,
    )  # fmt: skip
    result.write(tmp_path / "evals" / "step_000000.json")
    folders = {"e": tmp_path}
    votes, form, language = (measure(f"@e:{name}", folders) for name in ("cons", "format_share", "language"))
    assert (votes.value, votes.stderr, votes.values_P) == (2 / 3, 1 / 3, (1.0, 1.0, 0.0))
    assert (form.value, form.stderr) == (2 / 3, pytest.approx(1 / 6))
    assert (language.value, language.stderr) == (0.95, pytest.approx(0.05))  # of the two problems that have a verdict
    found = outcome(Claim("votes"), votes, measure("@e:pass@1", folders))
    assert (found.difference, found.stderr) == (pytest.approx(1 / 6), pytest.approx(0.220479, abs=1e-6))


def test_a_language_that_was_not_looked_at_in_every_problem_is_compared_where_it_was() -> None:
    left, right = Measurement(0.95, 0.05, (0.9, 1.0, math.nan)), Measurement(0.5, 0.1, (0.4, 0.6, 0.5))
    assert outcome(Claim("c"), left, right).difference == pytest.approx(0.45)


def test_claims_about_tokens_are_tested_in_pairs_too(tmp_path: Path) -> None:
    result = EvalResult(0.5, 0.1, None, 0.0, 30.0, [0.5, 0.5], thought_mean=26.0, answer_mean=4.0)
    result.thought_P.extend((20.0, 32.0))
    result.length_P.extend((25.0, 35.0))
    result.write(tmp_path / "evals" / "step_000000.json")
    thought, answer, all_ = (measure(f"@e:{n}/length_mean", {"e": tmp_path}) for n in ("thought", "answer", "rollout"))
    assert (thought.value, thought.stderr, thought.values_P) == (26.0, pytest.approx(6.0), (20.0, 32.0))
    assert (answer.value, answer.stderr, answer.values_P) == (4.0, pytest.approx(1.0), (5.0, 3.0))
    assert (all_.value, all_.stderr) == (30.0, pytest.approx(5.0))


# ------------------------------------------------------------------------------------------------ tables


def test_the_tables_say_what_it_costs_in_tokens_and_why_a_claim_is_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("base", "zero", "rm")}
    base = EvalResult(0.25, 0.03, 0.5, 0.125, 9.0, [0.25] * 4, thought_mean=12.34, answer_mean=2.0, format=0.5)
    base.write(folders["base"] / "evals" / "step_000000.json")
    for step, share in ((0, 0.25), (9, 0.75)):
        EvalResult(share, 0.02, 0.5, 0.0, 9.0, [share] * 4).write(folders["zero"] / "evals" / f"step_00000{step}.json")
    claims = [
        Claim("RL helps", "@zero:pass@1", "@zero:before/pass@1", z=3.0),
        Claim("greedy", "@zero:greedy", "@base:greedy"),
    ]
    compare(tmp_path, claims, folders)
    shown = (tmp_path / "claims.txt").read_text()
    assert "Evaluations" in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert rows[:3] == [
        ["base", "25.0 ± 3.0", "50.0", "", "12.3", "2.0", "12.5"],
        ["zero, before", "25.0 ± 2.0", "", "", "", "", "0.0"],
        ["zero", "75.0 ± 2.0", "", "", "", "", "0.0"],
    ]
    assert [row for row in rows[3:] if row[1]] == [
        ["RL helps", "75.0 ± 2.0", "25.0 ± 2.0", "+50.0", "yes"],
        ["greedy", "50.0", "50.0", "+0.0", "not known: no standard error"],
    ]
    assert " ".join(row[0] for row in rows[3:] if not row[1]) == "(wanted: more than 0 by 3 standard errors)"
