"""rl/stages/reject.py, mix.py: what is kept, what a mixture holds, what is built from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.r1_mini import READABLE
from rl.backend import SampleParams
from rl.config import AskConfig, DataConfig, MixConfig, MixPart, RejectConfig, RewardConfig, RunConfig, TrackConfig
from rl.context import Context, Stop
from rl.records.tracker import Tracker
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.scorer import Scorer
from rl.stages.build import build
from rl.stages.mix import mix
from rl.stages.reject import reject
from rl.stages.sample_files import read_samples, write_kept
from rl.stages.selection import sample_reasons
from rl.types import (
    BadInput,
    GradedGroup,
    Prompt,
    Queue,
    RewardPart,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    Stopped,
    Verdict,
)
from tests.check_picks import faults

ENGLISH = "We put the two numbers together, and then we look at what comes out of it."
GERMAN = "Wir legen die beiden Zahlen zusammen, und dann sehen wir nach, was dabei herauskommt."
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
    return [r.partition(":")[0] for r in sample_reasons(graded, "accuracy", RejectConfig(**settings))]  # type: ignore[arg-type]


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
    assert sample_reasons(good, "accuracy", shortest) == [
        "surplus: keep=shortest, 1 of 2", "kept: shortest", f"not correct: {Verdict.WRONG}",
    ]  # fmt: skip
    assert sample_reasons(good, "accuracy", everything)[:2] == ["kept: all"] * 2


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


@pytest.mark.parametrize("language", [None, "python"])
def test_the_language_filter_keeps_what_the_language_reward_pays_for(language: str | None) -> None:
    german, english = (f"<think>{chain}</think> <answer>2</answer>" for chain in (GERMAN, ENGLISH))
    graded = group((german, RIGHT), (english, RIGHT))
    prompt = replace(
        graded.group.prompt, text=f"{ENGLISH} User: {GERMAN} Assistant:", question=GERMAN, row={"language": language}
    )
    graded = replace(graded, group=replace(graded.group, prompt=prompt))
    functions = RewardFunctions([RewardConfig("language_consistency")])
    paid = [parts["language_consistency"].score for parts in functions.call_all(graded.group, functions.names)]
    assert paid == [1.0, 0.0]
    assert fates(graded, min_language_share=0.9) == ["kept", "language"]


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


def test_an_evaluation_set_without_the_questions_column_is_an_error(tmp_path: Path) -> None:
    part = MixPart(dataset(tmp_path / "a.jsonl", ("a", "t")))
    other = tmp_path / "aime.jsonl"
    other.write_text('{"problem": "What is 6 x 7?"}\n')
    with pytest.raises(BadInput, match=r"aime\.jsonl line 1: no field 'prompt'; there are: problem"):
        mix(tmp_path, MixConfig(parts=(part,), against=(DataConfig(source=str(other)),)), 1)
    found = DataConfig(source=str(other), prompt_field="problem")
    _, manifest = mixed(tmp_path, MixConfig(parts=(part,), against=(found,)))
    assert (manifest["against"], manifest["evaluation_ngrams"]) == ([str(other)], 1)


def test_a_part_too_small_for_its_quota_is_an_error_unless_short_is_take(tmp_path: Path) -> None:
    part = MixPart(dataset(tmp_path / "a.jsonl", ("a", "t"), ("a", "t")), 2)
    with pytest.raises(BadInput, match=r"gives 1 rows \(of 2, 1 duplicates .* but its quota is 2"):
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
    build(tmp_path, "recipes.journeys:journeys", {"@all/samples.jsonl": str(source)})
    (row,) = [json.loads(text) for text in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert row["target"].startswith("<think>oops so it is 2. wait, that is wrong. let us look again. right</think>")
    build(tmp_path, "recipes.journeys:shortcuts", {"@all/samples.jsonl": str(source)})
    assert json.loads((tmp_path / "data.jsonl").read_text())["target"] == right


def test_a_journey_needs_no_opening_tag_and_no_language_and_names_one_it_has_no_words_in(tmp_path: Path) -> None:
    def sample(text: str, verdict: str) -> dict[str, object]:
        return {"text": text, "verdicts": {"accuracy": verdict, "format": "correct"}}

    source = tmp_path / "samples.jsonl"
    samples = [
        sample("oops</think> <answer>2</answer>", "wrong"),
        sample("right</think> <answer>1</answer>", "correct"),
    ]

    def made(function: str, **row: object) -> str:
        line = {"prompt_id": 0, "row": {"prompt": "p", **row}, "answer": "1", "samples": samples}
        source.write_text(json.dumps(line) + "\n")
        build(tmp_path, f"recipes.journeys:{function}", {"@all/samples.jsonl": str(source)})
        return str(json.loads((tmp_path / "data.jsonl").read_text())["target"])

    right = "right</think> <answer>1</answer>"
    assert made("journeys") == f"<think>oops so it is 2. wait, that is wrong. let us look again. {right}"
    assert made("shortcuts") == f"<think>{right}"
    assert "halt, das ist falsch" in made("journeys", language="de")
    with pytest.raises(BadInput, match="no words to notice a mistake in 'zh'"):
        made("journeys", language="zh")


def test_a_mixture_may_be_mixed_again_where_a_row_has_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    path.write_text('{"prompt": "a poem", "target": "t", "answer": null}\n')
    rows, _ = mixed(tmp_path, MixConfig(parts=(MixPart(DataConfig(source=str(path))),)))
    again = DataConfig(source=str(tmp_path / "data.jsonl"))
    (tmp_path / "again").mkdir()
    assert mixed(tmp_path / "again", MixConfig(parts=(MixPart(again),)))[0] == rows


KEPT = {
    "prompt": "1 + 2?", "answer": "3", "original_answer": "1 + 2 = <<1+2=3>>3.\n$<<3*1=3>>3 it is.\n#### 3",
    "target": "<think>easy: 3</think> <answer>3</answer>",
}  # fmt: skip


def test_three_targets_are_made_of_the_same_solved_problems(tmp_path: Path) -> None:
    opened_by_the_template = KEPT | {"prompt": "2 + 2?", "answer": "4", "chain": "2, 4.", "target": "4</think> 4"}
    source = tmp_path / "picks.jsonl"
    source.write_text(
        "".join(json.dumps(row) + "\n" for row in (KEPT, KEPT | {"target": "a second"}, opened_by_the_template))
    )
    expected = {
        "answers": ("<answer>3</answer>", "<answer>4</answer>"),
        "human_chains": (
            "<think>1 + 2 = 3.\n$3 it is.</think> <answer>3</answer>",
            "<think>2, 4.</think> <answer>4</answer>",
        ),
        "teacher_chains": ("<think>easy: 3</think> <answer>3</answer>", "<think>4</think> <answer>4</answer>"),
    }
    for name, targets in expected.items():
        build(tmp_path, f"recipes.targets:{name}", {"@picks": str(source)})
        rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
        assert [r["prompt"] for r in rows] == ["1 + 2?", "2 + 2?"]
        assert tuple(r["target"] for r in rows) == targets


def test_a_problem_without_a_humans_chain_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "1?", "answer": "1", "target": "1"}) + "\n")
    with pytest.raises(BadInput, match="has prompt, answer, target, neither chain nor original_answer"):
        build(tmp_path, "recipes.targets:human_chains", {"@picks": str(tmp_path / "p.jsonl")})


# ------------------------------------------------------------------------------------------------ asked with examples


class OneText:
    """A backend whose every sample is the same text."""

    def __init__(self, cfg: RunConfig, text: str) -> None:
        self.reward_functions, self.text, self.stops = RewardFunctions(cfg.rewards), text, set[tuple[str, ...]]()

    def load(self, task: object) -> None:
        """There are no weights."""

    def sync_weights(self, version: int) -> None:
        """There are no weights."""

    def rollouts(self, requests: list[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        self.stops.add(params.stop)
        for r in requests:
            tokens = np.zeros(7, np.int32)
            one = Rollout(tokens, np.zeros(7, np.float32), self.text, "stop", 1.0, 0, 0)
            yield r.group, [one for _ in r.seeds_G]

    def ask_rewards(self, group: RolloutGroup, names: list[str]) -> Callable[[], RewardReport]:
        return lambda: RewardReport(self.reward_functions.call_all(group, names))

    def queue(self) -> Queue:
        return Queue()


class Scripted(OneText):
    """A sampler of texts that are written down, by prompt."""

    def __init__(self, cfg: RunConfig, texts_PG: list[list[str]]) -> None:
        super().__init__(cfg, "")
        self.texts_PG = texts_PG

    def rollouts(self, requests: list[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        for r in requests:
            texts = self.texts_PG.pop(0)
            tokens = [np.zeros(len(text.split()), np.int32) for text in texts]
            yield (
                r.group,
                [
                    Rollout(t, np.zeros(len(t), np.float32), text, "stop", 1.0, 0, 0)
                    for t, text in zip(tokens, texts, strict=True)
                ],
            )


EN = "<think>First we add 4 to the number 12 and get 16.</think> <answer>16</answer>"
MIXED = "<think>Zuerst legen wir 4 zu der Zahl 12 dazu and then we get all of it as 16.</think> <answer>16</answer>"
SUM, REVERSED = "What is 12 plus 4?", "reverse 12:"
BACK = "<think>the digits are 1, 2. from the end we read 2, 1.</think> <answer>21</answer>"


def picked(
    tmp_path: Path, tokenizer: object, *asked: tuple[str, str, list[str]], done: int = 0, stopping: bool = False,
    **settings: object,
) -> Path:  # fmt: skip
    """The folder of a rejection stage with the miniature's filters: (question, answer, samples) each.

    done: how many of the questions were sampled before. stopping: the user has pressed Ctrl-C already.
    """
    rewards = (RewardConfig("accuracy"), RewardConfig("format"))
    cfg = RunConfig(name="run", out=str(tmp_path), track=TrackConfig(wandb="off"), rewards=rewards)
    chosen = replace(READABLE, samples=len(asked[0][2]), **settings)  # type: ignore[arg-type]
    prompts = [Prompt(i, i, [1], q, a, {"prompt": q, "answer": a}, question=q) for i, (q, a, _) in enumerate(asked)]
    stop = Stop()
    stop.requested = stopping
    with Tracker(cfg.run_dir, cfg.track, name="run") as tracker:
        ctx = Context(cfg, Scripted(cfg, [texts for _, _, texts in asked[done:]]), tokenizer, tracker, stop, 0)  # type: ignore[arg-type]
        reject(ctx, "", prompts, Scorer(cfg.rewards, cfg.grpo), chosen)
    return cfg.run_dir


def test_a_stop_ends_the_sampling_after_a_chunk_and_the_same_command_samples_the_rest(
    tmp_path: Path, tokenizer: object
) -> None:
    other = BACK.replace("1, 2.", "1, 2,")
    asked = (SUM, "16", [EN]), (REVERSED, "21", [BACK]), (f"{REVERSED} now", "21", [other])
    with pytest.raises(Stopped, match=r"^stopped after 1 of 3 prompts; the same command goes on from there$"):
        picked(tmp_path, tokenizer, *asked, chunk_prompts=1, stopping=True)
    folder = tmp_path / "run"
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 1
    assert not (folder / "data.jsonl").exists()
    picked(
        tmp_path, tokenizer, *asked, done=1, chunk_prompts=2, stopping=True
    )  # in the last chunk nothing is left to stop
    assert [json.loads(line)["target"] for line in (folder / "data.jsonl").read_text().splitlines()] == [
        EN,
        BACK,
        other,
    ]


def test_what_is_kept_is_right_in_one_language_and_never_twice_by_a_check_of_its_own(
    tmp_path: Path, tokenizer: object
) -> None:
    wrong, formless = EN.replace("<answer>16", "<answer>17"), "16"
    folder = picked(
        tmp_path, tokenizer,
        (SUM, "16", [wrong, MIXED, formless, EN, EN.replace(" ", "  ")]),
        (SUM, "16", [EN, EN, wrong, MIXED, EN + "\n"]),  # the same question in another row
        (REVERSED, "21", [BACK, wrong, BACK, formless, BACK.replace("read", "wir lesen und haben")]),
        keep="all",
    )  # fmt: skip
    assert faults(folder) == []
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["target"]) for row in rows] == [(SUM, EN), (REVERSED, BACK)]
    told = json.loads((folder / "yield.json").read_text())["by_reason"]
    assert (told["kept"], told["duplicate"], sum(told.values())) == (2, 5, 15)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"correct": False, "min_score": -9}, "is 16, not '17'"), ({"min_language_share": 0}, "in en: "),
     ({"min_score": -9, "correct": False}, "not in the form")],
)  # fmt: skip
def test_the_check_finds_what_a_filter_that_is_off_lets_through(
    tmp_path: Path, tokenizer: object, settings: dict[str, object], said: str
) -> None:
    samples = [EN.replace("<answer>16", "<answer>17"), MIXED, "no form"]
    folder = picked(tmp_path, tokenizer, (SUM, "16", samples), keep="all", **settings)
    assert any(said in fault for fault in faults(folder))


@pytest.mark.parametrize("shots", [0, 1])
def test_after_worked_examples_a_sample_ends_where_it_would_go_on_to_the_next_question(
    tmp_path: Path, tokenizer: object, shots: int
) -> None:
    text = "<think>a</think> <answer>2</answer>\n\nQuestion: what else?"
    cfg = RunConfig(
        name="run", out=str(tmp_path), track=TrackConfig(wandb="off"), rewards=(RewardConfig("format"),)
    )  # fmt: skip
    backend = OneText(cfg, text)
    with Tracker(cfg.run_dir, cfg.track, name="run") as tracker:
        ctx = Context(cfg, backend, tokenizer, tracker, Stop(), 0)  # type: ignore[arg-type]
        chosen = RejectConfig(samples=2, keep="all", ask=AskConfig("", shots, DataConfig(source="x.jsonl")))
        prompts = [Prompt(0, 0, [1], "1 + 1?", "2", {"prompt": "1 + 1?"})]
        reject(ctx, "", prompts, Scorer(cfg.rewards, cfg.grpo), chosen)
    targets = [json.loads(line)["target"] for line in (cfg.run_dir / "data.jsonl").read_text().splitlines()]
    assert targets == ["<think>a</think> <answer>2</answer>"] * shots  # once; without examples it is out of form
    assert backend.stops == {("\n\nQuestion:",) if shots else ()}
