"""rl/rollouts/teacher.py: rejection sampling from an endpoint, against a server of the test's own on loopback."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from rewards.endpoint import Endpoint, client
from rl.config import (
    DataConfig,
    ModelConfig,
    RejectConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TeacherConfig,
    TrackConfig,
)
from rl.context import Context, Stop
from rl.data.rows import load_rows
from rl.data.streams import all_prompts
from rl.recipe import Recipe, Reject
from rl.records.tracker import Tracker
from rl.records.whole_files import cut_partial_line, whole_lines
from rl.rollouts.teacher import joined, read_answers
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.scorer import Scorer
from rl.settings.overrides import apply_stage_overrides
from rl.settings.recipe_checks import check
from rl.stages.reject import reject
from rl.types import AhaError, BadInput, RewardReport, Stopped
from rl.workflow.stage_folders import StageFolders
from rl.workflow.stage_keys import stage_keys

Request = dict[str, Any]
CHAT = "chat"


class Server:
    """reply(request) is a message, or an HTTP status to fail with; it may wait. finish: the finish_reason."""

    def __init__(self) -> None:
        self.reply: Callable[[Request], dict[str, Any] | int] = lambda request: {"content": r"It is \boxed{2}."}
        self.finish = "stop"
        self.asked: list[Request] = []
        self.paths: list[str] = []
        self.keys: set[str] = set()
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send(200, {"object": "list", "data": [{"id": "big-teacher", "object": "model"}]})

            def do_POST(self) -> None:
                outer.paths.append(self.path)
                outer.keys.add(self.headers["Authorization"])
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(request)
                message = outer.reply(request)
                if isinstance(message, int):
                    self.send(message, {"error": {"message": "broken"}})
                    return
                finish = message.pop("finish_reason", outer.finish)
                choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
                usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
                self.send(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

            def send(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in (
                    ("Content-Type", "application/json"),
                    ("Content-Length", str(len(data))),
                    ("retry-after-ms", "1"),
                ):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away, as the tests make it do."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def seeds(self) -> list[int]:
        return [request["seed"] for request in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.over.set()
    found.http.shutdown()
    found.http.server_close()


class InProcess:
    """Rewards in this process."""

    def __init__(self, cfg: RunConfig) -> None:
        self.reward_functions = RewardFunctions(cfg.rewards)

    def ask_rewards(self, group, names):  # type: ignore[no-untyped-def]
        return lambda: RewardReport(self.reward_functions.call_all(group, names))

    def close(self) -> None:
        """Nothing runs."""


class Stage:
    """A Reject stage with a teacher, in a folder, with no machines at all."""

    def __init__(self, server: Server, folder: Path, tokenizer: Any) -> None:
        self.server, self.folder, self.tokenizer = server, folder, tokenizer
        self.source = folder / "train.jsonl"
        self.stop = Stop()
        self.data = DataConfig(source=str(self.source), template="plain")
        self.rows(3)

    def rows(self, count: int) -> None:
        self.source.write_text(
            "".join(json.dumps({"prompt": f"{i} + {2 - i}?", "answer": "2"}) + "\n" for i in range(count))
        )

    def run(self, samples: int = 2, *, keep: str = "all", chunk: int = 64, **teacher: Any) -> dict[str, Any]:
        """yield.json."""
        settings = {"url": self.server.url, "model": "big-teacher", "timeout_s": 300.0, "retries": 0} | teacher
        chosen = RejectConfig(samples=samples, keep=keep, chunk_prompts=chunk, teacher=TeacherConfig(**settings))
        cfg = RunConfig(
            name="run", out=str(self.folder), track=TrackConfig(wandb="off"), prompts=self.data,
            rewards=(RewardConfig("accuracy"),), rollout=RolloutConfig(temperature=0.6, top_p=0.95, max_new_tokens=99),
        )  # fmt: skip
        with Tracker(cfg.run_dir, cfg.track, name="run") as tracker:
            ctx = Context(cfg, None, self.tokenizer, tracker, self.stop, 0)
            prompts = all_prompts(load_rows(self.data), self.data, self.tokenizer, 10**6)
            reject(ctx, "", prompts, Scorer(cfg.rewards, cfg.grpo), chosen, InProcess(cfg))
        return json.loads((self.out / "yield.json").read_text())

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def lines(self, name: str) -> list[Any]:
        return list(whole_lines(self.out / name))


@pytest.fixture
def stage(server: Server, tmp_path: Path, tokenizer: Any) -> Stage:
    client(Endpoint(server.url, "none"))  # loads openai, which a slow machine may take long for
    return Stage(server, tmp_path, tokenizer)


# ------------------------------------------------------------------------------------------------ what is asked


def test_every_sample_is_a_request_of_its_own_as_the_rollout_settings_say(server, stage):
    stage.run(samples=2)
    assert len(server.asked) == len(set(server.seeds)) == 6
    assert Counter(r["messages"][0]["content"] for r in server.asked) == {"0 + 2?": 2, "1 + 1?": 2, "2 + 0?": 2}
    asked = {
        name: {request[name] for request in server.asked} for name in ("model", "temperature", "top_p", "max_tokens")
    }
    assert asked == {"model": {"big-teacher"}, "temperature": {0.6}, "top_p": {0.95}, "max_tokens": {99}}


def test_a_chat_template_is_the_servers_and_gets_the_system_message(server, stage):
    stage.rows(1)
    stage.data = replace(stage.data, template=CHAT, system="Be brief.")
    stage.run(samples=1, send_seed=False)
    (request,) = server.asked
    assert request["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "0 + 2?"}]
    assert "seed" not in request


def test_the_key_is_read_from_the_variable_that_the_settings_name(server, stage, monkeypatch):
    monkeypatch.setenv("TEACHERS_KEY", "k-123")
    stage.rows(1)
    stage.run(samples=1, api_key_env="TEACHERS_KEY")
    assert server.keys == {"Bearer k-123"}
    assert "k-123" not in "".join(p.read_text() for p in stage.out.iterdir() if p.is_file())


# ------------------------------------------------------------------------------------------------ what is kept


def test_answers_are_rewarded_filtered_and_kept_as_samples_of_our_own(server, stage):
    said = {
        "0 + 2?": {"content": r"\boxed{2}", "reasoning_content": "Two and nothing."},
        "1 + 1?": {"content": r"\boxed{3}"},
        "2 + 0?": {"content": "It is", "finish_reason": "length"},
    }
    server.reply = lambda request: dict(said[request["messages"][0]["content"]])
    report = stage.run(samples=1, prompt_price=2.0, completion_price=10.0)
    (row,) = stage.lines("data.jsonl")
    assert row == {"prompt": "0 + 2?", "answer": "2", "target": "<think>\nTwo and nothing.\n</think>\n\n\\boxed{2}"}
    assert [s["finish_reason"] for line in stage.lines("samples.jsonl") for s in line["samples"]] == [
        "stop",
        "stop",
        "length",
    ]
    assert report["by_reason"] == {"kept": 1, "not correct": 2}
    # 3 answers of 100 and 7 tokens: (300 * 2 + 21 * 10) / 1e6 USD.
    assert report["teacher"] == {
        "url": server.url, "model": "big-teacher", "answered": 3, "failed": 0, "retries": 0, "prompt_tokens": 300,
        "completion_tokens": 21, "without_usage": 0, "cost_usd": 0.00081,
    }  # fmt: skip


def answer(content: str, reasoning: str = "", finish: str = "stop") -> Any:
    return {"content": content, "reasoning": reasoning, "finish_reason": finish}


@pytest.mark.parametrize(
    ("line", "opened", "text"),
    [
        (answer("b", "a"), False, "<think>\na\n</think>\n\nb"),
        (answer("\n\nb", "\na\n"), False, "<think>\na\n</think>\n\nb"),
        (answer("b", "a"), True, "a\n</think>\n\nb"),
        (answer("", "a", "length"), False, "<think>\na"),  # cut inside the thinking
        (answer("b", "a", "length"), False, "<think>\na\n</think>\n\nb"),
        (answer("b"), False, "b"),
        (answer("<think>a</think> b"), False, "<think>a</think> b"),
        (answer("<think>a</think> b"), True, "a</think> b"),
        (answer("a</think>b"), False, "<think>a</think>b"),  # the server's template opened it
    ],
)
def test_a_thinking_that_comes_apart_is_put_before_the_answer(line, opened, text):
    assert joined(line, opened=opened) == text


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_refusal_for_too_many_requests_is_asked_again(server, stage):
    statuses = iter([429, 429])
    server.reply = lambda request: next(statuses, None) or {"content": r"\boxed{2}"}
    stage.rows(1)
    report = stage.run(samples=1, retries=2)
    assert report["by_reason"] == {"kept": 1}
    assert (len(server.asked), report["teacher"]["retries"], report["teacher"]["failed"]) == (3, 2, 0)


def test_a_request_that_hangs_is_given_up_in_time_and_asked_again(server, stage):
    turns = iter([True])

    def hang_once(request: Request) -> dict[str, Any]:
        if next(turns, False):
            server.over.wait(60)
        return {"content": r"\boxed{2}"}

    server.reply = hang_once
    stage.rows(1)
    start = time.monotonic()
    assert stage.run(samples=1, retries=1, timeout_s=3.0)["by_reason"] == {"kept": 1}
    assert len(server.asked) == 2
    assert time.monotonic() - start < 40


def test_an_answer_that_trickles_without_end_is_let_go_by_name(server, stage, monkeypatch):
    """DeepSeek keeps a waiting connection alive with empty lines, so that no silence ever is long enough."""

    def trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        while not server.over.wait(0.05):
            self.wfile.write(b"\n")
            self.wfile.flush()

    monkeypatch.setattr(server.http.RequestHandlerClass, "do_POST", trickle)
    stage.rows(1)
    with pytest.raises(AhaError, match=r"big-teacher: 1 of 1 samples .* prompt 0 sample 0: no whole answer within 1 s"):
        stage.run(samples=1, timeout_s=0.5)


@pytest.mark.parametrize(
    ("wrong", "said"), [(500, "broken"), ({"content": "", "finish_reason": "content_filter"}, "'content_filter'")]
)
def test_a_sample_without_an_answer_is_asked_for_again_and_then_counted(server, stage, wrong, said):
    bad: list[int] = []

    def reply(request: Request) -> dict[str, Any] | int:
        bad[:] = bad or [request["seed"]]
        return (
            (wrong if isinstance(wrong, int) else dict(wrong)) if request["seed"] in bad else {"content": r"\boxed{2}"}
        )

    server.reply = reply
    report = stage.run(samples=2, retries=1, concurrency=1)
    assert report["by_reason"] == {"kept": 3, "duplicate": 2, "no answer": 1}
    assert (report["samples"], report["teacher"]["failed"]) == (6, 1)
    assert server.seeds.count(bad[0]) == (2 if isinstance(wrong, int) else 1)
    reasons = [s["reason"] for line in stage.lines("samples.jsonl") for s in line["samples"]]
    assert [r for r in reasons if r.startswith("no answer: ") and said in r]


def test_an_outage_stops_the_stage_and_is_no_samples_fate(server, stage):
    stage.rows(3)
    up = 4
    server.reply = lambda request: {"content": r"\boxed{2}"} if len(server.asked) <= up else 503
    with pytest.raises(AhaError, match=r"5 of 30 samples of this chunk got no answer \(at most 10%"):
        stage.run(samples=10, concurrency=1)
    assert stage.lines("samples.jsonl") == []
    answered = {line["seed"] for line in read_answers(stage.out / "answers.jsonl") if not line["error"]}
    assert len(answered) == up
    server.asked.clear()
    server.reply = lambda request: {"content": r"\boxed{2}"}
    report = stage.run(samples=10)
    assert len(server.asked) == 26
    assert answered.isdisjoint(server.seeds)
    assert (report["samples"], report["by_reason"]["kept"]) == (30, 3)


# ------------------------------------------------------------------------------------------------ kill and resume


def test_a_stage_killed_in_the_middle_asks_for_nothing_twice(server, stage):
    stage.rows(5)
    slow = threading.Semaphore(7)  # after 7 answers the server waits

    def reply(request: Request) -> dict[str, Any]:
        slow.acquire(timeout=300)
        return {"content": rf"\boxed{{2}} {request['seed']}"}

    server.reply = reply
    child = multiprocessing.get_context("fork").Process(
        target=stage.run, kwargs={"samples": 3, "chunk": 2, "concurrency": 2}
    )
    child.start()
    deadline = time.monotonic() + 300
    while len(stage.lines("answers.jsonl")) < 7:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.join()
    assert len(stage.lines("samples.jsonl")) == 2  # a chunk of 6 samples; one answer of the next
    with (stage.out / "answers.jsonl").open("a") as file:
        file.write('{"prompt_id": 4, "sam')  # what a kill may leave
    answered = {line["seed"] for line in stage.lines("answers.jsonl")}
    server.asked.clear()
    server.reply = lambda request: {"content": rf"\boxed{{2}} {request['seed']}"}
    report = stage.run(samples=3, chunk=2)
    assert len(answered) == 7
    assert answered.isdisjoint(server.seeds)
    assert len(server.seeds) == 15 - 7
    assert (report["by_reason"], report["teacher"]["answered"]) == ({"kept": 15}, 15)
    assert [line["prompt_id"] for line in stage.lines("samples.jsonl")] == [0, 1, 2, 3, 4]
    server.asked.clear()
    assert stage.run(samples=3, chunk=2) == report
    assert server.asked == []


def test_a_stop_waits_for_what_is_under_way_and_begins_nothing(server, stage):
    def reply(request: Request) -> dict[str, Any]:
        stage.stop.requested |= len(server.asked) == 3
        return {"content": r"\boxed{2}"}

    server.reply = reply
    with pytest.raises(Stopped, match=r"answers\.jsonl, and the same command goes on"):
        stage.run(samples=4, concurrency=1)
    assert len(stage.lines("answers.jsonl")) == len(server.asked) == 3
    stage.stop = Stop()
    assert stage.run(samples=4)["samples"] == 12
    assert len(server.asked) == 12


def test_a_line_that_was_cut_is_taken_off_whatever_its_length(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    for block in (1, 4, 1 << 20):
        monkeypatch.setattr("rl.records.whole_files.BLOCK", block)
        for text, left in (("[1]\n[2", "[1]\n"), ("[1]\n", "[1]\n"), ("[1", ""), ("", ""), ("\n[12345", "\n")):
            path.write_text(text)
            cut_partial_line(path)
            assert path.read_text() == left
    cut_partial_line(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


# ------------------------------------------------------------------------------------------------ in a recipe


@pytest.fixture
def recipe(server: Server, stage: Stage, tokenizer: Any) -> Recipe:
    model = stage.folder / "student"
    tokenizer.save_pretrained(model)
    LlamaConfig(vocab_size=300, max_position_embeddings=64).save_pretrained(model)
    teacher = TeacherConfig(url=server.url, model="big-teacher", retries=0)
    taught = Reject(
        "taught", str(model), stage.data, (RewardConfig("accuracy"),), RolloutConfig(max_new_tokens=10_000),
        RejectConfig(samples=1, teacher=teacher),
    )  # fmt: skip
    return Recipe(
        "r",
        RunConfig(model=ModelConfig(dtype="float32"), track=TrackConfig(wandb="off")),
        (taught,),
        out=str(stage.folder / "runs"),
    )


def no_machines(cfg: RunConfig) -> Any:
    raise AssertionError("no machine of ours samples")


def test_a_recipes_stage_runs_without_machines_and_with_rewards_in_processes(server, recipe):
    from rl.scoring.reward_processes import LocalRewardWorker
    from rl.workflow.run import run

    folder = run(recipe, no_machines, LocalRewardWorker, prepare_machines=lambda: no_machines(recipe.base))
    report = json.loads((folder / "yield.json").read_text())
    assert (report["by_reason"], report["teacher"]["answered"]) == ({"kept": 3}, 3)
    assert len(list(whole_lines(folder / "data.jsonl"))) == 3
    run(recipe, no_machines, no_machines)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("taught.reject.teacher.model=big-teach", "does not serve it; it serves big-teacher"),
        ("taught.reject.teacher.url=http://127.0.0.1:9/v1", "no answer to GET http://127.0.0.1:9/v1/models"),
    ],
)
def test_an_endpoint_that_is_absent_or_lacks_the_model_is_refused_before_anything_starts(
    recipe, server, override, said
):
    from rl.workflow.run import run

    recipe = apply_stage_overrides(recipe, [override])
    with pytest.raises(BadInput, match=said):
        run(recipe, no_machines, no_machines)
    assert not recipe.folder.exists()
    assert server.asked == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("url=host/v1", "taught.reject.teacher.url=host/v1: expected an address, as https://host/v1"),
        ("url=", "taught.reject.teacher.url=: expected an address"),
        ("url=http://host:port/v1", "expected an address"),
        ("model=", "taught.reject.teacher.model: name the endpoint's model"),
        ("concurrency=0", "taught.reject.teacher.concurrency=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(recipe, override, said):
    with pytest.raises(BadInput) as caught:
        check(apply_stage_overrides(recipe, [f"taught.reject.teacher.{override}"]))
    assert said in str(caught.value)


def test_what_a_teacher_cannot_do_is_refused(recipe):
    (taught,) = recipe.stages
    with pytest.raises(BadInput, match=r"rollout\.stop: an endpoint leaves the stop text out"):
        check(apply_stage_overrides(recipe, ["taught.rollout.stop=</answer>"]))
    with pytest.raises(BadInput, match="model:org/rm: a reward model needs machines"):
        check(replace(recipe, stages=(replace(taught, rewards=(RewardConfig("model:org/rm"),)),)))


def test_where_the_teacher_is_changes_no_key_and_who_it_is_does(recipe):
    def key(*overrides: str) -> str:
        return stage_keys(apply_stage_overrides(recipe, overrides))["taught"].key

    assert (
        key("taught.reject.teacher.url=http://other/v1", "taught.reject.teacher.concurrency=1", "learner.ranks=2")
        == key()
    )
    assert (
        len(
            {
                key(),
                key("taught.reject.teacher.model=llama3:latest"),
                key("taught.rollout.temperature=0.5"),
                key("seed=9"),
            }
        )
        == 4
    )
    assert StageFolders(recipe).plan()[0].state == "new"
