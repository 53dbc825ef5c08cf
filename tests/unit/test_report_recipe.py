"""`aha report RECIPE_FOLDER`: the claims, the chain, the evaluations and the curves are those of the stages' files."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from launch.report import write_report
from launch.report.background import Reports
from launch.report.html import MOST_BYTES
from launch.report.reading import read_run
from launch.report.recipe import read_recipe
from launch.report.recipe_page import RecipePage, recipe_page
from rl.config import DataConfig, PreferConfig, RewardTrainConfig, RunConfig, TrackConfig
from rl.recipe import Build, Prefer, Recipe, RewardTraining
from rl.records import provenance
from rl.settings.overrides import recipe_to_json
from rl.types import AhaError, BadInput
from rl.workflow.run import run
from tests.unit.recipe_runs import BROKEN, HELD, PROBLEMS, begin, end, folders, made_up, work, write_recipe
from tests.unit.report_runs import write_run
from tests.unit.test_report import page_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    made = made_up(tmp_path_factory.mktemp("runs") / "r")
    write_recipe(made)
    return made


@pytest.fixture(scope="module")
def page(recipe: Recipe) -> RecipePage:
    return recipe_page(read_recipe(recipe.folder))


# ------------------------------------------------------------------------------------------------ what it says


def test_every_claim_stands_with_both_numbers_their_errors_and_whether_it_held(
    recipe: Recipe, page: RecipePage
) -> None:
    (claims,) = page.claims
    assert claims.rows == json.loads((folders(recipe)["claims"] / "claims.json").read_text())
    assert [(row["claim"], row["holds"]) for row in claims.rows] == [(HELD, True), (BROKEN, False)]  # type: ignore[index, union-attr]
    broken = claims.rows[1]  # type: ignore[index]
    assert (broken["left"]["value"], broken["right"]["value"]) == (0.25, 0.5)  # type: ignore[index]
    assert broken["difference"] == pytest.approx(-0.25)  # type: ignore[index, arg-type]
    assert broken["stderr"] > 0  # type: ignore[index, operator]


def test_a_stage_whose_place_in_the_recipe_changed_is_read_from_the_folder_of_its_old_place(tmp_path: Path) -> None:
    recipe = made_up(tmp_path / "r")
    write_recipe(recipe)
    later = replace(recipe, stages=(replace(recipe.stages[0], name="first"), *recipe.stages))
    (recipe.folder / "recipe.json").write_text(recipe_to_json(later))
    read = read_recipe(recipe.folder)
    assert [s.state for s in read.stages] == ["new"] + ["done"] * len(recipe.stages)
    assert read.left_out == []


def test_the_chain_names_what_each_stage_reads_and_as_what(page: RecipePage) -> None:
    reads = {s.name: [(i.stage, i.role) for i in s.inputs] for s in page.chain}
    assert reads == {
        "cold": [], "zero": [("cold", "model")], "eval_zero": [("zero", "model")], "picks": [("zero", "model")],
        "mixed": [("picks", "data")], "last": [("cold", "model"), ("mixed", "data")], "eval_last": [("last", "model")],
        "claims": [("zero", "measured"), ("eval_last", "measured"), ("eval_zero", "measured")],
    }  # fmt: skip
    assert [s.kind for s in page.chain][2:5] == ["Evaluate", "Reject", "Mix"]
    assert {s.state for s in page.chain} == {"done"}


def test_tokens_are_counted_once_evaluations_included(recipe: Recipe, page: RecipePage) -> None:
    chain = {s.name: s for s in page.chain}
    assert (chain["cold"].sampled, chain["cold"].trained) == (0, 300)  # three steps of 100
    assert chain["eval_zero"].sampled == 40 * PROBLEMS * 4  # mean length, problems, samples
    assert (chain["picks"].sampled, chain["picks"].trained) == (60, 0)
    run = read_run(folders(recipe)["zero"])
    assert chain["zero"].sampled == sum(r.metrics["rollout/tokens"] for r in run.of("grpo"))


@pytest.mark.parametrize(
    ("seconds", "whole"),
    [({"load": 1, "work": 7, "stage": 10}, 10), ({"work": 50, "stage": 9}, 50), ({"stage": 3}, 3), ({}, 0)],
)
def test_a_stages_phases_and_its_whole_time_are_not_added_up(seconds: dict[str, float], whole: float) -> None:
    assert provenance.total_seconds(seconds) == whole


def test_a_stages_time_is_that_of_its_provenance(recipe: Recipe, page: RecipePage) -> None:
    assert {s.seconds for s in page.chain} == {10.0}
    assert read_run(folders(recipe)["cold"]).seconds == {"load": 1.0, "work": 7.0, "rest": 2.0}
    assert ", 10 s" in provenance.describe(provenance.read(folders(recipe)["cold"])).splitlines()[0]


def test_all_evaluations_are_in_one_table_with_their_errors(recipe: Recipe, page: RecipePage) -> None:
    (results,) = page.results  # all on the same problems
    assert results.data == "org/held-out"
    assert [(m.stage, m.model, m.when, m.problems) for m in results.rows] == [
        ("zero", "zero", "before", 20), ("zero", "zero", "after step 12", 20), ("eval_zero", "zero", "", 20),
        ("eval_last", "last", "", 20),
    ]  # fmt: skip
    values = {name: (v.value, v.stderr) for name, v in results.rows[-1].values.items()}
    assert values["pass@1"] == (0.25, 0.1)
    assert values["pass@4"] == (0.75, 0.09)
    assert values["cons@4"] == (0.6, 0.11)
    assert (values["format_share"][0], values["language"][0], values["truncated_share"][0]) == (0.9, 0.8, 0.25)
    assert (values["thought/length_mean"][0], values["answer/length_mean"][0]) == (30, 10)


def test_evaluations_on_other_problems_stand_apart(tmp_path: Path) -> None:
    made = made_up(tmp_path / "r")
    last = made["eval_last"]
    data = replace(last.evaluation.data, source="org/other", subset="hard")  # type: ignore[attr-defined]
    other = replace(last, evaluation=replace(last.evaluation, data=data))  # type: ignore[attr-defined, call-arg]
    made = replace(made, stages=tuple(other if s is last else s for s in made.stages))
    page = recipe_page(read_recipe(write_recipe(made)))
    assert [(r.data, len(r.rows)) for r in page.results] == [("org/held-out", 3), ("org/other, hard, test", 1)]


def test_each_stage_that_trains_has_its_curves_and_each_rejection_its_yield(page: RecipePage) -> None:
    assert [s.name for s in page.stages] == ["cold", "zero", "picks", "mixed", "last"]
    stages = {s.name: s for s in page.stages}
    assert [c.title for c in stages["cold"].charts] == ["Loss", "Gradient norm", "Learning rate"]
    assert stages["cold"].points["sft:nll"].y == [2.0, 1.5, 1.0]
    zero = stages["zero"]
    assert [c.title for c in zero.charts] == ["Accuracy", "Mean reward", "Length", "Entropy", "Loss"]
    assert {"grpo:reward/mean", "grpo:entropy", "grpo:loss", "eval:pass@1"} <= zero.points.keys()
    assert "KL" in [c.title for section in zero.more for c in section.charts]
    assert stages["picks"].counted == {
        "prompts": 6, "prompts_with_a_sample": 3, "samples": 12, "by_reason": {"not correct": 9, "kept": 3},
    }  # fmt: skip
    assert stages["mixed"].counted["rows"] == 9  # type: ignore[index, call-overload]


def test_a_reward_model_has_its_curves_and_its_pairs_their_fates(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.touch()
    stages = (
        Prefer("pairs", PreferConfig(samples=(str(samples),), function="recipes.r1_preferences:right_greeting")),
        RewardTraining("helpful", "org/base", RewardTrainConfig(steps=3, data=DataConfig(source="@pairs"))),
    )
    made = Recipe("preferences", RunConfig(track=TrackConfig(wandb="off")), stages, out=str(tmp_path))
    page = recipe_page(read_recipe(write_recipe(made)))
    pairs, helpful = page.stages
    assert pairs.counted["by_fate"] == {"kept": 5, "tie": 4}  # type: ignore[index, call-overload]
    assert [c.title for c in helpful.charts] == ["Accuracy", "Loss", "Margin", "Gradient norm", "Learning rate"]
    assert helpful.points["reward:accuracy"].y == [0.6, 0.7, 0.8]
    assert helpful.points["eval:accuracy"].y == [0.5, 0.75, 1.0]
    assert helpful.points["eval:accuracy/stderr"].y == [0.1] * 3
    assert ("Steps", "3") in [(f.label, f.value) for f in helpful.facts]


def test_the_provenance_is_that_of_the_last_model(recipe: Recipe, page: RecipePage) -> None:
    assert page.model == "last"
    assert page.provenance == json.loads((folders(recipe)["last"] / "provenance.json").read_text())
    assert [r["name"] for r in page.provenance["chain"]] == ["cold", "zero", "picks", "mixed"]  # type: ignore[index, call-overload]


# ------------------------------------------------------------------------------------------------ while it runs


def test_a_recipe_under_way_shows_what_is_done_begun_and_not_yet_run(tmp_path: Path) -> None:
    made = made_up(tmp_path / "r")
    write_recipe(made, done=3)
    work(made, 3, folders(made)["picks"])
    (folders(made)["picks"] / "yield.json").unlink()
    page = recipe_page(read_recipe(made.folder))
    assert [s.state for s in page.chain] == ["done"] * 3 + ["begun"] + ["new"] * 4
    assert (page.finished, page.facts[0].value, page.model) == (False, "3 of 8", "zero")
    assert (page.claims[0].rows, [c.text for c in page.claims[0].claimed]) == (None, [HELD, BROKEN])
    picks = page.stages[-1]
    assert (picks.name, picks.counted, picks.kept_share) == ("picks", None, 0.25)
    assert [(s.seconds is None) for s in page.chain][3:] == [False, True, True, True, True]


def test_a_recipe_of_which_nothing_has_begun_has_a_page(tmp_path: Path) -> None:
    made = made_up(tmp_path / "r")
    made.folder.mkdir()
    (made.folder / "recipe.json").write_text(recipe_to_json(made))
    shown = page_of(write_report([made.folder]))[1]
    assert (shown["stages"], shown["results"], shown["provenance"]) == ([], [], None)
    assert {s["state"] for s in shown["chain"]} == {"new"}


def test_folders_of_another_version_of_the_recipe_are_named_and_left_out(tmp_path: Path) -> None:
    old = made_up(tmp_path / "r")
    write_recipe(old)
    new = made_up(tmp_path / "r", clip_high=0.3)
    write_recipe(new, done=1)  # zero was begun again; what follows from it has its old folder only
    page = recipe_page(read_recipe(new.folder))
    assert [s.state for s in page.chain] == ["done", "begun"] + ["new"] * 6
    gone = {path.name for name, path in folders(old).items() if name != "cold"}
    assert set(page.left_out) == gone
    work(new, 1, begin(new, 1))
    end(new, 1, folders(new)["zero"])
    assert recipe_page(read_recipe(new.folder)).chain[1].state == "done"
    (new.folder / "recipe.json").write_text(recipe_to_json(old))  # and back: the old folders count again
    assert {s.state for s in recipe_page(read_recipe(new.folder)).chain} == {"done"}


# ------------------------------------------------------------------------------------------------ the file


def test_the_page_is_one_small_inert_file(recipe: Recipe) -> None:
    path = write_report([recipe.folder])
    found, shown = page_of(path)
    assert path == recipe.folder / "report.html"
    assert [tag for tag, _ in found.tags if tag in ("script", "img", "link", "iframe")] == ["script", "script"]
    assert BROKEN in json.dumps(shown)  # the claim's "</script>" ended nothing
    assert all((a.get("href") or "#").startswith("#") for _, a in found.tags)
    addresses = re.findall(r"https?://[^\s\"'`]+", found.inside["script"][1] + found.inside["style"][0])
    assert addresses == ["http://www.w3.org/2000/svg"]
    assert path.stat().st_size < MOST_BYTES / 20


def test_a_page_that_is_too_large_has_fewer_points_and_at_last_is_refused(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = shutil.copytree(recipe.folder, tmp_path / "long")
    (zero,) = long.glob("*-zero-*")
    line = json.loads((zero / "metrics.jsonl").read_text().splitlines()[-1])
    steps = [line | {"stage": "grpo", "step": step, "entropy": step / 7} for step in range(100, 900)]
    with (zero / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(step) + "\n" for step in steps)
    whole = write_report([long], tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr("launch.report.html.MOST_BYTES", whole - 500)  # the time of writing may have fewer digits
    _, shown = page_of(write_report([long], tmp_path / "less.html"))
    (points,) = [s["points"]["grpo:entropy"] for s in shown["stages"] if s["name"] == "zero"]
    assert 150 < len(points["x"]) <= 300
    monkeypatch.setattr("launch.report.html.MOST_BYTES", 1000)
    with pytest.raises(AhaError, match=r"would take .* bytes with 20 points a curve"):
        write_report([long], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_recipe_does_not_stand_beside_another(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a recipe of several stages has a page of its own"):
        write_report([write_run(tmp_path / "run", steps=2, summary=False), recipe.folder])


@pytest.mark.parametrize(
    "text", ["{", '{"name": "x"}', '{"name": "x", "out": "", "base": {}, "stages": [{"kind": "New"}]}']
)
def test_a_recipe_file_that_holds_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(BadInput, match=r"recipe.json: holds no recipe \("):
        write_report([tmp_path])


# ------------------------------------------------------------------------------------------------ beside a run


def rows(sources: dict[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    return [{"prompt": "1?", "answer": "1"}]


def two_builds(out: Path) -> Recipe:
    function = "tests.unit.test_report_recipe:rows"
    return Recipe("builds", RunConfig(), (Build("one", function), Build("two", function, ("@one",))), out=str(out))


def no_machines(cfg: RunConfig):  # type: ignore[no-untyped-def]
    raise AssertionError("a dataset needs no machines")


def test_a_recipe_reports_after_every_stage(tmp_path: Path) -> None:
    states: list[list[str]] = []

    def progressed(folder: Path) -> None:
        states.append([s.state for s in read_recipe(folder).stages])

    run(two_builds(tmp_path), no_machines, no_machines, progressed=progressed)
    assert states == [["done", "new"], ["done", "done"]]


def test_the_report_is_written_beside_the_run_and_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = Reports()
    recipe = two_builds(tmp_path)
    run(recipe, no_machines, no_machines, progressed=reports)
    reports.wait()
    assert page_of(recipe.folder / "report.html")[1]["finished"] is True
    (recipe.folder / "report.html").unlink()
    reports.finish(recipe.folder)
    assert (recipe.folder / "report.html").exists()
    assert f"The report: {recipe.folder / 'report.html'}" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_said_once_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = two_builds(tmp_path)
    (recipe.folder / "report.html").mkdir(parents=True)
    reports = Reports()
    with caplog.at_level(logging.WARNING, logger="launch.report.background"):
        run(recipe, no_machines, no_machines, progressed=reports)
        reports.finish(recipe.folder)
    (said,) = [r.getMessage() for r in caplog.records if r.name == "launch.report.background"]
    assert said.startswith(f"no report of {recipe.folder} was written (")
    assert "Is a directory" in said
    assert "The report" not in capsys.readouterr().out
    assert [s.state for s in read_recipe(recipe.folder).stages] == ["done", "done"]
