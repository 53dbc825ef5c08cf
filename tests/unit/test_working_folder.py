"""launch/working_folder.py: modules of the folder where aha is run, and what their names may not be."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.recipes import load
from launch.working_folder import LIBRARIES, OURS
from rl.config import RunConfig
from rl.data.content_hash import path_hash
from rl.data.rows import python_function
from rl.scoring.reward_functions import resolve
from rl.settings.overrides import apply_overrides, to_json
from rl.types import BadInput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the user's with a recipe in it."""
    shutil.copy(ROOT / "recipes" / "tiny.py", tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


@pytest.mark.parametrize("name", [*OURS, *LIBRARIES])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_a_module_that_takes_a_packages_place_is_refused_by_name(here: Path, name: str, form: str) -> None:
    file = here / form.format(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    shown = file.parent if file.name == "__init__.py" else file
    with pytest.raises(BadInput, match=rf"{shown}: in the folder where aha runs, .* {name}; rename it"):
        load("mine.py")
    assert str(here) not in sys.path


def test_an_evaluation_refuses_it_too(here: Path) -> None:
    (here / "rewards.py").write_text("")
    failed = CliRunner().invoke(app, ["eval", "no-such-model"])
    assert isinstance(failed.exception, BadInput)
    assert "takes the place of Aha's own package rewards" in str(failed.exception)


@pytest.mark.parametrize("name", ["recipes", "rl", "launch", "rewards", "datasets", "wandb"])
def test_a_folder_that_is_no_package_may_have_any_name(here: Path, name: str) -> None:
    (here / name).mkdir()
    (here / name / "notes.py").write_text("")
    assert isinstance(load("mine.py"), RunConfig)


def test_the_checkout_of_aha_is_a_working_folder_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert isinstance(load("recipes/tiny.py"), RunConfig)


def test_a_syntax_error_in_ones_own_module_is_one_line_with_its_place(here: Path) -> None:
    broken = here / "mine_and_broken.py"
    broken.write_text("def grade(completion):\n    return 1.0 +\n")
    load("mine.py")
    for read in (resolve, python_function):
        with pytest.raises(
            BadInput, match=r"cannot import mine_and_broken: invalid syntax \(mine_and_broken.py, line 2\)"
        ):
            read("mine_and_broken:grade")
    with pytest.raises(BadInput, match=rf"{broken} line 2: invalid syntax"):
        path_hash("mine_and_broken:grade")
    with pytest.raises(BadInput, match=r"mine_and_broken.py line 2: invalid syntax"):
        load("mine_and_broken.py")


def test_a_file_that_a_run_wrote_finds_modules_of_the_working_folder(here: Path) -> None:
    (here / "made_here_alone.py").write_text("def rows():\n    return []\n")
    cfg = apply_overrides(load("mine.py"), ["prompts.source=made_here_alone:rows"])  # type: ignore[type-var]
    sys.path.remove(str(here))
    (here / "resolved.json").write_text(to_json(cfg))  # type: ignore[arg-type]
    again = load("resolved.json")
    assert python_function(again.prompts.source)() == []  # type: ignore[union-attr]
