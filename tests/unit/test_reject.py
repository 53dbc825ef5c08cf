"""rl/stages/reject.py, mix.py and claims.py: what is kept, what a mixture holds, when a claim holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rl.config import DataConfig, MixConfig, MixPart, RejectConfig
from rl.recipe import Claim
from rl.stages.claims import Measurement, measure
from rl.stages.claims import put_to_test as outcome
from rl.stages.decide import decide
from rl.stages.evaluate import EvalResult
from rl.stages.mix import build, mix
from rl.stages.reject import read_samples, write_kept
from rl.types import BadInput, GradedGroup, Prompt, RewardPart, Rollout, RolloutGroup, Verdict

RIGHT, WRONG = RewardPart(1.0, Verdict.CORRECT), RewardPart(0.0, Verdict.WRONG)


def group(*samples: tuple[str, RewardPart], finish: str = "stop", valid: bool = True) -> GradedGroup:
    """Samples of one prompt; a completion has as many tokens as words."""
    rollouts = [
        Rollout(np.zeros(len(t.split()), np.int32), np.zeros(len(t.split()), np.float32), t, finish, 1.0, 0, 0)
        for t, _ in samples
    ]
    prompt = Prompt(0, 0, [1], "What is 1 + 1?", "2", {"prompt": "What is 1 + 1?"})
    parts = [{"accuracy": part} for _, part in samples]
    return GradedGroup(RolloutGroup(prompt, rollouts), [p.score for _, p in samples], parts, [valid] * len(samples))


def fates(graded: GradedGroup, **settings: object) -> list[str]:
    """Each sample's fate, by category."""
    return [r.partition(":")[0] for r in decide(graded, "accuracy", RejectConfig(**settings))]  # type: ignore[arg-type]


def test_wrong_samples_and_those_without_a_verdict_are_dropped() -> None:
    silent = RewardPart(math.nan, Verdict.TIMED_OUT)
    graded = group(("a b", WRONG), ("c d", RIGHT), ("e f", silent))
    graded = GradedGroup(graded.group, graded.rewards_G, graded.parts_G, [True, True, False])
    assert fates(graded, keep="all") == ["not correct", "kept", "no verdict"]


@pytest.mark.parametrize(
    ("keep", "count", "kept"),
    [
        ("all", 1, [0, 1, 2, 3]), ("first", 1, [0]), ("first", 2, [0, 1]), ("shortest", 1, [2]), ("longest", 2, [0, 1]),
        # The second one shares no three words with the first; the third shares all of its own.
        ("diverse", 2, [0, 1]),
    ],
)  # fmt: skip
def test_a_policy_keeps_its_own_of_the_good_samples(keep: str, count: int, kept: list[int]) -> None:
    good = ("one two three four five six", "x y z u v", "one two three four", "one two three four five")
    got = fates(group(*((text, RIGHT) for text in good)), keep=keep, max_kept=count)
    assert [i for i, reason in enumerate(got) if reason == "kept"] == kept
    assert {reason for i, reason in enumerate(got) if i not in kept} <= {"surplus"}


def test_every_sample_has_a_reason_and_a_kept_one_names_its_policy() -> None:
    good = group(("a b c", RIGHT), ("a b", RIGHT), ("a", WRONG))
    shortest, everything = RejectConfig(keep="shortest"), RejectConfig(keep="all")
    assert decide(good, "accuracy", shortest) == [
        "surplus: keep=shortest, 1 of 2", "kept: shortest", f"not correct: {Verdict.WRONG}",
    ]  # fmt: skip
    assert decide(good, "accuracy", everything)[:2] == ["kept: all"] * 2


def test_a_repeated_sample_is_a_duplicate_whatever_its_white_space() -> None:
    assert fates(group(("a  b", RIGHT), ("a b\n", RIGHT)), keep="all") == ["kept", "duplicate"]


def test_filters_name_themselves() -> None:
    code = "<think>look\n```\nx\n```\n</think> <answer>2</answer>"
    long = "<think>" + "word " * 9 + "</think> <answer>2</answer>"
    mixed = "<think>Wir legen die Zahlen zusammen und haben zwei. Then we are done with all of it.</think> <answer>2</answer>"
    assert fates(group((code, RIGHT)), no_code=True) == ["code block"]
    assert fates(group((long, RIGHT)), max_paragraph_words=5) == ["paragraph"]
    assert fates(group((mixed, RIGHT)), min_language_share=0.9) == ["language"]
    assert fates(group(("w " * 30, RIGHT)), max_repeated_share=0.5) == ["repetition"]
    assert fates(group(("a b c", RIGHT)), max_tokens=2) == ["length"]
    assert fates(group(("a", RIGHT)), min_tokens=2) == ["length"]
    assert fates(group(("a b", RIGHT), finish="length")) == ["truncated"]
    assert fates(group(("a b", RIGHT)), min_score=1.5) == ["low score"]


def test_a_prompt_that_is_always_solved_is_too_easy_when_asked() -> None:
    assert fates(group(("a", RIGHT), ("b", RIGHT)), max_solve_share=0.9) == ["easy prompt"] * 2
    assert fates(group(("a", RIGHT), ("b", WRONG)), max_solve_share=0.9) == ["kept", "not correct"]


@pytest.mark.parametrize("kept", ["kept: all", ""])  # "": as older folders have it, which may be half done
def test_kept_rows_and_counts_add_up_and_a_cut_line_is_left_out(tmp_path: Path, kept: str) -> None:
    def sample(text: str, reason: str) -> dict[str, object]:
        return {"text": text, "tokens": 1, "finish_reason": "stop", "reward": 1.0, "verdicts": {}, "reason": reason}

    lines = [
        {"prompt_id": 1, "prompt": "b", "answer": "2", "row": {"prompt": "b", "level": 3}, "samples": [sample("y", "kept: all")]},
        {"prompt_id": 0, "prompt": "a", "answer": "1", "row": {"prompt": "a"},
         "samples": [sample("x", kept), sample("z", "not correct: wrong")]},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"prompt_id": 2, "pro'
    (tmp_path / "samples.jsonl").write_text(text)
    write_kept(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert rows == [
        {"prompt": "a", "answer": "1", "target": "x"}, {"prompt": "b", "level": 3, "answer": "2", "target": "y"},
    ]  # fmt: skip
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["by_reason"] == {"kept": 2, "not correct": 1}
    assert (report["samples"], report["prompts"], report["prompts_with_a_sample"]) == (3, 2, 2)
    assert [line["prompt_id"] for line in read_samples(tmp_path / "samples.jsonl")] == [1, 0]


# ------------------------------------------------------------------------------------------------ mixtures


def dataset(path: Path, *rows: tuple[str, str]) -> DataConfig:
    path.write_text("".join(json.dumps({"question": p, "target": t, "answer": "1"}) + "\n" for p, t in rows))
    return DataConfig(source=str(path), prompt_field="question")


def mixed(folder: Path, cfg: MixConfig, seed: int = 1) -> tuple[list[dict[str, str]], dict]:  # type: ignore[type-arg]
    mix(folder, cfg, seed)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "manifest.json").read_text())


def test_a_mixture_has_its_quotas_and_domains_and_no_row_twice(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a.jsonl", *((f"a{i}", "t") for i in range(9)), ("a0", " t "))
    b = dataset(tmp_path / "b.jsonl", ("b0", "t"), ("a1", "t"))
    rows, manifest = mixed(tmp_path, MixConfig(parts=(MixPart(a, 9, "maths"), MixPart(b, 0, "chat"))))
    assert manifest["domains"] == {"maths": 9, "chat": 1}
    assert len({row["prompt"] for row in rows}) == 10
    counts = [{k: part[k] for k in ("rows", "taken", "duplicate")} for part in manifest["parts"]]
    assert counts == [{"rows": 10, "taken": 9, "duplicate": 1}, {"rows": 2, "taken": 1, "duplicate": 1}]


def test_the_order_and_the_draw_depend_on_the_seed_alone(tmp_path: Path) -> None:
    cfg = MixConfig(parts=(MixPart(dataset(tmp_path / "a.jsonl", *((f"a{i}", "t") for i in range(20))), 5),))
    first = mixed(tmp_path, cfg)[0]
    assert mixed(tmp_path, cfg)[0] == first
    assert mixed(tmp_path, cfg, seed=2)[0] != first


def test_rows_that_are_in_an_evaluation_set_are_left_out(tmp_path: Path) -> None:
    problem = "How many ducks swim on the old pond behind the red house today"
    a = dataset(tmp_path / "a.jsonl", (problem, "t"), ("something else", "t"))
    held_out = dataset(tmp_path / "eval.jsonl", (problem.upper() + "?", "x"))
    rows, manifest = mixed(tmp_path, MixConfig(parts=(MixPart(a),), against=(held_out,)))
    assert [row["prompt"] for row in rows] == ["something else"]
    assert manifest["parts"][0]["contaminated"] == 1


def test_a_short_question_of_an_evaluation_set_is_found_beside_a_long_target(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a.jsonl", ("what is 6 x 7", "six times seven is 42"), ("What is 6 x 8?", "It is 48."))
    held_out = dataset(tmp_path / "eval.jsonl", ("What is 6 x 7?", "42"))
    talk = tmp_path / "talk.jsonl"
    asked = [{"role": "user", "content": "What is 6 x 7?"}, {"role": "assistant", "content": "It is 42."}]
    talk.write_text(json.dumps({"messages": asked}) + "\n")
    parts = (MixPart(a), MixPart(DataConfig(source=str(talk), messages_field="messages")))
    rows, manifest = mixed(tmp_path, MixConfig(parts=parts, against=(held_out,)))
    assert [row["prompt"] for row in rows] == ["What is 6 x 8?"]
    assert [part["contaminated"] for part in manifest["parts"]] == [1, 1]


def test_a_part_too_small_for_its_quota_is_an_error_unless_short_is_take(tmp_path: Path) -> None:
    part = MixPart(dataset(tmp_path / "a.jsonl", ("a", "t"), ("a", "t")), 2)
    with pytest.raises(BadInput, match=r"gives 1 rows \(1 duplicates .* but its quota is 2"):
        mix(tmp_path, MixConfig(parts=(part,)), 1)
    assert len(mixed(tmp_path, MixConfig(parts=(part,), short="take"))[0]) == 1


def test_a_row_without_its_target_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "target": "t"}\n{"prompt": "b"}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl line 2: column 'target' is missing"):
        mix(tmp_path, MixConfig(parts=(MixPart(DataConfig(source=str(path), answer_field="")),)), 1)


def test_a_function_builds_a_dataset_from_others(tmp_path: Path) -> None:
    source = tmp_path / "samples.jsonl"

    def sample(text: str, verdict: str) -> dict[str, object]:
        return {"text": text, "verdicts": {"accuracy": verdict, "format": "correct"}}

    right, wrong = "<think>right</think> <answer>1</answer>", "<think>oops</think> <answer>2</answer>"
    line = {
        "prompt_id": 0, "row": {"prompt": "p", "language": "en"}, "answer": "1",
        "samples": [sample(wrong, "wrong"), sample(right, "correct")],
    }  # fmt: skip
    source.write_text(json.dumps(line) + "\n")
    build(tmp_path, "recipes.r1_tasks:journeys", {"@all/samples.jsonl": str(source)})
    (row,) = [json.loads(text) for text in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert row["target"].startswith("<think>oops wait, that is wrong. let us look again. right</think>")
    build(tmp_path, "recipes.r1_tasks:shortcuts", {"@all/samples.jsonl": str(source)})
    assert json.loads((tmp_path / "data.jsonl").read_text())["target"] == right


# ------------------------------------------------------------------------------------------------ claims


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
    assert (language.value, language.stderr) == (0.95, pytest.approx(0.05))  # of the two problems that were judged
    found = outcome(Claim("votes"), votes, measure("@e:pass@1", folders))
    assert (found.difference, found.stderr) == (pytest.approx(1 / 6), pytest.approx(0.220479, abs=1e-6))


def test_a_language_that_was_not_looked_at_in_every_problem_is_compared_where_it_was() -> None:
    left, right = Measurement(0.95, 0.05, (0.9, 1.0, math.nan)), Measurement(0.5, 0.1, (0.4, 0.6, 0.5))
    assert outcome(Claim("c"), left, right).difference == pytest.approx(0.45)
