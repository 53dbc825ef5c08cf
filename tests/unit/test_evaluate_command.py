"""`aha eval`: what is asked becomes a config, the sets are read as they are, and R1's protocol is R1's."""

from __future__ import annotations

import dataclasses
import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from launch.evaluate import Asked, build, contamination, context_needed, training_rows
from launch.evaluation_tables import table
from recipes.benchmarks import AIME, BENCHMARKS, GSM8K, MATH500, STEP_BY_STEP, r1_protocol
from rl.config import DataConfig, EvalConfig, SearchConfig
from rl.data.rows import load_rows, place
from rl.data.templates import Table
from rl.settings.overrides import from_json, to_json
from rl.types import BadInput, Prompt

LOCAL = Path(__file__).parents[3] / "shared" / "data"
needs_local = pytest.mark.skipif(not LOCAL.is_dir(), reason="no local copies of the benchmarks here")


def test_the_protocol_of_r1_is_that_of_the_paper():
    aime = r1_protocol("aime")
    assert (aime.temperature, aime.top_p, aime.samples, aime.max_new_tokens) == (0.6, 0.95, 64, 32_768)
    assert (r1_protocol("math500").samples, aime.shots, aime.greedy) == (16, 0, False)
    assert aime.instruction == STEP_BY_STEP


def test_a_name_a_file_and_the_options_become_a_config_that_trains_nothing():
    cfg = build(Asked("org/model-1.5B", "gsm8k", samples=8, temperature=0.7, template="r1_zero", limit=5), ["seed=3"])
    assert cfg.evaluation.data == dataclasses.replace(GSM8K, template="r1_zero", limit=5)
    assert (cfg.evaluation.samples, cfg.evaluation.temperature, cfg.seed) == (8, 0.7, 3)
    assert (cfg.grpo.steps, cfg.sft.enabled, cfg.prompts.source) == (0, False, "")
    assert cfg.name.rpartition("-")[0] == "model-1.5B-gsm8k"
    tiny = build(Asked("recipes.tiny_model:tied", "recipes.tasks:tiny_eval"), [])
    assert tiny.name.rpartition("-")[0] == "tied-tiny_eval"
    own = build(
        Asked("org/m-1.5B", "some/rows.jsonl", rewards=("countdown", "format")), ["evaluation.data.prompt_field=q"]
    )
    assert (own.evaluation.data.source, own.name.rpartition("-")[0]) == ("some/rows.jsonl", "m-1.5B-rows")
    assert own.evaluation.data.prompt_field == "q"
    assert [r.function for r in own.rewards] == ["countdown", "format"]


def test_a_chat_model_is_told_to_box_its_answer_and_r1_zeros_template_says_itself_how_to_answer():
    def told(*args: str, **options: object) -> str:
        return build(Asked(*args, **options), []).evaluation.instruction  # type: ignore[arg-type]

    assert told("m", "gsm8k") == told("m", "rows.jsonl", step_by_step=True) == STEP_BY_STEP
    assert told("m", "gsm8k", step_by_step=False) == told("m", "gsm8k", template="r1_zero") == ""
    assert told("m", "gsm8k", template="plain") == told("m", "gsm8k", shots=2) == told("m", "rows.jsonl") == ""
    file = build(Asked("m", "rows.jsonl", protocol="r1"), []).evaluation
    assert (file.data.template, file.instruction) == ("chat", STEP_BY_STEP)
    assert told("m", "aime", protocol="r1", template="r1_zero") == ""
    assert build(Asked("m", "gsm8k"), ["evaluation.instruction="]).evaluation.instruction == ""


def test_no_two_evaluations_share_a_folder():
    asked = [
        (Asked("runs/zero/model", "gsm8k"), []),
        (Asked("runs/sft/model", "gsm8k"), []),
        (Asked("other/sft/model", "gsm8k"), []),
        (Asked("runs/sft/model", "gsm8k", protocol="r1"), []),
        (Asked("runs/sft/model", "gsm8k"), ["seed=2"]),
        (Asked("m", "data/a/test.jsonl"), []),
        (Asked("m", "data/b/test.jsonl"), []),
    ]
    folders = [build(*one).run_dir for one in asked]
    assert len(set(folders)) == len(folders)
    assert folders == [build(*one).run_dir for one in asked]
    assert [folder.name.rpartition("-")[0] for folder in folders[:2]] == ["zero-gsm8k", "sft-gsm8k"]
    assert build(Asked("m", "gsm8k"), ["name=mine"]).name == "mine"


def test_the_protocol_can_be_asked_for_and_narrowed():
    cfg = build(Asked("m", "aime", protocol="r1", samples=4, max_new_tokens=64), [])
    assert (cfg.evaluation.samples, cfg.evaluation.max_new_tokens) == (4, 64)
    assert (cfg.evaluation.temperature, cfg.evaluation.data) == (0.6, AIME)
    other = build(Asked("m", "rows.jsonl", protocol="r1"), [])
    assert (other.evaluation.samples, other.evaluation.data.source) == (16, "rows.jsonl")
    with pytest.raises(BadInput, match="there are r1, zero_shot_cot"):
        build(Asked("m", "aime", protocol="r2"), [])


def test_what_chooses_among_the_samples_becomes_a_reward_of_no_weight():
    cfg = build(Asked("m", "gsm8k", select="majority,shortest,model:runs/prm, format"), [])
    assert cfg.evaluation.select == ("majority", "shortest", "prm", "format")
    assert [(r.function, r.weight) for r in cfg.rewards] == [
        ("accuracy", 1.0),
        ("model:runs/prm", 0.0),
        ("format", 0.0),
    ]
    assert build(Asked("m", "gsm8k", select="accuracy"), []).rewards == build(Asked("m", "gsm8k"), []).rewards
    assert build(Asked("m", "gsm8k"), []).evaluation.select == ("majority",)
    with pytest.raises(BadInput, match=r"evaluation\.select: majority is there twice"):
        build(Asked("m", "gsm8k", select="majority,majority"), [])


def test_searches_are_named_by_kind_and_size_and_need_a_scorer():
    cfg = build(Asked("m", "gsm8k", select="majority,model:runs/prm", search="beam-2x8, cut-64"), [])
    assert cfg.evaluation.search == (
        SearchConfig("beam", width=2, expand=8, scorer="prm"), SearchConfig("cut", tokens=64)
    )  # fmt: skip
    assert from_json(to_json(cfg)) == cfg
    with pytest.raises(BadInput, match="name what scores it, as --select majority,model:FOLDER"):
        build(Asked("m", "gsm8k", search="dvts-2x2"), [])
    with pytest.raises(BadInput, match="--search tree-4: expected beam-4x4, dvts-4x4, cut-256 or stretch-256"):
        build(Asked("m", "gsm8k", search="tree-4"), [])
    with pytest.raises(BadInput, match=r"search\.0\.tokens=1000: with its answer that is more than the 1024 tokens"):
        build(Asked("m", "gsm8k", search="cut-1000"), [])
    with pytest.raises(BadInput, match="cut-64 is there twice"):
        build(Asked("m", "gsm8k", search="cut-64,cut-64"), [])


def test_ways_to_prompt_have_names():
    zero, few, consistent = (
        build(Asked("m", "gsm8k", protocol=name), []).evaluation
        for name in ("zero_shot_cot", "few_shot", "self_consistency")
    )
    assert (zero.instruction, zero.shots, zero.samples) == ("Let's think step by step.", 0, 16)
    assert (few.instruction, few.shots, few.shots_data.split) == ("", 8, "train")
    assert (consistent.shots, consistent.samples, consistent.temperature) == (8, 40, 0.7)
    assert build(Asked("m", "gsm8k", protocol="few_shot", shots=3), []).evaluation.shots == 3


def test_worked_examples_come_from_training_rows():
    assert build(Asked("m", "gsm8k", shots=5), []).evaluation.shots_data.split == "train"
    assert build(Asked("m", "x.jsonl", shots=2, against="t.jsonl"), []).evaluation.shots_data.source == "t.jsonl"


def test_problems_are_found_in_training_rows_whatever_their_columns(tmp_path: Path):
    problem = "What is the sum of the first one hundred positive integers that are divisible by seven"
    prompts = [Prompt(0, 0, [1], problem, "7", {"problem": problem})]
    cfg = build(Asked("m", "math500"), []).evaluation
    rows = (
        {"messages": [{"role": "user", "content": problem}, {"role": "assistant", "content": "7"}]},
        {"prompt": f"Hm. {problem}?", "target": "7"},
        {"id": 3, "conversations": [{"from": "human", "value": problem}]},
    )
    for i, row in enumerate(rows):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(row))
        assert list(contamination(cfg, prompts, str(tmp_path / f"{i}.jsonl")).problems) == [0]
    with pytest.raises(BadInput, match=r"MATH-500 in .*0\.jsonl: 1 of 1 evaluation problems"):
        contamination(dataclasses.replace(cfg, contamination="error"), prompts, str(tmp_path / "0.jsonl"))
    (tmp_path / "numbers.jsonl").write_text('{"tokens": [1, 2, 3], "prompt": ""}')
    with pytest.raises(BadInput, match=r"numbers\.jsonl: the training rows contain no text"):
        contamination(cfg, prompts, str(tmp_path / "numbers.jsonl"))


def test_the_split_and_columns_of_the_problems_are_not_those_of_the_training_rows():
    assert training_rows("org/train", MATH500) == DataConfig(source="org/train")
    assert training_rows(GSM8K.source, GSM8K) == DataConfig(source=GSM8K.source, subset="main")
    examples = build(Asked("m", "math500", shots=2, against="org/train"), []).evaluation.shots_data
    assert (examples.split, examples.prompt_field) == ("train", "problem")


def test_the_table_has_every_number_with_its_error():
    metrics = {
        "pass@1": 0.5, "stderr": 0.1, "cons@4": 0.75, "cons@4/stderr": 0.05, "truncated_share": 0.25, "format_share": 1.0,
        "thought/length_mean": 12.4, "answer/length_mean": 3.0, "without_verdict": 2.0,
    }  # fmt: skip
    out = StringIO()
    shown = table("m on x", EvalConfig(samples=4), metrics, {"1": (0.5, 0.1), "4": (0.9, 0.02)}, 0.1)
    Console(file=out, width=100).print(shown)
    for text in ("50.0 ± 10.0", "90.0 ± 2.0", "75.0 ± 5.0", "25.0", "12 / 3", "samples without a verdict", "m on x"):
        assert text in out.getvalue()
    assert out.getvalue().count("pass@1") == 1
    assert "after each question" not in out.getvalue()
    Console(file=out, width=300).print(table("m", EvalConfig(instruction=STEP_BY_STEP), metrics, {}, 0.1))
    assert STEP_BY_STEP in " ".join(out.getvalue().split())


@needs_local
@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [("gsm8k", "gsm8k/test.jsonl", 1319), ("math500", "math500/math500.jsonl", 500)],
)
def test_a_local_copy_is_read_by_the_same_columns_and_can_be_rewarded(name: str, file: str, rows: int):
    cfg = dataclasses.replace(BENCHMARKS[name], source=str(LOCAL / file))
    found = load_rows(cfg)
    assert len(found) == rows
    read = Table(found, cfg, lambda i: place(cfg.source, i))
    references = [read.reference(i) for i in range(0, rows, 10)]
    assert all(read.text(i, cfg.prompt_field) for i in range(rows))
    assert all(read.text(i, cfg.target_field) for i in range(rows))
    if name == "gsm8k":
        assert references[0] == "18"
        assert all(r.replace(",", "").lstrip("-").isdigit() for r in references)


def test_every_set_names_a_hub_id_and_its_columns():
    for data in BENCHMARKS.values():
        assert isinstance(data, DataConfig)
        assert data.source.count("/") == 1
    assert (MATH500.prompt_field, AIME.prompt_field, GSM8K.prompt_field) == ("problem", "problem", "question")


def test_the_ks_of_pass_at_k_are_written_with_commas_and_are_at_most_the_samples():
    cfg = build(Asked("m", "gsm8k", samples=8), ["evaluation.pass_at=1,8"])
    assert cfg.evaluation.pass_at == (1, 8)
    assert from_json(to_json(cfg)) == cfg
    with pytest.raises(BadInput, match="each k is at least 1 and at most samples=8"):
        build(Asked("m", "gsm8k", samples=8), ["evaluation.pass_at=1,9"])
    with pytest.raises(BadInput, match="expected a whole number"):
        build(Asked("m", "gsm8k"), ["evaluation.pass_at=1,x"])
    with pytest.raises(BadInput, match=r"needs {prompt}, and {target} or {answer}"):
        build(Asked("m", "gsm8k"), ["evaluation.shot=Question"])


def test_the_samplers_make_room_for_what_is_asked_and_not_for_the_models_whole_context():
    assert context_needed(100, 1024, 131_072) == 1152
    assert context_needed(128, 1024, 131_072) == 1152
    assert context_needed(100, 1024, 1130) == 1130
