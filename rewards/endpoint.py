"""An OpenAI-compatible endpoint (a vLLM server, DeepSeek, OpenAI): one client, for LLM judges and for teachers.

The client sends again what failed for the moment (no connection, a time-out, HTTP 408, 409, 429 and 5xx), waits longer
each time, and obeys Retry-After up to MAX_RETRY_AFTER_S.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from rewards.types import excerpt

if TYPE_CHECKING:
    from openai import OpenAI

MAX_RETRY_AFTER_S = 120.0
"""The longest Retry-After that the client obeys; a longer one is an error."""


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

    finish_reason: "stop", "length" (cut at the limit), or the endpoint's own; "" when it says none.
    prompt_tokens, completion_tokens: as the endpoint counts them, the reasoning's included; 0 when it does not say.
    """

    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    retries: int


def chat(where: Endpoint, messages: Sequence[Mapping[str, str]], **settings: Any) -> Answer:
    """Ask once (POST /chat/completions). settings: the request's own, as temperature or max_tokens. Raises NoAnswer."""
    from openai import OpenAIError

    wanted: Any = list(messages)
    try:
        raw = client(where).chat.completions.with_raw_response.create(model=where.model, messages=wanted, **settings)
        tree = json.loads(raw.text)
    except OpenAIError as error:
        raise NoAnswer(excerpt(str(error), 200)) from error
    except ValueError as error:
        raise NoAnswer(f"its answer is no JSON: {excerpt(str(error), 200)}") from error
    try:
        choice = tree["choices"][0]
        message, usage = choice["message"], tree.get("usage") or {}
        # DeepSeek and vLLM's older parsers say reasoning_content, vLLM's newer ones and OpenRouter reasoning.
        texts = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning") or ""
        asked, said = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        finish_reason = str(choice.get("finish_reason") or "")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise NoAnswer(f"its answer has another form: {excerpt(raw.text, 200)}") from error
    if not all(isinstance(text, str) for text in texts):
        raise NoAnswer(f"its answer is no text: {excerpt(raw.text, 200)}")
    return Answer(*texts, finish_reason, asked, said, raw.retries_taken)


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
