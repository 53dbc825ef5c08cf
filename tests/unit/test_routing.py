"""Rewards by domain and by step: who gets which, what a step's numbers say of it, and what is refused before a run."""

from __future__ import annotations

import inspect
import math
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest

from rewards import COLUMNS, REWARDS
from rl.config import GRPOConfig, RewardConfig, RewardModelConfig
from rl.scoring.reward_functions import RewardFunctions, refuse_style_alone, resolve, unrewardable_rows
from rl.scoring.routing import accuracies, applying, first_step, named, refuse_unused, unrewarded
from rl.scoring.scorer import Scorer
from rl.types import AhaError, BadInput, Prompt, RewardPart, Rollout, RolloutGroup, Row, Verdict

RIGHT, WRONG = "<think>a</think><answer>4</answer>", "<think>a</think><answer>5</answer>"
MATH = RewardConfig("accuracy", domains=("math", "logic"))
LATE = RewardConfig("format", from_step=3)
PART = RewardPart(1.0, Verdict.CORRECT)
SILENT = RewardPart(math.nan, Verdict.FAILED, "dead")


def prompt(domain: object = None, id: int = 0, **columns: object) -> Prompt:
    row: Row = columns | ({} if domain is None else {"domain": domain})
    return Prompt(id, id, [1], "2 + 2?", "4", row)


def group(asked: Prompt, *texts: str) -> RolloutGroup:
    none = np.zeros(1, np.int32), np.zeros(1, np.float32)
    return RolloutGroup(asked, [Rollout(*none, text, "stop", 1.0, 0, i) for i, text in enumerate(texts)])


# ------------------------------------------------------------------------------------------------ who gets which


@pytest.mark.parametrize(
    ("domain", "names"),
    [
        ("math", ["accuracy", "format"]),
        ("logic", ["accuracy", "format"]),
        ("poem", ["format"]),
        (None, ["format"]),
        (["poem", "logic"], ["accuracy", "format"]),
        ("mathematics", ["format"]),
    ],
)
def test_a_reward_with_domains_is_for_rows_of_these_domains(domain, names):
    assert Scorer((MATH, RewardConfig("format")), GRPOConfig()).applying(prompt(domain)) == names


def test_the_domain_may_stand_in_another_column_and_be_a_number():
    reward = RewardConfig("accuracy", domains=("3",), domain_field="level")
    assert Scorer((reward,), GRPOConfig()).applying(prompt("math", level=3)) == ["accuracy"]
    assert Scorer((reward,), GRPOConfig()).applying(prompt("3", level=4)) == []


@pytest.mark.parametrize(
    ("from_step", "steps", "first"), [(0, 100, 0), (30, 100, 30), (-25, 100, 75), (-25, 10, 0), (-1, 1, 0)]
)
def test_from_step_counts_from_the_beginning_or_the_end(from_step, steps, first):
    assert first_step(RewardConfig("format", from_step=from_step), steps) == first


def test_a_reward_counts_from_its_step_on_and_evaluation_always_asks_it():
    scorer = Scorer((RewardConfig("accuracy"), LATE), GRPOConfig(steps=10))
    assert scorer.applying(prompt(), 2) == ["accuracy"]
    assert scorer.applying(prompt(), 3) == ["accuracy", "format"]
    assert scorer.applying(prompt(), None) == ["accuracy", "format"]
    assert scorer.names == ["accuracy", "format"]


def test_one_function_may_be_two_parts_with_names_of_their_own():
    strict = RewardConfig("accuracy", name="strict", domains=("math",))
    lenient = RewardConfig("accuracy", name="lenient", options=("percent=lenient",), domains=("money",))
    scorer = Scorer((strict, lenient), GRPOConfig())
    assert scorer.names == ["strict", "lenient"]
    assert list(scorer.grade(group(prompt("money"), RIGHT)).parts_G[0]) == ["lenient"]


def test_functions_keep_their_names_beside_a_model_of_the_same_name(mine):
    def brief(completion):
        return 1.0

    rewards = (RewardConfig("model:org/brief"), mine(brief))
    assert list(named(rewards)) == ["brief", "mine.brief"]
    assert RewardFunctions(rewards).names == ["mine.brief"]


def test_a_reward_model_is_called_by_the_last_part_of_its_path():
    rewards = (RewardConfig("model:org/helpful"), RewardConfig("model:runs/x/helpful"), RewardConfig("accuracy"))
    assert list(named(rewards)) == ["helpful", "model.runs.x.helpful", "accuracy"]
    assert RewardFunctions(rewards).names == ["accuracy"]


# ------------------------------------------------------------------------------------------------ refused before a run


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ((MATH, MATH), "'accuracy' is listed twice; .* or give each a name of its own"),
        ((RewardConfig("accuracy", name="a"), RewardConfig("format", name="a")), "'a' is listed twice"),
        ((RewardConfig("accuracy", name="mean"),), "'mean' cannot be a name"),
        ((RewardConfig("accuracy", name="a/b"),), "'a/b' cannot be a name"),
        ((RewardConfig("model:x", options=("a=1",)),), "'x' is a reward model: it has no options"),
        ((RewardConfig("model:"),), "names no model"),
        (
            (RewardConfig("accuracy", model=RewardModelConfig(scores="summary")),),
            "'accuracy' is a function: the settings of model",
        ),
        ((RewardConfig("accuracy", from_step=10),), "counts from step 10 on, but grpo.steps=10: it never would"),
    ],
)
def test_what_cannot_be_is_refused(rewards, message):
    with pytest.raises(BadInput, match=message):
        Scorer(rewards, GRPOConfig(steps=10))


def test_rows_that_get_no_reward_are_found_with_the_reason():
    rows: list[Row] = [{"domain": "math"}, {"domain": "poem"}, {}]
    assert unrewarded(named((MATH,)), rows, 10) == {
        1: "no reward applies: its 'domain' is 'poem'",
        2: "no reward applies: its 'domain' is None",
    }
    late = RewardConfig("format", domains=("poem",), from_step=-2)
    assert unrewarded(named((MATH, late)), rows[:2], 10) == {1: "no reward applies before step 8, when 'format' begins"}
    assert unrewarded(named((MATH, late)), rows[:2], 0) == {}  # not trained on: evaluation asks every reward
    assert unrewardable_rows((MATH,), rows, ["", "4", "4"], 10)[0] == "the row has no reference answer: ''"
    assert list(unrewardable_rows((MATH,), rows, ["", "4", "4"], 10)) == [0, 1, 2]


def test_domains_that_no_row_is_in_are_refused_with_those_that_there_are():
    parts = named((MATH, RewardConfig("format")))
    refuse_unused(parts, [{"domain": "poem"}, {"domain": "math"}], "data.jsonl")
    with pytest.raises(BadInput, match=r"'accuracy' is for the domains math, logic, .*data.jsonl.* says maths, poem"):
        refuse_unused(parts, [{"domain": "poem"}, {"domain": "maths"}], "data.jsonl")
    with pytest.raises(BadInput, match=r"column 'domain' is not there"):
        refuse_unused(parts, [{"source": "math"}], "data.jsonl")


def test_held_out_rows_that_only_style_reads_are_refused_where_the_run_knows_what_is_correct():
    rows: list[Row] = [{"domain": "math"}, {"domain": "poem"}]
    form, language = RewardConfig("format"), RewardConfig("language_consistency")
    refuse_style_alone(named((MATH, form)), rows[:1], "eval.jsonl")
    refuse_style_alone(named((form, language)), rows, "eval.jsonl")  # style is all that is paid for
    good = RewardConfig("mine:good", domains=("poem",))
    refuse_style_alone(named((MATH, good, form)), rows, "eval.jsonl")
    with pytest.raises(BadInput, match=r"eval.jsonl: 1 of 2 rows, the first .* row 2, .*'accuracy' .* says 'poem'"):
        refuse_style_alone(named((MATH, form)), rows, "eval.jsonl")


# ------------------------------------------------------------------------------------------------ advantages, numbers


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "batch_std", "leave_one_out", "per_reward"])
def test_a_reward_that_is_absent_changes_no_advantage_of_the_groups_without_it(kind):
    """Two domains in one batch: each group's advantages are those of its own rewards."""
    scorer = Scorer(
        (MATH, RewardConfig("format", domains=("poem",))), GRPOConfig(advantage=kind, std_eps=0.0, steps=10)
    )
    math_group, poem_group = group(prompt("math"), RIGHT, WRONG), group(prompt("poem"), RIGHT, "no form")
    scored = scorer.finish([scorer.grade(g) for g in (math_group, poem_group)])
    assert [list(s.parts_G[0]) for s in scored] == [["accuracy"], ["format"]]
    assert scored[0].advantages_G == pytest.approx(scored[1].advantages_G)
    assert scored[0].advantages_G[0] > 0.4
    assert scored[0].valid_G == [True, True]


def test_a_steps_numbers_are_shares_of_the_samples_that_a_reward_applies_to():
    late = RewardConfig("format_boxed", from_step=5)
    scorer = Scorer((MATH, RewardConfig("format"), late), GRPOConfig(steps=10))
    parts = {"accuracy": PART, "format": PART}
    zero = RewardPart(0.0, Verdict.WRONG)
    graded = [
        scorer.grade(group(prompt("math"), RIGHT, WRONG), [parts, parts | {"accuracy": zero}]),
        *(scorer.grade(group(prompt("poem"), "a", "b"), [{"format": PART}, {"format": zero}]) for _ in range(3)),
    ]
    m = scorer.metrics(scorer.finish(graded))
    assert m["verdict/accuracy/correct"] == 0.5  # one of two, not one of eight
    assert m["reward/accuracy"] == 0.5
    assert m["applied/accuracy"] == 0.25
    assert "applied/format" not in m  # it is for all
    assert m["applied/format_boxed"] == 0  # not yet
    assert not [k for k in m if k.startswith(("verdict/format_boxed", "reward/format_boxed"))]
    assert m["reward/mean"] == pytest.approx((2 + 1 + 3 * 1 + 3 * 0) / 8)


@pytest.mark.parametrize(
    ("reward", "counts"),
    [
        (RewardConfig("accuracy", name="maths"), True),
        (RewardConfig("rewards.accuracy:accuracy", name="maths"), True),
        (RewardConfig("accuracy"), True),
        (RewardConfig("mine:accuracy"), True),
        (RewardConfig("mine:grade", name="accuracy"), True),
        (RewardConfig("mine:grade"), False),
        (RewardConfig("format", name="accuracy"), False),
        (RewardConfig("rewards.format:format_r1", name="accuracy"), False),
        (RewardConfig("model:org/accuracy"), False),
        (RewardConfig("countdown"), False),
    ],
    ids=lambda value: f"{value.function} as {value.name}" if isinstance(value, RewardConfig) else str(value),
)
def test_accuracy_is_known_by_its_function_and_not_by_its_name(reward, counts):
    assert bool(accuracies((RewardConfig("format"), reward))) is counts


def test_accuracy_under_another_name_keeps_its_metrics():
    plain = Scorer((RewardConfig("format"), RewardConfig("accuracy")), GRPOConfig())
    renamed = Scorer((RewardConfig("format"), RewardConfig("accuracy", name="maths")), GRPOConfig())
    asked = [
        group(prompt("math", i), *texts) for i, texts in enumerate([(RIGHT, RIGHT), (RIGHT, WRONG), (WRONG, WRONG)])
    ]
    known, found = (s.metrics(s.finish([s.grade(g) for g in asked])) for s in (plain, renamed))
    assert known["accuracy"] == 0.5
    assert known["groups/all_correct_share"] == known["groups/none_correct_share"] == pytest.approx(1 / 3)
    assert {k: v for k, v in found.items() if "maths" not in k} == {
        k: v for k, v in known.items() if "/accuracy" not in k
    }


def test_of_accuracies_for_several_domains_each_sample_counts_its_own():
    parts = (RewardConfig("accuracy", name="maths", domains=("math",)), RewardConfig("accuracy", domains=("poem",)))
    scorer = Scorer(parts, GRPOConfig())
    graded = [scorer.grade(group(prompt("math"), RIGHT, RIGHT)), scorer.grade(group(prompt("poem"), RIGHT, WRONG))]
    m = scorer.metrics(scorer.finish(graded))
    assert (m["reward/maths"], m["reward/accuracy"], m["accuracy"]) == (1.0, 0.5, 0.75)
    assert m["groups/all_correct_share"] == 0.5


def test_a_style_that_is_called_accuracy_is_none():
    scorer = Scorer((RewardConfig("format", name="accuracy"),), GRPOConfig())
    m = scorer.metrics(scorer.finish([scorer.grade(group(prompt("math"), RIGHT, WRONG))]))
    assert "reward/accuracy" in m
    assert not {"accuracy", "groups/all_correct_share"} & m.keys()


def test_a_dead_reward_of_a_rare_domain_stops_the_run_when_it_fails_on_several_prompts():
    scorer = Scorer((MATH, RewardConfig("format")), GRPOConfig(steps=10))
    rest = [scorer.grade(group(prompt("poem", i), "a", "b"), [{"format": PART}] * 2) for i in range(20)]

    def step(dead: int) -> list:
        return [
            *rest,
            *(scorer.grade(group(prompt("math", 100 + i), RIGHT), [{"accuracy": SILENT}]) for i in range(dead)),
        ]

    assert len(scorer.finish(step(3))) == 23
    alive = [scorer.grade(group(prompt("math", 200 + i), RIGHT), [{"accuracy": PART}]) for i in range(4)]
    assert len(scorer.finish([*step(4), *alive])) == 28  # half is not more than half
    with pytest.raises(AhaError, match=r"'accuracy' has no verdict on 4 of 4 samples .* prompt 100 sample 0: failed"):
        scorer.finish(step(4))


def test_a_reward_model_is_not_asked_in_process():
    scorer = Scorer((RewardConfig("model:org/helpful"),), GRPOConfig())
    with pytest.raises(AhaError, match="'helpful' is a model; only the backend can ask it"):
        scorer.grade(group(prompt(), "a"))


# ------------------------------------------------------------------------------------------------ columns and settings


def test_a_column_does_not_change_a_setting_of_a_built_in_reward():
    row = prompt(percent="lenient", partial=0.9)
    half = group(row, "<think>a</think><answer>50%</answer>", "<think>")
    half = RolloutGroup(Prompt(0, 0, [1], "2?", "0.5", half.prompt.row), half.rollouts_G)
    graded = Scorer((RewardConfig("accuracy"), RewardConfig("format")), GRPOConfig()).grade(half)
    assert [p["accuracy"].score for p in graded.parts_G] == [0, 0]
    assert graded.parts_G[1]["format"].score == 0
    lenient = Scorer((RewardConfig("accuracy", options=("percent=lenient",)),), GRPOConfig())
    assert lenient.grade(half).parts_G[0]["accuracy"].score == 1


def test_the_columns_that_a_built_in_reward_reads_reach_it():
    scorer = Scorer((RewardConfig("countdown"),), GRPOConfig())
    asked = Prompt(0, 0, [1], "?", "unused", {"numbers": [3, 5, 2], "target": 6, "use_all": True})
    texts = "<think>a</think><answer>3 * 2</answer>", "<think>a</think><answer>3 + 3</answer>"
    # use_all is a setting, so the column of that name is not it: two of the three numbers are enough.
    assert [p["countdown"].score for p in scorer.grade(group(asked, *texts)).parts_G] == [1, 0]


@pytest.mark.parametrize("name", REWARDS)
def test_every_column_that_a_built_in_reward_is_said_to_read_is_a_parameter_of_it(name):
    assert set(COLUMNS.get(name, ())) <= set(inspect.signature(resolve(name)).parameters)
    assert set(COLUMNS) <= set(REWARDS)


def test_a_built_in_reward_named_in_full_is_protected_too():
    scorer = Scorer((RewardConfig("rewards.format:format_r1_opened"),), GRPOConfig())
    graded = scorer.grade(group(prompt(partial=0.9), "a</think>"))
    assert graded.parts_G[0]["format_r1_opened"].score == 0


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], RewardConfig]:
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)

    def add(function: Callable) -> RewardConfig:
        setattr(module, function.__name__, function)
        return RewardConfig(f"mine:{function.__name__}")

    return add


def test_rewards_of_ones_own_get_every_column_that_they_name(mine):
    def native(completion, *, limit=400):
        return float(limit)

    def in_lists(prompts, completions, limit=None, **kwargs):
        return [float(x) for x in limit]

    scorer = Scorer((mine(native), mine(in_lists)), GRPOConfig())
    assert scorer.grade(group(prompt(limit=7), "a")).rewards_G == [14.0]


def test_applying_gives_the_order_of_the_recipe():
    parts = named((RewardConfig("format"), MATH))
    assert applying(parts, {"domain": "math"}, 0, 10) == ["format", "accuracy"]
