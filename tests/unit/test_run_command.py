"""aha run: what --dry-run says of a recipe of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from rl.settings.overrides import from_json, to_json
from rl.workflow import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs; none is started."""

    def started(*arguments: object, **settings: object) -> None:
        raise AssertionError("the run was started")

    monkeypatch.setattr(run, "run", started)
    monkeypatch.chdir(ROOT)
    return tmp_path / "runs"


def dry(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["run", *arguments, "--dry-run"])
    assert result.exit_code == 0, repr(result.exception)
    return " ".join(result.output.split())


def test_a_dry_run_of_one_run_starts_nothing_and_says_what_would_be_done(out: Path) -> None:
    for name in ("r1_zero", "countdown", "dapo", "dr_grpo", "quickstart"):
        assert " is new: " in dry(f"recipes/{name}.py", f"out={out}")
    said = dry("recipes/quickstart.py", f"out={out}", "model.path=org/some", "name=small")
    assert said.startswith("model.dtype=auto is ")
    assert " small: org/some." in said
    assert "rollouts per step" in said
    assert f"{out}/small is new: nothing was run there" in said
    assert not out.exists()


def test_a_dry_run_tells_a_run_that_was_begun_from_one_that_is_complete(out: Path) -> None:
    settings = ["recipes/quickstart.py", f"out={out}"]
    folder = out / "quickstart"
    folder.mkdir(parents=True)
    from launch.recipes import load_run

    cfg = load_run("recipes/quickstart.py", [f"out={out}"])
    (folder / "resolved.json").write_text(to_json(cfg))
    assert f"{folder} was begun: the run goes on there" in dry(*settings)
    (folder / "summary.json").write_text(json.dumps({"steps": cfg.grpo.steps}))
    assert f"{folder} is complete" in dry(*settings)
    assert f"{folder} is complete" in dry(str(folder / "resolved.json"))
    assert "was begun" in dry(*settings, f"grpo.steps={cfg.grpo.steps + 1}")
    refused = CliRunner().invoke(app, ["run", *settings, "seed=77", "--dry-run"])
    assert "holds a run with seed=" in str(refused.exception)
    assert from_json((folder / "resolved.json").read_text()) == cfg
