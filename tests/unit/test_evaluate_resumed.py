"""A long evaluation that was killed goes on inside itself, and ends as one that nobody touched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rl.backend import SampleParams
from rl.config import EvalConfig, RewardConfig, RunConfig, SamplerConfig, TrackConfig
from rl.context import Context, Stop
from rl.evaluation import resumable
from rl.evaluation.evaluate import eval_path, evaluate_model, evaluate_once
from rl.records.rollout_files import rollouts_path
from rl.records.tracker import Tracker
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.scorer import Scorer
from rl.types import (
    AhaError,
    Prompt,
    Queue,
    RewardPart,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    Stopped,
    SyncReport,
    Verdict,
)

PROBLEMS = [Prompt(i, i, [1, i], f"{i} + 1? Assistant:", str(i + 1), {"question": f"{i} + 1?"}) for i in range(5)]
REWARDS = (RewardConfig("accuracy"), RewardConfig("format"))


class Killed(BaseException):
    """The process is gone."""


class Seeded:
    """Samples depend on weights, prompt and seed alone. calls: the prompts of each call, of which number dies_at dies.

    silent: prompts whose accuracy fails, and that get no other reward.
    """

    def __init__(self, cfg: RunConfig, weights: int = 7, dies_at: int = 99, stop: Stop | None = None) -> None:
        self.reward_functions, self.weights, self.dies_at, self.stop = (
            RewardFunctions(cfg.rewards),
            weights,
            dies_at,
            stop,
        )
        self.calls: list[list[int]] = []
        self.silent = {1}

    def load(self, task: object) -> None:
        """There are no learners."""

    def sync_weights(self, version: int) -> SyncReport:
        return self.sent

    @property
    def sent(self) -> SyncReport:
        return SyncReport(0, self.weights, 1, 1, 1, 0.0)

    def rollouts(self, requests: list[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        self.calls.append([r.prompt_token_ids[1] for r in requests])
        if len(self.calls) == self.dies_at:
            raise Killed
        if self.stop:
            self.stop.requested = True
        for r in reversed(requests):
            yield r.group, [self._sample(r.prompt_token_ids[1], seed, params) for seed in r.seeds_G]

    def _sample(self, problem: int, seed: int, params: SampleParams) -> Rollout:
        random = np.random.default_rng([self.weights, problem, seed, int(100 * params.temperature)])
        said, tokens = problem + random.integers(1, 3), int(random.integers(4, 20))
        text = f"<think>so it ist nun {'well ' * (seed % 5)}</think> <answer>{said}</answer>"
        ids, logprobs = random.integers(0, 9, tokens).astype(np.int32), -random.random(tokens).astype(np.float32)
        return Rollout(ids, logprobs, text, "length" if tokens > 15 else "stop", params.temperature, 0, seed)

    def ask_rewards(self, group: RolloutGroup, names: list[str]) -> Callable[[], RewardReport]:
        parts_G = self.reward_functions.call_all(group, names)
        if group.prompt.id in self.silent:
            parts_G = [{"accuracy": RewardPart(math.nan, Verdict.FAILED, "it broke")} for _ in parts_G]
        return lambda: RewardReport(parts_G)

    def queue(self) -> Queue:
        return Queue()


def config(folder: Path, **settings: object) -> RunConfig:
    evaluation = EvalConfig(**({"samples": 3, "max_new_tokens": 20} | settings))  # type: ignore[arg-type]
    return RunConfig(
        name="run", out=str(folder), rewards=REWARDS, evaluation=evaluation, track=TrackConfig(wandb="off")
    )


@pytest.fixture(autouse=True)
def _long(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 tokens are a long evaluation here: three chunks, of 2, 2 and 1 problems."""
    monkeypatch.setattr(resumable, "CHUNK_TOKENS", 33)


def run(
    tokenizer: object, cfg: RunConfig, backend: Seeded, prompts: list[Prompt] = PROBLEMS, stop: Stop | None = None,
    evaluation: Callable[..., object] = lambda ctx, *of: evaluate_model(ctx, "", *of),
) -> None:  # fmt: skip
    with Tracker(cfg.run_dir, cfg.track, name="run") as tracker:
        ctx = Context(cfg, backend, tokenizer, tracker, stop or Stop(), 0)  # type: ignore[arg-type]
        evaluation(ctx, prompts, Scorer(cfg.rewards, cfg.grpo))


def files(cfg: RunConfig) -> tuple[str, list[dict[str, object]]]:
    """The numbers of the evaluation, and its rollouts, NaN as text."""
    rows = pq.read_table(rollouts_path(cfg.run_dir, "eval", 0)).to_pylist()
    return eval_path(cfg.run_dir, 0).read_text(), [{name: repr(value) for name, value in row.items()} for row in rows]


def test_an_evaluation_is_cut_into_more_chunks_the_longer_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    one, four = (RunConfig(sampler=SamplerConfig(count=n)) for n in (1, 4))
    assert resumable.count(one, 100 * 8 * 512) == 1
    assert resumable.count(one, 4000 * 8192) == 1
    assert resumable.count(one, 30 * 64 * 32_768) == 2  # AIME
    assert resumable.count(four, 30 * 64 * 32_768) == 1  # all at once there
    assert resumable.count(one, 500 * 16 * 32_768) == 4
    assert resumable.count(one, 500 * 64 * 32_768) == 8


@pytest.mark.parametrize(("greedy", "dies_at"), [(False, 2), (False, 3), (True, 4)])
def test_one_that_was_killed_samples_what_is_missing_and_ends_as_one_that_nobody_touched(
    tmp_path: Path, tokenizer: object, greedy: bool, dies_at: int
) -> None:
    cfg, other = config(tmp_path / "a", greedy=greedy), config(tmp_path / "b", greedy=greedy)
    whole, killed, resumed = Seeded(cfg), Seeded(other, dies_at=dies_at), Seeded(other)
    run(tokenizer, cfg, whole)
    with pytest.raises(Killed):
        run(tokenizer, other, killed)
    assert not eval_path(other.run_dir, 0).exists()
    run(tokenizer, other, resumed)
    assert whole.calls[:3] == [[0, 1], [2, 3], [4]]
    assert resumed.calls == whole.calls[dies_at - 1 :]
    assert files(other) == files(cfg)
    assert not (other.run_dir / "evals" / "partial").exists()


def test_chunks_change_no_number(tmp_path: Path, tokenizer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, other = config(tmp_path / "a"), config(tmp_path / "b")
    run(tokenizer, cfg, Seeded(cfg))
    monkeypatch.setattr(resumable, "CHUNK_TOKENS", 10**6)
    whole = Seeded(other)
    run(tokenizer, other, whole)
    assert whole.calls == [[0, 1, 2, 3, 4]] * 2  # sampled, and greedily
    assert files(other) == files(cfg)


@pytest.mark.parametrize("changed", ["weights", "temperature", "samples", "problem", "reward", "version"])
def test_what_was_sampled_with_anything_else_is_sampled_anew(tmp_path: Path, tokenizer: object, changed: str) -> None:
    cfg = config(tmp_path, greedy=False)
    with pytest.raises(Killed):
        run(tokenizer, cfg, Seeded(cfg, dies_at=2))
    prompts, step = PROBLEMS, int(changed == "version")
    if changed in ("temperature", "samples"):
        cfg = config(tmp_path, **{"greedy": False, changed: 2})
    elif changed == "problem":
        prompts = [dataclasses.replace(p, reference="1") for p in PROBLEMS]
    elif changed == "reward":
        cfg = dataclasses.replace(cfg, rewards=(dataclasses.replace(REWARDS[0], weight=2.0), REWARDS[1]))
    backend = Seeded(cfg, weights=8 if changed == "weights" else 7)
    run(tokenizer, cfg, backend, prompts, evaluation=lambda ctx, *of: evaluate_once(ctx, step, *of))
    assert [i for call in backend.calls for i in call] == [0, 1, 2, 3, 4]


def test_a_chunk_whose_file_was_cut_short_is_sampled_again(
    tmp_path: Path, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[Path, bytes] = {}  # what a kill, which cleans nothing up, would leave

    def cut(temporary: Path, path: Path) -> Path:
        left[temporary] = temporary.read_bytes()[:100]
        raise Killed

    cfg = config(tmp_path, greedy=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        with pytest.raises(Killed):
            run(tokenizer, cfg, Seeded(cfg))
    assert [file.parent for file in left] == [cfg.run_dir / "evals" / "partial"]
    for file, content in left.items():
        file.write_bytes(content)
    backend = Seeded(cfg)
    run(tokenizer, cfg, backend)
    assert backend.calls == [[0, 1], [2, 3], [4]]


def test_ctrl_c_ends_it_after_the_chunk_but_a_training_step_is_finished(tmp_path: Path, tokenizer: object) -> None:
    cfg, stop = config(tmp_path / "a"), Stop()
    backend = Seeded(cfg, stop=stop)
    with pytest.raises(Stopped, match="after 2 of 5 problems; the same command goes on from there"):
        run(tokenizer, cfg, backend, stop=stop)
    assert backend.calls == [[0, 1]]
    other, stop = config(tmp_path / "b"), Stop()
    run(tokenizer, other, Seeded(other, stop=stop), stop=stop, evaluation=lambda ctx, *of: evaluate_once(ctx, 0, *of))
    assert eval_path(other.run_dir, 0).exists()  # the loop saves its step and stops then


def test_a_dead_reward_ends_it_and_what_it_was_silent_about_is_not_kept(tmp_path: Path, tokenizer: object) -> None:
    cfg = config(tmp_path, greedy=False)
    broken, mended = Seeded(cfg), Seeded(cfg)
    broken.silent = {2, 3}
    with pytest.raises(AhaError, match=r"'accuracy' has no verdict on 6 of 6 samples.*it broke.*the run resumes"):
        run(tokenizer, cfg, broken)
    run(tokenizer, cfg, mended)
    assert (broken.calls, mended.calls) == ([[0, 1], [2, 3]], [[2, 3], [4]])
