"""Every result file is written whole or not at all, and one that a kill or a disk damaged is named, not a traceback."""

from __future__ import annotations

import ast
import dataclasses
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from launch.machine import settled
from recipes.tiny import recipe as tiny
from rl.evaluation.evaluate import ensure_evaluated, eval_path, read_evaluation
from rl.evaluation.result import EvalResult
from rl.records import provenance
from rl.records.folder_lock import held
from rl.records.metrics_file import read_metrics
from rl.records.whole_files import append_lines, read_json, whole, whole_lines, write_json, write_rows, write_whole
from rl.settings.overrides import to_json
from rl.stages.compare import compare
from rl.stages.reward_model import HeldOut
from rl.types import BadInput
from rl.workflow.one_folder import OneFolder
from rl.workflow.plan import DONE, RESUMES
from rl.workflow.stage_folders import StageFolders
from tests.unit.recipe_runs import folders, made_up, tracker, write_recipe

ROOT = Path(__file__).resolve().parents[2]

# ------------------------------------------------------------------------------------------------ who writes files

WRITERS = {
    "write_text", "write_bytes", "savefig", "save_pretrained", "write_table", "to_parquet", "to_csv", "to_json",
    "save", "savez", "save_file", "dump", "copyfile", "copyfileobj", "copy", "copy2",
}  # fmt: skip
"""Names of calls that write a file. Those that also mean something else count for the modules in MODULES alone."""
AMBIGUOUS = {"save", "dump", "copy", "to_json"}
MODULES = {"torch", "np", "json", "pickle", "shutil", "frame"}
WHOLE_FILES = "rl/records/whole_files.py"
BY_A_TEMPORARY_PATH = {
    "rl/records/rollout_files.py:write_rollouts",
    "launch/report/compute_figure.py:draw_compute",
    "launch/report/curve_figure.py:draw_curve",
    "launch/report/emergence_figure.py:draw_emergence",
}
"""What a library writes, to the path that whole() yields."""
INTO_A_FOLDER_RENAMED_WHEN_WHOLE = {
    "rl/export/folder.py:export_folder",
    "rl/export/folder.py:_copy",
    "rl/export/folder.py:_write_chat_template",
    "rl/export/folder.py:_write_generation_config",
    "rl/model/added_tokens.py:_write",
    "rl/model/older_names.py:_write",
    "rl/model/older_names.py:complete",
    "rl/model/writer.py:_flush",
    "rl/model/writer.py:close",
    "rl/workers/learner/deepspeed_engine.py:save",
    "recipes/bases.py:_changed",
    "recipes/tiny_model.py:_once",
    "launch/fetch_model.py:convert",
}
"""Models and checkpoints: many files, which nobody looks for before their folder has its name."""
NO_RESULTS = {
    "launch/doctor/durability.py:flipped_byte_found",  # damages a checkpoint of the doctor's own on purpose
    "launch/fetch_model.py:fetch",  # the other places write into a temporary folder or a pipe
    "launch/plan/trial.py:_run_ranks",
    "launch/plan/trial_rank.py:main",
    "launch/plan/trial_rank.py:write_model",
    "rewards/code_agent.py:_fork",
    "rewards/code_agent.py:_prepare",
    "rewards/sandbox.py:_memory_file",
}


def file_writes(path: str, source: str) -> Iterator[str]:
    """ "path:function" of each call that writes a file by itself, and "path:" outside of functions."""

    def visit(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and writes_a_file(node):
            yield f"{path}:{function}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def writes_a_file(call: ast.Call) -> bool:
    """Whether the call writes a file: by its name, or as open(...) in a mode that is not for reading alone."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    if name == "open":
        modes = [k.value for k in call.keywords if k.arg == "mode"] or call.args[-1:]
        return any(
            isinstance(m, ast.Constant) and set(str(m.value)) & set("wxa+") and len(str(m.value)) < 4 for m in modes
        )
    if name in AMBIGUOUS:
        return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in MODULES
    return name in WRITERS


def found() -> set[str]:
    files = [path for top in ("rl", "launch", "recipes", "rewards") for path in sorted((ROOT / top).rglob("*.py"))]
    names = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    return {place for path, text in names.items() if path != WHOLE_FILES for place in file_writes(path, text)}


def test_result_files_are_written_by_one_module() -> None:
    assert found() == BY_A_TEMPORARY_PATH | INTO_A_FOLDER_RENAMED_WHEN_WHOLE | NO_RESULTS


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')", "(folder / 'a.json').write_bytes(b'x')", "open(path, 'w')", "open(path, mode='ab')",
        "path.open('x', encoding='utf-8')", "path.open(mode='r+')", "json.dump(value, file)", "torch.save(state, path)",
        "np.save(path, array)", "shutil.copyfile(a, b)", "figure.savefig(path)", "pq.write_table(table, path)",
    ],
)  # fmt: skip
def test_a_write_past_that_module_is_found(line: str) -> None:
    assert list(file_writes("rl/x.py", f"def f():\n    {line}\n")) == ["rl/x.py:f"]


@pytest.mark.parametrize(
    "line", ["open(path)", "path.open('rb')", "open(path, encoding='utf-8')", "ctx.save(1)", "x.copy()"]
)
def test_what_only_reads_is_not_found(line: str) -> None:
    assert list(file_writes("rl/x.py", line)) == []


# ------------------------------------------------------------------------------------------------ whole or not at all


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(IsADirectoryError), whole(path) as temporary:
        (temporary.write_text("half"), tmp_path.read_text())
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    assert read_json(path, dict) == {"a": 1}


def _write_for_ever(path: Path) -> None:
    for i in range(10**9):
        write_whole(path, str(i % 10) * 1_000_000)


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for _ in range(5):
        victim = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
        victim.start()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.05)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        text = path.read_text()
        assert len(text) == 1_000_000
        assert set(text) == {text[0]}
        path.unlink()


def test_lone_surrogates_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [{"text": "a \ud83d b", "other": "é"}]
    write_rows(tmp_path / "a.jsonl", rows)
    assert list(whole_lines(tmp_path / "a.jsonl")) == rows


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_lines(path, [{"a": 1}, {"a": 2}])
    path.write_text(path.read_text().replace('{"a": 2}', '{"a": 2') + '{"a": 3}\n{"a"')
    with pytest.raises(BadInput, match=r"a.jsonl line 2 is damaged .* delete that line"):
        list(whole_lines(path))


# ------------------------------------------------------------------------------------------------ damaged files of a recipe


CUT = ["", "{", '{"half": [1, 2', "\0\0\0\0", "[]", "null", '"text"', "\udcff"]


@pytest.mark.parametrize("text", CUT)
def test_a_damaged_provenance_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    broken = folders(recipe)["zero"] / provenance.FILE
    broken.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=r"zero-\w+/provenance.json is damaged .* delete it, and the same command runs"):
        StageFolders(recipe).plan()
    with pytest.raises(BadInput, match=r"provenance.json is damaged"):
        provenance.read(broken.parent)
    broken.unlink()
    states = {p.stage.name: p.state for p in StageFolders(recipe).plan()}
    assert {name for name, state in states.items() if state != DONE} == {"zero"}
    assert states["zero"] == RESUMES


@pytest.mark.parametrize("text", CUT)
def test_a_damaged_stage_file_is_named_and_read_from_its_provenance(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    broken = folders(recipe)["zero"] / "stage.json"
    broken.write_bytes(text.encode(errors="surrogateescape"))
    assert {p.state for p in StageFolders(recipe).plan()} == {DONE}
    assert "zero" in caplog.text
    assert "stage.json is damaged" in caplog.text


@pytest.mark.parametrize("text", CUT)
def test_a_claim_about_a_damaged_evaluation_names_the_file(tmp_path: Path, text: str) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    where = folders(recipe)
    (where["eval_last"] / "evals" / "step_000000.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=r"eval_last-\w+/evals/step_000000.json is damaged .* runs that stage again"):
        compare(tmp_path, recipe["claims"].claims, where)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", CUT)
def test_damaged_held_out_numbers_of_a_reward_model_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "held_out" / "step_000004.json"
    HeldOut(0.75, 0.1, 0.2, 0.3, 12).write(path)
    assert HeldOut.read(path).accuracy == 0.75
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=r"held_out/step_000004.json is damaged"):
        HeldOut.read(path)


def test_what_is_counted_is_not_read_to_start(tmp_path: Path) -> None:
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    where = folders(recipe)
    broken = [where["picks"] / "yield.json", where["mixed"] / "manifest.json", where["claims"] / "claims.json"]
    for path in broken:
        assert path.is_file()
        path.write_text("{")
    assert {p.state for p in StageFolders(recipe).plan()} == {DONE}


# ------------------------------------------------------------------------------------------------ damaged files of a run


@pytest.mark.parametrize("text", [*CUT, '{"steps": "many"}'])
def test_a_run_with_a_damaged_summary_goes_on_and_makes_it_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = dataclasses.replace(tiny(), out=str(tmp_path))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    write_json(cfg.run_dir / "summary.json", {"steps": cfg.grpo.steps})
    assert OneFolder(cfg).plan()[-1].state == DONE
    (cfg.run_dir / "summary.json").write_bytes(text.encode(errors="surrogateescape"))
    assert OneFolder(cfg).plan()[-1].state == RESUMES
    assert "summary.json is damaged" in caplog.text
    assert "it is made again" in caplog.text


def test_the_summary_of_a_complete_run_whose_table_is_gone_can_still_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = dataclasses.replace(tiny(), out=str(tmp_path))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    write_json(cfg.run_dir / "summary.json", {"steps": cfg.grpo.steps})
    layout = OneFolder(cfg)
    assert not layout.begin(layout.plan())
    assert "summary.txt is gone" in capsys.readouterr().out


@pytest.mark.parametrize("text", CUT[:4])
def test_damaged_settings_of_a_run_are_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    cfg = dataclasses.replace(tiny(), out=str(tmp_path))
    write_whole(cfg.run_dir / "resolved.json", text)
    with pytest.raises(BadInput, match=r"resolved.json: .* delete this file"):
        OneFolder(cfg).plan()


@pytest.mark.parametrize("text", CUT)
def test_damaged_settings_stop_neither_the_choice_of_a_precision_nor_the_line_that_names_them(
    tmp_path: Path, text: str
) -> None:
    cfg = dataclasses.replace(tiny(), out=str(tmp_path))
    recipe = made_up(tmp_path / "staged")
    for file in (cfg.run_dir / "resolved.json", recipe.folder / "recipe.json"):
        write_whole(file, text.encode(errors="surrogateescape"))
    settled(recipe, ask_cluster=False)
    settled(cfg, ask_cluster=False)
    with pytest.raises(BadInput, match=r"resolved.json: .* delete this file"):
        OneFolder(cfg).plan()


def test_damaged_texts_that_only_people_read_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = dataclasses.replace(tiny(), out=str(tmp_path))
    write_whole(cfg.run_dir / "resolved.json", to_json(cfg))
    write_json(cfg.run_dir / "summary.json", {"steps": cfg.grpo.steps})
    write_whole(cfg.run_dir / "summary.txt", b"gain \xff")
    layout = OneFolder(cfg)
    assert not layout.begin(layout.plan())
    assert "gain \ufffd" in capsys.readouterr().out
    write_whole(cfg.run_dir / ".lock.holder", b"\xff")
    with FileLock(cfg.run_dir / ".lock"), pytest.raises(BadInput, match="another aha run"), held(cfg.run_dir):
        pass


class Evaluated:
    """As much of a run's context as reading an evaluation needs; measuring again gives `again`."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.tracker = folder, tracker(folder)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> EvalResult:
    result = EvalResult(0.5, 0.1, None, 0.0, 4.0, [0.5])

    def evaluate_once(ctx, step, prompts_P, scorer):  # type: ignore[no-untyped-def]
        ctx.tracker.step("eval", step, result.metrics())
        result.write(eval_path(ctx.run_dir, step))
        return result

    monkeypatch.setattr("rl.evaluation.evaluate.evaluate_once", evaluate_once)
    return result


@pytest.mark.parametrize("text", CUT)
def test_a_damaged_evaluation_is_measured_again_only_with_the_weights_that_it_is_of(
    tmp_path: Path, text: str, again: EvalResult, caplog: pytest.LogCaptureFixture
) -> None:
    ctx = Evaluated(tmp_path)
    ctx.tracker.step("eval", 4, {"pass@1": 0.25})
    path = eval_path(tmp_path, 4)
    EvalResult(0.25, math.nan, None, 0.0, 4.0, [0.25]).write(path)
    whole_file = path.read_bytes()
    assert ensure_evaluated(ctx, 4, ["a prompt"], None, 4).pass_at_1 == 0.25  # type: ignore[arg-type, union-attr]
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert read_evaluation(tmp_path, 4) is None
    assert "step_000004.json is damaged" in caplog.text
    assert ensure_evaluated(ctx, 4, ["a prompt"], None, 6) is None  # type: ignore[arg-type]
    assert "cannot be measured again: the weights have changed" in caplog.text
    assert path.read_bytes() != whole_file
    assert ensure_evaluated(ctx, 4, ["a prompt"], None, 4) == again  # type: ignore[arg-type]
    assert [(r["stage"], r["step"], r["pass@1"]) for r in read_metrics(tmp_path)] == [("eval", 4, 0.5)]
    assert EvalResult.read(path) == again
