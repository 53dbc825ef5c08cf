"""What endpoints are in the habit of: fields they refuse, forms they answer in, errors under status 200."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rewards import endpoint
from rewards.endpoint import Endpoint, Field, NoAnswer, chat, length_field
from rewards.llm_judge import llm_judge, llm_pairwise, read_verdict

Request = dict[str, Any]
Reply = tuple[int, Any]

CORRECT = '{"why": "", "verdict": "correct"}'


def message(content: Any, finish: str | None = "stop", **more: Any) -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}
    return 200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 7}}


def refusal(text: str, status: int = 400) -> Reply:
    return status, {"error": {"message": text, "type": "invalid_request_error", "code": None}}


class Server:
    """habit: what it answers to a request: a status, and a body as JSON or as it is."""

    def __init__(self) -> None:
        self.habit: Callable[[Request], Reply] = lambda request: message(CORRECT)
        self.asked: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(request)
                status, body = outer.habit(request)
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (("Content-Length", str(len(data))), ("retry-after-ms", "1")):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.001)
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def judged(server: Server, tmp_path: Path) -> Callable[..., Any]:
    def go(**settings: Any) -> Any:
        where = {"base_url": server.url, "model": "judge", "cache": str(tmp_path / "cache.sqlite"), "retries": 2}
        (score,) = llm_judge(["6 * 7?"], ["It is 42."], ["42"], **{**where, **settings})
        return score

    return go


# ------------------------------------------------------------------------------------------------ what is refused


def without(name: str, text: str, status: int = 400) -> Callable[[Request], Reply]:
    return lambda request: refusal(text, status) if name in request else message(CORRECT)


def only(**wanted: Any) -> Callable[[Request], Reply]:
    """A server that refuses, without a reason that names it, whatever is not as wanted."""

    def habit(request: Request) -> Reply:
        for name, value in wanted.items():
            if request.get(name) != value:
                return refusal("Invalid request")
        return message(CORRECT)

    return habit


def newest(request: Request) -> Reply:
    """As OpenAI's reasoning models refuse."""
    if "max_tokens" in request:
        return refusal(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
    if request.get("temperature", 1) != 1:
        return refusal(
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported."
        )
    return message(CORRECT)


def no_schema(request: Request) -> Reply:
    """As DeepSeek refuses."""
    if request.get("response_format", {}).get("type") == "json_schema":
        return refusal("This response_format type is unavailable now")
    return message(CORRECT)


HABITS: dict[str, Callable[[Request], Reply]] = {
    "all is taken": lambda request: message(CORRECT),
    "the newest models": newest,
    "no JSON schema": no_schema,
    "no response format": without("response_format", "response_format is not supported"),
    "no response format, as another status": without("response_format", "Extra inputs: response_format", 422),
    "no response format, as a server's error": without("response_format", "structured output: grammar failed", 500),
    "no response format, as not implemented": without("response_format", "guided decoding is not there", 501),
    "no schema, for its grammar": lambda request: refusal("failed to parse grammar") if "json_schema" in str(request.get("response_format")) else message(CORRECT),
    "no temperature": without("temperature", "temperature: this model has none"),
    "no max_tokens": without("max_tokens", "unknown field max_tokens"),
    "no reason given for the form": only(response_format=None),
    "no reason given for the length's name": only(response_format=None, max_tokens=None),
    "no reason given for anything": only(response_format=None, max_tokens=None, temperature=None),
    "a refusal under status 200": lambda request: (200, {"error": {"code": 400, "message": "response_format"}}) if "response_format" in request else message(CORRECT),
}  # fmt: skip


@pytest.mark.parametrize("habit", HABITS)
def test_a_field_that_an_endpoint_refuses_is_left_out_and_that_is_remembered(server, judged, tmp_path, habit):
    server.habit = HABITS[habit]
    assert judged().value == 1.0
    server.asked.clear()
    assert judged(cache=str(tmp_path / "another")).value == 1.0
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        refusal("The model is overloaded with nonsense"),
        refusal("Incorrect API key provided", 401),
        refusal("no such model", 404),
        refusal("max_tokens: this model's context is 10 tokens"),
        refusal("temperature and max_tokens and response_format are all wrong"),
        (200, {"error": {"code": 400, "message": "the prompt is too long"}}),
    ],
)
def test_an_endpoint_that_refuses_all_forms_gives_no_verdict_after_a_few_requests(server, judged, reply):
    server.habit = lambda request: reply
    assert judged(retries=0).verdict == "failed"
    assert len(server.asked) <= 6


def test_the_fields_of_a_request_are_settings(server, judged, tmp_path):
    judged(max_tokens=77, temperature=None, response_format="none", extra={"reasoning_effort": "low", "top_k": 4})
    (request,) = server.asked
    assert {key: request.get(key) for key in ("max_tokens", "reasoning_effort", "top_k")} == {
        "max_tokens": 77, "reasoning_effort": "low", "top_k": 4,
    }  # fmt: skip
    assert not {"temperature", "response_format"} & request.keys()
    judged(cache=str(tmp_path / "b"), temperature=0.7, response_format="json_object")
    assert server.asked[-1]["temperature"] == 0.7
    assert server.asked[-1]["response_format"] == {"type": "json_object"}
    judged(cache=str(tmp_path / "c"))
    assert (server.asked[-1]["max_tokens"], server.asked[-1]["temperature"]) == (8192, 0.0)
    assert '"verdict": "correct" or "wrong"' in server.asked[-1]["messages"][0]["content"]
    with pytest.raises(ValueError, match="response_format: 'xml'"):
        judged(cache=str(tmp_path / "d"), response_format="xml")


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    "content",
    [
        # what stands in the thinking, or was quoted, is no verdict
        "<think>" + CORRECT,
        "<think>" + CORRECT + "</think>",
        "<think>" + CORRECT + "</think> I cannot say.",
        "</think><think>" + CORRECT,
        [{"type": "thinking", "thinking": [{"type": "text", "text": "It may be " + CORRECT}]}],
        [{"type": "image_url", "image_url": CORRECT}],
        CORRECT + ' {"verdict": "wrong"}',
        '{"verdict": "correct or wrong"}',
        '{"verdict": "not correct"}',
        '{"verdict": true}',
        '{"verdict": null}',
        '{"why": "verdict: correct"}',
        "verdict: correct",
        "{" * 10_000,
        '{"verdict": "correct"',
    ],
)
def test_what_is_no_verdict_is_none(server, judged, content):
    server.habit = lambda request: message(content)
    score = judged(retries=0)
    assert score.verdict == "failed"
    assert math.isnan(score.value)


WRONG = CORRECT.replace("correct", "wrong")


@pytest.mark.parametrize(
    "reply",
    [
        message(WRONG),
        message(f"```json\n{WRONG}\n```"),
        message(f"```\n{WRONG}\n```\n"),
        message(f"Here it is: {WRONG} That is all."),
        message(f"<think>{CORRECT}? No.</think>\n{WRONG}"),
        message(f"It may be {CORRECT}.</think>{WRONG}"),
        message(f"<Thinking>a</Thinking>```json\n{WRONG}```"),
        message(f"[THINK]{CORRECT}[/THINK]{WRONG}"),
        message([{"type": "text", "text": WRONG}]),
        message([{"type": "text", "text": WRONG[:9]}, {"type": "text", "text": WRONG[9:]}]),
        message(
            [{"type": "thinking", "thinking": [{"type": "text", "text": CORRECT}]}, {"type": "text", "text": WRONG}]
        ),
        message([{"type": "reasoning", "text": CORRECT}, {"type": "output_text", "text": WRONG}]),
        message(WRONG, reasoning_content=CORRECT),
        message(WRONG, reasoning=CORRECT),
        message(None, reasoning_content=WRONG),  # a parser that took the answer for thinking
        message('{"Why": "", "Verdict": "Wrong"}'),
        message('{"WHY": "", "VERDICT": "WRONG."}'),
        message('{"result": {"verdict": "wrong"}}'),
        message('{"why": "a {brace} \\"quoted\\"", "verdict": " wrong "}'),
        message(f"{WRONG}\n{WRONG}"),
        message(WRONG, finish=None),
        message(WRONG, finish="eos_token"),
    ],
)
def test_a_verdict_is_read_in_whatever_form_it_comes(server, judged, reply):
    server.habit = lambda request: reply
    assert judged().reason == "the judge says wrong"


@pytest.mark.parametrize(
    "content",
    [
        '{"why": "$\\sqrt{2}$ and \\\\(x\\\\) and \\underline{x}", "verdict": "wrong"}',
        '{"why": "two\nlines", "verdict": "wrong"}',
        "{'why': 'x', 'verdict': 'wrong'}",
        '{"why": "x", "verdict": "wrong",}',
        '{why: "x", verdict: "wrong"}',
        "{“verdict”: “wrong”}",
        '{"verdict": "wrong" /* sure */}',
        '<|channel|>analysis<|message|>{"verdict": "correct"}?<|end|><|channel|>final<|message|>{"verdict": "wrong"}',
    ],
)
def test_a_verdict_that_is_nearly_json_is_read(content):
    assert read_verdict(content, ("correct", "wrong")) == "wrong"


@pytest.mark.parametrize(
    "content",
    ["{'verdict': 'wrong'} or {'verdict': 'correct'}", "verdict: wrong", "{'verdict': 'perhaps'}", "{verdict}"],
)
def test_what_is_nearly_json_must_agree_with_itself_too(content):
    assert read_verdict(content, ("correct", "wrong")) is None


def test_a_judge_that_is_asked_otherwise_is_asked_again(server, judged):
    judged()
    asked = len(server.asked)
    judged()
    assert len(server.asked) == asked
    judged(temperature=0.7)
    judged(extra={"reasoning_effort": "high"})
    assert len(server.asked) == asked + 2


def test_a_judge_that_runs_out_of_room_is_told_by_its_setting(server, judged):
    server.habit = lambda request: message(None, finish="length", reasoning_content=CORRECT)
    assert "cut at max_tokens=50" in judged(max_tokens=50).reason
    server.habit = lambda request: message("<think> " + CORRECT, finish="MAX_TOKENS")
    assert "cut at max_tokens=50" in judged(max_tokens=50).reason


def test_a_hostile_answer_is_read_in_a_moment():
    assert read_verdict("{" * 1_000_000, ("correct",)) is None
    assert read_verdict('{"a":' * 100_000, ("correct",)) is None


def test_a_judge_of_pairs_reads_the_same_forms(server, tmp_path):
    server.habit = lambda request: message('<think>so</think>```json\n{"Verdict": "Tie"}\n```')
    where = {"base_url": server.url, "model": "judge", "retries": 0, "cache": str(tmp_path / "c")}
    assert llm_pairwise(["a"], ["b"], ["c"], **where)[0].value == 0.5


# ------------------------------------------------------------------------------------------------ what is asked again


@pytest.mark.parametrize(
    "broken",
    [
        (200, {"error": {"message": "upstream is overloaded", "code": 502}}),
        (200, {"error": "rate limited"}),
        (200, {"object": "error", "message": "Internal", "code": 500}),
        (200, {"choices": []}),
        (200, {"choices": None}),
        (200, {"choices": [{"error": {"message": "provider failed", "code": 502}, "message": {"content": ""}}]}),
        (200, "<html>Bad gateway</html>"),
        (200, ""),
        (200, "[]"),
        (200, "null"),
        (500, {"error": {"message": "broken"}}),
        (429, {"error": {"message": "slow down"}}),
    ],
)
def test_an_error_under_status_200_is_asked_again_as_any_other(server, judged, broken):
    replies = iter([broken, broken])
    server.habit = lambda request: next(replies, message(CORRECT))
    assert judged(retries=2).value == 1.0
    assert len(server.asked) == 3
    server.habit = lambda request: broken
    assert judged(retries=1, model="other").verdict == "failed"
    assert len(server.asked) == 5


def test_the_retries_of_both_kinds_are_counted(server):
    replies = iter([(200, {"error": "no"}), (503, {}), (200, {"error": "no"})])
    server.habit = lambda request: next(replies, message("a"))
    found = chat(Endpoint(server.url, "m", retries=3), [{"role": "user", "content": "?"}])
    assert (found.content, found.retries) == ("a", 3)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"), ("eos", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("eos_token", "stop"),
        ("stop_sequence", "stop"), ("length", "length"), ("max_tokens", "length"), ("MAX_TOKENS", "length"),
        ("model_length", "length"), ("content_filter", "content_filter"), ("tool_calls", "tool_calls"), (None, ""),
    ],
)  # fmt: skip
def test_the_ends_of_other_servers_are_understood(server, said, meant):
    server.habit = lambda request: message("a", finish=said)
    assert chat(Endpoint(server.url, "m"), [{"role": "user", "content": "?"}]).finish_reason == meant


def test_a_field_has_its_forms_and_one_without_another_is_an_error(server):
    server.habit = without("max_tokens", "no max_tokens")
    asked = [{"role": "user", "content": "?"}]
    assert chat(Endpoint(server.url, "m"), asked, [length_field(5)]).content == CORRECT
    assert server.asked[-1]["max_completion_tokens"] == 5
    with pytest.raises(NoAnswer, match="no max_tokens"):
        chat(Endpoint(server.url, "m"), asked, [Field(("max_tokens",), ({"max_tokens": 5},))])
