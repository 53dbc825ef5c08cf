"""Samples from a teacher behind an OpenAI-compatible endpoint, for rejection sampling. No machine of ours samples.

    answers.jsonl   a line a request that ended: what was asked, and the answer with its tokens, or the error

A line is on the disk before the next answer is looked at, so a kill loses only what was still being written elsewhere:
a resumed stage asks for nothing that was answered. With template=chat the teacher gets the system message and the
question; with any other template, the rendered prompt as the user's message.

A thinking that the endpoint returns apart is put before the answer as R1 writes it: <think> .. </think>, one pair of
tags whatever the server made of them (rl/rollouts/thoughts.py). An answer without one is counted, or dropped where
reject.teacher.without_thought=drop says so.
Axis suffixes: _P prompts, _G samples of a prompt.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from rewards.endpoint import Answer, Endpoint, NoAnswer, Request, chat, client, length_field, models
from rl.backend import SampleParams
from rl.config import TeacherConfig
from rl.context import Context, Stop
from rl.data.templates import CHAT
from rl.records.whole_files import append_lines, cut_partial_line, whole_lines
from rl.rollouts.thoughts import CLOSE, OPEN, parts_of
from rl.types import AhaError, BadInput, Prompt, Rollout, Stopped

log = logging.getLogger(__name__)

NO_ANSWER, NO_THOUGHT = "no answer", "no thought"
"""Why a sample is left out: its request failed, or reject.teacher.without_thought=drop dropped it."""

CHECK_S = 30.0
FEW = 4
"""So few failures in a chunk stop nothing, unless they are all its samples."""
FINISHED = ("stop", "length")
TEACHER_VERSION = -1
"""policy_version of its rollouts: no policy of ours."""


class AnswerLine(TypedDict):
    """One line of answers.jsonl. error: "" for an answer. Tokens as the endpoint counts them."""

    prompt_id: int
    sample: int
    seed: int
    error: str
    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    retries: int


@dataclass(frozen=True, eq=False)
class Job:
    """One request: sample number `sample` of the prompt at place i. Equal to itself alone, so that it can be a key."""

    i: int
    sample: int
    seed: int
    prompt: Prompt


def endpoint(cfg: TeacherConfig) -> Endpoint:
    """Where the samples are asked for."""
    return Endpoint(cfg.url, cfg.model, cfg.api_key_env, cfg.timeout_s, cfg.retries)


def refuse_absent(cfg: TeacherConfig) -> None:
    """Raise BadInput when the endpoint does not answer, or does not serve the model."""
    where = Endpoint(cfg.url, cfg.model, cfg.api_key_env, min(cfg.timeout_s, CHECK_S), retries=1)
    try:
        found = models(where)
    except NoAnswer as error:
        raise BadInput(
            f"reject.teacher.url={cfg.url}: no answer to GET {cfg.url}/models: {error}. Is it running, does its "
            f"address end so, and is {cfg.api_key_env} set where it wants a key?"
        ) from error
    if cfg.model not in found:
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise BadInput(f"reject.teacher.model={cfg.model}: {cfg.url} does not serve it; it serves {shown or 'nothing'}")


def joined(answer: AnswerLine, *, opened: bool, ends: Sequence[str] = ()) -> str:
    """The completion as one text with one pair of think tags. opened: the prompt's template wrote <think> already, so
    the text begins after it. ends: end tokens of the student, which are no part of a text (rl/rollouts/thoughts.py).

    Reasoning "a", content "b" -> "<think>\\na\\n</think>\\n\\nb"; cut inside the reasoning -> "<think>\\na".
    Content with its own tags keeps its white space; one without a thought gets no tags, but where one was opened.
    """
    found = parts_of(answer["content"], answer["reasoning"], ends)
    if not found.own:
        text = f"{OPEN}\n{found.thought}"
        if found.closed or answer["finish_reason"] == "stop":
            text += f"\n{CLOSE}\n\n{found.answer.strip()}"
    elif found.tagged:
        text = OPEN + found.thought + (CLOSE + found.answer if found.closed else "")
    else:
        text = f"{OPEN}{CLOSE}\n\n{found.answer.strip()}" if opened else found.answer
    return text.removeprefix(OPEN).lstrip("\n") if opened else text


def has_thought(answer: AnswerLine, ends: Sequence[str] = ()) -> bool:
    """Whether the answer came with a thought, in its tags or apart."""
    return bool(parts_of(answer["content"], answer["reasoning"], ends).thought.strip())


class Teacher:
    """What a stage has been answered, and the asking for the rest. wanted: ids of the prompts that have no line yet.

    failures: prompt id -> why samples of it are left out, as the reasons of their lines.
    """

    def __init__(self, ctx: Context, cfg: TeacherConfig, wanted: Iterable[int]) -> None:
        self._ctx, self._cfg, self._where = ctx, cfg, endpoint(cfg)
        self._ends = tuple(str(token) for token in ctx.tokenizer.all_special_tokens)
        client(self._where)  # made here: the first request's time is not for loading a library
        self._path = ctx.run_dir / "answers.jsonl"
        self.failures: defaultdict[int, list[str]] = defaultdict(list)
        self._answered: dict[tuple[int, int], AnswerLine] = {}
        cut_partial_line(self._path)
        ids = set(wanted)
        for line in read_answers(self._path):
            if not line["error"] and line["prompt_id"] in ids:
                self._answered[line["prompt_id"], line["sample"]] = line
        if self._answered:
            log.info("resuming: %d samples of prompts without a line are answered already", len(self._answered))

    def rollouts(
        self, prompts_P: Sequence[Prompt], seeds_PG: Sequence[list[int]], params: SampleParams
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (place of a prompt, rollouts of its samples that were answered) as prompts finish, in any order.

        Raises AhaError when more samples failed than cfg.max_failed_share, Stopped when the user asked for a stop.
        """
        lines_PG: list[dict[int, AnswerLine]] = [{} for _ in prompts_P]
        jobs = []
        for i, (prompt, seeds_G) in enumerate(zip(prompts_P, seeds_PG, strict=True)):
            for g, seed in enumerate(seeds_G):
                found = self._answered.pop((prompt.id, g), None)
                if found is None:
                    jobs.append(Job(i, g, seed, prompt))
                else:
                    lines_PG[i][g] = found
        total, waiting = sum(len(seeds_G) for seeds_G in seeds_PG), {job.i for job in jobs}
        yield from (
            (i, self._group(prompts_P[i], lines_PG[i], params)) for i in range(len(prompts_P)) if i not in waiting
        )
        failed: list[str] = []
        asking = _side_by_side(
            jobs, lambda job: self._ask(job, params), self._cfg.concurrency, self._where, self._ctx.stop
        )
        for job, line in asking:
            append_lines(self._path, [line])
            lines_PG[job.i][job.sample] = line
            if line["error"]:
                failed.append(f"prompt {line['prompt_id']} sample {line['sample']}: {line['error']}")
                self._refuse_too_many(failed, total)
            if len(lines_PG[job.i]) == len(seeds_PG[job.i]):
                yield job.i, self._group(prompts_P[job.i], lines_PG[job.i], params)
        if any(len(lines) < len(seeds_G) for lines, seeds_G in zip(lines_PG, seeds_PG, strict=True)):
            raise Stopped(f"stopped; what was answered is in {self._path}, and the same command goes on from there")

    def _ask(self, job: Job, params: SampleParams) -> AnswerLine:
        request: Request = {"temperature": params.temperature, "top_p": params.top_p}
        if self._cfg.send_seed:
            request["seed"] = job.seed
        try:
            answer = chat(self._where, self._messages(job.prompt), [length_field(params.max_new_tokens)], request)
        except NoAnswer as error:
            return _line(job, error=str(error))
        if not answer.finish_reason:  # a server that does not say
            cut = answer.completion_tokens >= params.max_new_tokens
            answer = answer._replace(finish_reason="length" if cut else "stop")
        ended = answer.finish_reason in FINISHED
        return _line(job, answer, "" if ended else f"it ended for the reason {answer.finish_reason!r}")

    def _messages(self, prompt: Prompt) -> list[dict[str, str]]:
        data = self._ctx.cfg.prompts
        if data.template != CHAT:
            return [{"role": "user", "content": prompt.text}]
        system = [{"role": "system", "content": data.system}] if data.system else []
        return [*system, {"role": "user", "content": prompt.asked or prompt.question}]

    def _refuse_too_many(self, failed: list[str], total: int) -> None:
        too_many = len(failed) > self._cfg.max_failed_share * total and len(failed) > FEW
        if too_many or len(failed) == total:
            raise AhaError(
                f"{self._cfg.url}, model {self._cfg.model}: {len(failed)} of {total} samples of this chunk got no "
                f"answer (at most {self._cfg.max_failed_share:.0%} are let pass, reject.teacher.max_failed_share): "
                f"{'; '.join(failed[:3])}. What was answered is kept; the same command goes on from there"
            )

    def _group(self, prompt: Prompt, lines: dict[int, AnswerLine], params: SampleParams) -> list[Rollout]:
        opened = prompt.text.rstrip().endswith(OPEN)
        rollouts = []
        self.failures.pop(prompt.id, None)
        for _, line in sorted(lines.items()):
            if line["error"]:
                self.failures[prompt.id].append(f"{NO_ANSWER}: {line['error']}")
                continue
            if self._cfg.without_thought == "drop" and not has_thought(line, self._ends):
                self.failures[prompt.id].append(NO_THOUGHT)
                continue
            text = joined(line, opened=opened, ends=self._ends)
            ids: Any = self._ctx.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            unknown_T = np.full(len(ids), np.nan, np.float32)
            rollouts.append(
                Rollout(
                    np.asarray(ids, np.int32), unknown_T, text, line["finish_reason"], params.temperature,
                    TEACHER_VERSION, line["seed"],
                )
            )  # fmt: skip
        return rollouts


def _line(job: Job, answer: Answer | None = None, error: str = "") -> AnswerLine:
    found = answer or Answer("", "", "", 0, 0, 0)
    return AnswerLine(prompt_id=job.prompt.id, sample=job.sample, seed=job.seed, error=error, **found._asdict())  # type: ignore[typeddict-item]


def _side_by_side(
    jobs: Sequence[Job], ask: Callable[[Job], AnswerLine], threads: int, where: Endpoint, stop: Stop
) -> Iterator[tuple[Job, AnswerLine]]:
    """(job, line) as they end, `threads` at a time. One that exceeds the endpoint's bound is a failure and is let go.

    After a request to stop no job is begun, and those under way are waited for. What ask raises is raised here.
    """
    todo, finished = iter(jobs), queue.SimpleQueue[tuple[Job, AnswerLine | Exception]]()
    deadlines: dict[Job, float] = {}

    def run(job: Job) -> None:
        try:
            finished.put((job, ask(job)))
        except Exception as error:  # raised again by the one who waits
            finished.put((job, error))

    while True:
        while len(deadlines) < threads and not stop.requested and (job := next(todo, None)) is not None:
            deadlines[job] = time.monotonic() + where.bound_s
            threading.Thread(target=run, args=(job,), daemon=True).start()  # daemon: Ctrl-C twice stops at once
        if not deadlines:
            return
        try:
            job, result = finished.get(timeout=max(0.0, min(deadlines.values()) - time.monotonic()))
        except queue.Empty:
            late = [job for job, deadline in deadlines.items() if deadline <= time.monotonic()]
            for job in late:
                del deadlines[job]
                yield job, _line(job, error=f"no whole answer within {where.bound_s:g} s, its retries included")
            continue
        if isinstance(result, Exception):
            raise result
        if deadlines.pop(job, None) is not None:  # else it was given up
            yield job, result


# ------------------------------------------------------------------------------------------------ files


def read_answers(path: Path) -> Iterator[AnswerLine]:
    """The whole lines of an answers.jsonl."""
    yield from whole_lines(path)


def without_thought(folder: Path) -> int:
    """How many answers came without a thought."""
    return sum(not line["error"] and not has_thought(line) for line in read_answers(folder / "answers.jsonl"))


def spent(cfg: TeacherConfig, folder: Path) -> dict[str, object]:
    """What the stage was answered and what that cost, resumed runs included. cost_usd: where a price is given.

    What a request that failed has cost is not known; an answer that says nothing of its tokens is counted.
    """
    sums: Counter[str] = Counter()
    for line in read_answers(folder / "answers.jsonl"):
        sums["failed" if line["error"] else "answered"] += 1
        sums["without_usage"] += not line["error"] and not line["completion_tokens"]
        for name in ("retries", "prompt_tokens", "completion_tokens"):
            sums[name] += line[name]
    names = ("answered", "failed", "retries", "prompt_tokens", "completion_tokens", "without_usage")
    found: dict[str, object] = {"url": cfg.url, "model": cfg.model, **{name: sums[name] for name in names}}
    if cfg.prompt_price or cfg.completion_price:
        price = sums["prompt_tokens"] * cfg.prompt_price + sums["completion_tokens"] * cfg.completion_price
        found["cost_usd"] = round(price / 1e6, 6)
    return found
