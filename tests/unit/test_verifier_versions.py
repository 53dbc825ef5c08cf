"""A built-in reward counts by its code: changed, it makes new keys; folders from before keys held it are kept and told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rewards import REWARDS
from rl.config import RewardConfig
from rl.data import content_hash
from rl.recipe import Recipe, Reject
from rl.records import provenance
from rl.workflow.plan import DONE, NEW, RESUMES
from rl.workflow.stage_folders import StageFolders
from rl.workflow.stage_keys import StageKey, folder_name, stage_keys
from tests.unit.recipe_runs import folders, made_up, write_recipe

ASKS_ACCURACY = ["zero", "eval_zero", "picks", "eval_last"]
AFTER_IT = ["mixed", "last", "claims"]


def edit(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """As if a file of rewards/ had another text."""
    real = content_hash.file_hash
    monkeypatch.setattr(content_hash, "file_hash", lambda path: "other" if path.name == file else real(path))


def with_rewards(recipe: Recipe, *functions: str) -> Recipe:
    rewards = tuple(RewardConfig(function) for function in functions)
    stages = tuple(dataclasses.replace(s, rewards=rewards) if s.called_rewards else s for s in recipe.stages)
    return dataclasses.replace(recipe, stages=stages)


@pytest.mark.parametrize("file", ["accuracy.py", "comparing.py"], ids=["the reward's file", "a file that it imports"])
def test_a_changed_verifier_runs_again_what_asked_it_and_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    assert {p.state for p in StageFolders(recipe).plan()} == {DONE}
    edit(monkeypatch, file)
    planned = {p.stage.name: p for p in StageFolders(recipe).plan()}
    assert {name for name, p in planned.items() if p.state == NEW} == {*ASKS_ACCURACY, *AFTER_IT}
    assert planned["zero"].because == ("the code of the reward accuracy",)
    assert planned["mixed"].because == ("input @picks",)
    assert planned["cold"].state == DONE


@pytest.mark.parametrize("file", ["countdown.py", "__init__.py"], ids=["another reward's", "the list of rewards"])
def test_what_a_verifier_does_not_use_changes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    recipe = made_up(tmp_path)
    old = stage_keys(recipe)
    edit(monkeypatch, file)
    assert {n: k.key for n, k in stage_keys(recipe).items()} == {n: k.key for n, k in old.items()}


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_each_built_in_reward_counts_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recipe = with_rewards(made_up(tmp_path), name)
    old = stage_keys(recipe)["zero"].key
    edit(monkeypatch, f"{REWARDS[name].partition(':')[0].rpartition('.')[2]}.py")
    assert stage_keys(recipe)["zero"].key != old


def test_the_checks_of_its_rows_belong_to_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_rewards(made_up(tmp_path), "code_accuracy")
    old = stage_keys(recipe)["zero"].key
    monkeypatch.setattr(content_hash, "ROW_CHECKS", {"code_accuracy": "rewards.filters:has_length"})
    assert stage_keys(recipe)["zero"].key != old


# ------------------------------------------------------------------------------------------------ older folders


def made_before(recipe: Recipe, *, done: int | None = None, hashed_rewards: bool = False) -> dict[str, Path]:
    """The recipe's folders as versions wrote them that hashed of a built-in reward its name alone; or, with
    hashed_rewards, its code, but no filters yet.
    """
    write_recipe(recipe, done)
    keys, where = stage_keys(recipe), folders(recipe)
    for number, stage in enumerate(recipe.stages):
        folder, ages = where[stage.name], keys[stage.name].ages()
        key = ages[-1] if not hashed_rewards else ages[1] if len(ages) == 3 else ages[0]
        for file in (folder / "stage.json", folder / provenance.FILE):
            if file.is_file():
                record = json.loads(file.read_text()) | {"key": key.key, "inputs": key.inputs}
                file.write_text(json.dumps(record))
        if folder.is_dir():
            where[stage.name] = folder.rename(folder.with_name(folder_name(number, stage, key)))
    return where


def test_the_older_key_is_the_one_that_those_versions_gave(tmp_path: Path) -> None:
    """Worked by hand for an evaluation of a model from outside: [settings, {what is read: its hash}]."""
    recipe = made_up(tmp_path)
    cold = stage_keys(recipe)["cold"]
    assert cold.older is None
    zero = stage_keys(recipe)["zero"]
    assert zero.older is not None
    assert zero.older.inputs["accuracy"] == content_hash.path_hash("accuracy")
    assert zero.older.inputs["@cold"] == cold.key
    assert zero.inputs["accuracy"] != zero.older.inputs["accuracy"]
    assert stage_keys(recipe)["eval_zero"].older.inputs["@zero"] == zero.older.key  # type: ignore[union-attr]


def test_finished_stages_of_older_folders_are_kept_and_the_unknown_version_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made_up(tmp_path)
    where = made_before(recipe)
    edit(monkeypatch, "accuracy.py")
    layout = StageFolders(recipe)
    planned = {p.stage.name: p for p in layout.plan()}
    assert {p.state for p in planned.values()} == {DONE}
    assert {name: p.folder for name, p in planned.items()} == where
    told = {name: p.because for name, p in planned.items() if p.because}
    assert told == dict.fromkeys(ASKS_ACCURACY, ("the version of the code of accuracy that it used is unknown",))
    assert "done, kept: the version of the code of accuracy that it used is unknown" in layout.describe(layout.plan())


def test_a_stage_that_an_older_version_began_goes_on_in_its_folder(tmp_path: Path) -> None:
    recipe = made_up(tmp_path)
    where = made_before(recipe, done=1)
    zero = next(p for p in StageFolders(recipe).plan() if p.stage.name == "zero")
    assert (zero.state, zero.folder) == (RESUMES, where["zero"])
    assert zero.because == ("was begun", "the version of the code of accuracy that it used is unknown")


def test_an_older_folder_with_other_settings_is_told_by_those_alone(tmp_path: Path) -> None:
    made_before(made_up(tmp_path))
    planned = {p.stage.name: p for p in StageFolders(made_up(tmp_path, group_size=4)).plan()}
    assert planned["zero"].because == ("grpo.group_size: 16 -> 4",)


def test_of_two_finished_folders_the_one_of_this_code_counts(tmp_path: Path) -> None:
    recipe = made_up(tmp_path)
    made_before(recipe)
    write_recipe(recipe)
    assert {p.stage.name: p.folder for p in StageFolders(recipe).plan()} == folders(recipe)
    assert {p.because for p in StageFolders(recipe).plan()} == {()}


def test_a_key_without_built_in_rewards_has_no_older_one(tmp_path: Path) -> None:
    recipe = with_rewards(made_up(tmp_path), "tests.unit.test_verifier_versions:own")
    assert all(isinstance(key, StageKey) and key.older is None for key in stage_keys(recipe).values())


# ------------------------------------------------------------------------------------------------ filters


def with_filters(recipe: Recipe, **settings: object) -> Recipe:
    stages = tuple(
        dataclasses.replace(s, reject=dataclasses.replace(s.reject, **settings)) if isinstance(s, Reject) else s  # type: ignore[arg-type]
        for s in recipe.stages
    )
    return dataclasses.replace(recipe, stages=stages)


FILTERS = {
    "has_length": {"max_tokens": 9},
    "has_no_code_block": {"no_code": True},
    "has_short_paragraphs": {"max_paragraph_words": 9},
    "is_not_repetitive": {"max_repeated_share": 0.5},
    "is_single_language": {"min_language_share": 0.5},
    "word_ngrams": {"keep": "diverse"},
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_changed_filter_runs_again_the_stage_that_kept_by_it_and_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = with_filters(made_up(tmp_path), **FILTERS[name])
    write_recipe(recipe)
    assert {p.state for p in StageFolders(recipe).plan()} == {DONE}
    edit(monkeypatch, "filters.py")
    planned = {p.stage.name: p for p in StageFolders(recipe).plan()}
    assert {name for name, p in planned.items() if p.state == NEW} == {"picks", "mixed", "last", "eval_last", "claims"}
    assert planned["picks"].because == (f"the code of rewards.filters:{name}",)


def test_filters_that_a_stage_does_not_use_change_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = made_up(tmp_path)
    old = stage_keys(recipe)
    edit(monkeypatch, "filters.py")
    assert {n: k.key for n, k in stage_keys(recipe).items()} == {n: k.key for n, k in old.items()}


@pytest.mark.parametrize("hashed_rewards", [True, False])
def test_what_was_kept_before_filters_were_in_the_key_stays_and_is_told(tmp_path: Path, hashed_rewards: bool) -> None:
    recipe = with_filters(made_up(tmp_path), no_code=True)
    where = made_before(recipe, hashed_rewards=hashed_rewards)
    planned = {p.stage.name: p for p in StageFolders(recipe).plan()}
    assert {p.state for p in planned.values()} == {DONE}
    assert {name: p.folder for name, p in planned.items()} == where
    unknown = "rewards.filters:has_no_code_block" if hashed_rewards else "accuracy, rewards.filters:has_no_code_block"
    assert planned["picks"].because == (f"the version of the code of {unknown} that it used is unknown",)
    assert planned["mixed"].because == ()
    other = with_filters(recipe, max_kept=2)
    assert {p.stage.name: p for p in StageFolders(other).plan()}["picks"].because == ("reject.max_kept: 1 -> 2",)


def own(completion: str) -> float:
    return float(len(completion))
