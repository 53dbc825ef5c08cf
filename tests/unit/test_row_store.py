"""rl/data/row_store.py and rl/data/row_files.py: rows stay what the file says, and stay on disk."""

from __future__ import annotations

import json
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl.config import DataConfig
from rl.data import row_store
from rl.data.row_store import Rows, TokenStore, batch_rows, keep_json, select
from rl.data.rows import fingerprint, load_rows
from rl.data.sft_examples import ExampleStream
from rl.data.streams import PromptStream, all_prompts
from rl.types import BadInput

PLAIN = DataConfig(source="made up", template="plain")
ODD = [
    {"prompt": "a", "answer": 1, "more": {"x": [1, 2.0, None, True]}},
    {"prompt": "é 🙂 \u2028 \ud83d", "answer": "1", "float": 1e400, "big": 10**4000},
    {"answer": 1.0, "empty": {}, "": []},
]
"""Rows that one type for a column would change: a missing field, 1 beside "1" and 1.0, half a character."""


def written(folder: Path, name: str, text: str) -> DataConfig:
    (folder / name).write_text(text, encoding="utf-8")
    return replace(PLAIN, source=str(folder / name))


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(BadInput) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ rows stay as they are


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_rows_are_kept_value_for_value(tmp_path: Path, name: str):
    text = "\n".join(map(json.dumps, ODD)) if name.endswith("l") else json.dumps(ODD, indent=1)
    rows = load_rows(written(tmp_path, name, text))
    assert isinstance(rows, Rows)
    assert [repr(row) for row in rows] == [repr(row) for row in ODD]
    assert [repr(rows[i]) for i in (-1, 0, 1)] == [repr(ODD[i]) for i in (-1, 0, 1)]
    assert fingerprint(rows) == fingerprint(ODD)
    with pytest.raises(IndexError):
        rows[3]


def test_rows_of_many_parts_keep_their_order(monkeypatch: pytest.MonkeyPatch):
    made = [{"n": i, "text": "x" * (i % 50)} for i in range(500)]
    monkeypatch.setattr(row_store, "BATCH_BYTES", 300)
    rows = keep_json(made)
    assert rows == made
    assert (rows[17], rows[3:6], len(rows)) == (made[17], made[3:6], 500)
    order = [400, 3, 3, 77]
    assert rows.select(order) == select(made, order) == [made[i] for i in order]
    assert rows.select(order)[1:] == [made[i] for i in order[1:]]


def test_batches_are_small_whatever_the_rows_hold():
    assert batch_rows(1000 * 1_000_000, 1_000_000) == 1000
    assert batch_rows(16 << 20, 16) == 4
    assert batch_rows(5 << 30, 2) == 1
    assert batch_rows(0, 0) == 1


def test_nothing_is_left_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = keep_json([{"prompt": "a", "answer": "b", "target": "c"}])
    prompts = all_prompts(rows, PLAIN, tokenizer, 99)
    assert ExampleStream(rows, PLAIN, tokenizer, 0, 99).take(1)[0].token_ids[:1] == prompts[0].token_ids
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    found = refusal(keep_json, [{"a": 1}])
    assert "cannot be kept there" in found
    assert "HF_DATASETS_CACHE=" in found
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/dev"))
    full = types.SimpleNamespace(write=lambda data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **where: full)
    store = TokenStore()
    store.append(np.arange(3))
    assert "/dev: the rows cannot be kept there (No space left on device)" in refusal(store.__getitem__, 0)


def test_token_sequences_come_back_as_they_went_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_store, "BATCH_BYTES", 40)
    store, made = TokenStore(), [np.arange(n, dtype=np.int32) * 7 - 3 for n in (5, 0, 12, 1, 3)]
    for ids in made:
        store.append(ids)
    assert [store[i].tolist() for i in (4, 1, 0, 2, 3)] == [made[i].tolist() for i in (4, 1, 0, 2, 3)]
    assert store.lengths().tolist() == [5, 0, 12, 1, 3]
    empty = TokenStore()
    empty.append(np.empty(0, np.int32))
    assert empty[0].tolist() == []


def test_streams_over_rows_on_disk_are_those_over_rows_in_memory(tokenizer):
    made = [{"prompt": f"What is {i} + 1?" + "!" * (i % 7), "answer": i + 1, "target": f"{i + 1} é"} for i in range(40)]
    for settings in ({}, {"long_prompts": "drop"}):
        cfg = replace(PLAIN, **settings)
        limit = 99 if not settings else 17
        here, there = (PromptStream(rows, cfg, tokenizer, 3, limit) for rows in (made, keep_json(made)))
        assert here.state() == there.state()
        assert [repr(p) for p in here.take(60)] == [repr(p) for p in there.take(60)]
    for overlong, limit in (("error", 99), ("drop", 24)):
        here, there = (ExampleStream(rows, PLAIN, tokenizer, 3, limit, overlong) for rows in (made, keep_json(made)))
        assert (here.state(), here.dropped) == (there.state(), there.dropped)
        assert here.take(60) == there.take(60)
    assert there.dropped > 0


def test_a_row_in_a_later_part_is_named_by_its_own_line(tmp_path: Path, tokenizer):
    rows = [{"prompt": "q", "answer": "a", "target": "t"} for _ in range(1500)]
    cfg = written(tmp_path, "a.jsonl", "\n" + "\n".join(map(json.dumps, [*rows, {"prompt": "q", "answer": " "}])))
    assert refusal(PromptStream, load_rows(cfg), cfg, tokenizer, 0, 99).startswith(
        f"{cfg.source} line 1502: field 'answer'"
    )
    assert refusal(ExampleStream, load_rows(cfg), cfg, tokenizer, 0, 99).startswith(f"{cfg.source} line 1502: no field")


def test_looking_for_lines_costs_nothing_while_nothing_is_wrong(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    cfg = written(
        tmp_path, "a.jsonl", json.dumps({"prompt": "q", "answer": "1", "target": "t", "messages": turns}) + "\n"
    )
    rows, asked = load_rows(cfg), list[int]()
    for module in ("sft_examples", "streams"):
        monkeypatch.setattr(sys.modules[f"rl.data.{module}"], "place", lambda source, index: asked.append(index))
    ExampleStream(rows, cfg, tokenizer, 0, 99)
    ExampleStream(rows, replace(cfg, messages_field="messages", template="chat"), tokenizer, 0, 99)
    PromptStream(rows, cfg, tokenizer, 0, 99)
    assert asked == []  # to find one row's line, the file is read


# ------------------------------------------------------------------------------------------------ what cannot be read


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": %s}' % ("7" * 5000), " line 2: the number 77777777777777777777... has 5,000 digits"),
        ("a.json", '[{"a": 1}, {"b": [%s]}]' % ("7" * 5000), " row 2: the number 77777777777777777777... has 5,000 digits"),
        ("a.jsonl", "[" * 100_000, ": its JSON is nested too deeply"),
        ("a.json", "[" * 100_000, ": its JSON is nested too deeply"),
        ("a.json", '[{"a": 1},]', " line 1: not JSON: "),
        ("a.json", '[{"a": 1} {"a": 2}]', " line 1: not JSON: Expecting ',' delimiter"),
        ("a.json", '[{"a": 1}\n', " line 2: not JSON: Expecting ',' delimiter"),
        ("a.json", '[{"a": 1}]\n]', " line 2: not JSON: Extra data"),
        ("a.json", "[]", ": has no rows"),
        ("a.json", "", " line 1: not JSON: Expecting value"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, fault: str):
    cfg = written(tmp_path, name, text)
    assert refusal(load_rows, cfg).startswith(cfg.source + fault)


def test_a_number_with_too_many_digits_from_a_function_is_named(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("made_up_numbers")
    vars(module).update(rows=lambda: [{"a": 10**4300 - 1, "b": [-(10**4299)]}, {"a": {"b": [10**4300]}}])
    monkeypatch.setitem(sys.modules, "made_up_numbers", module)
    cfg = replace(PLAIN, source="made_up_numbers:rows")
    assert refusal(load_rows, cfg).startswith("made_up_numbers:rows row 2: has a number of more than 4,300 digits")
    assert len(load_rows(replace(cfg, limit=1))) == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_reference_that_no_answer_equals_is_refused(tmp_path: Path, tokenizer, value: str):
    cfg = written(tmp_path, "a.jsonl", f'{{"prompt": "a", "answer": 1}}\n{{"prompt": "b", "answer": {value}}}\n')
    assert refusal(all_prompts, load_rows(cfg), cfg, tokenizer, 99).startswith(
        f"{cfg.source} line 2: field 'answer' is "
    )
    fine = written(tmp_path, "b.jsonl", '{"prompt": "a", "answer": "Infinity"}\n{"prompt": "b", "answer": null}\n')
    assert [p.reference for p in all_prompts(load_rows(fine), fine, tokenizer, 99)] == ["Infinity", ""]


@pytest.mark.parametrize("field", ["prompt", "answer", "target", "messages"])
def test_half_a_character_is_named_where_a_model_or_a_verifier_would_see_it(tmp_path: Path, tokenizer, field: str):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    row = {"prompt": "p", "answer": "a", "target": "t", "messages": turns, "other": "\ud83d"}
    bad = dict(row)
    bad[field] = [turns[0], {"role": "assistant", "content": "a \ud83d b"}] if field == "messages" else "a \ud83d b"
    cfg = written(tmp_path, "a.jsonl", f"{json.dumps(row)}\n{json.dumps(bad)}\n")
    kind = ExampleStream
    if field == "messages":
        cfg = replace(cfg, messages_field="messages", template="chat")
    elif field == "answer":
        kind = PromptStream
    found = refusal(kind, load_rows(cfg), cfg, tokenizer, 0, 99)
    assert found.startswith(f"{cfg.source} line 2: ")
    assert f"'{field}' has half a character, '\\ud83d', at place 3" in found
    assert kind(load_rows(replace(cfg, limit=1)), cfg, tokenizer, 0, 99).take(1)


def test_a_hub_set_that_is_a_script_says_what_to_use_instead(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(path: str, name: str | None, *, split: str) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found set.py")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = refusal(load_rows, DataConfig(source="org/set"))
    assert found.startswith("org/set: is a Python script")
    assert "refs/convert/parquet" in found


def test_a_real_script_is_refused_by_datasets_itself_in_the_words_that_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("import datasets\n")
    monkeypatch.chdir(tmp_path)
    assert "set: is a Python script" in refusal(load_rows, DataConfig(source="./set"))


# ------------------------------------------------------------------------------------------------ Parquet, the Hub


LABELS = datasets.ClassLabel(names=["no", "yes"])
FEATURES = datasets.Features(
    {
        "answer": LABELS,
        "many": datasets.List(LABELS),
        "inside": {"deep": datasets.List({"label": LABELS})},
        "n": datasets.Value("int64"),
    }
)
LABELLED = [
    {"answer": 1, "many": [0, 1], "inside": {"deep": [{"label": 1}]}, "n": 1},
    {"answer": -1, "many": [], "inside": {"deep": []}, "n": 0},
    {"answer": None, "many": None, "inside": None, "n": None},
]
NAMED = [
    {"answer": "yes", "many": ["no", "yes"], "inside": {"deep": [{"label": "yes"}]}, "n": 1},
    {"answer": None, "many": [], "inside": {"deep": []}, "n": 0},
]


@pytest.mark.parametrize("where", ["hub", "parquet", "function"])
def test_class_labels_arrive_as_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    data = datasets.Dataset.from_list(LABELLED, features=FEATURES)
    cfg = DataConfig(source="org/set")
    if where == "hub":
        monkeypatch.setattr(datasets, "load_dataset", lambda path, name, *, split: data)
    elif where == "parquet":
        cfg = DataConfig(source=str(tmp_path / "a.parquet"))
        data.to_parquet(cfg.source)
    else:
        module = types.ModuleType("made_up_labels")
        vars(module).update(rows=lambda: data)
        monkeypatch.setitem(sys.modules, "made_up_labels", module)
        cfg = DataConfig(source="made_up_labels:rows")
    rows = load_rows(cfg)
    assert rows[:2] == NAMED
    assert (rows[2]["answer"], rows[2]["n"]) == (None, None)
    assert load_rows(replace(cfg, limit=1)) == NAMED[:1]


def test_parquet_columns_keep_their_values_and_names_with_brackets_are_files(tmp_path: Path):
    import datetime
    import decimal

    made = {
        "text": ["a", None], "number": [1, 2**63 - 1], "nested": [[{"role": "user"}], []], "when": [datetime.date(2026, 1, 2)] * 2,
        "exact": [decimal.Decimal("1.50"), None], "raw": [b"\xff", b""], "float": [0.1, float("inf")],
    }  # fmt: skip
    path = tmp_path / "data [1].parquet"
    pq.write_table(pa.table(made), path, row_group_size=1)
    assert load_rows(DataConfig(source=str(path))) == [{k: v[i] for k, v in made.items()} for i in range(2)]


def test_a_damaged_parquet_file_is_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["some text " * 50 + str(i) for i in range(5000)]}), path, compression="none")
    whole = bytearray(path.read_bytes())
    whole[40:4000] = b"\x00" * 3960
    path.write_bytes(whole)
    assert refusal(load_rows, DataConfig(source=str(path))).startswith(f"{path}: ")


def test_a_column_of_a_type_that_datasets_lacks_is_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"c": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}), path)
    found = refusal(load_rows, DataConfig(source=str(path)))
    assert found.startswith(f"{path}: a column has a type that cannot be read (")
    assert "map<string, int64>" in found


def test_one_huge_row_group_of_nested_texts_is_read_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As with 2 GiB in one row group: Arrow refuses to make that much nested text at once."""
    path, sizes = tmp_path / "a.parquet", list[int]()
    texts = [[{"content": f"{i} " + "long " * 100_000}] for i in range(40)]
    pq.write_table(pa.table({"messages": texts}), path)
    assert pq.ParquetFile(path).num_row_groups == 1
    whole = pq.ParquetFile.iter_batches

    def seen(self, batch_size: int):
        for batch in whole(self, batch_size=batch_size):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    rows = load_rows(DataConfig(source=str(path)))
    assert [row["messages"][0]["content"].split(" ")[0] for row in rows] == [str(i) for i in range(40)]
    assert len(sizes) > 1
    assert max(sizes) <= 2 * row_store.BATCH_BYTES
