"""rl/data/sft_examples.py: conversations and documents. (Prompts and targets: test_data.py.)"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rl.config import DataConfig, SFTConfig
from rl.data.sft_examples import ExampleStream
from rl.data.streams import PromptStream
from rl.types import BadInput

END = 2
CHAT = DataConfig(source="made up", template="chat", messages_field="messages", shuffle=False)
TEXT = DataConfig(source="made up", text_field="text", shuffle=False)


def turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def stream(rows, tokenizer, cfg=CHAT, limit=1000, **settings) -> ExampleStream:
    return ExampleStream(rows, cfg, tokenizer, 1, limit, **settings)


def refusal(rows, tokenizer, cfg=CHAT, limit=1000) -> str:
    with pytest.raises(BadInput) as caught:
        stream(rows, tokenizer, cfg, limit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def learnt_text(example, tokenizer) -> list[str]:
    """The texts of the runs of learnt tokens."""
    runs: list[list[int]] = []
    before = 0
    for token, mask in zip(example.token_ids, example.loss_mask_T, strict=True):
        if mask and not before:
            runs.append([])
        if mask:
            runs[-1].append(token)
        before = mask
    return [tokenizer.decode(run) for run in runs]


# ------------------------------------------------------------------------------------------------ conversations


def test_every_answer_of_a_conversation_is_learnt_with_its_end_token_and_nothing_else_is(tokenizer):
    rows = [{"messages": turns("Hi", "Hello", "1+1?", "2")}]
    (example,) = stream(rows, tokenizer).all()
    text = "<s>user\nHi</s>\n<s>assistant\nHello</s>\n<s>user\n1+1?</s>\n<s>assistant\n2</s>"
    assert tokenizer.decode(example.token_ids) == text
    assert example.token_ids == tokenizer(text).input_ids
    assert learnt_text(example, tokenizer) == ["Hello</s>", "2</s>"]


def test_each_answer_follows_the_tokens_that_sampling_would_see_there(tokenizer):
    cfg = replace(CHAT, system="Be brief.")
    (example,) = stream([{"messages": turns("Hi", "Hello")}], tokenizer, cfg).all()
    prompts = PromptStream([{"prompt": "Hi", "answer": "1"}], replace(cfg, messages_field=""), tokenizer, 1, 99)
    (prompt,) = prompts.take(1)
    assert example.token_ids[: example.loss_mask_T.index(1)] == prompt.token_ids


def test_a_conversation_with_a_system_message_of_its_own_keeps_it(tokenizer):
    rows = [{"messages": [{"role": "system", "content": "Own"}, *turns("Hi", "Hello")]}]
    (example,) = stream(rows, tokenizer, replace(CHAT, system="Be brief.")).all()
    assert tokenizer.decode(example.token_ids).startswith("<s>system\nOwn</s>\n<s>user\nHi")


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_row_and_the_turn(make_byte_tokenizer):
    forgets = make_byte_tokenizer(
        chat="{% for m in messages %}{% if m['role'] == 'user' %}Q{{ m['content'] }}{% else %}"
        "A{{ m['content'].split('</think>')[-1] }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}A{% endif %}"
    )
    plain = {"messages": turns("Hi", "Hello", "1+1?", "2")}
    assert len(stream([plain], forgets)) == 1
    thought = {"messages": turns("Hi", "<think>hm</think>Hello", "1+1?", "2")}
    message = refusal([plain, thought], forgets)
    assert message.startswith("made up row 2: before assistant turn 2 the chat template writes the earlier turns")
    # A thought in the last answer is what sampling would give: nothing follows it.
    last = {"messages": turns("Hi", "Hello", "1+1?", "<think>hm</think>2")}
    assert learnt_text(stream([last], forgets).all()[0], forgets) == ["Hello</s>", "<think>hm</think>2</s>"]


def test_a_turn_that_ends_with_another_token_than_the_end_token_is_refused(make_byte_tokenizer):
    other = make_byte_tokenizer(
        chat="{% for m in messages %}{{ m['content'] }}<s>{% endfor %}{% if add_generation_prompt %}A{% endif %}"
    )
    message = refusal([{"messages": turns("Hi", "Hello", "1+1?", "2")}], other)
    assert "made up row 1: before assistant turn 2" in message
    assert "eos_token" in message


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "must be a list of messages"),
        ("Hi", "must be a list of messages"),
        (["Hi"], "message 1 of 'messages' is str"),
        ([{"role": "user"}], "message 1 of 'messages' lacks its role, or its content"),
        ([{"role": "user", "content": None}], "message 1 of 'messages' lacks its role, or its content"),
        (turns("Hi", " "), "message 2 of 'messages' lacks its role, or its content"),
        (turns("Hi", "Hello", "Bye"), "ends with a turn of user"),
        (turns("Hello", first="assistant"), "begins with an answer"),
    ],
)
def test_a_malformed_conversation_is_named(tokenizer, messages, fault):
    message = refusal([{"messages": turns("Hi", "Hello")}, {"messages": messages}], tokenizer)
    assert message.startswith("made up row 2: ")
    assert fault in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("reasoning_content", "two and two"), ("tool_calls", [{"function": {"name": "w"}}]), ("name", "x")],
)
def test_what_a_message_holds_besides_role_and_content_is_named_and_not_left_out(tokenizer, key, value):
    rows = [{"messages": turns("Hi", "Hello")}, {"messages": turns("Hi", "Hello")}]
    rows[1]["messages"][1][key] = value
    message = refusal(rows, tokenizer)
    assert message.startswith(f"made up row 2: message 2 of 'messages' has {key!r} besides role and content")
    for nothing in (None, "", []):  # a table gives every message the keys of all
        rows[1]["messages"][1][key] = nothing
        assert len(stream(rows, tokenizer)) == 2


def test_an_answer_of_weight_0_is_read_and_not_learnt(tokenizer):
    messages = turns("1+1?", "3", "No", "2")
    messages[1]["weight"], messages[3]["weight"] = 0, 1
    (example,) = stream([{"messages": messages}], tokenizer).all()
    assert "3</s>" in tokenizer.decode(example.token_ids)
    assert learnt_text(example, tokenizer) == ["2</s>"]
    messages[3]["weight"] = 0
    assert refusal([{"messages": messages}], tokenizer) == "made up row 1: every answer of 'messages' has weight 0"
    messages[3]["weight"] = 0.5
    assert "message 4 of 'messages' has weight 0.5, not 0 or 1" in refusal([{"messages": messages}], tokenizer)


def test_conversations_need_the_chat_template_and_no_text_field(tokenizer):
    rows = [{"messages": turns("Hi", "Hello"), "text": "x"}]
    assert "needs template=chat, not 'plain'" in refusal(rows, tokenizer, replace(CHAT, template="plain"))
    assert "set one" in refusal(rows, tokenizer, replace(CHAT, text_field="text"))


def test_a_template_that_refuses_a_conversation_is_reported_with_its_row(make_byte_tokenizer):
    fussy = make_byte_tokenizer(chat="{{ raise_exception('Roles must alternate') }}")
    message = refusal([{"messages": turns("Hi", "Hello")}], fussy)
    assert message == "made up row 1: the tokenizer's chat template refused: Roles must alternate"


def test_a_conversation_must_not_open_think_again_after_the_template_did(make_byte_tokenizer):
    opens = make_byte_tokenizer(chat="{{ messages[0]['content'] }}<think>\n")
    message = refusal([{"messages": turns("Hi", "<think>hm</think>Hello")}], opens)
    assert message.startswith("made up row 1: the template already opens <think>")


def test_conversations_over_the_limit_are_refused_or_dropped_and_counted(tokenizer):
    rows = [{"messages": turns("Hi", "x" * n)} for n in (3, 30)]
    assert "made up row 2: the conversation has" in refusal(rows, tokenizer, limit=40)
    kept = stream(rows, tokenizer, limit=40, overlong="drop")
    assert (len(kept), kept.dropped) == (1, 1)


# ------------------------------------------------------------------------------------------------ documents


def pieces(texts, tokenizer, limit):
    made = stream([{"text": text} for text in texts], tokenizer, TEXT, limit)
    return made, [(e.token_ids, e.loss_mask_T) for e in made.all()]


def test_a_document_is_learnt_whole_with_its_end_token(tokenizer):
    made, [(ids, mask)] = pieces(["abc"], tokenizer, 99)
    assert ids == [*tokenizer("abc").input_ids, END]
    assert mask == [0, 1, 1, 1]  # nothing precedes the first token
    assert (made.split, made.dropped) == (0, 0)


def test_a_begin_token_of_the_tokenizer_lets_the_first_token_be_learnt(make_byte_tokenizer):
    llama_like = make_byte_tokenizer(begin=True)
    for template in ("plain", "chat"):
        made = stream([{"text": "ab"}], llama_like, replace(TEXT, template=template))
        (example,) = made.all()
        assert example.token_ids == [1, *llama_like("ab", add_special_tokens=False).input_ids, END]
        assert example.loss_mask_T == [0, 1, 1, 1]


@pytest.mark.parametrize(("length", "num_pieces"), [(3, 1), (4, 2), (5, 2), (6, 2), (7, 3), (50, 17)])
def test_a_long_document_is_split_so_that_every_token_but_the_first_is_learnt_once(tokenizer, length, num_pieces):
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    made, parts = pieces([text], tokenizer, 4)
    assert len(parts) == num_pieces
    assert made.split == (num_pieces > 1)
    learnt = [t for ids, mask in parts for t, m in zip(ids, mask, strict=True) if m]
    assert learnt == [*tokenizer(text).input_ids, END][1:]
    assert all(2 <= len(ids) <= 4 and mask[0] == 0 and all(mask[1:]) for ids, mask in parts)
    # Each piece begins with the token that the next one of the document is predicted from.
    for (before, _), (after, _) in itertools.pairwise(parts):
        assert after[0] == before[-1]


def test_an_epoch_of_documents_is_an_epoch_of_pieces_and_the_cursor_counts_them(tokenizer):
    rows, cfg = [{"text": "x" * 9}, {"text": "yy"}], replace(TEXT, shuffle=True)
    made = stream(rows, tokenizer, cfg, 4)
    assert len(made) == 4
    assert made.split == 1
    epoch = made.take(4)
    assert sorted(e.token_ids for e in epoch) == sorted(e.token_ids for e in made.all())
    resumed = stream(rows, tokenizer, cfg, 4)
    resumed.restore(made.state())
    assert resumed.take(5) == made.take(5)


def test_the_same_documents_in_other_pieces_are_another_stream(tokenizer):
    rows = [{"text": "x" * 9}]
    fours, fives = stream(rows, tokenizer, TEXT, 4), stream(rows, tokenizer, TEXT, 5)
    assert len(fours) == len(fives) == 3
    with pytest.raises(BadInput, match="fingerprint of the data"):
        fives.restore(fours.state())


# ------------------------------------------------------------------------------------------------ epochs


def test_epochs_become_steps_rounded_up():
    assert SFTConfig(epochs=2, examples_per_step=8).total_steps(10) == 3
    assert SFTConfig(epochs=2, examples_per_step=5).total_steps(10) == 4
    assert SFTConfig(epochs=0.5, examples_per_step=1).total_steps(10) == 5
    assert SFTConfig(steps=7).total_steps(10) == 7
    assert [SFTConfig().enabled, SFTConfig(steps=1).enabled, SFTConfig(epochs=0.1).enabled] == [False, True, True]
