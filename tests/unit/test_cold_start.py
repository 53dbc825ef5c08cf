"""recipes/cold_start.py: the three sources of a cold start, asked of a server of the test's own; and R1's data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from recipes import cold_start, r1, r1_general, r1_reasoning
from rewards.accuracy import accuracy
from rewards.code import code_accuracy
from rewards.format import format_r1
from rl.config import ModelConfig, RunConfig, TrackConfig
from rl.data.rows import load_rows
from rl.data.streams import all_prompts
from rl.recipe import Build, Recipe, Reject, Stage, run_config
from rl.scoring.reward_functions import refuse_style_alone
from rl.scoring.reward_processes import LocalRewardWorker
from rl.scoring.routing import named, refuse_unused, unrewarded
from rl.settings.recipe_checks import check
from rl.stages.build import build
from rl.types import Row
from rl.workflow.run import run
from tests.unit.test_teacher import Request, Server, no_machines, server  # noqa: F401

QUESTIONS = ("What is one plus one?", "What is one plus two?", "What is two plus two?")


def solution(number: int, chain: str = "I add the two numbers and count on my fingers again.") -> str:
    return f"<think>{chain}</think> <answer>The sum is \\boxed{{{number}}}.</answer>"


def zero_rows(sources: dict[str, list[Row]]) -> list[Row]:
    """In place of R1-Zero's samples."""
    return [
        {"problem": q, "prompt": q, "answer": str(i + 2), "target": solution(i + 2, "zwei plus")}
        for i, q in enumerate(QUESTIONS)
    ]


def of_zero(stages: list[Stage]) -> list[Stage]:
    assert stages[0].name == "zero_samples"
    return [Build("zero_samples", "tests.unit.test_cold_start:zero_rows", ()), *stages[1:]]


@pytest.fixture
def recipe(server: Server, tmp_path: Path, tokenizer: Any) -> Recipe:  # noqa: F811
    """The recipe with its questions and tokenizer in a folder."""
    model = tmp_path / "tokens"
    tokenizer.save_pretrained(model)
    LlamaConfig(vocab_size=300, max_position_embeddings=64).save_pretrained(model)
    rows = [{"problem": q, "answer": str(i + 2)} for i, q in enumerate(QUESTIONS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made, last = cold_start.stages("zero", server.url, "big-teacher", 3)
    assert last == f"@{made[-1].name}"
    local: list[Stage] = []
    for stage in of_zero(made):
        if isinstance(stage, Reject):
            here = str(tmp_path / "problems.jsonl")
            source = stage.prompts.source if stage.prompts.source.startswith("@") else here
            teacher = replace(stage.reject.teacher, retries=0)
            stage = replace(
                stage, model=str(model), prompts=replace(stage.prompts, source=source),
                reject=replace(stage.reject, teacher=teacher),
            )  # fmt: skip
        local.append(stage)
    base = RunConfig(model=ModelConfig(dtype="float32"), track=TrackConfig(wandb="off"))
    return Recipe("cold", base, tuple(local), out=str(tmp_path / "runs"))


REFINING = cold_start.REFINE.partition("{prompt}")[0]


def asked(request: Request) -> str:
    (message,) = request["messages"]
    return str(message["content"])


def test_three_sources_are_asked_rewarded_and_mixed_under_the_bare_question(server, recipe):  # noqa: F811
    def reply(request: Request) -> dict[str, Any]:
        text = asked(request)
        last = max(range(len(QUESTIONS)), key=lambda i: text.rfind(QUESTIONS[i]))
        if cold_start.REFLECT in text and last == 2:
            return {"content": solution(5)}  # a wrong sum: dropped
        if REFINING in text and last == 1:
            return {"content": "The sum is 3."}  # without its form: dropped
        return {"content": solution(last + 2, f"Let me count, for the {len(server.asked)}th time.")}

    server.reply = reply
    folder = run(recipe, no_machines, LocalRewardWorker, prepare_machines=lambda: no_machines(recipe.base))
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    kept = {(row["domain"], row["prompt"]) for row in rows}
    expected = set(itertools.product(("refined", "few_shot", "reflected"), QUESTIONS))
    assert kept == expected - {("reflected", QUESTIONS[2]), ("refined", QUESTIONS[1])}
    assert all(accuracy(row["target"], answer=row["answer"]).value == 1 for row in rows)
    assert all(format_r1(row["target"]).value == 1 for row in rows)
    requests = [asked(request) for request in server.asked]
    refining = [text for text in requests if text.startswith(REFINING)]
    assert len(refining) == 3
    assert all("Draft:\n<think>zwei plus</think>" in text for text in refining)
    shown = [text for text in requests if "Solution:\n<think>" in text]
    assert len(shown) == 3
    assert all(text.endswith("\n\nSolution:") and text.count("Question:\n") == 2 for text in shown)
    assert all(len({q for q in QUESTIONS if q in text}) == 2 for text in shown)  # its example is another question
    assert sum(text.endswith(cold_start.REFLECT) for text in requests) == 3


def test_without_an_endpoint_zeros_samples_are_the_cold_start():
    made, last = cold_start.stages("zero", "", "writer", 3)
    assert [s.name for s in made] == ["zero_samples"]
    assert last == "@zero_samples"


# ------------------------------------------------------------------------------------------------ R1's data


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few rows in the shape of each dataset."""
    stdin = [{"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}]
    call = [{"fn_name": "f", "input": "1", "output": "2", "type": "function_call"}]
    long = [{"fn_name": None, "input": "9" * 60_000, "output": "9" * 60_000, "type": "stdin_stdout"}]
    said = "It is a long way, and there are many things to see on it, so take your time."
    talks = [
        ("hello", "hi"),
        ("", "an empty question"),
        ("blank", " "),
        *((f"please write to my friend number {i} about the sea", said) for i in range(40)),
    ]
    found = {
        "open-r1/OpenR1-Math-220k": [{"problem": "1+1?", "answer": "2"}, {"problem": "2?", "answer": None}],
        "HuggingFaceH4/aime_2024": [{"problem": "A number?", "answer": "7"}],
        "open-r1/verifiable-coding-problems-python": [
            {"problem_statement": name, "verification_info": {"language": "python", "test_cases": cases}}
            for name, cases in (("add", stdin), ("f", call), ("both", stdin + call), ("nines", long))
        ],
        "allenai/sciq": [
            {"question": f"Which {i}?", "correct_answer": "right", "distractor1": "x", "distractor2": "y", "distractor3": "z"}
            for i in range(20)
        ],
        "allenai/tulu-3-sft-mixture": [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in talks
        ] + [{"messages": [{"role": "user", "content": "of three"}] * 3}],
        "PKU-Alignment/BeaverTails": [
            {"prompt": p, "response": r, "is_safe": s} for p, r, s in (("a", "b", True), ("a", "b", True), ("a", "c", False))
        ],
    }  # fmt: skip
    for module in (r1_reasoning, r1_general):
        monkeypatch.setattr(module, "read", lambda name, split="train", streaming=False: iter(found[name]))
    cached = (
        r1_reasoning.math_prompts,
        r1_reasoning.code_prompts,
        r1_reasoning.stem_prompts,
        r1_reasoning.logic_prompts,
    )
    for make in cached:
        make.cache_clear()
    monkeypatch.setattr(
        r1_reasoning, "logic_prompts", lambda: [{"prompt": "p", "question": "p", "answer": "a", "domain": "logic"}]
    )
    yield
    for make in cached:
        make.cache_clear()


def test_programs_come_with_tests_that_the_reward_reads(hub):
    (row,) = r1_reasoning.code_prompts()  # neither calls of a function nor tests of megabytes
    assert (row["prompt"], row["domain"]) == ("add", "code")
    unsafe = {"run_untrusted_code_without_sandbox": True}
    for sign, value in (("+", 1.0), ("-", 0.0)):
        program = f"```python\na, b = map(int, input().split())\nprint(a {sign} b)\n```"
        assert code_accuracy(program, tests=row["tests"], **unsafe).value == value


def test_options_lie_in_an_order_of_their_own_and_the_answer_is_the_right_ones_letter(hub):
    rows = r1_reasoning.stem_prompts()
    for row in rows:
        assert f"\n{row['answer']}. right\n" in str(row["prompt"])
        assert accuracy(f"<think>hm</think> <answer>{row['answer']}</answer>", answer=row["answer"]).value == 1
    assert {row["answer"] for row in rows} == set("ABCD")
    assert rows == r1_reasoning.stem_prompts()


def test_some_requests_get_a_chain_and_short_ones_none(hub):
    rows = r1_general.general_rows({})
    assert len(rows) == 41  # the conversation of three turns is none
    thought, plain = (make({"@general": rows}) for make in (r1_general.worth_a_chain, r1_general.without_a_chain))
    assert {str(r["prompt"]) for r in thought} | {str(r["prompt"]) for r in plain} == {str(r["prompt"]) for r in rows}
    assert len(thought) + len(plain) == len(rows)
    assert 8 < len(thought) < 32
    assert "hello" in {row["prompt"] for row in plain}


def test_labels_of_safety_are_of_distinct_responses(hub):
    assert [(row["response"], row["label"]) for row in r1_general.safety_rows()] == [("b", 1), ("c", 0)]


def test_r1s_stages_sample_by_domain_and_mix_by_table_5():
    assert sum(r1.QUOTAS.values()) + r1.GENERAL_QUOTA == 804_745
    for url in ("", "http://127.0.0.1:9/v1"):
        made = r1.recipe(writer_url=url)
        check(made)
        mix: Any = made["mixture"]
        assert sum(part.quota for part in mix.mix.parts) == 804_745
        for domain, rule in (("math", "accuracy"), ("code", "code_accuracy"), ("logic", "reasoning_gym")):
            sampled: Any = made[f"{domain}_samples"]
            assert [r.function for r in sampled.rewards] == [rule, "format"]
        assert ("general_chains" in [s.name for s in made.stages]) == bool(url)


def test_every_function_of_r1s_recipe_gives_rows_that_its_stages_can_read(hub, tmp_path, tokenizer):
    made = r1.recipe(writer_url="http://127.0.0.1:9/v1", judge_url="http://127.0.0.1:9/v1")
    check(made)
    built: dict[str, str] = {}
    for stage in made.stages:
        if isinstance(stage, Build):
            (tmp_path / stage.name).mkdir()
            sources = {text: built[text] for text in stage.sources}
            built[f"@{stage.name}"] = str(build(tmp_path / stage.name, stage.function, sources))
    assert set(built) == {"@general", "@general_plain", "@general_questions"}
    for stage in made.stages:
        cfg = run_config(made, stage)
        for data, rewards in ((cfg.prompts, cfg.rewards), (cfg.evaluation.data, cfg.rewards)):
            if data.source not in built and not data.source.startswith("recipes."):
                continue  # from the Hub, from samples, or none
            rows = load_rows(replace(data, source=built.get(data.source, data.source)))
            parts = named(rewards)
            refuse_unused({n: p for n, p in parts.items() if not p.domains}, rows, data.source)
            assert not unrewarded(parts, rows, 0)
            if data is cfg.evaluation.data:
                refuse_style_alone(parts, rows, data.source)
            prompts = all_prompts(rows, data, tokenizer, 100_000)
            assert [p.question for p in prompts] == [row["question"] for row in rows]


def test_r1s_machines_are_those_that_it_names():
    made = r1.recipe(writer_url="http://127.0.0.1:9/v1", judge_url="http://127.0.0.1:9/v1")
    for recipe, gpus in ((made, 48), (cold_start.recipe(url="http://127.0.0.1:9/v1"), 8)):
        base = recipe.base
        models = [len([r for r in getattr(s, "rewards", ()) if r.function.startswith("model:")]) for s in recipe.stages]
        assert base.learner.ranks + base.sampler.count * base.sampler.tensor_parallel + max(models) <= gpus
