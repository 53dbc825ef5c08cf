"""rl/stages/label.py: labels by hand on three chains, and the stage over a scripted sampler."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from rl.backend import SampleParams
from rl.config import DataConfig, LabelConfig, RewardConfig, RolloutConfig, RunConfig, TrackConfig
from rl.context import Context, Stop
from rl.recipe import Label, RewardTraining
from rl.records.tracker import Tracker
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.scorer import Scorer
from rl.stages.label import Beginning, Chain, label, labels_by_halving, labels_of_each
from rl.types import AhaError, Prompt, Queue, RewardReport, Rollout, RolloutGroup, SampleRequest, SyncReport


def chain(steps: int, *, right: bool, number: int = 0) -> Chain:
    return Chain(0, number, tuple(range(steps)), ("s",) * steps, tuple(range(steps)), right)


CHAINS = [chain(3, right=True), chain(4, right=False, number=1), chain(1, right=False, number=2)]
SHARES = {(0, 1): 0.5, (0, 2): 1.0, (1, 1): 0.75, (1, 2): 0.25, (1, 3): 0.0}
"""What completes the beginnings of the three: the second goes wrong at its third step."""


def recorded(asked: list[list[Beginning]]) -> Callable[[Sequence[Beginning]], list[float]]:
    def shares(beginnings: Sequence[Beginning]) -> list[float]:
        asked.append(list(beginnings))
        return [SHARES[beginning] for beginning in beginnings]

    return shares


def test_each_step_of_three_chains_has_the_share_of_what_follows_it():
    asked: list[list[Beginning]] = []
    assert labels_of_each(CHAINS, recorded(asked), soft=True) == [[0.5, 1.0, 1.0], [0.75, 0.25, 0.0, 0.0], [0.0]]
    assert asked == [list(SHARES)]
    assert labels_of_each(CHAINS, recorded([]), soft=False) == [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0]]


def test_halving_finds_the_first_wrong_step_and_asks_less():
    asked: list[list[Beginning]] = []
    assert labels_by_halving(CHAINS, recorded(asked)) == [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0]]
    assert asked == [[(1, 2)], [(1, 3)]]


# ------------------------------------------------------------------------------------------------ the stage


class Adder:
    """A sampler over bytes. Whole solutions come from `solutions`; a beginning is completed with "#0" (right) by one
    seed in two as long as it has no x, and with "#1" (wrong) after one.
    """

    def __init__(self, tokenizer: object, cfg: RunConfig, solutions: dict[int, list[str]], dies_at: int = 99) -> None:
        self.tokenizer, self.solutions, self.dies_at = tokenizer, solutions, dies_at
        self.rewards = RewardFunctions(cfg.rewards)
        self.calls: list[list[SampleRequest]] = []

    def load(self, task: object) -> None:
        """There are no learners."""

    def sync_weights(self, version: int) -> SyncReport:
        return SyncReport(version, 7, 1, 1, 1, 0.0)

    def queue(self) -> Queue:
        return Queue()

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        self.calls.append(list(requests))
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        for r in reversed(requests):
            begun = self.tokenizer.decode(r.prompt_token_ids[1:])  # type: ignore[attr-defined]
            if begun:
                texts = [f"#{0 if 'x' not in begun and i % 2 else 1}" for i in range(len(r.seeds_G))]
            else:
                texts = self.solutions[r.prompt_token_ids[0]][: len(r.seeds_G)]
            yield r.group, [self._rollout(text, params) for text in texts]

    def _rollout(self, text: str, params: SampleParams) -> Rollout:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids  # type: ignore[operator]
        cut = len(ids) >= params.max_new_tokens
        ids = ids[: params.max_new_tokens] if cut else [*ids, 2]
        array = np.asarray(ids, np.int32)
        return Rollout(array, np.zeros(len(ids), np.float32), text, "length" if cut else "stop", 1.0, 0, 0)

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        parts_G = self.rewards.call_all(group, names)
        return lambda: RewardReport(parts_G)


def ends_in_nothing_added(completion: str, **_: object) -> float:
    return float(completion.endswith("#0"))


SOLUTIONS = {1: ["ab\ncd\n#0", "a\nx\nc\n#1"], 2: ["x\n#1", "y" * 40]}
REWARDS = (RewardConfig(f"{__name__}:ends_in_nothing_added", name="right"),)


def run(tokenizer: object, folder: Path, dies_at: int = 99, **settings: object) -> tuple[Adder, Path]:
    cfg = RunConfig(
        name="label", out=str(folder), rewards=REWARDS, rollout=RolloutConfig(max_new_tokens=20),
        prompts=DataConfig(source="rows"), track=TrackConfig(wandb="off"),
    )  # fmt: skip
    prompts = [Prompt(i, i, [i], "Q", "", {"prompt": f"question {i}"}) for i in SOLUTIONS]
    backend = Adder(tokenizer, cfg, SOLUTIONS, dies_at)
    asked = LabelConfig(samples=2, rollouts=4, step=("\n",), chunk_prompts=1)
    with Tracker(cfg.run_dir, cfg.track, name="label") as tracker:
        ctx = Context(cfg, backend, tokenizer, tracker, Stop(), 0)  # type: ignore[arg-type]
        path = label(ctx, "", prompts, Scorer(cfg.rewards, cfg.grpo), LabelConfig(**{**vars(asked), **settings}))
    return backend, path


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_solutions_are_labelled_in_their_own_tokens_and_what_is_cut_is_counted(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    backend, path = run(tokenizer, tmp_path)
    assert rows(path) == [
        {"prompt": "question 1", "completions": ["ab\n", "cd\n", "#0"], "labels": [0.5, 0.5, 1.0]},
        {"prompt": "question 1", "completions": ["a\n", "x\n", "c\n", "#1"], "labels": [0.5, 0.0, 0.0, 0.0]},
        {"prompt": "question 2", "completions": ["x\n", "#1"], "labels": [0.0, 0.0]},
    ]
    begun = [tokenizer.decode(r.prompt_token_ids[1:]) for r in backend.calls[1]]
    assert begun == ["ab\n", "ab\ncd\n", "a\n", "a\nx\n", "a\nx\nc\n"]
    assert len({seed for r in backend.calls[1] for seed in r.seeds_G}) == 4 * len(begun)
    counts = json.loads((tmp_path / "label" / "labels.json").read_text())
    assert (counts["solutions"], counts["left_out"], counts["steps"], counts["right_solutions"]) == (3, 1, 9, 1)
    sampled = sum(len(text) + 1 for text in (*SOLUTIONS[1], SOLUTIONS[2][0])) + 20
    assert counts["tokens"] == sampled + 6 * 4 * 3  # six beginnings, four completions of "#0" and an end each


def test_halving_gives_hard_labels(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    _, path = run(tokenizer, tmp_path, method="bisect")
    assert [row["labels"] for row in rows(path)] == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0]]


def test_a_killed_labelling_goes_on_with_the_prompts_that_are_missing(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    _, whole = run(tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tokenizer, tmp_path / "killed", dies_at=4)
    backend, path = run(tokenizer, tmp_path / "killed")
    assert path.read_text() == whole.read_text()
    assert {r.prompt_token_ids[0] for call in backend.calls for r in call} == {2}


def test_without_a_solution_that_can_be_labelled_it_says_what_to_raise(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    with pytest.raises(AhaError, match=r"no solution of 2 prompts could be labelled .* raise rollout.max_new_tokens"):
        run(tokenizer, tmp_path, max_steps=1)


def test_a_scorer_of_steps_must_be_told_what_ends_one():
    from rl.config import EvalConfig, RewardModelConfig, RewardTrainConfig
    from rl.recipe import Evaluate

    earlier = {"prm": RewardTraining("prm", "m", RewardTrainConfig(kind="process"))}
    silent = Evaluate("e", "m", (RewardConfig("model:@prm"),), evaluation=EvalConfig())
    assert list(silent.faults_after(earlier)) == [
        "rewards.0.model.steps=(): but @prm scores steps; name the texts that end one"
    ]
    told = Evaluate("e", "m", (RewardConfig("model:@prm", model=RewardModelConfig(steps=("\n",))),))
    assert list(told.faults_after(earlier)) == []
    whole = {"prm": RewardTraining("prm", "m", RewardTrainConfig(kind="pairwise"))}
    assert "scores whole responses; leave it empty" in next(told.faults_after(whole))


def test_its_faults_name_the_setting():
    found = list(Label("label", "m", label=LabelConfig(step=())).faults(None))  # type: ignore[arg-type]
    assert [fault.partition(":")[0] for fault in found] == ["rewards", "label.step=()"]
