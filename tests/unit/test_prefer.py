"""rl/stages/prefer.py: who is preferred, in both orders; which pairs stay; resuming. And what keys depend on."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewards.types import Score
from rl.config import (
    DataConfig,
    GRPOConfig,
    PreferConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RewardTrainConfig,
    RolloutConfig,
    RunConfig,
)
from rl.context import Stop
from rl.data.preference_pairs import OPENED
from rl.recipe import GRPO, Prefer, Recipe, Reject, RewardTraining, inputs_of
from rl.scoring.routing import named
from rl.settings.overrides import apply_stage_overrides, recipe_from_json, recipe_to_json
from rl.settings.recipe_checks import check
from rl.stages import prefer as stage
from rl.stages.prefer import agreed, balanced, prefer
from rl.stages.reward_model import made_by_stages
from rl.types import AhaError, BadInput, Stopped
from rl.workflow.stage_keys import stage_keys

ASKED: list[str] = []


def longer_word(first: str, second: str, *, prompt: str, **columns: object) -> float:
    """A rule for the tests: the response that has more a's is better."""
    ASKED.append(prompt)
    return first.count("a") - second.count("a")


def first_always(first: str, second: str, **columns: object) -> float:
    return 1.0


RULE = PreferConfig(function="tests.unit.test_prefer:longer_word", pairs_per_prompt=0, balance_lengths=False)


def samples(path: Path, *prompts: tuple[str, list[str]], opening: str = "") -> str:
    lines = [
        {
            "prompt_id": i, "prompt": f"Q: {prompt}{opening}", "answer": "x", "row": {"prompt": prompt, "domain": "chat"},
            "samples": [{"text": text, "reason": "kept: all"} for text in texts],
        }
        for i, (prompt, texts) in enumerate(prompts)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def rows_of(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


def fates(folder: Path) -> dict[str, int]:
    report = json.loads((folder / "yield.json").read_text())
    assert sum(report["by_fate"].values()) == report["pairs"]
    return {fate: count for fate, count in report["by_fate"].items() if count}


# ------------------------------------------------------------------------------------------------ who is preferred


@pytest.mark.parametrize(("orders", "lead"), [((1, 1), 1), ((-1, -1), -1), ((1, -1), 0), ((1, 0), 0), ((0, 0), 0)])
def test_both_orders_must_agree(orders: tuple[int, int], lead: int) -> None:
    assert agreed(*orders).lead == lead
    assert bool(agreed(*orders).reason) == (lead == 0)


def test_pairs_of_a_rule_with_ties_duplicates_and_their_counts(tmp_path: Path) -> None:
    file = samples(tmp_path / "s.jsonl", ("one", ["b a", "b", "b  a", "c"]), ("two", ["aa", "a"]))
    other = samples(tmp_path / "t.jsonl", ("two", ["b"]))
    out = rows_of(prefer(tmp_path, RULE, [file, other], 1, Stop()))
    pairs = {(r["prompt"], " ".join(r["chosen"].split()), r["rejected"]) for r in out}
    assert pairs == {
        ("one", "b a", "b"), ("one", "b a", "c"), ("two", "aa", "a"), ("two", "aa", "b"), ("two", "a", "b")
    }  # fmt: skip
    assert {r["domain"] for r in out} == {"chat"}
    assert fates(tmp_path) == {"kept": 5, "tie": 1}


def test_a_rule_that_favours_a_position_decides_nothing(tmp_path: Path) -> None:
    file = samples(tmp_path / "s.jsonl", ("one", ["a", "b"]))
    cfg = replace(RULE, function="tests.unit.test_prefer:first_always")
    with pytest.raises(BadInput, match="no pair is left \\(1 the order decided"):
        prefer(tmp_path, cfg, [file], 1, Stop())


def test_a_judge_is_asked_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}

    def judge(prompts: list[str], completions: list[str], answer: list[str], **settings: object) -> list[Score]:
        seen.update(completions=completions, answer=answer, question=settings["question"])  # type: ignore[arg-type]
        values = {"good": 1.0, "bad": 0.0, "even": 0.5}
        ours = [
            next((v for k, v in values.items() if k in c + a), 0.0) for c, a in zip(completions, answer, strict=True)
        ]
        return [Score(v if "good" in c else 1 - v, "correct") for v, c in zip(ours, completions, strict=True)]

    monkeypatch.setattr(stage, "llm_pairwise", judge)
    file = samples(
        tmp_path / "s.jsonl", ("one", ["a</think>good", "b</think>worse"]), ("two", ["c</think>even", "d</think>so"]),
        ("three", ["no end", "x</think>y"]), opening="<think>",
    )  # fmt: skip
    cfg = PreferConfig(base_url="http://x/v1", judge="m", balance_lengths=False, domain="helpful")
    (row,) = rows_of(prefer(tmp_path, cfg, [file], 1, Stop()))
    assert (row["chosen"], row["rejected"], row["domain"], row[OPENED]) == (
        "a</think>good",
        "b</think>worse",
        "helpful",
        True,
    )
    assert sorted(seen["question"]) == ["one", "two"]
    assert not any("</think>" in text for text in seen["answer"])  # the other response, as the judge is to see it
    assert fates(tmp_path) == {"kept": 1, "tie": 1, "no summary": 1}


def test_the_fields_of_a_request_to_the_judge_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def judge(prompts: list[str], completions: list[str], answer: list[str], **settings: object) -> list[Score]:
        seen.update(settings)
        return [Score(1.0, "correct")] * len(prompts)

    monkeypatch.setattr(stage, "llm_pairwise", judge)
    file = samples(tmp_path / "s.jsonl", ("one", ["a</think>good", "b</think>worse"]), opening="<think>")
    cfg = PreferConfig(base_url="http://x/v1", judge="m", balance_lengths=False)
    names = ("max_tokens", "temperature", "response_format", "extra")
    for folder, other, wanted in (
        ("plain", cfg, (8192, 0.0, "json_schema", {})),
        (
            "set",
            replace(cfg, max_tokens=99, temperature=-1, response_format="none", extra='{"top_k": 4}'),
            (99, None, "none", {"top_k": 4}),
        ),
    ):
        (tmp_path / folder).mkdir()
        prefer(tmp_path / folder, other, [file], 1, Stop())
        assert tuple(seen[name] for name in names) == wanted


@pytest.mark.parametrize(
    ("setting", "fault"),
    [({"extra": "{"}, "no JSON"), ({"extra": "[1]"}, "expected a JSON object"), ({"temperature": -0.5}, "-1 to leave")],
)
def test_a_request_that_cannot_be_made_is_a_fault_of_the_recipe(last: Recipe, setting, fault) -> None:
    cfg = PreferConfig(samples=("@picks",), base_url="http://x/v1", judge="m", **setting)
    faults = list(Prefer("pairs", cfg).faults(last))
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_stage_that_an_older_version_began_goes_on_from_its_judged_jsonl(tmp_path: Path) -> None:
    file = samples(tmp_path / "s.jsonl", ("one", ["a a", "a"]), ("two", ["aa a", "aa"]))
    out = rows_of(prefer(tmp_path, RULE, [file], 1, Stop()))
    first = (tmp_path / "compared.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "compared.jsonl").unlink()
    marked = first.replace("a a", "a a compared before")
    (tmp_path / "judged.jsonl").write_text(marked)
    again = rows_of(prefer(tmp_path, RULE, [file], 1, Stop()))
    assert (tmp_path / "compared.jsonl").read_text().startswith(marked)
    assert not (tmp_path / "judged.jsonl").exists()
    assert {r["chosen"] for r in out} == {"a a", "aa a"}
    assert {r["chosen"] for r in again} == {"a a compared before", "aa a"}


def test_a_judge_that_is_mostly_silent_stops_the_stage_and_the_chunk_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stage, "llm_pairwise", lambda prompts, *a, **k: [Score(math.nan, "failed", "refused")] * len(prompts)
    )
    file = samples(tmp_path / "s.jsonl", ("one", ["a", "b"]))
    with pytest.raises(AhaError, match="no verdict on 1 of 1 pairs: no verdict: refused"):
        prefer(tmp_path, PreferConfig(base_url="http://x/v1", judge="m"), [file], 1, Stop())
    assert not (tmp_path / "compared.jsonl").exists()


# ------------------------------------------------------------------------------------------------ what is kept


def test_lengths_are_balanced_by_sign_in_each_domain() -> None:
    def row(chosen: int, rejected: int, domain: str = "a") -> dict[str, object]:
        return {"chosen": "x" * chosen, "rejected": "x" * rejected, "domain": domain}

    rows = [row(9, 1), row(5, 1), row(4, 1), row(1, 3), row(2, 2), row(8, 1, "b"), row(1, 2, "b"), row(1, 3, "b")]
    kept = balanced(rows, 1)
    signs = Counter(
        (str(rows[i]["domain"]), (lead > 0) - (lead < 0))
        for i in kept
        for lead in [len(str(rows[i]["chosen"])) - len(str(rows[i]["rejected"]))]
    )
    assert signs == {("a", 1): 1, ("a", -1): 1, ("a", 0): 1, ("b", 1): 1, ("b", -1): 1}
    assert kept == sorted(kept)
    assert kept == balanced(rows, 1)
    assert any(balanced(rows, seed) != kept for seed in range(2, 9))


def test_lengths_are_balanced_by_what_the_reward_model_reads(tmp_path: Path) -> None:
    """The judge likes the longer summary; the thinking before it, much longer, has any length."""
    dice = np.random.default_rng(1)
    pairs = [
        {"chosen": f"{'t ' * int(a)}</think>{'s' * 9}{i}", "rejected": f"{'t ' * int(b)}</think>s", "reason": ""}
        for i, (a, b) in enumerate(dice.integers(50, 500, (40, 2)))
    ]
    pairs += [{"chosen": f"</think>{'s' * i}", "rejected": "</think>" + "s" * 99, "reason": ""} for i in range(5, 8)]
    line = {"prompt_id": 0, "row": {"prompt": "q", OPENED: True}, "pairs": pairs}
    (tmp_path / "compared.jsonl").write_text(json.dumps(line) + "\n")

    def leads(scores: str) -> Counter[bool]:
        rows = rows_of(stage.write_pairs(tmp_path, replace(RULE, balance_lengths=True, scores=scores), 1))
        summaries = [[len(row[name].rpartition("</think>")[2]) for name in ("chosen", "rejected")] for row in rows]
        return Counter(chosen > rejected for chosen, rejected in summaries)

    assert leads("summary") == {True: 3, False: 3}
    assert leads("response")[True] > 20


def test_a_request_that_failed_is_no_sample(tmp_path: Path) -> None:
    file = Path(samples(tmp_path / "s.jsonl", ("one", ["a", "bb", ""]), ("two", ["c", ""])))
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    for line in lines:
        line["samples"][-1] |= {"reason": "no answer: HTTP 503", "finish_reason": "error"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = rows_of(prefer(tmp_path, RULE, [str(file)], 1, Stop()))
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "bb")]


def test_a_repeated_pair_is_a_duplicate_whatever_its_white_space(tmp_path: Path) -> None:
    pair = {"chosen": "a  b", "rejected": "c", "reason": ""}
    lines = [
        {"prompt_id": 0, "row": {"prompt": "q"}, "pairs": [pair]},
        {"prompt_id": 1, "row": {"prompt": " q"}, "pairs": [pair | {"chosen": "a b"}, pair | {"rejected": "d"}]},
    ]
    (tmp_path / "compared.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage.write_pairs(tmp_path, RULE, 1)
    assert fates(tmp_path) == {"kept": 2, "duplicate": 1}


def test_a_stopped_and_a_torn_run_ask_no_prompt_twice_and_end_the_same(tmp_path: Path) -> None:
    file = samples(tmp_path / "s.jsonl", *((f"q{i}", ["a", "b", "aa"]) for i in range(5)))
    cfg = replace(RULE, chunk_prompts=2, pairs_per_prompt=1)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = prefer(tmp_path / "one", cfg, [file], 1, Stop()).read_bytes()
    stop = Stop()
    stop.requested = True
    ASKED.clear()
    with pytest.raises(Stopped, match="after 2 prompts"):
        prefer(tmp_path / "two", cfg, [file], 1, stop)
    with (tmp_path / "two" / "compared.jsonl").open("a") as torn:
        torn.write('{"prompt_id": 2, "ro')
    assert prefer(tmp_path / "two", cfg, [file], 1, Stop()).read_bytes() == expected
    assert Counter(ASKED) == {f"q{i}": 2 for i in range(5)}


# ------------------------------------------------------------------------------------------------ in a recipe


@pytest.fixture
def last(tmp_path: Path) -> Recipe:
    """Samples, pairs of them, a reward model, and RL with it."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "q", "answer": "1", "domain": "chat"}\n')
    data, rewards = DataConfig(source=str(tmp_path / "train.jsonl")), (RewardConfig("accuracy"),)
    return Recipe(
        "last",
        RunConfig(),
        (
            Reject("picks", "org/base", data, rewards, RolloutConfig(max_new_tokens=8), RejectConfig(keep="all")),
            Prefer("pairs", replace(RULE, samples=("@picks",))),
            RewardTraining("helpful", "org/base", RewardTrainConfig(data=DataConfig(source="@pairs"))),
            GRPO(
                "final", "org/base", data, (*rewards, RewardConfig("model:@helpful", from_step=-1)),
                RolloutConfig(max_new_tokens=8), GRPOConfig(steps=3),
            ),
        ),
        out=str(tmp_path / "runs"),
    )  # fmt: skip


def test_a_stage_that_rewards_by_a_model_depends_on_what_made_it(last: Recipe) -> None:
    check(last)
    assert recipe_from_json(recipe_to_json(last)) == last
    assert inputs_of(last["final"]) == ["helpful"]
    assert made_by_stages(last["helpful"].reward)  # type: ignore[attr-defined]
    old = stage_keys(last)

    def changed(override: str) -> list[str]:
        new = stage_keys(apply_stage_overrides(last, [override]))
        return [name for name in old if old[name].key != new[name].key]

    assert changed("helpful.reward.optim.lr=1e-3") == ["helpful", "final"]
    assert changed("pairs.prefer.pairs_per_prompt=2") == ["pairs", "helpful", "final"]
    assert changed("picks.reject.samples=3") == ["picks", "pairs", "helpful", "final"]
    assert changed("pairs.prefer.chunk_prompts=2") == changed("helpful.reward.eval_every=2") == []


def test_a_model_of_a_stage_is_a_part_of_the_reward_under_the_stages_name(last: Recipe) -> None:
    assert list(named(last["final"].rewards)) == ["accuracy", "helpful"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "final",
            {"rewards": (RewardConfig("model:@pairs"),)},
            "final.rewards.0.function=model:@pairs: that stage trains no",
        ),
        (
            "final",
            {"rewards": (RewardConfig("model:@helpfull"),)},
            "no earlier stage has that name; did you mean @helpful?",
        ),
        ("final", {"model": "@helpful"}, "final.model=@helpful: that stage makes no model"),
        (
            "helpful",
            {"reward": RewardTrainConfig(data=DataConfig(source="@picks"), steps=0, epochs=0)},
            "set steps or epochs",
        ),
        (
            "helpful",
            {"reward": RewardTrainConfig(data=DataConfig(source="@picks"), kind="pair")},
            "helpful.reward.kind=pair",
        ),
        ("helpful", {"reward": RewardTrainConfig()}, "helpful.reward.data.source: no preference data"),
        ("helpful", {"model": ""}, "helpful.model: name a Hugging Face id"),
        (
            "pairs",
            {"prefer": PreferConfig(samples=("@picks",))},
            "pairs.prefer: set function (a rule) or base_url (a judge)",
        ),
        ("pairs", {"prefer": replace(RULE, samples=())}, "pairs.prefer.samples: name at least one stage"),
        (
            "pairs",
            {"prefer": replace(RULE, samples=("@picks",), scores="summary", balance_lengths=True)},
            "helpful.reward.scores=response: but @pairs balances the lengths of another part; set "
            "pairs.prefer.scores=response",
        ),
        (
            "final",
            {"rewards": (RewardConfig("model:@helpful", model=RewardModelConfig(scores="summary")),)},
            "final.rewards.0.model.scores=summary: but @helpful was trained on the response",
        ),
    ],
)
def test_a_fault_is_named_with_its_stage_and_key(last: Recipe, name: str, change: dict, said: str) -> None:  # type: ignore[type-arg]
    stages = tuple(replace(s, **change) if s.name == name else s for s in last.stages)
    with pytest.raises(BadInput) as caught:
        check(replace(last, stages=stages))
    assert said in str(caught.value)
