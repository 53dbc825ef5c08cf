"""A teacher's answer as one text with one pair of think tags, whatever its server made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"

_TAG = re.compile(r"</?think>", re.IGNORECASE)
_ANY_TAG = re.compile(r"(?:<(/?)(think|thinking|thought|reasoning)>|\[(/?)(THINK)\])", re.IGNORECASE)
_ENDS = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|return|endofanswer|eos|END_OF_TURN_TOKEN)\|>"
    r"|<｜end▁of▁sentence｜>|<(?:end_of_turn|eos|end_of_utterance)>|\[EOS\]|\[e~\[|<\|assistant_end\|>"
)
_LAST = re.compile(r"(?:</s>|<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|\s)+\Z")
_FIRST = re.compile(r"\A(?:\s|<s>|<bos>|<\|(?:im_start|start_header_id|begin_of_text)\|>(?:assistant\b)?)+")


class Parts(NamedTuple):
    """An answer's thought and what follows it, without tags. own: the thought stood in the content, as it is there.

    closed: whether the thought came to its end. tagged: whether there were tags at all.
    """

    thought: str
    answer: str
    own: bool
    closed: bool
    tagged: bool


def parts_of(content: str, reasoning: str, ends: Sequence[str] = ()) -> Parts:
    """The thought and the answer of a message. reasoning: the thought where the endpoint gave it apart.

    Tags of other names count where the content begins with one, or has no more than a closing one. What stands before
    the first tag is part of the thought. ends: end tokens that the content may have beside the common ones.

        "<think>a</think>b", "" -> a, b     "a</think>b", "" -> a, b     "b", "a" -> a, b
        "<think>a</think>b", "a" -> a, b    "<think><think>a</think></think>b", "" -> a, b
    """
    content, reasoning = _without_ends(_common_names(content), ends), _without_ends(_common_names(reasoning), ends)
    before, close, answer = content.rpartition(CLOSE)
    if OPEN in answer:  # cut inside the thought, or inside a second one
        before, close, answer = content, "", ""
    own, given = _TAG.sub("", before), _TAG.sub("", reasoning).strip()
    tagged = bool(_TAG.search(content))
    if not given:
        return Parts(own, _TAG.sub("", answer), True, bool(close), tagged)
    thought = given if own.strip() in ("", given) else f"{given}\n\n{own.strip()}"
    return Parts(thought, _TAG.sub("", answer), False, bool(close or answer.strip()), tagged)


def _common_names(text: str) -> str:
    """The text with <think> for the tags that it begins with, or for a closing one: <thinking>, [THINK], <Think>."""
    first = _ANY_TAG.search(text)
    if first is None:
        return text
    closes, name = bool(first[1] or first[3]), (first[2] or first[4]).lower()
    if text[: first.start()].strip() and not closes and name != "think":
        return text

    def common(tag: re.Match[str]) -> str:
        same = (tag[2] or tag[4]).lower() == name and bool(tag[4]) == bool(first[4])
        return (CLOSE if tag[1] or tag[3] else OPEN) if same else tag.group()

    return _ANY_TAG.sub(common, text)


def _without_ends(text: str, ends: Sequence[str]) -> str:
    """The text up to its first end token, without the special tokens around it."""
    cut = [match.start() for match in [_ENDS.search(text)] if match]
    cut += [place for end in ends if end and (place := text.find(end)) >= 0]
    text = text[: min(cut)] if cut else text
    tail = _LAST.search(text)
    if tail and tail.group().strip():
        text = text[: tail.start()]
    head = _FIRST.match(text)
    return text[head.end() :] if head and head.group().strip() else text
