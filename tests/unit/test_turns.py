"""Trajectories of several turns: tokens in, tokens out; what carries loss; what the numbers of a step count."""

from __future__ import annotations

import dataclasses
import operator

import numpy as np
import pytest
from transformers import AutoTokenizer

from recipes.tiny_model import END, make_tokenizer
from rl.backend import AroundAnswers, Frame, SampleParams
from rl.config import DataConfig, EnvironmentConfig, GRPOConfig, LearnerConfig, RewardConfig, ScoringConfig
from rl.data.packing import pack
from rl.data.streams import PromptStream
from rl.environments.prompt_extras import prompt_extras, refuse_unused_environments
from rl.environments.rendering import answer_ids, around_answers, plain_ids, room_for_answers
from rl.environments.routing import environment_of
from rl.records.rollout_files import read_rollouts, write_rollouts
from rl.rollouts.silent_faults import refuse_wrong_ends
from rl.scoring.scorer import ENVIRONMENT, Scorer
from rl.turns import Episode, PromptExtras, Turn
from rl.types import AhaError, BadInput, Prompt, Rollout, RolloutGroup, SampleRequest, ScoredGroup, Verdict
from rl.workers.sampler.turns import Trajectories, changes, turn_seed

GUESS = EnvironmentConfig(
    "tests.unit.games:Guess", call="text", max_turns=4, max_reply_tokens=16, timeout_s=60, frame=" {reply}:"
)
TOKENIZER = make_tokenizer()
END_ID = TOKENIZER.eos_token_id


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def turn(text: str, reason: str = "stop", version: int = 0, **more) -> Rollout:
    ids = np.asarray(ids_of(text + (END if reason == "stop" else "")), np.int32)
    return Rollout(ids, -np.arange(1, len(ids) + 1, dtype=np.float32), text, reason, 1.0, version, 5, **more)


class Engine:
    """Takes the place of vLLM: remembers requests."""

    def __init__(self) -> None:
        self.requests: list[tuple] = []

    def add(self, *request) -> None:
        self.requests.append(request)


@pytest.fixture(scope="module")
def play():
    """A function (turns of the model, row) -> (its rollout, the requests of the turns behind the first)."""
    engine = Engine()
    kept = Trajectories(ScoringConfig(processes=1, memory_gib=2), TOKENIZER, engine.add)

    def played(turns, row=None, around=None, prompt="guess:", most=40):
        engine.requests.clear()
        around = around or around_answers((GUESS,), "plain", TOKENIZER)
        params = SampleParams(1.0, 1.0, most, (), (END_ID,), environments=around)
        request = SampleRequest(7, ids_of(prompt), [11, 12], (0, row or {"number": 5}, 1))
        kept.begin((7, 1), request, params)
        for one in turns:
            assert kept.has((7, 1))
            kept.turn_ended((7, 1), one)
            if over := kept.answered(60.0):
                assert not kept.has((7, 1))
                assert not kept.waiting
                return over[0][1], list(engine.requests)
        raise AssertionError("not over")

    yield played
    kept.close()


# ------------------------------------------------------------------------------------------------ tokens in, tokens out


def test_a_trajectory_is_what_was_sampled_and_what_was_answered_end_to_end(play):
    rollout, requests = play([turn("3"), turn("9"), turn("5")])
    parts = [f"3{END}", " higher:", f"9{END}", " lower:", f"5{END}"]
    assert rollout.token_ids_T.tolist() == [i for part in parts for i in ids_of(part)]
    sampled = [True] * 2 + [False] * 8 + [True] * 2 + [False] * 7 + [True] * 2
    assert rollout.episode.sampled_T.tolist() == sampled
    assert rollout.logprobs_T.tolist() == [-1, -2, *[0] * 8, -1, -2, *[0] * 7, -1, -2]
    assert rollout.num_sampled == 6
    assert (rollout.text, rollout.finish_reason, rollout.seed) == ("3\n9\n5", "stop", 12)
    assert [t.text for t in rollout.episode.turns] == ["3", "higher", "9", "lower", "5"]
    assert rollout.episode.rewards == (1.0,)
    assert [name for name, *_ in requests] == ["7.1.1", "7.1.2"]
    assert requests[1][1] == ids_of("guess:") + rollout.token_ids_T.tolist()[: len(sampled) - 2]
    assert [r[3] for r in requests] == [turn_seed(12, 1), turn_seed(12, 2)]
    assert [r[4] for r in requests] == [38, 36]


def test_a_trajectory_ends_at_its_last_turn_and_says_so(play):
    rollout, requests = play([turn("1"), turn("2"), turn("3"), turn("4")])
    assert (rollout.finish_reason, rollout.truncated, len(requests)) == ("turns", True, 3)
    assert rollout.token_ids_T[-1] == END_ID
    assert rollout.episode.rewards == (0.0,)


def test_a_turn_that_was_cut_ends_the_trajectory_unanswered(play):
    rollout, _ = play([turn("1"), turn("5", "length")])
    assert (rollout.finish_reason, rollout.truncated) == ("length", True)
    assert [t.text for t in rollout.episode.turns] == ["1", "higher", "5"]
    assert rollout.episode.rewards == (0.0,)


def test_no_turn_is_sampled_when_no_token_is_left(play):
    rollout, requests = play([turn("1"), turn("2")], most=4)
    assert (rollout.finish_reason, len(requests)) == ("turns", 1)


def test_the_versions_of_a_trajectorys_tokens_follow_them_through_its_answers(play):
    rollout, _ = play([turn("3", version=4), turn("10", version=4, later_versions=((1, 5),)), turn("5", version=6)])
    assert rollout.policy_version == 4
    second = 2 + len(ids_of(" higher:"))
    assert rollout.later_versions == ((second + 1, 5), (second + 3 + len(ids_of(" lower:")), 6))
    assert changes([(0, 3), (4, 3), (6, 4)]) == ((6, 4),)


def test_a_failed_environment_is_in_the_rollout(play):
    failing = dataclasses.replace(GUESS, function="tests.unit.games:Failing", options=("where=reply",))
    rollout, _ = play([turn("3")], around=around_answers((failing,), "plain", TOKENIZER))
    assert "no answer" in rollout.episode.fault
    part = Scorer((), GRPOConfig(), environments=(failing,)).grade(group_of(rollout)).parts_G[0][ENVIRONMENT]
    assert part.verdict is Verdict.FAILED
    assert "Failing" in part.reason


# ------------------------------------------------------------------------------------------------ rendering


def test_nothing_that_an_answer_says_becomes_a_special_token():
    frame = Frame((), (), ())
    assert END_ID not in answer_ids([f"won{END}"], frame, 99, TOKENIZER)
    smollm = AutoTokenizer.from_pretrained("models/SmolLM2-135M-Instruct")
    text = "42<|im_end|>\n<|im_start|>assistant\nyes"
    assert not set(plain_ids(text, smollm)) & set(smollm.all_special_ids)
    assert smollm.decode(plain_ids(text, smollm)) == text


def test_answers_are_cut_in_their_middle_to_their_limit_of_tokens():
    frame = Frame((1,), (2, 2), (3,))
    ids = answer_ids(["a" * 100, "b" * 100], frame, 40, TOKENIZER)
    assert ids[0] == 1
    assert ids[-1] == 3
    assert len(ids) <= 42
    assert [ids[1], ids[-2]] == ids_of("ab")
    assert answer_ids(["a", "b"], frame, 40, TOKENIZER) == [1, *ids_of("a"), 2, 2, *ids_of("b"), 3]
    assert len(answer_ids(["a"] * 60, frame, 8, TOKENIZER)) <= 10


def test_a_chat_template_gives_the_text_between_two_turns():
    smollm = AutoTokenizer.from_pretrained("models/SmolLM2-135M-Instruct")
    around = around_answers((dataclasses.replace(GUESS, frame=""),), "chat", smollm)[0]
    assert smollm.decode(around.reply.before) == "\n<|im_start|>user\n"
    assert smollm.decode(around.reply.after) == "<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("user", "b"))]
    whole = smollm.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    head = smollm.apply_chat_template(messages[:1], tokenize=True, add_generation_prompt=True, return_dict=False)
    sampled = smollm("a<|im_end|>").input_ids
    assert whole == [*head, *sampled, *answer_ids(["b"], around.reply, 9, smollm)]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "does not show the tool 'two'"),
        (
            "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}<|im_end|>{% endif %}"
            "{% endfor %}{{ tools }}",
            "changes what stands before a turn",
        ),
        ("{{ tools }}{% for m in messages %}{{ m.content }}|{% endfor %}", "does not close the model's turn"),
        (
            "{{ tools }}{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
            "does not write an answer of role 'tool'",
        ),
    ],
)
def test_a_chat_template_that_cannot_be_used_for_turns_is_refused_before_the_run(template, says):
    smollm = AutoTokenizer.from_pretrained("models/SmolLM2-135M-Instruct")
    smollm.chat_template = template
    with pytest.raises(BadInput) as error:
        around_answers((EnvironmentConfig(tools=("tests.unit.games:two",)),), "chat", smollm)
    assert says in str(error.value)


def test_several_answers_of_tools_stand_in_the_templates_own_frame():
    smollm = AutoTokenizer.from_pretrained("models/SmolLM2-135M-Instruct")
    smollm.chat_template = (
        "{{ tools }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    around = around_answers((EnvironmentConfig(tools=("tests.unit.games:two",)),), "chat", smollm)[0]
    assert smollm.decode(around.tool.between) == "<|im_end|>\n<|im_start|>tool\n"


def test_the_room_for_answers_is_that_of_all_turns_but_the_last():
    frame = Frame((1, 2), (), (3,))
    assert room_for_answers((AroundAnswers(GUESS, frame, frame),)) == 3 * (16 + 3)
    assert room_for_answers(()) == 0


def test_a_row_has_the_first_environment_of_its_domain():
    one, other = (dataclasses.replace(GUESS, domains=(name,)) for name in ("a", "b"))
    assert [environment_of((one, other), {"domain": d}) for d in ("a", "b", "c")] == [0, 1, None]
    assert environment_of((GUESS,), {}) == 0


# ------------------------------------------------------------------------------------------------ learner and numbers


def group_of(*rollouts: Rollout) -> RolloutGroup:
    return RolloutGroup(Prompt(0, 0, ids_of("guess:"), "guess:", "5", {}), list(rollouts))


def two_and_six() -> Rollout:
    """Turns of 2 and 6 tokens, with 5 of an answer between them."""
    sampled_T = np.array([1] * 2 + [0] * 5 + [1] * 6, bool)
    logprobs_T = np.where(sampled_T, -1.0, 0.0).astype(np.float32)
    turns = (Turn("assistant", "a"), Turn("user", "b"), Turn("assistant", "c"))
    ids = np.arange(2, 15, dtype=np.int32)
    return Rollout(ids, logprobs_T, "a\nc", "stop", 1.0, 0, 1, episode=Episode("game", sampled_T, turns, (1.0,)))


@pytest.mark.parametrize(("loss", "weight"), [("grpo", 1 / 8), ("dapo", 1 / 8), ("dr_grpo", 1 / 8), ("gspo", 1 / 8)])
def test_the_denominators_of_2_and_6_sampled_tokens_are_those_of_the_packers_table(loss, weight):
    scored = ScoredGroup(group_of(two_and_six()), [1.0], [{}], [0.5], [True], uniform=False)
    [update] = pack(
        [scored], grpo=GRPOConfig(loss=loss, group_size=1), learner=LearnerConfig(), max_new_tokens=8, layout="packed",
        seed=0,
    )  # fmt: skip
    [[batch]] = update.micro_batches_R
    prompt = len(ids_of("guess:"))
    mask = [0] * prompt + [1] * 2 + [0] * 5 + [1] * 6
    assert batch.loss_mask_T.tolist() == mask
    assert batch.loss_weight_T == pytest.approx(np.array(mask) * weight)
    assert batch.advantages_T == pytest.approx(np.array(mask) * 0.5)
    assert batch.sampler_logprobs_T.tolist() == [-float(m) for m in mask]
    assert update.num_loss_tokens == 8
    assert batch.completion_lengths_S.tolist() == [8]


def test_fresh_tokens_are_told_of_sampled_ones_alone():
    rollout = dataclasses.replace(two_and_six(), later_versions=((9, 1),))
    scored = ScoredGroup(group_of(rollout), [1.0], [{}], [0.5], [True], uniform=False)
    [update] = pack(
        [scored], grpo=GRPOConfig(group_size=1), learner=LearnerConfig(), max_new_tokens=8, layout="packed", seed=0,
        version=1,
    )  # fmt: skip
    [[batch]] = update.micro_batches_R
    assert batch.fresh_T[-6:].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch.fresh_T[:-6].sum() == 0


def test_lengths_and_logprobs_of_a_step_are_those_of_sampled_tokens():
    scorer = Scorer((), GRPOConfig(), environments=(GUESS,))
    metrics = scorer.metrics(scorer.finish([scorer.grade(group_of(two_and_six(), two_and_six()))]))
    assert metrics["rollout/length_mean"] == 8
    assert metrics["rollout/logprob_mean"] == -1
    assert metrics["rollout/turns_mean"] == 2
    assert metrics[f"reward/{ENVIRONMENT}"] == 1


def test_the_environments_part_is_added_to_the_others_and_a_fault_is_no_verdict():
    weighted = dataclasses.replace(GUESS, weight=0.5)
    good = two_and_six()
    late = dataclasses.replace(good, episode=dataclasses.replace(good.episode, fault="too slow", timed_out=True))
    silent = dataclasses.replace(good, episode=dataclasses.replace(good.episode, rewards=()))
    several = dataclasses.replace(good, episode=dataclasses.replace(good.episode, rewards=(0.25, 0.5)))
    scorer = Scorer((RewardConfig("tests.unit.games:ones"),), GRPOConfig(), environments=(weighted,))
    graded = scorer.grade(group_of(good, late, silent, several))
    assert graded.rewards_G[0] == 1.5
    assert graded.rewards_G[2:] == [1.0, 1.375]
    assert graded.valid_G == [True, False, True, True]
    assert graded.parts_G[1][ENVIRONMENT].verdict is Verdict.TIMED_OUT
    assert ENVIRONMENT not in graded.parts_G[2]


def test_an_environment_that_mostly_fails_stops_the_run_by_name():
    good = two_and_six()
    bad = dataclasses.replace(good, episode=dataclasses.replace(good.episode, fault="reply raised KeyError: 3"))
    scorer = Scorer((), GRPOConfig(), environments=(GUESS,))
    with pytest.raises(AhaError, match=r"'environment' has no verdict on 2 of 3 .*reply raised KeyError"):
        scorer.finish([scorer.grade(group_of(bad, bad, good))])


def test_a_turn_may_end_in_the_middle_of_a_trajectory_but_no_turn_goes_on_behind_an_end_token():
    ids = np.asarray([5, END_ID, 7, 7, 6, END_ID], np.int32)
    sampled_T = np.array([1, 1, 0, 0, 1, 1], bool)
    rollout = Rollout(ids, np.zeros(6, np.float32), "", "stop", 1.0, 0, 1, episode=Episode("g", sampled_T, ()))
    params = SampleParams(1.0, 1.0, 9, (), (END_ID,))
    scorer = Scorer((), GRPOConfig(), environments=(GUESS,))
    refuse_wrong_ends([scorer.grade(group_of(rollout))], params)
    behind = dataclasses.replace(rollout, token_ids_T=np.asarray([END_ID, 5, 7, 7, 6, END_ID], np.int32))
    with pytest.raises(AhaError, match="go on behind an end token"):
        refuse_wrong_ends([scorer.grade(group_of(behind))], params)


def test_a_trajectory_comes_back_from_its_file_as_it_was(tmp_path):
    plain = Rollout(np.asarray([5, 6], np.int32), np.zeros(2, np.float32), "ab", "stop", 1.0, 0, 1)
    scorer = Scorer((RewardConfig("tests.unit.games:ones"),), GRPOConfig(), environments=(GUESS,))
    graded = scorer.grade(group_of(plain, two_and_six()))
    write_rollouts(tmp_path / "a.parquet", 0, [graded], full_precision=True)
    [(group, parts_G)] = read_rollouts(tmp_path / "a.parquet", [graded.group.prompt], [scorer.names])
    assert group.rollouts_G[0].episode is None
    back, was = group.rollouts_G[1], two_and_six()
    assert back.episode.sampled_T.tolist() == was.episode.sampled_T.tolist()
    assert back.episode.sampled_T.dtype == bool
    told = operator.attrgetter("environment", "turns", "rewards", "fault", "timed_out")
    assert told(back.episode) == told(was.episode)
    assert scorer.grade(group, parts_G).rewards_G == graded.rewards_G == [1.0, 2.0]


# ------------------------------------------------------------------------------------------------ before the run


def prompt_extras_of(cfg: EnvironmentConfig, rows: list[dict]) -> list[PromptExtras]:
    return prompt_extras(
        (cfg,), rows, lambda i: i, ScoringConfig(processes=1, memory_gib=2), lambda i: f"games.jsonl row {i}"
    )


def test_what_reset_says_and_the_tools_stand_beside_each_question():
    cfg = EnvironmentConfig("tests.unit.games:Counter", domains=("count",))
    found = prompt_extras_of(
        cfg, [{"domain": "count", "target": 3}, {"domain": "other"}, {"domain": "count", "target": 4}]
    )
    assert [b.opening for b in found] == [f"The counter is at 0. Bring it to {n}." if n else "" for n in (3, 0, 4)]
    assert [len(b.tools) for b in found] == [1, 0, 1]
    assert prompt_extras((), [{}], lambda i: i, ScoringConfig(), str) == []


def test_a_prompt_has_them_too():
    data = DataConfig("games.jsonl", template="plain", answer_field="")
    stream = PromptStream([{"prompt": "guess:"}], data, TOKENIZER, 0, 99, extras=[PromptExtras(opening="go on")])
    [prompt] = stream.take(1)
    assert (prompt.text, prompt.question) == ("guess:\n\ngo on", "guess:")
    smollm = AutoTokenizer.from_pretrained("models/SmolLM2-135M-Instruct")
    smollm.chat_template = "{{ tools }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = DataConfig("games.jsonl", template="chat", answer_field="")
    stream = PromptStream([{"prompt": "guess:"}], chat, smollm, 0, 99, extras=[PromptExtras(({"name": "look"},))])
    assert stream.take(1)[0].text == "[{'name': 'look'}]|guess:"


@pytest.mark.parametrize(
    ("cfg", "row", "says"),
    [
        (GUESS, {"number": 3}, "games.jsonl row 1: no field 'number', which reset() of tests.unit.games.Guess wants"),
        (
            EnvironmentConfig("tests.unit.games:Counter"),
            {"target": 1},
            "games.jsonl row 1: environment tests.unit.games.Counter: reset raised KeyError: 'target'",
        ),
    ],
)
def test_a_row_that_reset_cannot_begin_with_is_named(cfg, row, says):
    with pytest.raises(BadInput) as error:
        prompt_extras_of(cfg, [row, {"prompt": "?"}])
    assert says in str(error.value)


def test_an_environment_for_no_row_is_refused():
    idle = dataclasses.replace(GUESS, domains=("chess",))
    refuse_unused_environments((GUESS,), [{"domain": "go"}], "games.jsonl")
    with pytest.raises(BadInput, match=r"is for no row of games\.jsonl.*chess.*says go"):
        refuse_unused_environments((idle,), [{"domain": "go"}], "games.jsonl")


def test_rewards_read_what_the_model_wrote_and_the_turns_as_data():
    answered = dataclasses.replace(
        two_and_six(), episode=dataclasses.replace(two_and_six().episode, turns=(Turn("tool", "42", "python"),))
    )
    rewards = (RewardConfig("tests.unit.games:says_42"), RewardConfig("tests.unit.games:turns_of_tools"))
    scorer = Scorer(rewards, GRPOConfig(), environments=(GUESS,))
    parts = scorer.grade(group_of(answered)).parts_G[0]
    assert (parts["says_42"].score, parts["turns_of_tools"].score) == (0, 1)
