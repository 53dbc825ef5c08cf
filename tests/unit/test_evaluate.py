"""An evaluation's numbers from graded samples: by hand, with a tokenizer built here and no model."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from launch.evaluation_tables import selection_table
from rl.config import DataConfig, EvalConfig, GRPOConfig, RewardConfig, RunConfig
from rl.evaluation.consensus import consensus, voted
from rl.evaluation.evaluate import evaluate
from rl.evaluation.result import Choosing, EvalResult, measured_names, scores_of, summarise
from rl.evaluation.same_answer import Comparer, plainly_same
from rl.evaluation.style import LANGUAGE_SAMPLES, Style, measure_style, share_in_language
from rl.scoring.scorer import Scorer
from rl.types import AhaError, GradedGroup, Prompt, Queue, RewardPart, RewardReport, Rollout, RolloutGroup, Verdict

THOUGHT = "<think>hm</think>"


def rollout(text: str, tokens: int = 3, cut: bool = False) -> Rollout:
    ids = np.arange(tokens, dtype=np.int32)
    return Rollout(ids, np.zeros(tokens, np.float32), text, "length" if cut else "stop", 1.0, 0, 0)


def group(*answers: str, prompt: str = "1 + 1? Assistant:", reference: str = "2", id: int = 0) -> RolloutGroup:
    """A group whose samples think and then give these answers; "" gives none."""
    texts = [f"{THOUGHT} \\boxed{{{a}}}" if a else THOUGHT for a in answers]
    return RolloutGroup(Prompt(id, id, [1], prompt, reference, {}), [rollout(t) for t in texts])


def graded(*answers: str, silent: tuple[int, ...] = (), id: int = 0, reference: str = "2") -> GradedGroup:
    """The group graded by the real accuracy reward; samples in silent have timed out."""
    scorer = Scorer((RewardConfig("accuracy"),), GRPOConfig())
    found = scorer.grade(group(*answers, id=id, reference=reference))
    for i in silent:
        found.parts_G[i]["accuracy"] = RewardPart(math.nan, Verdict.TIMED_OUT, "10 s")
    return found


PLAIN = Style(
    thought_mean=5.0, answer_mean=2.0, format=1.0, language=None, thought_P=[4.0, 6.0], format_P=[], language_P=[]
)


def summary(*graded_P: GradedGroup, ks: tuple[int, ...] = (1, 2)) -> EvalResult:
    return summarise(graded_P, ["accuracy"] * len(graded_P), ks, greedy=None, style=PLAIN, without_verdict=0)


# ------------------------------------------------------------------------------------------------ votes


def test_plain_numbers_and_texts_need_no_process():
    assert plainly_same("0.5", "1/2")
    assert plainly_same("x+1", " $x+1$. ")
    assert plainly_same("3", "4") is False
    assert plainly_same("\\sqrt{8}", "2\\sqrt{2}") is None


def test_answers_are_compared_as_mathematics_and_a_comparison_that_hangs_is_ended():
    with Comparer(pair_limit_s=60) as comparer:
        assert comparer.same("\\sqrt{8}", "2\\sqrt{2}")
        assert not comparer.same("\\sqrt{8}", "2\\sqrt{3}")
        assert not comparer.same("!!", "??")
        assert comparer.undecided == 0
        first = comparer._child.pid
        comparer._pair_limit_s = 0.0
        assert not comparer.same("\\sqrt{2}+\\sqrt{3}", "\\sqrt{3}+\\sqrt{2}")
        assert comparer.undecided == 1
        comparer._pair_limit_s = 60
        assert comparer.same("x+1", "1+x")
        assert comparer._child.pid != first
        comparer._left_s = 0.0
        assert not comparer.same("x+2", "2+x")
        assert comparer.undecided == 2
        child = comparer._child
    assert not child.is_alive()


def test_a_completion_votes_with_its_final_answer_and_two_that_differ_are_none():
    same = plainly_same
    assert voted(f"{THOUGHT}<answer> 7. </answer>", False, same) == "7"
    assert voted("<think>\\boxed{3}", False, same) is None
    assert voted("x</think> \\boxed{3}", True, same) == "3"
    assert voted(f"{THOUGHT} \\boxed{{1/2}} or \\boxed{{0.5}}", False, same) == "1/2"
    assert voted(f"{THOUGHT} \\boxed{{1}} or \\boxed{{2}}", False, same) is None


def test_equivalent_answers_vote_together():
    # Three samples say a half in three ways, two say 3: by text 3 would win.
    half = group("1/2", "3", "0.5", "3", "\\frac{1}{2}", reference="0.5")
    assert consensus([half], [[1, 0, 1, 0, 1]], [True]) == [1.0]
    # The same with the verdicts turned: it is the votes that decide, not the verdicts.
    assert consensus([half], [[0, 1, 0, 1, 0]], [False]) == [0.0]


def test_correct_samples_vote_together_only_where_correct_means_equal_to_the_reference():
    solutions = group("first", "second", "7", "7", reference="24")
    correct = [[1.0, 1.0, 0.0, 0.0]]
    assert consensus([solutions], correct, [True]) == [0.5]
    assert consensus([solutions], correct, [False]) == [0.0]


def test_greetings_have_no_vote_but_a_problem_that_nobody_answers_has_a_wrong_one():
    greeting = RolloutGroup(Prompt(0, 0, [1], "Q", "hello", {}), [rollout("hello"), rollout("hi")])
    assert consensus([greeting], [[1, 0]], [False]) == []
    assert consensus([greeting], [[0, 0]], [True]) == [0.0]


def test_whose_verdict_counts_decides_whether_correct_samples_are_one_answer():
    verdicts = [Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]
    one = group("first", "second", "7", "7")
    for reward, score in (("accuracy", 0.5), ("countdown", 0.0)):
        graded = GradedGroup(one, [0.0] * 4, [{reward: RewardPart(1.0, v)} for v in verdicts], [True] * 4)
        found = summarise([graded], [reward], (1,), greedy=None, style=PLAIN, without_verdict=0)
        assert (found.pass_at_1, found.cons) == (0.5, score)


# ------------------------------------------------------------------------------------------------ the whole


def test_pass_at_1_pass_at_k_and_the_vote_of_two_problems_by_hand():
    result = summary(graded("2", "2", "2", "5"), graded("2", "5", "5", "", id=1), ks=(1, 2, 4))
    assert result.correct_P == [0.75, 0.25]
    # Deviations of .25: s^2 = 2 x .0625 / 1 = .125; / 2 -> sqrt(.0625) = .25
    assert (result.pass_at_1, result.stderr) == pytest.approx((0.5, 0.25))
    # pass@2: the first 1 - C(1,2)/C(4,2) = 1; the second 1 - 3/6 = .5
    assert result.pass_at["2"] == pytest.approx((0.75, 0.25))
    assert result.pass_at["4"] == pytest.approx((1.0, 0.0))
    assert (result.cons, result.cons_stderr) == pytest.approx((0.5, 0.5))
    metrics = result.metrics()
    assert metrics["pass@1"] == 0.5
    assert metrics["cons@4"] == 0.5
    assert "greedy" not in metrics
    assert "language" not in metrics


def test_the_answers_that_are_chosen_by_score_by_vote_and_by_length_are_those_of_the_samples():
    """Three samples 2 (right), 5, 5; a reward model that prefers the right one; the right one is the longest."""
    one = graded("2", "5", "5")
    for parts, logit in zip(one.parts_G, (1.0, -0.5, -0.5), strict=True):
        parts["prm"] = RewardPart(logit, Verdict.CORRECT if logit > 0 else Verdict.WRONG)
    lengths = (9, 3, 4)
    rollouts = [rollout(r.text, tokens=n) for r, n in zip(one.group.rollouts_G, lengths, strict=True)]
    one = replace(one, group=replace(one.group, rollouts_G=rollouts))
    choosing = Choosing(("majority", "prm", "shortest"), frozenset({"prm"}), {"prm": 2.0})
    result = summarise([one], ["accuracy"], (1, 3), greedy=None, style=PLAIN, without_verdict=0, choosing=choosing)
    chosen = {name: values[0] for name, values in result.selected.items() if "@3" in name}
    # Votes: sigmoid(1) = .731 for the right answer, 2 x sigmoid(-.5) = .755 for the wrong one. As they stand: 1 and -1.
    assert chosen == {"cons@3": 0.0, "best@3:prm": 1.0, "weighted@3:prm": 0.0, "best@3:shortest": 0.0}
    assert [result.selected[name][0] for name in ("best@1:prm", "best@1:shortest")] == [pytest.approx(1 / 3)] * 2
    # 1 + 3 x 16 / 3 tokens to sample, and the scorer's; the majority has its votes of 1 and of 3 samples only.
    assert result.tokens_of("best:prm", 3) == pytest.approx(17 + 6 * (1 + 16 / 3))
    assert result.majority_at("best@3:prm") == [0.0]
    assert result.majority_at("best@1:prm") == [pytest.approx(0.0)]
    assert result.majority_at("best@1:shortest") == [pytest.approx(1 / 3)]
    # A prompt of one token and samples of 16 / 3, read by a model of twice the size.
    assert result.scorer_cost == {"prm": pytest.approx(2 * (1 + 16 / 3))}
    metrics = result.metrics()
    assert (metrics["best@3:prm"], metrics["weighted@3:prm"]) == (1.0, 0.0)
    assert "best@1:prm" not in metrics
    assert selection_table(result).row_count == 4
    asked = EvalConfig(data=DataConfig("x"), samples=3, pass_at=(1, 3), select=("majority", "prm", "shortest"))
    assert {*result.selected, "cons@tokens:best@3:prm"} <= measured_names(asked)
    plain = summarise([one], ["accuracy"], (1, 3), greedy=None, style=PLAIN, without_verdict=0)
    assert (list(plain.selected), plain.scorer_cost, selection_table(plain)) == (["cons@1", "cons@3"], {}, None)


def test_what_has_no_answer_to_vote_for_is_still_chosen_by_score():
    greeting = RolloutGroup(Prompt(0, 0, [1], "Q", "hello", {}), [rollout("hello"), rollout("hi", tokens=2)])
    parts = [{"kind": RewardPart(1.0, Verdict.CORRECT)}, {"kind": RewardPart(0.0, Verdict.WRONG)}]
    graded = GradedGroup(greeting, [1.0, 0.0], parts, [True, True])
    choosing = Choosing(("majority", "kind", "shortest"))
    found = summarise([graded], ["kind"], (2,), greedy=None, style=PLAIN, without_verdict=0, choosing=choosing)
    assert found.selected == {"best@2:kind": [1.0], "best@2:shortest": [0.0]}
    assert found.cons is None


def test_the_score_of_a_sample_is_its_rewards_its_likelihood_or_minus_its_length():
    one = graded("2", "5", silent=(1,))
    rollouts = [
        replace(r, logprobs_T=np.array(p, np.float32))
        for r, p in zip(one.group.rollouts_G, ([-1, -3, -2], [0, 0, -3]), strict=True)
    ]
    one = replace(one, group=replace(one.group, rollouts_G=rollouts))
    assert scores_of(one, "logprob") == [-2.0, -1.0]
    assert scores_of(one, "shortest") == [-3.0, -3.0]
    assert scores_of(one, "accuracy") == [1.0, pytest.approx(math.nan, nan_ok=True)]
    assert all(math.isnan(score) for score in scores_of(one, "not asked of this row"))


def test_a_sample_without_a_verdict_is_left_out_and_not_counted_wrong():
    result = summary(graded("2", "2", "5", silent=(2,)), graded("2", "5", id=1), ks=(1, 2, 3))
    assert result.correct_P == [1.0, 0.5]
    assert result.pass_at["2"][0] == 1.0
    assert math.isnan(result.pass_at["3"][0])  # no problem has three samples with a verdict
    unmeasured = summary(graded("2", "5", silent=(0, 1)), graded("2", "5", id=1))
    assert math.isnan(unmeasured.correct_P[0])
    assert unmeasured.pass_at_1 == 0.5


def test_a_result_is_read_back_as_it_was_written_and_older_ones_too(tmp_path: Path):
    result = summary(graded("2", "5"), graded("2", "2", id=1))
    result.write(tmp_path / "evals" / "a.json")
    again = EvalResult.read(tmp_path / "evals" / "a.json")
    assert again.metrics() == result.metrics()
    old = {"pass_at_1": 0.5, "stderr": 0.1, "greedy": 0.4, "truncated": 0.0, "length_mean": 3.0, "correct_P": [0.5]}
    assert (again.thought_P, again.length_P) == ([4, 6], [3, 3])
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert EvalResult.read(tmp_path / "old.json").metrics()["greedy"] == 0.4


# ------------------------------------------------------------------------------------------------ style


def test_tokens_of_thought_and_of_answer_add_up(tokenizer):
    texts = ["<think>abc</think> 42", "no thinking", "<think>never ends"]
    rollouts = [rollout(t, tokens=len(t) + 1) for t in texts]  # a token a byte, and the end token
    groups = [RolloutGroup(Prompt(0, 0, [1], "Q", "1", {}), [r]) for r in rollouts]
    found = [measure_style([g], [[{}]], tokenizer) for g in groups]
    assert [(s.thought_mean, s.answer_mean) for s in found] == [(18, 4), (0, 12), (18, 0)]
    assert measure_style(groups, [[{}]] * 3, tokenizer).thought_P == [18, 0, 18]
    together = RolloutGroup(groups[0].prompt, rollouts)
    assert measure_style([together], [[{}] * 3], tokenizer).thought_P == [12]
    opened = RolloutGroup(Prompt(0, 0, [1], "Q<think>", "1", {}), [rollout("abc</think> 42", tokens=14, cut=True)])
    assert measure_style([opened], [[{}]], tokenizer).answer_mean == 3


def test_the_format_rate_is_that_of_the_runs_own_reward_or_of_r1s_forms(tokenizer):
    texts = [f"{THOUGHT}<answer>1</answer>", f"{THOUGHT}\\boxed{{1}}", "1"]
    one = RolloutGroup(Prompt(0, 0, [1], "Q", "1", {}), [rollout(t) for t in texts])
    assert measure_style([one], [[{}] * 3], tokenizer).format == pytest.approx(2 / 3)
    own = [{"format": RewardPart(1.0, v)} for v in (Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG)]
    assert measure_style([one], [own], tokenizer).format == pytest.approx(1 / 3)
    both_P = measure_style([one, one], [own, [{}] * 3], tokenizer).format_P
    assert both_P == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


def test_the_language_rate_is_of_words_in_the_questions_language(tokenizer):
    english = "<think>We add the two numbers and then we look at what is left over.</think> 4"
    german = "<think>Wir addieren die beiden Zahlen und sehen dann, was noch übrig bleibt.</think> 4"
    row = {"question": "How many apples are left over when two of them are eaten by the boy?"}
    assert share_in_language(english, "Q", row) > 0.9
    assert share_in_language(german, "Q", row) < 0.1
    assert share_in_language(german, "Q", {**row, "language": "de"}) > 0.9
    both = RolloutGroup(Prompt(0, 0, [1], "Q", "4", row), [rollout(english), rollout(german)] * LANGUAGE_SAMPLES)
    assert measure_style([both], [[{}] * len(both.rollouts_G)], tokenizer).language == pytest.approx(0.5, abs=0.1)
    rewarded = [{"language_consistency": RewardPart(0.25, Verdict.WRONG)}] * len(both.rollouts_G)
    assert measure_style([both], [rewarded], tokenizer).language == 0.25
    _, empty = (found := measure_style([both, both], [rewarded, [{}] * len(both.rollouts_G)], tokenizer)).language_P
    assert (found.language_P[0], math.isnan(empty)) == (0.25, True)


# ------------------------------------------------------------------------------------------------ the stage


@dataclass
class FakeBackend:
    """Every sample of a problem has its text; verdicts are the real rewards', but for `silent` problems."""

    scorer: Scorer
    texts: dict[int, str]
    prompts: list[Prompt]
    silent: tuple[int, ...] = ()

    def rollouts(self, requests, params):
        self.params = [*getattr(self, "params", []), params]
        for r in requests:
            yield r.group, [rollout(self.texts[r.group]) for _ in r.seeds_G]

    def queue(self):
        return Queue()

    def ask_rewards(self, group, *_):
        parts_G = self.scorer.grade(group).parts_G
        if group.prompt.id in self.silent:
            parts_G = [{"accuracy": RewardPart(math.nan, Verdict.FAILED, "it broke")} for _ in parts_G]
        return lambda: RewardReport(parts_G)


@dataclass
class FakeContext:
    cfg: object
    backend: FakeBackend
    tokenizer: object

    def sample_params(self, *, temperature, top_p, max_new_tokens):
        from rl.backend import SampleParams

        return SampleParams(temperature, top_p, max_new_tokens, ("run's stop",), (2,))


def run_evaluation(tokenizer, *, silent: tuple[int, ...] = (), ending: str = "", bare: bool = False, **settings):
    scorer = Scorer((RewardConfig("accuracy"),), GRPOConfig())
    prompts = [Prompt(i, i, [1], "1 + 1? Assistant:", "2", {}) for i in range(2)]
    texts = {i: f"It is {i + 2}." if bare else f"{THOUGHT}<answer>{i + 2}</answer>{ending}" for i in range(2)}
    cfg = RunConfig(evaluation=EvalConfig(samples=2, **settings))
    backend = FakeBackend(scorer, texts, prompts, silent)
    result, _ = evaluate(FakeContext(cfg, backend, tokenizer), prompts, scorer)
    return result, backend


def test_an_evaluation_samples_with_its_own_settings_and_greedily(tokenizer):
    result, backend = run_evaluation(
        tokenizer, temperature=0.6, top_p=0.95, max_new_tokens=99, stop=("more",), shots=1, shots_data=DataConfig("x")
    )
    sampled, greedy = backend.params
    assert (sampled.temperature, sampled.top_p, sampled.max_new_tokens) == (0.6, 0.95, 99)
    assert (greedy.temperature, greedy.top_p) == (0.0, 1.0)
    assert sampled.stop == greedy.stop == ("run's stop", "more", "\n\nQuestion:")
    assert (result.pass_at_1, result.greedy, result.without_verdict) == (0.5, 0.5, 0)


def test_accuracy_under_another_name_votes_with_its_correct_samples_as_one(tokenizer):
    """Each sample is "correct" with an answer of its own: together they win only where correct means equal."""
    found = []
    for reward in (RewardConfig("accuracy", name="maths"), RewardConfig("countdown", name="accuracy")):
        scorer = Scorer((reward,), GRPOConfig())
        prompts = [Prompt(i, i, [1], "1 + 1? Assistant:", "2", {}) for i in range(2)]
        parts = {scorer.names[0]: RewardPart(1.0, Verdict.CORRECT)}, {scorer.names[0]: RewardPart(0.0, Verdict.WRONG)}
        scorer.grade = lambda group, parts_G=None, parts=parts: GradedGroup(  # type: ignore[method-assign]
            group, [0.0] * 4, [parts[0], parts[0], parts[1], parts[1]][: len(group.rollouts_G)],
            [True] * len(group.rollouts_G),
        )  # fmt: skip
        backend = FakeBackend(scorer, {0: "", 1: ""}, prompts)
        backend.rollouts = (
            lambda requests, params: (  # type: ignore[method-assign]
                (r.group, group("first", "second", "7", "7").rollouts_G[: len(r.seeds_G)]) for r in requests
            )
        )
        cfg = RunConfig(rewards=(reward,), evaluation=EvalConfig(samples=4, greedy=False))
        found.append(evaluate(FakeContext(cfg, backend, tokenizer), prompts, scorer)[0].cons)
    assert found == [0.5, 0.0]


def test_the_next_question_of_few_shot_prompting_is_not_rewarded(tokenizer):
    result, _ = run_evaluation(tokenizer, ending="\n\nQuestion:", shots=1, shots_data=DataConfig("x"))
    assert result.format == 1.0
    zero_shot, _ = run_evaluation(tokenizer, ending="\n\nQuestion:")
    assert zero_shot.format == 0.0


def test_answers_that_nobody_can_read_are_warned_of(tokenizer, caplog):
    run_evaluation(tokenizer)
    assert "no readable answer" not in caplog.text
    run_evaluation(tokenizer, bare=True)
    assert "4 of 4 samples have no readable answer and count as wrong, 0 of them cut at the limit" in caplog.text
    assert "no complete <answer>" in caplog.text


def test_samples_without_a_verdict_are_warned_of_and_counted(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        result, _ = run_evaluation(tokenizer, silent=(1,))
    assert result.pass_at_1 == 1.0
    assert result.greedy == 1.0
    assert result.metrics()["without_verdict"] == 3  # two samples and the greedy one
    assert "no verdict on 3 of 6 samples: problem 1: accuracy: failed, it broke" in caplog.text


def test_an_evaluation_without_any_verdict_stops_and_says_why(tokenizer):
    with pytest.raises(AhaError, match=r"no verdict on 6 of 6 samples.*it broke"):
        run_evaluation(tokenizer, silent=(0, 1))
