"""A Modelfile: what `ollama create NAME -f Modelfile` imports a Hugging Face folder by.

TEMPLATE is in Go's template language. It is derived from the prompt template by rendering marked messages, and holds
{{ .Thinking }} between think tags in the loop over the messages: from that Ollama knows that the model thinks, and how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from rl.config import DataConfig
from rl.data.templates import TEMPLATES
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USER, _ASSISTANT, _AGAIN, _SYSTEM = "\u2402user\u2403", "\u2402assistant\u2403", "\u2402again\u2403", "\u2402sys\u2403"
_THOUGHT = "\u2402thought\u2403"


@dataclass(frozen=True)
class Turns:
    """What stands around messages. first: before the first question. after: behind the last question, where the answer
    begins; some open the thought there. past: between a question and the answer that it had. between: behind an answer,
    up to the next question. system: before a system message and behind it, up to the question; None where there can be
    none. thoughts: whether past answers keep their thoughts.
    """

    first: str
    after: str
    past: str
    between: str
    system: tuple[str, str] | None
    thoughts: bool


def modelfile(
    data: DataConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    stops: tuple[str, ...],
    temperature: float,
    top_p: float,
    context: int,
) -> str:
    """The Modelfile. data: a prompt template of Aha's; None: the tokenizer's chat template. context: tokens.

    Raises BadInput for a template that cannot be written in it.
    """
    turns = text_turns(data, cast(str, tokenizer.eos_token)) if data else chat_turns(tokenizer)
    begin = cast("str | None", tokenizer.bos_token)
    if begin:  # Ollama puts the begin token there itself
        turns = replace(turns, first=turns.first.removeprefix(begin))
    lines = ["# Import with: ollama create NAME -f Modelfile (smaller with --quantize q4_K_M)", "FROM ."]
    if turns.system is None:
        lines.append("# System messages are left out: the model was trained without.")
    lines.append(f'TEMPLATE """{go_template(turns)}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in dict.fromkeys(stops)]
    lines += [f"PARAMETER temperature {temperature:g}", f"PARAMETER top_p {top_p:g}", f"PARAMETER num_ctx {context}"]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """One line of Go's template language; $open is what comes before the next question, $turn behind the last one.

    A thought that past answers do not keep stays in the template, never shown: Ollama looks for it there.
    """
    texts = (turns.first, turns.after, turns.past, turns.between, *(turns.system or ()))
    if any("{{" in text or '"""' in text for text in texts):
        raise BadInput('the prompt template has {{ or """ in it, which a Modelfile cannot hold')
    system = ""
    if turns.system:
        before, behind = turns.system
        system = f'{{{{ if eq .Role "system" }}}}{before}{{{{ .Content }}}}{{{{ $open = {_go(behind)} }}}}{{{{ end }}}}'
    return (
        f'{{{{ $open := {_go(turns.first)} }}}}{{{{ $turn := "" }}}}{{{{ range .Messages }}}}{system}'
        '{{ if eq .Role "user" }}{{ $open }}{{ .Content }}'
        f"{{{{ $turn = {_go(turns.after)} }}}}{{{{ end }}}}"
        f'{{{{ if eq .Role "assistant" }}}}{turns.past}{{{{ if {".Thinking" if turns.thoughts else "false"} }}}}'
        '<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ $turn = "" }}'
        f"{{{{ $open = {_go(turns.between)} }}}}{{{{ end }}}}{{{{ end }}}}{{{{ $turn }}}}"
    )


def text_turns(data: DataConfig, end: str) -> Turns:
    """Of a template with {prompt} in it. Go cannot look at a question's last character, so r1_zero's full stop is left
    out, as in training after every question that ends in punctuation. Raises BadInput for two {prompt}.
    """
    text = TEMPLATES.get(data.template, data.template)
    if data.template == "r1_zero":
        text = text.replace("{prompt}.", "{prompt}")
    if text.count("{prompt}") != 1:
        raise BadInput("a Modelfile can hold the question once, and this prompt template has it twice")
    before, after = text.split("{prompt}")
    return Turns(before, after, after, end + before, None, thoughts=True)


def chat_turns(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """Of a chat template, by rendering marked messages. Raises BadInput when it leaves one out."""
    question, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
    first, after = _split(_render(tokenizer, [question]), _USER)
    again = {"role": "user", "content": _AGAIN}
    past, behind = _split(_split(_render(tokenizer, [question, answer, again]), _USER)[1], _ASSISTANT)
    between = _split(behind, _AGAIN)[0]
    thought = {"role": "assistant", "content": f"<think>{_THOUGHT}</think>{_ASSISTANT}"}
    turns = Turns(first, after, past, between, None, _THOUGHT in _render(tokenizer, [question, thought, again]))
    from jinja2 import TemplateError

    try:
        told = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, question])
    except TemplateError:  # some refuse system messages
        return turns
    before, behind = _split(told, _SYSTEM) if _SYSTEM in told else ("", "")
    return replace(turns, system=(before, _split(behind, _USER)[0]) if behind else None)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _split(text: str, mark: str) -> tuple[str, str]:
    before, found, behind = text.partition(mark)
    if not found:
        raise BadInput("the chat template leaves out a message, so no Modelfile can be derived from it")
    return before, behind


def _go(text: str) -> str:
    """A text as Go writes it in quotes."""
    return json.dumps(text, ensure_ascii=False)
