"""The rollouts in a report: a fair sample of whole groups, cut where tokens end."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

import rl.records.rollout_files
from launch.report.reading import read_run
from launch.report.rollouts import MOST_STEPS, read_rollouts, spread, transcript
from launch.report.tokens import Tokens, cut_text, read_tokens, units
from rl.records.rollout_files import rollouts_path, write_rollouts
from tests.unit.report_runs import END, byte_tokenizer, group, write_run

PLENTY = 10_000_000


def test_a_small_run_is_shown_whole(tmp_path):
    run = read_run(write_run(tmp_path / "r"))
    found = read_rollouts(run, PLENTY)
    assert found.shown == found.total == 12 * 4 * 4 + 3 * 4 * 2
    assert [(s.stage, s.step) for s in found.steps] == [("grpo", i) for i in range(12)] + [
        ("eval", i) for i in (0, 6, 12)
    ]
    assert all(len(g.samples) == g.of for s in found.steps for g in s.groups)
    assert found.note == ""


def test_a_long_run_is_sampled_over_all_of_it_within_the_budget(tmp_path):
    run = read_run(write_run(tmp_path / "r", steps=60, groups=6))
    budget = 100_000
    found = read_rollouts(run, budget)
    assert 0.5 * budget < len(json.dumps(asdict(found))) < 1.2 * budget
    assert 0 < found.shown < found.total == 60 * 6 * 4 + 3 * 4 * 2
    trained = [s.step for s in found.steps if s.stage == "grpo"]
    assert (len(trained), trained[0], trained[-1], found.total_steps) == (MOST_STEPS, 0, 59, 63)
    assert max(b - a for a, b in itertools.pairwise(trained)) <= 3
    assert all(s.groups for s in found.steps)
    dead = [g.dead for s in found.steps for g in s.groups]
    assert any(dead)
    assert not all(dead)


def test_spread_keeps_the_first_and_the_last():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([1, 2, 3], 1) == [1]


def test_groups_that_lie_across_row_groups_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(rl.records.rollout_files, "ROW_GROUP", 3)
    folder = write_run(tmp_path / "r", steps=2)
    path = rollouts_path(folder, "grpo", 0)
    assert pq.ParquetFile(path).num_row_groups == 6
    found = read_rollouts(read_run(folder), PLENTY)
    (step,) = [s for s in found.steps if (s.stage, s.step) == ("grpo", 0)]
    rows = {(r["draw"], r["sample"]): r["completion"] for r in pq.read_table(path).to_pylist()}
    shown = {(g.draw, s.sample): s.text.removesuffix(END) for g in step.groups for s in g.samples}
    assert shown == rows


def test_a_dead_group_is_one_with_equal_rewards_also_where_it_was_not_recorded(tmp_path):
    folder = write_run(tmp_path / "r", steps=2)
    path = rollouts_path(folder, "grpo", 0)
    table = pq.read_table(path)
    recorded = {(r["draw"]): r["uniform"] for r in table.to_pylist()}
    pq.write_table(table.drop_columns(["uniform"]), path)
    (step, *_) = read_rollouts(read_run(folder), PLENTY).steps
    assert {g.draw: g.dead for g in step.groups} == recorded
    assert recorded[0] is True


def test_a_step_of_dead_groups_only_is_shown_too(tmp_path):
    folder = write_run(tmp_path / "r", steps=1)
    dead = [group(byte_tokenizer(), draw, ["x", "y"], [0.0, 0.0]) for draw in range(5)]
    write_rollouts(rollouts_path(folder, "grpo", 0), 0, dead)
    (step, *_) = read_rollouts(read_run(folder), PLENTY).steps
    assert [(g.draw, g.dead) for g in step.groups] == [(draw, True) for draw in range(5)]


def test_without_tokens_or_without_a_tokenizer_the_page_says_why(tmp_path):
    folder = write_run(tmp_path / "r", steps=2, tokenizer=False)
    assert "tokenizer is not in reach" in read_rollouts(read_run(folder), PLENTY).note
    folder = write_run(tmp_path / "s", steps=2)
    for path in (folder / "rollouts").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["token_ids", "logprobs"]), path)
    found = read_rollouts(read_run(folder), PLENTY)
    assert "no log-probabilities of single tokens" in found.note
    assert found.steps[0].groups[0].samples[0].text


def test_each_token_has_its_length_and_its_surprise(tmp_path):
    folder = write_run(tmp_path / "r", texts=["ab🙂é"], steps=1)
    (step, *_) = read_rollouts(read_run(folder), PLENTY).steps
    (sample, *_) = [s for g in step.groups for s in g.samples if "🙂" in s.text]
    assert sample.text == "ab🙂é" + END
    # a, b, four bytes of the face (two UTF-16 units, all on the last byte), two of the letter, the end
    assert sample.token_lengths == [1, 1, 0, 0, 0, 2, 0, 1, len(END)]
    assert sample.surprise == [0, 62, 125, 188, 250, 312, 375, 438, 500]


def test_tokens_that_do_not_make_up_the_text_are_another_tokenizers():
    tokenizer = byte_tokenizer()
    tokens = Tokens(tokenizer)
    ids = tokenizer.encode("12").ids
    assert tokens.cut(ids, "12", 100).lengths == [1, 1]
    for text in ("13", "123", "2"):
        assert (tokens.cut(ids, text, 100).head, tokens.cut(ids, text, 100).lengths) == (text, [])
    assert tokens.cut([], "", 100).lengths == []
    long = tokenizer.encode("a" * 50).ids
    assert tokens.cut(long, "a" * 20 + "b" * 30, 12).lengths == []


def test_the_tokenizer_is_found_beside_the_model(tmp_path):
    assert read_tokens(read_run(write_run(tmp_path / "a", steps=1))).found
    assert not read_tokens(read_run(write_run(tmp_path / "b", steps=1, tokenizer=False))).found


@pytest.mark.parametrize(("text", "length"), [("", 0), ("a", 1), ("🙂", 2), ("é中", 2)])
def test_lengths_are_in_utf16_units(text, length):
    assert units(text) == length == len(text.encode("utf-16-le")) // 2


def test_a_long_text_keeps_its_start_and_its_end():
    cut = cut_text("0123456789", 6)
    assert (cut.head, cut.tail, cut.left_out, cut.lengths) == ("0123", "89", 4, [])
    assert cut.joined() == "0123 … 4 characters left out … 89"


@pytest.mark.parametrize("text", ["0123456789" * 5, "é" * 50, "🙂é1" * 17, "中文" * 25])
@pytest.mark.parametrize("most", [9, 10, 11, 12])
@pytest.mark.parametrize("stop", [True, False])
def test_a_long_text_is_cut_between_tokens_and_none_is_lost(text, most, stop):
    tokenizer = byte_tokenizer()
    ids = [*tokenizer.encode(text).ids, *([tokenizer.token_to_id(END)] if stop else [])]
    cut = Tokens(tokenizer).cut(ids, text, most)
    end = END if stop else ""
    assert text.startswith(cut.head)
    assert (text + end).endswith(cut.tail)
    assert len(cut.head) + len(cut.tail) - len(end) + cut.left_out == len(text)
    assert 0 < len(cut.head) <= most
    assert 0 < len(cut.tail) <= most + len(end)
    assert sum(cut.lengths) == units(cut.head + cut.tail)
    # kept names the tokens whose lengths are given
    assert [ids[i] for i in cut.kept][-1] == ids[-1]
    decoded = tokenizer.decode([ids[i] for i in cut.kept], skip_special_tokens=False)
    assert decoded.startswith(cut.head)


def test_a_group_larger_than_the_page_shows_samples_from_the_worst_to_the_best(tmp_path):
    tokenizer = byte_tokenizer()
    rewards = [i / 40 for i in range(40)]
    folder = write_run(tmp_path / "r", steps=1)
    write_rollouts(rollouts_path(folder, "grpo", 0), 0, [group(tokenizer, 7, ["x"] * 40, rewards)])
    (step, *_) = read_rollouts(read_run(folder), PLENTY).steps
    shown = [s.reward for s in step.groups[0].samples]
    assert (len(shown), step.groups[0].of, min(shown), max(shown)) == (16, 40, 0.0, 0.975)


def test_the_turns_of_a_trajectory_are_told_apart() -> None:
    turns = [("assistant", "3", ""), ("user", "higher", ""), ("tool", "42", "python"), ("assistant", "9", "")]
    text = json.dumps([{"role": role, "text": said, "name": name} for role, said, name in turns])
    shown = "── model ──\n3\n── environment ──\nhigher\n── tool python ──\n42\n── model ──\n9"
    assert transcript(text) == shown
