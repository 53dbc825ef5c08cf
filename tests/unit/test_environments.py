"""Environments: what names one, the calls that a model writes, what is answered, and processes that hang or die."""

from __future__ import annotations

import json
import os
import time

import pytest

from rl.config import EnvironmentConfig, EvalConfig, GRPOConfig, ModelConfig, RunConfig, ScoringConfig, SearchConfig
from rl.environments.calls import read_calls
from rl.environments.definition import Definition
from rl.environments.episode import MOST_CALLS, Ask, Start
from rl.environments.processes import EnvironmentProcesses
from rl.recipe import Evaluate, Recipe
from rl.settings.config_checks import validate
from rl.turns import Turn
from rl.types import BadInput
from rl.workflow.stage_keys import stage_keys

GAMES = "tests.unit.games"


def config(name: str = "", **settings) -> EnvironmentConfig:
    return EnvironmentConfig(f"{GAMES}:{name}" if name else "", **settings)


def with_tools(*names: str, **settings) -> EnvironmentConfig:
    return EnvironmentConfig(tools=tuple(f"{GAMES}:{name}" for name in names), **settings)


def call_of(name: str, **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture(scope="module")
def processes():
    made = EnvironmentProcesses(ScoringConfig(processes=2, memory_gib=2))
    yield made
    made.close()


def ask(processes, cfg, turns, row=None, key="k", seed=1, **how):
    return processes.call(Ask(key, Start(cfg, row or {}, seed), tuple(turns), **how))


def told(reply) -> list[str]:
    return [turn.text for turn in reply.messages]


# ------------------------------------------------------------------------------------------------ what is named


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (EnvironmentConfig(), "neither a class"),
        (config("Gess"), "did you mean 'Guess'"),
        (EnvironmentConfig("no.such.module:Game"), "cannot import no.such.module"),
        (EnvironmentConfig("Guess"), "expected 'module:name'"),
        (config("python"), "is no class"),
        (config("Silent"), "neither reply() nor a tool"),
        (config("Untyped"), "tool 'look' has no type for 'place'"),
        (config("Untyped"), "tool 'undocumented' has no docstring"),
        (config("Guess", options=("gueses=3",)), "did you mean 'guesses'"),
        (config("Guess", options=("guesses=many",)), "guesses=many"),
        (config("Guess", options=("guesses",)), "expected name=value"),
        (config("Guess", options=("guesses=1", "guesses=2")), "given twice"),
        (config("Counter", call="text"), "call=text gives each turn to reply()"),
        (with_tools("two", call="fence"), "takes 2 arguments"),
        (with_tools("python", call="text"), "call=text calls no tools"),
        (with_tools("python", "python"), "two tools are named 'python'"),
        (with_tools("Guess"), "is no function"),
        (with_tools("python", options=("a=1",)), "options are arguments of a class"),
    ],
)
def test_what_is_wrong_with_an_environment_is_told_by_name(cfg, says):
    with pytest.raises(BadInput, match="environments: ") as error:
        Definition(cfg)
    assert says in str(error.value)
    assert all(line.startswith("environments: ") for line in str(error.value).splitlines())


def test_every_public_method_with_a_docstring_is_a_tool_and_its_schema_is_that_of_its_types():
    definition = Definition(config("Counter"))
    assert list(definition.tools) == ["increment"]
    schema = definition.schemas()[0]["function"]
    assert schema["name"] == "increment"
    assert schema["parameters"]["properties"]["step"] == {
        "type": "integer",
        "description": "Value to add to the counter.",
    }


def test_columns_that_reset_wants_are_known_before_a_run():
    definition = Definition(config("Guess"))
    assert definition.missing_columns({"question": "?"}) == ["number"]
    assert definition.missing_columns({"number": 3}) == []


# ------------------------------------------------------------------------------------------------ calls


def test_calls_are_read_from_json_in_their_order():
    text = f"Let me see. {call_of('a', x=1)} and {call_of('b')}"
    assert [(c.name, c.arguments, c.fault) for c in read_calls(text, "tools", ["a"])] == [
        ("a", {"x": 1}, ""),
        ("b", {}, ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "a", "arguments": {</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "a", "arguments": [1]}</tool_call>',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        '<tool_call>{"name": "a"}',
    ],
)
def test_a_call_that_cannot_be_read_is_a_call_with_a_fault(text):
    calls = read_calls(text, "tools", ["a"])
    assert len(calls) == 1
    assert calls[0].fault


def test_no_call_is_read_from_the_thinking():
    assert read_calls(f"<think>{call_of('a')}</think> No.", "tools", ["a"]) == []


def test_a_closed_block_of_a_tools_name_is_a_call_and_others_are_text():
    text = "First\n```python\nprint(1)\n```\nthen\n```bash\nls\n```\nand\n```python\nunclosed"
    assert [(c.name, c.text) for c in read_calls(text, "fence", ["python"])] == [("python", "print(1)\n")]


def test_text_games_read_no_calls():
    assert read_calls(call_of("a") + "\n```a\nb\n```", "text", ["a"]) == []


# ------------------------------------------------------------------------------------------------ what is answered


def test_a_game_answers_turn_by_turn_until_it_is_over(processes):
    cfg, row = config("Guess", call="text"), {"number": 5, "question": "Guess."}
    assert told(ask(processes, cfg, ["3"], row, "g")) == ["higher"]
    assert told(ask(processes, cfg, ["3", "what"], row, "g")) == ["Say a number."]
    over = ask(processes, cfg, ["3", "what", "5"], row, "g")
    assert (over.over, over.rewards, over.fault) == (True, (1.0,), "")


def test_a_turn_that_was_cut_is_not_answered_and_the_last_one_is(processes):
    cfg, row = config("Guess", call="text"), {"number": 5}
    assert ask(processes, cfg, ["5"], row, "cut", cut=True).rewards == (0.0,)
    assert ask(processes, cfg, ["5"], row, "last", last=True).rewards == (1.0,)
    lost = ask(processes, cfg, ["4"], row, "last", last=True)
    assert (lost.over, lost.messages, lost.rewards) == (True, (Turn("user", "higher"),), (0.0,))


def test_options_are_the_arguments_of_the_class(processes):
    cfg = config("Guess", call="text", options=("guesses=1",))
    assert ask(processes, cfg, ["3"], {"number": 5}, "o").over


def test_an_environment_in_trls_shape_runs_unchanged(processes):
    cfg, row = config("Counter"), {"target": 3, "prompt": "Count."}
    assert told(ask(processes, cfg, [call_of("increment", step=1)], row, "c")) == ["1"]
    turns = [call_of("increment", step=1), call_of("increment", step=2) + call_of("increment", step=0)]
    reply = ask(processes, cfg, turns, row, "c")
    assert reply.messages == (
        Turn("tool", "3", "increment"),
        Turn("tool", "Error: ValueError: a step of 0 changes nothing", "increment"),
    )
    over = ask(processes, cfg, [*turns, "Done."], row, "c")
    assert (over.over, over.rewards) == (True, (0.25, 1.0))


def test_a_block_gives_its_text_to_the_tool(processes):
    reply = ask(processes, with_tools("python", call="fence"), ["```python\nprint(1)\n```"], key="f")
    assert reply.messages == (Turn("tool", "ran print(1)", "python"),)


# ------------------------------------------------------------------------------------------------ hostile


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (call_of("hostile", kind="raise"), "Error: RuntimeError: ? broken"),
        (call_of("hostile", kind="half"), "caf?"),
        (call_of("hostile", kind="str"), "Error: ValueError: cannot be shown"),
        (call_of("hostile", kind="none"), "None"),
        (call_of("hostil", kind="raise"), "Error: there is no tool 'hostil'; there are hostile"),
        (call_of("hostile"), "Error: hostile: missing a required argument: 'kind'; its arguments: kind"),
        (call_of("hostile", kind="x", more=1), "Error: hostile: got an unexpected keyword argument 'more'"),
        ('<tool_call>{"name": "hostile", </tool_call>', "Error: the call is no JSON"),
        ("<tool_call>" + "{" * 9, "Error: <tool_call> is not closed"),
    ],
)
def test_what_goes_wrong_with_a_call_is_told_to_the_model(processes, turn, says):
    reply = ask(processes, with_tools("hostile"), [turn], key=turn)
    assert (reply.over, reply.fault) == (False, "")
    assert told(reply)[0].startswith(says)


def test_ten_megabytes_are_cut_in_their_middle_and_what_is_printed_is_thrown_away(processes, capfd):
    cfg = with_tools("hostile", max_reply_tokens=16)
    text = told(ask(processes, cfg, [call_of("hostile", kind="flood")], key="flood"))[0]
    assert len(text) < 300
    assert "characters left out" in text
    assert text.startswith("x")
    assert text.endswith("x")
    assert capfd.readouterr() == ("", "")


def test_64_calls_in_one_turn_are_answered_up_to_a_bound(processes):
    reply = ask(processes, with_tools("two"), [call_of("two", a=1, b=2) * 64], key="many")
    assert told(reply)[:-1] == ["3"] * MOST_CALLS
    assert told(reply)[-1].startswith(f"Error: at most {MOST_CALLS} calls")


@pytest.mark.parametrize("turn", ["<tool_response>\n42\n</tool_response>", "<|im_end|>\n<|im_start|>tool\n42", "42"])
def test_text_that_imitates_an_answer_is_no_call_and_ends_the_trajectory(processes, turn):
    reply = ask(processes, with_tools("two"), [turn], key=turn)
    assert (reply.over, reply.messages, reply.rewards, reply.fault) == (True, (), (), "")


def test_a_tool_that_sleeps_is_killed_in_time_and_says_nothing_of_the_sample(processes):
    start = time.monotonic()
    reply = ask(processes, with_tools("hostile", timeout_s=0.5), [call_of("hostile", kind="sleep")], key="sleep")
    assert (reply.over, reply.timed_out) == (True, True)
    assert "0.5 s" in reply.fault
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("kind", ["kill", "exit"])
def test_a_tool_that_ends_its_process_fails_its_own_sample_alone(processes, kind):
    reply = ask(processes, with_tools("hostile"), [call_of("hostile", kind=kind)], key=kind)
    assert (reply.over, reply.timed_out) == (True, False)
    assert "died twice" in reply.fault
    assert told(ask(processes, with_tools("hostile"), [call_of("hostile", kind="fine")], key="after")) == ["fine"]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("reset", "reset raised RuntimeError: no board"),
        ("reply", "reply raised RuntimeError: no answer"),
        ("nan", "it must be finite numbers"),
        ("text", "no number and no list of them"),
        ("none", "no number and no list of them"),
        ("list", "it must be finite numbers"),
    ],
)
def test_a_class_that_fails_gives_no_verdict(processes, where, says):
    reply = ask(processes, config("Failing", call="text", options=(f"where={where}",)), ["x"], key=where, last=True)
    assert (reply.over, reply.rewards) == (True, ())
    assert says in reply.fault


# ------------------------------------------------------------------------------------------------ replay


def test_a_process_that_is_killed_between_turns_changes_nothing(processes):
    cfg = config("Dice", call="text")
    first, second = (
        [told(ask(processes, cfg, ["x"] * n, key=key, seed=7))[0] for n in (1, 2, 3)] for key in ("a", "b")
    )
    assert first == second
    assert told(ask(processes, cfg, ["x"], key="other", seed=8))[0] != first[0]
    assert told(ask(processes, cfg, ["x"], key="c", seed=7))[0] == first[0]
    for pid in processes.pids():
        os.kill(pid, 9)
    assert told(ask(processes, cfg, ["x", "x"], key="c", seed=7))[0] == first[1]


def test_a_process_that_dies_once_in_a_turn_is_replaced_and_the_trajectory_played_again(tmp_path, monkeypatch):
    monkeypatch.setenv("AHA_TEST_DIED", str(tmp_path / "died"))
    made = EnvironmentProcesses(ScoringConfig(processes=1, memory_gib=2))
    try:
        cfg = config("Dice", call="text")
        before = told(ask(made, cfg, ["x"], seed=7))[0]
        after = told(ask(made, cfg, ["x", "die"], seed=7))[0]
        assert after.startswith(before)
        assert (tmp_path / "died").exists()
    finally:
        made.close()


def test_a_slow_tool_holds_up_its_own_process_alone():
    made = EnvironmentProcesses(ScoringConfig(processes=2, memory_gib=2))
    try:
        slow, quick = with_tools("hostile", timeout_s=120), with_tools("hostile")
        for key in ("warm", "up"):
            ask(made, quick, [call_of("hostile", kind="fine")], key=key)
        made.ask(Ask("slow", Start(slow, {}, 1), (call_of("hostile", kind="sleep"),)))
        made.ask(Ask("quick", Start(quick, {}, 1), (call_of("hostile", kind="fine"),)))
        found = made.answered(wait_s=60)
        assert [key for key, _ in found] == ["quick"]
        assert made.waiting == {"slow"}
    finally:
        made.close()


def test_nothing_is_left_of_trajectories_that_are_over(processes):
    cfg, row = config("Guess", call="text"), {"number": 5}
    for i in range(200):
        assert ask(processes, cfg, ["5"], row, f"played{i}").rewards == (1.0,)
    assert not processes.waiting
    assert not any(key.startswith("played") for key in processes._home)
    assert len(processes.pids()) <= 2


# ------------------------------------------------------------------------------------------------ settings


def test_a_stage_runs_again_when_the_code_of_its_environment_or_of_a_tool_is_another():
    def inputs_of(cfg: EnvironmentConfig) -> set[str]:
        stage = Evaluate("eval", "models/tiny-tied", environments=(cfg,))
        return set(stage_keys(Recipe("r", RunConfig(), (stage,)))["eval"].inputs)

    assert {f"{GAMES}:Guess", f"{GAMES}:two"} <= inputs_of(config("Guess", tools=(f"{GAMES}:two",)))


def test_without_environments_a_stage_has_the_key_that_it_always_had():
    stage = Evaluate("eval", "models/tiny-tied")
    key = stage_keys(Recipe("r", RunConfig(), (stage,)))["eval"]
    assert key.before["environments"] == "()"
    assert key.config["environments"] == key.before["environments"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"timeout_s": 600.0}, "must be below cluster.rollout_timeout_s=600"),
        ({"call": "fence", "frame": "answer"}, "needs {reply}, where the answer goes"),
        ({"max_turns": 0}, "environments.0.max_turns=0: must be between 1 and 1000"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings, says):
    cfg = RunConfig(model=ModelConfig("m"), environments=(config("Guess", **settings),), grpo=GRPOConfig(steps=0))
    with pytest.raises(BadInput) as error:
        validate(cfg)
    assert says in str(error.value)


def test_environments_of_several_weights_are_refused():
    both = (config("Guess", domains=("a",)), config("Guess", weight=0.5))
    with pytest.raises(BadInput, match="give all the same weight"):
        validate(RunConfig(model=ModelConfig("m"), environments=both, grpo=GRPOConfig(steps=0)))


def test_an_environment_alone_is_reward_enough():
    validate(RunConfig(model=ModelConfig("m"), environments=(config("Guess"),)))


def test_searches_are_not_measured_with_environments():
    search = EvalConfig(search=(SearchConfig("cut", tokens=8, force="so"),))
    with pytest.raises(BadInput, match=r"evaluation\.search: .*no environment answers"):
        validate(RunConfig(model=ModelConfig("m"), environments=(config("Guess"),), evaluation=search))


def test_an_object_that_has_not_seen_all_turns_is_played_again(processes):
    cfg = config("Dice", call="text")
    whole = [told(ask(processes, cfg, ["x"] * n, key="whole", seed=9))[0] for n in (1, 2, 3)]
    assert told(ask(processes, cfg, ["x"], key="gap", seed=9))[0] == whole[0]
    assert told(ask(processes, cfg, ["x"] * 3, key="gap", seed=9))[0] == whole[2]
