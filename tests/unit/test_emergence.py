"""Emergence: words counted by hand, first occurrences kept once, also after a kill, and never slow."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from launch.report.emergence_figure import draw_emergence, first_occurrences
from rl.evaluation.emergence import (
    LANGUAGE_CHARACTERS,
    REFLECTIVE_WORDS,
    Emergence,
    Sample,
    count_terms,
    draw,
    ends_of,
    length_metrics,
    term_metrics,
)
from rl.records.metrics_file import MetricsFile
from rl.types import Prompt, RewardPart, Rollout, RolloutGroup, ScoredGroup, Verdict


def scored(*texts: str, right: tuple[int, ...] = (), id: int = 3, tokens: int = 4) -> ScoredGroup:
    rollouts = [Rollout(np.zeros(tokens, np.int32), np.zeros(tokens), t, "stop", 1.0, 0, 0) for t in texts]
    prompt = Prompt(id, id, [1], "1 + 1?", "2", {})
    parts = [{"accuracy": RewardPart(1.0, Verdict.CORRECT if i in right else Verdict.WRONG)} for i in range(len(texts))]
    n = len(texts)
    return ScoredGroup(RolloutGroup(prompt, rollouts), [0.0] * n, parts, [0.0] * n, [True] * n, False)


def no_mixing(completion: str, prompt: str, row: object) -> float:
    return 1.0


def moments(run_dir: Path) -> list[tuple[str, int, bool]]:
    lines = (run_dir / "aha_moments.jsonl").read_text().splitlines()
    return [(m["term"], m["step"], m["correct"]) for m in map(json.loads, lines)]


def test_reflective_words_are_counted_whole_and_in_any_case():
    found = count_terms("Wait, wait wait\nWAIT. Awaiting checking a but-ton; mistakes, <think>But</think> 等wait")
    assert found.reflective == {"wait": 4, "but": 2}
    assert count_terms("retry ERROR verify wrong evaluate check however mistake").reflective == dict.fromkeys(
        [w for w in REFLECTIVE_WORDS if w not in ("wait", "but")], 1
    )
    assert count_terms("").words == 0
    assert count_terms("Let us see: 1 + 1 = 2.").words == 3


@pytest.mark.parametrize(
    "text",
    [
        "Wait—that is it", "Wait… no", "“Wait”, he said", "wait，让我检查", "wait\u00a0a moment", "$x$—wait", "×wait≠",
    ],
)  # fmt: skip
def test_a_word_ends_at_any_sign_also_of_other_scripts(text: str):
    assert count_terms(text).reflective == {"wait": 1}
    assert count_terms("等wait waité").reflective == {}  # a letter is none


def test_signs_stand_between_a_phrases_words():
    found = count_terms("Let’s check this. Let me\u00a0double‑check")
    assert found.verification == {"let's check": 1, "double-check": 1}
    assert found.words == 8


def test_phrases_of_self_verification_are_counted_and_neighbours_too():
    found = count_terms(
        "Let me check let me check. Let's verify, double-check and recheck. Verification: let me checkmate"
    )
    assert found.verification == {
        "let me check": 2, "let's verify": 1, "double-check": 1, "recheck": 1, "verification": 1,
    }  # fmt: skip
    assert found.reflective == {"check": 3, "verify": 1}


def test_means_are_per_response_and_shares_of_responses():
    terms = [count_terms("wait wait but let me check"), count_terms("one two three four")]
    out = term_metrics(terms)
    assert out["emergence/reflective_words"] == 2.0  # wait 2, but 1, check 1, over two responses
    assert out["emergence/reflective_share"] == 0.5
    assert out["emergence/reflective_per_1000_words"] == pytest.approx(1000 * 4 / 10)
    assert out["emergence/words/wait"] == 1.0
    assert (out["emergence/verification"], out["emergence/verification_share"]) == (0.5, 0.5)
    assert length_metrics([1, 2, 3, 4])["emergence/length_p50"] == 2.5


def test_a_moment_is_correct_by_what_accuracy_says_under_any_name(tmp_path: Path):
    right, form = RewardPart(1.0, Verdict.CORRECT), RewardPart(0.0, Verdict.WRONG)
    group = scored("wait")
    group.parts_G[0].clear()
    group.parts_G[0].update({"format": form, "maths": right})
    Emergence(tmp_path, 0, no_mixing, ["maths"]).step(0, [group])
    (tmp_path / "first").mkdir()
    Emergence(tmp_path / "first", 0, no_mixing, []).step(0, [group])
    assert moments(tmp_path) == [("wait", 0, True)]
    assert moments(tmp_path / "first") == [("wait", 0, False)]


def test_the_first_occurrence_and_the_first_in_a_correct_response_are_kept_once(tmp_path: Path):
    emergence = Emergence(tmp_path, 0, no_mixing)
    emergence.step(0, [scored("nothing", "here")])
    emergence.step(1, [scored("wait a moment", "wait again")])
    emergence.step(2, [scored("x", "so wait", right=(1,))])
    emergence.step(3, [scored("wait", "wait", right=(0,))])
    emergence.step(4, [scored("but", right=(0,))])
    emergence.step(5, [scored("but")])  # seen before, and in a correct response
    assert moments(tmp_path) == [("wait", 1, False), ("wait", 2, True), ("but", 4, True)]
    kept = json.loads((tmp_path / "aha_moments.jsonl").read_text().splitlines()[1])
    assert (kept["completion"], kept["prompt"], kept["prompt_id"], kept["sample"]) == ("so wait", "1 + 1?", 3, 1)


def test_a_resumed_run_has_the_moments_of_one_that_nobody_stopped(tmp_path: Path):
    texts = ["but why", "however", "wait", "let me check"]
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    alone = Emergence(tmp_path / "alone", 0, no_mixing)
    for step, text in enumerate(texts):
        alone.step(step, [scored(text, right=(0,))])
    first = Emergence(tmp_path / "killed", 0, no_mixing)
    for step, text in enumerate(texts[:3]):
        first.step(step, [scored(text, right=(0,))])
    with (tmp_path / "killed" / "aha_moments.jsonl").open("a") as file:
        file.write('{"term": "let me check", "step": 3, "corr')
    again = Emergence(tmp_path / "killed", 1, no_mixing)
    assert moments(tmp_path / "killed") == [("but", 0, True)]
    for step, text in enumerate(texts[1:], 1):
        again.step(step, [scored(text, right=(0,))])
    assert moments(tmp_path / "killed") == moments(tmp_path / "alone")


def test_language_mixing_is_what_is_not_in_the_questions_language(tmp_path: Path):
    asked = []

    def share(completion: str, prompt: str, row: object) -> float:
        asked.append((completion, prompt))
        return 0.75

    group = scored("a" * 10_000 + "</think>" + "b" * 100)
    assert Emergence(tmp_path, 0, share).step(0, [group])["emergence/language_mixing"] == 0.25
    assert asked == [("a" * 750 + "\n" + "a" * 750, "1 + 1?")]
    assert ends_of("abc</think>d", LANGUAGE_CHARACTERS) == "abc"
    group.parts_G[0]["language_consistency"] = RewardPart(0.9, Verdict.WRONG)
    assert Emergence(tmp_path, 0, share).step(0, [group])["emergence/language_mixing"] == pytest.approx(0.1)


def test_more_text_than_there_is_time_for_is_sampled_in_whole_responses(tmp_path: Path):
    import random

    samples = [Sample(scored("x" * 100), 0) for _ in range(50)]
    drawn = draw(samples, 1000, random.Random(0))
    assert len(drawn) == 10
    assert draw(samples, 10, random.Random(0))
    assert draw(samples, 10_000, random.Random(0)) == samples


@pytest.mark.parametrize("comma", [",", "，", "—"])
def test_a_step_of_512_long_responses_takes_a_fraction_of_a_second(tmp_path: Path, comma: str):
    text = f"we add the parts and then{comma} wait{comma} let me check the sum of all that is left over here. "
    text = (text * 100)[:8000]
    groups = [scored(*[text] * 16, id=i) for i in range(32)]
    emergence = Emergence(tmp_path, 0, no_mixing)
    begin = time.process_time()
    out = emergence.step(0, groups)
    assert time.process_time() - begin < 0.6  # 0.18 s where nothing else runs
    assert out["emergence/measured_share"] > 0.9
    assert out["emergence/words/wait"] == pytest.approx(94, abs=1)


def test_the_figure_is_drawn_from_the_records(tmp_path: Path):
    assert draw_emergence(tmp_path, title="x") is None
    emergence, records = Emergence(tmp_path, 0, no_mixing), MetricsFile(tmp_path / "metrics.jsonl")
    for step, text in enumerate(["so", "but", "wait, let me check"]):
        records.append("grpo", step, emergence.step(step, [scored(text)]))
    path = draw_emergence(tmp_path, title="a run")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert first_occurrences(tmp_path) == {"but": 1, "wait": 2, "check": 2, "let me check": 2}
