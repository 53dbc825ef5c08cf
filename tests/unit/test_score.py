"""Rewards as a run uses them: resolved by name, weighted, called, and never the end of a run."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import types

import numpy as np
import pytest

from rewards.types import Score
from rl.config import GRPOConfig, RewardConfig
from rl.scoring.reward_functions import RewardFunctions, resolve, unrewardable_rows, watch
from rl.scoring.scorer import Scorer
from rl.types import AhaError, BadInput, Prompt, Rollout, RolloutGroup, Row, Verdict

RIGHT, WRONG, NONSENSE = "<think>a</think><answer>4</answer>", "<think>a</think><answer>5</answer>", "<think>"


def group(*texts: str, id: int = 7, row: dict | None = None, lengths: tuple[int, ...] = (), cut: tuple[int, ...] = ()):
    """A group with one token a sample unless lengths says otherwise; samples whose number is in cut are truncated."""
    rollouts_G = []
    for i, text in enumerate(texts):
        count = lengths[i] if lengths else 1
        rollouts_G.append(
            Rollout(
                token_ids_T=np.full(count, i, np.int32),
                logprobs_T=np.full(count, -0.5, np.float32),
                text=text,
                finish_reason="length" if i in cut else "stop",
                temperature=1.0,
                policy_version=0,
                seed=i,
            )
        )
    prompt = Prompt(
        id=id, draw=id, token_ids=[1], text="2 + 2? Assistant:", reference="4", row=row or {}, question="2 + 2?"
    )
    return RolloutGroup(prompt, rollouts_G)


@pytest.fixture
def user_module(monkeypatch):
    """A module of the user's, with the given functions in it; returns what puts one there and names it."""
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)

    def add(function, name: str = "") -> RewardConfig:
        setattr(module, name or function.__name__, function)
        return RewardConfig(f"my_rewards:{name or function.__name__}")

    return add


def scorer(*rewards: RewardConfig | str, **cfg) -> Scorer:
    return Scorer(tuple(RewardConfig(r) if isinstance(r, str) else r for r in rewards), GRPOConfig(**cfg))


# ------------------------------------------------------------------------------------------------ names


def test_an_unknown_reward_is_named_with_its_nearest_before_anything_starts():
    with pytest.raises(BadInput, match=r"'acuracy'; did you mean 'accuracy'"):
        scorer("acuracy")
    with pytest.raises(BadInput, match=r"there are accuracy, code_accuracy, .*format"):
        scorer("zzz")


def test_an_unknown_function_or_module_is_named(user_module):
    def brevity(completion):
        return 1.0

    user_module(brevity)
    with pytest.raises(BadInput, match=r"my_rewards has no function 'brevty'; did you mean 'brevity'"):
        scorer("my_rewards:brevty")
    with pytest.raises(BadInput, match="cannot import no_such_module"):
        scorer("no_such_module:f")


def test_a_recipe_without_rewards_and_a_reward_listed_twice_are_refused():
    with pytest.raises(BadInput, match="there are none"):
        scorer()
    with pytest.raises(BadInput, match="'accuracy' is listed twice"):
        scorer("accuracy", "accuracy")


def test_an_async_reward_is_refused(user_module):
    async def slow(completion):
        return 1.0

    with pytest.raises(BadInput, match="async"):
        scorer(user_module(slow))


def test_two_functions_of_one_name_stay_apart(user_module):
    def accuracy(completion):
        return 1.0

    def mean(completion):
        return 0.5

    found = scorer("accuracy", user_module(accuracy), user_module(mean))
    assert found.names == ["accuracy", "my_rewards.accuracy", "my_rewards.mean"]
    assert resolve("accuracy").__module__ == "rewards.accuracy"


# ------------------------------------------------------------------------------------------------ grading


def test_parts_are_weighted_added_and_kept_apart():
    s = scorer(RewardConfig("accuracy", weight=2.0), RewardConfig("format", weight=0.5))
    graded = s.grade(group(RIGHT, WRONG, "<answer>4</answer>"))
    assert graded.rewards_G == [2.5, 0.5, 2.0]
    assert [p["accuracy"].score for p in graded.parts_G] == [1, 0, 1]
    assert [p["format"].verdict for p in graded.parts_G] == [Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG]
    assert graded.valid_G == [True, True, True]


def test_a_reward_gets_the_prompt_the_reference_and_the_rows_columns(user_module):
    seen = {}

    def look(completion, *, prompt, answer, **columns):
        seen.update(columns, completion=completion, prompt=prompt, answer=answer)
        return 1.0

    row = {"prompt": "raw", "answer": "the chain #### 4", "level": 3}
    scorer(user_module(look)).grade(group("x", row=row))
    mine = {"completion": "x", "completion_tokens": 1, "question": "2 + 2?"}
    assert seen == mine | {"prompt": "2 + 2? Assistant:", "answer": "4", "level": 3}


def test_a_reward_need_not_take_what_it_does_not_use(user_module):
    def short(text):
        return float(len(text) < 5)

    def level(completion, level):
        return level

    graded = scorer(user_module(short), user_module(level)).grade(group("abc", "abcdef", row={"level": 3, "other": 1}))
    assert graded.rewards_G == [4.0, 3.0]


@pytest.mark.parametrize("column", ["text", "self", "args", "name"])
def test_a_column_named_like_a_parameter_does_no_harm(user_module, column):
    def short(text, **columns):
        return 1.0

    assert scorer(user_module(short)).grade(group("abc", row={column: "hostile"})).rewards_G == [1.0]


def test_a_reward_that_raises_costs_its_sample_and_nothing_else(user_module, caplog):
    def fragile(completion):
        if completion == WRONG:
            raise ZeroDivisionError("all\nwrong")
        return 1.0

    s = scorer("accuracy", user_module(fragile))
    with caplog.at_level(logging.WARNING):
        graded = s.grade(group(RIGHT, WRONG, RIGHT, WRONG))
    assert graded.valid_G == [True, False, True, False]
    assert graded.rewards_G[0] == 2.0
    assert math.isnan(graded.rewards_G[1])
    part = graded.parts_G[1]["fragile"]
    assert (part.verdict, part.reason) == (Verdict.FAILED, "ZeroDivisionError: all wrong")
    assert math.isnan(part.score)
    assert graded.parts_G[1]["accuracy"].verdict == Verdict.WRONG  # the other part is kept
    assert len(caplog.records) == 1  # one traceback, not one a sample
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "returned nan"),
        (float("inf"), "returned inf"),
        ("1", "returned str, not a number"),
        ([1.0], "returned list, not a number"),
        (Score(1.0, "korrect"), "returned the verdict 'korrect'"),
        (Score("1", "correct"), "returned str, not a number"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_score_is_a_failure_and_says_so(user_module, value, reason):
    def odd(completion):
        return value

    part = scorer(user_module(odd)).grade(group("x")).parts_G[0]["odd"]
    assert part.verdict == Verdict.FAILED
    assert part.reason.startswith(reason)


def test_numbers_and_scores_become_verdicts(user_module):
    values = {"a": True, "b": np.float32(0.5), "c": 0, "d": -1.0, "e": Score(0.0, "unparseable", "why")}

    def graded(completion):
        return values[completion]

    parts = [p["graded"] for p in scorer(user_module(graded)).grade(group(*values)).parts_G]
    assert [p.score for p in parts] == [1.0, 0.5, 0.0, -1.0, 0.0]
    assert [p.verdict for p in parts] == ["correct", "correct", "wrong", "wrong", "unparseable"]
    assert parts[-1].reason == "why"


def test_a_reward_may_say_itself_that_it_timed_out(user_module):
    def strict(completion):
        return Score(0.0, "timed_out", "10 s")

    graded = scorer(user_module(strict)).grade(group("x"))
    assert graded.valid_G == [False]
    part = graded.parts_G[0]["strict"]
    assert (part.verdict, part.reason) == (Verdict.TIMED_OUT, "10 s")
    assert math.isnan(part.score)


# ------------------------------------------------------------------------------------------------ TRL's shape


def test_a_function_in_trls_shape_works_unchanged(user_module):
    seen = {}

    def reward_len(prompts, completions, level, **kwargs):
        seen.update(kwargs, prompts=prompts, completions=completions, level=level)
        return [float(len(c)) for c in completions]

    row = {"prompt": "raw", "level": 3, "answer": "chain #### 4"}
    assert scorer(user_module(reward_len)).grade(group("a", "bb", row=row)).rewards_G == [1.0, 2.0]
    assert seen == {
        "prompts": ["2 + 2? Assistant:"] * 2,
        "completions": ["a", "bb"],
        "level": [3, 3],
        "answer": ["chain #### 4"] * 2,
        "question": ["2 + 2?"] * 2,
        "completion_ids": [[0], [1]],
    }


def test_a_function_in_open_r1s_shape_works_unchanged(user_module):
    def accuracy_reward(completions, solution, **kwargs):
        contents = [completion[0]["content"] for completion in completions]
        return [float(c == s) for c, s in zip(contents, solution, strict=True)]

    user_module(accuracy_reward)
    for texts in (("", "x"), ("x", "")):  # on text an empty one raises IndexError there, another TypeError
        s = scorer("my_rewards:accuracy_reward")
        for _ in range(2):
            graded = s.grade(group(*texts, row={"solution": "x"}))
            assert graded.rewards_G == [float(t == "x") for t in texts]


def test_a_conversational_row_gives_a_trl_function_messages_as_trl_does(user_module):
    seen = []

    def look(prompts, completions, **kwargs):
        seen.extend([*prompts, *completions])
        return [1.0 for _ in completions]

    messages = [{"role": "user", "content": "hi"}]
    scorer(user_module(look)).grade(group("x", row={"prompt": messages}))
    assert seen == [messages, [{"role": "assistant", "content": "x"}]]


def test_none_means_that_a_reward_does_not_apply(user_module):
    def only_math(prompts, completions, **kwargs):
        return [None if c == "poem" else 1.0 for c in completions]

    graded = scorer(user_module(only_math), RewardConfig("format", weight=3.0)).grade(group("poem", RIGHT))
    assert graded.rewards_G == [0.0, 4.0]
    assert list(graded.parts_G[0]) == ["format"]
    assert graded.valid_G == [True, True]
    alone = scorer(user_module(only_math)).grade(group("poem", RIGHT))
    assert alone.valid_G == [False, True]
    assert math.isnan(alone.rewards_G[0])


@pytest.mark.parametrize(
    ("result", "reason"),
    [([1.0], "returned 1 scores, not a list of 2 scores"), (1.0, "returned float"), (None, "returned NoneType")],
)
def test_a_list_of_the_wrong_length_fails_the_group(user_module, result, reason):
    def broken(prompts, completions, **kwargs):
        return result

    graded = scorer(user_module(broken)).grade(group("a", "b"))
    assert graded.valid_G == [False, False]
    assert graded.parts_G[0]["broken"].reason.startswith(reason)


def test_a_batched_reward_that_raises_fails_its_group_with_the_first_error(user_module):
    def broken(prompts, completions, **kwargs):
        raise TypeError(f"no {type(completions[0]).__name__}")

    graded = scorer(user_module(broken)).grade(group("a"))
    assert graded.parts_G[0]["broken"].reason == "TypeError: no str"


# ------------------------------------------------------------------------------------------------ the whole batch


def test_advantages_come_from_the_configured_kind():
    texts = (RIGHT, WRONG, RIGHT, WRONG)
    s = scorer("accuracy", advantage="group_mean")
    (scored,) = s.finish([s.grade(group(*texts))])
    assert scored.advantages_G == [0.5, -0.5, 0.5, -0.5]
    assert not scored.uniform
    s = scorer("accuracy", std_eps=0.0)  # group_std: .5 / .57735
    (scored,) = s.finish([s.grade(group(*texts))])
    assert scored.advantages_G == pytest.approx([0.8660254, -0.8660254] * 2)


def test_a_sample_without_a_verdict_is_in_no_mean_and_gets_no_advantage(user_module):
    def fragile(completion):
        return {RIGHT: 1.0, WRONG: 0.0}[completion]

    s = scorer(user_module(fragile), advantage="group_mean")
    (scored,) = s.finish([s.grade(group(RIGHT, WRONG, NONSENSE))])
    assert scored.advantages_G == [0.5, -0.5, 0.0]
    assert scored.valid_G == [True, True, False]


def test_per_reward_normalises_each_part_before_adding(user_module):
    table = {"a": (0, 0), "b": (0, 1), "c": (1, 0), "d": (1, 1)}

    def first(completion):
        return table[completion][0]

    def second(completion):
        return table[completion][1]

    s = scorer(user_module(first), user_module(second), advantage="per_reward", std_eps=0.0)
    (scored,) = s.finish([s.grade(group(*table))])
    assert scored.advantages_G == pytest.approx([-1.2247449, 0.0, 0.0, 1.2247449])
    (scored,) = s.finish([s.grade(group("b", "c"))])  # equal sums of unequal parts
    assert not scored.uniform
    weighted = scorer(
        user_module(first), RewardConfig("my_rewards:second", weight=0.0), advantage="per_reward", std_eps=0
    )
    (scored,) = weighted.finish([weighted.grade(group(*table))])  # +-.86603 over their std of 1
    assert scored.advantages_G == pytest.approx([-0.8660254, -0.8660254, 0.8660254, 0.8660254])


def test_a_group_may_be_uniform_by_one_reward_alone():
    """DAPO: groups that are all right or all wrong say nothing, whatever their lengths cost (2503.14476, eq. 11)."""
    rewards = (RewardConfig("accuracy"), RewardConfig("soft_overlong", options=("max_tokens=4", "cache_tokens=2")))
    wrong = group(WRONG, WRONG, lengths=(1, 4))
    for by, marked in (("accuracy", True), ("", False)):
        s = scorer(*rewards, uniform_by=by)
        one_sided, mixed = s.finish([s.grade(wrong), s.grade(group(RIGHT, WRONG, lengths=(1, 4)))])
        assert (one_sided.uniform, mixed.uniform) == (marked, False)
    with pytest.raises(BadInput, match=r"grpo.uniform_by=acuracy: the rewards are accuracy, soft_overlong"):
        scorer(*rewards, uniform_by="acuracy")


def test_a_reward_without_weight_does_not_make_a_group_mixed():
    s = scorer("accuracy", RewardConfig("format", weight=0.0), advantage="per_reward")
    (scored,) = s.finish([s.grade(group("<answer>5</answer>", WRONG))])
    assert [p["format"].score for p in scored.parts_G] == [0.0, 1.0]
    assert scored.uniform
    assert scored.advantages_G == [0.0, 0.0]


def test_a_uniform_group_is_marked():
    s = scorer("accuracy")
    uniform, mixed = s.finish([s.grade(group(RIGHT, RIGHT)), s.grade(group(RIGHT, WRONG))])
    assert (uniform.uniform, mixed.uniform) == (True, False)
    assert uniform.advantages_G == [0.0, 0.0]


def test_a_reward_without_a_verdict_on_most_samples_stops_the_run_by_name(user_module):
    def fragile(completion):
        return {"good": 1.0}[completion]

    s = scorer("format", user_module(fragile))
    groups = [group("good", "bad", id=i) for i in range(6)]
    assert len(s.finish([s.grade(g) for g in groups])) == 6  # half is not more than half
    groups[3] = group("bad", "bad", id=3)
    with pytest.raises(AhaError) as caught:
        s.finish([s.grade(g) for g in groups])
    message = str(caught.value)
    assert "reward 'fragile' has no verdict on 7 of 12 samples" in message
    assert message.count("KeyError: 'bad'") == 3
    assert {f"prompt {i} " in message for i in (0, 3)} == {True}  # examples of several prompts


def test_rewards_that_apply_to_nothing_stop_the_run(user_module):
    def never(prompts, completions, **kwargs):
        return [None for _ in completions]

    s = scorer(user_module(never))
    with pytest.raises(AhaError, match="no reward applies to 2 of 2 samples"):
        s.finish([s.grade(group("a", "b"))])


def test_finishing_nothing_gives_nothing():
    s = scorer("accuracy")
    assert s.finish([]) == []
    assert s.metrics([]) == {"samples/count": 0.0, "samples/invalid": 0.0}


# ------------------------------------------------------------------------------------------------ metrics


def test_metrics_say_what_a_step_was_like(user_module):
    def fragile(completion):
        return {RIGHT: 1.0, WRONG: 0.0}[completion]

    user_module(fragile)
    s = scorer("accuracy", RewardConfig("my_rewards:fragile", weight=2.0))
    scored_P = s.finish(
        [
            s.grade(group(RIGHT, RIGHT, RIGHT, RIGHT, lengths=(1, 2, 3, 4))),
            s.grade(group(WRONG, WRONG, NONSENSE, RIGHT, lengths=(5, 6, 7, 20), cut=(2,))),
        ]
    )
    m = s.metrics(scored_P)
    assert m["samples/count"] == 8
    assert m["samples/invalid"] == 1
    assert m["reward/mean"] == pytest.approx(15 / 7)  # five of 3, two of 0, one left out
    assert m["reward/std"] == pytest.approx(math.sqrt(45 / 7 - (15 / 7) ** 2))
    assert m["accuracy"] == m["reward/accuracy"] == pytest.approx(5 / 8)
    assert m["reward/fragile"] == pytest.approx(5 / 7)
    assert {k: v for k, v in m.items() if k.startswith("verdict/accuracy/")} == {
        "verdict/accuracy/correct": 5 / 8,
        "verdict/accuracy/wrong": 2 / 8,
        "verdict/accuracy/unparseable": 1 / 8,
        "verdict/accuracy/timed_out": 0,
        "verdict/accuracy/failed": 0,
    }
    assert m["verdict/fragile/failed"] == 1 / 8
    assert (m["groups/count"], m["groups/uniform_share"]) == (2, 0.5)
    assert (m["groups/all_correct_share"], m["groups/none_correct_share"]) == (0.5, 0)
    assert m["rollout/tokens"] == 48
    assert m["rollout/length_mean"] == 6
    assert m["rollout/length_p50"] == 4.5
    assert m["rollout/length_p90"] == pytest.approx(10.9)  # 0.3 of the way from the 7th (7) to the 8th (20)
    assert m["rollout/length_max"] == 20
    assert m["rollout/truncated_share"] == 1 / 8
    assert m["rollout/logprob_mean"] == -0.5


def test_identical_samples_of_a_group_are_counted():
    s = scorer("accuracy")
    same = group(RIGHT, RIGHT, WRONG, WRONG)
    same.rollouts_G[1].token_ids_T[:] = 0  # the tokens are now 0, 0, 2, 3: two texts, but three samples
    assert s.metrics(s.finish([s.grade(same)]))["samples/duplicate_share"] == 1 / 4


# ------------------------------------------------------------------------------------------------ options and checks


def with_options(config: RewardConfig, *options: str) -> RewardConfig:
    return RewardConfig(config.function, options=options)


def test_options_reach_the_function_as_json_where_they_are_json(user_module):
    seen = {}

    def look(completion, *, limit=1, mode="", **columns):
        seen.update(limit=limit, mode=mode)
        return 1.0

    scorer(with_options(user_module(look), "limit=[2, 3]", "mode=strict=er")).grade(group("x", row={"limit": 9}))
    assert seen == {"limit": [2, 3], "mode": "strict=er"}


@pytest.mark.parametrize(
    ("option", "message"), [("limt=2", "no parameter 'limt'; did you mean 'limit'"), ("limit", "expected name=value")]
)
def test_an_option_that_the_function_does_not_have_is_refused(user_module, option, message):
    def look(completion, *, limit=1, **columns):
        return 1.0

    with pytest.raises(BadInput, match=message):
        scorer(with_options(user_module(look), option))


def test_a_reward_may_take_its_own_time_its_default_or_what_the_user_gives_it():
    rewards = (RewardConfig("accuracy"), RewardConfig("code_accuracy"), RewardConfig("format", timeout_s=3.0))
    functions = RewardFunctions(rewards)
    assert [functions.limit_s(name) for name in functions.names] == [10.0, 60.0, 3.0]


def test_references_that_accuracy_cannot_verify_are_found_and_other_rewards_do_not_mind():
    rows: list[Row] = [{}, {}, {"domain": "poem"}, {}]
    answers = ["4", "", "", r"\boxed{7}"]
    both = (RewardConfig("accuracy"), RewardConfig("format"))
    assert list(unrewardable_rows(both, rows, answers)) == [1, 2]
    assert unrewardable_rows((RewardConfig("format"),), rows, answers) == {}
    routed = (RewardConfig("accuracy", domains=("math",)), RewardConfig("format"))
    assert unrewardable_rows(routed, [{"domain": "math"}, {"domain": "poem"}], ["", ""]) == {
        0: "the row has no reference answer: ''"
    }


def test_a_step_carries_the_numbers_that_show_a_reward_being_gamed():
    s = scorer("accuracy")
    metrics = s.metrics(s.finish([s.grade(group(RIGHT, WRONG, "the answer is 4", "4 4 4 4 4 4 4 4"))]))
    assert metrics["watch/gold_unparsed"] == 0.5
    assert metrics["watch/paid_without_gold"] == 0.0
    assert metrics["watch/repeated_text"] > 0.1


def test_the_watch_looks_at_a_sample_of_a_large_step():
    s = scorer("accuracy")
    scored = s.finish([s.grade(group(*[RIGHT, WRONG] * 200))])
    assert watch(scored)["watch/duplicates"] == 1 - 1 / 100  # every fourth of 400 samples: one text
    assert watch([]) == {}


def test_the_watch_reads_the_end_of_a_long_completion():
    s = scorer("accuracy")
    long = "<think>" + "word " * 6400 + "</think>the answer is 4"
    scored = s.finish([s.grade(group(long, "4" + " word" * 6400))])
    metrics = s.metrics(scored)
    assert metrics["watch/gold_unparsed"] == 0.5  # the 4 at the very beginning of the other is not read


def test_the_watch_follows_the_built_in_accuracy_whatever_its_name_and_no_other_reward(user_module):
    def accuracy(completion):
        return 1.0

    odd = group(RIGHT)
    odd = dataclasses.replace(odd, prompt=dataclasses.replace(odd.prompt, reference="\\boxed{}"))
    own = scorer(user_module(accuracy))  # reads its references in a way of its own
    assert not [k for k in own.metrics(own.finish([own.grade(odd)])) if k.startswith("watch/")]
    renamed = scorer(RewardConfig("accuracy", name="maths"))
    assert "watch/duplicates" in renamed.metrics(renamed.finish([renamed.grade(group(RIGHT))]))
