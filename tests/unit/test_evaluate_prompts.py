"""How an evaluation asks: instruction, worked examples, and problems that the training rows hold."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Never

import numpy as np
import pytest

from recipes.benchmarks import STEP_BY_STEP
from rl.config import (
    AskConfig,
    DataConfig,
    EvalConfig,
    GRPOConfig,
    MixConfig,
    MixPart,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SFTConfig,
    TrackConfig,
)
from rl.data.contamination import check_contamination, check_run, find_contamination
from rl.data.few_shot import ask, asked_prompts, evaluation_prompts, fill, shot_stop, worked_examples
from rl.recipe import SFT, Evaluate, Mix, Recipe, trained_on
from rl.scoring.reward_functions import RewardFunctions
from rl.stages.mix import mix
from rl.types import BadInput, Rollout, RolloutGroup
from rl.workflow.inputs import resolve_model
from rl.workflow.run import run
from rl.workflow.stage_folders import StageFolders
from tests.unit import recipe_runs


def test_a_worked_example_is_filled_in_and_the_question_put_the_same_way():
    shot = "Q: {prompt}\nA: {target} \\boxed{{answer}}"
    one = fill(shot, "1+{answer}?", "think", "2")
    assert one == "Q: 1+{answer}?\nA: think \\boxed{2}"
    assert ask("3+3?", "", shot, [one]) == f"{one}\n\nQ: 3+3?\nA:"
    assert ask("3+3?", "", shot, []) == "3+3?"
    assert ask("3+3? ", STEP_BY_STEP, shot, []) == f"3+3?\n{STEP_BY_STEP}"


def test_few_shot_completions_end_where_the_next_question_begins():
    assert shot_stop(AskConfig(shots=2)) == ("\n\nQuestion:",)
    assert shot_stop(AskConfig(shots=0)) == ()
    assert shot_stop(AskConfig(shots=2, shot="{prompt} {answer}")) == ()


@pytest.fixture
def train(tmp_path: Path) -> DataConfig:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"{i}+1?", "target": f"so {i + 1}", "answer": i + 1} for i in range(20)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return DataConfig(source=str(path), template="plain")


def test_examples_are_drawn_by_the_seed_and_are_never_what_is_asked(train: DataConfig):
    cfg = dataclasses.replace(EvalConfig(shots=3).ask, shots_data=train)
    asked = [f"{i}+1?" for i in range(10)]
    questions, drawn = zip(*worked_examples(cfg, 3, 1, asked, "evaluation"), strict=True)
    assert drawn == tuple(text for _, text in worked_examples(cfg, 3, 1, asked, "evaluation"))
    assert drawn != tuple(text for _, text in worked_examples(cfg, 3, 2, asked, "evaluation"))
    numbers = [int(text.split("+")[0].removeprefix("Question: ")) for text in drawn]
    assert min(numbers) >= 10
    assert list(questions) == [f"{i}+1?" for i in numbers]
    assert drawn[0] == f"Question: {numbers[0]}+1?\nAnswer: so {numbers[0] + 1}\n\\boxed{{{numbers[0] + 1}}}"
    with pytest.raises(
        BadInput, match=r"^reject\.ask\.shots=11: .* has only 10 questions that are not among the prompts themselves"
    ):
        worked_examples(dataclasses.replace(cfg, shots=11), 11, 1, asked, "reject.ask")


def test_a_question_that_is_sampled_is_never_its_own_example(train: DataConfig, tokenizer):
    rows = [{"prompt": f"{i}+1?", "target": f"so {i + 1}", "answer": str(i + 1)} for i in range(20)]
    cfg = AskConfig("Reflect.", 2, train)
    found = asked_prompts(rows, train, cfg, tokenizer, 500, 1, "reject.ask")
    assert [p.row for p in found] == rows
    for i, prompt in enumerate(found):
        *examples, asked = prompt.text.split("\n\n")
        assert asked == f"Question: {i}+1?\nReflect.\nAnswer:"
        assert len(examples) == 2
        assert not any(text.startswith(f"Question: {i}+1?") for text in examples)
    assert len({p.text.partition("\n\n")[0] for p in found}) == 2  # one example is another where it would be itself
    with pytest.raises(BadInput, match=r"reject\.ask\.shots=20: 21 examples are needed, and .* has only 20 questions"):
        asked_prompts(rows, train, dataclasses.replace(cfg, shots=20), tokenizer, 5000, 1, "reject.ask")


def test_examples_are_of_different_questions_where_rows_repeat_them(tmp_path: Path, tokenizer):
    rows = [{"prompt": p, "target": f"t{i}"} for i, p in enumerate("aaaab")]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = DataConfig(source=str(tmp_path / "r.jsonl"), template="plain", answer_field="")
    for seed in range(8):
        found = asked_prompts(rows, data, AskConfig("", 1, data), tokenizer, 500, seed, "reject.ask")
        assert [p.text.startswith("Question: b\nAnswer: t4\n\nQuestion: a") for p in found] == [True] * 4 + [False]


def test_a_form_holds_the_question_and_what_else_the_row_has(tokenizer):
    rows = [{"prompt": "1+1?", "target": "it is {prompt}", "answer": "2"}]
    data = DataConfig(source="x.jsonl", template="plain")
    cfg = AskConfig("Be brief.", form="Improve this.\n{prompt}\n{target} ({answer})")
    (found,) = asked_prompts(rows, data, cfg, tokenizer, 500, 1, "reject.ask")
    assert found.text == "Improve this.\n1+1?\nit is {prompt} (2)\nBe brief."
    assert (found.question, found.for_rewards, found.row) == ("1+1?", "1+1?", rows[0])


def test_an_answer_in_what_was_added_to_the_question_is_not_copied_from_it(tokenizer):
    rows = [{"prompt": "What is 30 times 120?", "target": "It is 3600 \\text{ cm}.", "answer": "3600"}]
    data = DataConfig(source="x.jsonl", template="plain")
    (found,) = asked_prompts(rows, data, AskConfig(form="{prompt} {target}"), tokenizer, 500, 1, "reject.ask")
    tokens = np.zeros(3, np.int32)
    sample = Rollout(tokens, np.zeros(3, np.float32), "So \\boxed{3600 \\text{ cm}}", "stop", 1.0, 0, 0)
    group = RolloutGroup(found, [sample])
    ((part,),) = (
        parts.values() for parts in RewardFunctions((RewardConfig("accuracy"),)).call_all(group, ["accuracy"])
    )
    assert part.verdict == "correct", part.reason


def test_prompts_that_are_too_long_with_what_is_added_are_dropped_where_that_is_asked_for(tokenizer, caplog):
    rows = [{"prompt": "x" * n, "answer": str(n)} for n in (3, 30, 5)]
    data = DataConfig(source="x.jsonl", template="plain", long_prompts="drop")
    found = asked_prompts(rows, data, AskConfig("Be brief."), tokenizer, 20, 1, "reject.ask")
    assert [(p.id, p.row, p.question) for p in found] == [(0, rows[0], "xxx"), (2, rows[2], "xxxxx")]
    assert "dropped 1 of 3 prompts, which are longer than 20 tokens" in caplog.text


def test_a_prompt_carries_the_instruction_but_its_row_stays_as_it_was(train: DataConfig, tokenizer):
    rows = [{"prompt": "99+1?", "answer": "100"}]
    plain = DataConfig(source="x.jsonl", template="<<{prompt}>>")
    cfg = EvalConfig(data=plain, instruction="Think.", shots=1)
    (found,) = evaluation_prompts(rows, cfg, train, tokenizer, 500, seed=1)
    assert found.text.startswith("<<Question: ")
    assert found.text.endswith("\n\nQuestion: 99+1?\nThink.\nAnswer:>>")
    assert found.row == rows[0]
    assert (found.question, found.for_rewards) == ("99+1?", "<<99+1?>>")
    assert found.asked.endswith("\n\nQuestion: 99+1?\nThink.\nAnswer:")
    assert found.reference == "100"
    assert tokenizer.decode(found.token_ids) == found.text
    (bare,) = evaluation_prompts(rows, EvalConfig(data=plain), train, tokenizer, 500, seed=1)
    assert bare.text == "<<99+1?>>"


# ------------------------------------------------------------------------------------------------ contamination

LONG = "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins."


def test_a_problem_that_shares_ten_words_with_a_training_row_is_found():
    training = [
        "nothing here",
        "As we know, janet's ducks lay 16 eggs per day, she eats three for herself",
        "What is 1 + 2",
    ]
    found = find_contamination(["Where is Rome?", LONG, "what is 1 + 2?", "What is 1 + 3?"], training)
    assert found.problems == {1: "ducks lay 16 eggs per day she eats three for", 2: "what is 1 2"}
    assert (found.training_rows, found.num_problems, found.num_rows, found.share) == (2, 4, 3, 0.5)


def test_the_wording_that_all_problems_of_a_task_share_is_no_contamination():
    def task(numbers: str) -> str:
        return f"Using the numbers {numbers}, write an equation that equals 24. Each number may be used only once."

    problems = [task(f"{i} {i + 1} {i + 2}") for i in range(8)]
    assert find_contamination(problems, [task("50 51 52")]).problems == {}
    assert list(find_contamination(problems, [task("3 4 5")]).problems) == [3]


def test_contamination_is_reported_or_refused(caplog):
    with caplog.at_level(logging.INFO):
        check_contamination([LONG], ["another text"], "warn", "evaluation")
        assert "none of 1 evaluation problems shares 10 words in a row with the 1 training texts" in caplog.text
        check_contamination([LONG], [LONG], "warn", "evaluation")
    assert "1 of 1 evaluation problems share 10 words" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == "WARNING"
    with pytest.raises(BadInput, match="problem 1: '16 eggs"):
        check_contamination([LONG], [LONG], "error", "evaluation")


def test_a_runs_training_rows_are_looked_through_whatever_their_form(tmp_path: Path, train: DataConfig):
    def written(name: str, *rows: dict) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    held_out = DataConfig(source=written("eval.jsonl", {"prompt": LONG, "answer": "1"}))
    chats = DataConfig(source=written("c.jsonl", {"m": [{"role": "user", "content": LONG}]}), messages_field="m")
    documents = DataConfig(source=written("d.jsonl", {"text": f"{LONG} So she sells"}), text_field="text")
    targets = DataConfig(source=written("t.jsonl", {"prompt": "x", "target": LONG}))
    clean = RunConfig(evaluation=EvalConfig(data=held_out), prompts=train)
    assert [found.problems for found in check_run(clean)] == [{}]
    assert check_run(dataclasses.replace(clean, grpo=GRPOConfig(steps=0))) == []
    for data in (chats, documents, targets):
        found = check_run(dataclasses.replace(clean, sft=SFTConfig(steps=1, data=data)))
        assert [list(one.problems) for one in found] == [[], [0]]
    strict = EvalConfig(data=held_out, contamination="error")
    with pytest.raises(BadInput, match=r"eval.jsonl in .*c.jsonl: 1 of 1 evaluation problems share"):
        check_run(dataclasses.replace(clean, evaluation=strict, sft=SFTConfig(steps=1, data=chats)))


def no_machines(*args: object) -> Never:
    raise AssertionError("machines were started")


def taught(folder: Path, mixed: str, later: str) -> Recipe:
    """A mixture, SFT of it, SFT of other rows, and an evaluation of "reverse 333:". mixed, later: what is trained on."""
    folder.mkdir()

    def written(name: str, prompt: str) -> DataConfig:
        (folder / name).write_text(json.dumps({"prompt": prompt, "target": "888", "answer": "888"}))
        return DataConfig(source=str(folder / name), template="{prompt} ")

    first, second, held_out = written("1.jsonl", mixed), written("2.jsonl", later), written("3.jsonl", "reverse 333:")
    from_mixed = dataclasses.replace(second, source="@mixed")
    rewards, rollout = (RewardConfig("accuracy"),), RolloutConfig(max_new_tokens=8)
    stages = (
        Mix("mixed", MixConfig(parts=(MixPart(first),))),
        SFT("one", "recipes.tiny_model:tied", SFTConfig(steps=1, data=from_mixed)),
        SFT("two", "@one", SFTConfig(steps=1, data=second)),
        Evaluate("ev", "@two", rewards, rollout, EvalConfig(data=held_out, contamination="error")),
    )
    base = RunConfig(model=ModelConfig(dtype="float32"), track=TrackConfig(wandb="off"))
    return Recipe("taught", base, stages, out=str(folder / "runs"))


def test_an_evaluation_is_compared_with_what_earlier_stages_trained_its_model_on(tmp_path: Path):
    clean = taught(tmp_path / "clean", "reverse 111:", "reverse 222:")
    assert [Path(data.source).name for data in trained_on(clean, clean["ev"])] == ["2.jsonl", "@mixed"]
    assert trained_on(clean, clean["one"]) == []
    held_out = clean["ev"].evaluation.data  # type: ignore[attr-defined]
    mixed = Mix("mixed", dataclasses.replace(clean["mixed"].mix, against=(held_out,)))  # type: ignore[attr-defined]
    freed = dataclasses.replace(clean, stages=(mixed, *clean.stages[1:]))
    assert [Path(data.source).name for data in trained_on(freed, freed["ev"])] == ["2.jsonl"]
    StageFolders(clean).check(StageFolders(clean).plan())
    dirty = taught(tmp_path / "dirty", "reverse 111:", "reverse 333")
    with pytest.raises(BadInput, match=r"stage ev: .*3.jsonl in .*2.jsonl: 1 of 1 evaluation problems share"):
        StageFolders(dirty).check(StageFolders(dirty).plan())


def test_data_that_a_stage_made_are_looked_through_before_the_evaluation_starts(tmp_path: Path):
    recipe = taught(tmp_path / "dirty", "reverse 333", "reverse 222:")
    recipe.folder.mkdir(parents=True)
    for number, stage in enumerate(recipe.stages[:3]):
        folder = recipe_runs.begin(recipe, number)
        if isinstance(stage, Mix):
            mix(folder, stage.mix, 1)
        else:
            shutil.copytree(resolve_model("recipes.tiny_model:tied"), folder / "model")
        recipe_runs.end(recipe, number, folder)
    with pytest.raises(BadInput, match=r"3.jsonl in .*mixed.*data.jsonl: 1 of 1 evaluation problems share"):
        run(recipe, no_machines, no_machines)
