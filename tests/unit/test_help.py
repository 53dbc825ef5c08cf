"""Help that answers at once, a recipe's settings behind it, and what the TAB key brings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from launch.cli import app
from launch.completion import complete_recipe, complete_setting
from launch.recipe_help import settings_of
from launch.recipes import load, parameters
from rl.types import BadInput

ROOT = Path(__file__).parents[2]
SLOW_TO_LOAD = ("numpy", "pandas", "rich", "rl.config", "rl.recipe", "torch")
WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}


@pytest.fixture
def recipes(tmp_path, monkeypatch) -> Path:
    """A working folder with recipes/small.py (and a module that is none), my.py and a run's resolved.json."""
    text = (
        "from rl.config import ModelConfig, RewardConfig, RunConfig\n\n\n"
        "def recipe(size: str = 'big') -> RunConfig:\n"
        "    return RunConfig(model=ModelConfig(path=size), rewards=(RewardConfig('accuracy'),))\n"
    )
    for name, content in (("recipes/small.py", text), ("recipes/tasks.py", "x = 1\n"), ("runs/a/resolved.json", "{}")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_answers_before_anything_slow_is_loaded():
    code = (
        "import json, sys\nfrom launch import cli\n"
        "try:\n    cli.app(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(json.dumps([m for m in {SLOW_TO_LOAD!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "completion" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_help_behind_a_recipe_lists_its_settings_with_their_values_and_meanings(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["run", "recipes/quickstart.py", "grpo.steps=77", "--help"], env=WIDE)
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in result.output.splitlines() if line.strip()}
    assert lines["grpo.steps"] == "77 Rollout steps."
    assert lines["model.path"].startswith("models/SmolLM2-135M-Instruct Hugging Face id")
    assert "--check" in lines  # the command's own help is there too


def test_help_without_a_recipe_is_the_commands_own():
    result = CliRunner().invoke(app, ["run", "--help"], env=WIDE)
    assert result.exit_code == 0, result.output
    assert "--check" in result.output
    assert "grpo.steps " not in result.output


def test_help_behind_a_recipe_that_is_not_there_names_it():
    result = CliRunner().invoke(app, ["run", "nowhere.py", "--help"])
    assert isinstance(result.exception, BadInput)
    assert "nowhere.py: no such recipe" in str(result.exception)


def test_every_recipe_explains_every_setting(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted(Path("recipes").glob("*.py")):
        if "\ndef recipe(" in path.read_text():
            rows = settings_of(str(path), load(str(path)))
            assert len(rows) > 50
            assert [key for key, _, text in rows if not text.strip()] == []


def test_a_recipes_parameters_are_settings_too(recipes):
    assert parameters("mine.py") == {"size": "big"}
    assert settings_of("mine.py", load("mine.py"))[0][:2] == ("size", "big")


# ------------------------------------------------------------------------------------------------ completion


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ["mine.py", "recipes/small.py", "recipes/", "runs/"]),
        ("m", ["mine.py"]),
        ("r", ["recipes/small.py", "recipes/", "runs/"]),
        ("recipes/", ["recipes/small.py"]),
        ("recipes/t", []),
        ("runs/a/", ["runs/a/resolved.json"]),
        ("nowhere/", []),
    ],
)
def test_recipes_are_completed_and_folders_to_go_on_in(recipes, typed, expected):
    assert complete_recipe(typed) == expected


def setting_names(recipe: str | None, incomplete: str) -> list[str]:
    ctx = typer.Context(typer.main.get_command(app))
    ctx.params["recipe"] = recipe
    return [key for key, _ in complete_setting(ctx, incomplete)]


def test_settings_are_completed_by_the_recipe(recipes, monkeypatch):
    assert setting_names("mine.py", "si") == ["size="]
    assert setting_names(None, "grpo.clip") == ["grpo.clip_low=", "grpo.clip_high="]
    monkeypatch.chdir(ROOT)
    assert setting_names("recipes/r1_mini.py", "zero.grpo.clip_l") == ["zero.grpo.clip_low="]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "recipes/qui"], ["recipes/quickstart.py"]),
        (["plan", "recipes/tiny.py", "grpo.steps", "=", "3", "grpo.std"], ["compopt -o nospace", "grpo.std_eps="]),
    ],
)
def test_bash_completes_with_the_script_that_is_printed(words, expected):
    program = 'import sys; from launch.cli import main; sys.argv[0] = "aha"; main()'
    script = (
        f"aha() {{ '{sys.executable}' -c '{program}' \"$@\"; }}\n"
        'eval "$(aha completion bash)"\ncompopt() { printf "compopt %s %s\\n" "$@"; }\n'
        'COMP_WORDS=(aha "$@"); COMP_CWORD=$#; _aha aha\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, "", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected
