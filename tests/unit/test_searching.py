"""rl/evaluation/searching.py: searches with scripted samplers and real rewards: tokens, resuming, budgets, failures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl.backend import SampleParams
from rl.config import EvalConfig, RejectConfig, RewardConfig, RolloutConfig, RunConfig, SearchConfig, TrackConfig
from rl.context import Context, Stop
from rl.data.packing import pack
from rl.evaluation import searching
from rl.evaluation.evaluate import evaluate
from rl.evaluation.result import EvalResult
from rl.evaluation.searching import Found, Searcher, read_again
from rl.recipe import Reject
from rl.records.tracker import Tracker
from rl.scoring.reward_functions import RewardFunctions
from rl.scoring.scorer import Scorer
from rl.stages.reject import reject
from rl.types import (
    BadInput,
    Prompt,
    Queue,
    RewardPart,
    RewardReport,
    Rollout,
    RolloutGroup,
    SampleRequest,
    SyncReport,
    Verdict,
)

END = 2
DEPTH = 3


def digits(completion: str, **_: object) -> float:
    """How large the digits are: what the search climbs."""
    return sum(int(c) for c in completion if c.isdigit()) / 30


def is_even(completion: str, **_: object) -> float:
    """Whether the sum of the digits is even: what counts as correct."""
    return float(sum(int(c) for c in completion if c.isdigit()) % 2 == 0)


REWARDS = (
    RewardConfig(f"{__name__}:is_even", name="right"),
    RewardConfig(f"{__name__}:digits", name="climb", weight=0.0),
)


class Digits:
    """A sampler over bytes: each step is a digit drawn by its seed and ";", and after DEPTH steps the end. Without ";"
    among the stop texts it goes on to the end. calls: what was asked. dies_at: the number of the call that is killed.
    """

    def __init__(self, tokenizer: object, cfg: RunConfig, dies_at: int = 99, silent: str = "") -> None:
        self.tokenizer, self.dies_at, self.silent = tokenizer, dies_at, silent
        self.rewards = RewardFunctions(cfg.rewards)
        self.calls: list[list[SampleRequest]] = []
        self.weights = 7

    def load(self, task: object) -> None:
        """There are no learners."""

    @property
    def sent(self) -> SyncReport:
        return SyncReport(0, self.weights, 1, 1, 1, 0.0)

    def sync_weights(self, version: int) -> SyncReport:
        return self.sent

    def queue(self) -> Queue:
        return Queue()

    def rollouts(self, requests: Sequence[SampleRequest], params: SampleParams) -> Iterator[tuple[int, list[Rollout]]]:
        self.calls.append(list(requests))
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        for r in reversed(requests):
            begun = self.tokenizer.decode(r.prompt_token_ids[1:])  # type: ignore[attr-defined]
            yield r.group, [self._sample(begun, seed, params) for seed in r.seeds_G]

    def _sample(self, begun: str, seed: int, params: SampleParams) -> Rollout:
        random, done, ids = np.random.default_rng(seed), begun.count(";"), []
        while True:
            if done >= DEPTH:
                ids.append(END)
                break
            ids += self.tokenizer(f"{random.integers(0, 10)};", add_special_tokens=False).input_ids  # type: ignore[operator]
            done += 1
            if ";" in params.stop:
                break
        cut = len(ids) > params.max_new_tokens
        ids = ids[: params.max_new_tokens]
        array = np.asarray(ids, np.int32)
        return Rollout(array, np.zeros(len(ids), np.float32), "", "length" if cut else "stop", 1.0, 0, seed)

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str]) -> Callable[[], RewardReport]:
        parts_G = self.rewards.call_all(group, names)
        for rollout, parts in zip(group.rollouts_G, parts_G, strict=True):
            if "climb" in parts and self.silent and rollout.text.startswith(self.silent):
                parts["climb"] = RewardPart(math.nan, Verdict.TIMED_OUT, "10 s")
        return lambda: RewardReport(parts_G)


PROMPTS = [Prompt(i, i, [1], "Q:", "", {}) for i in range(3)]
PARAMS = SampleParams(1.0, 1.0, 40, (), (END,))
BEAM = SearchConfig("beam", width=2, expand=3, step=(";",), max_step_tokens=8, scorer="climb")


def searcher(
    tokenizer: object, folder: Path, cfg: SearchConfig = BEAM, params: SampleParams = PARAMS, **faults: object
) -> tuple[Searcher, Digits]:
    run = RunConfig(name="run", out=str(folder), rewards=REWARDS, track=TrackConfig(wandb="off"))
    backend = Digits(tokenizer, run, **faults)  # type: ignore[arg-type]
    tracker = Tracker(run.run_dir, run.track, name="run")
    ctx = Context(run, backend, tokenizer, tracker, Stop(), 0)  # type: ignore[arg-type]
    return Searcher(ctx, cfg, params, "test"), backend


def same(one: list[Found], other: list[Found]) -> bool:
    def plain(found: Found) -> tuple[object, ...]:
        rollouts = [(r.token_ids_T.tolist(), r.text, r.finish_reason) for r in found.rollouts]
        return rollouts, repr(found.scores), found.generated, found.read_again, found.scored, found.merged

    return [plain(found) for found in one] == [plain(found) for found in other]


def test_a_beam_goes_on_in_the_tokens_that_were_sampled_and_counts_them(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    search, backend = searcher(tokenizer, tmp_path)
    found = search.run(PROMPTS, 0)
    first = found[0]
    assert first.scores == sorted(first.scores, reverse=True)
    assert [r.text.count(";") for r in first.rollouts] == [DEPTH] * len(first.rollouts)
    assert all(r.token_ids_T[-1] == END and r.finish_reason == "stop" for r in first.rollouts)
    # Every round is one call for all problems; what is continued is a beginning of what came back.
    assert len(backend.calls) == DEPTH + 1
    assert [len(call) for call in backend.calls] == [3, 6, 6, 6]
    for r in backend.calls[-1]:
        assert tokenizer.decode(r.prompt_token_ids[1:]).count(";") == DEPTH
    # Three continuations of one root, then of two beams, of two bytes each; last the end tokens.
    assert first.generated == 2 * 3 + 2 * 6 + 2 * 6 + 6
    assert len({seed for call in backend.calls for r in call for seed in r.seeds_G}) == 3 * (3 + 6 + 6 + 6)
    # The prompt once, and beginnings shorter than a block of the cache whole: of 3, 5 and 7 tokens, two each.
    assert first.read_again == 1 + 2 * (3 + 5 + 7)
    assert same(found, searcher(tokenizer, tmp_path / "again")[0].run(PROMPTS, 0))


def test_a_prefix_cache_holds_whole_blocks():
    assert [read_again(tokens, 128) for tokens in (1, 128, 129, 300, 256)] == [1, 128, 1, 44, 128]


def test_a_killed_search_goes_on_with_the_problems_that_are_missing(tokenizer, tmp_path: Path, monkeypatch):  # type: ignore[no-untyped-def]
    whole = searcher(tokenizer, tmp_path / "whole")[0].run(PROMPTS, 0)
    monkeypatch.setattr(searching, "CHUNK_NODES", 6)  # a problem a chunk
    with pytest.raises(KeyboardInterrupt):
        searcher(tokenizer, tmp_path / "killed", dies_at=DEPTH + 3)[0].run(PROMPTS, 0)
    search, backend = searcher(tokenizer, tmp_path / "killed")
    assert same(search.run(PROMPTS, 0), whole)
    assert len(backend.calls) == 2 * (DEPTH + 1)
    # With other weights, or other settings, nothing of it is used.
    other, backend = searcher(tokenizer, tmp_path / "killed")
    backend.weights = 8
    other.run(PROMPTS, 0)
    assert len(backend.calls) == 3 * (DEPTH + 1)
    other, backend = searcher(tokenizer, tmp_path / "killed", replace(BEAM, width=3))
    other.run(PROMPTS, 0)
    assert len(backend.calls) == 3 * (DEPTH + 1)


def test_a_scorer_that_hangs_on_a_candidate_costs_that_candidate(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    well = searcher(tokenizer, tmp_path / "a", replace(BEAM, width=1))[0].run(PROMPTS[:1], 0)[0]
    lost = well.rollouts[0].text[0]
    found = searcher(tokenizer, tmp_path / "b", replace(BEAM, width=1), silent=lost)[0].run(PROMPTS[:1], 0)[0]
    assert found.rollouts[0].text[0] != lost
    assert not math.isnan(found.scores[0])


def test_a_solution_is_cut_at_its_limit_and_goes_no_further(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    for limit, rounds in ((5, 3), (4, 2)):  # steps of two tokens: the third is cut, or not begun
        search, backend = searcher(tokenizer, tmp_path / str(limit), params=replace(PARAMS, max_new_tokens=limit))
        (found,) = search.run(PROMPTS[:1], 0)
        assert {len(r.token_ids_T) for r in found.rollouts} == {limit}
        assert {r.finish_reason for r in found.rollouts} == {"length"}
        assert {len(r.text) for r in found.rollouts} == {limit}
        assert len(backend.calls) == rounds


def test_the_samples_own_stop_text_ends_a_solution_although_a_step_ended_within_it(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    params = replace(PARAMS, stop=(";9",))
    (found,) = searcher(tokenizer, tmp_path, replace(BEAM, width=6, expand=6), params)[0].run(PROMPTS[:1], 0)
    stopped = [r.text for r in found.rollouts if ";9" in r.text]
    assert stopped
    assert all(text.endswith(";9;") and ";9" not in text[:-3] for text in stopped)


# ------------------------------------------------------------------------------------------------ budgets


def test_a_budget_forces_the_answer_with_tokens_that_are_not_the_models(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    cfg = SearchConfig("cut", tokens=3, expand=2, force="!", answer_tokens=4)
    (found,) = searcher(tokenizer, tmp_path, cfg)[0].run(PROMPTS[:1], 0)
    assert [r.text[1:4:2] for r in found.rollouts] == [";!", ";!"]
    assert found.generated == sum(len(r.token_ids_T) - 1 for r in found.rollouts)
    assert found.read_again == 1 + 2
    assert all(len(r.token_ids_T) <= 3 + 1 + 4 for r in found.rollouts)


def test_a_thought_is_stretched_from_where_it_was_open(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    cfg = SearchConfig("stretch", tokens=9, expand=1, more="+", close="")
    (found,) = searcher(tokenizer, tmp_path, cfg)[0].run(PROMPTS[:1], 0)
    (rollout,) = found.rollouts
    assert rollout.text[6:] == "+++"  # six bytes of thought; each "+" is followed by the end, until nine are there
    assert rollout.token_ids_T[-1] == END
    closed = replace(cfg, close=";", tokens=4, more="ab")
    (found,) = searcher(tokenizer, tmp_path / "b", closed)[0].run(PROMPTS[:1], 0)
    assert found.rollouts[0].text[1:3] == "ab"


def test_what_a_search_found_is_refused_as_a_sample_to_train_on(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    from rl.config import GRPOConfig, LearnerConfig
    from rl.types import ScoredGroup

    (found,) = searcher(tokenizer, tmp_path)[0].run(PROMPTS[:1], 0)
    count = len(found.rollouts)
    scored = ScoredGroup(
        RolloutGroup(PROMPTS[0], found.rollouts), [1.0] * count, [{}] * count, [1.0] * count, [True] * count, False
    )
    with pytest.raises(ValueError, match="a logprob that is not finite"):
        pack([scored], grpo=GRPOConfig(), learner=LearnerConfig(), max_new_tokens=40, layout="rows", seed=0)


# ------------------------------------------------------------------------------------------------ the evaluation


def test_searches_stand_beside_the_samples_with_their_tokens(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    budget = SearchConfig("cut", tokens=3, expand=2, force="!", answer_tokens=4)
    cfg = RunConfig(
        name="run", out=str(tmp_path), rewards=REWARDS, track=TrackConfig(wandb="off"),
        evaluation=EvalConfig(samples=2, greedy=False, max_new_tokens=40, search=(BEAM, budget)),
    )  # fmt: skip
    backend = Digits(tokenizer, cfg)
    with Tracker(cfg.run_dir, cfg.track, name="run") as tracker:
        ctx = Context(cfg, backend, tokenizer, tracker, Stop(), 0)  # type: ignore[arg-type]
        result, graded_P = evaluate(ctx, PROMPTS, Scorer(cfg.rewards, cfg.grpo))
    beam, cut = result.searched["beam-2x3"], result.searched["cut-3"]
    tree = searcher(tokenizer, tmp_path / "x")[0]
    tree._samplers._purpose = "search beam-2x3"
    found = tree.run(PROMPTS, 0)
    first, last = ([is_even(one.rollouts[at].text) for one in found] for at in (0, -1))
    assert beam["correct"] == first != last
    assert beam["tokens"] == [one.generated + one.read_again for one in found]
    assert (beam["vote"], len(cut["correct"])) == ([], 3)  # these samples have no answers to vote with
    assert cut["tokens"][0] < beam["tokens"][0]
    assert all(len(g.group.rollouts_G) == 2 for g in graded_P)
    metrics = result.metrics()
    assert metrics["search@beam-2x3/tokens"] == pytest.approx(np.mean(beam["tokens"]))
    assert metrics["search@beam-2x3"] == pytest.approx(np.mean(beam["correct"]))
    path = tmp_path / "result.json"
    result.write(path)
    assert EvalResult.read(path).chosen_P("search@beam-2x3") == beam["correct"]


# ------------------------------------------------------------------------------------------------ rejection sampling


def test_rejection_sampling_keeps_what_a_search_found(tokenizer, tmp_path: Path):  # type: ignore[no-untyped-def]
    cfg = RejectConfig(samples=1, keep="all", correct=False, search=(BEAM,), chunk_prompts=2)
    run = RunConfig(
        name="run", out=str(tmp_path), rewards=REWARDS, track=TrackConfig(wandb="off"),
        rollout=RolloutConfig(max_new_tokens=40),
    )  # fmt: skip
    prompts = [replace(p, row={"prompt": f"question {p.id}"}) for p in PROMPTS]
    backend = Digits(tokenizer, run)
    with Tracker(run.run_dir, run.track, name="run") as tracker:
        ctx = Context(run, backend, tokenizer, tracker, Stop(), 0)  # type: ignore[arg-type]
        path = reject(ctx, "", prompts, Scorer(run.rewards, run.grpo), cfg)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    tree = searcher(tokenizer, tmp_path / "x")[0]
    tree._samplers._purpose = "reject beam-2x3"
    found = tree.run(PROMPTS, 0)
    assert [row["target"] for row in rows if row["prompt"] == "question 0"] == [r.text for r in found[0].rollouts]
    assert len(rows) == sum(len(one.rollouts) for one in found)
    assert len(backend.calls) == 2 * (DEPTH + 1)  # two chunks


def test_what_does_not_go_with_a_search_is_named():
    stage = Reject(
        "r", "m", rewards=REWARDS, reject=RejectConfig(search=(BEAM, replace(BEAM, step=())), top_logprobs=2)
    )
    assert [fault.partition(":")[0] for fault in stage.faults(None)] == [  # type: ignore[arg-type]
        "reject.search", "reject.search.1.step=()", "reject.search", "reject.top_logprobs",
    ]  # fmt: skip
    unscored = replace(stage, reject=RejectConfig(search=(replace(BEAM, scorer="climbs"),)))
    with pytest.raises(BadInput, match=r"reject\.search\.0\.scorer=climbs: .* did you mean climb\?"):
        unscored.check(None, None, RunConfig())  # type: ignore[arg-type]
