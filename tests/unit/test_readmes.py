"""What the READMEs and CONTRIBUTING name exists: files, functions, settings, commands, links, and the code that they change."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import textwrap
from pathlib import Path

import pytest
import typer
import yaml

from launch.cli import app
from recipes import quickstart
from rewards import REWARDS
from rl.config import RunConfig
from rl.recipe import KINDS
from rl.settings.all_settings import all_keys
from tests.unit.test_layering import FLOORS

ROOT = Path(__file__).resolve().parents[2]
HISTORY = ".github/CHANGELOG.md"
"""It names what is no longer there."""
PATH = re.compile(r"(?<![\w/.:@-])((?:rl|rewards|recipes|launch|tests|\.github|\.ci)/[\w./-]*)(?::([A-Za-z_][\w.]*))?")
FILE = re.compile(r"`([\w-]+\.(?:py|sh|md|sbatch|yaml|toml))`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTING = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_0-9]+)+)=")
COMMAND = re.compile(r"\baha ([a-z]+)\b([^`|#\n]*)")
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
YOURS = {"my_rewards.py"}
"""Files that the reader makes. Those of CONTRIBUTING's guides are found in it."""


def pages() -> list[str]:
    found = [
        p for room in ("rl", "rewards", "recipes", "launch", "tests", ".github") for p in (ROOT / room).rglob("*.md")
    ]
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in found)]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """(the file that the first line names, "" where it names none; the block without that line) of each code block."""
    found = []
    for indent, kind, body in FENCED.findall(text):
        if kind == language:
            body = "\n".join(line.removeprefix(indent) for line in body.split("\n"))
            first, _, rest = body.partition("\n")
            named = re.fullmatch(r"# ([\w./]+)", first)
            found.append((named[1], rest) if named else ("", body))
    return found


def new_files(text: str) -> dict[str, str]:
    """Path -> content of each file that a guide makes."""
    return {path: body for path, body in blocks(text, "python") if path}


def edits(text: str) -> list[tuple[str, str, str]]:
    """(path, old text, new text) of each change that a guide makes in a file that is there."""
    found = []
    for path, body in blocks(text, "diff"):
        for hunk in re.split(r"^ \.\.\.\n", body, flags=re.MULTILINE):
            lines = [(line[:1] or " ", line[1:] + "\n") for line in hunk.removesuffix("\n").split("\n")]
            old, new = ("".join(line for sign, line in lines if sign in signs) for signs in (" -", " +"))
            found.append((path, old, new))
    return found


def functions(path: str) -> set[str]:
    """Functions and classes of a file, and their methods as "Class.method"."""
    names = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def settings() -> set[str]:
    stages = {key for kind in KINDS.values() for key in all_keys(kind())}
    return stages | set(all_keys(RunConfig())) | set(all_keys(quickstart.recipe()))


def missing_paths(page: str, text: str) -> list[str]:
    """Files and functions that a page names and that do not exist; a bare file name is one of its folder or any other."""
    made, folder = set(new_files(read(".github/CONTRIBUTING.md"))), ROOT / Path(page).parent
    faults = []
    for path, name in PATH.findall(text):
        path = path.rstrip(".")
        if not (ROOT / path).exists() and path not in made:
            faults.append(path)
        elif name and path.endswith(".py") and name not in functions(path):
            faults.append(f"{path}:{name}")
    outside = FENCED.sub(lambda block: "" if block[2] == "diff" else block[0], text)  # a diff speaks for another page
    for name in sorted(set(FILE.findall(outside)) - YOURS - {Path(path).name for path in made}):
        if not (ROOT / name).exists() and not any(folder.rglob(name)):
            faults.append(name)
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            faults.append(target)
    return faults


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def unknown_settings(text: str) -> list[str]:
    """Dotted settings that no run and no stage has; "zero.grpo.steps" is that of a stage by name."""
    known, groups = settings(), {f.name for f in dataclasses.fields(RunConfig)}
    named = SETTING.findall(text)
    named += [n for n in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", text) if n.split(".")[0] in groups]
    named = [n for n in named if not n.endswith(".json")]  # `rewards.json` is a file of a run's folder
    prefixes = {key.rsplit(".", i)[0] for key in known for i in range(1, 4)}
    return [n for n in named if not {n, n.partition(".")[2]} & (known | prefixes)]


def unknown_commands(text: str) -> list[str]:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # of a group
    faults = []
    for name, rest in COMMAND.findall(text):
        if name not in commands:
            faults.append(f"aha {name}")
            continue
        options = {option for parameter in commands[name].params for option in parameter.opts} | {"--help"}
        faults += [f"aha {name} {option}" for option in re.findall(r"(?<!\S)--[a-z-]+", rest) if option not in options]
    return faults


@pytest.mark.parametrize("page", [page for page in pages() if page != HISTORY])
def test_every_file_function_setting_and_command_that_a_page_names_exists(page: str) -> None:
    text = read(page)
    assert missing_paths(page, text) == []
    assert unknown_settings(text) == []
    assert unknown_commands(text) == []


def test_what_a_page_names_and_does_not_exist_is_found() -> None:
    text = (
        "`rl/gone.py` rl/types.py:Prompt rl/types.py:Gone rl/stages/grpo.py:GRPO.run rl/stages/grpo.py:GRPO.gone `gone.py` "
        "`cli.py` [a](README.md) [b](gone.md) [c](README.md#gpus) [d](README.md#gone) `learner.dither` `grpo.gone` "
        "grpo.steps=1 zero.grpo.steps=1 grpo.stepz=1 `aha run X --check` `aha run X --gone` `aha gone`"
    )
    assert missing_paths("README.md", text) == [
        "rl/gone.py", "rl/types.py:Gone", "rl/stages/grpo.py:GRPO.gone", "gone.py", "gone.md", "README.md#gone"
    ]  # fmt: skip
    assert unknown_settings(text) == ["grpo.stepz", "grpo.gone"]
    assert unknown_commands(text) == ["aha run --gone", "aha gone"]


def test_every_room_reward_recipe_command_and_suite_has_its_place_in_a_readme() -> None:
    recipes = [path.name for path in (ROOT / "recipes").glob("*.py") if "\ndef recipe(" in path.read_text()]
    rooms = [f"{path.parent.name}/" for path in (ROOT / "rl").glob("*/__init__.py") if path.parent.name != "workers"]
    rooms += [f"workers/{path.parent.name}/" for path in (ROOT / "rl/workers").glob("*/__init__.py")]
    suites = [f"{path.name}/" for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] != "_"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for page, names in {
        "rl/README.md": rooms,
        "rewards/README.md": list(REWARDS),
        "recipes/README.md": recipes,
        "launch/README.md": [f"aha {name}" for name in commands],
        "tests/README.md": suites,
    }.items():
        assert names
        assert [name for name in names if not re.search(rf"`{name}\b|`{name}`|\({name}", read(page))] == [], page


def test_the_rooms_of_rl_stand_in_the_order_in_which_they_may_be_imported() -> None:
    table = read("rl/README.md").partition("| room |")[2].partition("\n\n")[0].splitlines()[2:]
    lines = [re.findall(r"`([\w/.]+?)(?:/|\.py)`", row.split("|")[1]) for row in table]
    floors = [[room.removeprefix("rl.").replace(".", "/") for room in floor] for floor in reversed(FLOORS)]
    assert [sorted(line) for line in lines] == [sorted(floor) for floor in floors]


@pytest.mark.parametrize("page", pages())
def test_python_in_a_page_compiles_and_imports_names_that_exist(page: str) -> None:
    trees = [ast.parse(body, path or page) for path, body in blocks(read(page), "python")]
    made = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module not in [path_.replace("/", ".")[:-3] for path_ in new_files(read(page))]:
            module = importlib.import_module(node.module)
            folder = ROOT / node.module.replace(".", "/")
            names = {alias.name for alias in node.names} - made
            assert [n for n in names if n not in vars(module) and not (folder / f"{n}.py").exists()] == []


def test_the_changes_of_contributings_guides_fit_todays_code_or_were_made() -> None:
    text = read(".github/CONTRIBUTING.md")
    changes = edits(text)
    assert len(changes) >= 12
    stale = [(path, old) for path, old, new in changes if read(path).count(old) != 1 and new not in read(path)]
    assert stale == [], "what a guide of .github/CONTRIBUTING.md changes is not in the code any more: change the guide"
    assert [path for path, old, new in changes if old == new] == []


def test_an_edit_is_the_text_with_minus_lines_replaced_by_plus_lines() -> None:
    text = textwrap.dedent("""
        1. x

           ```diff
           # a/b.py
            one
           -two
           +2

            ...
           +zero
            three
           ```
        """)
    assert edits(text) == [("a/b.py", "one\ntwo\n\n", "one\n2\n\n"), ("a/b.py", "three\n", "zero\nthree\n")]


def test_ci_runs_what_ci_run_runs_and_hooks_run_its_checks() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step][-1] == "bash .ci/run"
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    checks = [line.removesuffix(" --check") for line in read(".ci/run").splitlines()]  # a hook may mend the format
    assert [hook["id"] for hook in hooks] == ["ruff-format", "ruff-check", "mypy"]
    assert [hook["entry"] for hook in hooks if hook["entry"] not in checks] == []
