"""A folder with finished steps, asked for other numbers of them: fewer are refused, and what changes is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from recipes.tiny import recipe as tiny
from rl.algorithms.learning_rate import learning_rate
from rl.config import CheckpointConfig, DataConfig, OptimConfig, RewardTrainConfig, RunConfig
from rl.data import content_hash
from rl.evaluation.evaluate import eval_path
from rl.evaluation.result import EvalResult
from rl.recipe import RewardTraining
from rl.records.checkpoint import CheckpointMeta, CheckpointStore
from rl.records.whole_files import write_json, write_whole
from rl.settings.overrides import apply_overrides, to_json
from rl.stages.reward_model import HeldOut, held_out_path
from rl.stages.sft import train_sft
from rl.types import BadInput, Stopped
from rl.workflow.changed_steps import changed_rate, finished_steps, missing_evaluations
from rl.workflow.one_folder import OneFolder
from rl.workflow.plan import DONE, NEW, RESUMES
from rl.workflow.stage_folders import StageFolders
from tests.unit.recipe_runs import folders, made_up, write_recipe
from tests.unit.test_sft_stage import Learners, context, stream

COSINE = OptimConfig(lr=1e-4, schedule="cosine")


def begun(folder: Path, *, steps: int, saved: int, finished: bool, **grpo: object) -> RunConfig:
    """The settings of a run whose folder holds `saved` of `steps` steps, and its summary if it is finished."""
    base = tiny()
    cfg = dataclasses.replace(base, out=str(folder), grpo=dataclasses.replace(base.grpo, steps=steps, **grpo))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    if saved:
        checkpoint(cfg.run_dir, "grpo", saved)
    if finished:
        write_json(cfg.run_dir / "summary.json", {"steps": steps})
    return cfg


def checkpoint(run_dir: Path, stage: str, step: int) -> None:
    store = CheckpointStore(run_dir / "checkpoints" / stage, 2)
    store.commit(store.begin(step), CheckpointMeta(step, {}, "x", 1, 1, None, {}))


# ------------------------------------------------------------------------------------------------ fewer


@pytest.mark.parametrize("kept", [True, False], ids=["with checkpoints", "with its summary alone"])
def test_a_finished_run_is_not_asked_for_fewer_steps(tmp_path: Path, kept: bool) -> None:
    cfg = begun(tmp_path, steps=4, saved=4 * kept, finished=True)
    assert OneFolder(cfg).plan()[-1].state == DONE
    said = rf"{cfg.run_dir} holds 4 finished grpo steps, and the settings ask for 2; .* or use another name="
    for steps in ("2", "0"):
        with pytest.raises(BadInput, match=said.replace("for 2", f"for {steps}")):
            OneFolder(apply_overrides(cfg, [f"grpo.steps={steps}"])).plan()


def test_an_unfinished_run_is_not_asked_for_fewer_steps_than_its_checkpoint_has(tmp_path: Path) -> None:
    cfg = begun(tmp_path, steps=10, saved=4, finished=False)
    with pytest.raises(BadInput, match="holds 4 finished grpo steps, and the settings ask for 3"):
        OneFolder(apply_overrides(cfg, ["grpo.steps=3"])).plan()
    for steps in (4, 6, 12):
        assert OneFolder(apply_overrides(cfg, [f"grpo.steps={steps}"])).plan()[-1].state == RESUMES


def test_a_run_that_went_on_beyond_its_summary_is_not_shown_as_the_shorter_one(tmp_path: Path) -> None:
    cfg = begun(tmp_path, steps=4, saved=4, finished=True)
    checkpoint(cfg.run_dir, "grpo", 6)
    with pytest.raises(BadInput, match="holds 6 finished grpo steps, and the settings ask for 4"):
        OneFolder(cfg).plan()


def test_a_stage_that_resumes_is_not_asked_for_fewer_steps_either(tokenizer, tmp_path: Path) -> None:
    """Two epochs, of which three steps are done, and then half of the rows are taken away."""
    learners = Learners()
    ctx = context(tmp_path, tokenizer, learners, epochs=2.0)
    ctx.stop.requested = True
    ctx.cfg = dataclasses.replace(ctx.cfg, checkpoint=CheckpointConfig(every=3))
    done = 0
    while done < 3:
        with pytest.raises(Stopped):
            train_sft(ctx, "model", stream(tokenizer))
        done += 1
    with pytest.raises(BadInput, match="holds 3 finished sft steps, and the settings ask for 2"):
        train_sft(ctx, "model", stream(tokenizer, rows=4))
    assert not (ctx.run_dir / "sft").exists()


def test_fewer_steps_of_a_recipes_stage_are_another_folder(tmp_path: Path) -> None:
    longer, shorter = made_up(tmp_path), made_up(tmp_path)
    write_recipe(longer)
    stages = tuple(
        dataclasses.replace(s, grpo=dataclasses.replace(s.grpo, steps=2)) if s.name == "zero" else s
        for s in shorter.stages
    )
    planned = {p.stage.name: p for p in StageFolders(dataclasses.replace(shorter, stages=stages)).plan()}
    assert planned["zero"].state == NEW
    assert planned["zero"].because == ("grpo.steps: 12 -> 2",)
    assert not planned["zero"].folder.exists()
    assert planned["cold"].state == DONE


# ------------------------------------------------------------------------------------------------ none


def test_no_grpo_steps_mean_sft_alone_and_are_told_to_evaluate_nothing(tmp_path: Path) -> None:
    cfg = apply_overrides(tiny(), [f"out={tmp_path}", "grpo.steps=0"])
    layout = OneFolder(cfg)
    assert [(p.stage.name, p.state, p.model_folder.name) for p in layout.plan()] == [("sft", NEW, "sft")]
    assert f"nothing is evaluated; aha eval {cfg.run_dir / 'sft'} does that" in layout.describe(layout.plan())
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    (cfg.run_dir / "sft").mkdir()
    assert [p.state for p in layout.plan()] == [RESUMES]  # killed before its summary
    write_json(cfg.run_dir / "summary.json", {"steps": 0})
    assert [p.state for p in layout.plan()] == [DONE]
    longer = OneFolder(apply_overrides(cfg, ["grpo.steps=4"]))
    assert [(p.stage.name, p.state) for p in longer.plan()] == [("sft", DONE), ("grpo", RESUMES)]
    with pytest.raises(BadInput, match=r"grpo\.steps=0, and no SFT: there is nothing to run"):
        OneFolder(apply_overrides(cfg, ["sft.steps=0", "name=other"])).plan()


# ------------------------------------------------------------------------------------------------ the rate


def test_more_steps_on_a_decaying_schedule_say_what_the_rate_does(tmp_path: Path, capsys) -> None:
    cfg = begun(tmp_path, steps=4, saved=4, finished=True, optim=COSINE)
    more = OneFolder(apply_overrides(cfg, ["grpo.steps=8"]))
    # The last of 4 updates: a tenth. The fifth of 8: 0.1 + 0.9 * (1 + cos(4/7 pi)) / 2 = 0.449...
    said = (
        "grpo.steps was 4 and is 8, and grpo.optim.schedule=cosine spans all steps: the learning rate of step 4 was "
        "1e-05, that of step 5 is 4.5e-05, and it ends at 1e-05"
    )
    assert said in more.describe(more.plan())
    assert said in more.check_passed()
    assert more.begin(more.plan())
    assert said in capsys.readouterr().out


def test_a_run_that_ends_early_says_where_its_rate_stays(tmp_path: Path) -> None:
    cfg = begun(tmp_path, steps=10, saved=4, finished=False, optim=dataclasses.replace(COSINE, schedule="linear"))
    early = OneFolder(apply_overrides(cfg, ["grpo.steps=4"]))
    # The fourth of 10 updates: 0.1 + 0.9 * 6/9 = 0.7
    assert "of step 4 was 7e-05, and no step follows in which it would fall to 1e-05" in early.describe(early.plan())


@pytest.mark.parametrize(
    ("settings", "steps", "done"),
    [({"optim": OptimConfig(lr=1e-4)}, 8, 4), ({"optim": COSINE}, 4, 2), ({"optim": COSINE}, 8, 0)],
    ids=["a constant rate", "the same steps", "nothing done"],
)
def test_where_the_rate_stays_as_it_was_nothing_is_said(
    settings: dict[str, OptimConfig], steps: int, done: int
) -> None:
    was = dataclasses.replace(tiny().grpo, steps=4, **settings)
    assert changed_rate(was, dataclasses.replace(was, steps=steps), done) == ""


def test_the_rate_that_is_told_counts_updates_and_not_steps() -> None:
    was = dataclasses.replace(tiny().grpo, steps=4, updates_per_step=2, optim=COSINE)
    told = changed_rate(was, dataclasses.replace(was, steps=8), 4)
    assert f"that of step 5 is {learning_rate(COSINE, 8, 16):.2g}," in told


def test_steps_whose_checkpoints_are_gone_are_told(tmp_path: Path) -> None:
    cfg = begun(tmp_path, steps=4, saved=0, finished=True, optim=COSINE)
    more = OneFolder(apply_overrides(cfg, ["grpo.steps=8"]))
    assert "the checkpoints of its 4 finished steps are gone: GRPO begins again with step 1" in more.describe(
        more.plan()
    )


# ------------------------------------------------------------------------------------------------ evaluations


def evaluated(folder: Path, *steps: int) -> None:
    for step in steps:
        EvalResult(0.5, 0.1, None, 0.0, 4.0, [0.5]).write(eval_path(folder, step))


@pytest.mark.parametrize("finished", [True, False])
def test_evaluations_asked_for_after_the_fact_are_told(tmp_path: Path, finished: bool) -> None:
    cfg = begun(tmp_path, steps=4 if finished else 8, saved=4, finished=finished)
    evaluated(cfg.run_dir, 0, 4)
    often = OneFolder(apply_overrides(cfg, ["evaluation.every=1"]))
    said = "evaluation.every=1 asks for evaluations after steps 1, 2 and 3 too, but steps that are done are not"
    assert said in often.describe(often.plan())
    seldom = OneFolder(apply_overrides(cfg, ["evaluation.every=4"]))
    assert "evaluation.every" not in seldom.describe(seldom.plan())


def test_evaluation_losses_asked_for_after_the_fact_are_told_too(tmp_path: Path) -> None:
    base = dataclasses.replace(tiny(), out=str(tmp_path))
    cfg = dataclasses.replace(base, sft=dataclasses.replace(base.sft, eval_data=base.sft.data))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    often = OneFolder(apply_overrides(cfg, ["sft.eval_every=2"]))
    assert "sft.eval_every" not in often.describe(often.plan())
    checkpoint(cfg.run_dir, "sft", 3)
    assert "sft.eval_every was 0 and is 2; it counts for SFT steps still to come" in often.describe(often.plan())


def test_evaluations_asked_of_a_done_stage_are_told_and_the_stage_is_kept(tmp_path: Path) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    evaluated(folders(recipe)["zero"], *range(0, 13, 4))
    stages = tuple(
        dataclasses.replace(s, evaluation=dataclasses.replace(s.evaluation, every=2)) if s.name == "zero" else s
        for s in recipe.stages
    )
    layout = StageFolders(dataclasses.replace(recipe, stages=stages))
    planned = layout.plan()
    assert {p.state for p in planned} == {DONE}
    assert "evaluation.every=2 asks for evaluations after steps 2 and 10 too" in layout.describe(planned)


def test_the_held_out_accuracies_of_a_reward_model_count_alike(tmp_path: Path) -> None:
    """Its steps depend on the rows, so the last measured one says how many there were."""
    for step in (0, 6):
        HeldOut(0.75, 0.1, 0.2, 0.3, 12).write(held_out_path(tmp_path, step))
    stage = RewardTraining("judge", "m", RewardTrainConfig(data=DataConfig(source="x"), eval_every=3))
    assert finished_steps(stage, tmp_path, is_done=True) == 6
    nine = dataclasses.replace(stage, reward=dataclasses.replace(stage.reward, steps=9))
    assert finished_steps(nine, tmp_path, is_done=True) == 9
    assert "reward.eval_every=3 asks for evaluations after step 3 too" in missing_evaluations(stage, tmp_path, 6)
    checkpoint(tmp_path, "reward", 2)
    assert finished_steps(stage, tmp_path, is_done=False) == 2
    assert missing_evaluations(stage, tmp_path, 2) == ""


def test_of_many_steps_some_are_named(tmp_path: Path) -> None:
    stage = RewardTraining("judge", "m", RewardTrainConfig(data=DataConfig(source="x"), eval_every=1))
    assert "after steps 1, 2, 3, ... 40 too" in missing_evaluations(stage, tmp_path, 40)


# ------------------------------------------------------------------------------------------------ rewards


def test_rewards_whose_code_has_changed_since_are_told_and_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    cfg = begun(tmp_path, steps=8, saved=4, finished=False)
    layout = OneFolder(cfg)
    assert "the version of the code of accuracy, format that it used so far is unknown" in layout.describe(
        layout.plan()
    )
    layout.begun(layout.plan()[-1])
    assert "the code of" not in layout.describe(layout.plan())
    real = content_hash.file_hash
    monkeypatch.setattr(content_hash, "file_hash", lambda path: "x" if path.name == "accuracy.py" else real(path))
    said = "the code of the reward accuracy has changed since: what is done was scored by the older one"
    assert said in layout.describe(layout.plan())
    assert layout.plan()[-1].state == RESUMES


def test_a_run_without_a_finished_step_has_nothing_to_tell_of_its_rewards(tmp_path: Path) -> None:
    layout = OneFolder(begun(tmp_path, steps=8, saved=0, finished=False))
    assert "the code of" not in layout.describe(layout.plan())
