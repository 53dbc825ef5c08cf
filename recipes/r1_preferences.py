"""Preferences of r1_mini for what needs no reasoning: greetings to compare, and a rule that says which is better.

Apart from recipes/r1_tasks.py, so that a change here runs no stage again that does not read it.
"""

from __future__ import annotations

from recipes.r1_tasks import Row, chat_train, exact


def right_greeting(first: str, second: str, *, answer: str, **columns: object) -> float:
    """Above 0 where the first alone is the expected reply, in the right language and for the right name; below 0 where
    the second is; 0 where both or neither are."""
    return exact(first, answer=answer) - exact(second, answer=answer)


def greetings(sources: dict[str, list[Row]]) -> list[Row]:
    """Candidates for each training prompt, in the form of samples.jsonl: the expected reply and wrong ones.

    Wrong are the replies to the name's other prompts (another language, a farewell for a greeting), the reply to
    another name, and the right one said twice or cut in half. Each wrong reply is longer than the right one about as
    often as it is shorter.
    """
    rows = chat_train()
    replies: dict[str, list[str]] = {}
    for row in rows:
        replies.setdefault(_name(row), []).append(str(row["answer"]))
    names = sorted(replies)
    return [_line(number, row, replies, names) for number, row in enumerate(rows)]


def _line(number: int, row: Row, replies: dict[str, list[str]], names: list[str]) -> Row:
    answer, name = str(row["answer"]), _name(row)
    other = names[(names.index(name) + 1) % len(names)]
    twice, half = f"{answer} {answer}", answer[: len(answer) // 2]
    texts = dict.fromkeys([answer, *replies[name], answer.replace(name, other), twice, half])
    samples = [{"text": text, "reason": "kept: all"} for text in texts]
    return {"prompt_id": number, "prompt": row["prompt"], "answer": answer, "row": row, "samples": samples}


def _name(row: Row) -> str:
    return str(row["prompt"]).rstrip(":").removesuffix(" um").split()[-1]
