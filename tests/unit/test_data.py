"""rl/data/templates.py, rl/data/rows.py and recipes/tasks.py."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import pytest

from recipes import tasks
from rl.config import DataConfig
from rl.data.rows import fingerprint, load_rows
from rl.data.sft_examples import ExampleStream
from rl.data.streams import PromptStream, all_prompts
from rl.data.templates import check_template, end_token_ids, render
from rl.model.pretrained import load_tokenizer
from rl.types import BadInput

PLAIN = DataConfig(source="made up", template="plain")
END = 2  # </s> in conftest's byte tokenizer


def rows_of(n: int) -> list[dict[str, object]]:
    return [{"prompt": f"What is {i} + 1?", "answer": i + 1, "target": f"<answer>{i + 1}</answer>"} for i in range(n)]


def prompts(tokenizer, n=7, seed=1, limit=1000, **settings):
    return PromptStream(rows_of(n), replace(PLAIN, **settings), tokenizer, seed, limit)


def ids(items) -> list[int]:
    return [item.id for item in items]


def refusal(call, *args, **kwargs) -> str:
    """The text of the BadInput that call raises: one line."""
    with pytest.raises(BadInput) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ templates


def test_r1_zero_is_table_1_of_the_paper(tokenizer):
    assert render("Add 1 and 2", replace(PLAIN, template="r1_zero"), tokenizer) == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        "User: Add 1 and 2. Assistant:"
    )


@pytest.mark.parametrize(
    ("prompt", "ending"),
    [
        ("What is 1 + 2?", "User: What is 1 + 2? Assistant:"),
        ("Add 1 and 2.", "User: Add 1 and 2. Assistant:"),
        ("Add 1 and 2. \n", "User: Add 1 and 2. Assistant:"),
        ("一加二是多少？", "User: 一加二是多少？ Assistant:"),
        ("Solve $x$", "User: Solve $x$. Assistant:"),
    ],
)
def test_a_question_with_its_own_punctuation_gets_no_second_full_stop(tokenizer, prompt, ending):
    assert render(prompt, replace(PLAIN, template="r1_zero"), tokenizer).endswith(f"</answer>. {ending}")


def test_in_a_text_of_ones_own_only_prompt_is_replaced(tokenizer):
    cfg = replace(PLAIN, template='{"q": "{prompt}"} {0} {x!r} {prompt}. ->')
    check_template(cfg, tokenizer)
    assert render("{prompt} or {y}?", cfg, tokenizer) == '{"q": "{prompt} or {y}?"} {0} {x!r} {prompt} or {y}?. ->'


def test_chat_is_the_tokenizers_own_template_with_the_answer_opened(tokenizer):
    cfg = replace(PLAIN, template="chat")
    assert render("Hi", cfg, tokenizer) == "<s>user\nHi</s>\n<s>assistant\n"
    assert render("Hi", replace(cfg, system="Be brief."), tokenizer) == (
        "<s>system\nBe brief.</s>\n<s>user\nHi</s>\n<s>assistant\n"
    )


def test_a_chat_template_that_drops_or_refuses_the_system_message_is_refused(make_byte_tokenizer):
    cfg = replace(PLAIN, template="chat", system="Be brief.")
    only_last = make_byte_tokenizer(chat="{{ messages[-1]['content'] }}")
    assert "left out the system message 'Be brief.'" in refusal(render, "Hi", cfg, only_last)
    fussy = make_byte_tokenizer(chat="{{ raise_exception('System role not supported') }}")
    assert "System role not supported" in refusal(render, "Hi", cfg, fussy)


def test_templates_that_cannot_be_used_are_refused_before_the_data_is_read(tokenizer, make_byte_tokenizer):
    assert "did you mean r1_zero?" in refusal(check_template, replace(PLAIN, template="r1zero"), tokenizer)
    no_chat = make_byte_tokenizer(chat=None)
    assert "no chat template" in refusal(PromptStream, rows_of(1), replace(PLAIN, template="chat"), no_chat, 1, 99)
    assert "system: only template=chat has a system message" in refusal(
        check_template, replace(PLAIN, system="Hm"), tokenizer
    )


def test_a_begin_token_stands_before_plain_text_once_and_never_before_a_chat(tokenizer, make_byte_tokenizer):
    llama_like, row = make_byte_tokenizer(begin=True), [{"prompt": "Hi", "answer": "1"}]
    text = tokenizer("Hi").input_ids
    assert all_prompts(row, PLAIN, tokenizer, 99)[0].token_ids == text
    assert all_prompts(row, PLAIN, llama_like, 99)[0].token_ids == [1, *text]
    assert all_prompts(row, replace(PLAIN, template="<s>{prompt}"), llama_like, 99)[0].token_ids == [1, *text]
    chat = all_prompts(row, replace(PLAIN, template="chat"), llama_like, 99)[0].token_ids
    assert chat == tokenizer("<s>user\nHi</s>\n<s>assistant\n").input_ids
    without = make_byte_tokenizer(begin=True, chat="[{{ messages[0]['content'] }}]")
    chat = all_prompts(row, replace(PLAIN, template="chat"), without, 99)[0].token_ids
    assert chat == tokenizer("[Hi]").input_ids


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer, make_byte_tokenizer):
    assert end_token_ids(tokenizer) == [END]
    assert "no end token" in refusal(end_token_ids, make_byte_tokenizer(end=None))


@pytest.mark.parametrize(("named", "ends"), [([2, 0, 7], [2, 0, 7]), ([0], [2, 0]), (0, [2, 0]), (None, [2])])
def test_a_completion_also_ends_where_the_models_generation_config_says(tokenizer, tmp_path, named, ends):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    assert end_token_ids(load_tokenizer(str(tmp_path))) == ends


@pytest.mark.parametrize("unknown", [None, "<unk>"])
def test_a_character_that_the_tokenizer_would_lose_is_refused(make_char_tokenizer, unknown):
    rows = [{"prompt": "1+1", "answer": 2}, {"prompt": "1×1", "answer": 1}]
    tiny = make_char_tokenizer("0123456789+", unknown)
    assert len(all_prompts(rows[:1], PLAIN, tiny, 99)) == 1
    message = refusal(all_prompts, rows, PLAIN, tiny, 99)
    assert message.startswith("made up row 2: the tokenizer cannot write a character")
    assert "'1×1'" in message


# ------------------------------------------------------------------------------------------------ order and cursor


def test_each_epoch_gives_every_row_once_and_in_an_order_of_its_own(tokenizer):
    stream = prompts(tokenizer, n=7)
    assert len(stream) == 7
    taken = ids(stream.take(5)) + ids(stream.take(9)) + ids(stream.take(7))
    epochs = [taken[0:7], taken[7:14], taken[14:21]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]


def test_the_order_depends_on_the_seed_and_on_nothing_else(tokenizer):
    assert ids(prompts(tokenizer).take(21)) == ids(prompts(tokenizer).take(21))
    assert ids(prompts(tokenizer, seed=2).take(21)) != ids(prompts(tokenizer).take(21))
    assert ids(prompts(tokenizer, shuffle=False).take(9)) == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_draw_numbers_are_unique_in_a_run(tokenizer):
    stream = prompts(tokenizer, n=3)
    assert [p.draw for p in stream.take(2) + stream.take(5)] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("done", [0, 3, 7, 9, 17, 35], ids=lambda n: f"{n / 7:.1f}_epochs")
def test_a_restored_cursor_goes_on_exactly_where_it_was_saved(tokenizer, done):
    stream = prompts(tokenizer, n=7)
    stream.take(done)
    saved = json.loads(json.dumps(stream.state()))
    assert (saved["epoch"], saved["position"], saved["draws"]) == (done // 7, done % 7, done)
    expected = stream.take(16)
    resumed = prompts(tokenizer, n=7)
    resumed.take(2)
    resumed.restore(saved)
    assert resumed.take(16) == expected


def test_examples_resume_as_prompts_do(tokenizer):
    def examples():
        return ExampleStream(rows_of(7), PLAIN, tokenizer, 1, 1000)

    stream = examples()
    stream.take(17)
    resumed = examples()
    resumed.restore(stream.state())
    assert resumed.take(11) == stream.take(11)


def test_a_cursor_of_other_rows_or_another_order_is_refused(tokenizer):
    saved = prompts(tokenizer, n=7).state()
    assert "rows of the data was 7 when the cursor was saved and is 6 now" in refusal(
        prompts(tokenizer, n=6).restore, saved
    )
    changed = rows_of(7)
    changed[3] = {**changed[3], "answer": 99}
    assert "fingerprint of the data" in refusal(PromptStream(changed, PLAIN, tokenizer, 1, 99).restore, saved)
    assert "seed of the data was 1" in refusal(prompts(tokenizer, seed=2).restore, saved)
    assert "shuffle of the data was 1" in refusal(prompts(tokenizer, shuffle=False).restore, saved)
    assert "lacks draws" in refusal(prompts(tokenizer).restore, {k: v for k, v in saved.items() if k != "draws"})


def test_the_fingerprint_sees_content_and_order_but_not_the_order_of_columns():
    a, b = {"prompt": "x", "answer": 1}, {"prompt": "y", "answer": 2}
    assert fingerprint([a, b]) == fingerprint([dict(reversed(a.items())), b])
    assert len({fingerprint(rows) for rows in ([a, b], [b, a], [a], [a, {**b, "answer": "2"}])}) == 4
    assert fingerprint([{"image": object()}]) == fingerprint([{"image": object()}])


# ------------------------------------------------------------------------------------------------ prompts and examples


@pytest.mark.parametrize("template", ["r1_zero", "plain", "chat", "Q: {prompt}\nA:"])
def test_training_evaluation_and_sft_begin_with_the_same_tokens(tokenizer, template):
    cfg = replace(PLAIN, template=template, shuffle=False)
    trained = PromptStream(rows_of(5), cfg, tokenizer, 1, 1000).take(5)
    evaluated = all_prompts(rows_of(5), replace(cfg, shuffle=True), tokenizer, 1000)
    learnt = ExampleStream(rows_of(5), cfg, tokenizer, 1, 1000).take(5)
    assert evaluated == trained
    for prompt, example in zip(trained, learnt, strict=True):
        assert prompt.token_ids == tokenizer(prompt.text).input_ids
        assert example.token_ids[: len(prompt.token_ids)] == prompt.token_ids
        assert example.loss_mask_T.index(1) == len(prompt.token_ids)


def test_nothing_stands_between_prompt_and_target_and_the_loss_is_on_target_and_end_token(tokenizer):
    rows = [{"prompt": "1+1", "target": "=2"}]
    (example,) = ExampleStream(rows, replace(PLAIN, template="r1_zero"), tokenizer, 1, 1000).take(1)
    assert tokenizer.decode(example.token_ids).endswith("User: 1+1. Assistant:=2</s>")
    learnt = [t for t, mask in zip(example.token_ids, example.loss_mask_T, strict=True) if mask]
    assert learnt == [*tokenizer("=2").input_ids, END]


def test_a_target_that_ends_in_the_end_token_gets_no_second_one(tokenizer):
    (example,) = ExampleStream([{"prompt": "1+1", "target": "=2</s>"}], PLAIN, tokenizer, 1, 99).take(1)
    assert tokenizer.decode(example.token_ids) == "1+1=2</s>"
    assert example.loss_mask_T == [0, 0, 0, 1, 1, 1]


def test_a_target_must_not_open_think_again_after_the_template_did(make_byte_tokenizer):
    opens = make_byte_tokenizer(chat="{{ messages[0]['content'] }}<think>\n")
    rows = [{"prompt": "1+1", "target": "2</think>"}, {"prompt": "1+1", "target": "<think>2</think>"}]
    message = refusal(ExampleStream, rows, replace(PLAIN, template="chat"), opens, 1, 99)
    assert message.startswith("made up row 2: the template already opens <think>")


def test_a_reference_is_text_whatever_the_column_holds(tokenizer):
    rows = [{"prompt": "a", "answer": 7}, {"prompt": "b", "answer": 0.5}, {"prompt": "c", "answer": " x "}]
    assert [p.reference for p in all_prompts(rows, PLAIN, tokenizer, 9)] == ["7", "0.5", " x "]
    assert [p.reference for p in all_prompts(rows, replace(PLAIN, answer_field=""), tokenizer, 9)] == [""] * 3


def test_answer_after_takes_what_follows_the_last_mark(tokenizer):
    cfg = replace(PLAIN, answer_after="####")
    rows = [{"prompt": "a", "answer": "2 #### 3 = 5\n#### 1,234 "}, {"prompt": "b", "answer": "no mark"}]
    assert all_prompts(rows[:1], cfg, tokenizer, 9)[0].reference == "1,234"
    assert refusal(all_prompts, rows, cfg, tokenizer, 9) == "made up row 2: field 'answer' has no answer after '####'"


def test_a_prompt_over_the_limit_is_refused_with_its_row_and_both_numbers(tokenizer):
    rows = [{"prompt": "x" * n, "answer": 1} for n in (3, 8, 5, 9)]
    assert len(all_prompts(rows, PLAIN, tokenizer, 9)) == 4
    message = refusal(PromptStream, rows, PLAIN, tokenizer, 1, 7)
    assert message.startswith("made up row 2: the prompt has 8 tokens, the limit is 7 (2 of 4 rows are too long)")


def test_prompts_over_the_limit_are_dropped_and_counted_where_that_is_asked_for(tokenizer, caplog):
    rows = [{"prompt": "x" * n, "answer": n} for n in (3, 8, 5, 9)]
    drop = replace(PLAIN, shuffle=False, long_prompts="drop")
    stream = PromptStream(rows, drop, tokenizer, 1, 7)
    assert [(p.id, p.draw, p.reference, p.row) for p in stream.take(3)] == [
        (0, 0, "3", rows[0]), (2, 1, "5", rows[2]), (0, 2, "3", rows[0])
    ]  # fmt: skip
    assert "made up: dropped 2 of 4 prompts, which are longer than 7 tokens" in caplog.text
    assert "(4 of 4 rows are too long)" in refusal(PromptStream, rows, drop, tokenizer, 1, 2)
    kept = PromptStream([rows[0], rows[2]], PLAIN, tokenizer, 1, 7)
    assert stream.state()["fingerprint"] == kept.state()["fingerprint"]  # another limit is another dataset


def test_examples_over_the_limit_are_refused_or_dropped_and_counted(tokenizer):
    rows = [{"prompt": "x" * n, "target": "yy"} for n in (3, 8, 5, 9)]  # with the end token 6, 11, 8 and 12 tokens
    message = refusal(ExampleStream, rows, PLAIN, tokenizer, 1, 8)
    assert "made up row 2" in message
    assert "has 11 tokens, the limit is 8 (2 of 4 rows are too long)" in message
    stream = ExampleStream(rows, replace(PLAIN, shuffle=False), tokenizer, 1, 8, overlong="drop")
    assert (len(stream), stream.dropped) == (2, 2)
    assert [len(e.token_ids) for e in stream.take(3)] == [6, 8, 6]
    assert "(4 of 4 rows are too long)" in refusal(ExampleStream, rows, PLAIN, tokenizer, 1, 5, overlong="drop")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "a", "answer": 1}, "no field 'prompt'; there are: question, answer"),
        ({"prompt": "a", "reply": 1}, "no field 'answer'; there are: prompt, reply"),
        ({"prompt": "  ", "answer": 1}, "field 'prompt' is empty"),
        ({"prompt": "a", "answer": ""}, "field 'answer' is empty"),
        ({"prompt": [{"role": "user"}], "answer": 1}, "field 'prompt' is list, expected text"),
        ({"prompt": "a", "answer": True}, "field 'answer' is bool, expected text"),
    ],
)
def test_a_row_that_lacks_what_it_needs_is_named(tokenizer, row, fault):
    assert refusal(all_prompts, [*rows_of(2), row], PLAIN, tokenizer, 99) == f"made up row 3: {fault}"


def test_a_row_whose_answer_is_null_has_no_reference(tokenizer):
    rows = [*rows_of(1), {"prompt": "a poem", "answer": None}]
    assert [p.reference for p in all_prompts(rows, PLAIN, tokenizer, 99)][1] == ""


def test_a_prompt_knows_its_question_without_the_template(tokenizer):
    asked = replace(PLAIN, template="Q: {prompt} A:")
    (prompt,) = all_prompts([{"prompt": "why", "answer": 1}], asked, tokenizer, 99)
    assert (prompt.question, prompt.text) == ("why", "Q: why A:")


def test_an_example_without_its_target_is_named(tokenizer):
    rows = [*rows_of(2), {"prompt": "a", "answer": 1}]
    assert refusal(ExampleStream, rows, PLAIN, tokenizer, 1, 99) == (
        "made up row 3: no field 'target'; there are: prompt, answer"
    )


# ------------------------------------------------------------------------------------------------ sources


def written(tmp_path, name: str, text: str | bytes) -> DataConfig:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return replace(PLAIN, source=str(path))


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": "a, b", "answer": "1"}, {"prompt": 'über\n"c"', "answer": "2"}, {"prompt": "d", "answer": "3"}]
    table = 'prompt{0}answer\r\n"a, b"{0}1\r\n\r\n"über\n""c"""{0}2\r\nd{0}3\r\n'
    files = {
        "rows.jsonl": "\n".join(json.dumps(row) for row in rows) + "\n\n",
        "rows.json": json.dumps(rows, ensure_ascii=False),
        "rows.csv": "\ufeff" + table.format(","),
        "rows.TSV": table.format("\t"),
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name, text in files.items():
        assert load_rows(written(tmp_path, name, text)) == rows, name
    cfg = replace(PLAIN, source=str(tmp_path / "rows.parquet"))
    assert load_rows(cfg) == rows
    assert load_rows(replace(cfg, limit=2)) == rows[:2]


def test_limit_stops_reading(tmp_path):
    cfg = written(tmp_path, "rows.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\nnot json\n')
    assert load_rows(replace(cfg, limit=2)) == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', " line 3: not JSON: Expecting value (column 11)"),
        ("a.jsonl", '{"prompt": "a"}\n[1]\n', " line 2: expected an object with named fields, not list"),
        ("a.jsonl", "\n \n", ": has no rows"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', ": is not UTF-8 text (byte 12: invalid start byte)"),
        ("a.json", '[{"a": 1},\n{"a": }]', " line 2: not JSON: Expecting value"),
        ("a.json", '{"a": 1}\n{"a": 2}', " line 2: not JSON: Extra data; one object a line belongs in a .jsonl file"),
        ("a.json", '{"a": 1}', ": expected a list of objects, not dict"),
        ("a.json", '[{"a": 1}, 2]', " row 2: expected an object with named fields, not int"),
        ("a.csv", "prompt,answer\na,1\nb\n", " line 3: 1 cells under 2 columns"),
        ("a.csv", "prompt,answer\na,1\nb,2,3\n", " line 3: 3 cells under 2 columns"),
        ("a.csv", "prompt,prompt\na,1\n", " line 1: two columns have the same name: prompt, prompt"),
        ("a.csv", 'prompt,answer\n"a,1\n', " line 2: unexpected end of data"),
        ("a.tsv", "prompt\tanswer\n", ": has no rows"),
        ("a.parquet", "PAR", ": not a Parquet file: "),
        ("a.txt", "a", ": unknown kind of file; use .jsonl, .json, .parquet, .csv, .tsv"),
    ],
)
def test_a_malformed_file_is_named_with_its_row(tmp_path, name, text, fault):
    cfg = written(tmp_path, name, text)
    assert refusal(load_rows, cfg).startswith(cfg.source + fault)


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.json", "gone.parquet", "gone.csv", "gone.tsv"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, name):
    assert refusal(load_rows, replace(PLAIN, source=str(tmp_path / name))) == f"{tmp_path / name}: no such file"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", '{"prompt": "a", "answer": 1}\n\n\n{"prompt": "b"}\n', 4),
        ("a.csv", 'prompt,answer\n"a\nb\nc",1\n\nb,\n', 6),
        ("a.tsv", "prompt\tanswer\na\t1\nb\t\n", 3),
    ],
)
def test_a_fault_found_later_still_names_the_line_of_the_file(tmp_path, tokenizer, name, text, line):
    cfg = written(tmp_path, name, text)
    assert refusal(all_prompts, load_rows(cfg), cfg, tokenizer, 99).startswith(f"{cfg.source} line {line}: ")


def test_a_python_function_gives_rows_and_its_faults_are_named(monkeypatch):
    module = types.ModuleType("made_up_tasks")
    vars(module).update(
        rows=lambda: ({"prompt": str(i), "answer": i} for i in range(5)),
        bad=lambda: [{"prompt": "a"}, "b"],
        needs=lambda n: [],
        none=lambda: None,
        number=3,
    )
    monkeypatch.setitem(sys.modules, "made_up_tasks", module)

    def cfg(name):
        return replace(PLAIN, source=f"made_up_tasks:{name}")

    assert len(load_rows(cfg("rows"))) == 5
    assert load_rows(replace(cfg("rows"), limit=1)) == [{"prompt": "0", "answer": 0}]
    assert refusal(load_rows, cfg("bad")).startswith("made_up_tasks:bad row 2: expected an object")
    assert "called without arguments, but: missing a required argument: 'n'" in refusal(load_rows, cfg("needs"))
    assert "returned NoneType, expected rows" in refusal(load_rows, cfg("none"))
    assert "has no function number" in refusal(load_rows, cfg("number"))
    assert "has no function row" in refusal(load_rows, cfg("row"))
    assert "cannot import no_such_module_here" in refusal(load_rows, replace(PLAIN, source="no_such_module_here:rows"))


def test_a_data_set_that_the_hub_does_not_give_is_named():
    message = refusal(load_rows, replace(PLAIN, source="no-such-org/nothing", subset="main"))
    assert message.startswith(
        "no-such-org/nothing: no such file, and not loaded from the Hub (subset main, split train)"
    )


def test_hub_rows_come_from_the_named_subset_and_split(monkeypatch):
    import datasets

    def load_dataset(path, name, *, split):
        return datasets.Dataset.from_list([{"asked": [path, name, split]}, {"asked": []}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    cfg = DataConfig(source="org/name", subset="main", split="test")
    assert load_rows(replace(cfg, limit=1)) == [{"asked": ["org/name", "main", "test"]}]
    assert load_rows(replace(cfg, subset=""))[0] == {"asked": ["org/name", None, "test"]}


def test_an_empty_source_says_what_to_set():
    assert refusal(load_rows, DataConfig()) == "no data source: set source to a Hub id, a file, or 'module:function'"


def test_no_rows_are_refused_by_a_stream_too(tokenizer):
    assert refusal(all_prompts, [], PLAIN, tokenizer, 9) == "made up: has no rows"


# ------------------------------------------------------------------------------------------------ tasks


def problems(rows) -> set[tuple[str, ...]]:
    """The numbers of each question, in an order that does not matter."""
    return {tuple(sorted("".join(c if c.isdigit() else " " for c in str(row["prompt"])).split())) for row in rows}


@pytest.mark.parametrize(("lo", "hi"), [(1, 9), (1, 20), (10, 99)])
def test_no_held_out_sum_is_trained_on_either_way_round(lo, hi):
    train, held_out = tasks.addition((lo, hi), (lo, hi), "train"), tasks.addition((lo, hi), (lo, hi), "eval")
    assert len(train) + len(held_out) == (hi - lo + 1) ** 2
    assert 0.1 < len(held_out) / (hi - lo + 1) ** 2 < 0.3
    assert not problems(train) & problems(held_out)


def test_no_held_out_sum_of_three_numbers_is_trained_on_in_another_order():
    train, held_out = tasks.three_numbers_train(), tasks.three_numbers_eval()
    assert len(train) + len(held_out) == 80 * 8 * 8
    assert 0.15 < len(held_out) / 5120 < 0.25
    assert not problems(train) & problems(held_out)


def test_the_thought_of_a_sum_of_three_numbers_adds_the_first_two_first():
    for row in tasks.three_numbers_eval():
        question, (thought, answer) = str(row["prompt"]), str(row["target"]).split("</think> <answer>")
        steps = thought.removeprefix("<think>").split(" = ")
        assert question == f"What is {steps[0]}?"
        assert {sum(map(int, step.split(" + "))) for step in steps} == {int(str(row["answer"]))}
        assert [step.count("+") for step in steps] == [2, 1, 0]
        assert answer == f"{row['answer']}</answer>"
    assert len({str(row["prompt"]).split()[2] for row in tasks.three_numbers_train()[:20]}) > 8
    assert fingerprint(tasks.three_numbers_train())[:12] == "cde3e615efef"


def test_no_held_out_string_is_trained_on_backwards():
    def strings(rows):
        return {str(row["prompt"])[8:12] for row in rows}

    train, held_out = strings(tasks.tiny_train()), strings(tasks.tiny_eval())
    assert len(train) + len(held_out) == 9**4
    assert not held_out & (train | {s[::-1] for s in train})


def test_the_answers_and_targets_of_the_tasks_are_right():
    for row in tasks.addition((0, 120), (0, 120), "eval"):
        a, b = str(row["prompt"]).removeprefix("What is ").removesuffix("?").split(" + ")
        assert row["answer"] == str(int(a) + int(b))
        thought, answer = str(row["target"]).removeprefix("<think>").split("</think> <answer>")
        assert answer == f"{row['answer']}</answer>"
        assert {sum(map(int, step.split(" + "))) for step in thought.split(" = ")} == {int(a) + int(b)}
        assert thought.startswith(f"{a} + {b} = ")
    row = next(
        row
        for split in ("train", "eval")
        for row in tasks.addition((40, 50), (40, 50), split)
        if row["prompt"] == "What is 47 + 47?"
    )
    assert row["target"] == "<think>47 + 47 = 47 + 40 + 7 = 87 + 7 = 94</think> <answer>94</answer>"
    for row in tasks.tiny_eval():
        backwards = str(row["prompt"]).removeprefix("reverse ").removesuffix(":")[::-1]
        assert row["answer"] == backwards
        assert row["target"] == f"<think>{','.join(backwards)}</think> <answer>{backwards}</answer>"


def test_the_tasks_are_the_same_on_every_machine_and_in_mixed_order():
    rows = tasks.addition_train()
    assert fingerprint(rows)[:12] == "60028519881a"
    assert len({str(row["prompt"]).split()[2] for row in rows[:20]}) > 8
    assert load_rows(replace(PLAIN, source="recipes.tasks:addition_train")) == rows
