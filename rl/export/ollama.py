"""A Modelfile, with which `ollama create NAME -f Modelfile` imports a Hugging Face folder.

A value in quotes is taken as it stands, without escapes, and of characters that cannot be seen only white space is
kept (Ollama's parser.go), so those go into strings of the template, which have escapes.

TEMPLATE is in Go's template language, derived from the prompt template by rendering marked messages. Its loop over the
messages has {{ .Thinking }} between think tags, from which Ollama learns that the model thinks, and with which tags.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rl.config import DataConfig
from rl.data.templates import TEMPLATES, prompt_prefix
from rl.types import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USER, _ASSISTANT, _AGAIN, _SYSTEM = "\u2402user\u2403", "\u2402assistant\u2403", "\u2402again\u2403", "\u2402sys\u2403"
_THOUGHT = "\u2402thought\u2403"


@dataclass(frozen=True)
class Turns:
    """The texts around messages. first: before the first question. after: after the last question, where the answer
    begins; some templates open the thought there. past: between a question and its answer. between: from an answer to
    the next question. system: (before a system message, from it to the question); None when there can be none.
    thoughts: whether past answers keep their thoughts.
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
    *,
    adds_begin: bool | None = None,
) -> str:
    """The Modelfile. data: the prompt template; None: the tokenizer's chat template. context: tokens.

    adds_begin: whether Ollama will put the begin token before a prompt itself (adds_begin_token); None: where the
    tokenizer does. Raises BadInput for a template that a Modelfile cannot express.
    """
    turns = text_turns(data, cast(str, tokenizer.eos_token)) if data else chat_turns(tokenizer)
    begin = cast("str | None", tokenizer.bos_token) or ""
    tokenizer_adds = bool(begin) and bool(prompt_prefix(DataConfig(template="plain"), tokenizer))
    adds_begin = tokenizer_adds if adds_begin is None else adds_begin
    first = turns.first.removeprefix(begin)
    if not adds_begin and (first != turns.first or (data is not None and tokenizer_adds)):
        first = begin + first  # as in training, and nobody else does
    turns = replace(turns, first=first)
    if adds_begin and turns.system:
        turns = replace(turns, system=(turns.system[0].removeprefix(begin), turns.system[1]))
    lines = ["# Import with: ollama create NAME -f Modelfile (smaller with --quantize q4_K_M)", "FROM ."]
    if turns.system is None:
        lines.append("# System messages are left out: the model was trained without.")
    lines.append(f'TEMPLATE """{go_template(turns)}"""')
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in dict.fromkeys(stops)]
    lines += [f"PARAMETER temperature {temperature:g}", f"PARAMETER top_p {top_p:g}", f"PARAMETER num_ctx {context}"]
    return "\n".join(lines) + "\n"


def adds_begin_token(folder: Path) -> bool:
    """Whether Ollama puts the begin token before every prompt of a model in this folder: its converter asks
    tokenizer_config.json, not the tokenizer.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(config.get("add_bos_token"))


def go_template(turns: Turns) -> str:
    """The template, one line of Go's template language. $open: before the next question. $turn: after the last one.

    The thought is in the template even when past answers drop it (under `if false`), because Ollama looks for it there.
    """
    texts = (turns.first, turns.after, turns.past, turns.between, *(turns.system or ()))
    if any("{{" in text or '"""' in text for text in texts):
        raise BadInput('the prompt template has {{ or """ in it, which a Modelfile cannot hold')
    system = ""
    if turns.system:
        before, behind = turns.system
        content = f"{_raw(before)}{{{{ .Content }}}}{{{{ $open = {_go(behind)} }}}}"
        system = f'{{{{ if eq .Role "system" }}}}{content}{{{{ end }}}}'
    return (
        f'{{{{ $open := {_go(turns.first)} }}}}{{{{ $turn := "" }}}}{{{{ range .Messages }}}}{system}'
        '{{ if eq .Role "user" }}{{ $open }}{{ .Content }}'
        f"{{{{ $turn = {_go(turns.after)} }}}}{{{{ end }}}}"
        f'{{{{ if eq .Role "assistant" }}}}{_raw(turns.past)}{{{{ if {".Thinking" if turns.thoughts else "false"} }}}}'
        '<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ $turn = "" }}'
        f"{{{{ $open = {_go(turns.between)} }}}}{{{{ end }}}}{{{{ end }}}}{{{{ $turn }}}}"
    )


def text_turns(data: DataConfig, end: str) -> Turns:
    """The turns of a template with {prompt}. Raises BadInput when {prompt} is there twice.

    Go templates cannot look at a question's last character, so r1_zero's full stop after the question is left out.
    Training leaves it out too, after questions that end in punctuation.
    """
    text = TEMPLATES.get(data.template, data.template)
    if data.template == "r1_zero":
        text = text.replace("{prompt}.", "{prompt}")
    if text.count("{prompt}") != 1:
        raise BadInput("a Modelfile can hold the question once, and this prompt template has it twice")
    before, after = text.split("{prompt}")
    return Turns(before, after, after, end + before, None, thoughts=True)


def chat_turns(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """The turns of a chat template, found by rendering marked messages. Raises BadInput when it drops a message."""
    question, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
    first, after = _split(_render(tokenizer, [question]), _USER)
    again = {"role": "user", "content": _AGAIN}
    past, behind = _split(_split(_render(tokenizer, [question, answer, again]), _USER)[1], _ASSISTANT)
    between = _split(behind, _AGAIN)[0]
    thought = {"role": "assistant", "content": f"<think>{_THOUGHT}</think>{_ASSISTANT}"}
    turns = Turns(first, after, past, between, None, _THOUGHT in _render(tokenizer, [question, thought, again]))
    from jinja2 import TemplateError

    try:
        rendered = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, question])
    except TemplateError:  # some refuse system messages
        return turns
    before, behind = _split(rendered, _SYSTEM) if _SYSTEM in rendered else ("", "")
    return replace(turns, system=(before, _split(behind, _USER)[0]) if behind else None)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _split(text: str, mark: str) -> tuple[str, str]:
    before, found, behind = text.partition(mark)
    if not found:
        raise BadInput("the chat template leaves out a message, so no Modelfile can be derived from it")
    return before, behind


def _go(text: str) -> str:
    """The text as a quoted Go string. Characters that cannot be seen are escaped, others beyond ASCII stay."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _raw(text: str) -> str:
    """A text between the template's actions: as it is where that can be seen, else as a string."""
    return text if all(c.isprintable() or c == "\n" for c in text) else f"{{{{ {_go(text)} }}}}"


def _quoted(text: str) -> str:
    """A value of the Modelfile in quotes, which have no escapes. Raises BadInput for one that it cannot hold."""
    if '"""' in text or not all(c.isprintable() or c in "\n\r\t" for c in text):
        raise BadInput(f"the stop text {text!r} has characters in it that a Modelfile cannot hold")
    quotes = '"""' if '"' in text or "\n" in text or "\r" in text else '"'
    return f"{quotes}{text}{quotes}"
