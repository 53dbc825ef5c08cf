"""The tokens between a model's turn and its next one: what the template writes around an environment's answer.

They are found once, before the run, by rendering an invented conversation with and without the answers. The samplers
then put tokens after tokens: what the model sampled is never decoded and encoded again. The answer's own text is
encoded alone, and so that nothing in it can become a special token: a tool cannot end its turn and speak as the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rl.backend import AroundAnswers, Frame
from rl.config import EnvironmentConfig
from rl.environments.definition import Definition
from rl.turns import PLAYER, TOOL
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
REPLY = "{reply}"
ANSWER, SAID, ASKED = "ANSWERmark{}ANSWER", "SAIDmarkSAID", "ASKEDmarkASKED"
"""Texts that no template writes by itself."""
FENCE_END = "\n```\n"
FRAMES = {
    "text": "\n{reply}\n",
    "fence": "```output\n{reply}\n```\n",
    "tools": "\n<tool_response>\n{reply}\n</tool_response>\n",
}
"""What is around an answer where the template is not chat."""


def around_answers(
    environments: Sequence[EnvironmentConfig], template: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[AroundAnswers, ...]:
    """What goes around each environment's answers. template: DataConfig.template of the prompts.

    Raises BadInput for a chat template that cannot be used for several turns.
    """
    return tuple(_around(cfg, template, tokenizer) for cfg in environments)


def _around(cfg: EnvironmentConfig, template: str, tokenizer: PreTrainedTokenizerBase) -> AroundAnswers:
    definition = Definition(cfg)
    stop = (FENCE_END,) if definition.reads_calls and cfg.call == "fence" else ()
    if template != CHAT or stop:
        text = cfg.frame or FRAMES[cfg.call if definition.reads_calls else "text"]
        if REPLY not in text:
            raise BadInput(f"environments: {cfg.name}: frame={text!r} needs {REPLY}, where the answer goes")
        before, _, after = text.partition(REPLY)
        frame = Frame(*(tuple(_ids(part, tokenizer)) for part in (before, after + before, after)))
        return AroundAnswers(cfg, frame, frame, stop)
    tools = definition.schemas() if definition.reads_calls else []
    if tools:
        _refuse_hidden(definition, tools, tokenizer)
    reply = _frame(cfg, PLAYER, [], tokenizer)
    return AroundAnswers(cfg, reply, _frame(cfg, TOOL, tools, tokenizer) if tools else reply, stop)


def _refuse_hidden(definition: Definition, tools: list[dict[str, object]], tokenizer: PreTrainedTokenizerBase) -> None:
    shown = _render([{"role": "user", "content": ASKED}], tools, tokenizer, definition.name)
    hidden = [name for name in definition.tools if name not in shown]
    if hidden:
        raise BadInput(
            f"environments: {definition.name}: the tokenizer's chat template does not show the tool {hidden[0]!r} to "
            "the model; use call=fence and say in the question how tools are called, or another model"
        )


def _frame(
    cfg: EnvironmentConfig, role: str, tools: list[dict[str, object]], tokenizer: PreTrainedTokenizerBase
) -> Frame:
    """The template's text between the model's end of turn and its next turn, cut at one answer and at two."""
    texts = []
    start = [{"role": "user", "content": ASKED}]
    for count in (1, 2):
        answers = (
            [{"role": role, "content": ANSWER.format(i)} for i in range(count)]
            if role == TOOL
            else [{"role": role, "content": ANSWER.format(0)}]
        )
        turn = [*start, {"role": "assistant", "content": SAID}]
        head = _render(start, tools, tokenizer, cfg.name)
        whole = _render([*turn, *answers], tools, tokenizer, cfg.name)
        where = f"environments: {cfg.name}: the tokenizer's chat template"
        if not whole.startswith(head + SAID) and not whole.startswith(head.rstrip() + SAID):
            raise BadInput(
                f"{where} changes what stands before a turn once there is another, so the model would read another "
                "history than it wrote; use a template that only appends, or call=fence"
            )
        rest = whole.partition(SAID)[2]
        marks = [answer["content"] for answer in answers]
        if any(rest.count(mark) != 1 for mark in marks):
            raise BadInput(f"{where} does not write an answer of role {role!r} as it is; use call=fence")
        end = cast(str, tokenizer.eos_token)
        if end not in rest.partition(marks[0])[0]:
            raise BadInput(f"{where} does not close the model's turn with {end!r}, at which sampling stops")
        texts.append((rest.partition(end)[2], marks))
    (one, (mark,)), (two, marks) = texts
    before, _, after = one.partition(mark)
    between = two.partition(marks[0])[2].partition(marks[-1])[0] if len(marks) == 2 else after + before
    return Frame(*(tuple(_ids(part, tokenizer)) for part in (before, between, after)))


def _render(
    messages: list[dict[str, str]], tools: list[dict[str, object]], tokenizer: PreTrainedTokenizerBase, name: str
) -> str:
    from jinja2 import TemplateError

    try:
        return cast(
            str,
            tokenizer.apply_chat_template(
                cast(Any, messages), tools=cast(Any, tools) or None, tokenize=False, add_generation_prompt=True
            ),
        )
    except (TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"environments: {name}: the tokenizer's chat template refused several turns: {reason}"
        ) from error


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(cast(Any, tokenizer)(text, add_special_tokens=False).input_ids)


def room_for_answers(around: Sequence[AroundAnswers]) -> int:
    """The most tokens that an environment's answers take in one trajectory: (max_turns - 1) x one turn's."""
    return max((_most_of(each) for each in around), default=0)


def _most_of(around: AroundAnswers) -> int:
    frame = max(len(f.before) + len(f.after) for f in (around.reply, around.tool))
    return (around.environment.max_turns - 1) * (around.environment.max_reply_tokens + frame)


# ------------------------------------------------------------------------------------------------ in the sampler


def answer_ids(texts: Sequence[str], frame: Frame, limit: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the answers to one turn, with what is around them. limit: of the answers and what is between them.

    An answer that is too long is cut in its middle.
    """
    room = max(1, (limit - (len(texts) - 1) * len(frame.between)) // len(texts))
    ids: list[int] = []
    for i, text in enumerate(texts):
        ids += [*(frame.between if i else ()), *_cut(plain_ids(text, tokenizer), room, tokenizer)]
    return [*frame.before, *ids[:limit], *frame.after]


def plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The text's tokens, none of them special, whatever the text says."""
    return list(cast(Any, tokenizer)(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def _cut(ids: list[int], limit: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At most limit tokens: the first and the last of them around a mark."""
    if len(ids) <= limit:
        return ids
    mark = plain_ids("\n[...]\n", tokenizer)
    room = max(0, limit - len(mark))
    last = room // 2
    return (ids[: room - last] + mark + ids[len(ids) - last :])[:limit]
