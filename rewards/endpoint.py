"""An OpenAI-compatible endpoint (a vLLM server, DeepSeek, OpenAI): one client, for LLM judges and for teachers.

Sent again, after longer and longer waits: what failed for the moment (no connection, a time-out, HTTP 408, 409, 429 and
5xx), and an answer under status 200 that is an error or no answer at all. Retry-After is obeyed up to
MAX_RETRY_AFTER_S.

Endpoints differ in what a request may say: newer models of OpenAI refuse max_tokens and any temperature but 1, others
know no JSON schemas. A field with alternatives (Field) is asked for in its next form when an endpoint refuses it, and
what an endpoint took is remembered.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from rewards.types import excerpt

if TYPE_CHECKING:
    from openai import OpenAI

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Before an answer that was an error is asked for again, and again."""
MAX_RETRY_AFTER_S = 120.0
"""The longest Retry-After that the client obeys; a longer one is an error."""


class Request(TypedDict, total=False):
    """What a request asks for beside its messages: the fields that the client knows by name."""

    max_tokens: int
    max_completion_tokens: int
    temperature: float
    top_p: float
    seed: int
    response_format: Mapping[str, object]
    stop: Sequence[str]
    reasoning_effort: str
    presence_penalty: float
    frequency_penalty: float


_FINISHES = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "end": "stop",
    "done": "stop", "completed": "stop", "eos_found": "stop", "finish_reason_stop": "stop", "length": "length",
    "max_tokens": "length", "max_length": "length", "max_output_tokens": "length", "model_length": "length",
    "max_completion_tokens": "length", "token_limit": "length", "finish_reason_length": "length",
    "model_context_window_exceeded": "length",
}  # fmt: skip
"""What other servers call the two good ends (Anthropic, Google, TGI, llama.cpp, Mistral)."""

_TAKEN: dict[tuple[str, str], dict[tuple[str, ...], int]] = {}
"""Endpoint and model -> field -> the first of its forms that was not refused. Threads may share it."""


@dataclass(frozen=True)
class Endpoint:
    """Where and whom to ask. base_url: ends in /v1. api_key_env: the variable with the key; vLLM needs none.

    timeout_s: of a connection and of each silence in one attempt, seconds. retries: attempts after the first.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 30.0
    retries: int = 3

    @property
    def bound_s(self) -> float:
        """One request, its retries and the waits between them take no longer, seconds, if its answers come whole."""
        return 2 * self.timeout_s * (self.retries + 1) + MAX_RETRY_AFTER_S * self.retries


class NoAnswer(Exception):
    """The endpoint gave no answer that can be read, after all retries. Its text is one line."""


class Answer(NamedTuple):
    """One answer. reasoning: the chain where the endpoint returns it apart, else "". retries: attempts that failed.

    content, reasoning: as texts, whatever parts they came in. finish_reason: "stop", "length" (cut at the limit), both
    whatever the endpoint calls them, or its own; "" when it says none.
    prompt_tokens, completion_tokens: as the endpoint counts them, the reasoning's included; 0 when it does not say.
    """

    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    retries: int


class Field(NamedTuple):
    """A part of a request, and what may stand for it. words: what a refusal of it says, in lower case.

    Field(("max_tokens",), ({"max_tokens": 9}, {"max_completion_tokens": 9}))
    """

    words: tuple[str, ...]
    forms: tuple[Request, ...]


def length_field(limit: int) -> Field:
    """The limit of an answer's tokens, under both of its names."""
    words = ("max_tokens", "max_completion_tokens", "max_new_tokens")
    return Field(words, ({"max_tokens": limit}, {"max_completion_tokens": limit}))


def chat(
    where: Endpoint,
    messages: Sequence[Mapping[str, str]],
    fields: Sequence[Field] = (),
    request: Request | None = None,
    others: Mapping[str, object] | None = None,
) -> Answer:
    """Ask once (POST /chat/completions). fields: those with alternatives. request: the other ones that are known.

    others: fields by any name, known or not, which the user wants sent. Raises NoAnswer.
    """
    plain = Endpoint(where.base_url, where.model, where.api_key_env, where.timeout_s, where.retries)
    known = _TAKEN.setdefault((where.base_url, where.model), {})
    forms = {field.words: min(known.get(field.words, 0), len(field.forms) - 1) for field in fields}
    retries = 0
    while True:
        sent: dict[str, object] = {**(request or {}), **(others or {})}
        for field in fields:
            sent |= field.forms[forms[field.words]]
        try:
            answer = _ask(plain, messages, sent, where.retries - retries)
        except _Refused as error:
            refused = _refused_field(fields, forms, error)
            if refused is None:
                raise NoAnswer(excerpt(str(error), 200)) from error
            forms[refused.words] += 1
        except _ErrorBody as error:
            retries += 1 + error.retries
            if retries > where.retries:
                raise NoAnswer(str(error)) from error
            time.sleep(min(FIRST_WAIT_S * 2 ** (retries - 1), LONGEST_WAIT_S))
        else:
            known.update(forms)
            return answer._replace(retries=answer.retries + retries)


class _Refused(Exception):
    """The endpoint refuses the request. of_form: for what it asks (HTTP 400 or 422), else perhaps for that."""

    def __init__(self, said: str, *, of_form: bool) -> None:
        super().__init__(said)
        self.of_form = of_form


class _ErrorBody(Exception):
    """Under status 200 came no answer: an error that a gateway passes on, or nothing that can be read.

    retries: attempts of this request that failed before.
    """

    def __init__(self, said: str, retries: int) -> None:
        super().__init__(said)
        self.retries = retries


def _ask(where: Endpoint, messages: Sequence[Mapping[str, str]], sent: Mapping[str, object], retries: int) -> Answer:
    """One request, which the client sends again where its HTTP status says so, at most `retries` times."""
    from openai import APIStatusError, OpenAIError

    wanted: Any = list(messages)
    known: Any = {key: value for key, value in sent.items() if key in Request.__annotations__}
    unknown = {key: value for key, value in sent.items() if key not in known}  # the client sends them as they are
    try:
        again = client(where) if retries == where.retries else client(where).with_options(max_retries=retries)
        create = again.chat.completions.with_raw_response.create
        raw = create(model=where.model, messages=wanted, extra_body=unknown or None, **known)
    except APIStatusError as error:
        raise _Refused(str(error), of_form=error.status_code in (400, 422)) from error
    except OpenAIError as error:
        raise NoAnswer(excerpt(str(error), 200)) from error
    try:
        tree = json.loads(raw.text)
    except ValueError as error:
        raise _ErrorBody(f"its answer is no JSON: {excerpt(str(error), 200)}", raw.retries_taken) from error
    _refuse_error(tree, raw.retries_taken)
    try:
        choice = tree["choices"][0]
        message, usage = choice["message"], tree.get("usage") or {}
        content, thought = _texts(message.get("content"))
        # DeepSeek and vLLM's older parsers say reasoning_content, vLLM's newer ones and OpenRouter reasoning.
        reasoning = message.get("reasoning_content") or message.get("reasoning") or thought
        asked, said = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        finish_reason = str(choice.get("finish_reason") or "")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _ErrorBody(f"its answer has another form: {excerpt(raw.text, 200)}", raw.retries_taken) from error
    if not isinstance(reasoning, str):
        raise NoAnswer(f"its answer is no text: {excerpt(raw.text, 200)}")
    return Answer(
        content, reasoning, _FINISHES.get(finish_reason.lower(), finish_reason), asked, said, raw.retries_taken
    )


def _refuse_error(tree: object, retries: int) -> None:
    """Raise for a body that is an error, as gateways pass it on under status 200."""
    choices = tree.get("choices") if isinstance(tree, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else {}
    error = tree.get("error") if isinstance(tree, dict) else None
    error = error or (first.get("error") if isinstance(first, dict) else None)
    if not error:
        return
    said = f"its answer is an error: {excerpt(json.dumps(error), 200)}"
    code = error.get("code") if isinstance(error, dict) else None
    raise _Refused(said, of_form=True) if str(code) in ("400", "422") else _ErrorBody(said, retries)


def _texts(content: object) -> tuple[str, str]:
    """(text, thought) of a message's content: a text, None, or a list of parts. Raises TypeError for others.

    [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}] -> ("b", "a")
    """
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(f"a content that is a {type(content).__name__}")
    text, thought = [], []
    for part in content:
        if isinstance(part, str):
            text.append(part)
        elif part.get("type") in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text")
            thought.append(_texts(inner)[0])
        elif isinstance(part.get("text"), str):
            text.append(part["text"])
    return "".join(text), "".join(thought)


def _refused_field(fields: Sequence[Field], forms: Mapping[tuple[str, ...], int], error: _Refused) -> Field | None:
    """The field to ask for in its next form: the one that the refusal names, else, where it is for the request's form,
    the first that has one.
    """
    left = [field for field in fields if forms[field.words] + 1 < len(field.forms)]
    said = str(error).lower()
    named = [field for field in fields if any(word in said for word in field.words)]
    if named or not error.of_form:
        return next((field for field in named if field in left), None)
    return next(iter(left), None)


def models(where: Endpoint) -> list[str]:
    """The models that the endpoint serves (GET /models). Raises NoAnswer."""
    from openai import OpenAIError

    try:
        raw = client(where).models.with_raw_response.list()
        return [str(item["id"]) for item in json.loads(raw.text)["data"]]
    except OpenAIError as error:
        raise NoAnswer(excerpt(str(error), 200)) from error
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer(f"GET {where.base_url}/models is answered in another form: {excerpt(raw.text, 200)}") from error


@lru_cache(maxsize=8)
def client(where: Endpoint) -> OpenAI:
    """One client an endpoint: it keeps connections open, takes 0.1 s to make, and threads may share it."""
    from openai import OpenAI

    key = os.environ.get(where.api_key_env) or "none"
    return OpenAI(base_url=where.base_url, api_key=key, timeout=where.timeout_s, max_retries=where.retries)
