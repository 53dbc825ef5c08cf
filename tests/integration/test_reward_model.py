"""A reward model in its Ray actor: it scores like the model called directly, beside a function; death costs a counter."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rl.config import RewardConfig, RewardModelConfig, RunConfig
from rl.scoring.reward_model import RewardModel
from rl.types import Prompt, Rollout, RolloutGroup, Verdict
from rl.workers.cluster.ray_backend import RayBackend
from tests.unit.classifiers import llama_classifier

GENERAL = ("general",)


def group(domain: str, *texts: str) -> RolloutGroup:
    none = np.zeros(1, np.int32), np.zeros(1, np.float32)
    asked = Prompt(0, 0, [1], "Q: hi A:", "", {"domain": domain}, "hi")
    return RolloutGroup(asked, [Rollout(*none, text, "stop", 1.0, 0, i) for i, text in enumerate(texts)])


def pause(model: RewardModel) -> None:
    time.sleep(30)


def stall(model: RewardModel) -> None:
    """Let every further call of this process hang."""
    model._load = lambda: time.sleep(1000)  # type: ignore[assignment,method-assign,func-returns-value]


def configured(tiny: RunConfig, folder: Path, timeout_s: float = 60.0) -> RunConfig:
    path = llama_classifier(folder / "helpful")
    helpful = RewardConfig(
        f"model:{path}", domains=GENERAL, timeout_s=timeout_s, model=RewardModelConfig(dtype="float32")
    )
    return dataclasses.replace(tiny, rewards=(RewardConfig("tests.integration.helpers:digit_share"), helpful))


def test_an_actor_scores_like_the_model_called_directly_and_killing_it_changes_nothing_but_a_counter(
    tiny: RunConfig, tmp_path: Path
) -> None:
    cfg = configured(tiny, tmp_path)
    direct = RewardModel("helpful", cfg.rewards[1], "cpu", 1)
    groups = [group("general", "12ab", "x" * n, "<think>a</think>b", "") for n in range(1, 7)]
    want = [[parts["helpful"].score for parts in direct.score(g).parts_G] for g in groups]
    backend = RayBackend(cfg)
    try:
        backend.reward_actors.start()
        model = backend.reward_actors.models["helpful"]
        assert model.pid != os.getpid()

        def parts_and_restarts(kill: bool) -> tuple[list[list[float]], int]:
            """Scores of all groups, asked at once, and how often something died."""
            if kill:
                model.handle.__ray_call__.remote(pause)  # so that no group is scored yet
            answers = [backend.ask_rewards(g, ["digit_share", "helpful"]) for g in groups]
            if kill:
                time.sleep(0.5)
                os.kill(model.pid, signal.SIGKILL)
            reports = [answer() for answer in answers]
            assert all(list(parts) == ["digit_share", "helpful"] for r in reports for parts in r.parts_G)
            assert [r.parts_G[0]["digit_share"].score for r in reports] == [0.5] * 6
            return [[p["helpful"].score for p in r.parts_G] for r in reports], sum(r.replaced for r in reports)

        first, replaced = parts_and_restarts(kill=False)
        assert first == [pytest.approx(scores, abs=1e-5) for scores in want]
        assert replaced == 0
        before = model.pid
        again, replaced = parts_and_restarts(kill=True)
        assert again == first
        assert replaced == 1
        assert model.pid != before
        assert parts_and_restarts(kill=False) == (first, 0)
        # A reward that is not asked for is not in the parts.
        assert [list(p) for p in backend.ask_rewards(groups[0], ["digit_share"])().parts_G] == [["digit_share"]] * 4
    finally:
        backend.close()


def test_an_actor_that_hangs_costs_only_the_group_it_hangs_on(tiny: RunConfig, tmp_path: Path) -> None:
    backend = RayBackend(configured(tiny, tmp_path, timeout_s=1.5))
    groups = [group("general", "12ab", "x" * n) for n in range(1, 4)]
    try:
        backend.reward_actors.start()
        model = backend.reward_actors.models["helpful"]
        want = [backend.ask_rewards(g)().parts_G for g in groups]
        model.handle.__ray_call__.remote(stall)
        begin = time.monotonic()
        reports = [answer() for answer in [backend.ask_rewards(g) for g in groups]]
        assert {p["helpful"].verdict for p in reports[0].parts_G} == {Verdict.TIMED_OUT}
        assert "no score within 3 s" in reports[0].parts_G[0]["helpful"].reason
        assert [r.parts_G for r in reports[1:]] == want[1:]
        assert [r.killed for r in reports] == [1, 0, 0]
        assert time.monotonic() - begin < 90
    finally:
        backend.close()
