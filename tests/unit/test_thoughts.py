"""One pair of think tags whatever a server makes of a thought; end tokens are no part of a text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rl.rollouts.teacher import has_thought, joined
from rl.rollouts.thoughts import CLOSE, OPEN, parts_of
from rl.stages.selection import is_kept
from tests.unit.test_teacher import Server, answer, server, stage  # noqa: F401  # fixtures

R1 = "<think>\na\n</think>\n\nb"
WHOLE = {
    "apart": (answer("b", "a"), R1),
    "apart, with tags of its own": (answer("b", "<think>a</think>"), R1),
    "apart, with an opening tag": (answer("b", "<think>\na"), R1),
    "apart, with a closing tag": (answer("b", "a\n</think>"), R1),
    "apart and in the content": (answer("<think>a</think>b", "a"), R1),
    "apart and in the content, opened by the server": (answer("a</think>b", "a"), R1),
    "apart, and an empty one in the content": (answer("<think>\n\n</think>\n\nb", "a"), R1),
    "apart, and a closing tag left in the content": (answer("</think>\n\nb", "a"), R1),
    "apart, and another in the content": (answer("<think>c</think>b", "a"), "<think>\na\n\nc\n</think>\n\nb"),
    "in the content": (answer("<think>a</think> b"), "<think>a</think> b"),
    "in the content, opened by the server": (answer("a</think>b"), "<think>a</think>b"),
    "twice": (answer("<think>a</think><think>c</think>b"), "<think>ac</think>b"),
    "within one another": (answer("<think><think>a</think></think>b"), "<think>a</think>b"),
    "opened twice": (answer("<think>\n<think>\na</think>b"), "<think>\n\na</think>b"),
    "closed twice": (answer("<think>a</think></think>b"), "<think>a</think>b"),
    "behind a word": (answer("Well. <think>a</think>b"), "<think>Well. a</think>b"),
    "in capitals": (answer("<Think>a</Think>b"), "<think>a</think>b"),
    "by another name": (answer("<thinking>a</thinking>b"), "<think>a</think>b"),
    "by a third name": (answer("<reasoning>a</reasoning>b"), "<think>a</think>b"),
    "by Mistral's name": (answer("[THINK]a[/THINK]b"), "<think>a</think>b"),
    "cut in the thought": (answer("<think>a", finish="length"), "<think>a"),
    "cut in the thought apart": (answer("", "a", finish="length"), "<think>\na"),
    "cut in a second thought": (answer("<think>a</think><think>c", finish="length"), "<think>ac"),
    "cut in the answer": (answer("b", "a", "length"), R1),
    "none": (answer("b"), "b"),
    "none, and an empty pair": (answer("<think>\n\n</think>\n\nb"), "<think>\n\n</think>\n\nb"),
    "none, with other tags in the answer": (answer("Write <reasoning>x</reasoning>."), "Write <reasoning>x</reasoning>."),
}  # fmt: skip
ENDS = ["<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|end|>", "<eos>", "<|my_end|>"]  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("opened", [False, True])
def test_there_is_one_pair_of_tags_wherever_the_thought_came(kind, opened):
    line, text = WHOLE[kind]
    found = joined(line, opened=opened)
    if not opened:
        assert found == text
        assert found.count(OPEN) <= 1
        assert found.count(CLOSE) <= 1
        return
    whole = OPEN + found  # as the prompt opened it
    assert whole.count(OPEN) == 1
    assert whole.count(CLOSE) == (0 if "cut in" in kind and "the answer" not in kind else 1)
    assert parts_of(whole, "").answer.strip() == parts_of(text, "").answer.strip()
    assert parts_of(whole, "").thought.split() == parts_of(text, "").thought.split()


@pytest.mark.parametrize("end", ENDS)
def test_end_tokens_are_stripped(end):
    for line, text in (
        (answer("b" + end, "a"), R1),
        (answer(f"b\n{end}\n", "a"), R1),
        (answer(f"b{end}{end}", f"a{end}"), R1),
        (answer(f"<think>a</think>b{end}"), "<think>a</think>b"),
        (answer(f"b{end}"), "b"),
        (answer("<s>b" + end), "b"),
        (answer("<|im_start|>assistant\nb" + end), "b"),
    ):
        assert joined(line, opened=False, ends=("<|my_end|>",)) == text


def test_what_comes_behind_an_end_token_is_no_part_of_the_answer():
    assert joined(answer("b<|im_end|>\n<|im_start|>user\nMore?", "a"), opened=False) == R1
    assert joined(answer("b[END] c", "a"), opened=False, ends=("[END]",)) == R1
    assert joined(answer("a </s> in HTML is <s>struck</s>"), opened=False) == "a </s> in HTML is <s>struck"
    assert joined(answer(" b \n"), opened=False) == " b \n"  # white space alone is the answer's own


@pytest.mark.parametrize(
    ("line", "has"),
    [
        (answer("b", "a"), True), (answer("<think>a</think>b"), True), (answer("a</think>b"), True),
        (answer("<think>a", finish="length"), True), (answer("", "a", finish="length"), True), (answer("b"), False),
        (answer("b", " \n"), False), (answer("<think>\n\n</think>b"), False), (answer("</think>b"), False),
        (answer("b", "<think></think>"), False), (answer(""), False),
    ],
)  # fmt: skip
def test_an_answer_has_a_thought_or_none(line, has):
    assert has_thought(line) is has


def replies(server: Server) -> None:  # noqa: F811
    said = {
        "0 + 2?": {"content": r"\boxed{2}<|im_end|>", "reasoning_content": "Two.", "finish_reason": "end_turn"},
        "1 + 1?": {"content": r"\boxed{2}", "finish_reason": "eos_token"},
        "2 + 0?": {"content": r"<think>Two.</think>\boxed{2}", "finish_reason": None},
    }
    server.reply = lambda request: dict(said[request["messages"][0]["content"]])


def test_answers_without_a_thought_are_counted_or_dropped(server, stage):  # noqa: F811
    replies(server)
    report = stage.run(samples=1)
    assert (report["by_reason"], report["without_thought"]) == ({"kept": 3}, 1)
    assert {row["target"] for row in stage.lines("data.jsonl")} == {
        "<think>\nTwo.\n</think>\n\n\\boxed{2}", r"\boxed{2}", r"<think>Two.</think>\boxed{2}",
    }  # fmt: skip
    assert {s["finish_reason"] for line in stage.lines("samples.jsonl") for s in line["samples"]} == {"stop"}


def test_answers_without_a_thought_are_dropped_where_the_setting_says_so(server, stage):  # noqa: F811
    replies(server)
    report = stage.run(samples=1, without_thought="drop")
    assert (report["by_reason"], report["without_thought"]) == ({"kept": 2, "no thought": 1}, 1)
    (dropped,) = [s for line in stage.lines("samples.jsonl") for s in line["samples"] if not is_kept(s["reason"])]
    assert (dropped["reason"], dropped["text"]) == ("no thought", "")


def test_a_server_that_does_not_say_why_it_ended_is_understood_by_the_tokens(server, stage):  # noqa: F811
    server.reply = lambda request: {"content": r"\boxed{2}", "finish_reason": ""}
    stage.rows(1)
    assert stage.run(samples=1)["by_reason"] == {"kept": 1}
    (line,) = stage.lines("answers.jsonl")
    assert (line["finish_reason"], line["error"]) == ("stop", "")


def test_a_teacher_that_knows_no_max_tokens_is_asked_by_the_newer_name(server, stage, monkeypatch):  # noqa: F811
    def send(self: Any) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(request)
        if "max_tokens" in request:
            self.send(400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})
            return
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": r"\boxed{2}"}}
        self.send(200, {"id": "1", "choices": [choice]})

    monkeypatch.setattr(server.http.RequestHandlerClass, "do_POST", send)
    stage.rows(1)
    assert stage.run(samples=1)["by_reason"] == {"kept": 1}
    assert [r.get("max_completion_tokens") for r in server.asked] == [None, 99]
